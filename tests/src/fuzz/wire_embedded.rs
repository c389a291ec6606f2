//! `packet::parse_embedded` on what an ICMP error embeds, and NAT of what it found.

use wire::packet::{Family, parse_embedded};
use wire::{IpProtocol, ipv6};

/// One input.
pub fn run(bytes: &[u8]) {
    let _ = ipv6::walk(bytes).map(|upper| assert!(usize::from(upper.offset) <= bytes.len()));
    let Ok(packet) = parse_embedded(bytes) else { return };
    let l4_offset = usize::from(packet.l4_offset);
    assert!(l4_offset <= bytes.len());
    let expected = match bytes[0] >> 4 {
        4 => Family::V4,
        _ => Family::V6,
    };
    assert_eq!(packet.family, expected);
    if packet.proto.has_ports() && !packet.is_later_fragment() {
        // What translation rewrites is there.
        assert!(l4_offset + 8 <= bytes.len());
        assert_eq!(bytes[l4_offset..l4_offset + 2], packet.sport.to_wire());
        assert_eq!(bytes[l4_offset + 2..l4_offset + 4], packet.dport.to_wire());
    }
    let _ = (packet.src(bytes), packet.dst(bytes));
    let mut cut = bytes.to_vec();
    if let Some(field) = packet.l4_checksum_mut(&mut cut) {
        field.set(0x1234);
        assert!(
            packet
                .l4_checksum(&cut)
                .is_some_and(|found| found.get() == 0x1234)
        );
    } else {
        let cut_off = packet.proto == IpProtocol::TCP && bytes.len() < l4_offset + 18;
        assert!(cut_off || packet.checksum_offset().is_none());
    }
    // Cutting further never changes what is said, it only ends it.
    for len in 0..bytes.len() {
        if let Ok(shorter) = parse_embedded(&bytes[..len]) {
            let flags_cut = wire::Packet {
                tcp_flags: shorter.tcp_flags,
                ..packet
            };
            assert_eq!(shorter, flags_cut);
        }
    }
}
