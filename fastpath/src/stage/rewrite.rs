//! Rewrite: addresses, ports, TTL and their checksums, by deltas (RFC 1624).
//!
//! Reads the new addresses and ports, and whether the transport checksum is full or partial. Sets header fields and checksums
//! in place. Gives no verdict.

use wire::checksum::{Delta, Sum};
use wire::icmp::IcmpHeader;
use wire::ipv4::Ipv4Header;
use wire::ipv6::Ipv6Header;
use wire::packet::{Family, Packet};
use wire::{IpProtocol, Port};

/// Takes one off TTL or hop limit, which is not 0.
#[inline]
pub fn decrement_ttl(packet: &mut Packet, l3: &mut [u8]) {
    packet.ttl -= 1;
    match packet.family {
        Family::V4 => {
            if let Some(header) = Ipv4Header::prefix_mut(l3) {
                header.set_ttl(packet.ttl);
            }
        }
        Family::V6 => {
            if let Some(header) = Ipv6Header::prefix_mut(l3) {
                header.hop_limit = packet.ttl;
            }
        }
    }
}

/// What a rewritten packet still needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum After {
    /// Nothing.
    Done,
    /// SCTP ports changed: its CRC is to be computed over the whole packet.
    SctpChecksum,
}

/// Gives an IPv4 packet new addresses (`addresses`: source and destination as they lie in the header) and ports.
#[inline]
pub fn rewrite_v4(
    packet: &mut Packet,
    l3: &mut [u8],
    partial: bool,
    addresses: u64,
    ports: (Port, Port),
) -> After {
    let new = addresses.to_ne_bytes();
    let Some(place) = l3.get_mut(12..).and_then(<[u8]>::first_chunk_mut::<8>) else {
        debug_assert!(false, "a parsed packet has its addresses");
        return After::Done;
    };
    let delta = Delta::between(Sum::of(place.as_slice()), Sum::of(&new));
    *place = new;
    if let Some(header) = Ipv4Header::prefix_mut(l3) {
        delta.apply(&mut header.checksum);
    }
    finish(packet, l3, partial, delta, ports)
}

/// Gives an IPv6 packet new addresses and ports.
#[inline]
pub fn rewrite_v6(
    packet: &mut Packet,
    l3: &mut [u8],
    partial: bool,
    (src, dst): ([u8; 16], [u8; 16]),
    ports: (Port, Port),
) -> After {
    let Some(header) = Ipv6Header::prefix_mut(l3) else {
        debug_assert!(false, "a parsed packet has its header");
        return After::Done;
    };
    let (src, dst) = (src.into(), dst.into());
    let delta = Delta::of_ipv6(header.src(), src) + Delta::of_ipv6(header.dst(), dst);
    header.set_src(src);
    header.set_dst(dst);
    finish(packet, l3, partial, delta, ports)
}

/// Ports and the transport checksum.
#[inline]
fn finish(
    packet: &mut Packet,
    l3: &mut [u8],
    partial: bool,
    addresses: Delta,
    (sport, dport): (Port, Port),
) -> After {
    if packet.is_later_fragment() {
        return After::Done;
    }
    let is_echo = packet.is_echo_request() || packet.is_echo_reply();
    let ports = if is_echo {
        // The identifier counts once; both tuple ports are it.
        Delta::of_port(packet.sport, sport)
    } else {
        Delta::of_port(packet.sport, sport) + Delta::of_port(packet.dport, dport)
    };
    let ports_change = (packet.sport, packet.dport) != (sport, dport);
    let (proto, l4) = (packet.proto, usize::from(packet.l4_offset));
    let covers_addresses = packet.checksum_covers_addresses();
    if let Some(checksum) = packet.l4_checksum_mut(l3) {
        let addresses = if covers_addresses { addresses } else { Delta::ZERO };
        if partial {
            addresses.apply_partial(checksum);
        } else if proto == IpProtocol::UDP {
            (addresses + ports).apply_udp(checksum);
        } else {
            (addresses + ports).apply(checksum);
        }
    }
    if !ports_change {
        return After::Done;
    }
    if proto.has_ports() {
        if let Some(place) = l3.get_mut(l4..).and_then(<[u8]>::first_chunk_mut::<4>) {
            let ([a, b], [c, d]) = (sport.to_wire(), dport.to_wire());
            *place = [a, b, c, d];
        }
    } else if is_echo && let Some(header) = l3.get_mut(l4..).and_then(IcmpHeader::prefix_mut) {
        header.rest[..2].copy_from_slice(&sport.to_wire());
    } else {
        return After::Done;
    }
    (packet.sport, packet.dport) = (sport, dport);
    if proto == IpProtocol::SCTP {
        After::SctpChecksum
    } else {
        After::Done
    }
}

