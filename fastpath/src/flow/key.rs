//! Keys: a tuple as the words that the table hashes and compares, straight from the packet's bytes.
#![allow(clippy::many_single_char_names)] // bytes of words, by their place

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::packet::{self, Packet};
use wire::{IpProtocol, Port};

use super::{PortsKind, Tuple, Zone};

/// What differs between the flows of the two versions of IP.
pub trait Family: 'static {
    /// Which version.
    const FAMILY: packet::Family;
    /// The words of a key.
    type Key: Copy + PartialEq + Eq + std::fmt::Debug + std::hash::Hash;

    /// The key of a parsed packet; `l3` are the bytes that were parsed.
    fn key_of(l3: &[u8], packet: &Packet, kind: PortsKind, zone: Zone) -> Self::Key;

    /// The key of a tuple, whose addresses are of this family (others give zeros).
    fn key(tuple: &Tuple) -> Self::Key;

    /// The tuple of a key.
    fn tuple(key: &Self::Key) -> Tuple;
}

/// IPv4: two words.
///
/// | word | bytes |
/// | --- | --- |
/// | 0 | source 4, destination 4, as on the wire |
/// | 1 | source port 2, destination port 2 (as on the wire), protocol 1, kind 1, zone 2 |
#[derive(Clone, Copy, Debug)]
pub struct V4;

/// IPv6: five words.
///
/// | word | bytes |
/// | --- | --- |
/// | 0–1 | source 16, as on the wire |
/// | 2–3 | destination 16 |
/// | 4 | as word 1 of IPv4 |
#[derive(Clone, Copy, Debug)]
pub struct V6;

impl Family for V4 {
    const FAMILY: packet::Family = packet::Family::V4;
    type Key = [u64; 2];

    #[inline]
    fn key_of(l3: &[u8], packet: &Packet, kind: PortsKind, zone: Zone) -> [u64; 2] {
        let (src, dst) = packet.addresses_v4(l3);
        [
            addresses_v4(src, dst),
            ports_word(packet.sport, packet.dport, packet.proto, kind, zone),
        ]
    }

    fn key(tuple: &Tuple) -> [u64; 2] {
        let v4 = |address| match address {
            std::net::IpAddr::V4(v4) => Ipv4Addr::octets(&v4),
            std::net::IpAddr::V6(_) => [0; 4],
        };
        [addresses_v4(v4(tuple.src), v4(tuple.dst)), word_of(tuple)]
    }

    fn tuple(key: &[u64; 2]) -> Tuple {
        let [a, b, c, d, e, f, g, h] = key[0].to_ne_bytes();
        tuple_of(
            Ipv4Addr::new(a, b, c, d).into(),
            Ipv4Addr::new(e, f, g, h).into(),
            key[1],
        )
    }
}

impl Family for V6 {
    const FAMILY: packet::Family = packet::Family::V6;
    type Key = [u64; 5];

    #[inline]
    fn key_of(l3: &[u8], packet: &Packet, kind: PortsKind, zone: Zone) -> [u64; 5] {
        let (src, dst) = packet.addresses_v6(l3);
        let ([s0, s1], [d0, d1]) = (halves(src), halves(dst));
        [
            s0,
            s1,
            d0,
            d1,
            ports_word(packet.sport, packet.dport, packet.proto, kind, zone),
        ]
    }

    fn key(tuple: &Tuple) -> [u64; 5] {
        let v6 = |address| match address {
            std::net::IpAddr::V4(_) => [0; 16],
            std::net::IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
        };
        let ([s0, s1], [d0, d1]) = (halves(v6(tuple.src)), halves(v6(tuple.dst)));
        [s0, s1, d0, d1, word_of(tuple)]
    }

    fn tuple(key: &[u64; 5]) -> Tuple {
        let [s0, s1, d0, d1, ports] = *key;
        tuple_of(
            Ipv6Addr::from(joined(s0, s1)).into(),
            Ipv6Addr::from(joined(d0, d1)).into(),
            ports,
        )
    }
}

/// Source and destination as one word, as they lie in the header.
#[inline]
pub fn addresses_v4(src: [u8; 4], dst: [u8; 4]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (src, dst);
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[inline]
fn ports_word(sport: Port, dport: Port, proto: IpProtocol, kind: PortsKind, zone: Zone) -> u64 {
    let ([a, b], [c, d], [y, z]) = (sport.to_wire(), dport.to_wire(), zone.bits().to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, proto.0, kind as u8, y, z])
}

/// The same as far as plain ports are concerned, of no zone; `ports` as they lie in the header.
#[inline]
pub(crate) fn plain_ports_word(ports: [u8; 4], proto: IpProtocol) -> u64 {
    // In the order of memory, by arithmetic on words: bytes put together one by one cost a dozen instructions.
    u64::from_le(u64::from(u32::from_le_bytes(ports)) | u64::from(proto.0) << 32)
}

/// The part of a key's last word that says where its packets come in; their ports are plain ones.
pub(crate) fn zone_of_key(zone: Zone) -> u64 {
    ports_word(Port::ZERO, Port::ZERO, IpProtocol(0), PortsKind::Plain, zone)
}

