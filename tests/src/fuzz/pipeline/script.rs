//! The steps of a script.

use fastpath::port::PortId;
use fastpath::snapshot::PortKind;
use wire::ethernet::{EtherHeader, EtherType};
use wire::packet::parse_l3;
use wire::{IpProtocol, Mac, icmp, icmpv6, ipip, vxlan};
use zerocopy::IntoBytes;

use super::cluster::{Fam, ROUTER_MAC};
use super::node::Node;
use super::oracle::{inner_offset, ip};
use super::template::{self, SENDERS, Sender, repair};
use crate::fuzz::input::Input;

/// Does what the next bytes say.
pub(super) fn step(input: &mut Input<'_>, node: &mut Node) {
    match input.byte() % 16 {
        0..=4 => {
            let sender = input.pick(SENDERS);
            for l3 in template::packets(input, sender) {
                send(input, node, sender, l3);
            }
        }
        5 | 6 => reply(input, node),
        7 => icmp_error(input, node),
        8 => again(input, node),
        9 => raw(input, node),
        10 => arp(input, node),
        11 | 12 => {
            node.advance(input.pick(DELAYS_MS) * 1_000_000);
            node.poll();
        }
        13 | 14 => node.poll(),
        _ => node.change(input.byte()),
    }
}

const DELAYS_MS: &[u64] = &[
    1,
    0,
    100,
    1_000,
    3_000,
    11_000,
    31_000,
    61_000,
    200_000,
    9_000_000,
    4_294_967_290,
];

/// An IP packet from `sender`, in the tunnel that it stands at the other end of.
fn send(input: &mut Input<'_>, node: &mut Node, sender: Sender, mut l3: Vec<u8>) {
    let mutations = input.byte();
    // Half of all packets come as they are.
    if mutations >= 128 {
        mutate(input, &mut l3, mutations & 3);
        if mutations & 4 == 0 {
            repair(&mut l3);
        }
    }
    let v6 = l3.first().is_some_and(|first| first >> 4 == 6);
    let family = if v6 { Fam::V6 } else { Fam::V4 };
    let l3 = match sender {
        Sender::Vxlan => in_vxlan(family, 2, &l3, v6),
        Sender::VxlanAcross => in_vxlan(if v6 { Fam::V4 } else { Fam::V6 }, 2, &l3, v6),
        Sender::Ipip => in_ipip(4, &l3, v6),
        _ => l3,
    };
    if let Some(port) = node.port(sender.port()) {
        let frame = framed(node, port, &l3);
        node.feed(port, &frame);
    }
}

fn mutate(input: &mut Input<'_>, bytes: &mut Vec<u8>, times: u8) {
    for _ in 0..=times {
        let (at, value) = (usize::from(input.word()), input.byte());
        match bytes.len() {
            0 => return,
            len if at & 0x8000 != 0 => bytes.truncate(at % len + 1),
            len => bytes[at % len] = value,
        }
    }
}

/// An Ethernet frame as who is behind `port` sends it.
fn framed(node: &Node, port: PortId, l3: &[u8]) -> Vec<u8> {
    let known = node.snapshot.port(port).expect("found by its name");
    let src = if known.kind == PortKind::Uplink {
        ROUTER_MAC
    } else {
        known.peer_mac
    };
    let v6 = l3.first().is_some_and(|first| first >> 4 == 6);
    let header = EtherHeader::new(
        known.own_mac,
        src,
        if v6 { EtherType::IPV6 } else { EtherType::IPV4 },
    );
    [header.as_bytes(), l3].concat()
}

