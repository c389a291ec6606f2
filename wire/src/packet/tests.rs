use zerocopy::IntoBytes;

use super::*;
use crate::icmp::IcmpHeader;
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{FragmentHeader, Ipv6Header};
use crate::tcp::TcpHeader;
use crate::udp::UdpHeader;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

fn v4(proto: IpProtocol, l4: &[u8]) -> Vec<u8> {
    [
        Ipv4Header::new(CLIENT, SERVER, proto, 64, l4.len() as u16).as_bytes(),
        l4,
    ]
    .concat()
}

fn v6(proto: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let (src, dst) = (CLIENT.to_ipv6_mapped(), SERVER.to_ipv6_mapped());
    [
        Ipv6Header::new(src, dst, proto, 64, payload.len() as u16).as_bytes(),
        payload,
    ]
    .concat()
}

fn udp(len: u16) -> Vec<u8> {
    let header = UdpHeader::new(Port::new(4000), Port::new(53), len);
    [header.as_bytes(), &vec![7; usize::from(len)]].concat()
}

fn tcp() -> Vec<u8> {
    let flags = TcpFlags::SYN | TcpFlags::ECE;
    TcpHeader::new(Port::new(4000), Port::new(80), 1, 0, flags)
        .as_bytes()
        .to_vec()
}

/// `bytes` with the byte at `at` replaced and the IPv4 header checksum right again.
fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    if bytes[0] >> 4 == 4 {
        let header_len = (usize::from(bytes[0] & 0x0f) * 4).min(bytes.len());
        ipv4::write_checksum(&mut bytes[..header_len]);
    }
    bytes
}

/// `l4` as an IPv4 fragment at `offset` bytes.
fn v4_fragment(proto: IpProtocol, l4: &[u8], offset: u16, more: bool) -> Vec<u8> {
    let mut bytes = v4(proto, l4);
    let flags = if more { ipv4::MORE_FRAGMENTS } else { 0 };
    Ipv4Header::prefix_mut(&mut bytes)
        .unwrap()
        .set_fragment(7, (offset / 8) | flags);
    bytes
}

fn v6_fragment(proto: IpProtocol, l4: &[u8], offset: u16, more: bool) -> Vec<u8> {
    v6(
        IpProtocol::FRAGMENT,
        &[FragmentHeader::new(proto, 7, offset, more).as_bytes(), l4].concat(),
    )
}

fn refusal(bytes: &[u8]) -> Malformed {
    parse_l3(bytes).unwrap_err()
}

#[test]
fn headers_that_lie_are_refused_by_name() {
    let good = v4(IpProtocol::UDP, &udp(4));
    assert_eq!(refusal(&[]), Malformed::Truncated);
    assert_eq!(refusal(&good[..19]), Malformed::Truncated);
    assert_eq!(refusal(&v6(IpProtocol::UDP, &udp(4))[..39]), Malformed::Truncated);
    assert_eq!(refusal(&with(good.clone(), 0, 0x55)), Malformed::Version);
    assert_eq!(refusal(&with(good.clone(), 0, 0x44)), Malformed::HeaderLength);
    assert_eq!(refusal(&with(good.clone(), 0, 0x4f)), Malformed::HeaderLength);
    assert_eq!(refusal(&with(good.clone(), 3, 33)), Malformed::TotalLength);
    assert_eq!(refusal(&with(good.clone(), 3, 19)), Malformed::TotalLength);
    assert_eq!(
        refusal(&with(v6(IpProtocol::UDP, &udp(4)), 5, 13)),
        Malformed::TotalLength
    );
    let mut wrong = good;
    wrong[8] ^= 1;
    assert_eq!(refusal(&wrong), Malformed::HeaderChecksum);
}

