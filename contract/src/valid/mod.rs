//! The one way into fastpath: messages of [`crate::proto`] are untrusted, what is here has been checked.
//!
//! [`ValidState`] holds by itself: every reference leads somewhere, every name is unique, no limit is passed.
//! [`ValidDelta`] holds as far as one can see without the state that it changes; whoever applies it checks references,
//! members and limits against that state, and refuses with the same [`Invalid`].

mod error;
mod field;
mod object;
mod parse;
mod refer;
mod rule;
mod setting;

use std::collections::HashSet;
use std::sync::Arc;

use ipnet::IpNet;

use crate::proto;
pub use error::{Invalid, Subject};
pub use object::{
    Action, AddressPort, Backend, BackendState, Block, Encap, Family, IpSet, IpSetDelta, Member, Members,
    Node, Origin, Peer, Policy, Pool, Port, PortKind, PortMatch, Ports, RemoteNode, Rule, Service, Tier,
    TunnelEnd,
};
pub use setting::{Limits, Timeouts};

/// The whole desired state of one node, checked. No name, id or prefix is there twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidState {
    /// Grows with every state or delta.
    pub version: u64,
    /// This node.
    pub node: Node,
    /// Local ports.
    pub ports: Vec<Port>,
    /// Other nodes.
    pub remote_nodes: Vec<RemoteNode>,
    /// Their pod blocks.
    pub blocks: Vec<Block>,
    /// Pools of pod addresses.
    pub pools: Vec<Pool>,
    /// Service ports.
    pub services: Vec<Service>,
    /// Service ranges, sorted.
    pub service_ranges: Vec<IpNet>,
    /// Named sets.
    pub ip_sets: Vec<IpSet>,
    /// Policies.
    pub policies: Vec<Policy>,
    /// Timeouts, defaults filled in.
    pub timeouts: Timeouts,
    /// Limits, defaults filled in.
    pub limits: Limits,
}

impl TryFrom<proto::State> for ValidState {
    type Error = Invalid;

    fn try_from(raw: proto::State) -> Result<Self, Invalid> {
        let node = raw
            .node
            .ok_or_else(|| Subject::new("State", "", "").invalid("node", "this node", "nothing"))?;
        let state = Self {
            version: raw.version,
            node: parse::node(&node)?,
            ports: all(raw.ports, parse::port)?,
            remote_nodes: all(raw.remote_nodes, parse::remote_node)?,
            blocks: all(raw.blocks, parse::block)?,
            pools: all(raw.pools, parse::pool)?,
            services: all(raw.services, parse::service)?,
            service_ranges: parse::service_ranges(&raw.service_ranges)?,
            ip_sets: all(raw.ip_sets, rule::ip_set)?,
            policies: all(raw.policies, rule::policy)?,
            timeouts: raw.timeouts.as_ref().map(Timeouts::from).unwrap_or_default(),
            limits: raw.limits.as_ref().map(Limits::from).unwrap_or_default(),
        };
        refer::unique_names(&state)?;
        refer::references(&state)?;
        refer::limits(&state)?;
        Ok(state)
    }
}

/// Each message is freed once it was read, so that a whole state is never there twice.
fn all<R, T>(raw: Vec<R>, parse: impl Fn(&R) -> Result<T, Invalid>) -> Result<Vec<T>, Invalid> {
    raw.into_iter().map(|raw| parse(&raw)).collect()
}

/// Changes that lead from one version to another, each object checked by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidDelta {
    /// The version that they apply to.
    pub base_version: u64,
    /// The version that they lead to.
    pub version: u64,
    /// In the order in which they apply.
    pub changes: Vec<Change>,
}

/// One change. An upsert replaces the object of that name whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// This node.
    Node(Node),
    /// A port.
    Port(Port),
    /// The port of this name goes.
    PortRemoved(Arc<str>),
    /// Another node.
    RemoteNode(RemoteNode),
    /// The node of this name goes.
    RemoteNodeRemoved(Arc<str>),
    /// A block.
    Block(Block),
    /// The block of this prefix goes.
    BlockRemoved(IpNet),
    /// A pool.
    Pool(Pool),
    /// The pool of this prefix goes.
    PoolRemoved(IpNet),
    /// A Service port.
    Service(Service),
    /// The Service port of this id goes.
    ServiceRemoved(Arc<str>),
    /// All service ranges, sorted.
    ServiceRanges(Vec<IpNet>),
    /// A whole set.
    IpSet(IpSet),
    /// Members of a set.
    IpSetDelta(IpSetDelta),
    /// The set of this id goes.
    IpSetRemoved(Arc<str>),
    /// A policy.
    Policy(Policy),
    /// The policy of this id goes.
    PolicyRemoved(Arc<str>),
    /// Timeouts.
    Timeouts(Timeouts),
    /// Limits.
    Limits(Limits),
}

