//! What workers look up: the compiled state of one version, immutable, published as a whole.
//!
//! Made by [`crate::compile`]; tables are trees of shared chunks, so that a version which differs by one endpoint shares
//! all other chunks with the one before. Every lookup here is for a flow's first packet; later ones replay the flow entry
//! and touch only [`Snapshot::adjacency`] and [`Snapshot::port`].

mod judge;
mod lookup;
mod policy_batch;
pub(crate) mod rule_index;
mod rule_list;
mod shard;
pub(crate) mod table;
pub(crate) mod vips;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

pub use contract::valid::PortKind;
pub use policy_batch::PolicyBatch;
pub use shard::{ADDRESS_SHARDS, Bumps, PLACE_SHARDS, Shard};
pub use table::Snapshot;
use wire::addr::{Mac, Vni};

use crate::port::PortId;

/// A local port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub id: PortId,
    /// `uplink`, `host`, `pod:<namespace>/<name>`.
    pub name: Arc<str>,
    /// The kernel's interface name on our side.
    pub interface: Arc<str>,
    /// What sits behind it.
    pub kind: PortKind,
    /// MAC of the other side (a pod's own; the kernel's on the host port); zero on uplinks.
    pub peer_mac: Mac,
    /// Our MAC on this link.
    pub own_mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Addresses behind it: a pod's own, the node's for the host port, the interface's for uplinks.
    pub addresses: Arc<[IpAddr]>,
    /// Policy judged towards the endpoint.
    pub ingress: Attachment,
    /// Policy judged from the endpoint.
    pub egress: Attachment,
    /// Shard of the generations that a change of this endpoint bumps.
    pub shard: Shard,
    /// How to send to what is behind it: set for pods and for the host port.
    pub adjacency: Option<AdjacencyId>,
}

/// Where a destination lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: RouteTarget,
    /// Shard of the generations that a change of this route bumps.
    pub shard: Shard,
}

/// The two facts of a pool that the packet path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolFlags {
    /// Masquerade what goes from here to no pool and no node.
    pub nat_outgoing: bool,
    /// A plain packet on the uplink from a source in this pool is spoofed.
    pub demands_tunnel: bool,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// A pod on this node.
    LocalPod(PortId),
    /// An address of this node: its own, or its tunnel addresses.
    ThisNode,
    /// A pod (or tunnel address) of another node; `tunnel` is `None` where it is reached plain, by the underlay route
    /// to the address itself.
    RemotePod {
        /// The node that has it.
        peer: PeerId,
        /// The adjacency that encapsulates, chosen already.
        tunnel: Option<AdjacencyId>,
    },
    /// An address of another node itself, by the underlay.
    PeerNode(PeerId),
    /// Anything else that the underlay has a route for.
    Underlay,
    /// An address of a local pod block that no pod has, or no route at all.
    Unreachable,
}

/// Another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u16);

/// Index of an adjacency. Stable while the next hop is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjacencyId(pub u16);

/// Everything needed to put a packet on a link: the port and the bytes to put before the IP header.
///
/// For a tunnel the outer headers are a template, copied whole; lengths, the UDP source port, DSCP/ECN, the IPv4
/// identification and the outer IPv4 header checksum are written over it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Adjacency {
    /// Where it leaves.
    pub port: PortId,
    /// What kind of header goes before the packet.
    pub encap: AdjacencyEncap,
    /// The header bytes; for [`AdjacencyEncap::Ethernet`] the Ethernet type is the packet's family, written by the pipeline.
    pub header: [u8; Adjacency::HEADER_MAX],
    /// How many of them.
    pub header_len: u8,
    /// Largest (inner) IP packet that fits, bytes.
    pub mtu: u16,
    /// `false` while the next hop's MAC is unknown: packets wait for it, bounded.
    pub resolved: bool,
}

impl Adjacency {
    /// Ethernet, 802.1Q, IPv6, UDP, VXLAN, inner Ethernet.
    pub const HEADER_MAX: usize = 14 + 4 + 40 + 8 + 8 + 14;

    /// What an index leads to whose adjacency is gone: no port, not resolved.
    pub const GONE: Self = Self {
        port: PortId(u16::MAX),
        encap: AdjacencyEncap::Ethernet,
        header: [0; Self::HEADER_MAX],
        header_len: 14,
        mtu: 0,
        resolved: false,
    };
}

const _: () = assert!(size_of::<Option<Adjacency>>() == 128);

/// What kind of header goes before the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdjacencyEncap {
    /// Ethernet (and perhaps a VLAN tag).
    Ethernet,
    /// Ethernet, IPv4, UDP, VXLAN, Ethernet.
    Vxlan4,
    /// Ethernet, IPv6, UDP, VXLAN, Ethernet.
    Vxlan6,
    /// Ethernet, IPv4.
    Ipip,
}