/// As [`decrement_ttl`], for an IPv4 packet without options.
#[inline]
pub(crate) fn replay_ttl(packet: &mut [u8; 40]) {
    packet[8] = packet[8].wrapping_sub(1);
    // One less in the lower byte, as little-endian words see it, is one more in the complement, where 0xffff is left out.
    let old = u16::from_le_bytes([packet[10], packet[11]]);
    let new = old.wrapping_add(1 + u16::from(old >= 0xfffe));
    packet[10..12].copy_from_slice(&new.to_le_bytes());
}

/// As [`decrement_ttl`] and [`rewrite_v4`] together, for a packet of TCP or UDP without IP options whose tuple is `key`, to
/// addresses and ports as they lie in the header.
#[inline]
pub(crate) fn replay_v4(
    packet: &mut [u8; 40],
    key: [u64; 2],
    is_udp: bool,
    partial: bool,
    addresses: u64,
    ports: [u8; 4],
) {
    let change = Sum::of_change(key[0], addresses);
    packet[8] = packet[8].wrapping_sub(1);
    update(packet, TTL_DOWN + change);
    packet[12..20].copy_from_slice(&addresses.to_ne_bytes());
    let l4 = packet.last_chunk_mut().expect("20 bytes behind the header");
    replay_l4(l4, change, is_udp, partial, ports);
}

/// As [`decrement_ttl`] and [`rewrite_v6`] together, for a packet of TCP or UDP without extension headers whose tuple is `key`, to
/// addresses and ports as they lie in the header.
#[inline]
pub(crate) fn replay_v6(
    packet: &mut [u8; 60],
    key: &[u64; 5],
    is_udp: bool,
    partial: bool,
    addresses: [u64; 4],
    ports: [u8; 4],
) {
    let [a, b, c, d, _] = *key;
    let change = Sum::of_changes([a, b, c, d], addresses);
    packet[7] = packet[7].wrapping_sub(1);
    let (places, _) = packet[8..40].as_chunks_mut::<8>();
    for (place, word) in places.iter_mut().zip(addresses) {
        *place = word.to_ne_bytes();
    }
    let l4 = packet.last_chunk_mut().expect("20 bytes behind the header");
    replay_l4(l4, change, is_udp, partial, ports);
}

/// Ports and the transport checksum, when the addresses' sum has changed by this.
#[inline]
fn replay_l4(l4: &mut [u8; 20], change: Sum, is_udp: bool, partial: bool, ports: [u8; 4]) {
    let old = u32::from_ne_bytes([l4[0], l4[1], l4[2], l4[3]]);
    l4[0..4].copy_from_slice(&ports);
    let change_of_all = change + Sum::of_change(old.into(), u32::from_ne_bytes(ports).into());
    if is_udp {
        let checksum = [l4[6], l4[7]];
        let checksum = if partial {
            change.updated_partial(checksum)
        } else {
            change_of_all.updated_udp(checksum)
        };
        l4[6..8].copy_from_slice(&checksum);
    } else {
        let checksum = [l4[16], l4[17]];
        let checksum = if partial {
            change.updated_partial(checksum)
        } else {
            change_of_all.updated(checksum)
        };
        l4[16..18].copy_from_slice(&checksum);
    }
}

/// Updates the IPv4 header's checksum.
#[inline]
fn update(packet: &mut [u8; 40], change: Sum) {
    let checksum = change.updated([packet[10], packet[11]]);
    packet[10..12].copy_from_slice(&checksum);
}

