//! Ingress: what may come in by which port, and where its IP packet starts.
//!
//! Reads the frame, its port, this node's tunnel ends. Sets the parsed packet, its offset, its zone, the checksum state,
//! and the inner ECN of a packet that came by tunnel. Touches no flow: what needs the source's owner is asked for a flow's
//! first packet alone, since the zone is part of the key.
//! Verdicts: drop `spoofed-mac`, `not-for-us`, `malformed`, `tunnel-spoofed`, `forbidden-from-pod`; punt
//! `neighbour-protocol`, `multicast`, `to-host`. ARP, neighbour discovery and echo to the gateway go on to the answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::ethernet::{self, EtherHeader, EtherType};
use wire::packet::{Family, Packet, parse_l3_head};
use wire::{IpProtocol, Mac, icmpv6, tcp, udp};

use super::decap;
use crate::flow::{Ingress, Zone};
use crate::io::{Checksum, Frame, Memory};
use crate::snapshot::{Port, PortKind, Snapshot};
use crate::verdict::{DropReason, PuntReason};

/// Our address on every pod link, IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Our address on every pod link, IPv6: link-local of `ee:ee:ee:ee:ee:ee`.
pub const GATEWAY_V6: Ipv6Addr = Mac([0xee; 6]).link_local();

/// What a frame turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// An IP packet to be forwarded, at this offset of the frame.
    Ip(Place),
    /// An ARP packet for us to answer.
    Arp,
    /// Neighbour discovery for us to answer.
    Neighbour(Place),
    /// An echo request to our address on a pod's link.
    EchoToGateway(Place),
    /// For the kernel.
    Punt(PuntReason),
    /// For nobody.
    Drop(DropReason),
}

impl Parsed {
    /// The family of the flow that it belongs to by its own headers, those of later fragments lacking.
    #[inline]
    pub(crate) fn flow_family(&self) -> Option<Family> {
        match self {
            Self::Ip(place) if !place.packet.is_later_fragment() => Some(place.packet.family),
            _ => None,
        }
    }
}

/// Where a packet is in its frame, what it is, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The IP packet.
    pub packet: Packet,
    /// Offset of the IP header in the frame.
    pub l3: u16,
    /// Where it came from.
    pub zone: Zone,
}

/// Looks at a frame from `port`, and notes a partial checksum that it carries.
#[inline]
pub fn admit(memory: &mut Memory, frame: &mut Frame, port: &Port, snapshot: &Snapshot) -> Parsed {
    let frame_len = frame.len();
    let parsed = examine(memory.bytes_mut(frame), frame_len, port, snapshot);
    if let Parsed::Ip(Place { zone, .. }) = parsed
        && matches!(zone.ingress(), Ingress::Tunnel(_))
    {
        // What the port found is the outer header's, which is gone.
        frame.checksum = Checksum::Full;
    }
    // Sockets on this machine leave checksums to the device, and nobody tells us; over virtual links so do those elsewhere.
    if frame.checksum == Checksum::Full
        && let Parsed::Ip(Place { packet, l3, zone }) = parsed
        && zone != Zone::UPLINK
        && packet.has_partial_checksum(&memory.bytes(frame)[usize::from(l3)..])
    {
        let offset = if packet.proto == IpProtocol::TCP {
            tcp::CHECKSUM_OFFSET
        } else {
            udp::CHECKSUM_OFFSET
        };
        frame.checksum = Checksum::Partial {
            start: l3 + packet.l4_offset,
            offset: offset as u16,
        };
    }
    parsed
}

