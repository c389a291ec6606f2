//! One node's state from manifests, case by case.

use super::*;
use crate::object::document::{Entry, read};
use contract::proto::BackendState;
use contract::valid::{ValidDelta, ValidState};
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;

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

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"
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

fn members(state: &proto::State, id: &str) -> Vec<String> {
    let set = state
        .ip_sets
        .iter()
        .find(|set| set.id == id)
        .unwrap_or_else(|| panic!("no set {id}"));
    let text = |m: &proto::Member| match m.port {
        0 => text_of(m.prefix.as_ref().unwrap()),
        port => format!("{} {}/{port}", text_of(m.prefix.as_ref().unwrap()), m.protocol),
    };
    set.members.iter().map(text).collect()
}

fn blocks(state: &proto::State) -> Vec<String> {
    let text = |b: &proto::Block| {
        format!(
            "{} {} {:?}",
            text_of(b.prefix.as_ref().unwrap()),
            b.node,
            b.encap()
        )
    };
    state.blocks.iter().map(text).collect()
}

#[test]
fn without_a_pool_ranges_go_by_vxlan_and_are_masqueraded() {
    let outcome = resolved("", "a");
    assert_eq!(
        blocks(&outcome.state),
        [
            "10.244.2.0/24 b Vxlan",
            "10.244.3.0/24 c Vxlan",
            "fd00:2::/64 b Vxlan"
        ]
    );
    assert_eq!(outcome.state.pools.len(), 5);
    assert!(
        outcome
            .state
            .pools
            .iter()
            .all(|p| p.nat_outgoing && p.encap() == proto::Encap::Vxlan && !p.cross_subnet)
    );
    let own = outcome.state.node.unwrap();
    assert_eq!(
        own.own_blocks.iter().map(text_of).collect::<Vec<_>>(),
        ["10.244.1.0/24", "fd00:1::/64"]
    );
    assert_eq!(own.uplink_mac, [2, 0, 10, 0, 0, 1]);
    // One end per family, in the order of the tunnel kinds: IPv6 before IPv4.
    let ends: Vec<(usize, usize)> = own
        .tunnel_ends
        .iter()
        .map(|end| (end.address.len(), end.outer_address.len()))
        .collect();
    assert_eq!(ends, [(0, 16), (0, 4)]);
    let b = &outcome.state.remote_nodes[0];
    assert_eq!(b.tunnel_ends[1].address, [10, 244, 2, 0]);
    // VXLAN over IPv6 is the largest encapsulation in use.
    assert_eq!(outcome.nodes[0].pod_mtu, 1430);
}

#[test]
fn cross_subnet_is_decided_per_node() {
    let pools = "---\napiVersion: crd.projectcalico.org/v1\nkind: IPPool\nmetadata: {name: v4}\n\
                 spec: {cidr: 10.244.0.0/16, ipipMode: CrossSubnet}\n\
                 ---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: v6}\nspec: {cidr: 'fd00::/16'}\n";
    let outcome = resolved(pools, "a");
    assert_eq!(
        blocks(&outcome.state),
        [
            "10.244.2.0/24 b None",
            "10.244.3.0/24 c Ipip",
            "fd00:2::/64 b None"
        ]
    );
    assert_eq!(outcome.state.pools.len(), 2);
    assert!(outcome.state.pools[0].cross_subnet && !outcome.state.pools[0].nat_outgoing);
    assert_eq!(outcome.nodes[0].pod_mtu, 1480);
    // b has no annotation, so it knows no subnet.
    assert_eq!(blocks(&resolved(pools, "b").state)[0], "10.244.1.0/24 a Ipip");
}

#[test]
fn borrowed_addresses_and_pools_inside_a_range_have_their_own_way() {
    let text = format!(
        "{}{}{}---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: half}}\nspec: {{cidr: 10.244.2.128/25}}\n",
        pod("default/mine", "a", "10.244.2.7", "", ""),
        pod("default/theirs", "b", "10.244.1.9", "", ""),
        pod("default/stray", "b", "172.16.0.1", "", ""),
    );
    let outcome = resolved(&text, "a");
    assert_eq!(
        blocks(&outcome.state),
        [
            "10.244.1.9/32 b Vxlan",
            "10.244.2.0/24 b Vxlan",
            "10.244.2.128/25 b None",
            "10.244.3.0/24 c Vxlan",
            "172.16.0.1/32 b Vxlan",
            "fd00:2::/64 b Vxlan"
        ]
    );
    assert!(
        outcome
            .state
            .pools
            .iter()
            .any(|p| text_of(p.prefix.as_ref().unwrap()) == "172.16.0.1/32" && p.nat_outgoing)
    );
}