#[test]
fn ipv4_options_are_checked_and_source_routes_told() {
    let packet = |options: &[u8]| {
        let mut bytes = v4(IpProtocol::UDP, &[options, &udp(4)].concat());
        Ipv4Header::prefix_mut(&mut bytes)
            .unwrap()
            .set_header_len(20 + options.len());
        with(bytes, 1, 0)
    };
    let alert = packet(&[0x94, 4, 0, 0]);
    let parsed = parse_l3(&alert).unwrap();
    assert_eq!(
        (parsed.l4_offset, parsed.source_routed, parsed.dport.get()),
        (24, false, 53)
    );
    assert!(
        parse_l3(&packet(&[131, 7, 4, 10, 0, 0, 1, 0]))
            .unwrap()
            .source_routed
    );
    assert!(parse_l3(&packet(&[1, 137, 3, 4])).unwrap().source_routed);
    assert_eq!(refusal(&packet(&[131, 8, 4, 10])), Malformed::Ipv4Option);
    let mut wrong = alert;
    wrong[22] ^= 1;
    assert_eq!(refusal(&wrong), Malformed::HeaderChecksum);
}

#[test]
fn ipv6_extension_headers_that_lie_are_refused_by_name() {
    let padding = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let routed = v6(
        IpProtocol::ROUTING,
        &[&[17, 0, 0, 1, 0, 0, 0, 0], &udp(4)[..]].concat(),
    );
    assert!(parse_l3(&routed).unwrap().source_routed);
    assert_eq!(
        refusal(&v6(IpProtocol::DESTINATION_OPTIONS, &padding(17)[..7])),
        Malformed::ExtensionLength
    );
    let late = [padding(0), padding(17)].concat();
    assert_eq!(
        refusal(&v6(IpProtocol::DESTINATION_OPTIONS, &late)),
        Malformed::ExtensionOrder
    );
    let twice = [[44, 0, 0, 0, 0, 0, 0, 1], [17, 0, 0, 0, 0, 0, 0, 1]].concat();
    assert_eq!(
        refusal(&v6(IpProtocol::FRAGMENT, &twice)),
        Malformed::ExtensionOrder
    );
    let many = [padding(60); 9].concat();
    assert_eq!(
        refusal(&v6(IpProtocol::DESTINATION_OPTIONS, &many)),
        Malformed::ExtensionCount
    );
}

#[test]
fn transport_headers_that_lie_are_refused_by_name() {
    for wrap in [v4, v6] {
        assert_eq!(
            refusal(&wrap(IpProtocol::TCP, &tcp()[..19])),
            Malformed::TcpHeader
        );
        for data_offset in [0x40, 0x60] {
            let mut segment = tcp();
            segment[12] = data_offset;
            assert_eq!(refusal(&wrap(IpProtocol::TCP, &segment)), Malformed::TcpHeader);
        }
        assert_eq!(
            refusal(&wrap(IpProtocol::UDP, &udp(0)[..7])),
            Malformed::UdpHeader
        );
        for len in [0, 7, 13] {
            let mut datagram = udp(4);
            datagram[5] = len;
            assert_eq!(
                refusal(&wrap(IpProtocol::UDP, &datagram)),
                Malformed::UdpHeader,
                "length {len}"
            );
        }
        assert_eq!(refusal(&wrap(IpProtocol::SCTP, &[0; 11])), Malformed::SctpHeader);
    }
    assert_eq!(refusal(&v4(IpProtocol::ICMP, &[8; 7])), Malformed::IcmpHeader);
    assert_eq!(refusal(&v6(IpProtocol::ICMPV6, &[128; 7])), Malformed::IcmpHeader);
    // Of the other family it is just some protocol.
    assert!(!parse_l3(&v6(IpProtocol::ICMP, &[8; 7])).unwrap().is_icmp());
}