#[inline]
fn examine(head: &mut [u8], frame_len: usize, port: &Port, snapshot: &Snapshot) -> Parsed {
    let Ok(split) = ethernet::split(head) else {
        return Parsed::Drop(DropReason::Malformed);
    };
    let Some(link) = EtherHeader::prefix_mut(head).map(|header| *header) else {
        return Parsed::Drop(DropReason::Malformed);
    };
    if port.kind == PortKind::Pod && link.src != port.peer_mac {
        return Parsed::Drop(DropReason::SpoofedMac);
    }
    if link.dst != port.own_mac && !link.dst.is_multicast() {
        return Parsed::Drop(DropReason::NotForUs);
    }
    // A tag names another network than the port's; id 0 is a priority alone (IEEE 802.1Q section 6.9).
    if split.vlan.is_some_and(|tag| tag.id() != 0) {
        return match port.kind {
            PortKind::Uplink => Parsed::Punt(PuntReason::ToHost),
            _ => Parsed::Drop(DropReason::NotForUs),
        };
    }
    if !matches!(split.ether_type, EtherType::IPV4 | EtherType::IPV6) {
        return match (port.kind, split.ether_type) {
            (PortKind::Uplink, _) => Parsed::Punt(PuntReason::NeighbourProtocol),
            (_, EtherType::ARP) => Parsed::Arp,
            _ => Parsed::Drop(DropReason::NotForUs),
        };
    }
    let l3 = usize::from(split.l3_offset);
    let packet = match parse_at(head, frame_len, l3) {
        Ok(packet) if is_of(packet.family, split.ether_type) => packet,
        _ => return Parsed::Drop(DropReason::Malformed),
    };
    match port.kind {
        PortKind::Pod => from_pod(head, place(packet, l3, Ingress::Port(port.id)), port, snapshot),
        PortKind::Host => from_host(head, place(packet, l3, Ingress::Port(port.id))),
        PortKind::Uplink => from_uplink(
            head,
            frame_len,
            place(packet, l3, Ingress::Uplink),
            link.dst,
            snapshot,
        ),
    }
}

fn from_pod(head: &[u8], at: Place, port: &Port, snapshot: &Snapshot) -> Parsed {
    let Place { packet, .. } = at;
    let l3 = &head[usize::from(at.l3)..];
    let (src, dst) = (packet.src(l3), packet.dst(l3));
    if packet.family == Family::V6 && packet.is_icmp() {
        match packet.icmp_type {
            icmpv6::ROUTER_ADVERTISEMENT | icmpv6::REDIRECT => {
                return Parsed::Drop(DropReason::ForbiddenFromPod);
            }
            icmpv6::NEIGHBOUR_SOLICITATION => {
                return if src == IpAddr::V6(Ipv6Addr::UNSPECIFIED) || is_source_of(src, port) {
                    Parsed::Neighbour(at)
                } else {
                    Parsed::Drop(DropReason::SpoofedSource)
                };
            }
            _ => {}
        }
    }
    if is_dhcp_server_message(&packet) {
        return Parsed::Drop(DropReason::ForbiddenFromPod);
    }
    let crafted_tunnel = match packet.proto {
        IpProtocol::UDP => {
            packet.dport.get() == snapshot.this_node().vxlan_port && !packet.is_later_fragment()
        }
        IpProtocol::IPV4 | IpProtocol::IPV6 => true,
        _ => false,
    };
    if crafted_tunnel {
        return Parsed::Drop(DropReason::TunnelSpoofed);
    }
    if is_link_scoped(dst) || is_link_scoped(src) {
        return from_pod_on_link(at, src, dst, port);
    }
    Parsed::Ip(at)
}

/// What a pod says on its own link, beside ARP and neighbour discovery.
fn from_pod_on_link(at: Place, src: IpAddr, dst: IpAddr, port: &Port) -> Parsed {
    if !is_source_of(src, port) && src != IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        return Parsed::Drop(DropReason::SpoofedSource);
    }
    let to_gateway = dst == IpAddr::V4(GATEWAY_V4) || dst == IpAddr::V6(GATEWAY_V6);
    if to_gateway && at.packet.is_echo_request() && at.packet.fragment.is_none() {
        return Parsed::EchoToGateway(at);
    }
    Parsed::Drop(DropReason::NotForUs)
}

