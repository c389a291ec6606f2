//! Any series of deltas equals compiling the final state, and every answer that changed had its shard bumped.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use contract::merge;
use contract::proto::{self, change::Change};
use contract::valid::{ValidDelta, ValidState};
use wire::addr::Mac;

use super::differential::{self, attachment, ip_set, policy};
use super::fixture::{address, cluster, ends, net, origin, pod, remote, route, underlay};
use super::random::Random;
use super::{compiled, reference};
use crate::compile::{apply, apply_underlay, replace};
use crate::snapshot::{
    Adjacency, AdjacencyId, Bumps, Direction, PolicyQuery, RouteTarget, Shard, Snapshot, VipLookup,
};
use crate::underlay::{Link, Neighbour, NextHop, Underlay};

const PODS: [(&str, u8); 4] = [("a", 5), ("b", 6), ("c", 7), ("d", 8)];
const NODES: [u8; 3] = [2, 3, 4];
const SERVICES: [&str; 4] = ["a:http", "a:dns", "b:http", "c:http"];
const VIPS: [&str; 4] = ["10.96.0.10", "10.96.0.11", "203.0.113.7", "fd00:96::10"];
const HASHES: [u32; 5] = [0, 1 << 30, 3 << 29, 0x9123_4567, u32::MAX];

