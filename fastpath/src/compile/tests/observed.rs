//! What a snapshot answers, in words that can be compared.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use contract::proto;

use super::differential;
use super::fixture::address;
use super::life::VIPS;
use super::random::Random;
use super::{compiled, reference};
use crate::snapshot::{Adjacency, AdjacencyId, RouteTarget, Snapshot, VipLookup};
use crate::underlay::Underlay;

const HASHES: [u32; 5] = [0, 1 << 30, 3 << 29, 0x9123_4567, u32::MAX];

/// Addresses of every kind of place that the random states have.
pub(super) fn places() -> Vec<IpAddr> {
    [
        "10.244.1.0",
        "10.244.1.5",
        "10.244.1.6",
        "10.244.1.7",
        "10.244.1.8",
        "10.244.1.99",
        "10.244.2.0",
        "10.244.2.7",
        "10.244.2.200",
        "10.244.3.0",
        "10.244.3.1",
        "10.244.4.9",
        "192.168.0.1",
        "192.168.0.2",
        "192.168.0.3",
        "192.168.0.4",
        "192.168.0.77",
        "192.168.0.254",
        "8.8.8.8",
        "203.0.113.7",
        "10.96.0.10",
        "fd00:1::5",
        "fd00:1::6",
        "fd00:1::99",
        "fd00:2::",
        "fd00:2::7",
        "fd00:3::1",
        "2001:db8:0:1::2",
        "2001:db8:0:1::1",
        "2001:db8:9::1",
    ]
    .map(address)
    .to_vec()
}

/// Answers in words that depend on no index.
pub(super) fn answers(snapshot: &Snapshot, state: &proto::State) -> BTreeMap<String, String> {
    let mut answers = BTreeMap::new();
    let mut note = |question: String, answer: &dyn Debug| {
        assert!(answers.insert(question, format!("{answer:?}")).is_none());
    };
    let port_name = |port| snapshot.port(port).map(|port| port.name.clone());
    let sent = |id: AdjacencyId| {
        let Adjacency {
            port,
            encap,
            header,
            header_len,
            mtu,
            resolved,
        } = snapshot.adjacency(id).clone();
        (
            port_name(port),
            encap,
            header[..usize::from(header_len)].to_vec(),
            mtu,
            resolved,
        )
    };
    for place in places() {
        let route = snapshot.route(place);
        let target = match route.target {
            RouteTarget::LocalPod(port) => format!("pod {:?}", port_name(port)),
            RouteTarget::RemotePod { peer, tunnel } => {
                format!("{:?} by {:?}", snapshot.peer_name(peer), tunnel.map(sent))
            }
            RouteTarget::PeerNode(peer) => format!("node {:?}", snapshot.peer_name(peer)),
            other => format!("{other:?}"),
        };
        note(format!("route {place}"), &(target, snapshot.pool(place)));
        for hash in HASHES {
            note(
                format!("hop {place} {hash}"),
                &snapshot.underlay_adjacency(place, hash).map(sent),
            );
            note(
                format!("mtu {place} {hash}"),
                &snapshot.forwarding_mtu(&route, place, hash),
            );
        }
        note(
            format!("outer {place}"),
            &snapshot
                .peer_by_outer(place)
                .and_then(|peer| snapshot.peer_name(peer)),
        );
        note(format!("node {place}"), &snapshot.is_node_address(place));
        for node in &state.remote_nodes {
            let peer = snapshot
                .peers
                .iter()
                .find(|(_, peer)| *peer.source.name == *node.name)
                .unwrap()
                .0;
            note(
                format!("owns {} {place}", node.name),
                &snapshot.peer_owns(crate::snapshot::PeerId(peer as u16), place),
            );
        }
    }
    for vip in VIPS.map(address).into_iter().chain([address("10.96.9.9")]) {
        for protocol in [6, 17] {
            let found = match snapshot.vip(vip, protocol, 80) {
                VipLookup::Service(service) => {
                    let lists = (&service.eligible_v4, &service.eligible_v6, &service.listed);
                    format!("{} {lists:?} {}", service.name, service.affinity_s)
                }
                other => format!("{other:?}"),
            };
            note(format!("vip {vip} {protocol}"), &found);
        }
    }
    for port in snapshot.ports() {
        let what = (
            port.kind,
            &port.interface,
            port.peer_mac,
            port.own_mac,
            port.mtu,
            &port.addresses,
            port.adjacency.map(sent),
        );
        note(format!("port {}", port.name), &what);
    }
    note(
        "sums".into(),
        &(
            snapshot.totals,
            snapshot.services.len(),
            snapshot.policies.len(),
            snapshot.sets.len(),
        ),
    );
    note("rules".into(), &snapshot.rules.len());
    note("adjacencies".into(), &snapshot.adjacencies.len());
    note(
        "this".into(),
        &(snapshot.this_node(), snapshot.timeouts(), snapshot.next_hops()),
    );
    answers
}