#[test]
fn a_node_without_ipv6_gets_no_ipv6_blocks() {
    let outcome = resolved("", "c");
    assert_eq!(
        blocks(&outcome.state),
        ["10.244.1.0/24 a Vxlan", "10.244.2.0/24 b Vxlan"]
    );
    assert_eq!(
        outcome.warnings.iter().filter(|w| w.contains("IPv6")).count(),
        2,
        "{:?}",
        outcome.warnings
    );
}

#[test]
fn ports_are_those_of_local_running_pods() {
    let text = [
        pod("default/web", "a", "10.244.1.5 fd00:1::5", "", ""),
        pod("default/six", "a", "fd00:1::102:304", "", ""),
        pod("default/done", "a", "10.244.1.6", "", ", phase: Succeeded"),
        pod("default/far", "b", "10.244.2.5", "", ""),
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host}\nspec: {nodeName: a, hostNetwork: true}\n"
            .to_owned(),
    ]
    .concat();
    let outcome = resolved(&text, "a");
    let names: Vec<&str> = outcome.state.ports.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["host", "pod:default/six", "pod:default/web", "uplink"]);
    let six = &outcome.state.ports[1];
    assert_eq!(six.mac, [2, 1, 1, 2, 3, 4]);
    let web = &outcome.state.ports[2];
    assert_eq!(
        (web.mac.as_slice(), web.addresses.len()),
        ([2, 1, 10, 244, 1, 5].as_slice(), 2)
    );
    assert_eq!(web.interface, "rw68caf03a5f4");
    assert_eq!(web.mtu, 1500, "a replay has no interface that would be smaller");
    assert!(web.ingress.as_ref().unwrap().tiers.is_empty());
    // A lab sees every pod, and the one in the node's network has the node's addresses.
    let host = outcome.pods.iter().find(|p| p.name.name == "host").unwrap();
    assert!(host.host_network && host.addresses.len() == 2);
    assert_eq!(outcome.pods.len(), 4);
}

#[test]
fn peers_become_sets_of_addresses() {
    let pods = [
        pod("default/web", "a", "10.244.1.5 fd00:1::5", "app: web", ""),
        pod("default/db", "b", "10.244.2.6", "app: db", ""),
        pod("default/gone", "b", "10.244.2.7", "app: web", ", phase: Failed"),
        pod("prod/web", "b", "10.244.2.8", "app: web", ""),
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {team: x}}\n".to_owned(),
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host, labels: {app: web}}\n\
         spec: {nodeName: b, hostNetwork: true}\nstatus: {podIP: 10.0.0.2}\n"
            .to_owned(),
    ]
    .concat();
    for (peer, id, expected) in [
        (
            "podSelector: {}",
            "pods:default/*",
            vec!["10.244.1.5/32", "10.244.2.6/32", "fd00:1::5/128"],
        ),
        (
            "podSelector: {matchLabels: {app: web}}",
            "pods:default/app=web",
            vec!["10.244.1.5/32", "fd00:1::5/128"],
        ),
        (
            "namespaceSelector: {}",
            "pods:[*]/*",
            vec!["10.244.1.5/32", "10.244.2.6/32", "10.244.2.8/32", "fd00:1::5/128"],
        ),
        (
            "namespaceSelector: {matchLabels: {team: x}}",
            "pods:[team=x]/*",
            vec!["10.244.2.8/32"],
        ),
        (
            "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, \
             podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}",
            "pods:[kubernetes.io/metadata.name=default]/app notin (web)",
            vec!["10.244.2.6/32"],
        ),
        (
            "namespaceSelector: {matchLabels: {team: y}}",
            "pods:[team=y]/*",
            vec![],
        ),
    ] {
        let outcome = resolved(
            &format!("{pods}{}", policy(&format!("ingress: [{{from: [{{{peer}}}]}}]"))),
            "a",
        );
        assert_eq!(members(&outcome.state, id), expected, "{peer}");
        let rule = &outcome.state.policies[0].ingress[0];
        assert_eq!(rule.peers[0].peer, Some(proto::peer::Peer::IpSet(id.to_owned())));
        assert!(!rule.any_peer && rule.any_port && rule.action() == proto::Action::Allow);
    }
}

