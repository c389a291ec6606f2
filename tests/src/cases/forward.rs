//! Pod to pod on one node.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B};
use crate::packet::{IpPacket, ip, ping, pong, sctp, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    [
        both(tcp_connection),
        both(other_protocols),
        both(no_such_pod),
        both(dscp_and_options),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn tcp_connection(f: Family) -> Case {
    let mut case = f.case(
        "forward-tcp",
        "Two pods of one node hold a TCP connection, both directions one flow.",
        "",
    );
    let (a, b) = (at(f.a, 40000), at(f.b, 80));
    let (orig, reply) = (format!("tcp {a} > {b}"), format!("tcp {b} > {a}"));
    let to_b = |tail: &str| format!("gw > b {} > {} ttl 63 {} tcp 40000 > 80 {tail}", f.a, f.b, f.df);
    let to_a = |tail: &str| format!("gw > a {} > {} ttl 63 {} tcp 80 > 40000 {tail}", f.b, f.a, f.df);
    let mut a_sends = |flags, seq, ack, len, tail: &str| {
        case.send(A.sends(&tcp(&a, &b, flags, seq, ack, len)))
            .tx(B.port, to_b(tail))
            .flow(&*orig, &*reply)
            .by("");
    };
    a_sends("S", 100, 0, 0, "S seq 100 ack 0 data 0");
    case.send(B.sends(&tcp(&b, &a, "SA", 500, 101, 0)))
        .tx(A.port, to_a("SA seq 500 ack 101 data 0"))
        .flow(&*orig, &*reply);
    case.send(A.sends(&tcp(&a, &b, "A", 101, 501, 0)))
        .tx(B.port, to_b("A seq 101 ack 501 data 0"));
    case.send(A.sends(&tcp(&a, &b, "PA", 101, 501, 1000)))
        .tx(B.port, to_b("PA seq 101 ack 501 data 1000"));
    case.send(B.sends(&tcp(&b, &a, "A", 501, 1101, 7)))
        .tx(A.port, to_a("A seq 501 ack 1101 data 7"));
    case.send(A.sends(&tcp(&a, &b, "FA", 1101, 508, 0)))
        .tx(B.port, to_b("FA seq 1101 ack 508 data 0"));
    case.send(B.sends(&tcp(&b, &a, "FA", 508, 1102, 0)))
        .tx(A.port, to_a("FA seq 508 ack 1102 data 0"));
    case.send(A.sends(&tcp(&a, &b, "A", 1102, 509, 0)))
        .tx(B.port, to_b("A seq 1102 ack 509 data 0"));
    case
}

fn other_protocols(f: Family) -> Case {
    let mut case = f.case(
        "forward-protocols",
        "UDP, SCTP, echo and protocols without ports are forwarded and tracked.",
        "",
    );
    let ports = |from, to| (at(f.a, from), at(f.b, to));
    let (a, b) = ports(4000, 53);
    let to_b = |tail: &str| format!("gw > b {} > {} ttl 63 {} {tail}", f.a, f.b, f.df);
    let to_a = |tail: &str| format!("gw > a {} > {} ttl 63 {} {tail}", f.b, f.a, f.df);
    case.send(A.sends(&udp(&a, &b, 33)))
        .tx(B.port, to_b("udp 4000 > 53 data 33"))
        .flow(format!("udp {a} > {b}"), format!("udp {b} > {a}"));
    case.send(B.sends(&udp(&b, &a, 99)))
        .tx(A.port, to_a("udp 53 > 4000 data 99"))
        .flow(format!("udp {a} > {b}"), format!("udp {b} > {a}"));
    let (a, b) = ports(5000, 5001);
    case.send(A.sends(&sctp(&a, &b, 1, 16)))
        .tx(B.port, to_b("sctp 5000 > 5001 chunk 1 data 20"))
        .flow(format!("sctp {a} > {b}"), format!("sctp {b} > {a}"));
    case.send(B.sends(&sctp(&b, &a, 2, 16)))
        .tx(A.port, to_a("sctp 5001 > 5000 chunk 2 data 20"));
    case.send(A.sends(&ping(f.a, f.b, 7, 1, 56)))
        .tx(B.port, to_b("echo-request 7 1 data 56"))
        .flow(
            format!("icmp {} > {} id 7", f.a, f.b),
            format!("icmp {} > {} id 7", f.b, f.a),
        );
    case.send(B.sends(&pong(f.b, f.a, 7, 1, 56)))
        .tx(A.port, to_a("echo-reply 7 1 data 56"));
    let gre = |from, to| IpPacket::new(ip(from), ip(to), etherparse::IpNumber(47), vec![0; 24]);
    case.send(A.sends(&gre(f.a, f.b)))
        .tx(B.port, to_b("proto 47 data 24"))
        .flow(
            format!("ip proto 47 {} > {}", f.a, f.b),
            format!("ip proto 47 {} > {}", f.b, f.a),
        );
    case.send(B.sends(&gre(f.b, f.a)))
        .tx(A.port, to_a("proto 47 data 24"));
    // The other family's ICMP is a protocol like any.
    let other = if f.is_v4() { 58 } else { 1 };
    let odd = IpPacket::new(ip(f.a), ip(f.b), etherparse::IpNumber(other), vec![128; 24]);
    case.send(A.sends(&odd))
        .tx(B.port, to_b(&format!("proto {other} data 24")))
        .flow(
            format!("ip proto {other} {} > {}", f.a, f.b),
            format!("ip proto {other} {} > {}", f.b, f.a),
        );
    case
}

fn no_such_pod(f: Family) -> Case {
    let mut case = f.case(
        "forward-no-such-pod",
        "A packet to an address of our own range that no pod has is unreachable.",
        "",
    );
    let packet = udp(&at(f.a, 4000), &at(f.nobody, 53), 10);
    let kind = if f.is_v4() { "icmp 3/0 0" } else { "icmp 1/0 0" };
    case.send(A.sends(&packet)).dropped("no-route").answer(
        A.port,
        format!(
            "gw > a {} > {} ttl 64 {} {kind} [ {} > {} ttl 64 {} udp 4000 > 53 ]",
            f.node_a,
            f.a,
            if f.is_v4() { "tos 0xc0" } else { "" },
            f.a,
            f.nobody,
            f.df
        ),
    );
    case
}

fn dscp_and_options(f: Family) -> Case {
    let mut case = f.case(
        "forward-marks",
        "DSCP, ECN and options (IPv6: extension headers) go through unchanged.",
        "",
    );
    let mut packet = udp(&at(f.a, 4000), &at(f.b, 53), 10).tos(0xb9);
    let marked = if f.is_v4() {
        packet.options = vec![148, 4, 0, 0];
        "tos 0xb9 df options 4"
    } else {
        packet.extension = Some((60, vec![0, 1, 4, 0, 0, 0, 0]));
        "tos 0xb9 extension 60"
    };
    for _ in 0..2 {
        case.send(A.sends(&packet)).tx(
            B.port,
            format!("gw > b {} > {} ttl 63 {marked} udp 4000 > 53 data 10", f.a, f.b),
        );
    }
    case
}
