//! What `wire` reads from a packet is what etherparse, written by others, reads from it.
#![allow(clippy::unwrap_used)] // helpers of tests, which the lint's exception for tests does not reach

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv4Options, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use proptest::prelude::*;
use wire::packet::{Family, Malformed, parse_l3};
use wire::{IpProtocol, Packet, ipv4};

/// A packet of any family and protocol with all its lengths and checksums right.
#[derive(Clone, Debug)]
struct Spec {
    v6: bool,
    src: [u8; 16],
    dst: [u8; 16],
    ttl: u8,
    kind: Kind,
    /// IPv4 options as no-operations, or the number of IPv6 extension headers.
    extras: u8,
    payload: Vec<u8>,
}

#[derive(Clone, Debug)]
enum Kind {
    Tcp {
        ports: (u16, u16),
        window: u16,
        mss: Option<u16>,
    },
    Udp {
        ports: (u16, u16),
    },
    Echo {
        id: u16,
        reply: bool,
    },
    Fragment {
        id: u16,
        offset: u16,
        more: bool,
    },
}

fn spec() -> impl Strategy<Value = Spec> {
    let kind = prop_oneof![
        (any::<(u16, u16)>(), any::<u16>(), any::<Option<u16>>())
            .prop_map(|(ports, window, mss)| Kind::Tcp { ports, window, mss }),
        any::<(u16, u16)>().prop_map(|ports| Kind::Udp { ports }),
        (any::<u16>(), any::<bool>()).prop_map(|(id, reply)| Kind::Echo { id, reply }),
        (any::<u16>(), 3u16..1000, any::<bool>()).prop_map(|(id, offset, more)| Kind::Fragment {
            id,
            offset,
            more
        }),
    ];
    let payload = proptest::collection::vec(any::<u8>(), 1..8).prop_map(|bytes| bytes.repeat(8));
    (
        any::<bool>(),
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        any::<u8>(),
        kind,
        0u8..4,
        payload,
    )
        .prop_map(|(v6, src, dst, ttl, kind, extras, payload)| Spec {
            v6,
            src,
            dst,
            ttl,
            kind,
            extras,
            payload,
        })
}

fn headers(spec: &Spec) -> IpHeaders {
    let fragment = if let Kind::Fragment { id, offset, more } = spec.kind {
        Some((id, IpFragOffset::try_new(offset).unwrap(), more))
    } else {
        None
    };
    if spec.v6 {
        let mut extensions = Ipv6Extensions::default();
        let padding = || Some(Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0]).unwrap());
        if spec.extras & 1 != 0 {
            extensions.hop_by_hop_options = padding();
        }
        if spec.extras & 2 != 0 {
            extensions.destination_options = padding();
        }
        extensions.fragment = fragment
            .map(|(id, offset, more)| Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, u32::from(id)));
        let header = Ipv6Header {
            source: spec.src,
            destination: spec.dst,
            hop_limit: spec.ttl,
            ..Default::default()
        };
        IpHeaders::Ipv6(header, extensions)
    } else {
        let first4 = |address: &[u8; 16]| *address.first_chunk::<4>().unwrap();
        let mut header =
            Ipv4Header::new(0, spec.ttl, IpNumber::UDP, first4(&spec.src), first4(&spec.dst)).unwrap();
        header.options = Ipv4Options::try_from(&vec![1; usize::from(spec.extras) * 4][..]).unwrap();
        if let Some((id, offset, more)) = fragment {
            (
                header.identification,
                header.fragment_offset,
                header.more_fragments,
            ) = (id, offset, more);
            header.dont_fragment = false;
        }
        IpHeaders::Ipv4(header, Ipv4Extensions::default())
    }
}

fn build(spec: &Spec) -> Vec<u8> {
    let mut bytes = Vec::new();
    let step = PacketBuilder::ip(headers(spec));
    match spec.kind {
        Kind::Tcp { ports, window, mss } => {
            let mut step = step.tcp(ports.0, ports.1, 1, window).syn().ece();
            if let Some(mss) = mss {
                step = step
                    .options(&[etherparse::TcpOptionElement::MaximumSegmentSize(mss)])
                    .unwrap();
            }
            step.write(&mut bytes, &spec.payload)
        }
        Kind::Udp { ports } => step.udp(ports.0, ports.1).write(&mut bytes, &spec.payload),
        Kind::Echo { id, reply } => match (spec.v6, reply) {
            (false, false) => step.icmpv4_echo_request(id, 1).write(&mut bytes, &spec.payload),
            (false, true) => step.icmpv4_echo_reply(id, 1).write(&mut bytes, &spec.payload),
            (true, false) => step.icmpv6_echo_request(id, 1).write(&mut bytes, &spec.payload),
            (true, true) => step.icmpv6_echo_reply(id, 1).write(&mut bytes, &spec.payload),
        },
        // As the payload of a fragment, a UDP packet is as good as any.
        Kind::Fragment { .. } => step.udp(1, 2).write(&mut bytes, &spec.payload),
    }
    .unwrap();
    bytes
}

