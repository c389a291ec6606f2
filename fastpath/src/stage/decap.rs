//! Decap: tunnel packets to this node's tunnel ends.
//!
//! Reads the outer headers, the known nodes and our VNI. Sets offset, packet and zone to those of the inner packet and, where
//! the outer header says "congestion experienced", its ECN (RFC 6040). Whether the inner source belongs to that node is asked
//! with a flow's first packet, since the node is part of the key.
//! Verdicts: drop `malformed`, `not-for-us`; punt `to-host` for tunnels that are not ours.

use wire::ethernet;
use wire::ipv4::Ipv4Header;
use wire::ipv6::Ipv6Header;
use wire::packet::{Family, Packet};
use wire::vxlan::VxlanHeader;
use wire::{IpProtocol, udp, vxlan};

use super::ingress::{Parsed, Place, is_of, parse_at};
use crate::flow::{Ingress, Zone};
use crate::snapshot::Snapshot;
use crate::verdict::{DropReason, PuntReason};

/// The inner packet, when `outer` from an uplink is a tunnel packet of a known node; else `outer` as it is.
#[inline]
pub(super) fn decap(head: &mut [u8], frame_len: usize, outer: Place, snapshot: &Snapshot) -> Parsed {
    let node = snapshot.this_node();
    let is_vxlan = match outer.packet.proto {
        IpProtocol::UDP => outer.packet.dport.get() == node.vxlan_port && !outer.packet.is_later_fragment(),
        IpProtocol::IPV4 => false,
        _ => return Parsed::Ip(outer),
    };
    if !is_vxlan && outer.packet.proto == IpProtocol::UDP {
        return Parsed::Ip(outer);
    }
    let l3 = &head[usize::from(outer.l3)..];
    if !node.vteps.contains(&outer.packet.dst(l3)) {
        return Parsed::Ip(outer);
    }
    if outer.packet.fragment.is_some() {
        // Cut on the underlay: a packet for this node like any other, so that the kernel gets the later parts, too.
        return Parsed::Ip(outer);
    }
    let Some(peer) = snapshot.peer_by_outer(outer.packet.src(l3)) else {
        return Parsed::Punt(PuntReason::ToHost);
    };
    let l4 = usize::from(outer.l3) + usize::from(outer.packet.l4_offset);
    let inner_l3 = if is_vxlan {
        let Ok((header, inner)) = VxlanHeader::parse(head.get(l4 + udp::HEADER_LEN..).unwrap_or_default())
        else {
            return Parsed::Drop(DropReason::Malformed);
        };
        if header.vni() != node.vni {
            return Parsed::Punt(PuntReason::ToHost);
        }
        match ethernet::split(inner) {
            Ok(split) if split.vlan.is_none() => {
                l4 + udp::HEADER_LEN + vxlan::HEADER_LEN + usize::from(split.l3_offset)
            }
            Ok(_) => return Parsed::Drop(DropReason::NotForUs),
            Err(_) => return Parsed::Drop(DropReason::Malformed),
        }
    } else {
        l4
    };
    if is_vxlan {
        let ether_type = head
            .get(inner_l3 - 2..inner_l3)
            .map(|b| ethernet::EtherType::new(u16::from_be_bytes([b[0], b[1]])));
        if !ether_type.is_some_and(|t| is_of(Family::V4, t) || is_of(Family::V6, t)) {
            return Parsed::Drop(DropReason::NotForUs);
        }
    }
    // The outer packet's length bounds the inner one.
    let available = (usize::from(outer.l3) + outer.packet.total_len as usize).min(frame_len);
    if inner_l3 > available {
        return Parsed::Drop(DropReason::Malformed);
    }
    let mut packet = match parse_at(head, available, inner_l3) {
        Ok(packet) => packet,
        Err(reason) => return Parsed::Drop(reason),
    };
    if !merge_ecn(outer.packet.tos, &mut packet, &mut head[inner_l3..]) {
        return Parsed::Drop(DropReason::Malformed);
    }
    Parsed::Ip(Place {
        packet,
        l3: inner_l3 as u16,
        zone: Zone::of(Ingress::Tunnel(peer)),
    })
}

/// RFC 6040 section 4.2. False when the packet has to be dropped: marked outside, not capable inside.
fn merge_ecn(outer_tos: u8, packet: &mut Packet, l3: &mut [u8]) -> bool {
    const NOT_CAPABLE: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    let ecn = match (outer_tos & 3, packet.tos & 3) {
        (CE, NOT_CAPABLE) => return false,
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        (_, inner) => inner,
    };
    if ecn != packet.tos & 3 {
        set_tos(packet, l3, packet.tos & !3 | ecn);
    }
    true
}

fn set_tos(packet: &mut Packet, l3: &mut [u8], tos: u8) {
    match packet.family {
        Family::V4 => {
            if let Some(header) = Ipv4Header::prefix_mut(l3) {
                header.set_tos(tos);
            }
        }
        Family::V6 => {
            if let Some(header) = Ipv6Header::prefix_mut(l3) {
                header.set_traffic_class(tos);
            }
        }
    }
    packet.tos = tos;
}

#[cfg(test)]
mod tests {
    use wire::packet::parse_l3;

    use super::*;

    fn merged(outer: u8, inner: u8) -> Option<u8> {
        let mut l3 = Ipv4Header::new([1, 1, 1, 1].into(), [2, 2, 2, 2].into(), IpProtocol(99), 64, 0);
        l3.set_tos(inner | 0xb8);
        let mut bytes = zerocopy::IntoBytes::as_bytes(&l3).to_vec();
        let mut packet = parse_l3(&bytes).unwrap();
        merge_ecn(outer, &mut packet, &mut bytes).then(|| {
            let again = parse_l3(&bytes).expect("the header checksum is right");
            assert_eq!((again.tos, again.tos & !3), (packet.tos, 0xb8));
            again.tos & 3
        })
    }

    #[test]
    fn the_table_of_rfc_6040_section_4_2_holds() {
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE; columns: outer Not-ECT, ECT(0), ECT(1), CE.
        for (inner, row) in [
            (0, [Some(0), Some(0), Some(0), None]),
            (2, [Some(2), Some(2), Some(1), Some(3)]),
            (1, [Some(1), Some(1), Some(1), Some(3)]),
            (3, [Some(3), Some(3), Some(3), Some(3)]),
        ] {
            assert_eq!(
                [0, 2, 1, 3].map(|outer| merged(outer, inner)),
                row,
                "inner {inner}"
            );
        }
    }
}
