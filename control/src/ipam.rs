//! Addresses of pods.
//!
//! Two ways: blocks of `IPPools` that nodes claim ([`Allocator`], docs/decisions/0016), and, where no pool hands out, each node's
//! own `spec.podCIDRs`. This file is the second, as manifests need it: in namespace and name order.
//!
//! An assignment is kept while its pod exists and the address fits. In each range the network address, the IPv4
//! broadcast address and the node's tunnel address are never handed out; the pods' gateway is link-local and takes none.

pub mod affinity;
pub mod allocator;
pub mod block;
#[cfg(test)]
mod cases;
mod claim;
pub mod config;
pub mod flows;
#[cfg(test)]
mod properties;
pub mod repair;
pub mod store;
pub mod surroundings;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::object::{Kind, Node, ObjectName, Objects, Pod};
use crate::resolve::Subject;

pub use allocator::{AllocateError, Allocator, LiveFlows};
pub use repair::{Repair, Repaired};
pub use surroundings::{Families, Purpose, Request, RequestError, Surroundings};

/// Addresses that were handed out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignments {
    pods: BTreeMap<ObjectName, Assignment>,
}

/// One pod's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The node whose ranges they come from.
    pub node: String,
    /// One per family.
    pub addresses: Vec<IpAddr>,
}

/// Why a pod cannot have an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No address is left.
    #[error("{pod}: no address is left in {range} of Node {node}")]
    Exhausted {
        /// The pod that went without.
        pod: Subject,
        /// The node's range.
        range: IpNet,
        /// The node.
        node: String,
    },
    /// The node has no range.
    #[error("{pod}: it has no address and its Node {node} has no spec.podCIDRs to take one from")]
    NoRange {
        /// The pod.
        pod: Subject,
        /// The node.
        node: String,
    },
}

impl Assignments {
    /// What a pod was given, empty if nothing.
    pub fn addresses(&self, pod: &ObjectName) -> &[IpAddr] {
        self.pods.get(pod).map_or(&[], |assignment| &assignment.addresses)
    }

    /// All of them, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&ObjectName, &Assignment)> {
        self.pods.iter()
    }

    /// Remembers an assignment made earlier.
    pub fn insert(&mut self, pod: ObjectName, assignment: Assignment) {
        self.pods.insert(pod, assignment);
    }
}

/// The tunnel address of a node without an annotation: the first address of its first range of the family, past the
/// network address, that no object says belongs to a pod ([`claimed`]). Every node computes the same.
pub fn tunnel_address(claimed: &BTreeSet<IpAddr>, node: &Node, v4: bool) -> Option<IpAddr> {
    let range = node.pod_cidrs.iter().find(|range| range.addr().is_ipv4() == v4)?;
    Usable::of(*range).find(|address| !claimed.contains(address))
}

/// The addresses that objects say belong to pods.
pub fn claimed(objects: &Objects) -> BTreeSet<IpAddr> {
    let pods = objects.pods.values().filter(|pod| !pod.is_finished());
    pods.flat_map(|pod| pod.addresses.iter().copied()).collect()
}

/// Gives an address of each family to every pod that needs one; keeps `previous` where it still fits.
pub fn assign(objects: &Objects, previous: &Assignments) -> Result<Assignments, IpamError> {
    let needy: Vec<(&ObjectName, &Node)> = objects
        .pods
        .iter()
        .filter_map(|(name, pod)| Some((name, needs(objects, pod)?)))
        .collect();
    // At scale the objects of all but a few pods have addresses.
    if needy.is_empty() {
        return Ok(Assignments::default());
    }
    let claimed = claimed(objects);
    let mut taken = claimed.clone();
    let with_needs: BTreeSet<&ObjectName> = needy.iter().map(|(_, node)| &node.meta.name).collect();
    for node in with_needs.iter().filter_map(|name| objects.nodes.get(*name)) {
        taken.extend([node.vxlan_v4, node.ipip_v4, node.vxlan_v6].into_iter().flatten());
        taken.extend(
            [true, false]
                .into_iter()
                .filter_map(|v4| tunnel_address(&claimed, node, v4)),
        );
    }
    let mut assigned = Assignments::default();
    // First those that stay, so that a new pod never takes the address of an old one.
    for (name, node) in &needy {
        let Some(old) = previous
            .pods
            .get(*name)
            .filter(|old| old.node == node.meta.name.name)
        else {
            continue;
        };
        let fits = |a: &IpAddr| !taken.contains(a) && node.pod_cidrs.iter().any(|range| range.contains(a));
        if old.addresses.iter().all(fits) && old.addresses.len() == families(node).count() {
            taken.extend(&old.addresses);
            assigned.insert((*name).clone(), old.clone());
        }
    }
    let mut cursors: BTreeMap<IpNet, Usable> = BTreeMap::new();
    for (name, node) in needy {
        if assigned.pods.contains_key(name) {
            continue;
        }
        let pod = || Subject::new(objects, Kind::Pod, name);
        let node_name = node.meta.name.name.to_string();
        if node.pod_cidrs.is_empty() {
            return Err(IpamError::NoRange {
                pod: pod(),
                node: node_name,
            });
        }
        let mut addresses = Vec::new();
        for range in families(node) {
            let cursor = cursors.entry(range).or_insert_with(|| Usable::of(range));
            let Some(address) = cursor.find(|address| !taken.contains(address)) else {
                return Err(IpamError::Exhausted {
                    pod: pod(),
                    range,
                    node: node_name,
                });
            };
            taken.insert(address);
            addresses.push(address);
        }
        assigned.insert(
            name.clone(),
            Assignment {
                node: node_name,
                addresses,
            },
        );
    }
    Ok(assigned)
}

