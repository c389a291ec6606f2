//! `ClusterIP` Services.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B, C, NODE_B, host_sends};
use crate::packet::{ping, sctp, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    [
        both(protocols),
        both(remote_backend),
        both(spread),
        both(hairpin),
        both(refused),
        both(from_host),
        both(fragments),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Family {
    fn vip(self, last: u8) -> String {
        if self.is_v4() {
            format!("10.96.0.{last}")
        } else {
            format!("fd00:10:96::{last}")
        }
    }

    /// Service `default/<name>` at VIP `last` with backends at `addresses`: TCP 80 to 8080, UDP 53 to 5353, SCTP 70 to 7000.
    fn service(self, name: &str, last: u8, addresses: &[&str]) -> String {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|address| format!("  - {{ addresses: [\"{address}\"] }}\n"))
            .collect();
        let endpoints = if endpoints.is_empty() {
            "endpoints: []\n".to_owned()
        } else {
            format!("endpoints:\n{}", endpoints.concat())
        };
        format!(
            "---\n\
             apiVersion: v1\n\
             kind: Service\n\
             metadata: {{ namespace: default, name: {name} }}\n\
             spec:\n\
             \x20 clusterIP: \"{vip}\"\n\
             \x20 clusterIPs: [\"{vip}\"]\n\
             \x20 ipFamilies: [{family}]\n\
             \x20 ports:\n\
             \x20   - {{ name: http, port: 80, protocol: TCP, targetPort: 8080 }}\n\
             \x20   - {{ name: dns, port: 53, protocol: UDP, targetPort: 5353 }}\n\
             \x20   - {{ name: sig, port: 70, protocol: SCTP, targetPort: 7000 }}\n\
             ---\n\
             apiVersion: discovery.k8s.io/v1\n\
             kind: EndpointSlice\n\
             metadata: {{ namespace: default, name: {name}-1, labels: {{ kubernetes.io/service-name: {name} }} }}\n\
             addressType: {family}\n\
             ports:\n\
             \x20 - {{ name: http, port: 8080, protocol: TCP }}\n\
             \x20 - {{ name: dns, port: 5353, protocol: UDP }}\n\
             \x20 - {{ name: sig, port: 7000, protocol: SCTP }}\n\
             {endpoints}",
            vip = self.vip(last),
            family = if self.is_v4() { "IPv4" } else { "IPv6" },
        )
    }
}

fn protocols(f: Family) -> Case {
    let mut case = f.case(
        "service-protocols",
        "TCP, UDP and SCTP to a VIP reach the backend, replies come from the VIP.",
        &f.service("web", 10, &[f.b]),
    );
    let vip = f.vip(10);
    let to_b = |l4: &str| format!("gw > b {} > {} ttl 63 {} {l4}", f.a, f.b, f.df);
    let to_a = |l4: &str| format!("gw > a {vip} > {} ttl 63 {} {l4}", f.a, f.df);
    let flow = |proto: &str, client: u16, port: u16, backend: u16| {
        (
            format!("{proto} {} > {}", at(f.a, client), at(&vip, port)),
            format!("{proto} {} > {}", at(f.b, backend), at(f.a, client)),
        )
    };
    let (orig, reply) = flow("tcp", 40000, 80, 8080);
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&vip, 80), "S", 1, 0, 0)))
        .tx(B.port, to_b("tcp 40000 > 8080 S seq 1 ack 0 data 0"))
        .service("default/web:http")
        .flow(&*orig, &*reply);
    case.send(B.sends(&tcp(&at(f.b, 8080), &at(f.a, 40000), "SA", 9, 2, 0)))
        .tx(A.port, to_a("tcp 80 > 40000 SA seq 9 ack 2 data 0"))
        .flow(&*orig, &*reply);
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&vip, 80), "PA", 2, 10, 700)))
        .tx(B.port, to_b("tcp 40000 > 8080 PA seq 2 ack 10 data 700"));
    case.send(B.sends(&tcp(&at(f.b, 8080), &at(f.a, 40000), "PA", 10, 702, 701)))
        .tx(A.port, to_a("tcp 80 > 40000 PA seq 10 ack 702 data 701"));
    let (orig, reply) = flow("udp", 4000, 53, 5353);
    case.send(A.sends(&udp(&at(f.a, 4000), &at(&vip, 53), 30)))
        .tx(B.port, to_b("udp 4000 > 5353 data 30"))
        .service("default/web:dns")
        .flow(&*orig, &*reply);
    case.send(B.sends(&udp(&at(f.b, 5353), &at(f.a, 4000), 90)))
        .tx(A.port, to_a("udp 53 > 4000 data 90"));
    let (orig, reply) = flow("sctp", 6000, 70, 7000);
    case.send(A.sends(&sctp(&at(f.a, 6000), &at(&vip, 70), 1, 16)))
        .tx(B.port, to_b("sctp 6000 > 7000 chunk 1 data 20"))
        .service("default/web:sig")
        .flow(&*orig, &*reply);
    case.send(B.sends(&sctp(&at(f.b, 7000), &at(f.a, 6000), 2, 20)))
        .tx(A.port, to_a("sctp 70 > 6000 chunk 2 data 24"));
    // The backend itself, without its VIP, from the same client port, is another connection.
    case.send(A.sends(&tcp(&at(f.a, 40001), &at(f.b, 8080), "S", 1, 0, 0)))
        .tx(B.port, to_b("tcp 40001 > 8080 S seq 1 ack 0 data 0"));
    case.send(B.sends(&tcp(&at(f.b, 8080), &at(f.a, 40001), "SA", 9, 2, 0)))
        .tx(
            A.port,
            format!(
                "gw > a {} > {} ttl 63 {} tcp 8080 > 40001 SA seq 9 ack 2 data 0",
                f.b, f.a, f.df
            ),
        );
    case
}