/// What an address is to the Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VipLookup<'a> {
    /// A Service port.
    Service(&'a Service),
    /// The address is a VIP, but not with this protocol and port.
    NoSuchPort,
    /// In a service range, and no VIP.
    Unassigned,
    /// Nothing of the kind.
    NotService,
}

/// One Service port. What most new flows need of it is its first cache line.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Service {
    /// What verdicts and flow entries call it.
    pub id: ServiceId,
    /// `ClientIP` affinity in seconds, 0: none.
    pub affinity_s: u32,
    /// Backends that new flows may choose from, IPv4: the ready ones, or the serving and terminating where none is ready.
    pub eligible_v4: Arc<[Backend]>,
    /// The first of these.
    pub(crate) near_v4: NearBackends,
    /// The same as `eligible_v4`, IPv6.
    pub eligible_v6: Arc<[Backend]>,
    /// Every backend that any slice lists: established flows may stay on it.
    pub listed: Arc<[Backend]>,
    /// `<namespace>/<name>:<port name>`.
    pub name: Arc<str>,
}

const _: () = assert!(std::mem::offset_of!(Service, eligible_v6) == 64);

impl Service {
    /// Backends that new flows may choose from, of one family.
    #[inline]
    pub fn eligible(&self, is_v4: bool) -> &Arc<[Backend]> {
        if is_v4 {
            &self.eligible_v4
        } else {
            &self.eligible_v6
        }
    }

    /// Number `at` of those, which is below their length.
    #[inline]
    pub(crate) fn eligible_at(&self, is_v4: bool, at: usize) -> Backend {
        match self.near_v4.0.get(at) {
            Some((address, port)) if is_v4 => Backend {
                address: (*address).into(),
                port: *port,
            },
            _ => self.eligible(is_v4)[at],
        }
    }
}

/// Copies of the first backends of IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NearBackends([(Ipv4Addr, u16); Self::LEN]);

impl NearBackends {
    /// As many as the line has room for.
    const LEN: usize = 6;

    pub(crate) fn of(eligible_v4: &[Backend]) -> Self {
        let mut near = [(Ipv4Addr::UNSPECIFIED, 0); Self::LEN];
        for (near, backend) in near.iter_mut().zip(eligible_v4) {
            if let IpAddr::V4(address) = backend.address {
                *near = (address, backend.port);
            }
        }
        Self(near)
    }
}

/// A backend of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order.
    pub port: u16,
}

/// Index of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// The tiers of policies that select an endpoint in one direction; empty: everything is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attachment(pub Arc<[TierAttachment]>);

/// One tier of an attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierAttachment {
    /// Indexes into the policy table, in order.
    pub policies: Arc<[PolicyId]>,
    /// What happens when no rule matches: deny (`true`) or pass.
    pub default_deny: bool,
}

/// Index of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(pub u32);

/// Which way a policy is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

/// What policy is judged on: the packet as the pods see each other (after DNAT, before SNAT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyQuery {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port in host order; 0 where the protocol has none.
    pub dst_port: u16,
    /// Which way.
    pub direction: Direction,
}

/// What policy says, and by which rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// May the flow pass?
    pub allow: bool,
    /// The rule that decided; `None` when no policy selects the endpoint (or every tier passed).
    pub rule: Option<RuleId>,
}

impl PolicyQuery {
    /// The address at the other end than the one whose policy is judged.
    #[inline]
    pub const fn peer(&self) -> IpAddr {
        match self.direction {
            Direction::Ingress => self.src,
            Direction::Egress => self.dst,
        }
    }
}

impl Decision {
    /// No policy selects the endpoint, or every tier passed.
    pub const NO_POLICY: Self = Self {
        allow: true,
        rule: None,
    };
}

/// A rule or default deny, 24 bits so that a flow entry can hold it: an index into the snapshot's rule table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// The identity of what decided, for verdict lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOrigin {
    /// API group, kind, namespace, name.
    pub policy: Arc<contract::valid::Origin>,
    /// Which way.
    pub direction: Direction,
    /// Rule index in the object; `None` for the default deny.
    pub rule: Option<u32>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThisNode {
    /// Its name.
    pub name: Arc<str>,
    /// Its own addresses, main one of each family first.
    pub addresses: Arc<[IpAddr]>,
    /// Addresses at which tunnel packets reach us (VXLAN and IPIP).
    pub vteps: Arc<[IpAddr]>,
    /// Our tunnel address towards VXLAN blocks, IPv4.
    pub vxlan_address_v4: Option<IpAddr>,
    /// Our tunnel address towards VXLAN blocks, IPv6.
    pub vxlan_address_v6: Option<IpAddr>,
    /// Our tunnel address towards IPIP blocks.
    pub ipip_address_v4: Option<IpAddr>,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// VXLAN UDP port, host order.
    pub vxlan_port: u16,
    /// Source ports set aside for masquerade, first and last, host order.
    pub snat_ports: (u16, u16),
}
