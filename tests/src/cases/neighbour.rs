//! ARP and neighbour discovery.

use super::{V4, V6};
use crate::case::Case;
use crate::cluster::{A, B, GATEWAY_MAC, NODE_A, ROUTER_MAC, Sent, raw, state};
use crate::packet::{icmp, ip};

pub(super) fn cases() -> Vec<Case> {
    vec![arp(), nd()]
}

/// An ARP packet: operation, sender, target.
fn arp_frame(operation: u8, sender_mac: [u8; 6], sender: &str, target: &str, dst: [u8; 6]) -> Vec<u8> {
    let octets = |address| match ip(address) {
        std::net::IpAddr::V4(v4) => v4.octets(),
        std::net::IpAddr::V6(_) => panic!("ARP is for IPv4"),
    };
    let mut frame = [
        &dst[..],
        &sender_mac,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation],
        &sender_mac,
    ]
    .concat();
    frame.extend(octets(sender));
    frame.extend([0; 6]);
    frame.extend(octets(target));
    frame
}

fn arp() -> Case {
    let mut case = Case::new(
        "neighbour-arp",
        "ARP is answered for every target but the port's own; probes and announcements get silence.",
        state(""),
    );
    let ask = |target| raw(A.port, arp_frame(1, A.mac, V4.a, target, [0xff; 6]));
    for target in ["169.254.1.1", V4.b, V4.outside] {
        case.send(ask(target))
            .tx(A.port, format!("gw > a arp reply gw {target} > a {}", V4.a));
    }
    // Unicast, as the kernel asks again.
    case.send(raw(A.port, arp_frame(1, A.mac, V4.a, "169.254.1.1", GATEWAY_MAC)))
        .tx(A.port, format!("gw > a arp reply gw 169.254.1.1 > a {}", V4.a));
    case.send(ask(V4.a)).dropped("not-for-us");
    case.send(raw(A.port, arp_frame(1, A.mac, "0.0.0.0", V4.a, [0xff; 6])))
        .dropped("not-for-us");
    case.send(raw(A.port, arp_frame(1, A.mac, "0.0.0.0", V4.b, [0xff; 6])))
        .dropped("not-for-us");
    case.send(raw(A.port, arp_frame(2, A.mac, V4.a, "169.254.1.1", GATEWAY_MAC)))
        .dropped("not-for-us");
    // Who asks in another's name is not answered.
    case.send(raw(A.port, arp_frame(1, A.mac, V4.b, "169.254.1.1", [0xff; 6])))
        .dropped("spoofed-source");
    case.send(raw(A.port, arp_frame(1, A.mac, V4.b, V4.b, [0xff; 6])))
        .dropped("spoofed-source");
    let mut other_mac = arp_frame(1, A.mac, V4.a, "169.254.1.1", [0xff; 6]);
    other_mac[22..28].copy_from_slice(&B.mac);
    case.send(raw(A.port, other_mac)).dropped("spoofed-mac");
    let mut cut = arp_frame(1, A.mac, V4.a, "169.254.1.1", [0xff; 6]);
    cut.truncate(40);
    case.send(raw(A.port, cut)).dropped("malformed");
    case.send(raw(
        "uplink",
        arp_frame(1, ROUTER_MAC, "192.0.2.1", V4.node_a, [0xff; 6]),
    ))
    .punted("neighbour-protocol");
    case.send(raw(
        "uplink",
        arp_frame(2, ROUTER_MAC, "192.0.2.1", V4.node_a, NODE_A.mac),
    ))
    .punted("neighbour-protocol");
    case.send(raw("host", arp_frame(1, NODE_A.mac, V4.node_a, V4.a, [0xff; 6])))
        .tx(
            "host",
            format!("gw > node-a arp reply gw {} > node-a {}", V4.a, V4.node_a),
        );
    case
}

fn nd() -> Case {
    let mut case = Case::new(
        "neighbour-nd",
        "Solicitations are answered for every target but the port's own; duplicate address detection gets silence.",
        state(""),
    );
    let gateway = "fe80::ecee:eeff:feee:eeee";
    let link_local = "fe80::1:aff:fef4:10a";
    let bytes = |address: &str| match ip(address) {
        std::net::IpAddr::V6(v6) => v6.octets(),
        std::net::IpAddr::V4(_) => panic!("ND is for IPv6"),
    };
    let group = |target: &str| {
        let [.., a, b, c] = bytes(target);
        (
            format!("ff02::1:ff{a:02x}:{b:02x}{c:02x}"),
            [0x33, 0x33, 0xff, a, b, c],
        )
    };
    let solicit = |src: &str, target: &str| -> Sent {
        let (dst, mac) = group(target);
        let mut body = bytes(target).to_vec();
        if src != "::" {
            body.extend([1, 1]);
            body.extend(A.mac);
        }
        raw(
            A.port,
            icmp(src, &dst, 135, 0, 0, &body).ttl(255).frame(A.mac, mac),
        )
    };
    let told = |to: &str, target: &str| {
        format!("gw > a {gateway} > {to} ttl 255 advertisement {target} RSO target gw")
    };
    for target in [gateway, V6.b, V6.outside] {
        case.send(solicit(V6.a, target)).tx(A.port, told(V6.a, target));
    }
    case.send(solicit(link_local, gateway))
        .tx(A.port, told(link_local, gateway));
    let unicast = icmp(V6.a, gateway, 135, 0, 0, &bytes(gateway)).ttl(255);
    case.send(A.sends(&unicast)).tx(A.port, told(V6.a, gateway));
    // Duplicate address detection, for the address, the link-local one, and one of somebody else.
    for target in [V6.a, link_local, V6.b] {
        case.send(solicit("::", target)).dropped("not-for-us");
    }
    case.send(solicit(V6.a, V6.a)).dropped("not-for-us");
    let rs = icmp(link_local, "ff02::2", 133, 0, 0, &[]).ttl(255);
    case.send(raw(A.port, rs.frame(A.mac, [0x33, 0x33, 0, 0, 0, 2])))
        .dropped("not-for-us");
    case.send(A.sends(&icmp(V6.a, gateway, 135, 0, 0, &bytes(gateway)).ttl(64)))
        .dropped("malformed");
    case.send(solicit(V6.c, gateway)).dropped("spoofed-source");
    let from_router = icmp("fe80::1", V6.node_a, 135, 0, 0, &bytes(V6.node_a)).ttl(255);
    case.send(raw("uplink", from_router.frame(ROUTER_MAC, NODE_A.mac)))
        .punted("neighbour-protocol");
    case
}
