//! Compiled policy against the linear reference, over random policies.

use std::net::IpAddr;

use contract::proto::{self, peer, port_match};

use super::compiled;
use super::fixture::{cluster, origin, pod, underlay};
use super::random::Random;
use super::reference::{self, Query};
use crate::snapshot::{Direction, PolicyBatch, PolicyQuery, Snapshot};

/// Random policies of `state`: `count` policies over four sets, attached to every pod.
pub(super) fn policies(random: &mut Random, state: &mut proto::State) {
    state.ip_sets = (0..4).map(|number| ip_set(random, number)).collect();
    state.policies = (0..5).map(|number| policy(random, number)).collect();
    let ids: Vec<_> = state.policies.iter().map(|policy| policy.id.clone()).collect();
    for port in state
        .ports
        .iter_mut()
        .filter(|port| port.kind == proto::PortKind::Pod as i32)
    {
        port.ingress = Some(attachment(random, &ids));
        port.egress = Some(attachment(random, &ids));
    }
}

pub(super) fn attachment(random: &mut Random, ids: &[String]) -> proto::PolicyAttachment {
    let tiers = random.up_to(3, |random| {
        let mut policies = random.up_to(2, |random| random.one(ids).clone());
        policies.push(random.one(ids).clone());
        let default_action = *random.one(&[proto::Action::Deny, proto::Action::Pass]) as i32;
        proto::Tier {
            name: String::new(),
            policies,
            default_action,
        }
    });
    proto::PolicyAttachment { tiers }
}

/// Sets 0 to 2 of addresses, 3 of address and port.
pub(super) fn ip_set(random: &mut Random, number: usize) -> proto::IpSet {
    let (kind, mut members) = if number < 3 {
        let member = |random: &mut Random| proto::Member {
            prefix: Some(prefix(random)),
            ..Default::default()
        };
        (proto::ip_set::Kind::Addresses, random.up_to(6, member))
    } else {
        let member = |random: &mut Random| {
            let bytes = octets(address(random));
            let prefix = Some(proto::Prefix {
                length: bytes.len() as u32 * 8,
                address: bytes,
            });
            proto::Member {
                prefix,
                protocol: *random.one(&[6, 17]),
                port: 1 + random.below(4) as u32,
            }
        };
        (proto::ip_set::Kind::AddressPorts, random.up_to(8, member))
    };
    members.sort_by_key(contract::merge::member_key);
    members.dedup();
    proto::IpSet {
        id: format!("set-{number}"),
        kind: kind as i32,
        members,
    }
}

pub(super) fn policy(random: &mut Random, number: usize) -> proto::Policy {
    let name = format!("policy-{number}");
    let rules = |random: &mut Random| {
        // Often enough that they are found by an index.
        let rules_max = if random.chance(40) { 24 } else { 5 };
        let rules = random.up_to(rules_max, rule);
        rules
            .into_iter()
            .enumerate()
            .map(|(at, rule)| proto::Rule {
                index: at as u32 / 2,
                ..rule
            })
            .collect()
    };
    let (ingress, egress) = (rules(random), rules(random));
    proto::Policy {
        id: name.clone(),
        origin: Some(origin("NetworkPolicy", &name)),
        ingress,
        egress,
    }
}

fn rule(random: &mut Random) -> proto::Rule {
    let actions = [
        proto::Action::Allow,
        proto::Action::Deny,
        proto::Action::Pass,
        proto::Action::Log,
    ];
    let (any_peer, any_port) = (random.chance(20), random.chance(30));
    // Now and then enough blocks that they become a tree.
    let peers_max = if random.chance(20) { 14 } else { 3 };
    let peers = if any_peer {
        Vec::new()
    } else {
        random.up_to(peers_max, peer)
    };
    let ports = if any_port {
        Vec::new()
    } else {
        random.up_to(3, port_match)
    };
    proto::Rule {
        index: 0,
        action: *random.one(&actions) as i32,
        any_peer,
        peers,
        any_port,
        ports,
    }
}

fn peer(random: &mut Random) -> proto::Peer {
    let peer = if random.chance(40) {
        peer::Peer::IpSet(format!("set-{}", random.below(3)))
    } else {
        let prefix = prefix(random);
        let inside = |random: &mut Random| {
            let whole = prefix.address.len() as u32 * 8;
            let length = prefix.length + random.below((whole - prefix.length) as usize + 1) as u32;
            let mut address = prefix.address.clone();
            let last = address.len() - 1;
            address[last] |= random.below(16) as u8;
            masked(address, length.max(prefix.length))
        };
        let except = if random.chance(40) {
            random.up_to(2, inside)
        } else {
            Vec::new()
        };
        let except = except
            .into_iter()
            .filter(|hole| masked(hole.address.clone(), prefix.length) == prefix)
            .collect();
        peer::Peer::IpBlock(proto::IpBlock {
            prefix: Some(prefix.clone()),
            except,
        })
    };
    proto::Peer { peer: Some(peer) }
}

