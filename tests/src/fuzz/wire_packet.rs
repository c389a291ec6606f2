//! `packet::parse_l3` and all that is done with its result, on a whole Ethernet frame.

use wire::checksum::Delta;
use wire::ethernet::{self, EtherType};
use wire::packet::{parse_embedded, parse_l3, parse_l3_head};
use wire::{IpProtocol, arp, ipv4, ipv6, reply, tcp};

/// One input.
pub fn run(frame: &[u8]) {
    let Ok(split) = ethernet::split(frame) else { return };
    let l3 = &frame[usize::from(split.l3_offset)..];
    match split.ether_type {
        EtherType::ARP => arp(l3),
        EtherType::IPV4 | EtherType::IPV6 => ip(l3),
        _ => {}
    }
}

fn arp(bytes: &[u8]) {
    let Ok(request) = arp::ArpPacket::parse(bytes) else {
        return;
    };
    let mut out = [0; 60];
    let reply = request.reply(wire::Mac([0xee; 6]));
    assert_eq!(
        reply.write_frame(request.sender_mac, &mut out),
        Some(arp::FRAME_LEN)
    );
    assert_eq!(arp::ArpPacket::parse(&out[ethernet::HEADER_LEN..]), Ok(&reply));
}

fn ip(l3: &[u8]) {
    // The checksum is made right on every second input, or the fuzzer would rarely come behind it.
    let mut repaired = l3.to_vec();
    if l3.len().is_multiple_of(2)
        && let Some(first) = l3.first()
        && let Some(header) = repaired.get_mut(..usize::from(first & 0x0f) * 4)
        && first >> 4 == 4
    {
        ipv4::write_checksum(header);
    }
    let l3 = &repaired[..];
    let Ok(packet) = parse_l3(l3) else { return };
    let total_len = packet.total_len as usize;
    assert!(usize::from(packet.l4_offset) <= total_len && total_len <= l3.len());
    assert_eq!(parse_l3(&l3[..total_len]), Ok(packet), "padding changes nothing");
    assert_eq!(parse_l3_head(l3, l3.len() + 1), Ok(packet));
    assert_eq!(parse_embedded(l3), Ok(packet));
    assert_eq!(
        ipv4::Ipv4Header::parse(l3).is_ok(),
        packet.family == wire::packet::Family::V4
    );
    assert_eq!(
        ipv6::Ipv6Header::parse(l3).is_ok(),
        packet.family == wire::packet::Family::V6
    );

    let l4 = &l3[usize::from(packet.l4_offset)..total_len];
    if packet.proto == IpProtocol::TCP && !packet.is_later_fragment() {
        assert!(tcp::TcpHeader::parse(l4).is_ok());
        assert!(tcp::mss_offset(l4).is_none_or(|at| at + 2 <= l4.len()));
    }
    if let Some(at) = packet.embedded_offset() {
        let _ = parse_embedded(&l3[at..total_len]);
    }

    // A written checksum is right, and stays so when the addresses change by a delta.
    let mut bytes = l3.to_vec();
    if packet.write_l4_checksum(&mut bytes) {
        assert!(packet.l4_checksum_is_valid(&bytes));
        if packet.checksum_covers_addresses() {
            let old = packet.dst(&bytes);
            let last = packet.addresses_offset() + if old.is_ipv4() { 7 } else { 31 };
            bytes[last] ^= 0x55;
            let delta = Delta::of_address(old, packet.dst(&bytes));
            let Some(field) = packet.l4_checksum_mut(&mut bytes) else {
                unreachable!("just written")
            };
            if packet.proto == IpProtocol::UDP {
                delta.apply_udp(field);
            } else {
                delta.apply(field);
            }
            assert!(packet.l4_checksum_is_valid(&bytes));
        }
    }

    let mut out = [0; 1500];
    if let Some(len) = reply::tcp_reset(&mut out, &packet, l3) {
        let reset = parse_l3(&out[..len]).expect("what we write is a packet");
        assert!(reset.l4_checksum_is_valid(&out[..len]));
        assert_eq!(
            (reset.src(&out), reset.dst(&out)),
            (packet.dst(l3), packet.src(l3))
        );
    }
    let original = &l3[..total_len];
    let written = match packet.family {
        wire::packet::Family::V4 => reply::icmp_error(&mut out, [10, 0, 0, 1].into(), original, 11, 0, 0),
        wire::packet::Family::V6 => reply::icmpv6_error(&mut out, [0xfd; 16].into(), original, 3, 0, 0),
    };
    let len = written.expect("there is room");
    let error = parse_l3(&out[..len]).expect("what we write is a packet");
    assert!(error.is_icmp_error() && error.l4_checksum_is_valid(&out[..len]));
    assert!(!reply::may_be_answered(&error, &out[..len], true));

    let mut bytes = l3.to_vec();
    let was_valid = packet.l4_checksum_is_valid(l3);
    if reply::echo_reply_in_place(&packet, &mut bytes) {
        let reply = parse_l3(&bytes).expect("still a packet");
        assert!(reply.is_echo_reply());
        assert!(!was_valid || reply.l4_checksum_is_valid(&bytes));
    }
}