fn remote_backend(f: Family) -> Case {
    let mut case = f.case(
        "service-remote",
        "A backend on another node is reached by VXLAN, its reply comes back from the VIP.",
        &f.service("web", 10, &[f.d]),
    );
    let vip = f.vip(10);
    let tunnel = f.vxlan_to("b", "node-b");
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&vip, 80), "S", 1, 0, 0)))
        .tx(
            "uplink",
            format!(
                "{tunnel} {} > {} ttl 63 {} tcp 40000 > 8080 S seq 1 ack 0 data 0",
                f.a, f.d, f.df
            ),
        )
        .service("default/web:http");
    case.send(f.by_vxlan(NODE_B, &tcp(&at(f.d, 8080), &at(f.a, 40000), "SA", 9, 2, 0)))
        .tx(
            A.port,
            format!(
                "gw > a {vip} > {} ttl 63 {} tcp 80 > 40000 SA seq 9 ack 2 data 0",
                f.a, f.df
            ),
        )
        .service("default/web:http");
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&vip, 80), "A", 2, 10, 0)))
        .tx(
            "uplink",
            format!(
                "{tunnel} {} > {} ttl 63 {} tcp 40000 > 8080 A seq 2 ack 10 data 0",
                f.a, f.d, f.df
            ),
        );
    case
}

fn spread(f: Family) -> Case {
    let mut case = f.case(
        "service-spread",
        "Connections spread over the backends, and each stays where it is.",
        &f.service("web", 10, &[f.b, f.c]),
    );
    let vip = f.vip(10);
    for port in 40000..40016_u16 {
        let mut sends = |flags, seq, ack| {
            case.send(A.sends(&tcp(&at(f.a, port), &at(&vip, 80), flags, seq, ack, 0))).tx(
                "*",
                format!("gw > {{mac-{port}}} {} > {{backend-{port}}} ttl 63 {} tcp {port} > 8080 {flags} seq {seq} ack {ack} data 0", f.a, f.df),
            );
        };
        sends("S", 1, 0);
        // Sent again: the same backend.
        sends("S", 1, 0);
    }
    case
}

fn hairpin(f: Family) -> Case {
    let mut case = f.case(
        "service-hairpin",
        "A pod reaches itself by its own VIP: the packet comes back from the node's address.",
        &f.service("web", 10, &[f.b]),
    );
    let vip = f.vip(10);
    case.send(B.sends(&tcp(&at(f.b, 40000), &at(&vip, 80), "S", 1, 0, 0)))
        .tx(
            B.port,
            format!(
                "gw > b {} > {} ttl 63 {} tcp {{p}} > 8080 S seq 1 ack 0 data 0",
                f.node_a, f.b, f.df
            ),
        )
        .service("default/web:http");
    case.send_after(&["{p}"], move |seen| {
        B.sends(&tcp(
            &at(f.b, 8080),
            &at(f.node_a, seen["{p}"].parse().unwrap_or(0)),
            "SA",
            9,
            2,
            0,
        ))
    })
    .tx(
        B.port,
        format!(
            "gw > b {} > {} ttl 63 {} tcp 80 > 40000 SA seq 9 ack 2 data 0",
            vip, f.b, f.df
        ),
    );
    case.send(B.sends(&tcp(&at(f.b, 40000), &at(&vip, 80), "A", 2, 10, 0)))
        .tx(
            B.port,
            format!(
                "gw > b {} > {} ttl 63 {} tcp {{p}} > 8080 A seq 2 ack 10 data 0",
                f.node_a, f.b, f.df
            ),
        );
    case
}