/// The node that a pod needs an address of, if it does need one.
fn needs<'a>(objects: &'a Objects, pod: &Pod) -> Option<&'a Node> {
    let without = pod.addresses.is_empty() && !pod.host_network && !pod.is_finished();
    pod.node
        .as_deref()
        .filter(|_| without)
        .and_then(|node| objects.node(node))
}

/// The first range of each family.
fn families(node: &Node) -> impl Iterator<Item = IpNet> {
    let first = |v4: bool| {
        node.pod_cidrs
            .iter()
            .find(move |range| range.addr().is_ipv4() == v4)
            .copied()
    };
    [first(true), first(false)].into_iter().flatten()
}

/// The addresses of a range that may be handed out, in order.
#[derive(Clone, Debug)]
pub(crate) struct Usable {
    next: u128,
    last: u128,
    is_v4: bool,
}

impl Usable {
    /// All of them.
    pub(crate) fn of(range: IpNet) -> Self {
        match range {
            IpNet::V4(v4) => {
                let (first, last) = (
                    u128::from(u32::from(v4.network())),
                    u128::from(u32::from(v4.broadcast())),
                );
                // A range of one or two addresses has neither a network nor a broadcast address.
                let (next, last) = if v4.prefix_len() >= 31 {
                    (first, last)
                } else {
                    (first + 1, last - 1)
                };
                Self {
                    next,
                    last,
                    is_v4: true,
                }
            }
            IpNet::V6(v6) => {
                let (first, last) = (u128::from(v6.network()), u128::from(v6.broadcast()));
                // The first address is the subnet-router anycast address, RFC 4291 section 2.6.1.
                Self {
                    next: if v6.prefix_len() >= 127 { first } else { first + 1 },
                    last,
                    is_v4: false,
                }
            }
        }
    }
}

impl Usable {
    /// Those behind `address`.
    pub(crate) fn behind(range: IpNet, address: IpAddr) -> Self {
        let mut usable = Self::of(range);
        let after = match address {
            IpAddr::V4(v4) => u128::from(u32::from(v4)).checked_add(1),
            IpAddr::V6(v6) => u128::from(v6).checked_add(1),
        };
        if range.contains(&address) {
            match after {
                Some(after) => usable.next = usable.next.max(after),
                None => usable.last = 0,
            }
        }
        usable
    }
}

impl Iterator for Usable {
    type Item = IpAddr;

    fn next(&mut self) -> Option<IpAddr> {
        if self.next > self.last {
            return None;
        }
        let address = if self.is_v4 {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(self.next).ok()?))
        } else {
            IpAddr::V6(Ipv6Addr::from(self.next))
        };
        // Past the very last address there is nothing: an empty range says so.
        match self.next.checked_add(1) {
            Some(next) => self.next = next,
            None => self.last = 0,
        }
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(range: &str, pods: &[(&str, &str)]) -> Objects {
        let mut objects = Objects::default();
        let node = format!("{{metadata: {{name: n}}, spec: {{podCIDRs: [{range}]}}}}");
        objects.insert(crate::object::Object::Node(
            serde_saphyr::from_str(&node).unwrap(),
        ));
        for (name, address) in pods {
            let pod = format!(
                "{{metadata: {{name: {name}}}, spec: {{nodeName: n}}, status: {{podIP: '{address}'}}}}"
            );
            objects.insert(crate::object::Object::Pod(serde_saphyr::from_str(&pod).unwrap()));
        }
        objects
    }

    fn given(assignments: &Assignments) -> Vec<String> {
        assignments
            .iter()
            .map(|(pod, a)| format!("{} {}", pod.name, a.addresses[0]))
            .collect()
    }

    #[test]
    fn addresses_go_out_in_name_order_past_those_taken() {
        let objects = objects("10.1.0.0/29", &[("b", ""), ("a", ""), ("c", "10.1.0.3")]);
        assert_eq!(
            given(&assign(&objects, &Assignments::default()).unwrap()),
            ["a 10.1.0.2", "b 10.1.0.4"]
        );
    }

    #[test]
    fn an_assignment_stays_while_its_pod_does() {
        let before = assign(
            &objects("10.1.0.0/29", &[("b", ""), ("c", "")]),
            &Assignments::default(),
        )
        .unwrap();
        assert_eq!(given(&before), ["b 10.1.0.2", "c 10.1.0.3"]);
        let after = assign(&objects("10.1.0.0/29", &[("a", ""), ("c", "")]), &before).unwrap();
        assert_eq!(given(&after), ["a 10.1.0.2", "c 10.1.0.3"]);
        // An address that some object claims by now is given up.
        let claimed = assign(&objects("10.1.0.0/29", &[("c", ""), ("d", "10.1.0.3")]), &before).unwrap();
        assert_eq!(given(&claimed), ["c 10.1.0.2"]);
        let moved = assign(&objects("10.2.0.0/29", &[("c", "")]), &before).unwrap();
        assert_eq!(given(&moved), ["c 10.2.0.2"]);
    }

    #[test]
    fn exhaustion_names_pod_and_range() {
        let objects = objects("10.1.0.0/30", &[("a", ""), ("b", "")]);
        let error = assign(&objects, &Assignments::default()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Pod default/b: no address is left in 10.1.0.0/30 of Node n"
        );
        let everything = IpNet::V6("::/0".parse().unwrap());
        assert_eq!(Usable::of(everything).next(), Some("::1".parse().unwrap()));
        let last = IpNet::V6("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap());
        assert_eq!(Usable::of(last).count(), 1);
    }
}
