//! Answers neighbour solicitations on routed links: every target but the asker's own addresses is behind us.
//!
//! Reads an ICMPv6 packet and checks all that RFC 4861 section 7.1.1 asks for, gives the advertisement. A probe for duplicates
//! (from `::`) gets silence, a router solicitation too: pods have static routes, and we send no advertisements.

use std::net::{IpAddr, Ipv6Addr};

use wire::Packet;
use wire::ethernet::EtherType;
use wire::nd::{Advertisement, Message, parse};

use super::{Answer, Link, Reply};

/// Answers the message of `packet`, parsed from `l3`. `own_addresses` are those of the asker's port, which nobody but the
/// asker owns; the link-local address of its MAC is one by itself.
pub fn answer(link: &Link, packet: &Packet, l3: &[u8], own_addresses: &[IpAddr]) -> Reply {
    let message = match parse(packet, l3) {
        Ok(Some(message)) => message,
        Ok(None) => return Reply::Silence,
        Err(_) => return Reply::Malformed,
    };
    let Message::NeighbourSolicitation { target, is_probe, .. } = message else {
        return Reply::Silence;
    };
    let is_own = target == link.peer_mac.link_local() || own_addresses.contains(&IpAddr::V6(target));
    if is_probe || is_own || target.is_unspecified() {
        return Reply::Silence;
    }
    let asker = Ipv6Addr::from(packet.addresses_v6(l3).0);
    let advertisement = Advertisement {
        // Of what we answer for only the link-local address is our own, the rest lies behind us.
        src: link.own_mac.link_local(),
        ..Advertisement::answer(asker, target, link.own_mac, true)
    };
    let written = Answer::write(link, EtherType::IPV6, |out| advertisement.write(out));
    written.map_or(Reply::Malformed, Reply::Answer)
}

#[cfg(test)]
mod tests {
    use etherparse::{Icmpv6Slice, Icmpv6Type, NetSlice, PacketBuilder, SlicedPacket};
    use wire::Mac;
    use wire::nd::solicited_node;
    use wire::packet::parse_l3;

    use super::*;

    const POD: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 5);
    const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
    const LINK: Link = Link {
        own_mac: Mac([0xee; 6]),
        peer_mac: Mac([2, 1, 10, 244, 1, 5]),
        vlan: None,
    };

    /// An ICMPv6 message of `kind` with `body`, made by etherparse.
    fn message(src: Ipv6Addr, dst: Ipv6Addr, hop_limit: u8, kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv6(src.octets(), dst.octets(), hop_limit)
            .icmpv6(Icmpv6Type::Unknown {
                type_u8: kind,
                code_u8: 0,
                bytes5to8: [0; 4],
            })
            .write(&mut bytes, body)
            .unwrap();
        bytes
    }

    fn solicit(src: Ipv6Addr, target: Ipv6Addr) -> Reply {
        let mut body = target.octets().to_vec();
        if !src.is_unspecified() {
            body.extend_from_slice(&[1, 1, 2, 1, 10, 244, 1, 5]);
        }
        ask(&message(src, solicited_node(target), 255, 135, &body))
    }

    fn ask(l3: &[u8]) -> Reply {
        answer(&LINK, &parse_l3(l3).unwrap(), l3, &[IpAddr::V6(POD)])
    }

    #[test]
    fn every_other_target_is_answered_with_our_mac() {
        for target in [GATEWAY, Ipv6Addr::new(0xfd00, 0, 0, 2, 0, 0, 0, 9)] {
            let Reply::Answer(reply) = solicit(POD, target) else {
                panic!("{target} not answered")
            };
            assert_eq!(reply.bytes()[..6], LINK.peer_mac.0);
            let packet = SlicedPacket::from_ethernet(reply.bytes()).unwrap();
            let Some(NetSlice::Ipv6(ip)) = &packet.net else {
                panic!("not IPv6")
            };
            let header = ip.header();
            assert_eq!((header.source_addr(), header.destination_addr()), (GATEWAY, POD));
            assert_eq!(header.hop_limit(), 255);
            let icmp = Icmpv6Slice::from_slice(ip.payload().payload).unwrap();
            assert!(icmp.is_checksum_valid(header.source(), header.destination()));
            assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
            let mut expected = vec![0xe0, 0, 0, 0];
            expected.extend_from_slice(&target.octets());
            expected.extend_from_slice(&[2, 1, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]);
            assert_eq!(icmp.slice()[4..], expected, "router, solicited, override");
        }
    }

    #[test]
    fn probes_and_own_addresses_get_silence() {
        let other = Ipv6Addr::new(0xfd00, 0, 0, 1, 0, 0, 0, 6);
        for target in [POD, GATEWAY, other] {
            assert!(
                matches!(solicit(Ipv6Addr::UNSPECIFIED, target), Reply::Silence),
                "{target}"
            );
        }
        for target in [POD, LINK.peer_mac.link_local()] {
            assert!(matches!(solicit(POD, target), Reply::Silence), "{target}");
        }
    }

    #[test]
    fn a_router_solicitation_gets_silence() {
        let all_routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
        assert!(matches!(
            ask(&message(POD, all_routers, 255, 133, &[])),
            Reply::Silence
        ));
    }

    #[test]
    fn a_solicitation_that_a_receiver_must_ignore_is_malformed() {
        let body = GATEWAY.octets();
        assert!(matches!(
            ask(&message(POD, GATEWAY, 254, 135, &body)),
            Reply::Malformed
        ));
        let mut wrong = message(POD, GATEWAY, 255, 135, &body);
        wrong[43] ^= 1;
        assert!(matches!(ask(&wrong), Reply::Malformed));
        let zero_option = [&body[..], &[1, 0, 0, 0, 0, 0, 0, 0]].concat();
        assert!(matches!(
            ask(&message(POD, GATEWAY, 255, 135, &zero_option)),
            Reply::Malformed
        ));
    }
}