fn refused(f: Family) -> Case {
    let range = if f.is_v4() {
        "10.96.0.0/16"
    } else {
        "fd00:10:96::/112"
    };
    let cidr = format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {{ name: services }}\nspec: {{ cidrs: [\"{range}\"] }}\n"
    );
    let state = f.service("none", 20, &[]) + &f.service("web", 10, &[f.b]) + &cidr;
    let mut case = f.case(
        "service-refused",
        "Without endpoints or such a port the client is told; addresses nobody has stay silent.",
        &state,
    );
    let (none, web, unassigned) = (f.vip(20), f.vip(10), f.vip(30));
    let (kind, tos) = if f.is_v4() {
        ("icmp 3/3 0", "tos 0xc0")
    } else {
        ("icmp 1/4 0", "")
    };
    let reset = |vip: &str, port: u16| {
        format!(
            "gw > a {vip} > {} ttl 64 {} tcp {port} > 40000 RA seq 0 ack 2 data 0",
            f.a, f.df
        )
    };
    let told = |vip: &str, l4: &str| {
        format!(
            "gw > a {} > {} ttl 64 {tos} {kind} [ {} > {vip} ttl 64 {} {l4} ]",
            f.node_a, f.a, f.a, f.df
        )
    };
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&none, 80), "S", 1, 0, 0)))
        .dropped("no-endpoints")
        .answer(A.port, reset(&none, 80))
        .service("default/none:http");
    case.send(A.sends(&udp(&at(f.a, 4000), &at(&none, 53), 10)))
        .dropped("no-endpoints")
        .answer(A.port, told(&none, "udp 4000 > 53"))
        .service("default/none:dns");
    case.send(A.sends(&sctp(&at(f.a, 6000), &at(&none, 70), 1, 16)))
        .dropped("no-endpoints")
        .answer(A.port, told(&none, "sctp 6000 > 70"));
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&web, 81), "S", 1, 0, 0)))
        .dropped("no-such-port")
        .answer(A.port, reset(&web, 81));
    case.send(A.sends(&udp(&at(f.a, 4000), &at(&web, 80), 10)))
        .dropped("no-such-port")
        .answer(A.port, told(&web, "udp 4000 > 80"));
    for packet in [
        tcp(&at(f.a, 40000), &at(&unassigned, 80), "S", 1, 0, 0),
        udp(&at(f.a, 4000), &at(&unassigned, 53), 10),
        ping(f.a, &unassigned, 1, 1, 8),
    ] {
        case.send(A.sends(&packet)).dropped("unassigned-service-address");
    }
    // In the middle of a connection that nobody knows.
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&web, 80), "A", 1000, 2000, 5)))
        .dropped("no-flow")
        .answer(
            A.port,
            format!(
                "gw > a {web} > {} ttl 64 {} tcp 80 > 40000 R seq 2000 ack 0 data 0",
                f.a, f.df
            ),
        );
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(&web, 80), "R", 1000, 0, 0)))
        .dropped("no-flow");
    case
}

fn from_host(f: Family) -> Case {
    let mut case = f.case(
        "service-from-host",
        "A process of the node reaches a VIP whose backend is a local pod.",
        &f.service("web", 10, &[f.b]),
    );
    let vip = f.vip(10);
    case.send(host_sends(&tcp(
        &at(f.node_a, 40000),
        &at(&vip, 80),
        "S",
        1,
        0,
        0,
    )))
    .tx(
        B.port,
        format!(
            "gw > b {} > {} ttl 63 {} tcp 40000 > 8080 S seq 1 ack 0 data 0",
            f.node_a, f.b, f.df
        ),
    )
    .service("default/web:http");
    case.send(B.sends(&tcp(&at(f.b, 8080), &at(f.node_a, 40000), "SA", 9, 2, 0)))
        .tx(
            "host",
            format!(
                "* > * {vip} > {} ttl 63 {} tcp 80 > 40000 SA seq 9 ack 2 data 0",
                f.node_a, f.df
            ),
        )
        .service("default/web:http");
    case
}

fn fragments(f: Family) -> Case {
    let mut case = f.case(
        "service-fragments",
        "All fragments of a datagram to a VIP reach the backend, and those of the reply the client.",
        &f.service("web", 10, &[f.b]),
    );
    let vip = f.vip(10);
    for piece in udp(&at(f.a, 4000), &at(&vip, 53), 2000).cut(1280, 0x61) {
        let (offset, more) = piece.fragment.expect("cut");
        let tail = if more {
            format!("more udp 4000 > 5353 data {}", piece.payload.len() - 8)
        } else {
            format!("data {}", piece.payload.len())
        };
        case.send(A.sends(&piece)).tx(
            B.port,
            format!("gw > b {} > {} ttl 63 fragment 61 at {offset} {tail}", f.a, f.b),
        );
    }
    for piece in udp(&at(f.b, 5353), &at(f.a, 4000), 2000).cut(1280, 0x62) {
        let (offset, more) = piece.fragment.expect("cut");
        let tail = if more {
            format!("more udp 53 > 4000 data {}", piece.payload.len() - 8)
        } else {
            format!("data {}", piece.payload.len())
        };
        case.send(B.sends(&piece)).tx(
            A.port,
            format!("gw > a {vip} > {} ttl 63 fragment 62 at {offset} {tail}", f.a),
        );
    }
    case.send(C.sends(&udp(&at(f.c, 4000), &at(&vip, 53), 5))).tx(
        B.port,
        format!("gw > b {} > {} ttl 63 {} udp 4000 > 5353 data 5", f.c, f.b, f.df),
    );
    case
}
