//! TTL and hop limit.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B, NODE_B, router_sends};
use crate::packet::{icmp_error, udp};

pub(super) fn cases() -> Vec<Case> {
    both(exceeded)
}

fn exceeded(f: Family) -> Case {
    let mut case = f.case(
        "ttl",
        "A packet whose TTL runs out is answered from the node's address; errors are not.",
        "",
    );
    let (kind, tos) = if f.is_v4() {
        ("icmp 11/0 0", "tos 0xc0")
    } else {
        ("icmp 3/0 0", "")
    };
    let packet = udp(&at(f.a, 33000), &at(f.b, 33434), 20);
    let told = |mac: &str, src: &str, ttl: u8, quoted: &str| {
        format!(
            "{mac} {} > {src} ttl 64 {tos} {kind} [ {src} > {quoted} ttl {ttl} {} udp 33000 > 33434 ]",
            f.node_a, f.df
        )
    };
    for ttl in [1, 0] {
        case.send(A.sends(&packet.clone().ttl(ttl)))
            .dropped("ttl-exceeded")
            .answer(A.port, told("gw > a", f.a, ttl, f.b));
    }
    case.send(A.sends(&packet.clone().ttl(2))).tx(
        B.port,
        format!(
            "gw > b {} > {} ttl 1 {} udp 33000 > 33434 data 20",
            f.a, f.b, f.df
        ),
    );
    // Also when the flow exists.
    case.send(A.sends(&packet.clone().ttl(1)))
        .dropped("ttl-exceeded")
        .answer(A.port, told("gw > a", f.a, 1, f.b));
    let from_outside = udp(&at(f.outside, 33000), &at(f.a, 33434), 20);
    case.send(router_sends(&from_outside.ttl(1)))
        .dropped("ttl-exceeded")
        .answer("uplink", told("node-a > router", f.outside, 1, f.a));
    // A packet that came by a tunnel is answered through that tunnel.
    let from_d = udp(&at(f.d, 33000), &at(f.a, 33434), 20);
    case.send(f.by_vxlan(NODE_B, &from_d.ttl(1)))
        .dropped("ttl-exceeded")
        .answer(
            "uplink",
            format!(
                "{} {} > {} ttl * {tos} {kind} [ {} > {} ttl 1 {} udp 33000 > 33434 ]",
                if f.is_v4() {
                    f.vxlan_to("b", "node-b")
                        .replace("ttl 64", &format!("ttl 64 {tos}"))
                } else {
                    f.vxlan_to("b", "node-b")
                },
                "{router}",
                f.d,
                f.d,
                f.a,
                f.df
            ),
        );
    let (error, code) = if f.is_v4() { (3, 3) } else { (1, 4) };
    case.send(B.sends(&icmp_error(f.b, f.a, error, code, 0, &packet, 48).ttl(1)))
        .dropped("ttl-exceeded");
    case
}
