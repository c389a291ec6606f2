//! What the tables answer for a small cluster of two nodes, and after changes to it.

mod differential;
mod fixture;
mod flows;
mod life;
mod observed;
mod random;
mod reference;
mod refusal;
mod series;
mod ways;

use contract::proto;
use contract::valid::{ValidDelta, ValidState};
use fixture::{address, cluster, net, underlay};

use super::{Compiled, Reused, apply, apply_underlay, compile};
use crate::snapshot::{AdjacencyEncap, Direction, PolicyQuery, RouteTarget, Shard, Snapshot, VipLookup};
use crate::underlay::Underlay;

fn compiled(state: &proto::State, underlay: &Underlay) -> Snapshot {
    compile(&ValidState::try_from(state.clone()).unwrap(), underlay)
        .unwrap()
        .snapshot
}

fn changed(snapshot: &Snapshot, changes: Vec<proto::change::Change>) -> Compiled {
    let changes = changes
        .into_iter()
        .map(|change| proto::Change { change: Some(change) })
        .collect();
    let delta = proto::Delta {
        base_version: snapshot.version(),
        version: snapshot.version() + 1,
        changes,
    };
    apply(snapshot, &ValidDelta::try_from(delta).unwrap()).unwrap()
}

#[test]
fn every_kind_of_destination_has_its_route() {
    let snapshot = compiled(&cluster(), &underlay());
    let web = snapshot.port_by_name("pod:default/web").unwrap();
    let target = |text: &str| snapshot.route(address(text)).target;
    assert_eq!(target("10.244.1.5"), RouteTarget::LocalPod(web.id));
    assert_eq!(
        target("10.244.1.77"),
        RouteTarget::Unreachable,
        "an address of our block that no pod has"
    );
    assert_eq!(target("192.168.0.1"), RouteTarget::ThisNode);
    assert_eq!(target("10.244.1.0"), RouteTarget::ThisNode, "our tunnel address");
    let peer = snapshot.peer_by_outer(address("192.168.0.2")).unwrap();
    assert_eq!(target("192.168.0.2"), RouteTarget::PeerNode(peer));
    assert_eq!(target("8.8.8.8"), RouteTarget::Underlay);
    assert_eq!(
        target("2001:db8::1"),
        RouteTarget::Unreachable,
        "no IPv6 default route"
    );
    let RouteTarget::RemotePod {
        peer: owner,
        tunnel: Some(tunnel),
    } = target("10.244.2.7")
    else {
        panic!("{:?}", target("10.244.2.7"))
    };
    assert_eq!(owner, peer);
    assert_eq!(
        target("10.244.2.0"),
        RouteTarget::RemotePod {
            peer,
            tunnel: Some(tunnel)
        },
        "its tunnel address"
    );
    assert!(
        snapshot.peer_owns(peer, address("10.244.2.7")) && snapshot.peer_owns(peer, address("10.244.2.0"))
    );
    assert!(
        !snapshot.peer_owns(peer, address("10.244.1.5")) && !snapshot.peer_owns(peer, address("192.168.0.2"))
    );
    assert!(snapshot.pool(address("10.244.2.7")).unwrap().nat_outgoing);
    assert!(
        snapshot.is_node_address(address("192.168.0.2")) && !snapshot.is_node_address(address("10.244.2.7"))
    );
}

#[test]
fn a_tunnel_is_a_template_of_whole_headers() {
    let snapshot = compiled(&cluster(), &underlay());
    let RouteTarget::RemotePod {
        tunnel: Some(tunnel), ..
    } = snapshot.route(address("10.244.2.7")).target
    else {
        panic!("no tunnel")
    };
    let adjacency = snapshot.adjacency(tunnel);
    assert_eq!(
        (adjacency.encap, adjacency.mtu, adjacency.resolved),
        (AdjacencyEncap::Vxlan4, 1450, true)
    );
    #[rustfmt::skip]
    let expected = [
        0x02, 0, 192, 168, 0, 2, 0x02, 0, 192, 168, 0, 1, 0x08, 0x00,
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 0, 1, 192, 168, 0, 2,
        0, 0, 0x12, 0xb5, 0, 0, 0, 0,
        0x08, 0, 0, 0, 0, 0x10, 0, 0,
        0x66, 0, 0, 0, 0, 2, 0x66, 0, 0, 0, 0, 1, 0, 0,
    ];
    assert_eq!(&adjacency.header[..usize::from(adjacency.header_len)], expected);

    let RouteTarget::RemotePod {
        tunnel: Some(tunnel), ..
    } = snapshot.route(address("fd00:2::7")).target
    else {
        panic!("no IPv6 tunnel")
    };
    let adjacency = snapshot.adjacency(tunnel);
    assert_eq!(
        (adjacency.encap, adjacency.mtu, adjacency.header_len),
        (AdjacencyEncap::Vxlan6, 1430, 14 + 40 + 8 + 8 + 14)
    );
}

#[test]
fn a_neighbour_that_moves_changes_the_template_and_bumps_nothing() {
    let snapshot = compiled(&cluster(), &underlay());
    let mut moved = underlay();
    moved.neighbours[0].mac = wire::addr::Mac([2, 9, 9, 9, 9, 9]);
    let after = apply_underlay(&snapshot, &moved).unwrap();
    assert!(after.bumps.is_empty());
    let route = snapshot.route(address("10.244.2.7"));
    assert_eq!(after.snapshot.route(address("10.244.2.7")), route);
    let RouteTarget::RemotePod {
        tunnel: Some(tunnel), ..
    } = route.target
    else {
        panic!("no tunnel")
    };
    assert_eq!(after.snapshot.adjacency(tunnel).header[..6], [2, 9, 9, 9, 9, 9]);
}

