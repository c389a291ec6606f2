//! Encap: the bytes before the packet, copied whole from the adjacency's template, and the few fields that differ.
//!
//! Reads the adjacency, the packet's length, family, DSCP, ECN and flow hash. Sets the frame's start and the link, outer IP, UDP
//! headers; a partial transport checksum's place moves along, or is completed where the next hop can't. Verdicts: drop
//! `no-buffer` when the headroom is too small (no port of ours makes such a frame).

use wire::checksum::Sum;
use wire::ethernet::{self, EtherType};
use wire::ipv4::{self, Ipv4Header};
use wire::ipv6::{self, Ipv6Header};
use wire::packet::{Family, Packet};
use wire::udp::{self, UdpHeader};
use wire::{IpProtocol, Port, U16, vxlan};

use crate::fragment::complete::complete_checksum;
use crate::io::{Checksum, Frame, Memory};
use crate::snapshot::{Adjacency, AdjacencyEncap};

/// Puts `adjacency`'s headers before the packet that starts at `l3` of `frame`. False, the frame as it was or cut at its
/// front, when there is no room.
#[must_use]
pub fn encap(
    memory: &mut Memory,
    frame: &mut Frame,
    l3: usize,
    packet: &Packet,
    adjacency: &Adjacency,
    hash: u64,
    port_completes: bool,
) -> bool {
    let is_tunnel = adjacency.encap != AdjacencyEncap::Ethernet;
    if (is_tunnel || !port_completes) && !complete_checksum(memory, frame, l3, packet) {
        return false;
    }
    let ip_len = packet.total_len as usize;
    if frame.len() > l3 + ip_len {
        memory.truncate(frame, l3 + ip_len); // padding of the link
    }
    let header_len = usize::from(adjacency.header_len);
    if !frame.trim_front(l3) || !frame.push_front(header_len) {
        return false;
    }
    if let Checksum::Partial { offset, .. } = frame.checksum {
        frame.checksum = Checksum::Partial {
            start: header_len as u16 + packet.l4_offset,
            offset,
        };
    }
    let ether_type = match packet.family {
        Family::V4 => EtherType::IPV4,
        Family::V6 => EtherType::IPV6,
    };
    let bytes = memory.bytes_mut(frame);
    let Some((header, inner)) = bytes.split_at_mut_checked(header_len) else {
        return false;
    };
    let inner_id = identification(packet, inner);
    header.copy_from_slice(&adjacency.header[..header_len]);
    if adjacency.encap != AdjacencyEncap::Ipip {
        // The innermost Ethernet header ends the template.
        header[header_len - 2..].copy_from_slice(&ether_type.get().to_be_bytes());
    }
    match adjacency.encap {
        AdjacencyEncap::Ethernet => true,
        AdjacencyEncap::Ipip => stamp_ipv4(
            &mut header[header_len - ipv4::HEADER_LEN..],
            ip_len + ipv4::HEADER_LEN,
            packet.tos,
            inner_id,
        ),
        AdjacencyEncap::Vxlan4 => {
            let outer = &mut header[header_len - ethernet::HEADER_LEN - vxlan::OUTER_V4_LEN..];
            let outer_len = vxlan::OUTER_V4_LEN + ethernet::HEADER_LEN + ip_len;
            stamp_udp(&mut outer[ipv4::HEADER_LEN..], outer_len - ipv4::HEADER_LEN, hash);
            stamp_ipv4(outer, outer_len, packet.tos, inner_id)
        }
        AdjacencyEncap::Vxlan6 => {
            let outer_start = header_len - ethernet::HEADER_LEN - vxlan::OUTER_V6_LEN;
            let outer = &mut header[outer_start..];
            let udp_len = vxlan::OUTER_V6_LEN - ipv6::HEADER_LEN + ethernet::HEADER_LEN + ip_len;
            stamp_udp(&mut outer[ipv6::HEADER_LEN..], udp_len, hash);
            stamp_ipv6(outer, udp_len, packet.tos) && checksum_udp_v6(memory, frame, outer_start, udp_len)
        }
    }
}

/// Length, DSCP (RFC 2983 section 3.1, the uniform model) and ECN (RFC 6040 section 4.1, normal mode), both the inner ones,
/// and header checksum.
fn stamp_ipv4(outer: &mut [u8], total_len: usize, inner_tos: u8, inner_id: u16) -> bool {
    let Some(outer) = outer.get_mut(..ipv4::HEADER_LEN) else {
        return false;
    };
    let Some(header) = Ipv4Header::prefix_mut(outer) else {
        return false;
    };
    let Ok(total_len) = u16::try_from(total_len) else {
        return false;
    };
    header.total_len.set(total_len);
    header.tos = inner_tos;
    if !header.dont_fragment() {
        // Who may be cut must be told from the packets before and after it, RFC 6864 section 4.
        header.id.set(inner_id);
    }
    ipv4::write_checksum(outer);
    true
}

fn stamp_ipv6(outer: &mut [u8], payload_len: usize, inner_tos: u8) -> bool {
    let Some(header) = Ipv6Header::prefix_mut(outer) else {
        return false;
    };
    let Ok(payload_len) = u16::try_from(payload_len) else {
        return false;
    };
    header.payload_len.set(payload_len);
    header.set_traffic_class(inner_tos);
    true
}

/// A number that differs between the packets of a flow: the inner identification (with the place of a fragment), else the
/// transport checksum.
fn identification(packet: &Packet, inner: &[u8]) -> u16 {
    let own = match packet.family {
        Family::V4 => Ipv4Header::prefix(inner).map_or(0, |header| {
            header.id.get() ^ (header.flags_offset.get() & ipv4::OFFSET_MASK)
        }),
        Family::V6 => 0,
    };
    if own == 0 {
        packet.l4_checksum(inner).map_or(0, U16::get)
    } else {
        own
    }
}

/// Length and source port, which spreads the flows over the paths of the underlay (RFC 7348 section 5).
fn stamp_udp(outer: &mut [u8], len: usize, hash: u64) {
    if let Some(header) = UdpHeader::prefix_mut(outer) {
        header.src = source_port(hash);
        header.len.set(len as u16);
    }
}

/// The same for all packets of a flow, from the dynamic ports (RFC 6335 section 6).
pub fn source_port(hash: u64) -> Port {
    Port::new(0xc000 | (hash >> 50) as u16)
}

/// Receivers want a UDP checksum over IPv6.
fn checksum_udp_v6(memory: &mut Memory, frame: &mut Frame, outer: usize, udp_len: usize) -> bool {
    let start = outer + ipv6::HEADER_LEN;
    let (mut skip, mut at, mut sum) = (start, 0, Sum::ZERO);
    for segment in memory.segments(frame) {
        let piece = segment.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(segment.len());
        let piece = &piece[..piece.len().min(udp_len - at.min(udp_len))];
        sum = sum.plus_at(Sum::of(piece), at);
        at += piece.len();
    }
    let bytes = memory.bytes_mut(frame);
    let Some((ip, datagram)) = bytes
        .get_mut(outer..)
        .and_then(|b| b.split_at_mut_checked(ipv6::HEADER_LEN))
    else {
        return false;
    };
    let (Some(ip), Some(header)) = (Ipv6Header::prefix(ip), UdpHeader::prefix_mut(datagram)) else {
        return false;
    };
    // The template's field is zero, so it did not count.
    sum += Sum::pseudo_v6(
        ip.src().octets(),
        ip.dst().octets(),
        IpProtocol::UDP,
        udp_len as u32,
    );
    header.checksum = sum.udp_checksum();
    true
}

const _: () = assert!(udp::HEADER_LEN == 8);
