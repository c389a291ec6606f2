//! `NetworkPolicy`.

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B, C, host_sends, router_sends};
use crate::packet::{ping, pong, sctp, tcp, udp};

pub(super) const DENY_ALL_TO_B: &str = r"---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { namespace: default, name: deny-all }
spec: { podSelector: { matchLabels: { app: b } }, policyTypes: [Ingress] }
";

pub(super) fn cases() -> Vec<Case> {
    [
        both(default_deny),
        both(ports),
        both(peers),
        both(address_ranges),
        both(egress),
        both(both_ends),
        both(other_protocols),
        both(nodes_and_self),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A `NetworkPolicy` on pods `app: <app>` of namespace default, `types` and `rules` as YAML.
fn policy(name: &str, app: &str, types: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ namespace: default, name: {name} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: {app} }} }}\n  policyTypes: [{types}]\n{rules}"
    )
}

fn to_b(f: Family, src: &str, l4: &str) -> String {
    format!("gw > b {src} > {} ttl 63 {} {l4}", f.b, f.df)
}

fn default_deny(f: Family) -> Case {
    let mut case = f.case(
        "policy-default-deny",
        "A policy without rules denies everything, but what the pod itself opens.",
        DENY_ALL_TO_B,
    );
    let denied = "NetworkPolicy default/deny-all ingress default";
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.b, 80), "S", 1, 0, 0)))
        .dropped("policy-denied")
        .by(denied);
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.b, 80), "S", 1, 0, 0)))
        .dropped("policy-denied")
        .by(denied);
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.b, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case.send(A.sends(&ping(f.a, f.b, 1, 1, 8)))
        .dropped("policy-denied")
        .by(denied);
    case.send(router_sends(&udp(&at(f.outside, 4000), &at(f.b, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case.send(B.sends(&udp(&at(f.b, 5000), &at(f.a, 53), 10))).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} udp 5000 > 53 data 10", f.b, f.a, f.df),
    );
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 5000), 20)))
        .tx(B.port, to_b(f, f.a, "udp 53 > 5000 data 20"));
    // The answer to b's packet opens nothing else.
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 5001), 20)))
        .dropped("policy-denied")
        .by(denied);
    case
}

fn ports(f: Family) -> Case {
    let rules = "  ingress:\n\
        \x20   - ports: [{ port: http }]\n\
        \x20   - ports: [{ protocol: UDP, port: dns }, { protocol: TCP, port: 9000, endPort: 9002 }]\n\
        \x20   - ports: [{ protocol: SCTP, port: 7000 }, { protocol: SCTP, port: 7001 }]\n";
    let state = policy("ports", "b", "Ingress", rules);
    let mut case = f.case(
        "policy-ports",
        "Rules by number, range and name, which the destination pod resolves.",
        &state,
    );
    let by = |rule: u32| format!("NetworkPolicy default/ports ingress rule {rule}");
    let denied = "NetworkPolicy default/ports ingress default";
    for (port, rule) in [
        (8080, Some(0)),
        (80, None),
        (8999, None),
        (9000, Some(1)),
        (9001, Some(1)),
        (9002, Some(1)),
        (9003, None),
    ] {
        let step = case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.b, port), "S", 1, 0, 0)));
        match rule {
            Some(rule) => step
                .tx(
                    B.port,
                    to_b(f, f.a, &format!("tcp 40000 > {port} S seq 1 ack 0 data 0")),
                )
                .by(&by(rule)),
            None => step.dropped("policy-denied").by(denied),
        };
    }
    for (port, rule) in [(5353, Some(1)), (8080, None), (9000, None)] {
        let step = case.send(A.sends(&udp(&at(f.a, 4000), &at(f.b, port), 10)));
        match rule {
            Some(rule) => step
                .tx(B.port, to_b(f, f.a, &format!("udp 4000 > {port} data 10")))
                .by(&by(rule)),
            None => step.dropped("policy-denied").by(denied),
        };
    }
    for (port, rule) in [(7000, Some(2)), (7001, Some(2)), (7002, None)] {
        let step = case.send(A.sends(&sctp(&at(f.a, 6000), &at(f.b, port), 1, 16)));
        match rule {
            Some(rule) => step
                .tx(
                    B.port,
                    to_b(f, f.a, &format!("sctp 6000 > {port} chunk 1 data 20")),
                )
                .by(&by(rule)),
            None => step.dropped("policy-denied").by(denied),
        };
    }
    case
}