#[test]
fn a_vip_is_found_by_address_protocol_and_port() {
    let snapshot = compiled(&cluster(), &underlay());
    let VipLookup::Service(service) = snapshot.vip(address("10.96.0.10"), 6, 80) else {
        panic!("no service")
    };
    assert_eq!(&*service.name, "default/web:http");
    assert_eq!(service.eligible_v4.len(), 2, "the ready ones");
    assert_eq!(service.listed.len(), 3);
    assert_eq!(snapshot.vip(address("10.96.0.10"), 17, 80), VipLookup::NoSuchPort);
    assert_eq!(snapshot.vip(address("10.96.9.9"), 6, 80), VipLookup::Unassigned);
    assert_eq!(snapshot.vip(address("8.8.8.8"), 6, 80), VipLookup::NotService);
}

#[test]
fn policy_names_the_rule_that_decided() {
    let snapshot = compiled(&cluster(), &underlay());
    let web = snapshot.port_by_name("pod:default/web").unwrap();
    let judge = |src: &str, port: u16| {
        let (src, dst) = (address(src), address("10.244.1.5"));
        let query = PolicyQuery {
            src,
            dst,
            protocol: 6,
            dst_port: port,
            direction: Direction::Ingress,
        };
        let decision = snapshot.judge(&web.ingress, &query);
        let origin = snapshot.rule_origin(decision.rule.unwrap()).unwrap();
        assert_eq!(
            (&*origin.policy.name, origin.direction),
            ("web", Direction::Ingress)
        );
        (decision.allow, origin.rule)
    };
    assert_eq!(judge("10.244.2.7", 80), (true, Some(0)));
    assert_eq!(judge("10.244.2.8", 80), (false, None), "default deny");
    assert_eq!(judge("10.244.2.7", 81), (false, None));
}

#[test]
fn a_member_of_a_set_decides_again_the_flows_that_it_concerns() {
    let snapshot = compiled(&cluster(), &underlay());
    let web = snapshot.port_by_name("pod:default/web").unwrap();
    let own = web.addresses[0];
    let far = address("10.244.2.8");
    for (member, shards) in [
        ("10.244.2.8/32".to_owned(), vec![Shard::address(far)]),
        (format!("{own}/32"), vec![web.shard, Shard::address(own)]),
        // Many addresses: the endpoints that the set is about.
        ("10.244.2.8/30".to_owned(), vec![web.shard]),
    ] {
        let after = changed(
            &snapshot,
            vec![proto::change::Change::IpSetDelta(proto::IpSetDelta {
                id: "clients".into(),
                removed: vec![],
                added: vec![proto::Member {
                    prefix: Some(net(&member)),
                    ..Default::default()
                }],
            })],
        );
        assert_eq!(after.bumps.iter().collect::<Vec<_>>(), shards, "{member}");
    }
}

#[test]
fn an_underlay_before_the_first_state_is_as_good_as_with_it() {
    let early = apply_underlay(&super::empty(), &underlay()).unwrap().snapshot;
    let state = ValidState::try_from(cluster()).unwrap();
    let snapshot = super::replace(&early, &state).unwrap().snapshot;
    let route = snapshot.route(address("10.244.2.7"));
    assert!(matches!(
        route.target,
        RouteTarget::RemotePod { tunnel: Some(_), .. }
    ));
    assert_eq!(
        snapshot.forwarding_mtu(&route, address("10.244.2.7"), 0),
        compiled(&cluster(), &underlay()).forwarding_mtu(&route, address("10.244.2.7"), 0)
    );
}

#[test]
fn numbers_that_are_used_again_are_told_and_fresh_ones_are_not() {
    use proto::change::Change;
    let snapshot = compiled(&cluster(), &underlay());
    let web = snapshot.port_by_name("pod:default/web").unwrap().id;
    let rules: Vec<_> = snapshot.rules().map(|(id, _)| id).collect();
    let policy = cluster().policies.remove(0);
    // Two removals free the numbers; what comes in the same change does not get them.
    let fresh = changed(
        &snapshot,
        vec![
            Change::PortRemoved("pod:default/web".into()),
            Change::PolicyRemoved(policy.id.clone()),
            Change::Port(fixture::pod("more", 9, &[])),
        ],
    );
    assert_eq!(fresh.reused, Reused::default());
    let again = changed(
        &fresh.snapshot,
        vec![
            Change::Policy(policy),
            Change::Port(fixture::pod("next", 10, &[])),
        ],
    );
    assert_eq!(again.snapshot.port_by_name("pod:default/next").unwrap().id, web);
    assert_eq!(again.reused.ports, [web]);
    let mut reused = again.reused.rules;
    reused.sort_unstable_by_key(|rule| rule.0);
    assert_eq!(reused, rules);
    // A port that only changes keeps its number, and what was counted.
    let same = changed(&again.snapshot, vec![Change::Port(fixture::pod("next", 11, &[]))]);
    assert_eq!(same.reused, Reused::default());
}
