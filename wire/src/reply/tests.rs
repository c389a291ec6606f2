use super::*;
use crate::addr::Port;
use crate::packet::{parse_embedded, parse_l3};
use crate::tcp::TcpFlags;
use crate::udp::UdpHeader;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 9);

/// A UDP packet from client to server with `len` bytes of data.
fn datagram(dst: Ipv4Addr, len: u16) -> Vec<u8> {
    let ip = Ipv4Header::new(CLIENT, dst, IpProtocol::UDP, 64, len + 8);
    let udp = UdpHeader::new(Port::new(4000), Port::new(53), len);
    [ip.as_bytes(), udp.as_bytes(), &vec![7; usize::from(len)]].concat()
}

fn datagram6(dst: Ipv6Addr, len: u16) -> Vec<u8> {
    let ip = Ipv6Header::new(CLIENT6, dst, IpProtocol::UDP, 64, len + 8);
    let udp = UdpHeader::new(Port::new(4000), Port::new(53), len);
    [ip.as_bytes(), udp.as_bytes(), &vec![7; usize::from(len)]].concat()
}

#[test]
fn an_icmp_error_embeds_what_it_is_about() {
    let original = datagram(SERVER, 2000);
    let mut out = [0; 1500];
    let len = icmp_error(&mut out, ROUTER, &original, icmp::UNREACHABLE, 4, 1450).unwrap();
    assert_eq!(len, ICMP_ERROR_LEN_MAX);
    let error = parse_l3(&out[..len]).unwrap();
    assert!(error.is_icmp_error() && error.l4_checksum_is_valid(&out[..len]));
    assert_eq!(error.dst(&out), IpAddr::V4(CLIENT));
    let embedded = parse_embedded(&out[error.embedded_offset().unwrap()..len]).unwrap();
    assert_eq!(
        (embedded.sport.get(), embedded.dport.get(), embedded.total_len),
        (4000, 53, 2028)
    );
    assert_eq!(IcmpHeader::prefix(&out[20..]).unwrap().mtu_v4(), 1450);
}

#[test]
fn an_icmpv6_error_stays_within_the_minimum_mtu() {
    let original = datagram6(SERVER6, 2000);
    let mut out = [0; 1500];
    let len = icmpv6_error(&mut out, SERVER6, &original, icmpv6::PACKET_TOO_BIG, 0, 1430).unwrap();
    assert_eq!(len, ICMPV6_ERROR_LEN_MAX);
    let error = parse_l3(&out[..len]).unwrap();
    assert!(error.is_icmp_error() && error.l4_checksum_is_valid(&out[..len]));
    let embedded = parse_embedded(&out[error.embedded_offset().unwrap()..len]).unwrap();
    assert_eq!((embedded.family, embedded.dport.get()), (Family::V6, 53));
    assert_eq!(IcmpHeader::prefix(&out[40..]).unwrap().mtu_v6(), 1430);
}

#[test]
fn an_error_without_room_for_ports_is_not_written() {
    let original = datagram(SERVER, 100);
    assert_eq!(icmp_error(&mut [0; 55], ROUTER, &original, 3, 3, 0), None);
    assert_eq!(icmp_error(&mut [0; 56], ROUTER, &original, 3, 3, 0), Some(56));
    assert_eq!(icmp_error(&mut [0; 99], ROUTER, &original[..19], 3, 3, 0), None);
}

#[test]
fn errors_are_not_answered_and_neither_are_groups() {
    let allowed = |l3: &[u8]| may_be_answered(&parse_l3(l3).unwrap(), l3, false);
    let good = datagram(SERVER, 10);
    assert!(allowed(&good) && allowed(&datagram6(SERVER6, 10)));
    assert!(!allowed(&datagram(Ipv4Addr::new(224, 0, 0, 1), 10)));
    assert!(!allowed(&datagram(Ipv4Addr::BROADCAST, 10)));

    let to_group = datagram6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 10);
    assert!(!allowed(&to_group));
    assert!(may_be_answered(&parse_l3(&to_group).unwrap(), &to_group, true));

    let mut error = [0; 100];
    let len = icmp_error(&mut error, ROUTER, &good, icmp::TIME_EXCEEDED, 0, 0).unwrap();
    assert!(!allowed(&error[..len]));

    let mut later = good;
    Ipv4Header::prefix_mut(&mut later).unwrap().set_fragment(1, 5);
    assert!(!allowed(&later));
}

#[test]
fn a_reset_goes_back_with_right_checksums() {
    let syn = TcpHeader::new(Port::new(4000), Port::new(80), 100, 0, TcpFlags::SYN);
    for (src, dst) in [
        (IpAddr::V4(CLIENT), IpAddr::V4(SERVER)),
        (IpAddr::V6(CLIENT6), IpAddr::V6(SERVER6)),
    ] {
        let (mut request, mut out) = ([0; 60], [0; 60]);
        let len = tcp_segment(&mut request, src, dst, &syn).unwrap();
        let packet = parse_l3(&request[..len]).unwrap();
        let len = tcp_reset(&mut out, &packet, &request).unwrap();
        let reset = parse_l3(&out[..len]).unwrap();
        assert_eq!((reset.src(&out), reset.dst(&out)), (dst, src));
        assert_eq!(
            (reset.sport.get(), reset.tcp_flags),
            (80, TcpFlags::RST | TcpFlags::ACK)
        );
        assert!(reset.l4_checksum_is_valid(&out));
        assert_eq!(
            tcp_reset(&mut request, &reset, &out),
            None,
            "a reset is not answered"
        );
        assert_eq!(tcp_reset(&mut out[..len - 1], &packet, &request), None);
    }
}

#[test]
fn an_echo_request_becomes_its_reply() {
    for v6 in [false, true] {
        let icmp = IcmpHeader::new(if v6 { 128 } else { 8 }, 0, 0x0007_0001);
        let mut bytes = if v6 {
            let ip = Ipv6Header::new(CLIENT6, SERVER6, IpProtocol::ICMPV6, 3, 8);
            [ip.as_bytes(), icmp.as_bytes()].concat()
        } else {
            let ip = Ipv4Header::new(CLIENT, SERVER, IpProtocol::ICMP, 3, 8);
            [ip.as_bytes(), icmp.as_bytes()].concat()
        };
        let request = parse_l3(&bytes).unwrap();
        assert!(request.write_l4_checksum(&mut bytes));
        let (src, dst) = (request.src(&bytes), request.dst(&bytes));

        assert!(echo_reply_in_place(&request, &mut bytes));
        let reply = parse_l3(&bytes).unwrap();
        assert!(reply.is_echo_reply() && reply.l4_checksum_is_valid(&bytes));
        assert_eq!((reply.src(&bytes), reply.dst(&bytes)), (dst, src));
        assert_eq!((reply.sport.get(), reply.ttl), (7, TTL));
        assert!(!echo_reply_in_place(&reply, &mut bytes));
    }
}