fn from_host(head: &[u8], at: Place) -> Parsed {
    let Place { packet, .. } = at;
    let l3 = &head[usize::from(at.l3)..];
    if packet.family == Family::V6 && packet.is_icmp() && packet.icmp_type == icmpv6::NEIGHBOUR_SOLICITATION {
        return Parsed::Neighbour(at);
    }
    if is_link_scoped(packet.dst(l3)) || is_link_scoped(packet.src(l3)) {
        return Parsed::Drop(DropReason::NotForUs);
    }
    Parsed::Ip(at)
}

fn from_uplink(head: &mut [u8], frame_len: usize, at: Place, dst_mac: Mac, snapshot: &Snapshot) -> Parsed {
    let Place { packet, .. } = at;
    let l3 = &head[usize::from(at.l3)..];
    let dst = packet.dst(l3);
    if packet.family == Family::V6 && packet.is_icmp() && icmpv6::is_neighbour_discovery(packet.icmp_type) {
        return Parsed::Punt(PuntReason::NeighbourProtocol);
    }
    if dst_mac.is_multicast() || is_link_scoped(dst) || is_link_scoped(packet.src(l3)) {
        return Parsed::Punt(PuntReason::Multicast);
    }
    decap::decap(head, frame_len, at, snapshot)
}

/// Parses the IP packet at `l3` of a frame.
pub(super) fn parse_at(head: &[u8], frame_len: usize, l3: usize) -> Result<Packet, DropReason> {
    let bytes = head.get(l3..).ok_or(DropReason::Malformed)?;
    let packet = parse_l3_head(bytes, frame_len - l3).map_err(|_| DropReason::Malformed)?;
    let headers = usize::from(packet.l4_offset)
        + if packet.is_later_fragment() {
            0
        } else {
            l4_header_len(packet.proto)
        };
    if packet.source_routed
        || headers > bytes.len()
        || is_martian(packet.src(bytes))
        || is_loopback(packet.dst(bytes))
    {
        return Err(DropReason::Malformed);
    }
    Ok(packet)
}

/// Bytes of transport header that rewriting touches.
fn l4_header_len(proto: IpProtocol) -> usize {
    match proto {
        IpProtocol::TCP => 20,
        IpProtocol::SCTP => 12,
        IpProtocol::UDP | IpProtocol::ICMP | IpProtocol::ICMPV6 => 8,
        _ => 0,
    }
}

pub(super) fn is_of(family: Family, ether_type: EtherType) -> bool {
    match family {
        Family::V4 => ether_type == EtherType::IPV4,
        Family::V6 => ether_type == EtherType::IPV6,
    }
}

fn place(packet: Packet, l3: usize, ingress: Ingress) -> Place {
    Place {
        packet,
        l3: l3 as u16,
        zone: Zone::of(ingress),
    }
}

/// True for an address that the pod behind `port` may send from: its own, and the link-local of its MAC.
pub fn is_source_of(src: IpAddr, port: &Port) -> bool {
    port.addresses.contains(&src) || src == IpAddr::V6(port.peer_mac.link_local())
}

/// Multicast, broadcast, link-local, unspecified: addresses that mean nothing beyond their link.
fn is_link_scoped(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_multicast() || v6.is_unicast_link_local() || v6.is_unspecified(),
    }
}

/// A source that no packet on a link may have.
fn is_martian(src: IpAddr) -> bool {
    match src {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast() || is_loopback(src),
        IpAddr::V6(v6) => v6.is_multicast() || is_loopback(src),
    }
}

/// An address that must not be seen outside its host (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3).
fn is_loopback(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_loopback(),
    }
}

fn is_dhcp_server_message(packet: &Packet) -> bool {
    let server = match packet.family {
        Family::V4 => (67, 68),
        Family::V6 => (547, 546),
    };
    packet.proto == IpProtocol::UDP && (packet.sport.get(), packet.dport.get()) == server
}
