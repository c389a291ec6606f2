//! Answers ARP requests on routed links: every target but the asker's own addresses is behind us.
//!
//! Reads an ARP packet, gives the reply. A probe for duplicates (RFC 5227) or an announcement gets silence, or the asker would
//! take its address for a duplicate.

use std::net::IpAddr;

use wire::arp::{self, ArpPacket};
use wire::ethernet::EtherType;
use zerocopy::IntoBytes;

use super::{Answer, Link, Reply};

/// Answers `message`, the bytes behind the link header. `own_addresses` are those of the asker's port, which nobody but the
/// asker owns.
pub fn answer(link: &Link, message: &[u8], own_addresses: &[IpAddr]) -> Reply {
    let Ok(question) = ArpPacket::parse(message) else {
        return Reply::Malformed;
    };
    let target = question.target();
    let is_own = own_addresses.contains(&IpAddr::V4(target));
    if !question.is_request() || question.is_probe() || question.is_announcement() || is_own {
        return Reply::Silence;
    }
    // An address of no single host can't be behind us either.
    if target.is_unspecified() || target.is_multicast() || target.is_broadcast() {
        return Reply::Silence;
    }
    let reply = question.reply(link.own_mac);
    let written = Answer::write(link, EtherType::ARP, |out| {
        reply.write_to_prefix(out).ok().map(|()| arp::PACKET_LEN)
    });
    written.map_or(Reply::Malformed, Reply::Answer)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use wire::Mac;

    use super::*;

    const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
    const POD_MAC: Mac = Mac([2, 1, 10, 244, 1, 5]);
    const LINK: Link = Link {
        own_mac: Mac([0xee; 6]),
        peer_mac: POD_MAC,
        vlan: None,
    };

    fn ask(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Reply {
        let question = ArpPacket::new(operation, (POD_MAC, sender), (Mac::ZERO, target));
        answer(&LINK, question.as_bytes(), &[IpAddr::V4(POD)])
    }

    #[test]
    fn every_other_target_is_answered_with_our_mac() {
        for target in [[169, 254, 1, 1], [10, 244, 1, 6], [8, 8, 8, 8]] {
            let Reply::Answer(reply) = ask(arp::REQUEST, POD, target.into()) else {
                panic!("{target:?} not answered")
            };
            let expected = etherparse::ArpPacket::new(
                etherparse::ArpHardwareId::ETHERNET,
                etherparse::EtherType::IPV4,
                etherparse::ArpOperation::REPLY,
                &[0xee; 6],
                &target,
                &POD_MAC.0,
                &POD.octets(),
            )
            .unwrap();
            let mut frame = vec![2, 1, 10, 244, 1, 5, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee, 8, 6];
            expected.write(&mut frame).unwrap();
            assert_eq!(reply.bytes(), frame);
        }
    }

    #[test]
    fn probes_announcements_replies_and_own_addresses_get_silence() {
        let (none, other) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(10, 244, 1, 6));
        for (operation, sender, target) in [
            (arp::REQUEST, none, POD),
            (arp::REQUEST, none, other),
            (arp::REQUEST, other, other),
            (arp::REQUEST, POD, POD),
            (arp::REQUEST, other, POD),
            (arp::REPLY, POD, other),
            (arp::REQUEST, POD, Ipv4Addr::BROADCAST),
        ] {
            assert!(
                matches!(ask(operation, sender, target), Reply::Silence),
                "{operation} {sender} {target}"
            );
        }
    }

    #[test]
    fn what_is_not_arp_for_ipv4_is_malformed() {
        let other = Ipv4Addr::new(10, 244, 1, 6);
        let question = ArpPacket::new(arp::REQUEST, (POD_MAC, POD), (Mac::ZERO, other));
        assert!(matches!(
            answer(&LINK, &question.as_bytes()[..27], &[]),
            Reply::Malformed
        ));
        assert!(matches!(ask(3, POD, other), Reply::Malformed));
    }
}