fn port_match(random: &mut Random) -> proto::PortMatch {
    let protocol = *random.one(&[6, 17, 132]);
    let port = match random.below(3) {
        0 => None,
        1 => {
            let first = random.below(5) as u32;
            Some(port_match::Port::Range(proto::PortRange {
                first,
                last: first + random.below(3) as u32,
            }))
        }
        _ => Some(port_match::Port::NamedSet("set-3".into())),
    };
    proto::PortMatch { protocol, port }
}

/// One of 32 addresses.
pub(super) fn address(random: &mut Random) -> IpAddr {
    let last = random.below(16) as u8;
    if random.chance(50) {
        IpAddr::from([10, 0, 0, last])
    } else {
        IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn prefix(random: &mut Random) -> proto::Prefix {
    let bytes = octets(address(random));
    let whole = bytes.len() as u32 * 8;
    let length = if random.chance(5) {
        random.below(whole as usize) as u32
    } else {
        whole - random.below(5) as u32
    };
    masked(bytes, length)
}

fn masked(mut address: Vec<u8>, length: u32) -> proto::Prefix {
    for (place, byte) in address.iter_mut().enumerate() {
        let kept = length.saturating_sub(place as u32 * 8).min(8);
        *byte &= !(0xff_u32 >> kept) as u8;
    }
    proto::Prefix { address, length }
}

pub(super) fn query(random: &mut Random) -> Query {
    let src = address(random);
    let dst = loop {
        let dst = address(random);
        if dst.is_ipv4() == src.is_ipv4() {
            break dst;
        }
    };
    let protocol = *random.one(&[6, 17, 132, 1]);
    let dst_port = if protocol == 1 { 0 } else { random.below(7) as u16 };
    Query {
        src,
        dst,
        protocol,
        dst_port,
        ingress: random.chance(50),
    }
}

/// The compiled answer, in the words of the reference.
pub(super) fn judged(snapshot: &Snapshot, port: &str, query: &Query) -> reference::Answer {
    let port = snapshot.port_by_name(port).unwrap();
    let Query {
        src,
        dst,
        protocol,
        dst_port,
        ingress,
    } = *query;
    let (direction, attachment) = if ingress {
        (Direction::Ingress, &port.ingress)
    } else {
        (Direction::Egress, &port.egress)
    };
    let query = PolicyQuery {
        src,
        dst,
        protocol,
        dst_port,
        direction,
    };
    let decision = snapshot.judge(attachment, &query);
    let mut batch = PolicyBatch::new(snapshot);
    // Among others, and more than once.
    let other = PolicyQuery {
        dst_port: dst_port + 1,
        ..query
    };
    for query in [query, other, query] {
        if let Some(decision) = batch.ask(attachment, &query) {
            batch.put(decision);
        }
    }
    let other = snapshot.judge(attachment, &other);
    assert_eq!(batch.judge(), [decision, other, decision], "{query:?}");
    let who = decision.rule.map(|rule| {
        let origin = snapshot.rule_origin(rule).unwrap();
        assert_eq!(origin.direction, direction);
        (origin.policy.name.clone(), origin.rule)
    });
    (decision.allow, who)
}

/// Seeds tried; each makes its own policies and asks 60 questions.
const SEEDS: u64 = 4_000;

#[test]
fn compiled_policy_decides_as_the_linear_reference() {
    let mut allowed = 0;
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut state = cluster();
        state.ports = vec![pod("a", 5, &[]), pod("b", 6, &[])];
        policies(&mut random, &mut state);
        let snapshot = compiled(&state, &underlay());
        for _ in 0..60 {
            let query = query(&mut random);
            for port in &state.ports {
                let expected = reference::judge(&state, port, &query);
                allowed += u64::from(expected.0 && expected.1.is_some());
                assert_eq!(
                    judged(&snapshot, &port.name, &query),
                    expected,
                    "seed {seed}: {query:?} at {}",
                    port.name
                );
            }
        }
    }
    // The generator is worth something: many decisions are made by a rule that allows.
    assert!(allowed > SEEDS * 5, "{allowed}");
}
