//! Flows: tuples, keys, and what the two records of a connection hold (docs/decisions/0006-flow-record.md).
//!
//! A connection is two records, one for each direction, each found by the tuple as it *arrives* in that direction. The
//! records are plain words; this module gives them names. The table that keeps them knows nothing of packets.

pub mod key;
pub mod listing;
pub mod record;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use wire::IpProtocol;

use crate::port::PortId;
use crate::snapshot::PeerId;

/// Where packets of one direction come in: part of the key, so that a packet with the tuple of another port's or another
/// node's flow misses, and meets the checks of its source in the slow path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Zone(u16);

/// A zone, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ingress {
    /// Plain from the underlay, whichever uplink.
    Uplink,
    /// A pod's port or the host port.
    Port(PortId),
    /// A tunnel from another node.
    Tunnel(PeerId),
}

impl Zone {
    /// Plain packets on uplinks.
    pub const UPLINK: Self = Self(0);
    /// Ports are numbered below this.
    pub const PORTS_MAX: u32 = TUNNEL as u32 - 1;
    /// Other nodes are numbered below this.
    pub const PEERS_MAX: u32 = TUNNEL as u32;

    /// The zone of an ingress; ports and other nodes are told apart by the top bit.
    pub const fn of(ingress: Ingress) -> Self {
        match ingress {
            Ingress::Uplink => Self(0),
            Ingress::Port(port) => Self((port.0 & 0x7fff) + 1),
            Ingress::Tunnel(peer) => Self(TUNNEL | (peer.0 & !TUNNEL)),
        }
    }

    /// As stored.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From [`bits`](Self::bits).
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The ingress that has this zone.
    pub const fn ingress(self) -> Ingress {
        if self.0 & TUNNEL != 0 {
            Ingress::Tunnel(PeerId(self.0 & !TUNNEL))
        } else if self.0 == 0 {
            Ingress::Uplink
        } else {
            Ingress::Port(PortId(self.0 - 1))
        }
    }
}

const TUNNEL: u16 = 0x8000;

/// What the ports of a tuple are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PortsKind {
    /// Transport ports, or nothing.
    Plain = 0,
    /// Both are the identifier of an ICMP echo request.
    EchoRequest = 1,
    /// Both are the identifier of an ICMP echo reply.
    EchoReply = 2,
    /// Not a flow: the backend that a client had, see `stage::affinity`.
    Affinity = 3,
}

impl PortsKind {
    /// The kind of what comes back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::Plain => Self::Plain,
            Self::Affinity => Self::Affinity,
            Self::EchoRequest => Self::EchoReply,
            Self::EchoReply => Self::EchoRequest,
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::EchoRequest,
            2 => Self::EchoReply,
            3 => Self::Affinity,
            _ => Self::Plain,
        }
    }

    /// One identifier stands for both ports.
    pub const fn is_echo(self) -> bool {
        matches!(self, Self::EchoRequest | Self::EchoReply)
    }
}

/// What identifies one direction of a flow, in the form for the slow path and for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Source port or echo identifier, host order; 0 where there is neither.
    pub sport: u16,
    /// Destination port or echo identifier, host order; 0 where there is neither.
    pub dport: u16,
    /// Protocol.
    pub proto: IpProtocol,
    /// What the ports are.
    pub kind: PortsKind,
    /// Where its packets come in.
    pub zone: Zone,
}

impl Tuple {
    /// The tuple of the other direction, its packets coming in at `zone`.
    #[must_use]
    pub const fn reversed(&self, zone: Zone) -> Self {
        Self {
            src: self.dst,
            dst: self.src,
            sport: self.dport,
            dport: self.sport,
            proto: self.proto,
            kind: self.kind.reversed(),
            zone,
        }
    }

    /// ICMP over IPv4 or ICMPv6 over IPv6; the other two pairings are protocols like any.
    pub const fn is_icmp(&self) -> bool {
        match self.src {
            IpAddr::V4(_) => self.proto.0 == IpProtocol::ICMP.0,
            IpAddr::V6(_) => self.proto.0 == IpProtocol::ICMPV6.0,
        }
    }

    /// True when `other` has the same addresses and ports: nothing to rewrite.
    pub fn same_headers(&self, other: &Self) -> bool {
        (self.src, self.dst, self.sport, self.dport) == (other.src, other.dst, other.sport, other.dport)
    }
}

/// `tcp 10.0.0.1:4000 > 10.96.0.10:80`, `icmp 10.0.0.1 > 10.0.0.2 id 7`, `ip proto 47 A > B`.
impl fmt::Display for Tuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            src,
            dst,
            sport,
            dport,
            ..
        } = *self;
        if self.proto.has_ports() {
            let (src, dst) = (SocketAddr::new(src, sport), SocketAddr::new(dst, dport));
            return write!(f, "{} {src} > {dst}", self.proto);
        }
        if self.is_icmp() {
            write!(f, "{} {src} > {dst}", self.proto)?;
        } else {
            write!(f, "ip proto {} {src} > {dst}", self.proto.0)?;
        }
        if self.kind.is_echo() {
            write!(f, " id {sport}")
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_tells_its_ingress() {
        for ingress in [
            Ingress::Uplink,
            Ingress::Port(PortId(0)),
            Ingress::Port(PortId(1023)),
            Ingress::Tunnel(PeerId(0)),
            Ingress::Tunnel(PeerId(5000)),
        ] {
            assert_eq!(Zone::of(ingress).ingress(), ingress);
        }
    }

    #[test]
    fn tuples_read_as_verdict_lines_show_them() {
        let tuple = |src: &str, dst: &str, proto, kind| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            sport: 7,
            dport: 99,
            proto,
            kind,
            zone: Zone::UPLINK,
        };
        let shown = |src, dst, proto, kind| tuple(src, dst, proto, kind).to_string();
        assert_eq!(
            shown("10.0.0.1", "10.96.0.10", IpProtocol::TCP, PortsKind::Plain),
            "tcp 10.0.0.1:7 > 10.96.0.10:99"
        );
        assert_eq!(
            shown("fd00::1", "fd00::2", IpProtocol::UDP, PortsKind::Plain),
            "udp [fd00::1]:7 > [fd00::2]:99"
        );
        assert_eq!(
            shown("10.0.0.1", "10.0.0.2", IpProtocol::ICMP, PortsKind::EchoRequest),
            "icmp 10.0.0.1 > 10.0.0.2 id 7"
        );
        assert_eq!(
            shown("10.0.0.1", "10.0.0.2", IpProtocol::GRE, PortsKind::Plain),
            "ip proto 47 10.0.0.1 > 10.0.0.2"
        );
    }
}