#[test]
fn attachments_follow_selection_and_direction() {
    let text = [
        pod("default/web", "a", "10.244.1.5", "app: web", ""),
        pod("default/db", "a", "10.244.1.6", "app: db", ""),
        pod("default/far", "b", "10.244.2.6", "app: far", ""),
        policy("podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]"),
        policy("podSelector: {}, policyTypes: [Egress]").replace("name: p", "name: a-first"),
        policy("podSelector: {}, ingress: [{}]").replace("name: p", "name: b-second"),
        policy("podSelector: {matchLabels: {app: far}}").replace("name: p", "name: elsewhere"),
    ]
    .concat();
    let state = resolved(&text, "a").state;
    let attached = |port: usize| {
        let tiers = |attachment: &Option<proto::PolicyAttachment>| {
            let tiers = &attachment.as_ref().unwrap().tiers;
            tiers.iter().flat_map(|t| t.policies.clone()).collect::<Vec<_>>()
        };
        (
            state.ports[port].name.as_str(),
            tiers(&state.ports[port].ingress),
            tiers(&state.ports[port].egress),
        )
    };
    let id = |name: &str| format!("NetworkPolicy/default/{name}");
    assert_eq!(
        attached(1),
        ("pod:default/db", vec![id("b-second")], vec![id("a-first")])
    );
    assert_eq!(
        attached(2),
        (
            "pod:default/web",
            vec![id("b-second"), id("p")],
            vec![id("a-first")]
        )
    );
    assert_eq!(
        state.policies.len(),
        3,
        "a policy that selects no pod here is left out"
    );
    let tier = &state.ports[2].ingress.as_ref().unwrap().tiers[0];
    assert_eq!(
        (tier.name.as_str(), tier.default_action()),
        ("default", proto::Action::Deny)
    );
    assert!(state.policies[1].ingress[0].any_peer && state.policies[1].ingress[0].any_port);
}

#[test]
fn a_named_port_is_the_destinations() {
    let pods = [
        pod("default/web", "a", "10.244.1.5", "app: web", ""),
        pod("default/db", "b", "10.244.2.6", "app: db", ""),
        pod("prod/db", "b", "10.244.2.7", "app: db", ""),
    ]
    .concat();
    for (spec, id, expected) in [
        (
            "ingress: [{ports: [{port: http}]}]",
            "ports:TCP/http:local default/*",
            vec!["10.244.1.5/32 6/8080"],
        ),
        (
            "ingress: [{ports: [{port: http, protocol: UDP}]}]",
            "ports:UDP/http:local default/*",
            vec![],
        ),
        (
            "egress: [{ports: [{port: dns, protocol: UDP}]}]",
            "ports:UDP/dns:*",
            vec![
                "10.244.1.5/32 17/53",
                "10.244.2.6/32 17/53",
                "10.244.2.7/32 17/53",
            ],
        ),
        (
            "egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]",
            "ports:TCP/http:default/app=db",
            vec!["10.244.2.6/32 6/8080"],
        ),
        (
            "egress: [{to: [{podSelector: {}}, {ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: http}]}]",
            "ports:TCP/http:*",
            vec![
                "10.244.1.5/32 6/8080",
                "10.244.2.6/32 6/8080",
                "10.244.2.7/32 6/8080",
            ],
        ),
    ] {
        let state = resolved(&format!("{pods}{}", policy(spec)), "a").state;
        assert_eq!(members(&state, id), expected, "{spec}");
    }
}

fn service(spec: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: api}}\nspec: {{clusterIP: 10.96.0.10, {spec}}}\n"
    )
}