/// One less in the upper byte of the word of TTL and protocol.
const TTL_DOWN: Sum = Sum::of_change(u16::from_ne_bytes([1, 0]) as u64, 0);

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use wire::packet::parse_l3;

    use super::*;

    fn v4(kind: u8, src: [u8; 4], dst: [u8; 4], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let (builder, mut out) = (PacketBuilder::ipv4(src, dst, 64), Vec::new());
        match kind {
            0 => builder
                .tcp(ports.0, ports.1, 1, 2)
                .write(&mut out, payload)
                .unwrap(),
            1 => builder.udp(ports.0, ports.1).write(&mut out, payload).unwrap(),
            _ => builder
                .icmpv4_echo_request(ports.0, 1)
                .write(&mut out, payload)
                .unwrap(),
        }
        out
    }

    fn v6(kind: u8, src: [u8; 16], dst: [u8; 16], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
        let (builder, mut out) = (PacketBuilder::ipv6(src, dst, 64), Vec::new());
        match kind {
            0 => builder
                .tcp(ports.0, ports.1, 1, 2)
                .write(&mut out, payload)
                .unwrap(),
            1 => builder.udp(ports.0, ports.1).write(&mut out, payload).unwrap(),
            _ => builder
                .icmpv6_echo_request(ports.0, 1)
                .write(&mut out, payload)
                .unwrap(),
        }
        out
    }

    /// A packet is rewritten to what it would be had it been built so.
    fn check(
        mut packet: Vec<u8>,
        expected: &[u8],
        ports: (u16, u16),
        rewrite: impl Fn(&mut Packet, &mut [u8], bool),
    ) {
        for partial in [false, true] {
            let mut parsed = parse_l3(&packet).unwrap();
            let is_tcp_udp = parsed.proto.has_ports();
            if partial && !is_tcp_udp {
                continue;
            }
            if partial {
                let sum = parsed.pseudo_sum(&packet).folded();
                *parsed.l4_checksum_mut(&mut packet).unwrap() = sum;
            }
            let mut bytes = packet.clone();
            rewrite(&mut parsed, &mut bytes, partial);
            if partial {
                assert!(
                    parsed.has_partial_checksum(&bytes),
                    "still the pseudo-header's sum"
                );
                assert!(parsed.write_l4_checksum(&mut bytes));
            }
            assert_eq!((parsed.sport.get(), parsed.dport.get()), ports);
            assert_eq!(bytes, expected);
            assert_eq!(parse_l3(&bytes), Ok(parsed));
        }
    }

    proptest! {
        #[test]
        fn a_rewritten_packet_is_as_if_it_was_built_so(
            kind in 0u8..3, a: [u8; 4], b: [u8; 4], c: [u8; 4], d: [u8; 4], six: [[u8; 16]; 4],
            old: (u16, u16), new: (u16, u16), payload in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let new = if kind == 2 { (new.0, new.0) } else { new };
            let ports = (Port::new(new.0), Port::new(new.1));
            check(v4(kind, a, b, old, &payload), &v4(kind, c, d, new, &payload), new, |packet, l3, partial| {
                assert_eq!(rewrite_v4(packet, l3, partial, crate::flow::key::addresses_v4(c, d), ports), After::Done);
            });
            let [e, f, g, h] = six;
            check(v6(kind, e, f, old, &payload), &v6(kind, g, h, new, &payload), new, |packet, l3, partial| {
                assert_eq!(rewrite_v6(packet, l3, partial, (g, h), ports), After::Done);
            });
        }
    }

    #[test]
    fn a_replayed_ttl_goes_down_as_any_other_whatever_the_checksum() {
        for checksum in 0..=u16::MAX {
            let mut packet = [0; 40];
            (packet[0], packet[8], packet[9]) = (0x45, 2 + checksum as u8 % 254, 6);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            let mut general = packet;
            let header = Ipv4Header::prefix_mut(&mut general).unwrap();
            header.set_ttl(header.ttl - 1);
            replay_ttl(&mut packet);
            assert_eq!(packet, general, "checksum {checksum:#x}");
        }
    }

    #[test]
    fn ttl_goes_down_by_one_and_the_header_stays_right() {
        let mut bytes = v4(0, [10, 0, 0, 1], [10, 0, 0, 2], (1, 2), b"");
        let mut packet = parse_l3(&bytes).unwrap();
        decrement_ttl(&mut packet, &mut bytes);
        assert_eq!(parse_l3(&bytes).map(|p| p.ttl), Ok(63));
    }
}
