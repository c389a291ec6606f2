//! The node's kernel and its pods.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, NODE_B, host_sends, router_sends};
use crate::packet::{ping, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    [both(own_pods), both(remote_pods), both(for_the_node)]
        .into_iter()
        .flatten()
        .collect()
}

fn own_pods(f: Family) -> Case {
    let mut case = f.case("host-own-pods", "The node and its pods reach each other.", "");
    case.send(host_sends(&tcp(&at(f.node_a, 40000), &at(f.a, 80), "S", 1, 0, 0)))
        .tx(
            A.port,
            format!(
                "gw > a {} > {} ttl 63 {} tcp 40000 > 80 S seq 1 ack 0 data 0",
                f.node_a, f.a, f.df
            ),
        );
    case.send(A.sends(&tcp(&at(f.a, 80), &at(f.node_a, 40000), "SA", 9, 2, 0)))
        .tx(
            "host",
            format!(
                "* > * {} > {} ttl 63 {} tcp 80 > 40000 SA seq 9 ack 2 data 0",
                f.a, f.node_a, f.df
            ),
        );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.node_a, 53), 10)))
        .punted("to-host");
    case.send(host_sends(&udp(&at(f.node_a, 53), &at(f.a, 4000), 20)))
        .tx(
            A.port,
            format!(
                "gw > a {} > {} ttl 63 {} udp 53 > 4000 data 20",
                f.node_a, f.a, f.df
            ),
        );
    case.send(A.sends(&ping(f.a, f.node_a, 3, 1, 8)))
        .punted("to-host");
    case
}

fn remote_pods(f: Family) -> Case {
    let mut case = f.case(
        "host-remote-pods",
        "The node reaches pods of other nodes with its tunnel address.",
        "",
    );
    let own = if f.is_v4() {
        "10.244.1.1"
    } else {
        "fd00:10:244:1::1"
    };
    let tunnel = f.vxlan_to("b", "node-b");
    case.send(host_sends(&tcp(&at(own, 40000), &at(f.d, 80), "S", 1, 0, 0)))
        .tx(
            "uplink",
            format!(
                "{tunnel} {own} > {} ttl 63 {} tcp 40000 > 80 S seq 1 ack 0 data 0",
                f.d, f.df
            ),
        );
    case.send(f.by_vxlan(NODE_B, &tcp(&at(f.d, 80), &at(own, 40000), "SA", 9, 2, 0)))
        .tx(
            "host",
            format!(
                "* > * {} > {own} ttl 63 {} tcp 80 > 40000 SA seq 9 ack 2 data 0",
                f.d, f.df
            ),
        );
    // With the node's own address node-b would drop it as spoofed.
    case.send(host_sends(&udp(&at(f.node_a, 50000), &at(f.d, 53), 10)))
        .tx(
            "uplink",
            format!("{tunnel} {own} > {} ttl 63 {} udp 50000 > 53 data 10", f.d, f.df),
        );
    case.send(f.by_vxlan(NODE_B, &udp(&at(f.d, 53), &at(own, 50000), 20)))
        .tx(
            "host",
            format!(
                "* > * {} > {} ttl 63 {} udp 53 > 50000 data 20",
                f.d, f.node_a, f.df
            ),
        );
    case
}

fn for_the_node(f: Family) -> Case {
    let mut case = f.case(
        "host-for-the-node",
        "What comes for the node itself is the kernel's, unchanged.",
        "",
    );
    case.send(router_sends(&tcp(
        &at(f.outside, 40000),
        &at(f.node_a, 22),
        "S",
        1,
        0,
        0,
    )))
    .punted("to-host");
    case.send(NODE_B.sends(&udp(&at(f.node_b, 4000), &at(f.node_a, 53), 10)))
        .punted("to-host");
    case.send(router_sends(&ping(f.outside, f.node_a, 3, 1, 8)))
        .punted("to-host");
    // Even a TTL of 1 lasts that far.
    case.send(router_sends(&ping(f.outside, f.node_a, 3, 2, 8).ttl(1)))
        .punted("to-host");
    let (group, mac) = if f.is_v4() {
        ("224.0.0.18", [1, 0, 0x5e, 0, 0, 18])
    } else {
        ("ff02::12", [0x33, 0x33, 0, 0, 0, 0x12])
    };
    let advertisement = crate::packet::IpPacket::new(
        crate::packet::ip(f.node_b),
        crate::packet::ip(group),
        etherparse::IpNumber::VRRP,
        vec![0; 20],
    );
    case.send(crate::cluster::raw(
        "uplink",
        advertisement.frame(NODE_B.mac, mac),
    ))
    .punted("multicast");
    case
}
