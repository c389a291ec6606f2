use super::*;
use crate::packet::parse_l3;

const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
const MAC: Mac = Mac([2, 1, 0, 0, 0, 5]);

/// An ICMPv6 packet with a right checksum.
fn message(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, icmp: &[u8]) -> Vec<u8> {
    let header = Ipv6Header::new(src, dst, IpProtocol::ICMPV6, hop_limit, icmp.len() as u16);
    let mut bytes = [header.as_bytes(), icmp].concat();
    let packet = parse_l3(&bytes).unwrap();
    assert!(packet.write_l4_checksum(&mut bytes));
    bytes
}

fn solicitation(target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0][..], &target.octets(), options].concat()
}

fn read(bytes: &[u8]) -> Result<Option<Message<'_>>, Malformed> {
    parse(&parse_l3(bytes).unwrap(), bytes)
}

#[test]
fn a_solicitation_is_read_with_its_senders_address() {
    let option = [1, 1, 2, 1, 0, 0, 0, 5];
    let bytes = message(POD, solicited_node(GATEWAY), 255, &solicitation(GATEWAY, &option));
    let Message::NeighbourSolicitation {
        target,
        is_probe,
        options,
    } = read(&bytes).unwrap().unwrap()
    else {
        panic!("not a solicitation")
    };
    assert_eq!(
        (target, is_probe, options.source_mac()),
        (GATEWAY, false, Some(MAC))
    );
}

#[test]
fn a_probe_comes_from_no_address_and_asks_the_group() {
    let none = Ipv6Addr::UNSPECIFIED;
    let probe = message(none, solicited_node(POD), 255, &solicitation(POD, &[]));
    assert!(matches!(
        read(&probe),
        Ok(Some(Message::NeighbourSolicitation { is_probe: true, .. }))
    ));

    let to_one = message(none, POD, 255, &solicitation(POD, &[]));
    assert_eq!(read(&to_one).unwrap_err(), Malformed::Address);
    let with_source = message(
        none,
        solicited_node(POD),
        255,
        &solicitation(POD, &[1, 1, 2, 1, 0, 0, 0, 5]),
    );
    assert_eq!(read(&with_source).unwrap_err(), Malformed::Address);
}

#[test]
fn what_a_receiver_must_ignore_is_refused() {
    let good = solicitation(GATEWAY, &[]);
    assert_eq!(
        read(&message(POD, GATEWAY, 64, &good)).unwrap_err(),
        Malformed::HopLimit
    );
    let mut code = good.clone();
    code[1] = 1;
    assert_eq!(
        read(&message(POD, GATEWAY, 255, &code)).unwrap_err(),
        Malformed::Code
    );
    assert_eq!(
        read(&message(POD, GATEWAY, 255, &good[..20])).unwrap_err(),
        Malformed::Truncated
    );
    assert_eq!(
        read(&message(POD, GATEWAY, 255, &solicitation(ALL_NODES, &[]))).unwrap_err(),
        Malformed::Target
    );
    for option in [&[1, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1]] {
        let bytes = message(POD, GATEWAY, 255, &solicitation(GATEWAY, option));
        assert_eq!(read(&bytes).unwrap_err(), Malformed::Option, "{option:?}");
    }
    let mut wrong = message(POD, GATEWAY, 255, &good);
    wrong[42] ^= 1;
    assert_eq!(read(&wrong).unwrap_err(), Malformed::Checksum);
}

#[test]
fn a_router_advertisement_comes_from_a_link_local_address() {
    let icmp = [
        134, 0, 0, 0, 64, 0xc0, 0x07, 0x08, 0, 0, 0, 1, 0, 0, 0, 2, 5, 1, 0, 0, 0, 0, 5, 0xdc,
    ];
    let bytes = message(GATEWAY, ALL_NODES, 255, &icmp);
    let Message::RouterAdvertisement(advertisement, options) = read(&bytes).unwrap().unwrap() else {
        panic!("not an advertisement")
    };
    assert_eq!(
        (advertisement.hop_limit, advertisement.lifetime_s.get()),
        (64, 1800)
    );
    assert_eq!(
        (
            advertisement.reachable_ms.get(),
            advertisement.retransmit_ms.get()
        ),
        (1, 2)
    );
    assert_eq!(options.iter().next().map(|(kind, _)| kind), Some(Options::MTU));
    assert_eq!(
        read(&message(POD, ALL_NODES, 255, &icmp)).unwrap_err(),
        Malformed::Address
    );
}

#[test]
fn an_answer_reads_back_and_an_unnamed_solicitor_gets_it_by_multicast() {
    let mut out = [0; ADVERTISEMENT_LEN];
    let answer = Advertisement::answer(POD, GATEWAY, MAC, true);
    assert_eq!(answer.write(&mut out), Some(72));
    let Message::NeighbourAdvertisement {
        target,
        flags,
        options,
    } = read(&out).unwrap().unwrap()
    else {
        panic!("not an advertisement")
    };
    assert_eq!(
        (target, flags, options.target_mac()),
        (GATEWAY, answer.flags, Some(MAC))
    );
    assert_eq!((answer.dst, answer.flags.solicited), (POD, true));

    let to_all = Advertisement::answer(Ipv6Addr::UNSPECIFIED, GATEWAY, MAC, true);
    assert_eq!((to_all.dst, to_all.flags.solicited), (ALL_NODES, false));
    assert_eq!(to_all.write(&mut out[..71]), None);
}

#[test]
fn other_icmpv6_is_not_neighbour_discovery() {
    let bytes = message(POD, GATEWAY, 64, &[128, 0, 0, 0, 0, 1, 0, 1]);
    assert!(read(&bytes).unwrap().is_none());
}
