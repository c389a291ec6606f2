//! The tables of a snapshot. [`crate::compile`] writes them; workers read them by the methods of [`Snapshot`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{self, Action, Limits, Timeouts};
use ipnet::IpNet;

use super::rule_index::RuleIndex;
use super::vips::Vips;
use super::{
    Adjacency, AdjacencyId, Direction, PeerId, PolicyId, PoolFlags, Port, RuleId, Service, ServiceId, Shard,
    ThisNode,
};
use crate::port::PortId;
use crate::table::ip_set::IpSet;
use crate::table::lpm::Prefixes;
use crate::table::slots::Slots;
use crate::table::trie::Trie;
use crate::underlay::Underlay;

/// Everything that workers look up, of one version.
///
/// `clone` costs the roots of the tables; a changed clone shares all other nodes.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) version: u64,
    pub(crate) node: Arc<valid::Node>,
    pub(crate) this: Arc<ThisNode>,
    pub(crate) timeouts: Timeouts,
    /// Another one wherever a port, an adjacency, a node or what this node is may have changed.
    pub(crate) links: Arc<()>,
    pub(crate) limits: Limits,
    pub(crate) ports: Slots<Port>,
    pub(crate) port_names: Trie<Arc<str>, PortRecord>,
    pub(crate) host: Option<PortId>,
    pub(crate) adjacencies: Slots<Adjacency>,
    pub(crate) claims: Prefixes<Claims>,
    pub(crate) peers: Slots<Peer>,
    pub(crate) peer_names: Trie<Arc<str>, PeerId>,
    pub(crate) blocks: Prefixes<BlockRecord>,
    pub(crate) pools: Prefixes<PoolRecord>,
    pub(crate) services: Slots<ServiceRecord>,
    pub(crate) service_names: Trie<Arc<str>, ServiceId>,
    pub(crate) vips: Vips,
    /// Service ports on each VIP.
    pub(crate) vip_addresses: Trie<IpAddr, u32>,
    pub(crate) service_ranges: Prefixes<()>,
    pub(crate) sets: Slots<SetRecord>,
    pub(crate) set_names: Trie<Arc<str>, SetId>,
    pub(crate) policies: Slots<PolicyRecord>,
    pub(crate) policy_names: Trie<Arc<str>, PolicyId>,
    pub(crate) rules: Slots<RuleRecord>,
    pub(crate) totals: Totals,
    pub(crate) underlay: Arc<Underlay>,
    pub(crate) hops: Arc<Hops>,
}

/// A port as it was told, beside its index.
#[derive(Clone, Debug)]
pub(crate) struct PortRecord {
    pub(crate) id: PortId,
    pub(crate) source: Arc<valid::Port>,
}

/// What stands behind a prefix of the cluster. The order is that of precedence for equal prefixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// A pod's address.
    LocalPod(PortId),
    /// An address of this node, or a tunnel address of it.
    ThisNode,
    /// An address of another node.
    PeerNode(PeerId),
    /// A tunnel address of another node.
    PeerTunnel(PeerId, valid::Encap),
    /// A block of another node.
    PeerBlock(PeerId, valid::Encap),
    /// A block of this node.
    OwnBlock,
}

impl Claim {
    pub(crate) fn shard(self) -> Shard {
        match self {
            Self::LocalPod(port) => Shard::endpoint(port),
            Self::ThisNode | Self::OwnBlock => Shard::NOWHERE,
            Self::PeerNode(peer) | Self::PeerTunnel(peer, _) | Self::PeerBlock(peer, _) => Shard::peer(peer),
        }
    }

    /// The other node that is reached without a tunnel, by the underlay route to the destination itself.
    pub(crate) const fn plain_peer(self) -> Option<PeerId> {
        match self {
            Self::PeerNode(peer) | Self::PeerBlock(peer, valid::Encap::None) => Some(peer),
            _ => None,
        }
    }
}

/// All claims to one prefix: the first in order has it.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) winner: Claim,
    pub(crate) rest: Option<Arc<[Claim]>>,
}

/// Another node.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) source: Arc<valid::RemoteNode>,
    /// Tunnels to it: VXLAN of IPv4, VXLAN of IPv6, IPIP.
    pub(crate) tunnels: [Option<AdjacencyId>; 3],
    /// Blocks that name it.
    pub(crate) blocks: u32,
}

