//! No bytes make a parser panic, and what a parser finds lies within the bytes it was given.

use proptest::prelude::*;
use wire::packet::{Packet, parse_embedded, parse_l3, parse_l3_head};
use wire::{arp, ethernet, ipv4, ipv6, nd, reply, sctp, tcp, udp, vxlan};

/// Bytes that start as an IP packet more often than chance would have it.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![Just(0x45u8), 0x46u8..=0x4f, Just(0x60u8), any::<u8>()];
    let proto = prop::sample::select(vec![0u8, 1, 6, 17, 43, 44, 58, 59, 60, 132]);
    let head = (
        first,
        proto,
        any::<bool>(),
        proptest::collection::vec(any::<u8>(), 0..160),
    );
    head.prop_map(|(first, proto, honest, mut bytes)| {
        let len = bytes.len() as u16;
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        if first >> 4 == 4 && len >= 20 {
            bytes[9] = proto;
            if honest {
                bytes[2..4].copy_from_slice(&len.to_be_bytes());
                bytes[6] &= 0xc0;
                bytes[7] = 0;
            }
            let header_len = (usize::from(first & 0x0f) * 4).min(bytes.len());
            ipv4::write_checksum(&mut bytes[..header_len]);
        } else if first >> 4 == 6 && len >= 40 {
            bytes[6] = proto;
            if honest {
                bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
            }
        }
        bytes
    })
}

/// All that callers may do with a packet on the bytes it came from.
fn use_packet(packet: &Packet, bytes: &mut [u8]) {
    assert!(usize::from(packet.l4_offset) <= bytes.len());
    assert!(u32::from(packet.l4_offset) <= packet.total_len || packet.fragment.is_none());
    let _ = (
        packet.src(bytes),
        packet.dst(bytes),
        packet.pseudo_sum(bytes),
        packet.has_partial_checksum(bytes),
    );
    let _ = packet.l4_checksum_is_valid(bytes);
    if let Some(offset) = packet.checksum_offset() {
        assert!(packet.tcp_flags.0 == 0 || offset + 2 <= bytes.len());
    }
    if let Some(offset) = packet.embedded_offset() {
        assert!(offset <= bytes.len());
        let _ = parse_embedded(&bytes[offset..]);
    }
    let _ = reply::may_be_answered(packet, bytes, false);
    let mut out = [0; 1500];
    if let Some(len) = reply::tcp_reset(&mut out, packet, bytes) {
        assert!(parse_l3(&out[..len]).is_ok_and(|reset| reset.l4_checksum_is_valid(&out[..len])));
    }
    let from = std::net::Ipv4Addr::LOCALHOST;
    for written in [
        reply::icmp_error(&mut out, from, bytes, 3, 1, 0),
        reply::icmpv6_error(&mut out, from.to_ipv6_mapped(), bytes, 1, 3, 0),
    ] {
        assert!(written.is_none_or(|len| len <= reply::ICMPV6_ERROR_LEN_MAX));
    }
    packet.write_l4_checksum(bytes);
    reply::echo_reply_in_place(packet, bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_packet_lies_within_its_bytes(bytes in bytes()) {
        if let Ok(packet) = parse_l3(&bytes) {
            prop_assert!(packet.total_len as usize <= bytes.len());
            prop_assert!(u32::from(packet.l4_offset) <= packet.total_len);
            use_packet(&packet, &mut bytes.clone());
            if let Ok(Some(message)) = nd::parse(&packet, &bytes) {
                prop_assert_eq!(packet.ttl, nd::HOP_LIMIT, "{:?}", message);
            }
            // Padding changes nothing, and neither does the next buffer of a chain.
            let padded = [&bytes[..packet.total_len as usize], &[0xa5; 9]].concat();
            prop_assert_eq!(parse_l3(&padded), Ok(packet));
            prop_assert_eq!(parse_l3_head(&bytes, bytes.len() + 100), Ok(packet));
            // Whatever is acceptable whole is acceptable inside an ICMP error.
            prop_assert_eq!(parse_embedded(&bytes), Ok(packet));
        }
    }

    #[test]
    fn an_embedded_packet_may_be_cut(bytes in bytes()) {
        if let Ok(packet) = parse_embedded(&bytes) {
            use_packet(&packet, &mut bytes.clone());
        }
    }

    #[test]
    fn views_take_any_bytes(bytes in bytes()) {
        if let Ok(split) = ethernet::split(&bytes) {
            prop_assert!(usize::from(split.l3_offset) <= bytes.len());
        }
        if let Ok(ip) = ipv4::Ipv4Header::parse(&bytes) {
            let parts = ipv4::HEADER_LEN + ip.options.len() + ip.payload.len();
            prop_assert_eq!(parts, usize::from(ip.header.total_len.get()));
            prop_assert!(ipv4::Options::new(ip.options).count() <= 40);
        }
        if let Ok(upper) = ipv6::walk(&bytes) {
            prop_assert!(usize::from(upper.offset) <= bytes.len());
        }
        if let Some(at) = tcp::mss_offset(&bytes) {
            prop_assert!(at + 2 <= bytes.len());
        }
        let _ = (ipv6::Ipv6Header::parse(&bytes), arp::ArpPacket::parse(&bytes), tcp::TcpHeader::parse(&bytes));
        let _ = (udp::UdpHeader::parse(&bytes), vxlan::VxlanHeader::parse(&bytes), sctp::checksum_is_valid(&bytes));
        let mut bytes = bytes;
        sctp::write_checksum(&mut bytes);
        ipv4::write_checksum(&mut bytes);
        wire::icmp::write_checksum(&mut bytes, wire::checksum::Sum::ZERO);
    }
}
