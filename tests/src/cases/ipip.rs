//! IPIP between nodes.

use super::{Family, V4, at};
use crate::case::Case;
use crate::cluster::{A, NODE_B, NODE_C, state};
use crate::packet::{IpPacket, ip, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    vec![out_and_in(), spoofed(), cross_subnet(), plain()]
}

fn pool(modes: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: pods }}\n\
         spec: {{ cidr: 10.244.0.0/16, {modes}, natOutgoing: true }}\n"
    )
}

const F: Family = V4;

fn outer(node: &str, address: &str) -> String {
    format!("node-a > {node} {} > {address} ttl 64 df |", F.node_a)
}

fn out_and_in() -> Case {
    let mut case = Case::new(
        "ipip",
        "Pods of two nodes talk in IPIP.",
        state(&pool("ipipMode: Always")),
    );
    case.send(A.sends(&tcp(&at(F.a, 40000), &at(F.d, 80), "S", 1, 0, 0)))
        .tx(
            "uplink",
            format!(
                "{} {} > {} ttl 63 df tcp 40000 > 80 S seq 1 ack 0 data 0",
                outer("node-b", F.node_b),
                F.a,
                F.d
            ),
        );
    case.send(NODE_B.sends_ipip(&tcp(&at(F.d, 80), &at(F.a, 40000), "SA", 9, 2, 0)))
        .tx(
            A.port,
            format!(
                "gw > a {} > {} ttl 63 df tcp 80 > 40000 SA seq 9 ack 2 data 0",
                F.d, F.a
            ),
        );
    // 20 bytes of header, so 1480 fit and 1481 do not.
    case.send(A.sends(&udp(&at(F.a, 4000), &at(F.d, 53), 1452))).tx(
        "uplink",
        format!(
            "{} {} > {} ttl 63 df udp 4000 > 53 data 1452",
            outer("node-b", F.node_b),
            F.a,
            F.d
        ),
    );
    case.send(A.sends(&udp(&at(F.a, 4000), &at(F.d, 53), 1453)))
        .dropped("too-big")
        .answer(
            A.port,
            format!(
                "gw > a {} > {} ttl 64 tos 0xc0 icmp 3/4 1480 [ {} > {} ttl 64 df udp 4000 > 53 ]",
                F.node_a, F.a, F.a, F.d
            ),
        );
    case
}

fn spoofed() -> Case {
    let mut case = Case::new(
        "ipip-spoofed",
        "A node speaks in IPIP for its own pods alone.",
        state(&pool("ipipMode: Always")),
    );
    for src in [F.e, F.b, F.outside] {
        case.send(NODE_B.sends_ipip(&udp(&at(src, 4000), &at(F.a, 53), 10)))
            .dropped("tunnel-spoofed");
    }
    let inner = udp(&at(F.d, 4000), &at(F.a, 53), 10);
    let stranger = IpPacket::new(
        ip("192.0.2.99"),
        ip(F.node_a),
        etherparse::IpNumber::IPV4,
        inner.bytes(),
    );
    case.send(NODE_B.sends(&stranger)).punted("to-host");
    // A pod's address without the tunnel that its pool demands.
    case.send(NODE_B.sends(&inner)).dropped("spoofed-source");
    case
}

fn cross_subnet() -> Case {
    let mut case = Case::new(
        "ipip-cross-subnet",
        "CrossSubnet: plain to a node of our subnet, IPIP to one beyond a router.",
        state(&pool("ipipMode: CrossSubnet")),
    );
    case.send(A.sends(&udp(&at(F.a, 4000), &at(F.d, 53), 10))).tx(
        "uplink",
        format!(
            "node-a > router {} > {} ttl 63 df udp 4000 > 53 data 10",
            F.a, F.d
        ),
    );
    case.send(A.sends(&udp(&at(F.a, 4000), &at(F.e, 53), 10))).tx(
        "uplink",
        format!(
            "{} {} > {} ttl 63 df udp 4000 > 53 data 10",
            outer("node-c", F.node_c),
            F.a,
            F.e
        ),
    );
    case.send(NODE_C.sends_ipip(&udp(&at(F.e, 53), &at(F.a, 4000), 20)))
        .tx(
            A.port,
            format!("gw > a {} > {} ttl 63 df udp 53 > 4000 data 20", F.e, F.a),
        );
    case
}

fn plain() -> Case {
    let mut case = Case::new(
        "plain",
        "A pool without tunnels: plain to every node.",
        state(&pool("ipipMode: Never, vxlanMode: Never")),
    );
    case.send(A.sends(&udp(&at(F.a, 4000), &at(F.d, 53), 10))).tx(
        "uplink",
        format!(
            "node-a > router {} > {} ttl 63 df udp 4000 > 53 data 10",
            F.a, F.d
        ),
    );
    case.send(NODE_B.sends(&udp(&at(F.d, 53), &at(F.a, 4000), 20)))
        .tx(
            A.port,
            format!("gw > a {} > {} ttl 63 df udp 53 > 4000 data 20", F.d, F.a),
        );
    case
}
