//! Pools, blocks of other nodes and ports.

use super::*;
use crate::object::Tunnel;

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

/// Blocks of nodes b and c, one claim that is not decided yet, and what b borrowed from c.
const BLOCKS: &str = "
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: b-10-250-0-0-26}
spec: {node: b, cidr: 10.250.0.0/26, state: confirmed, deleted: 'false'}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: c-10-250-0-64-26}
spec: {node: c, cidr: 10.250.0.64/26, state: confirmed}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: c-10-250-0-0-26}
spec: {node: c, cidr: 10.250.0.0/26, state: pending}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: blocks}
spec: {cidr: 10.250.0.0/16, vxlanMode: Always}
";

#[test]
fn a_node_with_blocks_is_reached_by_its_blocks() {
    let text = format!("{BLOCKS}{}", pod("default/borrower", "b", "10.250.0.70", "", ""));
    let outcome = resolved(&text, "a");
    // Their podCIDRs mean nothing any more.
    assert_eq!(
        blocks(&outcome.state),
        [
            "10.250.0.0/26 b Vxlan",
            "10.250.0.64/26 c Vxlan",
            "10.250.0.70/32 b Vxlan",
        ]
    );
    assert!(outcome.unknown_kinds.is_empty() && !outcome.warnings.iter().any(|w| w.contains("10.250")));
    let own = resolved(&text, "c").state.node.unwrap();
    assert_eq!(
        own.own_blocks.iter().map(text_of).collect::<Vec<_>>(),
        ["10.250.0.64/26"]
    );
}

#[test]
fn two_nodes_with_one_block_are_an_error_by_name() {
    let text = format!("{NODES}{}", BLOCKS.replace("state: pending", "state: confirmed"));
    let error = resolve(&objects(&text), "a", &Options::default()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("10.250.0.0/26") && message.contains("Node b") && message.contains("Node c"),
        "{message}"
    );
}

#[test]
fn a_tunnel_address_is_never_made_up_inside_a_block() {
    let options = Options {
        mode: Mode::Cluster,
        ..Options::default()
    };
    let outcome = resolve(&objects(&format!("{NODES}{BLOCKS}")), "c", &options).unwrap();
    let ends = |node: &str| {
        let view = outcome.nodes.iter().find(|view| view.name == node).unwrap();
        view.tunnel(Tunnel::Vxlan, true).unwrap().address
    };
    assert_eq!(ends("c"), None);
    assert_eq!(ends("a"), Some("10.244.1.1".parse().unwrap()));
    assert_eq!(ends("b"), Some("10.244.2.0".parse().unwrap()), "the annotation's");
}