impl TryFrom<proto::Delta> for ValidDelta {
    type Error = Invalid;

    fn try_from(raw: proto::Delta) -> Result<Self, Invalid> {
        if raw.version <= raw.base_version {
            let expected = format!("more than base_version, {}", raw.base_version);
            return Err(Subject::new("Delta", "", "").invalid("version", expected, raw.version));
        }
        let changes = all(raw.changes, change)?;
        Ok(Self {
            base_version: raw.base_version,
            version: raw.version,
            changes,
        })
    }
}

fn change(raw: &proto::Change) -> Result<Change, Invalid> {
    use proto::change::Change as Raw;
    let Some(raw) = &raw.change else {
        return Err(Subject::new("Delta", "", "").invalid(
            "changes",
            "a change that protocol 1 knows",
            "nothing",
        ));
    };
    Ok(match raw {
        Raw::Node(raw) => Change::Node(parse::node(raw)?),
        Raw::Port(raw) => Change::Port(parse::port(raw)?),
        Raw::PortRemoved(name) => Change::PortRemoved(parse::removed_name("Port", name)?),
        Raw::RemoteNode(raw) => Change::RemoteNode(parse::remote_node(raw)?),
        Raw::RemoteNodeRemoved(name) => Change::RemoteNodeRemoved(parse::removed_name("Node", name)?),
        Raw::Block(raw) => Change::Block(parse::block(raw)?),
        Raw::BlockRemoved(raw) => Change::BlockRemoved(parse::removed_prefix("Block", raw)?),
        Raw::Pool(raw) => Change::Pool(parse::pool(raw)?),
        Raw::PoolRemoved(raw) => Change::PoolRemoved(parse::removed_prefix("Pool", raw)?),
        Raw::Service(raw) => Change::Service(parse::service(raw)?),
        Raw::ServiceRemoved(id) => Change::ServiceRemoved(parse::removed_name("Service", id)?),
        Raw::ServiceRanges(raw) => Change::ServiceRanges(parse::service_ranges(&raw.ranges)?),
        Raw::IpSet(raw) => Change::IpSet(rule::ip_set(raw)?),
        Raw::IpSetDelta(raw) => Change::IpSetDelta(rule::ip_set_delta(raw)?),
        Raw::IpSetRemoved(id) => Change::IpSetRemoved(parse::removed_name("IpSet", id)?),
        Raw::Policy(raw) => Change::Policy(rule::policy(raw)?),
        Raw::PolicyRemoved(id) => Change::PolicyRemoved(parse::removed_name("Policy", id)?),
        Raw::Timeouts(raw) => Change::Timeouts(Timeouts::from(raw)),
        Raw::Limits(raw) => Change::Limits(Limits::from(raw)),
    })
}

/// The ids of the IP sets that a policy refers to, each once, with the kind that it needs them to be.
pub fn ip_sets_of(policy: &Policy) -> HashSet<(Arc<str>, SetKind)> {
    let mut sets = HashSet::new();
    for rule in policy.ingress.iter().chain(&policy.egress) {
        for peer in rule.peers.iter().flatten() {
            if let Peer::IpSet(id) = peer {
                sets.insert((id.clone(), SetKind::Addresses));
            }
        }
        for port in rule.ports.iter().flatten() {
            if let Ports::Named(id) = &port.ports {
                sets.insert((id.clone(), SetKind::AddressPorts));
            }
        }
    }
    sets
}

/// What the members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SetKind {
    /// Prefixes.
    Addresses,
    /// Addresses with a protocol and port.
    AddressPorts,
}

impl Members {
    /// Their kind.
    pub const fn kind(&self) -> SetKind {
        match self {
            Self::Addresses(_) => SetKind::Addresses,
            Self::AddressPorts(_) => SetKind::AddressPorts,
        }
    }
}

#[cfg(test)]
mod tests;
