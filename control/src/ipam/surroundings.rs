//! What an allocation depends on besides blocks: pools, reserved addresses, and what a pod asks for by annotations.

use std::net::IpAddr;

use ipnet::IpNet;

use super::block::Attributes;
use crate::object::{IpPool, ObjectName, Objects, Tunnel};

/// The cluster as one node's allocator sees it. Made anew when objects change.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    pub(super) pools: Vec<PoolView>,
    reserved: Vec<IpNet>,
    /// Tunnel addresses of nodes and addresses of pods, whoever gave them, in order.
    taken: Vec<IpAddr>,
}

/// A pool.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "they are the pool's own")]
pub(super) struct PoolView {
    pub(super) name: String,
    pub(super) cidr: IpNet,
    pub(super) block_size: u8,
    disabled: bool,
    selects_node: bool,
    selector: String,
    for_workloads: bool,
    for_tunnels: bool,
}

/// Which families are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the family of its name")]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// What an address is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A pod.
    Workload,
    /// A node's end of a tunnel.
    Tunnel,
}

/// What is asked of the allocator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What will be released together, for instance `NETWORK.CONTAINER`. Asking twice with one handle gives the same addresses.
    pub handle: String,
    /// What for.
    pub purpose: Purpose,
    /// One address of each.
    pub families: Families,
    /// Names or ranges of the only pools that will do, in order of preference; none: any.
    pub pools: Option<Vec<String>>,
    /// The same for IPv6.
    pub pools_v6: Option<Vec<String>>,
    /// Just these, in place of any of their family.
    pub addresses: Vec<IpAddr>,
    pub(super) attributes: Attributes,
}

/// Why no address of a family can even be looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// An annotation is no list.
    #[error("{subject}: annotation {key} is {text:?}, expected a JSON list such as [\"{example}\"]")]
    Annotation {
        /// `Pod default/web`.
        subject: String,
        /// The annotation.
        key: &'static str,
        /// As written.
        text: String,
        /// What it could have.
        example: &'static str,
    },
    /// A pool that is asked for is not there.
    #[error("there is no IPPool {pool:?} of {family}, expected one of: {}", one_of(known))]
    UnknownPool {
        /// Asked for.
        pool: String,
        /// `IPv4`.
        family: &'static str,
        /// There are.
        known: Vec<String>,
    },
    /// A pool that is asked for gives nothing.
    #[error("IPPool {pool} gives no address to node {node}: {why}")]
    Refused {
        /// The pool.
        pool: String,
        /// The node.
        node: String,
        /// For people.
        why: String,
    },
    /// No pool gives anything.
    #[error("no IPPool of {family} gives an address to node {node}: {}", if why.is_empty() { "there is none".to_owned() } else { why.join("; ") })]
    NoPool {
        /// `IPv4`.
        family: &'static str,
        /// The node.
        node: String,
        /// Each pool's reason.
        why: Vec<String>,
    },
}

fn one_of(known: &[String]) -> String {
    if known.is_empty() {
        "(no pools at all)".to_owned()
    } else {
        known.join(", ")
    }
}

impl Surroundings {
    /// Of `node`. Costs as much as there are pods.
    pub fn of(objects: &Objects, node: &str) -> Self {
        let labels = objects.node(node).map(|node| &node.meta.labels);
        let view = |pool: &IpPool| PoolView {
            name: pool.meta.name.name.to_string(),
            cidr: pool.cidr,
            block_size: pool.block_size,
            disabled: pool.disabled || pool.meta.deleting,
            selects_node: labels.is_some_and(|labels| pool.node_selector.matches(labels)),
            selector: pool.node_selector.to_string(),
            for_workloads: pool.for_workloads,
            for_tunnels: pool.for_tunnels,
        };
        let pods = objects
            .pods
            .values()
            .filter(|pod| !pod.is_finished() && !pod.host_network);
        let mut taken: Vec<IpAddr> = pods.flat_map(|pod| pod.addresses.iter().copied()).collect();
        let tunnels = objects.nodes.values();
        taken.extend(
            tunnels.flat_map(|node| [node.vxlan_v4, node.ipip_v4, node.vxlan_v6].into_iter().flatten()),
        );
        taken.sort_unstable();
        let reservations = objects.ip_reservations.values();
        Self {
            pools: objects.ip_pools.values().map(view).collect(),
            reserved: reservations.flat_map(|one| one.cidrs.iter().copied()).collect(),
            taken,
        }
    }

