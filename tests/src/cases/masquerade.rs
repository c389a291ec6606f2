//! Packets that leave the cluster with the node's address.

use super::{Family, at, both};
use crate::case::{Bindings, Case};
use crate::cluster::{A, B, host_sends, router_sends, state};
use crate::packet::{ping, pong, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        both(protocols),
        both(one_port_many_pods),
        both(fragments),
        both(never),
    ]
    .into_iter()
    .flatten()
    .collect();
    cases.push(switched_off());
    cases
}

/// The number that a pattern bound to `name`.
fn number(seen: &Bindings, name: &str) -> u16 {
    seen.get(name)
        .and_then(|word| word.parse().ok())
        .expect("a pattern before binds it to a number")
}

fn to_router(f: Family, l4: &str) -> String {
    format!(
        "node-a > router {} > {} ttl 63 {} {l4}",
        f.node_a, f.outside, f.df
    )
}

fn to_a(f: Family, l4: &str) -> String {
    format!("gw > a {} > {} ttl 63 {} {l4}", f.outside, f.a, f.df)
}

fn protocols(f: Family) -> Case {
    let mut case = f.case(
        "masquerade",
        "What leaves the cluster has the node's address and a reserved port; replies find the pod.",
        "",
    );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.outside, 53), 30)))
        .tx("uplink", to_router(f, "udp {u} > 53 data 30"))
        .flow(
            format!("udp {} > {}", at(f.a, 4000), at(f.outside, 53)),
            "udp * > *",
        );
    case.send_after(&["{u}"], move |seen| {
        router_sends(&udp(&at(f.outside, 53), &at(f.node_a, number(seen, "{u}")), 300))
    })
    .tx(A.port, to_a(f, "udp 53 > 4000 data 300"));
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.outside, 53), 31)))
        .tx("uplink", to_router(f, "udp {u} > 53 data 31"));
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.outside, 443), "S", 7, 0, 0)))
        .tx("uplink", to_router(f, "tcp {t} > 443 S seq 7 ack 0 data 0"));
    case.send_after(&["{t}"], move |seen| {
        router_sends(&tcp(
            &at(f.outside, 443),
            &at(f.node_a, number(seen, "{t}")),
            "SA",
            50,
            8,
            0,
        ))
    })
    .tx(A.port, to_a(f, "tcp 443 > 40000 SA seq 50 ack 8 data 0"));
    case.send(A.sends(&ping(f.a, f.outside, 77, 1, 56)))
        .tx("uplink", to_router(f, "echo-request {id} 1 data 56"));
    case.send_after(&["{id}"], move |seen| {
        router_sends(&pong(f.outside, f.node_a, number(seen, "{id}"), 1, 56))
    })
    .tx(A.port, to_a(f, "echo-reply 77 1 data 56"));
    // A port of the range that nobody has is the kernel's to refuse.
    case.send_after(&["{t}", "{u}"], move |seen| {
        let taken = [number(seen, "{u}"), number(seen, "{t}")];
        let free = (50000..60000)
            .find(|port| !taken.contains(port))
            .expect("only two are taken");
        router_sends(&udp(&at(f.outside, 53), &at(f.node_a, free), 10))
    })
    .punted("to-host");
    case
}

fn one_port_many_pods(f: Family) -> Case {
    let mut case = f.case(
        "masquerade-collision",
        "Pods with one source port towards one destination get ports that differ.",
        "",
    );
    case.send(A.sends(&udp(&at(f.a, 50000), &at(f.outside, 53), 1)))
        .tx("uplink", to_router(f, "udp 50000 > 53 data 1"));
    case.send(B.sends(&udp(&at(f.b, 50000), &at(f.outside, 53), 2)))
        .tx("uplink", to_router(f, "udp {b} > 53 data 2"));
    case.send_after(&["{b}"], move |seen| {
        let port = number(seen, "{b}");
        assert!(
            port != 50000 && port >= 45000,
            "a port of the reserved range that is free: {port}"
        );
        router_sends(&udp(&at(f.outside, 53), &at(f.node_a, port), 3))
    })
    .tx(
        B.port,
        format!(
            "gw > b {} > {} ttl 63 {} udp 53 > 50000 data 3",
            f.outside, f.b, f.df
        ),
    );
    case.send(router_sends(&udp(&at(f.outside, 53), &at(f.node_a, 50000), 4)))
        .tx(A.port, to_a(f, "udp 53 > 50000 data 4"));
    case
}

