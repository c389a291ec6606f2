//! Several equal ways in the underlay, links that go, MTUs.

use std::net::IpAddr;

use super::fixture::{address, cluster, neighbour, route, underlay};
use super::{compiled, proto};
use crate::compile::apply_underlay;
use crate::snapshot::{RouteTarget, Snapshot};
use crate::underlay::{NextHop, Underlay};

const ROUTERS: [&str; 4] = ["192.168.0.251", "192.168.0.252", "192.168.0.253", "192.168.0.254"];

/// 8.0.0.0/8 by these routers, each with its weight.
fn by(routers: &[(&str, u16)]) -> Underlay {
    let mut underlay = underlay();
    underlay.routes.push(route("8.0.0.0/8", routers));
    for (number, router) in ROUTERS.iter().enumerate().take(3) {
        underlay
            .neighbours
            .push(neighbour(router, [2, 0xfe, 0, 0, 1, number as u8]));
    }
    underlay
}

/// The router's MAC that each of 4,096 hashes leads to.
fn ways(snapshot: &Snapshot) -> Vec<[u8; 6]> {
    let destination = address("8.8.8.8");
    let way = |hash: u32| snapshot.adjacency(snapshot.underlay_adjacency(destination, hash << 20).unwrap());
    (0..4096)
        .map(|hash| way(hash).header[..6].try_into().unwrap())
        .collect()
}

fn share(ways: &[[u8; 6]], of: [u8; 6]) -> usize {
    ways.iter().filter(|way| **way == of).count()
}

#[test]
fn a_way_that_goes_moves_its_own_flows_only() {
    let all = by(&ROUTERS.map(|router| (router, 1)));
    let before = compiled(&cluster(), &all);
    let less = by(&[ROUTERS[0], ROUTERS[1], ROUTERS[3]].map(|router| (router, 1)));
    let after = apply_underlay(&before, &less).unwrap();
    assert!(after.bumps.contains(before.route(address("8.8.8.8")).shard));
    assert!(
        !after.bumps.contains(before.route(address("9.9.9.9")).shard),
        "the default route stayed"
    );
    let gone = [2, 0xfe, 0, 0, 1, 2];
    let (was, is) = (ways(&before), ways(&after.snapshot));
    assert!(share(&was, gone) > 600 && share(&is, gone) == 0);
    for (was, is) in was.iter().zip(&is) {
        assert!(was == is || *was == gone, "{was:x?} moved to {is:x?}");
    }
    // Where it comes back, so do its flows.
    assert_eq!(
        ways(&apply_underlay(&after.snapshot, &all).unwrap().snapshot),
        was
    );
}

#[test]
fn weights_share_the_flows() {
    let snapshot = compiled(&cluster(), &by(&[(ROUTERS[0], 3), (ROUTERS[1], 1)]));
    let heavy = share(&ways(&snapshot), [2, 0xfe, 0, 0, 1, 0]);
    assert!(
        (2600..3500).contains(&heavy),
        "{heavy} of 4096, expected about 3072"
    );
}

#[test]
fn a_lower_link_mtu_reaches_every_way_and_bumps() {
    let before = compiled(&cluster(), &underlay());
    let mut lower = underlay();
    lower.links[0].mtu = 1400;
    let after = apply_underlay(&before, &lower).unwrap();
    let mtu = |snapshot: &Snapshot, to: &str| {
        let to: IpAddr = address(to);
        snapshot.forwarding_mtu(&snapshot.route(to), to, 0)
    };
    for (to, was, is) in [
        ("8.8.8.8", 1500, 1400),
        ("10.244.2.7", 1450, 1350),
        ("fd00:2::7", 1430, 1330),
    ] {
        assert_eq!(
            (mtu(&before, to), mtu(&after.snapshot, to)),
            (Some(was), Some(is)),
            "{to}"
        );
        assert!(after.bumps.contains(before.route(address(to)).shard), "{to}");
    }
    assert_eq!(mtu(&after.snapshot, "10.244.1.5"), Some(1450), "the pod's own");
}

#[test]
fn without_a_link_nothing_is_reached_and_no_pod_packet_goes_plain() {
    let before = compiled(&cluster(), &underlay());
    let mut down = underlay();
    down.links[0].up = false;
    let after = apply_underlay(&before, &down).unwrap();
    for to in ["8.8.8.8", "10.244.2.7"] {
        assert_eq!(after.snapshot.route(address(to)).target, RouteTarget::Unreachable);
        assert!(after.bumps.contains(before.route(address(to)).shard));
    }
    let again = apply_underlay(&after.snapshot, &underlay()).unwrap().snapshot;
    assert!(matches!(
        again.route(address("10.244.2.7")).target,
        RouteTarget::RemotePod { tunnel: Some(_), .. }
    ));
}

#[test]
fn a_neighbour_on_the_link_is_reached_itself_once_it_is_known() {
    let before = compiled(&cluster(), &underlay());
    let stranger = address("192.168.0.77");
    let unknown = before.underlay_adjacency(stranger, 0).unwrap();
    assert!(!before.adjacency(unknown).resolved);
    let mut more = underlay();
    more.neighbours
        .push(neighbour("192.168.0.77", [2, 7, 7, 7, 7, 7]));
    let after = apply_underlay(&before, &more).unwrap();
    let known = after.snapshot.underlay_adjacency(stranger, 0).unwrap();
    assert_eq!(after.snapshot.adjacency(known).header[..6], [2, 7, 7, 7, 7, 7]);
    assert!(after.bumps.contains(before.route(stranger).shard));
}

#[test]
fn what_leaves_by_another_device_goes_to_the_kernel() {
    let mut under = underlay();
    let kernel = NextHop {
        port: "host".into(),
        gateway: Some(address("172.16.0.1")),
        weight: 1,
    };
    under.routes.push(crate::underlay::UnderlayRoute {
        prefix: "172.16.0.0/12".parse().unwrap(),
        metric: 0,
        next_hops: vec![kernel],
    });
    let snapshot = compiled(&cluster(), &under);
    assert_eq!(
        snapshot.underlay_adjacency(address("172.16.5.5"), 0),
        snapshot.host_adjacency()
    );
    assert!(snapshot.host_adjacency().is_some());
}

#[test]
fn the_lowest_metric_with_a_way_wins_and_a_blackhole_is_no_way() {
    let mut under = by(&[(ROUTERS[0], 1)]);
    let mut worse = route("8.0.0.0/8", &[(ROUTERS[1], 1)]);
    worse.metric = 100;
    under.routes.push(worse);
    under.routes.push(route("8.8.0.0/16", &[]));
    let snapshot = compiled(&cluster(), &under);
    let way = snapshot.adjacency(snapshot.underlay_adjacency(address("8.1.1.1"), 0).unwrap());
    assert_eq!(way.header[..6], [2, 0xfe, 0, 0, 1, 0]);
    assert_eq!(snapshot.underlay_adjacency(address("8.8.8.8"), 0), None);
    assert_eq!(
        snapshot.route(address("8.8.8.8")).target,
        RouteTarget::Unreachable
    );
}

#[test]
fn the_kernel_is_asked_to_keep_routers_and_nodes_resolved() {
    let mut state = cluster();
    state.remote_nodes.push(proto::RemoteNode {
        name: "far".into(),
        addresses: vec![vec![172, 16, 0, 9]],
        ..Default::default()
    });
    let hops: Vec<_> = compiled(&state, &underlay())
        .next_hops()
        .into_iter()
        .map(|(_, address)| address)
        .collect();
    assert_eq!(
        hops,
        ["192.168.0.2", "192.168.0.254", "2001:db8:0:1::2"].map(address)
    );
}
