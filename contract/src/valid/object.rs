//! The objects of a desired state once they are known to be sound: real addresses, prefixes, MACs and enums.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use wire::addr::{Mac, Vni};

/// Kubernetes identity of the object that something came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// API group, empty for core.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The family of a prefix.
    pub const fn of_prefix(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// How a block is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Encap {
    /// Plain.
    None,
    /// In VXLAN, RFC 7348.
    Vxlan,
    /// In IPv4, RFC 2003.
    Ipip,
}

/// The node that this fastpath runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its own addresses; the first of each family is the main one.
    pub addresses: Vec<IpAddr>,
    /// MAC of its uplink, for tools without a kernel.
    pub uplink_mac: Option<Mac>,
    /// Largest IP packet on the uplink, bytes; `None`: the kernel's, or 1500 without one.
    pub uplink_mtu: Option<u16>,
    /// Pod blocks of this node.
    pub own_blocks: Vec<IpNet>,
    /// Our side of each tunnel kind and inner family.
    pub tunnel_ends: Vec<TunnelEnd>,
    /// VXLAN network identifier.
    pub vxlan_vni: Vni,
    /// VXLAN UDP port.
    pub vxlan_port: u16,
    /// Source ports set aside for masquerade, first and last.
    pub snat_ports: (u16, u16),
}

impl Node {
    /// The main address of a family.
    pub fn main_address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(a) == family)
    }
}

/// One side of the tunnels of one kind and inner family on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelEnd {
    /// Which kind; never [`Encap::None`].
    pub encap: Encap,
    /// Inner family: of `address`, else of `outer_address`, else IPv4.
    pub family: Family,
    /// Address of this end inside the pod network.
    pub address: Option<IpAddr>,
    /// MAC of this end; always there for VXLAN.
    pub mac: Option<Mac>,
    /// The node address that carries the tunnel; `None`: the main one of the inner family.
    pub outer_address: Option<IpAddr>,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteNode {
    /// Its name.
    pub name: Arc<str>,
    /// Its addresses; the first of each family is the main one.
    pub addresses: Vec<IpAddr>,
    /// Its side of each tunnel kind and inner family.
    pub tunnel_ends: Vec<TunnelEnd>,
    /// MAC of its uplink, for tools without a kernel.
    pub uplink_mac: Option<Mac>,
}

impl RemoteNode {
    /// The main address of a family.
    pub fn main_address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|a| Family::of(a) == family)
    }
}

/// A range of pod addresses that one remote node owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The range; a borrowed address is of full length.
    pub prefix: IpNet,
    /// Name of the remote node.
    pub node: Arc<str>,
    /// How it is reached.
    pub encap: Encap,
}

/// A pool of pod addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// The range.
    pub prefix: IpNet,
    /// Masquerade what goes from here to no pool and no node.
    pub nat_outgoing: bool,
    /// Of the pool.
    pub encap: Encap,
    /// Plain is legitimate between nodes of one subnet.
    pub cross_subnet: bool,
}

/// What sits behind a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortKind {
    /// A pod.
    Pod,
    /// The underlay.
    Uplink,
    /// The node's kernel.
    Host,
}

/// A local port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// `uplink`, `uplink1`, `host`, `pod:<namespace>/<name>`.
    pub name: Arc<str>,
    /// What sits behind it.
    pub kind: PortKind,
    /// The kernel's interface name on the node side; empty where there is none.
    pub interface: Arc<str>,
    /// The pod's own MAC; always there for pods.
    pub mac: Option<Mac>,
    /// Addresses behind it; at least one for pods.
    pub addresses: Vec<IpAddr>,
    /// Largest IP packet, bytes; `None`: the kernel's.
    pub mtu: Option<u16>,
    /// Policy judged towards the endpoint.
    pub ingress: Vec<Tier>,
    /// Policy judged from the endpoint.
    pub egress: Vec<Tier>,
}