fn fragments(f: Family) -> Case {
    let mut case = f.case(
        "masquerade-fragments",
        "3000 bytes both ways, in fragments, through masquerade.",
        "",
    );
    for piece in udp(&at(f.a, 4000), &at(f.outside, 53), 3000).cut(1280, 0x71) {
        let (offset, more) = piece.fragment.expect("cut");
        let more = if more { "more" } else { "" };
        let data = piece.payload.len();
        let tail = if offset == 0 {
            format!("udp {{u}} > 53 data {}", data - 8)
        } else {
            format!("data {data}")
        };
        case.send(A.sends(&piece)).tx(
            "uplink",
            format!(
                "node-a > router {} > {} ttl 63 fragment 71 at {offset} {more} {tail}",
                f.node_a, f.outside
            ),
        );
    }
    for index in [2, 0, 1] {
        let made = udp(&at(f.outside, 53), &at(f.node_a, 1), 3000).cut(1280, 0x72)[index].clone();
        let (offset, more) = made.fragment.expect("cut");
        let more = if more { "more" } else { "" };
        let data = made.payload.len();
        let tail = if offset == 0 {
            format!("udp 53 > 4000 data {}", data - 8)
        } else {
            format!("data {data}")
        };
        case.send_after(&["{u}"], move |seen| {
            let pieces = udp(&at(f.outside, 53), &at(f.node_a, number(seen, "{u}")), 3000).cut(1280, 0x72);
            router_sends(&pieces[index])
        })
        .tx(
            A.port,
            format!(
                "gw > a {} > {} ttl 63 fragment 72 at {offset} {more} {tail}",
                f.outside, f.a
            ),
        );
    }
    case
}

fn never(f: Family) -> Case {
    let mut case = f.case(
        "masquerade-never",
        "Pods, nodes and the host's own packets keep their addresses.",
        "",
    );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.node_b, 53), 10)))
        .tx(
            "uplink",
            format!(
                "node-a > node-b {} > {} ttl 63 {} udp 4000 > 53 data 10",
                f.a, f.node_b, f.df
            ),
        );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.node_c, 53), 10)))
        .tx(
            "uplink",
            format!(
                "node-a > node-c {} > {} ttl 63 {} udp 4000 > 53 data 10",
                f.a, f.node_c, f.df
            ),
        );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.node_a, 53), 10)))
        .punted("to-host");
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.d, 53), 10))).tx(
        "uplink",
        format!(
            "{} {} > {} ttl 63 {} udp 4000 > 53 data 10",
            f.vxlan_to("b", "node-b"),
            f.a,
            f.d,
            f.df
        ),
    );
    case.send(host_sends(&udp(&at(f.node_a, 4000), &at(f.a, 53), 10)))
        .tx(
            A.port,
            format!(
                "gw > a {} > {} ttl 63 {} udp 4000 > 53 data 10",
                f.node_a, f.a, f.df
            ),
        );
    case
}

fn switched_off() -> Case {
    let f = super::V4;
    let pool = "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: pods }\nspec: { cidr: 10.244.0.0/16, vxlanMode: Always, natOutgoing: false }\n";
    let mut case = Case::new(
        "masquerade-off",
        "A pool without natOutgoing keeps the pod's address to the outside.",
        state(pool),
    );
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.outside, 53), 30)))
        .tx(
            "uplink",
            format!(
                "node-a > router {} > {} ttl 63 df udp 4000 > 53 data 30",
                f.a, f.outside
            ),
        );
    case.send(router_sends(&udp(&at(f.outside, 53), &at(f.a, 4000), 30)))
        .tx(A.port, to_a(f, "udp 53 > 4000 data 30"));
    case
}
