//! VXLAN between nodes.

use super::{Family, V4, at, both};
use crate::case::Case;
use crate::cluster::{A, NODE_A, NODE_B, NODE_C, Sent, VXLAN_HEADER, router_sends};
use crate::packet::{IpPacket, ping, tcp, udp, udp_with};

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        both(out_and_in),
        both(spoofed),
        both(not_ours),
        both(cross_subnet),
    ]
    .into_iter()
    .flatten()
    .collect();
    cases.push(congestion());
    cases
}

fn out_and_in(f: Family) -> Case {
    let mut case = f.case(
        "vxlan",
        "Pods of two nodes talk in VXLAN; one flow has one outer source port.",
        "",
    );
    let tunnel = f.vxlan_to("b", "node-b").replace("udp * >", "udp {s} >");
    let to_d = |l4: &str| format!("{tunnel} {} > {} ttl 63 {} {l4}", f.a, f.d, f.df);
    let to_a = |l4: &str| format!("gw > a {} > {} ttl 63 {} {l4}", f.d, f.a, f.df);
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.d, 80), "S", 1, 0, 0)))
        .tx("uplink", to_d("tcp 40000 > 80 S seq 1 ack 0 data 0"));
    case.send(f.by_vxlan(NODE_B, &tcp(&at(f.d, 80), &at(f.a, 40000), "SA", 9, 2, 0)))
        .tx(A.port, to_a("tcp 80 > 40000 SA seq 9 ack 2 data 0"));
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.d, 80), "PA", 2, 10, 1000)))
        .tx("uplink", to_d("tcp 40000 > 80 PA seq 2 ack 10 data 1000"));
    case.send(f.by_vxlan(NODE_B, &ping(f.d, f.a, 4, 1, 56)))
        .tx(A.port, to_a("echo-request 4 1 data 56"));
    // The node of another subnet is a node, too: no router between us that we would have to know.
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.e, 53), 10))).tx(
        "uplink",
        format!(
            "{} {} > {} ttl 63 {} udp 4000 > 53 data 10",
            f.vxlan_to("c", "node-c"),
            f.a,
            f.e,
            f.df
        ),
    );
    case
}

fn spoofed(f: Family) -> Case {
    let mut case = f.case(
        "vxlan-spoofed",
        "A node speaks in VXLAN for its own pods and itself alone, to pods of ours alone.",
        "",
    );
    for src in [f.e, f.b, f.outside, f.node_b, f.node_a] {
        case.send(f.by_vxlan(NODE_B, &udp(&at(src, 4000), &at(f.a, 53), 10)))
            .dropped("tunnel-spoofed");
    }
    let own_tunnel_address = if f.is_v4() {
        "10.244.2.1"
    } else {
        "fd00:10:244:2::1"
    };
    case.send(f.by_vxlan(NODE_B, &udp(&at(own_tunnel_address, 4000), &at(f.a, 53), 10)))
        .tx(
            A.port,
            format!(
                "gw > a {own_tunnel_address} > {} ttl 63 {} udp 4000 > 53 data 10",
                f.a, f.df
            ),
        );
    // The answer goes back by the tunnel that the question came by.
    case.send(A.sends(&udp(&at(f.a, 53), &at(own_tunnel_address, 4000), 10)))
        .tx(
            "uplink",
            format!(
                "{} {} > {own_tunnel_address} ttl 63 {} udp 53 > 4000 data 10",
                f.vxlan_to("b", "node-b"),
                f.a,
                f.df
            ),
        );
    case.send(f.by_vxlan(NODE_C, &udp(&at(f.d, 4000), &at(f.a, 53), 10)))
        .dropped("tunnel-spoofed");
    for dst in [f.e, f.outside] {
        case.send(f.by_vxlan(NODE_B, &udp(&at(f.d, 4000), &at(dst, 53), 10)))
            .dropped("no-route");
    }
    case
}

/// `inner` in VXLAN from `src` with this VNI.
fn tunnelled(f: Family, src: &str, vni: u8, inner: &IpPacket) -> Sent {
    let mut header = VXLAN_HEADER;
    header[6] = vni;
    let data = [&header[..], &inner.frame(NODE_B.vtep, NODE_A.vtep)].concat();
    NODE_B.sends(&udp_with(&at(src, 50000), &at(f.node_a, 4789), &data))
}

fn not_ours(f: Family) -> Case {
    let mut case = f.case(
        "vxlan-not-ours",
        "VXLAN of another network, or from a stranger, is the kernel's.",
        "",
    );
    let inner = udp(&at(f.d, 4000), &at(f.a, 53), 10);
    let stranger = if f.is_v4() { "192.0.2.99" } else { "2001:db8:2::99" };
    case.send(tunnelled(f, stranger, 0, &inner)).punted("to-host");
    case.send(tunnelled(f, f.node_b, 1, &inner)).punted("to-host");
    case.send(tunnelled(f, f.node_b, 0, &inner)).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} udp 4000 > 53 data 10", f.d, f.a, f.df),
    );
    // Cut on the underlay: all of it is the kernel's, whichever part comes first.
    let header = VXLAN_HEADER;
    let long = udp(&at(f.d, 4000), &at(f.a, 53), 1200);
    let data = [&header[..], &long.frame(NODE_B.vtep, NODE_A.vtep)].concat();
    let outer = udp_with(&at(f.node_b, 50000), &at(f.node_a, 4789), &data);
    let pieces = outer.cut(600, 0x61);
    for piece in [&pieces[1], &pieces[0], &pieces[2]] {
        case.send(NODE_B.sends(piece)).punted("to-host");
    }
    case
}