/// One tier of policies that selects an endpoint in one direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tier {
    /// Its name.
    pub name: Arc<str>,
    /// Policy ids in order, at least one.
    pub policies: Vec<Arc<str>>,
    /// When no rule matches: deny (`true`) or pass to the next tier.
    pub default_deny: bool,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The flow may pass.
    Allow,
    /// It may not.
    Deny,
    /// The next tier decides.
    Pass,
    /// Counted, then the next rule.
    Log,
}

/// A policy, both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Its unique id.
    pub id: Arc<str>,
    /// The object it came from.
    pub origin: Arc<Origin>,
    /// Rules towards the endpoint, in order.
    pub ingress: Vec<Rule>,
    /// Rules from the endpoint, in order.
    pub egress: Vec<Rule>,
}

/// A rule. It matches when `ports` and `peers` both do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Position in the origin object; several rules may share one.
    pub index: u32,
    /// What it does.
    pub action: Action,
    /// `None`: every peer; else one must match (none then matches nothing).
    pub peers: Option<Vec<Peer>>,
    /// `None`: every protocol and port; else one must match.
    pub ports: Option<Vec<PortMatch>>,
}

/// Who is at the other end: the source for ingress, the destination for egress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A member of the set with this id.
    IpSet(Arc<str>),
    /// An address of `prefix` that no prefix of `except` contains.
    IpBlock {
        /// The range.
        prefix: IpNet,
        /// What it leaves out, each inside `prefix`.
        except: Vec<IpNet>,
    },
}

/// Which protocol, and which of its destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMatch {
    /// IANA number.
    pub protocol: u8,
    /// Which ports.
    pub ports: Ports,
}

/// Which destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every one.
    Any,
    /// From the first to the last, both included.
    Range(u16, u16),
    /// The destination address, protocol and port are a member of the set with this id.
    Named(Arc<str>),
}

/// A named set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSet {
    /// Its id.
    pub id: Arc<str>,
    /// What is in it; no member twice.
    pub members: Members,
}

/// Members of a set, all of its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Members {
    /// Prefixes; overlap is fine.
    Addresses(Vec<IpNet>),
    /// Addresses with a protocol and port.
    AddressPorts(Vec<AddressPort>),
}

impl Members {
    /// How many.
    pub const fn len(&self) -> usize {
        match self {
            Self::Addresses(members) => members.len(),
            Self::AddressPorts(members) => members.len(),
        }
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An address with a protocol and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressPort {
    /// The address.
    pub address: IpAddr,
    /// IANA number.
    pub protocol: u8,
    /// Port, host order.
    pub port: u16,
}

/// Changed members of a set. Removals come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSetDelta {
    /// The set.
    pub id: Arc<str>,
    /// Members that must be there and go.
    pub removed: Vec<Member>,
    /// Members that must not be there and come.
    pub added: Vec<Member>,
}

/// A member of a set; which kind it is of shows against the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Member {
    /// Of a set of addresses.
    Prefix(IpNet),
    /// Of a set of address and port.
    AddressPort(AddressPort),
}

/// One Service port and its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `<namespace>/<name>:<port name>`, or `:<port>` where the port has no name.
    pub id: Arc<str>,
    /// The object it came from.
    pub origin: Arc<Origin>,
    /// IANA number.
    pub protocol: u8,
    /// Service port, host order.
    pub port: u16,
    /// Its addresses, no one twice.
    pub cluster_ips: Vec<IpAddr>,
    /// Backends of any family.
    pub backends: Vec<Backend>,
    /// `ClientIP` session affinity in seconds, 0: none.
    pub affinity_s: u32,
}

/// A backend of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port, host order.
    pub port: u16,
    /// Whether it may be chosen.
    pub state: BackendState,
    /// On this node.
    pub local: bool,
}

/// Whether a backend may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BackendState {
    /// Yes.
    Ready,
    /// When none is ready.
    ServingTerminating,
    /// No; established flows stay.
    NotReady,
}