    /// Families that some pool gives addresses of.
    pub fn families(&self) -> Families {
        let has = |v4: bool| {
            let pools = self.pools.iter().filter(|pool| pool.is_v4() == v4);
            pools
                .into_iter()
                .any(|pool| pool.refusal(Purpose::Workload).is_none())
        };
        Families {
            v4: has(true),
            v6: has(false),
        }
    }

    /// Pools that `request` may have an address of, in order.
    pub(super) fn eligible(
        &self,
        request: &Request,
        v4: bool,
        node: &str,
    ) -> Result<Vec<&PoolView>, RequestError> {
        let of_family = || self.pools.iter().filter(move |pool| pool.is_v4() == v4);
        let asked = if v4 { &request.pools } else { &request.pools_v6 };
        let Some(asked) = asked else {
            let gives = |pool: &&PoolView| pool.refusal(request.purpose).is_none();
            let pools: Vec<_> = of_family().filter(gives).collect();
            if pools.is_empty() {
                let why = |pool: &PoolView| Some(format!("{} {}", pool.name, pool.refusal(request.purpose)?));
                return Err(RequestError::NoPool {
                    family: family(v4),
                    node: node.to_owned(),
                    why: of_family().filter_map(why).collect(),
                });
            }
            return Ok(pools);
        };
        let mut pools = Vec::new();
        for text in asked {
            let range: Option<IpNet> = text.parse().ok();
            let is_it =
                |pool: &&PoolView| pool.name == *text || Some(pool.cidr) == range.map(|net| net.trunc());
            let pool = of_family().find(is_it).ok_or_else(|| RequestError::UnknownPool {
                pool: text.clone(),
                family: family(v4),
                known: of_family().map(|pool| pool.name.clone()).collect(),
            })?;
            if let Some(why) = pool.refusal(request.purpose) {
                return Err(RequestError::Refused {
                    pool: pool.name.clone(),
                    node: node.to_owned(),
                    why,
                });
            }
            pools.push(pool);
        }
        Ok(pools)
    }

    /// The pool that covers `address`: the narrowest.
    pub(super) fn pool_of(&self, address: IpAddr) -> Option<&PoolView> {
        let covering = self.pools.iter().filter(|pool| pool.cidr.contains(&address));
        covering.max_by_key(|pool| pool.cidr.prefix_len())
    }

    /// Whether an address is never handed out: by an `IPReservation`, or because of its place in its pool.
    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        let reserved = self.reserved.iter().any(|range| range.contains(&address));
        reserved || self.pools.iter().any(|pool| pool.is_edge(address))
    }

    /// Whether somebody has it, as far as objects tell.
    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        self.taken.binary_search(&address).is_ok()
    }
}

impl PoolView {
    pub(super) fn is_v4(&self) -> bool {
        self.cidr.addr().is_ipv4()
    }

    /// The network's address, and IPv4's broadcast. IPv6's first is the anycast address of the subnet's routers, RFC 4291
    /// section 2.6.1.
    fn is_edge(&self, address: IpAddr) -> bool {
        let has_edges = self.cidr.max_prefix_len() - self.cidr.prefix_len() > 1;
        let is_first = self.cidr.network() == address;
        let is_last = self.is_v4() && self.cidr.broadcast() == address;
        has_edges && (is_first || is_last)
    }