/// The place of a tunnel in [`Peer::tunnels`].
pub(crate) const fn tunnel_place(encap: valid::Encap, v4: bool) -> Option<usize> {
    match (encap, v4) {
        (valid::Encap::Vxlan, true) => Some(0),
        (valid::Encap::Vxlan, false) => Some(1),
        (valid::Encap::Ipip, true) => Some(2),
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockRecord {
    pub(crate) source: Arc<valid::Block>,
    pub(crate) peer: PeerId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolRecord {
    pub(crate) source: valid::Pool,
    pub(crate) flags: PoolFlags,
}

#[derive(Clone, Debug)]
pub(crate) struct ServiceRecord {
    pub(crate) source: Arc<valid::Service>,
    pub(crate) service: Arc<Service>,
}

/// Service ports that claim one VIP, protocol and port: the first by name has it.
#[derive(Clone, Debug)]
pub(crate) struct VipOwners {
    pub(crate) winner: ServiceId,
    pub(crate) rest: Option<Arc<[ServiceId]>>,
}

/// Index of an IP set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SetId(pub(crate) u32);

#[derive(Clone, Debug)]
pub(crate) struct SetRecord {
    pub(crate) id: Arc<str>,
    pub(crate) set: IpSet,
    /// Policies that refer to it.
    pub(crate) policies: Trie<u32, ()>,
}

#[derive(Clone, Debug)]
pub(crate) struct PolicyRecord {
    pub(crate) source: Arc<valid::Policy>,
    pub(crate) ingress: Arc<Rules>,
    pub(crate) egress: Arc<Rules>,
    /// Ids of its rules and of its default deny in each direction, sorted.
    pub(crate) rule_ids: Arc<[(Direction, Option<u32>, RuleId)]>,
    /// Sets that it refers to, sorted.
    pub(crate) sets: Arc<[SetId]>,
    /// Ports that it is attached to.
    pub(crate) ports: Trie<u32, ()>,
}

impl PolicyRecord {
    /// Its rules of one direction.
    #[inline]
    pub(crate) fn rules(&self, direction: Direction) -> &Rules {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// The rules of a policy in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) rules: Box<[Rule]>,
    /// Where there are many.
    pub(crate) index: Option<RuleIndex>,
    /// Named when this policy is the first of a tier whose default denies.
    pub(crate) default_deny: RuleId,
}

#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) action: Action,
    pub(crate) id: RuleId,
    /// `None`: every protocol and port.
    pub(crate) ports: Option<Box<[PortClause]>>,
    /// `None`: every peer.
    pub(crate) peers: Option<Peers>,
}

/// A protocol with destination ports.
#[derive(Clone, Copy, Debug)]
pub(crate) enum PortClause {
    /// From the first to the last.
    Range { protocol: u8, first: u16, last: u16 },
    /// The destination is in a set of address and port.
    Named { protocol: u8, set: SetId },
}

/// Who is at the other end, any of it.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) sets: Box<[SetId]>,
    /// Blocks without exceptions.
    pub(crate) blocks: Blocks,
    /// Blocks with exceptions.
    pub(crate) except: Box<[(IpNet, Box<[IpNet]>)]>,
}

/// Prefixes of which one must match: a few are scanned, many are a tree.
#[derive(Clone, Debug)]
pub(crate) enum Blocks {
    Few(Box<[IpNet]>),
    Many(Prefixes<()>),
}

#[derive(Clone, Debug)]
pub(crate) struct RuleRecord {
    pub(crate) origin: Arc<valid::Origin>,
    pub(crate) direction: Direction,
    pub(crate) rule: Option<u32>,
}

/// Counts that limits speak of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) backends: usize,
    pub(crate) rules: usize,
    pub(crate) members: usize,
}

/// The underlay, compiled: rebuilt whole when it changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hops {
    pub(crate) routes: Prefixes<UnderlayHops>,
    /// Adjacencies towards the underlay by what they lead to.
    pub(crate) ids: BTreeMap<(PortId, HopKey), AdjacencyId>,
    /// Neighbours on links, for destinations that are there themselves.
    pub(crate) on_link: Trie<OnLink, AdjacencyId>,
}

/// What an adjacency towards the underlay leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum HopKey {
    /// A router or neighbour.
    Address(IpAddr),
    /// Anyone on the link whose MAC is not known.
    Unknown,
    /// The kernel, by the host port.
    Kernel,
}

/// A destination that is on a link itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnLink(pub(crate) PortId, pub(crate) IpAddr);

impl crate::table::hash::Key for OnLink {
    fn hash64(&self) -> u64 {
        crate::table::hash::words(u64::from(self.0.0), crate::table::hash::address(self.1))
    }
}

/// How one route goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnderlayHops {
    /// None: unreachable.
    pub(crate) legs: Arc<[Leg]>,
    /// For each part of the hash the leg that takes it; empty for fewer than two legs.
    pub(crate) parts: Arc<[u8]>,
    pub(crate) shard: Shard,
    /// The default route: it says nothing of the destination.
    pub(crate) is_default: bool,
}

/// One way on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leg {
    pub(crate) port: PortId,
    /// Where to; for `on_link` when the destination's MAC is not known.
    pub(crate) adjacency: AdjacencyId,
    /// The destination is on the link itself.
    pub(crate) on_link: bool,
    pub(crate) mtu: u16,
}
