//! Where pods' addresses come from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::failure::{Code, Failure};
use crate::ipam::Usable;
use crate::object::{Namespace, ObjectName, Pod};
use crate::resolve::NodeView;

/// Hands out addresses to pods of this node.
///
/// Called by the daemon's loop, so it answers at once: an implementation that has to ask somebody (for another block, say)
/// keeps some in stock and says [`Code::TryAgainLater`] when it has none. An address counts as handed out once
/// it is an attachment's, and as free once it is none's: `is_taken` tells, over restarts too.
pub trait Addresses: Send {
    /// New addresses for a pod, one per family that the node has.
    ///
    /// # Errors
    /// [`Code::NoAddress`], [`Code::TryAgainLater`].
    fn choose(
        &mut self,
        node: &NodeView,
        asker: &Asker<'_>,
        is_taken: &dyn Fn(IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, Failure>;

    /// `addresses` are those of an attachment now: chosen here, asked for, or adopted at the start.
    fn given(&mut self, _pod: &ObjectName, _addresses: &[IpAddr]) {}

    /// `addresses` are those of no attachment any more.
    fn released(&mut self, _pod: &ObjectName, _addresses: &[IpAddr]) {}

    /// Whether a pod of this node may have `address` when somebody asks for just that one.
    fn is_ours(&self, node: &NodeView, address: IpAddr) -> bool;

    /// Why no address could be handed out right now, for STATUS.
    fn shortage(&self, node: &NodeView, is_taken: &dyn Fn(IpAddr) -> bool) -> Option<String>;
}

/// Who wants addresses.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The pod, or `cni/<container>`.
    pub pod: &'a ObjectName,
    /// Its object, where there is one.
    pub object: Option<&'a Pod>,
    /// Its namespace's.
    pub namespace: Option<&'a Namespace>,
}

/// From the node's `spec.podCIDRs`, the one after the last one handed out: an address that became free rests as long as
/// there are others.
#[derive(Clone, Debug, Default)]
pub struct HostLocal {
    last: BTreeMap<IpNet, IpAddr>,
}

impl Addresses for HostLocal {
    fn choose(
        &mut self,
        node: &NodeView,
        asker: &Asker<'_>,
        is_taken: &dyn Fn(IpAddr) -> bool,
    ) -> Result<Vec<IpAddr>, Failure> {
        let mut chosen = Vec::new();
        for range in ranges(node) {
            let free = |address: &IpAddr| !is_taken(*address) && !is_reserved(node, range, *address);
            let behind = self.last.get(&range).map(|last| Usable::behind(range, *last));
            let address = behind.into_iter().flatten().find(free);
            let address = address.or_else(|| Usable::of(range).find(free)).ok_or_else(|| {
                Failure::new(
                    Code::NoAddress,
                    "no address is left",
                    format!(
                        "pod {}: no address is left in {range} of Node {}",
                        asker.pod, node.name
                    ),
                )
            })?;
            chosen.push((range, address));
        }
        if chosen.is_empty() {
            return Err(Failure::new(
                Code::NoAddress,
                "the node has no range of pod addresses",
                format!("Node {}: no spec.podCIDRs", node.name),
            ));
        }
        self.last.extend(chosen.iter().copied());
        Ok(chosen.into_iter().map(|(_, address)| address).collect())
    }

    fn is_ours(&self, node: &NodeView, address: IpAddr) -> bool {
        let mut within = node.pod_cidrs.iter().filter(|range| range.contains(&address));
        within.any(|range| !is_reserved(node, *range, address) && is_usable(*range, address))
    }

    fn shortage(&self, node: &NodeView, is_taken: &dyn Fn(IpAddr) -> bool) -> Option<String> {
        if node.pod_cidrs.is_empty() {
            return Some(format!("Node {}: no spec.podCIDRs", node.name));
        }
        let full = |range: &IpNet| {
            let free = |address: IpAddr| !is_taken(address) && !is_reserved(node, *range, address);
            !Usable::of(*range).any(free)
        };
        ranges(node)
            .find(full)
            .map(|range| format!("no address is left in {range} of Node {}", node.name))
    }
}

/// The first range of each family.
fn ranges(node: &NodeView) -> impl Iterator<Item = IpNet> {
    let first = |v4: bool| {
        let mut of_family = node
            .pod_cidrs
            .iter()
            .filter(move |range| range.addr().is_ipv4() == v4);
        of_family.next().copied()
    };
    [first(true), first(false)].into_iter().flatten()
}

/// The node's tunnel ends, and the first address of each range, which may become one.
fn is_reserved(node: &NodeView, range: IpNet, address: IpAddr) -> bool {
    node.tunnels.iter().any(|end| end.address == Some(address)) || Usable::of(range).next() == Some(address)
}

/// Neither the network's address nor IPv4 broadcast.
fn is_usable(range: IpNet, address: IpAddr) -> bool {
    let mut usable = Usable::of(range);
    let first = usable.next();
    let is_last_v4 =
        matches!(range, IpNet::V4(v4) if v4.prefix_len() < 31 && IpAddr::V4(v4.broadcast()) == address);
    first.is_some_and(|first| address >= first) && !is_last_v4
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn node(ranges: &[&str]) -> NodeView {
        NodeView {
            name: "a".into(),
            addresses: Vec::new(),
            subnets: Vec::new(),
            pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
            uplink_mac: [0; 6],
            uplink_mtu: 1500,
            pod_mtu: 1450,
            tunnels: Vec::new(),
        }
    }

    #[test]
    fn an_address_that_became_free_rests() {
        let node = node(&["10.1.0.0/29", "fd00:1::/64"]);
        let (mut addresses, pod) = (HostLocal::default(), ObjectName::new("default", "web"));
        let asker = Asker {
            pod: &pod,
            object: None,
            namespace: None,
        };
        let mut taken = BTreeSet::new();
        let mut given = Vec::new();
        for _ in 0..7 {
            let chosen = addresses.choose(&node, &asker, &|a| taken.contains(&a)).unwrap();
            assert!(chosen[1].is_ipv6());
            given.push(chosen[0].to_string());
            // Each is free again at once, but the one that stays.
            if given.len() == 2 {
                taken.insert(chosen[0]);
            }
        }
        assert_eq!(
            given,
            [
                "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5", "10.1.0.6", "10.1.0.2", "10.1.0.4"
            ]
        );
    }

    #[test]
    fn a_full_range_is_named() {
        let node = node(&["10.1.0.0/30"]);
        let (mut addresses, pod) = (HostLocal::default(), ObjectName::new("default", "web"));
        let asker = Asker {
            pod: &pod,
            object: None,
            namespace: None,
        };
        assert_eq!(addresses.shortage(&node, &|_| false), None);
        let failure = addresses.choose(&node, &asker, &|_| true).unwrap_err();
        assert!(failure.is(Code::NoAddress) && failure.details.contains("10.1.0.0/30"));
        assert!(
            addresses
                .shortage(&node, &|_| true)
                .unwrap()
                .contains("10.1.0.0/30")
        );
    }

    #[test]
    fn what_may_be_asked_for_lies_in_the_ranges() {
        let (node, addresses) = (node(&["10.1.0.0/29"]), HostLocal::default());
        let ours = |text: &str| addresses.is_ours(&node, text.parse().unwrap());
        assert!(ours("10.1.0.2") && ours("10.1.0.6"));
        for other in ["10.1.0.0", "10.1.0.1", "10.1.0.7", "10.1.0.8", "fd00::2"] {
            assert!(!ours(other), "{other}");
        }
    }
}
