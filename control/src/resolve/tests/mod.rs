//! One node's state from manifests, case by case.

use super::*;
use crate::object::document::{Entry, read};
use contract::valid::{ValidDelta, ValidState};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

mod endpoints;
mod network;
mod policy;
mod service;

/// Two nodes in one subnet of 10.0.0.0/24 and one outside, each with ranges of both families.
const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: a, annotations: {projectcalico.org/IPv4Address: 10.0.0.1/24}}
spec: {podCIDRs: [10.244.1.0/24, 'fd00:1::/64']}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 'fd99::1'}]}
---
apiVersion: v1
kind: Node
metadata: {name: b, annotations: {projectcalico.org/IPv4VXLANTunnelAddr: 10.244.2.0}}
spec: {podCIDRs: [10.244.2.0/24, 'fd00:2::/64']}
status: {addresses: [{type: InternalIP, address: 10.0.0.2}, {type: InternalIP, address: 'fd99::2'}]}
---
apiVersion: v1
kind: Node
metadata: {name: c}
spec: {podCIDRs: [10.244.3.0/24]}
status: {addresses: [{type: InternalIP, address: 10.9.0.3}]}
";

fn objects(text: &str) -> Objects {
    let mut errors = Vec::new();
    let mut objects = Objects::default();
    for entry in read(&Arc::new(PathBuf::from("test.yaml")), text, &mut errors) {
        match entry {
            Entry::Object(_, object) => assert!(!objects.insert(*object), "an object is there twice"),
            Entry::Unknown(kind) => *objects.unknown_kinds.entry(kind).or_default() += 1,
        }
    }
    assert!(errors.is_empty(), "{errors:?}");
    objects
}

fn pod(name: &str, node: &str, address: &str, labels: &str, more: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap();
    let ips: Vec<String> = address
        .split_whitespace()
        .map(|ip| format!("{{ip: '{ip}'}}"))
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}\n\
         spec: {{nodeName: {node}, containers: [{{ports: [{{name: http, containerPort: 8080}}, \
         {{name: dns, containerPort: 53, protocol: UDP}}]}}]}}\nstatus: {{podIPs: [{}]{more}}}\n",
        ips.join(", ")
    )
}

/// The outcome, after fastpath's own checks of the state and of the delta that leads to it from bare nodes.
fn resolved(text: &str, node: &str) -> Resolved {
    let bare = resolve(&objects(NODES), node, &Options::default()).unwrap();
    let options = Options {
        version: 2,
        ..Options::default()
    };
    let outcome = resolve(&objects(&format!("{NODES}{text}")), node, &options).unwrap();
    ValidState::try_from(outcome.state.clone()).unwrap();
    let delta = crate::diff::delta(&bare.state, &outcome.state);
    ValidDelta::try_from(delta.clone()).unwrap();
    assert_eq!(
        contract::merge::apply(&bare.state, &delta).as_ref(),
        Ok(&outcome.state)
    );
    outcome
}

fn text_of(prefix: &proto::Prefix) -> String {
    let ip: IpAddr = match prefix.address.as_slice() {
        [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]),
        v6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(v6).unwrap())),
    };
    format!("{ip}/{}", prefix.length)
}

fn service(spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: api}}\nspec: {{clusterIP: 10.96.0.10, {spec}}}\n"
    )
}

#[test]
fn contradictions_are_refused_by_name() {
    let twice = "---\napiVersion: v1\nkind: Service\nmetadata: {name: other}\n\
                 spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}\n";
    for (text, node, expected) in [
        (
            String::new(),
            "z",
            "there is no Node \"z\", expected one of: a, b, c",
        ),
        (
            pod("default/web", "a", "", "", ""),
            "a",
            "Pod default/web: it has no address",
        ),
        (
            pod("default/web", "a", "10.244.1.5", "", "") + &pod("default/web2", "b", "10.244.1.5", "", ""),
            "a",
            "Pod default/web2: its address 10.244.1.5 belongs to Pod default/web, too",
        ),
        (
            service("ports: [{port: 80}]") + twice,
            "a",
            "Service default/other: its 10.96.0.10 port TCP/80 belongs to",
        ),
        (
            "---\napiVersion: v1\nkind: Node\nmetadata: {name: d}\nspec: {podCIDR: 10.244.3.0/24}\n"
                .to_owned(),
            "a",
            "Node d: its range 10.244.3.0/24 belongs to Node c, too",
        ),
        (
            "---\napiVersion: v1\nkind: Node\nmetadata: {name: d}\n".to_owned(),
            "d",
            "Node d: it has no InternalIP",
        ),
    ] {
        let error = resolve(&objects(&format!("{NODES}{text}")), node, &Options::default()).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[test]
fn live_hands_out_addresses_and_tunnel_ends() {
    let text = format!(
        "{NODES}{}",
        pod("default/web", "a", "", "", "") + &pod("default/far", "b", "", "", "")
    );
    let live = Options {
        mode: Mode::Live,
        uplink_mtu: Some(9000),
        ..Options::default()
    };
    let outcome = resolve(&objects(&text), "a", &live).unwrap();
    let web = outcome.pods.iter().find(|p| p.name.name == "web").unwrap();
    assert!(web.assigned);
    // The first address of the range is the tunnel's; b's annotation takes its network address instead.
    assert_eq!(
        web.addresses,
        [
            "10.244.1.2".parse::<IpAddr>().unwrap(),
            "fd00:1::2".parse().unwrap()
        ]
    );
    let tunnel = outcome.nodes[0]
        .tunnel(crate::object::Tunnel::Vxlan, true)
        .unwrap();
    assert_eq!(tunnel.address, Some("10.244.1.1".parse().unwrap()));
    assert_eq!(outcome.state.ports[1].mtu, 8930);
    assert_eq!(outcome.nodes[1].pod_mtu, 1430);
    // Every node comes to the same addresses.
    let theirs = resolve(&objects(&text), "b", &live).unwrap();
    assert_eq!(theirs.assignments, outcome.assignments);
    assert_eq!(
        theirs.state.remote_nodes[0].tunnel_ends,
        outcome.state.node.unwrap().tunnel_ends
    );
}

#[test]
fn the_example_resolves_on_both_nodes_in_both_modes() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-nodes");
    let objects = crate::source::directory::load(&[directory]).unwrap();
    for node in ["node-a", "node-b"] {
        for mode in [Mode::Replay, Mode::Live] {
            let outcome = resolve(
                &objects,
                node,
                &Options {
                    mode,
                    ..Options::default()
                },
            )
            .unwrap();
            assert_eq!(outcome.warnings, [""; 0]);
            assert_eq!(outcome.pods.len(), 6);
            assert_eq!(outcome.state.ports.len(), 5);
            ValidState::try_from(outcome.state).unwrap();
        }
    }
}