/// Protocols that etherparse takes for headers to walk over and we for payload, or that it checks further.
fn is_read_differently(packet: &Packet) -> bool {
    matches!(packet.proto.0, 2 | 51 | 135 | 139 | 140)
        // Extension headers in an IPv4 packet are payload to both, behind a later fragment to us alone.
        || packet.is_later_fragment()
        || packet.is_icmp() && !(packet.is_echo_request() || packet.is_echo_reply())
}

fn assert_same(packet: &Packet, bytes: &[u8], theirs: &SlicedPacket<'_>) {
    let payload = match theirs.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            assert_eq!(packet.family, Family::V4);
            assert_eq!(
                packet.addresses_v4(bytes),
                (header.source(), header.destination())
            );
            assert_eq!(
                (packet.ttl, packet.total_len),
                (header.ttl(), u32::from(header.total_len()))
            );
            assert_eq!(packet.tos, header.dcp().value() << 2 | header.ecn().value());
            assert_eq!(packet.dont_fragment, header.dont_fragment());
            let offset = header.fragments_offset().byte_offset();
            assert_eq!(packet.fragment.is_some(), ip.is_payload_fragmented());
            if let Some(fragment) = packet.fragment {
                assert_eq!(fragment.id, u32::from(header.identification()));
                assert_eq!(
                    (fragment.offset, fragment.more),
                    (offset, header.more_fragments())
                );
            }
            ip.payload()
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            assert_eq!(packet.family, Family::V6);
            assert_eq!(
                packet.addresses_v6(bytes),
                (header.source(), header.destination())
            );
            assert_eq!(packet.total_len, 40 + u32::from(header.payload_length()));
            assert_eq!(
                (packet.ttl, packet.tos),
                (header.hop_limit(), header.traffic_class())
            );
            assert_eq!(packet.fragment.is_some(), ip.is_payload_fragmented());
            ip.payload()
        }
        NetSlice::Arp(_) => panic!("ARP in IP"),
    };
    assert_eq!(packet.proto, IpProtocol(payload.ip_number.0));
    assert_eq!(
        usize::from(packet.l4_offset),
        payload.payload.as_ptr() as usize - bytes.as_ptr() as usize
    );
    assert_eq!(packet.l4_len() as usize, payload.payload.len());
    match &theirs.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(
                (packet.sport.get(), packet.dport.get()),
                (tcp.source_port(), tcp.destination_port())
            );
            assert_eq!(packet.tcp_flags.0, tcp.slice()[13]);
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(
                (packet.sport.get(), packet.dport.get()),
                (udp.source_port(), udp.destination_port())
            );
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            assert_eq!(
                (packet.icmp_type, packet.icmp_code),
                (icmp.type_u8(), icmp.code_u8())
            );
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            assert_eq!(
                (packet.icmp_type, packet.icmp_code),
                (icmp.type_u8(), icmp.code_u8())
            );
        }
        _ => {}
    }
}

