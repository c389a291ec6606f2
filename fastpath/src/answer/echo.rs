//! Answers echo requests to the gateway addresses, in place.
//!
//! Reads and sets the headers alone, so a request of any length (a chain of buffers, too) becomes its reply without a copy. The
//! checksum is updated, not computed: a request that came broken leaves as a broken reply, which the asker will tell.

use wire::Packet;
use wire::ethernet::EtherHeader;
use wire::reply::echo_reply_in_place;

use super::Link;
use crate::io::{Frame, Memory};

/// Turns `frame`, whose IP header at `l3_offset` was parsed as `packet`, into the echo reply to its sender, ready for the link
/// that it came by. False, and the frame unchanged, when it is no whole echo request from one host to one.
#[must_use]
pub fn answer_in_place(
    memory: &mut Memory,
    frame: &mut Frame,
    l3_offset: usize,
    packet: &Packet,
    link: &Link,
) -> bool {
    if packet.fragment.is_some() {
        return false;
    }
    let head = memory.bytes_mut(frame);
    let Some(l3) = head.get_mut(l3_offset..) else {
        return false;
    };
    let (src, dst) = (packet.src(l3), packet.dst(l3));
    if src.is_unspecified() || src.is_multicast() || dst.is_multicast() || !echo_reply_in_place(packet, l3) {
        return false;
    }
    if let Some(ethernet) = EtherHeader::prefix_mut(head) {
        (ethernet.dst, ethernet.src) = (link.peer_mac, link.own_mac);
    }
    true
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use wire::Mac;
    use wire::packet::parse_l3_head;

    use super::*;

    const LINK: Link = Link {
        own_mac: Mac([0xee; 6]),
        peer_mac: Mac([2; 6]),
        vlan: None,
    };

    /// The request from 9 to 1, or its reply.
    fn echo(v6: bool, is_reply: bool, payload: &[u8]) -> Vec<u8> {
        let (from, to) = if is_reply { (1, 9) } else { (9, 1) };
        let (src, dst) = if is_reply {
            (LINK.own_mac, LINK.peer_mac)
        } else {
            (LINK.peer_mac, LINK.own_mac)
        };
        let ethernet = PacketBuilder::ethernet2(src.0, dst.0);
        let mut bytes = Vec::new();
        let written = if v6 {
            let ip = ethernet.ipv6([from; 16], [to; 16], 64);
            let icmp = if is_reply {
                ip.icmpv6_echo_reply(7, 3)
            } else {
                ip.icmpv6_echo_request(7, 3)
            };
            icmp.write(&mut bytes, payload)
        } else {
            let ip = ethernet.ipv4([from; 4], [to; 4], 64);
            let icmp = if is_reply {
                ip.icmpv4_echo_reply(7, 3)
            } else {
                ip.icmpv4_echo_request(7, 3)
            };
            icmp.write(&mut bytes, payload)
        };
        written.unwrap();
        bytes
    }

    #[test]
    fn a_request_over_several_buffers_becomes_its_reply() {
        let payload: Vec<u8> = (0u32..3000).map(|i| i as u8).collect();
        for v6 in [false, true] {
            let mut memory = Memory::heap(16, 1024);
            let mut frame = memory.allocate_copy(&echo(v6, false, &payload)).unwrap();
            let packet = parse_l3_head(&memory.bytes(&frame)[14..], frame.len() - 14).unwrap();
            assert!(answer_in_place(&mut memory, &mut frame, 14, &packet, &LINK));
            assert_eq!(memory.to_vec(&frame), echo(v6, true, &payload), "v6: {v6}");
        }
    }

    #[test]
    fn what_is_no_echo_request_stays_as_it_is() {
        for v6 in [false, true] {
            let bytes = echo(v6, true, b"x");
            let mut memory = Memory::heap(1, 2048);
            let mut frame = memory.allocate_copy(&bytes).unwrap();
            let packet = parse_l3_head(&bytes[14..], bytes.len() - 14).unwrap();
            assert!(!answer_in_place(&mut memory, &mut frame, 14, &packet, &LINK));
            assert_eq!(memory.bytes(&frame), bytes);
        }
    }
}
