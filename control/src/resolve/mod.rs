//! Cluster objects to one node's desired state. Pure: equal in, equal out, in name order.

mod cluster;
mod encode;
mod endpoints;
pub mod naming;
mod node;
mod policy;
mod pool;
mod port;
mod route;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use contract::proto;
use ipnet::IpNet;

use crate::ipam::{self, Assignments, IpamError};
use crate::object::{Kind, Location, ObjectName, Objects};

pub use endpoints::Endpoints;
pub use node::{NodeView, TunnelView};
pub use port::{PodView, pod_port_name};

/// Whether addresses are as written or may be handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Pods and tunnel ends have the addresses that the objects give them; a pod without one is refused by name.
    #[default]
    Replay,
    /// Pods without an address get one from their node's `spec.podCIDRs`, and so do tunnel ends.
    Live,
    /// Objects come from an API server, one by one: a pod without an address waits for one (or has one of
    /// [`Options::assignments`]), and where two objects claim one thing, which a moment of every rollout does, one of the two
    /// has it and the other is a warning.
    Cluster,
}

impl Mode {
    /// Whether two claims on one thing are a warning.
    fn is_lenient(self) -> bool {
        self == Self::Cluster
    }
}

/// What resolving depends on besides the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// See [`Mode`].
    pub mode: Mode,
    /// The version that the state is stamped with.
    pub version: u64,
    /// Kernel name of the uplink.
    pub uplink_interface: String,
    /// Kernel name of fastpath's end of the host port's veth.
    pub host_interface: String,
    /// The uplink's MTU where a kernel tells it, bytes of IP packet; the annotation `ringway.io/uplink-mtu` wins.
    pub uplink_mtu: Option<u32>,
    /// What [`Mode::Live`] handed out before, kept while it fits; in [`Mode::Cluster`], what pods have before their object says so.
    pub assignments: Assignments,
    /// Whether [`Resolved::pods`] is wanted: a lab builds them, a daemon has no use for them.
    pub pod_views: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Replay,
            version: 1,
            uplink_interface: "uplink".to_owned(),
            host_interface: "ringway-fp".to_owned(),
            uplink_mtu: None,
            assignments: Assignments::default(),
            pod_views: true,
        }
    }
}

/// One node's desired state and what a lab needs to build the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// For fastpath.
    pub state: proto::State,
    /// How many objects of kinds that Ringway does not know, by `apiVersion Kind`.
    pub unknown_kinds: BTreeMap<String, usize>,
    /// What was left out and why, one sentence each.
    pub warnings: Vec<String>,
    /// Every node that has an address, in name order.
    pub nodes: Vec<NodeView>,
    /// Every pod that is not finished and has an address, in namespace and name order; see [`Options::pod_views`].
    pub pods: Vec<PodView>,
    /// What [`Mode::Live`] handed out (else [`Options::assignments`] as it came); give it back as [`Options::assignments`] next time.
    pub assignments: Assignments,
}

/// An object that a message speaks of: where it was written, its kind and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Kind.
    pub kind: Kind,
    /// Namespace and name.
    pub name: ObjectName,
    /// Where it was written, if in a file.
    pub location: Option<Location>,
}