#[test]
fn first_fragments_have_ports_and_later_ones_have_none() {
    for fragment in [v4_fragment, v6_fragment] {
        // The length in the UDP header is that of the whole datagram.
        let bytes = fragment(IpProtocol::UDP, &udp(1000)[..16], 0, true);
        let first = parse_l3(&bytes).unwrap();
        assert_eq!((first.sport.get(), first.dport.get()), (4000, 53));
        assert_eq!(
            first.fragment,
            Some(Fragment {
                id: 7,
                offset: 0,
                more: true
            })
        );
        assert!(!first.is_later_fragment() && first.checksum_offset().is_some());

        let later = parse_l3(&fragment(IpProtocol::UDP, &[9; 11], 16, false)).unwrap();
        assert_eq!(
            (later.sport, later.dport, later.proto),
            (Port::ZERO, Port::ZERO, IpProtocol::UDP)
        );
        assert_eq!(
            later.fragment,
            Some(Fragment {
                id: 7,
                offset: 16,
                more: false
            })
        );
        assert!(later.is_later_fragment() && later.checksum_offset().is_none());
        assert_eq!(later.l4_len(), 11);

        let icmp = if first.family == Family::V4 {
            IpProtocol::ICMP
        } else {
            IpProtocol::ICMPV6
        };
        let later = parse_l3(&fragment(icmp, &[3; 16], 16, false)).unwrap();
        assert!(!later.is_icmp() && !later.is_icmp_error() && later.embedded_offset().is_none());
    }
}

#[test]
fn fragments_that_attack_reassembly_are_refused_by_name() {
    for fragment in [v4_fragment, v6_fragment] {
        let refusal = |l4: &[u8], offset, more| refusal(&fragment(IpProtocol::TCP, l4, offset, more));
        assert_eq!(refusal(&[0; 33], 0, true), Malformed::FragmentLength);
        assert_eq!(refusal(&[], 64, false), Malformed::FragmentLength);
        assert_eq!(refusal(&[0; 16], 65_528, false), Malformed::FragmentOverflow);
        assert_eq!(refusal(&[0; 8], 8, false), Malformed::FragmentOverlapsHeader);
        assert_eq!(refusal(&[0; 8], 16, false), Malformed::FragmentOverlapsHeader);
        assert_eq!(refusal(&[0; 16], 0, true), Malformed::TcpHeader);
        assert!(parse_l3(&fragment(IpProtocol::TCP, &[0; 8], 24, false)).is_ok());
    }
    // The last byte that a packet of 65,535 may have: 20 of header, 65,515 of payload.
    assert!(parse_l3(&v4_fragment(IpProtocol::UDP, &[0; 3], 65_512, false)).is_ok());
    assert_eq!(
        refusal(&v4_fragment(IpProtocol::UDP, &[0; 4], 65_512, false)),
        Malformed::FragmentOverflow
    );
}

#[test]
fn the_summary_says_what_the_headers_say() {
    let mut bytes = v4(IpProtocol::TCP, &tcp());
    Ipv4Header::prefix_mut(&mut bytes).unwrap().set_tos(0xb8);
    bytes.extend([0; 6]); // padding of the link
    let packet = parse_l3(&bytes).unwrap();
    assert_eq!(
        (packet.family, packet.proto, packet.ttl, packet.tos),
        (Family::V4, IpProtocol::TCP, 64, 0xb8)
    );
    assert_eq!(
        (packet.l4_offset, packet.total_len, packet.l4_len()),
        (20, 40, 20)
    );
    assert_eq!(packet.tcp_flags, TcpFlags::SYN | TcpFlags::ECE);
    assert_eq!(
        (packet.src(&bytes), packet.dst(&bytes)),
        (CLIENT.into(), SERVER.into())
    );
    assert!(packet.dont_fragment && packet.fragment.is_none());
}

#[test]
fn headers_must_be_in_the_first_buffer_and_the_rest_need_not() {
    let bytes = v4(IpProtocol::UDP, &udp(1000));
    assert_eq!(parse_l3(&bytes[..100]), Err(Malformed::TotalLength));
    assert_eq!(parse_l3_head(&bytes[..100], 1028), parse_l3(&bytes));
    assert_eq!(parse_l3_head(&bytes[..100], 1027), Err(Malformed::TotalLength));
    assert_eq!(parse_l3_head(&bytes[..27], 1028), Err(Malformed::UdpHeader));
}

