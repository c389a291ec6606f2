//! What a pod may not send.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B, GATEWAY_MAC, NODE_B, VXLAN_HEADER, raw, router_sends};
use crate::packet::{IpPacket, icmp, ip, tcp, udp, udp_with};

pub(super) fn cases() -> Vec<Case> {
    [
        both(addresses),
        both(announcements),
        both(tunnels),
        both(from_the_uplink),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn addresses(f: Family) -> Case {
    let mut case = f.case(
        "spoof-addresses",
        "A pod sends from its own MAC and addresses alone, to our MAC alone.",
        "",
    );
    let good = udp(&at(f.a, 4000), &at(f.b, 53), 10);
    case.send(raw(A.port, good.frame(B.mac, GATEWAY_MAC)))
        .dropped("spoofed-mac");
    case.send(A.sends(&udp(&at(f.b, 4000), &at(f.c, 53), 10)))
        .dropped("spoofed-source");
    case.send(A.sends(&udp(&at(f.node_a, 4000), &at(f.b, 53), 10)))
        .dropped("spoofed-source");
    case.send(A.sends(&udp(&at(f.outside, 4000), &at(f.b, 53), 10)))
        .dropped("spoofed-source");
    case.send(raw(A.port, good.frame(A.mac, B.mac)))
        .dropped("not-for-us");
    case.send(raw(A.port, good.frame(A.mac, NODE_B.mac)))
        .dropped("not-for-us");
    // A spoofed packet with the tuple of a flow that exists does not get into that flow.
    let b_syn = tcp(&at(f.b, 40000), &at(f.c, 80), "S", 1, 0, 0);
    case.send(B.sends(&b_syn)).tx(
        "pod:other/c",
        format!(
            "gw > c {} > {} ttl 63 {} tcp 40000 > 80 S seq 1 ack 0 data 0",
            f.b, f.c, f.df
        ),
    );
    case.send(A.sends(&tcp(&at(f.b, 40000), &at(f.c, 80), "R", 2, 0, 0)))
        .dropped("spoofed-source");
    case.send(A.sends(&good)).tx(
        B.port,
        format!("gw > b {} > {} ttl 63 {} udp 4000 > 53 data 10", f.a, f.b, f.df),
    );
    case
}

fn announcements(f: Family) -> Case {
    let mut case = f.case(
        "spoof-announcements",
        "A pod is no router and no DHCP server, and multicast goes nowhere.",
        "",
    );
    let multicast_mac = |address: &str| match ip(address) {
        std::net::IpAddr::V4(v4) => [1, 0, 0x5e, v4.octets()[1] & 0x7f, v4.octets()[2], v4.octets()[3]],
        std::net::IpAddr::V6(v6) => {
            let octets = v6.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
    };
    if f.is_v4() {
        case.send(raw(
            A.port,
            udp(&at(f.a, 67), "255.255.255.255:68", 240).frame(A.mac, [0xff; 6]),
        ))
        .dropped("forbidden-from-pod");
        case.send(A.sends(&udp(&at(f.a, 67), &at(f.b, 68), 240)))
            .dropped("forbidden-from-pod");
        let to_group = udp(&at(f.a, 5353), "224.0.0.251:5353", 40);
        case.send(raw(A.port, to_group.frame(A.mac, multicast_mac("224.0.0.251"))))
            .dropped("not-for-us");
    } else {
        let link_local = "fe80::1:aff:fef4:10a";
        let mut ra = icmp(link_local, "ff02::1", 134, 0, 0x4000_0708, &[0; 8]).ttl(255);
        case.send(raw(A.port, ra.frame(A.mac, multicast_mac("ff02::1"))))
            .dropped("forbidden-from-pod");
        ra = icmp(link_local, f.b, 137, 0, 0, &[0; 32]).ttl(255);
        case.send(A.sends(&ra)).dropped("forbidden-from-pod");
        case.send(A.sends(&udp(&at(f.a, 547), &at(f.b, 546), 60)))
            .dropped("forbidden-from-pod");
        let to_group = udp(&at(f.a, 5353), "[ff02::fb]:5353", 40);
        case.send(raw(A.port, to_group.frame(A.mac, multicast_mac("ff02::fb"))))
            .dropped("not-for-us");
    }
    case
}

fn tunnels(f: Family) -> Case {
    let mut case = f.case(
        "spoof-tunnels",
        "A pod may not make tunnel packets, to whomever.",
        "",
    );
    let inner = udp(&at(f.b, 4000), &at(f.d, 53), 10);
    let data = [&VXLAN_HEADER[..], &inner.frame([2; 6], [4; 6])].concat();
    case.send(A.sends(&udp_with(&at(f.a, 50000), &at(f.node_b, 4789), &data)))
        .dropped("tunnel-spoofed");
    case.send(A.sends(&udp_with(&at(f.a, 50000), &at(f.b, 4789), &data)))
        .dropped("tunnel-spoofed");
    for proto in [etherparse::IpNumber::IPV4, etherparse::IpNumber::IPV6] {
        let packet = IpPacket::new(ip(f.a), ip(f.node_b), proto, inner.bytes());
        case.send(A.sends(&packet)).dropped("tunnel-spoofed");
    }
    case
}

fn from_the_uplink(f: Family) -> Case {
    let mut case = f.case(
        "spoof-uplink",
        "From the uplink nobody speaks as a pod or as this node.",
        "",
    );
    for src in [f.a, f.node_a, f.d] {
        case.send(router_sends(&udp(&at(src, 4000), &at(f.b, 53), 10)))
            .dropped("spoofed-source");
    }
    let packet = udp(&at(f.outside, 4000), &at(f.b, 53), 10);
    case.send(raw("uplink", packet.frame([2; 6], NODE_B.mac)))
        .dropped("not-for-us");
    case.send(router_sends(&packet)).tx(
        B.port,
        format!(
            "gw > b {} > {} ttl 63 {} udp 4000 > 53 data 10",
            f.outside, f.b, f.df
        ),
    );
    case
}