/// What has a name in both keeps its index.
pub(super) fn check_indexes(before: &Snapshot, after: &Snapshot, seed: u64) {
    for port in before.ports() {
        if let Some(now) = after.port_by_name(&port.name) {
            assert_eq!(now.id, port.id, "seed {seed}: {}", port.name);
        }
    }
    let same = |what: &str, before: Vec<(String, u32)>, after: Vec<(String, u32)>| {
        let after: BTreeMap<_, _> = after.into_iter().collect();
        for (name, index) in before {
            assert!(
                after.get(&name).is_none_or(|now| *now == index),
                "seed {seed}: {what} {name}"
            );
        }
    };
    let services = |s: &Snapshot| {
        s.services()
            .map(|service| (service.name.to_string(), service.id.0))
            .collect()
    };
    same("Service", services(before), services(after));
    let peers = |s: &Snapshot| {
        s.peer_names
            .iter()
            .map(|(name, id)| (name.to_string(), u32::from(id.0)))
            .collect()
    };
    same("Node", peers(before), peers(after));
    let policies = |s: &Snapshot| {
        s.policy_names
            .iter()
            .map(|(name, id)| (name.to_string(), id.0))
            .collect()
    };
    same("Policy", policies(before), policies(after));
    let rules = |s: &Snapshot| {
        let name = |r: &crate::snapshot::table::RuleRecord| {
            format!("{} {:?} {:?}", r.origin.name, r.direction, r.rule)
        };
        s.rules.iter().map(|(id, record)| (name(record), id)).collect()
    };
    same("rule", rules(before), rules(after));
}

/// What workers make of ports, adjacencies, nodes and this node, they make anew after a change of any of them.
pub(super) fn check_links(before: &Snapshot, after: &Snapshot, seed: u64) {
    if before.links() != after.links() {
        return;
    }
    let ports = |s: &Snapshot| s.ports().cloned().collect::<Vec<_>>();
    assert_eq!(ports(before), ports(after), "seed {seed}");
    let adjacencies = |s: &Snapshot| {
        let all = s.adjacencies.iter();
        all.map(|(id, adjacency)| (id, adjacency.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(adjacencies(before), adjacencies(after), "seed {seed}");
    assert_eq!(before.this_node(), after.this_node(), "seed {seed}");
    for place in places() {
        assert_eq!(
            before.peer_by_outer(place),
            after.peer_by_outer(place),
            "seed {seed}: {place}"
        );
    }
}

pub(super) fn equal(applied: &Snapshot, state: &proto::State, underlay: &Underlay, seed: u64) {
    let fresh = answers(&compiled(state, underlay), state);
    for (question, answer) in answers(applied, state) {
        assert_eq!(fresh.get(&question), Some(&answer), "seed {seed}: {question}");
    }
    let mut random = Random(seed);
    for port in state
        .ports
        .iter()
        .filter(|port| port.kind == proto::PortKind::Pod as i32)
    {
        for _ in 0..10 {
            let query = differential::query(&mut random);
            let expected = reference::judge(state, port, &query);
            assert_eq!(
                differential::judged(applied, &port.name, &query),
                expected,
                "seed {seed}: {query:?}"
            );
        }
    }
}
