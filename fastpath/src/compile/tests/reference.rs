//! Policy as `ringway.proto` words it, straight from the messages: one list after another, nothing prepared.

use std::net::IpAddr;

use contract::proto::{self, peer, port_match};

/// What is asked: addresses, protocol and destination port; towards the endpoint or from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query {
    pub(super) src: IpAddr,
    pub(super) dst: IpAddr,
    pub(super) protocol: u8,
    pub(super) dst_port: u16,
    pub(super) ingress: bool,
}

/// Allowed or not, and the policy and rule that decided (no rule: its default deny).
pub(super) type Answer = (bool, Option<(String, Option<u32>)>);

pub(super) fn judge(state: &proto::State, port: &proto::Port, query: &Query) -> Answer {
    let attachment = if query.ingress {
        &port.ingress
    } else {
        &port.egress
    };
    for tier in attachment.iter().flat_map(|attachment| &attachment.tiers) {
        if let Some(answer) = judge_tier(state, tier, query) {
            return answer;
        }
    }
    (true, None)
}

fn judge_tier(state: &proto::State, tier: &proto::Tier, query: &Query) -> Option<Answer> {
    for id in &tier.policies {
        let policy = state.policies.iter().find(|policy| policy.id == *id).unwrap();
        for rule in if query.ingress {
            &policy.ingress
        } else {
            &policy.egress
        } {
            if !matches_ports(state, rule, query) || !matches_peers(state, rule, query) {
                continue;
            }
            let who = Some((id.clone(), Some(rule.index)));
            match proto::Action::try_from(rule.action).unwrap() {
                proto::Action::Allow => return Some((true, who)),
                proto::Action::Deny => return Some((false, who)),
                proto::Action::Pass => return None,
                proto::Action::Log => {}
                proto::Action::Unspecified => panic!("not valid"),
            }
        }
    }
    match proto::Action::try_from(tier.default_action).unwrap() {
        proto::Action::Deny => Some((false, Some((tier.policies[0].clone(), None)))),
        _ => None,
    }
}

fn matches_ports(state: &proto::State, rule: &proto::Rule, query: &Query) -> bool {
    rule.any_port
        || rule.ports.iter().any(|wanted| {
            wanted.protocol == u32::from(query.protocol)
                && match &wanted.port {
                    None => true,
                    Some(port_match::Port::Range(range)) => {
                        range.first <= u32::from(query.dst_port) && u32::from(query.dst_port) <= range.last
                    }
                    Some(port_match::Port::NamedSet(id)) => set(state, id).members.iter().any(|member| {
                        contains(member.prefix.as_ref().unwrap(), query.dst)
                            && member.protocol == u32::from(query.protocol)
                            && member.port == u32::from(query.dst_port)
                    }),
                }
        })
}

fn matches_peers(state: &proto::State, rule: &proto::Rule, query: &Query) -> bool {
    let peer = if query.ingress { query.src } else { query.dst };
    rule.any_peer
        || rule
            .peers
            .iter()
            .any(|wanted| match wanted.peer.as_ref().unwrap() {
                peer::Peer::IpSet(id) => set(state, id)
                    .members
                    .iter()
                    .any(|member| contains(member.prefix.as_ref().unwrap(), peer)),
                peer::Peer::IpBlock(block) => {
                    contains(block.prefix.as_ref().unwrap(), peer)
                        && !block.except.iter().any(|hole| contains(hole, peer))
                }
            })
}

fn set<'a>(state: &'a proto::State, id: &str) -> &'a proto::IpSet {
    state.ip_sets.iter().find(|set| set.id == id).unwrap()
}

/// Bit by bit.
fn contains(prefix: &proto::Prefix, address: IpAddr) -> bool {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let bit = |bytes: &[u8], place: u32| bytes[place as usize / 8] >> (7 - place % 8) & 1;
    bytes.len() == prefix.address.len()
        && (0..prefix.length).all(|place| bit(&bytes, place) == bit(&prefix.address, place))
}