    /// Why it gives nothing; none if it does.
    pub(super) fn refusal(&self, purpose: Purpose) -> Option<String> {
        let allowed = match purpose {
            Purpose::Workload => self.for_workloads,
            Purpose::Tunnel => self.for_tunnels,
        };
        if self.disabled {
            Some("is disabled".to_owned())
        } else if !allowed {
            Some(format!("does not have {purpose:?} among its allowedUses"))
        } else if !self.selects_node {
            Some(format!(
                "has nodeSelector {}, which does not select the node",
                self.selector
            ))
        } else {
            None
        }
    }
}

impl Request {
    /// For a pod, by its annotations and its namespace's; the pod's win.
    ///
    /// # Errors
    /// [`RequestError::Annotation`].
    pub fn of_pod(
        objects: &Objects,
        pod: &ObjectName,
        node: &str,
        handle: impl Into<String>,
        families: Families,
    ) -> Result<Self, RequestError> {
        let of_pod = objects.pods.get(pod).map(|pod| &pod.meta.annotations);
        let namespace = objects
            .namespaces
            .get(&ObjectName::new("", pod.namespace.as_str()));
        let of_namespace = namespace.map(|namespace| &namespace.meta.annotations);
        let list = |key: &'static str, example: &'static str, with_namespace: bool| {
            let own = of_pod
                .and_then(|all| all.get(key))
                .map(|text| (format!("Pod {pod}"), text));
            let inherited = of_namespace
                .filter(|_| with_namespace)
                .and_then(|all| all.get(key));
            let inherited = inherited.map(|text| (format!("Namespace {}", pod.namespace), text));
            let Some((subject, text)) = own.or(inherited) else {
                return Ok(None);
            };
            let list: Option<Vec<String>> = serde_json::from_str(text).ok();
            let list = list.filter(|list| !list.is_empty());
            list.map(Some).ok_or_else(|| RequestError::Annotation {
                subject,
                key,
                text: text.clone(),
                example,
            })
        };
        let pools = list("cni.projectcalico.org/ipv4pools", "default-ipv4-ippool", true)?;
        let pools_v6 = list("cni.projectcalico.org/ipv6pools", "default-ipv6-ippool", true)?;
        let texts = list(ADDRESSES, "10.244.0.5", false)?.unwrap_or_default();
        let wrong = || RequestError::Annotation {
            subject: format!("Pod {pod}"),
            key: ADDRESSES,
            text: texts.join(", "),
            example: "10.244.0.5",
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in &texts {
            let address: IpAddr = text.parse().map_err(|_| wrong())?;
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(wrong());
            }
            addresses.push(address);
        }
        let handle = handle.into();
        Ok(Self {
            attributes: Attributes::of(
                &handle,
                [
                    ("namespace", pod.namespace.as_str()),
                    ("node", node),
                    ("pod", pod.name.as_str()),
                ],
            ),
            handle,
            purpose: Purpose::Workload,
            families: Families {
                v4: families.v4 || pools.is_some(),
                v6: families.v6 || pools_v6.is_some(),
            },
            pools,
            pools_v6,
            addresses,
        })
    }

    /// For a node's end of a tunnel; the handle is Calico's. `wanted` is what it has already.
    pub fn of_tunnel(tunnel: Tunnel, v4: bool, node: &str, wanted: Option<IpAddr>) -> Self {
        let (prefix, kind) = match (tunnel, v4) {
            (Tunnel::Ipip, _) => ("ipip-tunnel-addr", "ipipTunnelAddress"),
            (_, true) => ("vxlan-tunnel-addr", "vxlanTunnelAddress"),
            (_, false) => ("vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress"),
        };
        let handle = format!("{prefix}-{node}");
        Self {
            attributes: Attributes::of(&handle, [("node", node), ("type", kind)]),
            handle,
            purpose: Purpose::Tunnel,
            families: Families { v4, v6: !v4 },
            pools: None,
            pools_v6: None,
            addresses: wanted.into_iter().collect(),
        }
    }
}

pub(super) fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
