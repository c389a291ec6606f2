//! Bytes that are no packet.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B, NODE_A, NODE_B, Sent, VXLAN_HEADER, raw, router_sends};
use crate::packet::{IpPacket, icmp, tcp, udp, udp_with};

pub(super) fn cases() -> Vec<Case> {
    [both(headers), both(inside_tunnels)]
        .into_iter()
        .flatten()
        .collect()
}

/// The frame that a sends, with the byte at `offset` from the IP header set.
fn with_byte(packet: &IpPacket, offset: usize, byte: u8) -> Sent {
    let mut sent = A.sends(packet);
    sent.frame[14 + offset] = byte;
    sent
}

fn headers(f: Family) -> Case {
    let mut case = f.case(
        "malformed",
        "Headers that lie or are cut are dropped; what lies behind the packet is padding.",
        "",
    );
    let packet = udp(&at(f.a, 4000), &at(f.b, 53), 20);
    let segment = tcp(&at(f.a, 40000), &at(f.b, 80), "A", 1, 1, 20);
    let l4 = if f.is_v4() { 20 } else { 40 };
    case.send(raw(A.port, A.sends(&packet).frame[..10].to_vec()))
        .dropped("malformed");
    case.send(raw(A.port, A.sends(&packet).frame[..14].to_vec()))
        .dropped("malformed");
    case.send(raw(A.port, A.sends(&packet).frame[..14 + l4 - 1].to_vec()))
        .dropped("malformed");
    // The frame ends before the packet does.
    case.send(raw(A.port, A.sends(&packet).frame[..14 + l4 + 27].to_vec()))
        .dropped("malformed");
    case.send(with_byte(&packet, 0, 0x55)).dropped("malformed");
    if f.is_v4() {
        case.send(with_byte(&packet, 0, 0x44)).dropped("malformed");
        case.send(with_byte(&packet, 0, 0x4f)).dropped("malformed");
        case.send(with_byte(&packet, 10, 0x11)).dropped("malformed");
    } else {
        case.send(with_byte(&packet, 5, 200)).dropped("malformed");
        let mut endless = packet.clone();
        endless.extension = Some((60, vec![9, 1, 4, 0, 0, 0, 0]));
        case.send(A.sends(&endless)).dropped("malformed");
    }
    // UDP: its length is beyond the packet, or below its header. TCP: its header is beyond the packet, or too short.
    case.send(with_byte(&packet, l4 + 5, 200)).dropped("malformed");
    case.send(with_byte(&packet, l4 + 5, 7)).dropped("malformed");
    case.send(with_byte(&segment, l4 + 12, 0xf0)).dropped("malformed");
    case.send(with_byte(&segment, l4 + 12, 0x40)).dropped("malformed");
    for (proto, len) in [(6, 19), (17, 7), (132, 11)] {
        let cut = IpPacket {
            proto,
            payload: vec![0; len],
            ..packet.clone()
        };
        case.send(A.sends(&cut)).dropped("malformed");
    }
    let mut short_icmp = icmp(f.a, f.b, if f.is_v4() { 8 } else { 128 }, 0, 1, &[]);
    short_icmp.payload.truncate(7);
    case.send(A.sends(&short_icmp)).dropped("malformed");
    // Loopback addresses are for no link.
    let loopback = if f.is_v4() { "127.0.0.1" } else { "::1" };
    case.send(A.sends(&udp(&at(f.a, 4000), &at(loopback, 53), 20)))
        .dropped("malformed");
    case.send(A.sends(&udp(&at(loopback, 4000), &at(f.b, 53), 20)))
        .dropped("malformed");
    // No IP at all: a routed link has no use for it.
    let mut lldp = A.sends(&packet).frame;
    lldp[12..14].copy_from_slice(&[0x88, 0xcc]);
    case.send(raw(A.port, lldp)).dropped("not-for-us");
    // Padding is left behind.
    let mut padded = A.sends(&packet).frame;
    padded.extend([0xaa; 20]);
    case.send(raw(A.port, padded)).tx(
        B.port,
        format!("gw > b {} > {} ttl 63 {} udp 4000 > 53 data 20", f.a, f.b, f.df),
    );
    let mut from_uplink = router_sends(&udp(&at(f.outside, 4000), &at(f.a, 53), 10));
    from_uplink.frame[14] = 0x35;
    case.send(from_uplink).dropped("malformed");
    case
}

fn inside_tunnels(f: Family) -> Case {
    let mut case = f.case(
        "malformed-inside",
        "A tunnel packet whose inside is no packet is dropped.",
        "",
    );
    let inner = udp(&at(f.d, 4000), &at(f.a, 53), 10).frame(NODE_B.vtep, NODE_A.vtep);
    let send = |inside: &[u8]| {
        let data = [&VXLAN_HEADER[..], inside].concat();
        NODE_B.sends(&udp_with(&at(f.node_b, 50000), &at(f.node_a, 4789), &data))
    };
    case.send(send(&inner[..13])).dropped("malformed");
    case.send(send(&inner[..20])).dropped("malformed");
    let mut version = inner.clone();
    version[14] = 0x75;
    case.send(send(&version)).dropped("malformed");
    case.send(send(&[])).dropped("malformed");
    case.send(send(&inner)).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} udp 4000 > 53 data 10", f.d, f.a, f.df),
    );
    case
}
