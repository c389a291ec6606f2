//! Pools, blocks of other nodes and ports.

use super::*;

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