fn cross_subnet(f: Family) -> Case {
    let range = if f.is_v4() {
        "10.244.0.0/16"
    } else {
        "fd00:10:244::/48"
    };
    let pool = format!(
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{ name: pods }}\n\
         spec: {{ cidr: \"{range}\", vxlanMode: CrossSubnet, natOutgoing: true }}\n"
    );
    let mut case = f.case(
        "vxlan-cross-subnet",
        "CrossSubnet: plain to a node of our subnet, VXLAN to one beyond a router.",
        &pool,
    );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.d, 53), 10))).tx(
        "uplink",
        format!(
            "node-a > router {} > {} ttl 63 {} udp 4000 > 53 data 10",
            f.a, f.d, f.df
        ),
    );
    case.send(NODE_B.sends(&udp(&at(f.d, 53), &at(f.a, 4000), 20)))
        .tx(
            A.port,
            format!("gw > a {} > {} ttl 63 {} udp 53 > 4000 data 20", f.d, f.a, f.df),
        );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.e, 53), 10))).tx(
        "uplink",
        format!(
            "{} {} > {} ttl 63 {} udp 4000 > 53 data 10",
            f.vxlan_to("c", "node-c"),
            f.a,
            f.e,
            f.df
        ),
    );
    case.send(f.by_vxlan(NODE_C, &udp(&at(f.e, 53), &at(f.a, 4000), 20)))
        .tx(
            A.port,
            format!("gw > a {} > {} ttl 63 {} udp 53 > 4000 data 20", f.e, f.a, f.df),
        );
    case.send(NODE_B.sends(&udp(&at(f.d, 5000), &at(f.a, 53), 20)))
        .tx(
            A.port,
            format!("gw > a {} > {} ttl 63 {} udp 5000 > 53 data 20", f.d, f.a, f.df),
        );
    // The pool demands a tunnel of a node beyond a router.
    case.send(router_sends(&udp(&at(f.e, 5000), &at(f.a, 53), 20)))
        .dropped("spoofed-source");
    case
}

fn congestion() -> Case {
    let f = V4;
    let mut case = f.case(
        "vxlan-ecn",
        "Congestion marks go in and out of the tunnel as RFC 6040 says.",
        "",
    );
    // Into the tunnel: the outer header says what the inner one says; DSCP is copied, too (RFC 2983 section 3.1).
    let outer = |ecn: &str| {
        let bare = f.vxlan_to("b", "node-b");
        if ecn.is_empty() {
            bare
        } else {
            bare.replace("ttl 64", &format!("ttl 64 tos {ecn}"))
        }
    };
    for (tos, mark) in [(0, ""), (1, "0x01"), (2, "0x02"), (3, "0x03"), (0xb9, "0xb9")] {
        let inner = if tos == 0 {
            String::new()
        } else {
            format!("tos {tos:#04x}")
        };
        case.send(A.sends(&udp(&at(f.a, 4000), &at(f.d, 53), 10).tos(tos)))
            .tx(
                "uplink",
                format!(
                    "{} {} > {} ttl 63 {inner} df udp 4000 > 53 data 10",
                    outer(mark),
                    f.a,
                    f.d
                ),
            );
    }
    // Out of the tunnel, section 4.2: (inner, outer) and what the pod gets; nothing means dropped.
    for (inner, outer, result) in [
        (0, 0, Some(0)),
        (0, 1, Some(0)),
        (0, 2, Some(0)),
        (0, 3, None),
        (1, 0, Some(1)),
        (1, 1, Some(1)),
        (1, 2, Some(1)),
        (1, 3, Some(3)),
        (2, 0, Some(2)),
        (2, 1, Some(1)),
        (2, 2, Some(2)),
        (2, 3, Some(3)),
        (3, 0, Some(3)),
        (3, 3, Some(3)),
    ] {
        let packet = udp(&at(f.d, 5000), &at(f.a, 53), 10).tos(0x28 | inner);
        let sent = tunnelled_with(f, &packet, outer);
        let step = case.send(sent);
        match result {
            Some(ecn) => step.tx(
                A.port,
                format!(
                    "gw > a {} > {} ttl 63 tos {:#04x} df udp 5000 > 53 data 10",
                    f.d,
                    f.a,
                    0x28 | ecn
                ),
            ),
            None => step.dropped("malformed"),
        };
    }
    case
}

/// `inner` in VXLAN from node-b with this outer TOS.
fn tunnelled_with(f: Family, inner: &IpPacket, tos: u8) -> Sent {
    let data = [&VXLAN_HEADER[..], &inner.frame(NODE_B.vtep, NODE_A.vtep)].concat();
    NODE_B.sends(&udp_with(&at(f.node_b, 50000), &at(f.node_a, 4789), &data).tos(tos))
}