fn in_vxlan(outer: Fam, from: u8, inner: &[u8], inner_v6: bool) -> Vec<u8> {
    let link = EtherHeader::new(
        Mac([0x66, 0, 0, 0, 0, 1]),
        Mac([0x66, 0, 0, 0, 0, from]),
        if inner_v6 {
            EtherType::IPV6
        } else {
            EtherType::IPV4
        },
    );
    let (vni, len, source_port) = (
        4096.try_into().expect("24 bits"),
        inner.len() as u16 + 14,
        50_000.into(),
    );
    let (src, dst) = (outer.node(from), outer.node(1));
    let head = match outer {
        Fam::V4 => {
            let outer = vxlan::OuterV4::new(
                src.parse().expect("IPv4"),
                dst.parse().expect("IPv4"),
                vxlan::PORT,
                vni,
                64,
            );
            outer
                .stamp(len, source_port, 0)
                .map(|outer| outer.as_bytes().to_vec())
        }
        Fam::V6 => {
            let outer = vxlan::OuterV6::new(
                src.parse().expect("IPv6"),
                dst.parse().expect("IPv6"),
                vxlan::PORT,
                vni,
                64,
            );
            outer
                .stamp(len, source_port, 0)
                .map(|outer| outer.as_bytes().to_vec())
        }
    };
    let mut bytes = [&head.unwrap_or_default(), link.as_bytes(), inner].concat();
    if outer == Fam::V6 {
        repair(&mut bytes);
    }
    bytes
}

fn in_ipip(from: u8, inner: &[u8], inner_v6: bool) -> Vec<u8> {
    let (src, dst) = (Fam::V4.node(from), Fam::V4.node(1));
    let family = if inner_v6 {
        wire::packet::Family::V6
    } else {
        wire::packet::Family::V4
    };
    let template = ipip::outer(src.parse().expect("IPv4"), dst.parse().expect("IPv4"), family, 64);
    let outer = ipip::stamp(&template, inner.len() as u16, 0).unwrap_or(template);
    [outer.as_bytes(), inner].concat()
}

/// One of the frames that left.
fn emitted(input: &mut Input<'_>, node: &mut Node) -> Option<(PortId, Vec<u8>)> {
    // What was fed has to leave first.
    let back = usize::from(input.byte());
    if back & 0x80 != 0 {
        node.poll();
    }
    let back = (back & 0x7f) % node.emitted.len().max(1);
    let (port, frame) = node.emitted.iter().rev().nth(back)?;
    node.snapshot.port(*port)?;
    Some((*port, frame.clone()))
}

/// What the receiver of a frame that left says to it.
fn reply(input: &mut Input<'_>, node: &mut Node) {
    let Some((port, frame)) = emitted(input, node) else {
        return;
    };
    let Some((l3, _)) = ip(&frame) else { return };
    let mut l3 = l3.to_vec();
    let flags = input.pick(&[0x12_u8, 0x10, 0x11, 0x04, 0x02]);
    if let Some(at) = inner_offset(&node.snapshot, &l3) {
        turn_round(&mut l3[at..], flags);
    }
    turn_round(&mut l3, flags);
    let frame = framed(node, port, &l3);
    node.feed(port, &frame);
}

/// Swaps the two ends; an echo request becomes its reply, a TCP segment gets `flags`. Tunnels keep their destination port.
fn turn_round(l3: &mut [u8], flags: u8) {
    let Ok(packet) = parse_l3(l3) else { return };
    let (at, len) = if l3[0] >> 4 == 4 { (12, 4) } else { (8, 16) };
    let (src, dst) = l3[at..at + 2 * len].split_at_mut(len);
    src.swap_with_slice(dst);
    if packet.fragment.is_some() {
        return;
    }
    let l4 = usize::from(packet.l4_offset);
    if packet.proto.has_ports() && packet.dport != vxlan::PORT {
        let (sport, dport) = l3[l4..l4 + 4].split_at_mut(2);
        sport.swap_with_slice(dport);
    }
    if packet.is_echo_request() {
        l3[l4] = if packet.proto == IpProtocol::ICMP {
            icmp::ECHO_REPLY
        } else {
            icmpv6::ECHO_REPLY
        };
    }
    if packet.proto == IpProtocol::TCP && flags != 0 {
        l3[l4 + 13] = flags;
    }
    if packet.proto == IpProtocol::UDP && packet.l4_checksum(l3).is_some_and(|sum| sum.get() == 0) {
        return;
    }
    repair(l3);
}

