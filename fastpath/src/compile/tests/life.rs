//! A small cluster's life: random steps of its state and underlay, and the deltas between them.

use contract::proto::{self, change::Change};
use wire::addr::Mac;

use super::differential::{attachment, ip_set, policy};
use super::fixture::{ends, net, origin, pod, remote, route, underlay};
use super::random::Random;
use crate::underlay::{Link, Neighbour, NextHop, Underlay};

const PODS: [(&str, u8); 4] = [("a", 5), ("b", 6), ("c", 7), ("d", 8)];
const NODES: [u8; 3] = [2, 3, 4];
const SERVICES: [&str; 4] = ["a:http", "a:dns", "b:http", "c:http"];
/// Addresses of Services.
pub(super) const VIPS: [&str; 4] = ["10.96.0.10", "10.96.0.11", "203.0.113.7", "fd00:96::10"];

/// One step of a cluster's life: some objects come, go or change, and what refers to the gone follows.
pub(super) fn step(random: &mut Random, state: &mut proto::State) {
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
        // One in five changes it.
        protocol: if id.ends_with("dns") == random.chance(20) {
            6
        } else {
            17
        },
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
pub(super) fn delta(random: &mut Random, from: &proto::State, to: &proto::State) -> proto::Delta {
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
pub(super) fn later(random: &mut Random) -> Underlay {
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
