//! Tunnels: decapsulation of any bytes, and encapsulation that decapsulates to the same frame.

use wire::checksum::Sum;
use wire::packet::{Family, parse_l3};
use wire::udp::UdpHeader;
use wire::vxlan::{OUTER_V4_LEN, OUTER_V6_LEN, OuterV4, OuterV6, PORT, VxlanHeader};
use wire::{Port, Vni, ethernet, ipip};
use zerocopy::IntoBytes;

/// One input.
pub fn run(bytes: &[u8]) {
    decapsulate(bytes);
    let Some((&[tos, vni, port_high, port_low], inner)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(inner_len) = u16::try_from(inner.len()) else {
        return;
    };
    let vni = Vni::try_from(u32::from(vni) << 16 | 0x1234).expect("24 bits");
    let port = Port::from_wire([port_high, port_low]);

    let v4 = OuterV4::new([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), PORT, vni, 64);
    let stamped = v4.stamp(inner_len, port, tos);
    assert_eq!(stamped.is_some(), inner.len() + OUTER_V4_LEN <= 65_535);
    if let Some(outer) = stamped {
        check(&[outer.as_bytes(), inner].concat(), inner, vni, port, tos);
    }
    let v6 = OuterV6::new([1; 16].into(), [2; 16].into(), PORT, vni, 64);
    let stamped = v6.stamp(inner_len, port, tos);
    assert_eq!(stamped.is_some(), inner.len() + OUTER_V6_LEN - 40 <= 65_535);
    if let Some(mut outer) = stamped {
        outer.set_checksum(Sum::of(inner));
        check(&[outer.as_bytes(), inner].concat(), inner, vni, port, tos);
    }

    for family in [Family::V4, Family::V6] {
        let template = ipip::outer([192, 0, 2, 1].into(), [192, 0, 2, 2].into(), family, 64);
        if let Some(outer) = ipip::stamp(&template, inner_len, tos) {
            let bytes = [outer.as_bytes(), inner].concat();
            let packet = parse_l3(&bytes).expect("what we write is a packet");
            assert_eq!(ipip::inner_family(packet.proto), Some(family));
            assert_eq!(&bytes[usize::from(packet.l4_offset)..], inner);
            if let Some(inner_tos) = ipip::decapsulated_tos(tos, vni.get() as u8) {
                assert_eq!(inner_tos >> 2, vni.get() as u8 >> 2);
            }
        }
    }
}

fn check(bytes: &[u8], inner: &[u8], vni: Vni, port: Port, tos: u8) {
    let packet = parse_l3(bytes).expect("what we write is a packet");
    assert_eq!((packet.sport, packet.dport, packet.tos), (port, PORT, tos));
    assert!(packet.l4_checksum_is_valid(bytes));
    assert_eq!(decapsulate(bytes), Some((vni, inner)));
}

/// What the uplink does with a packet for the tunnel.
fn decapsulate(l3: &[u8]) -> Option<(Vni, &[u8])> {
    let packet = parse_l3(l3).ok()?;
    if packet.dport != PORT || packet.fragment.is_some() {
        return None;
    }
    let (_, data) =
        UdpHeader::parse(l3.get(usize::from(packet.l4_offset)..packet.total_len as usize)?).ok()?;
    let (header, frame) = VxlanHeader::parse(data).ok()?;
    if let Ok(split) = ethernet::split(frame) {
        let _ = parse_l3(&frame[usize::from(split.l3_offset)..]);
    }
    Some((header.vni(), frame))
}