/// A router or the receiver of a frame that left complains of it: of the tunnel's packet, or of the one inside.
fn icmp_error(input: &mut Input<'_>, node: &mut Node) {
    let Some((port, frame)) = emitted(input, node) else {
        return;
    };
    let Some((l3, _)) = ip(&frame) else { return };
    let options = input.byte();
    let inner = inner_offset(&node.snapshot, l3).filter(|_| options & 1 == 0);
    let about = &l3[inner.unwrap_or(0)..];
    let about = &about[..about.len().min(if options & 2 == 0 { 28 } else { 600 })];
    let mut out = vec![0; 1500];
    let v6 = about[0] >> 4 == 6;
    let (kind, code) = match (v6, options >> 2 & 3) {
        (false, 0) => (3, 3),
        (false, 1) => (3, 4),
        (false, 2) => (11, 0),
        (false, _) => (12, 0),
        (true, 0) => (1, 4),
        (true, 1) => (2, 0),
        (true, 2) => (3, 0),
        (true, _) => (4, 1),
    };
    let mtu = u32::from(input.word());
    let written = if v6 {
        let from = Fam::V6.node(254).parse().expect("IPv6");
        wire::reply::icmpv6_error(&mut out, from, about, kind, code, mtu)
    } else {
        let from = Fam::V4.node(254).parse().expect("IPv4");
        wire::reply::icmp_error(&mut out, from, about, kind, code, mtu)
    };
    let Some(len) = written else { return };
    out.truncate(len);
    if inner.is_some() {
        let node_2 = options & 0x10 == 0;
        out = if node_2 {
            in_vxlan(if v6 { Fam::V6 } else { Fam::V4 }, 2, &out, v6)
        } else {
            in_ipip(4, &out, v6)
        };
    }
    let frame = framed(node, port, &out);
    node.feed(port, &frame);
}

/// A frame that came before comes again, there or elsewhere.
fn again(input: &mut Input<'_>, node: &mut Node) {
    let (back, elsewhere) = (usize::from(input.byte()), input.byte());
    let received = node.received();
    let Some(packet) = received.iter().rev().nth(back % received.len().max(1)) else {
        return;
    };
    let (mut port, mut frame) = (packet.port, packet.bytes.clone());
    if elsewhere & 0x80 != 0 {
        mutate(input, &mut frame, elsewhere & 3);
    }
    if elsewhere & 0x40 != 0 {
        let sender = SENDERS[usize::from(elsewhere & 7) % SENDERS.len()];
        match node.port(sender.port()) {
            Some(other) => port = other,
            None => return,
        }
    }
    if node.snapshot.port(port).is_some() {
        node.feed(port, &frame);
    }
}

/// Any bytes: as a frame, or behind a right Ethernet header.
fn raw(input: &mut Input<'_>, node: &mut Node) {
    let sender = input.pick(SENDERS);
    let len = input.byte();
    let bytes = input.take(usize::from(len & 0x7f));
    let Some(port) = node.port(sender.port()) else {
        return;
    };
    if len & 0x80 == 0 || bytes.is_empty() {
        return node.feed(port, bytes);
    }
    let mut l3 = bytes.to_vec();
    repair(&mut l3);
    let frame = framed(node, port, &l3);
    node.feed(port, &frame);
}

/// An ARP packet, or another Ethernet type, with or without a VLAN tag.
fn arp(input: &mut Input<'_>, node: &mut Node) {
    let sender = input.pick(SENDERS);
    let Some(port) = node.port(sender.port()) else {
        return;
    };
    let mut frame = framed(node, port, &[]);
    let kind = input.byte();
    frame.truncate(12);
    if kind & 1 != 0 {
        frame.extend([0x81, 0, 0, input.byte()]);
    }
    frame.extend(input.pick(&[[8, 6], [8, 6], [8, 0], [0x86, 0xdd], [0x88, 0xcc]]));
    if kind & 2 != 0 {
        frame[..6].copy_from_slice(&[0xff; 6]);
    }
    frame.extend([0, 1, 8, 0, 6, 4, 0, kind >> 2 & 3]);
    frame.extend_from_slice(&frame.clone()[6..12]);
    frame.extend([10, 244, 1, input.byte(), 0, 0, 0, 0, 0, 0]);
    frame.extend(input.pick(&[
        [169, 254, 1, 1],
        [10, 244, 1, 5],
        [10, 244, 1, 6],
        [192, 168, 0, 1],
    ]));
    node.feed(port, &frame);
}