#[test]
fn an_icmp_error_tells_where_its_packet_is_and_eight_bytes_of_it_do() {
    for (wrap, proto, icmp_type) in [
        (v4 as fn(_, &[u8]) -> _, IpProtocol::ICMP, 3),
        (v6, IpProtocol::ICMPV6, 1),
    ] {
        let inner: Vec<u8> = wrap(IpProtocol::TCP, &tcp());
        let header_len = inner.len() - 20;
        let embedded = |len: usize| {
            let icmp = IcmpHeader::new(icmp_type, 0, 0);
            let error = wrap(proto, &[icmp.as_bytes(), &inner[..header_len + len]].concat());
            let packet = parse_l3(&error).unwrap();
            assert!(packet.is_icmp_error() && !packet.is_echo_request());
            parse_embedded(&error[packet.embedded_offset().unwrap()..])
        };
        assert_eq!(embedded(7), Err(Malformed::TcpHeader));
        let cut = embedded(8).unwrap();
        assert_eq!(
            (cut.sport.get(), cut.dport.get(), cut.tcp_flags),
            (4000, 80, TcpFlags::NONE)
        );
        assert_eq!(embedded(20).unwrap().tcp_flags, TcpFlags::SYN | TcpFlags::ECE);
    }
}

#[test]
fn echo_has_its_identifier_as_both_ports() {
    let echo = |icmp_type| {
        *IcmpHeader::new(icmp_type, 0, 0x0102_0003)
            .as_bytes()
            .first_chunk::<8>()
            .unwrap()
    };
    for (bytes, is_request) in [
        (v4(IpProtocol::ICMP, &echo(8)), true),
        (v4(IpProtocol::ICMP, &echo(0)), false),
        (v6(IpProtocol::ICMPV6, &echo(128)), true),
        (v6(IpProtocol::ICMPV6, &echo(129)), false),
    ] {
        let packet = parse_l3(&bytes).unwrap();
        assert_eq!((packet.sport.get(), packet.dport.get()), (0x0102, 0x0102));
        assert_eq!(
            (packet.is_echo_request(), packet.is_echo_reply()),
            (is_request, !is_request)
        );
        assert!(!packet.is_icmp_error());
    }
    // A timestamp request is no echo.
    assert_eq!(
        parse_l3(&v4(IpProtocol::ICMP, &echo(13))).unwrap().sport,
        Port::ZERO
    );
}

#[test]
fn udp_without_checksum_is_right_over_ipv4_alone() {
    let (v4, v6) = (v4(IpProtocol::UDP, &udp(5)), v6(IpProtocol::UDP, &udp(5)));
    assert!(parse_l3(&v4).unwrap().l4_checksum_is_valid(&v4));
    assert!(!parse_l3(&v6).unwrap().l4_checksum_is_valid(&v6));
}

#[test]
fn a_packet_that_is_not_all_there_gets_no_checksum() {
    let bytes = v4(IpProtocol::UDP, &udp(100));
    let packet = parse_l3(&bytes).unwrap();
    let mut head = bytes[..60].to_vec();
    assert!(!packet.write_l4_checksum(&mut head) && !packet.l4_checksum_is_valid(&with(head.clone(), 26, 1)));
    assert_eq!(head, bytes[..60]);
}

#[test]
fn a_first_fragment_never_counts_as_partial() {
    // Its checksum covers what is in other packets, so there is nothing to complete here.
    let mut bytes = v4_fragment(IpProtocol::UDP, &udp(1000)[..16], 0, true);
    let packet = parse_l3(&bytes).unwrap();
    *packet.l4_checksum_mut(&mut bytes).unwrap() = packet.pseudo_sum(&bytes).folded();
    assert!(!packet.has_partial_checksum(&bytes) && !packet.write_l4_checksum(&mut bytes));
}

#[test]
fn a_computed_udp_checksum_of_zero_is_written_as_all_ones() {
    let mut bytes = v4(IpProtocol::UDP, &udp(2));
    let packet = parse_l3(&bytes).unwrap();
    assert!(packet.write_l4_checksum(&mut bytes));
    // Data that grows by the checksum makes the next checksum zero.
    let checksum = packet.l4_checksum(&bytes).unwrap().get().wrapping_add(0x0707);
    let carry = u16::from(checksum < 0x0707);
    bytes[28..30].copy_from_slice(&(checksum + carry).to_be_bytes());
    assert!(packet.write_l4_checksum(&mut bytes));
    assert_eq!(packet.l4_checksum(&bytes).unwrap().get(), 0xffff);
    assert!(packet.l4_checksum_is_valid(&bytes));
}