/// Addresses of every kind of place that the random states have.
fn places() -> Vec<IpAddr> {
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

/// One step of a cluster's life: some objects come, go or change, and what refers to the gone follows.
fn step(random: &mut Random, state: &mut proto::State) {
    for _ in 0..=random.below(3) {
        match random.below(9) {
            0 => {
                let (name, number) = *random.one(&PODS);
                let mut new = pod(name, number, &[]);
                if random.chance(30) {
                    // It moved to another pod's address; that one goes.
                    let other = random.one(&PODS).1;
                    new.addresses = pod(name, other, &[]).addresses;
                }
                let ids: Vec<_> = state.policies.iter().map(|policy| policy.id.clone()).collect();
                if !ids.is_empty() {
                    (new.ingress, new.egress) =
                        (Some(attachment(random, &ids)), Some(attachment(random, &ids)));
                }
                new.mtu = *random.one(&[0, 1400, 1450]);
                state
                    .ports
                    .retain(|port| port.name != new.name && !port.addresses.contains(&new.addresses[0]));
                if random.chance(75) {
                    state.ports.push(new);
                }
            }
            1 => {
                let mut new = remote(*random.one(&NODES));
                if random.chance(30) {
                    let more = address_bytes(random);
                    new.addresses.retain(|address| *address != more);
                    new.addresses.push(more);
                }
                if random.chance(20) {
                    new.tunnel_ends.truncate(1);
                }
                let ipip = |number: u8| proto::TunnelEnd {
                    encap: proto::Encap::Ipip as i32,
                    address: vec![10, 244, number, 1],
                    ..Default::default()
                };
                if random.chance(40) {
                    new.tunnel_ends.push(ipip(new.addresses[0][3]));
                }
                state.remote_nodes.retain(|node| node.name != new.name);
                if random.chance(75) {
                    state.remote_nodes.push(new);
                }
            }
            2 => {
                let prefixes = [
                    "10.244.2.0/24",
                    "10.244.3.0/24",
                    "10.244.4.0/25",
                    "10.244.1.99/32",
                    "10.244.2.7/32",
                    "fd00:2::/64",
                ];
                let prefix = net(random.one::<&str>(&prefixes));
                state
                    .blocks
                    .retain(|block| block.prefix.as_ref() != Some(&prefix));
                let encaps = [proto::Encap::None, proto::Encap::Vxlan, proto::Encap::Ipip];
                let encap = if prefix.address.len() == 4 {
                    *random.one(&encaps)
                } else {
                    *random.one(&encaps[..2])
                };
                if let Some(node) =
                    (!state.remote_nodes.is_empty()).then(|| random.one(&state.remote_nodes).name.clone())
                    && random.chance(75)
                {
                    state.blocks.push(proto::Block {
                        prefix: Some(prefix),
                        node,
                        encap: encap as i32,
                    });
                }
            }
            3 => {
                let prefix = net(random.one::<&str>(&["10.244.0.0/16", "10.244.2.0/24", "fd00::/16"]));
                state.pools.retain(|pool| pool.prefix.as_ref() != Some(&prefix));
                if random.chance(75) {
                    let (nat_outgoing, cross_subnet) = (random.chance(50), random.chance(50));
                    state.pools.push(proto::Pool {
                        prefix: Some(prefix),
                        nat_outgoing,
                        encap: *random.one(&[0, 1, 2]),
                        cross_subnet,
                    });
                }
            }
            4 | 5 => {
                let id = *random.one(&SERVICES);
                state.services.retain(|service| service.id != id);
                if random.chance(75) {
                    state.services.push(service(random, id));
                }
            }
            6 => {
                let number = random.below(4);
                let set = ip_set(random, number);
                state.ip_sets.retain(|other| other.id != set.id);
                if random.chance(80) {
                    state.ip_sets.push(set);
                }
            }
            7 => {
                let number = random.below(5);
                let policy = policy(random, number);
                state.policies.retain(|other| other.id != policy.id);
                if random.chance(80) {
                    state.policies.push(policy);
                }
            }
            _ => match random.below(4) {
                0 => {
                    let ranges = ["10.96.0.0/12", "203.0.113.0/24", "fd00:96::/108"].map(net);
                    state.service_ranges = random.some(&ranges, 50);
                }
                1 => {
                    let node = state.node.as_mut().unwrap();
                    node.uplink_mtu = *random.one(&[0, 1500, 9000]);
                    node.tunnel_ends = ends(1);
                    node.tunnel_ends.truncate(1 + random.below(2));
                    if random.chance(50) {
                        let ipip = proto::Encap::Ipip as i32;
                        node.tunnel_ends.push(proto::TunnelEnd {
                            encap: ipip,
                            ..Default::default()
                        });
                    }
                }
                2 => {
                    let blocks = ["10.244.1.0/24", "fd00:1::/64", "10.244.4.0/24"].map(net);
                    state.node.as_mut().unwrap().own_blocks = random.some(&blocks, 70);
                }
                _ => {
                    state.timeouts = Some(proto::Timeouts {
                        udp: 1 + random.below(100) as u32,
                        ..Default::default()
                    });
                }
            },
        }
    }
    follow(state);
}

fn address_bytes(random: &mut Random) -> Vec<u8> {
    vec![192, 168, 0, *random.one(&[2, 3, 77])]
}

fn service(random: &mut Random, id: &str) -> proto::Service {
    let states = [
        proto::BackendState::Ready,
        proto::BackendState::ServingTerminating,
        proto::BackendState::NotReady,
    ];
    let backends = random.some(&["10.244.1.5", "10.244.2.7", "10.244.3.1", "fd00:2::7"], 50);
    let backend = |random: &mut Random, text: &str| proto::Backend {
        address: super::fixture::bytes(text),
        port: 8080,
        state: *random.one(&states) as i32,
        local: false,
    };
    proto::Service {
        id: id.into(),
        origin: Some(origin("Service", id)),
        protocol: if id.ends_with("dns") { 17 } else { 6 },
        port: 80,
        cluster_ips: random
            .some(&VIPS, 30)
            .into_iter()
            .map(super::fixture::bytes)
            .collect(),
        backends: backends.into_iter().map(|text| backend(random, text)).collect(),
        affinity_s: random.below(2) as u32 * 10,
    }
}

/// Takes out what refers to nothing.
fn follow(state: &mut proto::State) {
    let nodes: Vec<_> = state.remote_nodes.iter().map(|node| node.name.clone()).collect();
    state.blocks.retain(|block| nodes.contains(&block.node));
    let sets: Vec<_> = state.ip_sets.iter().map(|set| set.id.clone()).collect();
    for rule in state
        .policies
        .iter_mut()
        .flat_map(|policy| policy.ingress.iter_mut().chain(&mut policy.egress))
    {
        rule.peers.retain(|peer| match peer.peer.as_ref().unwrap() {
            proto::peer::Peer::IpSet(id) => sets.contains(id),
            proto::peer::Peer::IpBlock(_) => true,
        });
        rule.ports.retain(|port| match &port.port {
            Some(proto::port_match::Port::NamedSet(id)) => sets.contains(id),
            _ => true,
        });
    }
    let policies: Vec<_> = state.policies.iter().map(|policy| policy.id.clone()).collect();
    for port in &mut state.ports {
        for attachment in [&mut port.ingress, &mut port.egress].into_iter().flatten() {
            for tier in &mut attachment.tiers {
                tier.policies.retain(|id| policies.contains(id));
            }
            attachment.tiers.retain(|tier| !tier.policies.is_empty());
        }
    }
}

/// Upserts and removals that lead from one list to another.
fn diff<T: PartialEq + Clone, K: PartialEq>(
    changes: &mut Vec<Change>,
    (from, to): (&[T], &[T]),
    key: impl Fn(&T) -> K,
    upsert: impl Fn(T) -> Change,
    removed: impl Fn(K) -> Change,
) {
    changes.extend(to.iter().filter(|new| !from.contains(new)).cloned().map(upsert));
    let gone = from
        .iter()
        .map(&key)
        .filter(|old| !to.iter().any(|new| key(new) == *old));
    changes.extend(gone.map(removed));
}

/// A delta from one state to another, in any order; sets change by members half of the time.
fn delta(random: &mut Random, from: &proto::State, to: &proto::State) -> proto::Delta {
    let mut changes = Vec::new();
    if from.node != to.node {
        changes.push(Change::Node(to.node.clone().unwrap()));
    }
    if from.timeouts != to.timeouts {
        changes.push(Change::Timeouts(to.timeouts.unwrap()));
    }
    if from.service_ranges != to.service_ranges {
        changes.push(Change::ServiceRanges(proto::ServiceRanges {
            ranges: to.service_ranges.clone(),
        }));
    }
    let mut sets = Vec::new();
    diff(
        &mut changes,
        (&from.ports, &to.ports),
        |o| o.name.clone(),
        Change::Port,
        Change::PortRemoved,
    );
    diff(
        &mut changes,
        (&from.remote_nodes, &to.remote_nodes),
        |o| o.name.clone(),
        Change::RemoteNode,
        Change::RemoteNodeRemoved,
    );
    diff(
        &mut changes,
        (&from.blocks, &to.blocks),
        |o| o.prefix.clone().unwrap(),
        Change::Block,
        Change::BlockRemoved,
    );
    diff(
        &mut changes,
        (&from.pools, &to.pools),
        |o| o.prefix.clone().unwrap(),
        Change::Pool,
        Change::PoolRemoved,
    );
    diff(
        &mut changes,
        (&from.services, &to.services),
        |o| o.id.clone(),
        Change::Service,
        Change::ServiceRemoved,
    );
    diff(
        &mut changes,
        (&from.policies, &to.policies),
        |o| o.id.clone(),
        Change::Policy,
        Change::PolicyRemoved,
    );
    diff(
        &mut sets,
        (&from.ip_sets, &to.ip_sets),
        |o| o.id.clone(),
        Change::IpSet,
        Change::IpSetRemoved,
    );
    changes.extend(sets.into_iter().map(|change| {
        match change {
            Change::IpSet(set) => match from
                .ip_sets
                .iter()
                .find(|old| (&old.id, old.kind) == (&set.id, set.kind))
            {
                Some(old) if random.chance(50) => {
                    let beyond = |a: &[proto::Member], b: &[proto::Member]| {
                        a.iter().filter(|m| !b.contains(m)).cloned().collect()
                    };
                    let (removed, added) = (
                        beyond(&old.members, &set.members),
                        beyond(&set.members, &old.members),
                    );
                    Change::IpSetDelta(proto::IpSetDelta {
                        id: set.id,
                        removed,
                        added,
                    })
                }
                _ => Change::IpSet(set),
            },
            other => other,
        }
    }));
    for place in (1..changes.len()).rev() {
        changes.swap(place, random.below(place + 1));
    }
    let changes = changes
        .into_iter()
        .map(|change| proto::Change { change: Some(change) })
        .collect();
    proto::Delta {
        base_version: from.version,
        version: to.version,
        changes,
    }
}

/// The underlay some time later.
fn later(random: &mut Random) -> Underlay {
    let mut later = underlay();
    if random.chance(50) {
        let link = |mtu| Link {
            port: "uplink1".into(),
            mac: Mac([2, 0, 0, 0, 0, 9]),
            peer_mac: None,
            mtu,
            up: true,
        };
        later.links.push(Link {
            up: random.chance(80),
            ..link(*random.one(&[1500, 9000]))
        });
    }
    later.links[0].mtu = *random.one(&[1500, 1400]);
    later.links[0].up = random.chance(90);
    if random.chance(30) {
        later.routes.retain(|route| route.prefix.prefix_len() != 0);
    }
    if random.chance(50) {
        let legs: Vec<_> = ["192.168.0.254", "192.168.0.253", "192.168.0.252"]
            .iter()
            .filter(|_| random.chance(70))
            .map(|gateway| (*gateway, 1))
            .collect();
        later.routes.push(route("8.0.0.0/8", &legs));
    }
    if random.chance(40) {
        let mut direct = route("10.244.2.0/24", &[("192.168.0.2", 1)]);
        direct.next_hops.push(NextHop {
            port: "uplink1".into(),
            gateway: None,
            weight: 2,
        });
        later.routes.push(direct);
    }
    if random.chance(30) {
        later
            .routes
            .push(route("192.168.0.3/32", &[("192.168.0.254", 1)]));
    }
    let more = |last: u8| Neighbour {
        port: "uplink".into(),
        address: [192, 168, 0, last].into(),
        mac: Mac([2, 0, 0, 0, 7, last]),
    };
    later
        .neighbours
        .extend(random.some(&[3, 77, 253], 40).into_iter().map(more));
    if random.chance(30) {
        later.neighbours.remove(0);
    }
    later
}

/// Answers in words that depend on no index.
fn answers(snapshot: &Snapshot, state: &proto::State) -> BTreeMap<String, String> {
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
        note(format!("route {place}"), &(target, route.pool));
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

/// Answers that a flow's decision rests on, each with the shard that a flow is stamped with for it.
fn decisions(snapshot: &Snapshot, random: &mut Random) -> Vec<(String, String, Shard)> {
    let mut decisions = Vec::new();
    for place in places() {
        let route = snapshot.route(place);
        let plain = matches!(
            route.target,
            RouteTarget::RemotePod { tunnel: None, .. } | RouteTarget::PeerNode(_) | RouteTarget::Underlay
        );
        for hash in HASHES {
            let hop = if plain {
                snapshot.underlay_adjacency(place, hash)
            } else {
                None
            };
            let sent = match (route.target, hop) {
                (RouteTarget::RemotePod { tunnel: Some(id), .. }, _) | (_, Some(id)) => {
                    Some(snapshot.adjacency(id))
                }
                _ => None,
            };
            let answer = (
                route.target,
                route.pool,
                hop,
                sent.map(|sent| (sent.port, sent.mtu)),
            );
            decisions.push((
                format!("route {place} {hash}"),
                format!("{answer:?}"),
                route.shard,
            ));
        }
    }
    for vip in VIPS.map(address).into_iter().chain([address("10.96.9.9")]) {
        for protocol in [6, 17] {
            let found = snapshot.vip(vip, protocol, 80);
            let shard = match &found {
                VipLookup::Service(service) => service.shard,
                _ => snapshot.vip_shard(vip),
            };
            decisions.push((format!("vip {vip} {protocol}"), format!("{found:?}"), shard));
        }
    }
    for port in snapshot.ports() {
        for _ in 0..25 {
            let query = differential::query(random);
            let (direction, attachment) = if query.ingress {
                (Direction::Ingress, &port.ingress)
            } else {
                (Direction::Egress, &port.egress)
            };
            let reference::Query {
                src,
                dst,
                protocol,
                dst_port,
                ..
            } = query;
            let decision = snapshot.judge(
                attachment,
                &PolicyQuery {
                    src,
                    dst,
                    protocol,
                    dst_port,
                    direction,
                },
            );
            let answer = (
                decision,
                decision.rule.and_then(|rule| snapshot.rule_origin(rule)),
            );
            decisions.push((
                format!("judge {} {query:?}", port.name),
                format!("{answer:?}"),
                port.policy_shard,
            ));
        }
    }
    decisions
}

fn check_bumps(before: &Snapshot, after: &Snapshot, bumps: &Bumps, seed: u64) {
    // The same questions both times, of what is in both.
    let asked = |snapshot| decisions(snapshot, &mut Random(seed));
    let now: BTreeMap<_, _> = asked(after)
        .into_iter()
        .map(|(question, answer, _)| (question, answer))
        .collect();
    for (question, answer, shard) in asked(before) {
        if let Some(now) = now.get(&question)
            && *now != answer
        {
            assert!(
                bumps.contains(shard),
                "seed {seed}: {question} was {answer}, is {now}; {shard:?} was not bumped"
            );
        }
    }
}

/// What has a name in both keeps its index.
fn check_indexes(before: &Snapshot, after: &Snapshot, seed: u64) {
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

fn equal(applied: &Snapshot, state: &proto::State, underlay: &Underlay, seed: u64) {
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

const SEEDS: u64 = 150;
const STEPS: u64 = 8;

#[test]
fn a_series_of_deltas_equals_compiling_the_final_state() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut state = cluster();
        state.ports.push(proto::Port {
            name: "uplink1".into(),
            kind: proto::PortKind::Uplink as i32,
            ..Default::default()
        });
        (state.ports, state.policies) = (
            state.ports.into_iter().filter(|p| p.kind != 1).collect(),
            Vec::new(),
        );
        let mut under = underlay();
        let mut snapshot = compiled(&state, &under);
        for _ in 0..STEPS {
            if random.chance(30) {
                under = later(&mut random);
                let after = apply_underlay(&snapshot, &under).unwrap();
                check_bumps(&snapshot, &after.snapshot, &after.bumps, seed);
                check_indexes(&snapshot, &after.snapshot, seed);
                snapshot = after.snapshot;
            } else {
                let mut next = state.clone();
                step(&mut random, &mut next);
                next.version += 1;
                let after = if random.chance(15) {
                    replace(&snapshot, &ValidState::try_from(next.clone()).unwrap()).unwrap()
                } else {
                    let delta = delta(&mut random, &state, &next);
                    let mut expected = next.clone();
                    merge::sort(&mut expected);
                    assert_eq!(
                        merge::apply(&state, &delta).unwrap(),
                        expected,
                        "seed {seed}: the reference agrees"
                    );
                    apply(&snapshot, &ValidDelta::try_from(delta).unwrap())
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}"))
                };
                check_bumps(&snapshot, &after.snapshot, &after.bumps, seed);
                check_indexes(&snapshot, &after.snapshot, seed);
                (snapshot, state) = (after.snapshot, next);
            }
            equal(&snapshot, &state, &under, seed);
        }
    }
}
