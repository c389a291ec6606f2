//! Who is on the wire, and the packets that they send.

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel,
    Ipv6FragmentHeader, Ipv6Header, PacketBuilder, icmpv4, icmpv6,
};

pub const NODE4: [u8; 4] = [192, 168, 7, 1];
pub const PEER4: [u8; 4] = [192, 168, 7, 2];
pub const STRANGER4: [u8; 4] = [192, 168, 7, 99];
pub const POD4: [u8; 4] = [10, 244, 1, 5];
pub const VIP4: [u8; 4] = [10, 96, 0, 10];
pub const NODE6: [u8; 16] = [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
pub const PEER6: [u8; 16] = [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub const POD6: [u8; 16] = [0xfd, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
pub const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

pub fn echo(id: u16) -> IcmpEchoHeader {
    IcmpEchoHeader { id, seq: 1 }
}

pub fn tcp4(from: [u8; 4], to: [u8; 4], source: u16, destination: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv4(from, to, 64);
    builder
        .tcp(source, destination, 1, 1000)
        .write(&mut packet, b"hello")
        .unwrap();
    packet
}

pub fn tcp6(from: [u8; 16], to: [u8; 16], source: u16, destination: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv6(from, to, 64);
    builder
        .tcp(source, destination, 1, 1000)
        .write(&mut packet, b"hello")
        .unwrap();
    packet
}

pub fn udp4(from: [u8; 4], to: [u8; 4], source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv4(from, to, 64);
    builder
        .udp(source, destination)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

pub fn udp6(from: [u8; 16], to: [u8; 16], source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv6(from, to, 64);
    builder
        .udp(source, destination)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

pub fn icmp4(from: [u8; 4], to: [u8; 4], kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv4(from, to, 64);
    builder.icmpv4(kind).write(&mut packet, payload).unwrap();
    packet
}

pub fn icmp6(from: [u8; 16], to: [u8; 16], kind: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv6(from, to, 64);
    builder.icmpv6(kind).write(&mut packet, payload).unwrap();
    packet
}

/// An error that quotes the start of `about`, an Ethernet frame.
pub fn unreachable4(from: [u8; 4], to: [u8; 4], about: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    icmp4(from, to, kind, &about[14..14 + 28])
}

pub fn unreachable6(to: [u8; 16], about: &[u8]) -> Vec<u8> {
    let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
    icmp6(PEER6, to, kind, &about[14..14 + 48])
}

pub fn ip4(from: [u8; 4], to: [u8; 4], protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header::new(payload.len() as u16, 64, protocol, from, to).unwrap();
    ethernet(0x0800, |packet| {
        header.write(packet).unwrap();
        packet.extend(payload);
    })
}

pub fn ethernet(kind: u16, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = [NODE_MAC, PEER_MAC].concat();
    packet.extend(kind.to_be_bytes());
    write(&mut packet);
    packet.resize(packet.len().max(60), 0);
    packet
}

pub fn vxlan(vni: u32) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(tcp4(POD4, POD4, 1, 2));
    payload
}

/// A UDP datagram to `to`'s SNAT range in two IPv4 fragments of one id.
pub fn fragments4(to: [u8; 4], port: u16, id: u16) -> [Vec<u8>; 2] {
    let whole = &udp4(STRANGER4, to, 53, port, &[7; 64])[34..];
    [(0, true), (40, false)].map(|(start, more)| {
        let part = if more { &whole[..40] } else { &whole[start..] };
        let mut header = Ipv4Header::new(part.len() as u16, 64, IpNumber::UDP, STRANGER4, to).unwrap();
        header.identification = id;
        header.more_fragments = more;
        header.dont_fragment = false;
        header.fragment_offset = IpFragOffset::try_new(start as u16 / 8).unwrap();
        header.header_checksum = header.calc_header_checksum();
        ethernet(0x0800, |packet| {
            header.write_raw(packet).unwrap();
            packet.extend(part);
        })
    })
}

pub fn fragments6(port: u16, id: u32) -> [Vec<u8>; 2] {
    let whole = &udp6(PEER6, NODE6, 53, port, &[7; 64])[54..];
    [(0, true), (40, false)].map(|(start, more)| {
        let part = if more { &whole[..40] } else { &whole[start..] };
        let offset = IpFragOffset::try_new(start as u16 / 8).unwrap();
        let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, id);
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: part.len() as u16 + 8,
            next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
            hop_limit: 64,
            source: PEER6,
            destination: NODE6,
        };
        ethernet(0x86dd, |packet| {
            header.write(packet).unwrap();
            fragment.write(packet).unwrap();
            packet.extend(part);
        })
    })
}