impl Subject {
    pub(crate) fn new(objects: &Objects, kind: Kind, name: &ObjectName) -> Self {
        let location = objects.locations.get(&(kind, name.clone())).cloned();
        Self {
            kind,
            name: name.clone(),
            location,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// Why the objects are no state for this node. All of these are faults of the objects or of the node's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// There is no Node of the name asked for.
    #[error("there is no Node {node:?}, expected one of: {}", if known.is_empty() { "(no nodes at all)".to_owned() } else { known.join(", ") })]
    UnknownNode {
        /// Asked for.
        node: String,
        /// There are.
        known: Vec<String>,
    },
    /// The node asked for has no address.
    #[error("{node}: it has no InternalIP or ExternalIP, expected at least one")]
    NoNodeAddress {
        /// The node.
        node: Subject,
    },
    /// A pod without an address where none is handed out.
    #[error("{pod}: it has no address, expected status.podIPs")]
    NoPodAddress {
        /// The pod.
        pod: Subject,
    },
    /// Two running pods with one address.
    #[error("{pod}: its address {address} belongs to {other}, too")]
    SharedAddress {
        /// The address.
        address: IpAddr,
        /// One.
        pod: Subject,
        /// The other.
        other: Box<Subject>,
    },
    /// Two nodes or pools with one range.
    #[error("{subject}: its range {range} belongs to {other}, too")]
    SharedRange {
        /// The range.
        range: IpNet,
        /// One.
        subject: Subject,
        /// The other.
        other: Box<Subject>,
    },
    /// Two Services with one address and port.
    #[error("{service}: its {address} port {port} belongs to {other}, too")]
    SharedServiceAddress {
        /// Cluster IP.
        address: IpAddr,
        /// `protocol/number`.
        port: String,
        /// One.
        service: Subject,
        /// The other.
        other: Box<Subject>,
    },
    /// An address could not be handed out.
    #[error(transparent)]
    Ipam(#[from] IpamError),
}

/// The desired state of `node`.
pub fn resolve(objects: &Objects, node: &str, options: &Options) -> Result<Resolved, ResolveError> {
    let Some(own) = objects.node(node) else {
        let known = objects.nodes.keys().map(|name| name.name.to_string()).collect();
        return Err(ResolveError::UnknownNode {
            node: node.to_owned(),
            known,
        });
    };
    if own.addresses.is_empty() {
        return Err(ResolveError::NoNodeAddress {
            node: Subject::new(objects, Kind::Node, &own.meta.name),
        });
    }
    let mut warnings = Vec::new();
    for (kind, count) in &objects.unknown_kinds {
        warnings.push(format!(
            "{count} of {kind}: Ringway does not know this kind, so it has no effect"
        ));
    }
    let assignments = match options.mode {
        Mode::Replay => Assignments::default(),
        Mode::Live => ipam::assign(objects, &options.assignments)?,
        Mode::Cluster => options.assignments.clone(),
    };
    let cluster = cluster::Cluster::new(objects, &assignments, options.mode, &mut warnings)?;
    let pools = pool::pools(&cluster, options.mode, &mut warnings)?;
    let nodes = node::views(&cluster, &pools, options, node, &mut warnings);
    let own_view = nodes
        .iter()
        .find(|view| view.name == node)
        .expect("the node has an address, so it has a view");
    let routes = route::routes(&cluster, &pools, &nodes, own_view, options.mode, &mut warnings)?;
    let policies = policy::policies(&cluster, node);
    let services = service::services(&cluster, node, options.mode, &mut warnings)?;
    let ports = port::ports(&cluster, own_view, &policies.attachments, options);
    let pods = if options.pod_views {
        port::views(&cluster, &nodes, &assignments)
    } else {
        Vec::new()
    };

    let service_ranges: std::collections::BTreeSet<IpNet> = objects
        .service_cidrs
        .values()
        .flat_map(|o| &o.cidrs)
        .copied()
        .collect();
    let mut state = proto::State {
        version: options.version,
        node: Some(node::own(own, own_view)),
        ports,
        remote_nodes: routes.remote_nodes,
        blocks: routes.blocks,
        pools: pools.encode(),
        services,
        service_ranges: service_ranges.into_iter().map(encode::prefix).collect(),
        ip_sets: policies.ip_sets,
        policies: policies.rules,
        timeouts: Some(proto::Timeouts::default()),
        limits: Some(proto::Limits::default()),
    };
    contract::merge::sort(&mut state);
    Ok(Resolved {
        state,
        unknown_kinds: objects.unknown_kinds.clone(),
        warnings,
        nodes,
        pods,
        assignments,
    })
}
