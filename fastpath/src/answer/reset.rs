//! Resets: to who sent a segment that no connection takes, and to the other end of a connection that we cut.
//!
//! Reads a TCP segment, gives a segment with RST, RFC 9293 section 3.10.7.1.

use std::net::IpAddr;

use wire::ipv4::{self, Ipv4Header};
use wire::ipv6::{self, Ipv6Header};
use wire::packet::Family;
use wire::reply::{may_be_answered, tcp_reset, tcp_segment};
use wire::tcp::{self, TcpFlags, TcpHeader};
use wire::{IpProtocol, Packet, Port, ethernet};

use super::{Answer, Link, ether_type};

/// A reset: far shorter than other answers, and a flood can ask for many.
pub type Reset = Answer<{ ethernet::HEADER_LEN + ethernet::TAG_LEN + ipv6::HEADER_LEN + tcp::HEADER_LEN }>;

/// The reset that answers the segment of `packet`, parsed from `l3`: addresses and ports swapped; sequence number from its
/// acknowledgement, or zero and all of it acknowledged. `None` when it is no TCP, a fragment, itself a reset, or not from one
/// host to one.
pub fn answer(link: &Link, packet: &Packet, l3: &[u8]) -> Option<Reset> {
    if !may_be_answered(packet, l3, false) {
        return None;
    }
    Answer::write(link, ether_type(packet.family), |out| tcp_reset(out, packet, l3))
}

/// The reset that goes on in place of the segment of `packet`, parsed from `l3`, to its receiver, which takes it as its peer's:
/// same sequence number. `from` and `to` are what the receiver knows the connection by, `link` is the link to it. `None` when
/// it is no TCP, a fragment, or the families differ.
pub fn onward(
    link: &Link,
    packet: &Packet,
    l3: &[u8],
    from: (IpAddr, Port),
    to: (IpAddr, Port),
) -> Option<Reset> {
    if packet.proto != IpProtocol::TCP || packet.fragment.is_some() {
        return None;
    }
    let segment = TcpHeader::prefix(l3.get(usize::from(packet.l4_offset)..)?)?;
    let (ack, flags) = if segment.flags.has(TcpFlags::ACK) {
        (segment.ack.get(), TcpFlags::RST | TcpFlags::ACK)
    } else {
        (0, TcpFlags::RST)
    };
    let reset = TcpHeader::new(from.1, to.1, segment.seq.get(), ack, flags);
    Answer::write(link, ether_type(packet.family), |out| {
        tcp_segment(out, from.0, to.0, &reset)
    })
}

/// What the headers of a reset of this family say, which have neither options nor extensions.
#[inline]
pub fn packet(reset: &Reset, family: Family) -> Option<Packet> {
    let l3 = reset.l3();
    let (ttl, tos, dont_fragment, l4_offset) = match family {
        Family::V4 => {
            let ip = Ipv4Header::prefix(l3)?;
            (ip.ttl, ip.tos, ip.dont_fragment(), ipv4::HEADER_LEN)
        }
        Family::V6 => {
            let ip = Ipv6Header::prefix(l3)?;
            (ip.hop_limit, ip.traffic_class(), true, ipv6::HEADER_LEN)
        }
    };
    let segment = TcpHeader::prefix(l3.get(l4_offset..)?)?;
    Some(Packet {
        family,
        proto: IpProtocol::TCP,
        ttl,
        tos,
        l4_offset: l4_offset as u16,
        sport: segment.src,
        dport: segment.dst,
        tcp_flags: segment.flags,
        icmp_type: 0,
        icmp_code: 0,
        dont_fragment,
        source_routed: false,
        total_len: l3.len() as u32,
        fragment: None,
    })
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader as Tcp, TransportSlice};
    use wire::Mac;
    use wire::packet::parse_l3;

    use super::*;

    const LINK: Link = Link {
        own_mac: Mac([0xee; 6]),
        peer_mac: Mac([2; 6]),
        vlan: None,
    };

    fn segment(v6: bool, tcp: Tcp, payload: &[u8]) -> Vec<u8> {
        let step = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0xfc; 16], 9)
        } else {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 9)
        };
        let mut bytes = Vec::new();
        step.tcp_header(tcp).write(&mut bytes, payload).unwrap();
        bytes
    }

    fn with_ack() -> Tcp {
        Tcp {
            ack: true,
            acknowledgment_number: 777,
            ..Tcp::new(40000, 80, 100, 64)
        }
    }

    /// Ports, seq, ack and the flags RST and ACK of an answer whose checksum is right.
    fn read(answer: &Reset) -> (u16, u16, u32, u32, bool, bool) {
        let known = parse_l3(answer.l3()).unwrap();
        assert_eq!(packet(answer, known.family), Some(known));
        let packet = SlicedPacket::from_ethernet(answer.bytes()).unwrap();
        let Some(TransportSlice::Tcp(tcp)) = &packet.transport else {
            panic!("not TCP")
        };
        let checksum = match packet.net.as_ref().unwrap() {
            NetSlice::Ipv4(ip) => tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()),
            NetSlice::Ipv6(ip) => tcp.calc_checksum_ipv6(ip.header().source(), ip.header().destination()),
            NetSlice::Arp(_) => panic!("not IP"),
        };
        assert_eq!(tcp.checksum(), checksum.unwrap());
        assert!(!tcp.syn() && !tcp.fin() && tcp.window_size() == 0);
        let (seq, ack) = (tcp.sequence_number(), tcp.acknowledgment_number());
        (
            tcp.source_port(),
            tcp.destination_port(),
            seq,
            ack,
            tcp.rst(),
            tcp.ack(),
        )
    }

    #[test]
    fn a_segment_with_ack_is_reset_at_what_it_acknowledged() {
        for v6 in [false, true] {
            let l3 = segment(v6, with_ack(), b"hello");
            let answer = answer(&LINK, &parse_l3(&l3).unwrap(), &l3).unwrap();
            assert_eq!(read(&answer), (80, 40000, 777, 0, true, false));
            assert_eq!(
                answer.bytes()[..12],
                [2, 2, 2, 2, 2, 2, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]
            );
        }
    }

    #[test]
    fn a_segment_without_ack_is_acknowledged_whole() {
        for v6 in [false, true] {
            let l3 = segment(
                v6,
                Tcp {
                    syn: true,
                    ..Tcp::new(40000, 80, u32::MAX, 64)
                },
                b"hello",
            );
            let answer = answer(&LINK, &parse_l3(&l3).unwrap(), &l3).unwrap();
            // SYN and five bytes, around the end of the sequence space.
            assert_eq!(read(&answer), (80, 40000, 0, 5, true, true));
        }
    }

    #[test]
    fn a_reset_is_never_answered() {
        let l3 = segment(
            false,
            Tcp {
                rst: true,
                ..Tcp::new(40000, 80, 1, 64)
            },
            b"",
        );
        assert!(answer(&LINK, &parse_l3(&l3).unwrap(), &l3).is_none());
    }

    #[test]
    fn the_other_end_gets_a_reset_in_its_window() {
        for v6 in [false, true] {
            let l3 = segment(v6, with_ack(), b"hello");
            let packet = parse_l3(&l3).unwrap();
            let (from, to) = (
                (packet.src(&l3), Port::new(45001)),
                (packet.dst(&l3), Port::new(8080)),
            );
            let onward = onward(&LINK, &packet, &l3, from, to).unwrap();
            assert_eq!(read(&onward), (45001, 8080, 100, 777, true, true));
        }
    }
}