fn peers(f: Family) -> Case {
    let rules = "  ingress:\n\
        \x20   - from: [{ podSelector: { matchLabels: { app: a } } }]\n\
        \x20     ports: [{ port: 80 }]\n\
        \x20   - from: [{ namespaceSelector: { matchLabels: { team: blue } } }]\n\
        \x20     ports: [{ port: 81 }]\n\
        \x20   - from: [{ namespaceSelector: { matchLabels: { team: blue } }, podSelector: { matchLabels: { app: a } } }]\n\
        \x20     ports: [{ port: 82 }]\n";
    let state = policy("peers", "b", "Ingress", rules);
    let mut case = f.case(
        "policy-peers",
        "Pods and namespaces by label: both in one peer must hold, another namespace needs its selector.",
        &state,
    );
    for (pod, src, port, rule) in [
        (A, f.a, 80, Some(0)),
        (A, f.a, 81, None),
        (A, f.a, 82, None),
        (C, f.c, 80, None),
        (C, f.c, 81, Some(1)),
        (C, f.c, 82, None),
    ] {
        let step = case.send(pod.sends(&tcp(&at(src, 40000), &at(f.b, port), "S", 1, 0, 0)));
        match rule {
            Some(rule) => step
                .tx(
                    B.port,
                    to_b(f, src, &format!("tcp 40000 > {port} S seq 1 ack 0 data 0")),
                )
                .by(&format!("NetworkPolicy default/peers ingress rule {rule}")),
            None => step
                .dropped("policy-denied")
                .by("NetworkPolicy default/peers ingress default"),
        };
    }
    case
}

fn address_ranges(f: Family) -> Case {
    let (range, except) = if f.is_v4() {
        ("10.244.1.0/24", "10.244.1.12/32")
    } else {
        ("fd00:10:244:1::/64", "fd00:10:244:1::12/128")
    };
    let rules =
        format!("  ingress:\n    - from: [{{ ipBlock: {{ cidr: \"{range}\", except: [\"{except}\"] }} }}]\n");
    let state = policy("ranges", "b", "Ingress", &rules);
    let mut case = f.case(
        "policy-ip-block",
        "An address range less its exceptions; pods' addresses count as any other.",
        &state,
    );
    let by = "NetworkPolicy default/ranges ingress rule 0";
    let denied = "NetworkPolicy default/ranges ingress default";
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.b, 53), 10)))
        .tx(B.port, to_b(f, f.a, "udp 4000 > 53 data 10"))
        .by(by);
    case.send(C.sends(&udp(&at(f.c, 4000), &at(f.b, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case.send(router_sends(&udp(&at(f.outside, 4000), &at(f.b, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case
}

fn egress(f: Family) -> Case {
    let rules = "  egress:\n\
        \x20   - to: [{ podSelector: { matchLabels: { app: b } } }]\n\
        \x20     ports: [{ protocol: TCP, port: 80 }]\n";
    let state = policy("egress", "a", "Egress", rules);
    let mut case = f.case(
        "policy-egress",
        "What a pod may send; what it is asked it may answer.",
        &state,
    );
    let denied = "NetworkPolicy default/egress egress default";
    case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.b, 80), "S", 1, 0, 0)))
        .tx(B.port, to_b(f, f.a, "tcp 40000 > 80 S seq 1 ack 0 data 0"))
        .by("NetworkPolicy default/egress egress rule 0");
    case.send(A.sends(&tcp(&at(f.a, 40001), &at(f.b, 81), "S", 1, 0, 0)))
        .dropped("policy-denied")
        .by(denied);
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.d, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.outside, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case.send(A.sends(&udp(&at(f.a, 4000), &at(f.node_a, 53), 10)))
        .dropped("policy-denied")
        .by(denied);
    case.send(B.sends(&udp(&at(f.b, 5000), &at(f.a, 53), 10))).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} udp 5000 > 53 data 10", f.b, f.a, f.df),
    );
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 5000), 20)))
        .tx(B.port, to_b(f, f.a, "udp 53 > 5000 data 20"));
    case
}

