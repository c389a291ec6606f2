use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv4Slice, Icmpv6Slice, NetSlice, PacketBuilder, SlicedPacket};
use wire::Mac;
use wire::packet::parse_l3;

use super::*;

const LINK: Link = Link {
    own_mac: Mac([0xee; 6]),
    peer_mac: Mac([2; 6]),
    vlan: None,
};
const NODE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1));
const NODE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1));

fn datagram(dst: IpAddr, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    let step = match dst {
        IpAddr::V4(dst) => PacketBuilder::ipv4([10, 244, 1, 5], dst.octets(), 1),
        IpAddr::V6(dst) => PacketBuilder::ipv6([0xfd; 16], dst.octets(), 1),
    };
    let mut bytes = Vec::new();
    step.udp(4000, 53).write(&mut bytes, &payload).unwrap();
    bytes
}

fn about(own: IpAddr, l3: &[u8], problem: Problem) -> Result<Answer, Suppressed> {
    IcmpErrors::new(1, 1).answer(0, &LINK, Some(own), &parse_l3(l3).unwrap(), l3, problem)
}

/// Type, code, second word and quote of an answer whose headers and checksums are right.
fn read(answer: &Answer) -> (u8, u8, u32, Vec<u8>) {
    let packet = SlicedPacket::from_ethernet(answer.bytes()).unwrap();
    let (kind, code, message) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(
                header.header_checksum(),
                header.to_header().calc_header_checksum()
            );
            assert_eq!(
                (header.source_addr(), header.ttl()),
                (Ipv4Addr::new(192, 168, 0, 1), 64)
            );
            assert_eq!(header.destination_addr(), Ipv4Addr::new(10, 244, 1, 5));
            let icmp = Icmpv4Slice::from_slice(ip.payload().payload).unwrap();
            assert_eq!(icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()));
            (icmp.type_u8(), icmp.code_u8(), ip.payload().payload)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(IpAddr::V6(header.source_addr()), NODE6);
            assert_eq!((header.destination(), header.hop_limit()), ([0xfd; 16], 64));
            let icmp = Icmpv6Slice::from_slice(ip.payload().payload).unwrap();
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            (icmp.type_u8(), icmp.code_u8(), ip.payload().payload)
        }
        NetSlice::Arp(_) => panic!("no IP"),
    };
    let word = u32::from_be_bytes(message[4..8].try_into().unwrap());
    (kind, code, word, message[8..].to_vec())
}

#[test]
fn every_problem_has_the_type_and_code_of_its_rfc() {
    let (v4, v6) = ([8, 8, 8, 8].into(), [0xfc; 16].into());
    for (problem, expected4, expected6) in [
        (Problem::TimeExceeded, (11, 0, 0), (3, 0, 0)),
        (Problem::TooBig { mtu: 1450 }, (3, 4, 1450), (2, 0, 1450)),
        (Problem::NetworkUnreachable, (3, 0, 0), (1, 0, 0)),
        (Problem::HostUnreachable, (3, 1, 0), (1, 3, 0)),
        (Problem::PortUnreachable, (3, 3, 0), (1, 4, 0)),
        (Problem::Prohibited, (3, 13, 0), (1, 1, 0)),
    ] {
        for (own, dst, expected) in [(NODE, v4, expected4), (NODE6, v6, expected6)] {
            let l3 = datagram(dst, 20);
            let (kind, code, word, quote) = read(&about(own, &l3, problem).unwrap());
            assert_eq!((kind, code, word), expected, "{problem:?}");
            assert_eq!(quote, l3, "quoted as it was sent");
        }
    }
}

#[test]
fn quotes_stop_at_576_and_1280_bytes_and_leave_padding_out() {
    for (own, dst, most) in [(NODE, [8, 8, 8, 8].into(), 576), (NODE6, [0xfc; 16].into(), 1280)] {
        let l3 = datagram(dst, 3000);
        let answer = about(own, &l3, Problem::TimeExceeded).unwrap();
        assert_eq!(answer.l3().len(), most);
        let quote = read(&answer).3;
        assert_eq!(quote, l3[..quote.len()]);

        let short = datagram(dst, 2);
        let padded = [&short[..], &[0xaa; 14]].concat();
        assert_eq!(
            read(&about(own, &padded, Problem::TimeExceeded).unwrap()).3,
            short
        );
    }
}

#[test]
fn errors_later_fragments_and_groups_are_not_answered() {
    let refused = |own, l3: &[u8]| {
        assert_eq!(
            about(own, l3, Problem::TimeExceeded).unwrap_err(),
            Suppressed::NotAnswerable
        );
    };
    for dst in [[224, 0, 0, 5], [255; 4]] {
        refused(NODE, &datagram(dst.into(), 5));
    }
    let mut from_nowhere = datagram([8, 8, 8, 8].into(), 5);
    from_nowhere[12..16].fill(0);
    wire::ipv4::write_checksum(&mut from_nowhere[..20]);
    refused(NODE, &from_nowhere);

    let mut later = datagram([8, 8, 8, 8].into(), 5);
    later[7] = 1;
    wire::ipv4::write_checksum(&mut later[..20]);
    refused(NODE, &later);

    for (own, dst) in [(NODE, [8, 8, 8, 8].into()), (NODE6, [0xfc; 16].into())] {
        let error = about(own, &datagram(dst, 5), Problem::TimeExceeded).unwrap();
        refused(own, error.l3());
    }

    let to_group = datagram(IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 1)), 5);
    refused(NODE6, &to_group);
    assert!(
        about(NODE6, &to_group, Problem::TooBig { mtu: 1280 }).is_ok(),
        "RFC 4443 section 3.2 excepts it"
    );
}

#[test]
fn an_echo_request_may_be_answered_and_an_echo_reply_too() {
    for kind in [8, 0] {
        let mut l3 = Vec::new();
        let step = PacketBuilder::ipv4([10, 244, 1, 5], [8, 8, 8, 8], 1);
        let step = if kind == 8 {
            step.icmpv4_echo_request(1, 1)
        } else {
            step.icmpv4_echo_reply(1, 1)
        };
        step.write(&mut l3, b"ping").unwrap();
        assert_eq!(read(&about(NODE, &l3, Problem::TimeExceeded).unwrap()).3, l3);
    }
}

#[test]
fn the_rate_is_limited_and_every_outcome_counted() {
    let mut errors = IcmpErrors::new(10, 2);
    let l3 = datagram([8, 8, 8, 8].into(), 5);
    let packet = parse_l3(&l3).unwrap();
    let mut ask = |now_ns, own| errors.answer(now_ns, &LINK, own, &packet, &l3, Problem::TimeExceeded);
    assert!(ask(0, Some(NODE)).is_ok() && ask(0, Some(NODE)).is_ok());
    assert_eq!(ask(0, Some(NODE)).unwrap_err(), Suppressed::RateLimited);
    assert_eq!(ask(0, None).unwrap_err(), Suppressed::NoAddress);
    assert_eq!(ask(0, Some(NODE6)).unwrap_err(), Suppressed::NoAddress);
    assert!(ask(100_000_000, Some(NODE)).is_ok(), "a tenth of a second later");
    let to_group = datagram([224, 0, 0, 1].into(), 5);
    let packet = parse_l3(&to_group).unwrap();
    let problem = Problem::TimeExceeded;
    assert!(
        errors
            .answer(0, &LINK, Some(NODE), &packet, &to_group, problem)
            .is_err()
    );
    assert_eq!(
        errors.counters(),
        IcmpErrorCounters {
            answered: 3,
            not_answerable: 1,
            no_address: 2,
            rate_limited: 1
        }
    );
}