/// We refuse what forwarding must not trust, and etherparse, which only dissects, lets pass.
fn is_stricter(reason: Malformed, theirs: &SlicedPacket<'_>) -> bool {
    let fragmented = match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => ip.is_payload_fragmented(),
        Some(NetSlice::Ipv6(ip)) => ip.is_payload_fragmented(),
        _ => false,
    };
    match reason {
        Malformed::HeaderChecksum
        | Malformed::Ipv4Option
        | Malformed::FragmentLength
        | Malformed::FragmentOverflow
        | Malformed::FragmentOverlapsHeader
        | Malformed::ExtensionOrder
        | Malformed::ExtensionCount
        | Malformed::SctpHeader => true,
        // etherparse reads no transport header of a fragment.
        Malformed::TcpHeader | Malformed::UdpHeader | Malformed::IcmpHeader => fragmented,
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() })]

    /// Everything that was put in comes out, and the checksums that others computed are right to us.
    #[test]
    fn a_built_packet_reads_back(spec in spec()) {
        let bytes = build(&spec);
        let packet = parse_l3(&bytes).unwrap();
        assert_same(&packet, &bytes, &SlicedPacket::from_ip(&bytes).unwrap());
        prop_assert_eq!(packet.ttl, spec.ttl);
        let l4 = &bytes[usize::from(packet.l4_offset)..];
        match spec.kind {
            Kind::Tcp { ports, mss, .. } => {
                prop_assert_eq!((packet.sport.get(), packet.dport.get()), ports);
                prop_assert_eq!(wire::tcp::mss(l4), mss);
                prop_assert_eq!(packet.tcp_flags.0, 0x42);
            }
            Kind::Udp { ports } => prop_assert_eq!((packet.sport.get(), packet.dport.get()), ports),
            Kind::Echo { id, reply } => {
                prop_assert_eq!((packet.sport.get(), packet.dport.get()), (id, id));
                prop_assert_eq!((packet.is_echo_reply(), packet.is_echo_request()), (reply, !reply));
            }
            Kind::Fragment { id, offset, more } => {
                let fragment = packet.fragment.unwrap();
                prop_assert_eq!((fragment.id, fragment.offset, fragment.more), (id.into(), offset * 8, more));
                prop_assert!(packet.is_later_fragment());
                prop_assert_eq!((packet.sport.get(), packet.dport.get()), (0, 0));
            }
        }
        prop_assert!(packet.l4_checksum_is_valid(&bytes));
        let mut again = bytes.clone();
        prop_assert_eq!(packet.write_l4_checksum(&mut again), packet.fragment.is_none());
        prop_assert_eq!(again, bytes);
    }

    /// Bytes that lie are judged alike, but for what we are strict about on purpose.
    #[test]
    fn a_damaged_packet_is_judged_alike(
        spec in spec(),
        damage in proptest::collection::vec((0usize..100, any::<u8>()), 0..4),
        cut in 0usize..100,
        repair: bool,
    ) {
        let mut bytes = build(&spec);
        for (at, value) in damage {
            let len = bytes.len();
            bytes[at % len] = value;
        }
        bytes.truncate(bytes.len().max(cut) - cut / 2);
        if repair && bytes.first().is_some_and(|first| first >> 4 == 4) {
            let header_len = usize::from(bytes[0] & 0x0f) * 4;
            if let Some(header) = bytes.get_mut(..header_len) {
                ipv4::write_checksum(header);
            }
        }
        if let [0x60..=0x6f, _, _, _, 0, 0, ..] = bytes[..] {
            // etherparse takes a payload length of zero for unknown, we for nothing.
            return Ok(());
        }
        match (parse_l3(&bytes), SlicedPacket::from_ip(&bytes)) {
            (Ok(packet), _) if is_read_differently(&packet) => {}
            (Ok(packet), Ok(theirs)) => assert_same(&packet, &bytes, &theirs),
            (Ok(packet), Err(error)) => prop_assert!(false, "{packet:?} but {error:?}"),
            (Err(reason), Ok(theirs)) => prop_assert!(is_stricter(reason, &theirs), "{reason:?} but {theirs:?}"),
            (Err(_), Err(_)) => {}
        }
    }

    /// NAT by deltas gives the packet that building it with the new addresses and ports gives.
    #[test]
    fn a_translated_packet_equals_one_built_so(spec in spec(), new_dst: [u8; 16], new_port: u16) {
        let mut translated = spec.clone();
        translated.dst = new_dst;
        let old_port = match &mut translated.kind {
            Kind::Tcp { ports, .. } | Kind::Udp { ports } => std::mem::replace(&mut ports.1, new_port),
            _ => return Ok(()),
        };
        let mut bytes = build(&spec);
        let packet = parse_l3(&bytes).unwrap();
        let expected = build(&translated);
        let addresses = wire::checksum::Delta::of_address(packet.dst(&bytes), packet.dst(&expected));
        let all = addresses + wire::checksum::Delta::of_u16(old_port, new_port);
        let l4_offset = usize::from(packet.l4_offset);
        let range = packet.addresses_offset();
        let len = if spec.v6 { 16 } else { 4 };
        bytes[range + len..range + 2 * len].copy_from_slice(&new_dst[..len]);
        bytes[l4_offset + 2..l4_offset + 4].copy_from_slice(&new_port.to_be_bytes());
        if let (Family::V4, Some(header)) = (packet.family, ipv4::Ipv4Header::prefix_mut(&mut bytes)) {
            addresses.apply(&mut header.checksum);
        }
        let field = packet.l4_checksum_mut(&mut bytes).unwrap();
        if packet.proto == IpProtocol::UDP { all.apply_udp(field) } else { all.apply(field) }
        prop_assert_eq!(bytes, expected);
    }

    /// A partial checksum, as sockets leave it, is seen, follows NAT, and completes to the full one.
    #[test]
    fn a_partial_checksum_is_seen_translated_and_completed(spec in spec(), new_dst: [u8; 16]) {
        if !matches!(spec.kind, Kind::Tcp { .. } | Kind::Udp { .. }) {
            return Ok(());
        }
        let mut translated = spec.clone();
        translated.dst = new_dst;
        let (mut bytes, expected) = (build(&spec), build(&translated));
        let packet = parse_l3(&bytes).unwrap();
        *packet.l4_checksum_mut(&mut bytes).unwrap() = packet.pseudo_sum(&bytes).folded();
        prop_assert!(packet.has_partial_checksum(&bytes));

        let delta = wire::checksum::Delta::of_address(packet.dst(&bytes), packet.dst(&expected));
        let (range, len) = (packet.addresses_offset(), if spec.v6 { 16 } else { 4 });
        bytes[range + len..range + 2 * len].copy_from_slice(&new_dst[..len]);
        if let (Family::V4, Some(header)) = (packet.family, ipv4::Ipv4Header::prefix_mut(&mut bytes)) {
            delta.apply(&mut header.checksum);
        }
        delta.apply_partial(packet.l4_checksum_mut(&mut bytes).unwrap());
        prop_assert!(packet.has_partial_checksum(&bytes));
        prop_assert!(packet.write_l4_checksum(&mut bytes));
        prop_assert_eq!(bytes, expected);
    }
}