/// Where the packets of an IPv4 key come in.
#[inline]
pub(crate) fn zone_of(key: &[u64; 2]) -> Zone {
    let [.., y, z] = key[1].to_ne_bytes();
    Zone::from_bits(u16::from_ne_bytes([y, z]))
}

/// Source and destination of an IPv4 key in turn, as they lie in the header.
#[inline]
pub(crate) fn reversed_addresses(key: &[u64; 2]) -> u64 {
    key[0].rotate_left(32)
}

/// Source and destination port of an IPv4 key in turn, as they lie in the header.
#[inline]
pub(crate) fn reversed_ports(key: &[u64; 2]) -> [u8; 4] {
    let [a, b, c, d, ..] = key[1].to_ne_bytes();
    [c, d, a, b]
}

fn word_of(tuple: &Tuple) -> u64 {
    ports_word(
        Port::new(tuple.sport),
        Port::new(tuple.dport),
        tuple.proto,
        tuple.kind,
        tuple.zone,
    )
}

fn tuple_of(src: std::net::IpAddr, dst: std::net::IpAddr, ports: u64) -> Tuple {
    let [a, b, c, d, proto, kind, y, z] = ports.to_ne_bytes();
    Tuple {
        src,
        dst,
        sport: u16::from_be_bytes([a, b]),
        dport: u16::from_be_bytes([c, d]),
        proto: IpProtocol(proto),
        kind: PortsKind::from_bits(kind),
        zone: Zone::from_bits(u16::from_ne_bytes([y, z])),
    }
}

#[inline]
fn halves(address: [u8; 16]) -> [u64; 2] {
    let both = u128::from_ne_bytes(address).to_ne_bytes();
    let (words, _) = both.as_chunks::<8>();
    [u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1])]
}

fn joined(first: u64, second: u64) -> [u8; 16] {
    let mut address = [0; 16];
    address[..8].copy_from_slice(&first.to_ne_bytes());
    address[8..].copy_from_slice(&second.to_ne_bytes());
    address
}

/// What the ports of `packet` are.
#[inline]
pub fn ports_kind(packet: &Packet) -> PortsKind {
    if packet.is_echo_request() {
        PortsKind::EchoRequest
    } else if packet.is_echo_reply() {
        PortsKind::EchoReply
    } else {
        PortsKind::Plain
    }
}

/// The tuple of a parsed packet that came in at `zone`; `l3` are the bytes that were parsed.
pub fn tuple_of_packet(l3: &[u8], packet: &Packet, zone: Zone) -> Tuple {
    Tuple {
        src: packet.src(l3),
        dst: packet.dst(l3),
        sport: packet.sport.get(),
        dport: packet.dport.get(),
        proto: packet.proto,
        kind: ports_kind(packet),
        zone,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire::packet::parse_l3;

    use super::*;
    use crate::flow::Ingress;
    use crate::snapshot::PeerId;

    proptest! {
        #[test]
        fn a_key_is_its_tuple(
            src: [u8; 4], dst: [u8; 4], src6: [u8; 16], dst6: [u8; 16], sport: u16, dport: u16, proto: u8, kind in 0u8..3, zone: u16,
        ) {
            let ports = Tuple {
                src: src.into(), dst: dst.into(), sport, dport, proto: IpProtocol(proto),
                kind: PortsKind::from_bits(kind), zone: Zone::from_bits(zone),
            };
            prop_assert_eq!(V4::tuple(&V4::key(&ports)), ports);
            let six = Tuple { src: src6.into(), dst: dst6.into(), ..ports };
            prop_assert_eq!(V6::tuple(&V6::key(&six)), six);
        }
    }

    #[test]
    fn the_word_of_plain_ports_is_put_together_like_any() {
        let (ports, proto) = ([1, 2, 3, 4], IpProtocol::UDP);
        let zone = Zone::of(Ingress::Tunnel(PeerId(3)));
        let (sport, dport) = (Port::from_wire([1, 2]), Port::from_wire([3, 4]));
        assert_eq!(
            plain_ports_word(ports, proto) | zone_of_key(zone),
            ports_word(sport, dport, proto, PortsKind::Plain, zone)
        );
    }

    #[test]
    fn the_key_of_a_packet_is_that_of_its_tuple() {
        let zone = Zone::of(Ingress::Tunnel(PeerId(3)));
        let mut four = Vec::new();
        etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(7, 53)
            .write(&mut four, b"x")
            .unwrap();
        let packet = parse_l3(&four).unwrap();
        assert_eq!(
            V4::key_of(&four, &packet, ports_kind(&packet), zone),
            V4::key(&tuple_of_packet(&four, &packet, zone))
        );
        let mut six = Vec::new();
        etherparse::PacketBuilder::ipv6([1; 16], [2; 16], 64)
            .icmpv6_echo_request(9, 1)
            .write(&mut six, b"x")
            .unwrap();
        let packet = parse_l3(&six).unwrap();
        let tuple = tuple_of_packet(&six, &packet, zone);
        assert_eq!(
            (tuple.kind, tuple.sport, tuple.dport),
            (PortsKind::EchoRequest, 9, 9)
        );
        assert_eq!(
            V6::key_of(&six, &packet, ports_kind(&packet), zone),
            V6::key(&tuple)
        );
    }
}