fn backends(service: &proto::Service) -> Vec<String> {
    let text = |b: &proto::Backend| {
        let prefix = proto::Prefix {
            address: b.address.clone(),
            length: 0,
        };
        let state = match b.state() {
            BackendState::Ready => "ready",
            BackendState::ServingTerminating => "terminating",
            BackendState::NotReady => "not ready",
            BackendState::Unspecified => "?",
        };
        let local = if b.local { " local" } else { "" };
        format!(
            "{}:{} {state}{local}",
            text_of(&prefix).trim_end_matches("/0"),
            b.port
        )
    };
    service.backends.iter().map(text).collect()
}

#[test]
fn a_service_without_slices_uses_its_selector() {
    let pods = [
        pod("default/a1", "a", "10.244.1.5 fd00:1::5", "app: web", ""),
        pod(
            "default/b1",
            "b",
            "10.244.2.6",
            "app: web",
            ", conditions: [{type: Ready, status: 'False'}]",
        ),
        pod("default/b2", "b", "10.244.2.7", "app: other", ""),
    ]
    .concat();
    let web =
        "selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: plain, port: 81}]";
    let state = resolved(&format!("{pods}{}", service(web)), "a").state;
    let ids: Vec<&str> = state.services.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["default/api:http", "default/api:plain"]);
    assert_eq!(
        backends(&state.services[0]),
        [
            "10.244.1.5:8080 ready local",
            "10.244.2.6:8080 not ready",
            "fd00:1::5:8080 ready local"
        ]
    );
    assert_eq!(backends(&state.services[1])[1], "10.244.2.6:81 not ready");

    let published = format!(
        "{pods}{}",
        service(&format!("publishNotReadyAddresses: true, {web}"))
    );
    assert_eq!(
        backends(&resolved(&published, "a").state.services[0])[1],
        "10.244.2.6:8080 ready"
    );
    let none = format!(
        "{pods}{}",
        service("selector: {}, ports: [{port: 80}], sessionAffinity: ClientIP")
    );
    let state = resolved(&none, "a").state;
    assert_eq!(state.services[0].id, "default/api:80");
    assert_eq!(state.services[0].affinity_s, 10_800);
    assert!(
        state.services[0].backends.is_empty(),
        "an empty selector selects nothing"
    );
}

#[test]
fn a_service_named_by_a_slice_uses_slices_alone() {
    let slice = |name: &str, rest: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, \
             labels: {{kubernetes.io/service-name: api}}}}\naddressType: IPv4\n{rest}\n"
        )
    };
    let base = format!(
        "{}{}",
        pod("default/a1", "a", "10.244.1.5", "app: web", ""),
        service("selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]")
    );
    let empty = resolved(&format!("{base}{}", slice("s1", "endpoints: []")), "a").state;
    assert!(empty.services[0].backends.is_empty());

    let slices = [
        slice(
            "s1",
            "ports: [{name: http, port: 9000}, {name: other, port: 9001}, {name: http, port: 9002, protocol: UDP}]\n\
             endpoints:\n- {addresses: [10.244.1.5]}\n- {addresses: [10.244.2.9], nodeName: a, conditions: {ready: false}}\n\
             - {addresses: [10.244.2.8], nodeName: b, conditions: {ready: false, serving: true, terminating: true}}",
        ),
        slice("s2", "ports: [{name: http, port: 9000}]\nendpoints: [{addresses: [10.244.2.9]}]"),
    ]
    .concat();
    let state = resolved(&format!("{base}{slices}"), "a").state;
    assert_eq!(
        backends(&state.services[0]),
        [
            "10.244.1.5:9000 ready local",
            "10.244.2.8:9000 terminating",
            "10.244.2.9:9000 ready local"
        ]
    );
}

#[test]
fn services_of_others_are_left_alone() {
    let others = [
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: h}\nspec: {clusterIP: None, ports: [{port: 80}]}\n",
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: e}\nspec: {type: ExternalName, externalName: x}\n",
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: l, labels: {service.kubernetes.io/service-proxy-name: x}}\n\
         spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}\n",
        "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: k}\nspec: {cidrs: [10.96.0.0/16]}\n",
    ]
    .concat();
    let state = resolved(&others, "a").state;
    assert!(state.services.is_empty());
    assert_eq!(
        state.service_ranges.iter().map(text_of).collect::<Vec<_>>(),
        ["10.96.0.0/16"]
    );
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