fn both_ends(f: Family) -> Case {
    let out = policy(
        "out",
        "a",
        "Egress",
        "  egress:\n    - ports: [{ port: 80 }, { port: 81 }]\n",
    );
    let into = policy(
        "into",
        "b",
        "Ingress",
        "  ingress:\n    - ports: [{ port: 81 }, { port: 82 }]\n",
    );
    let mut case = f.case(
        "policy-both-ends",
        "Both ends must allow; the verdict names who refused, else who let in.",
        &(out + &into),
    );
    let expected = [
        (80, Some("NetworkPolicy default/into ingress default")),
        (81, None),
        (82, Some("NetworkPolicy default/out egress default")),
        (83, Some("NetworkPolicy default/out egress default")),
    ];
    for (port, denied) in expected {
        let step = case.send(A.sends(&tcp(&at(f.a, 40000), &at(f.b, port), "S", 1, 0, 0)));
        match denied {
            Some(by) => step.dropped("policy-denied").by(by),
            None => step
                .tx(B.port, to_b(f, f.a, "tcp 40000 > 81 S seq 1 ack 0 data 0"))
                .by("NetworkPolicy default/into ingress rule 0"),
        };
    }
    case
}

fn other_protocols(f: Family) -> Case {
    let rules = "  ingress:\n\
        \x20   - from: [{ podSelector: { matchLabels: { app: a } } }]\n\
        \x20   - ports: [{ protocol: TCP }]\n";
    let state = policy("protocols", "b", "Ingress", rules);
    let mut case = f.case(
        "policy-protocols",
        "A rule without ports admits every protocol, one with ports only TCP, UDP and SCTP.",
        &state,
    );
    let by = |rule: u32| format!("NetworkPolicy default/protocols ingress rule {rule}");
    let denied = "NetworkPolicy default/protocols ingress default";
    case.send(A.sends(&ping(f.a, f.b, 3, 1, 8)))
        .tx(B.port, to_b(f, f.a, "echo-request 3 1 data 8"))
        .by(&by(0));
    case.send(B.sends(&pong(f.b, f.a, 3, 1, 8))).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} echo-reply 3 1 data 8", f.b, f.a, f.df),
    );
    case.send(C.sends(&ping(f.c, f.b, 3, 1, 8)))
        .dropped("policy-denied")
        .by(denied);
    case.send(C.sends(&udp(&at(f.c, 4000), &at(f.b, 53), 8)))
        .dropped("policy-denied")
        .by(denied);
    case.send(C.sends(&tcp(&at(f.c, 40000), &at(f.b, 53), "S", 1, 0, 0)))
        .tx(B.port, to_b(f, f.c, "tcp 40000 > 53 S seq 1 ack 0 data 0"))
        .by(&by(1));
    case
}

fn nodes_and_self(f: Family) -> Case {
    let mut case = f.case(
        "policy-node",
        "The node reaches its own pods whatever policy says, told by the port and not by the address.",
        DENY_ALL_TO_B,
    );
    case.send(host_sends(&tcp(
        &at(f.node_a, 40000),
        &at(f.b, 8080),
        "S",
        1,
        0,
        0,
    )))
    .tx(B.port, to_b(f, f.node_a, "tcp 40000 > 8080 S seq 1 ack 0 data 0"));
    case.send(router_sends(&tcp(
        &at(f.node_b, 40000),
        &at(f.b, 8080),
        "S",
        1,
        0,
        0,
    )))
    .dropped("policy-denied")
    .by("NetworkPolicy default/deny-all ingress default");
    case
}
