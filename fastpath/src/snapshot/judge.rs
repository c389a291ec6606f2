//! Policy, judged for a flow's first packet.

use std::net::IpAddr;

use contract::valid::{Action, AddressPort};

use super::table::{Blocks, Peers, PortClause, Rule, SetId};
use super::{Attachment, Decision, Direction, PolicyQuery, Snapshot};

/// What a set said in this query, for the sets asked first: rules of a policy tend to name the same ones.
struct Asked {
    answers: [(SetId, bool); Self::MAX],
    len: usize,
}

impl Asked {
    const MAX: usize = 16;

    const fn new() -> Self {
        Self {
            answers: [(SetId(u32::MAX), false); Self::MAX],
            len: 0,
        }
    }

    fn once(&mut self, set: SetId, ask: impl FnOnce() -> bool) -> bool {
        if let Some((_, answer)) = self.answers[..self.len].iter().find(|(asked, _)| *asked == set) {
            return *answer;
        }
        let answer = ask();
        if let Some(free) = self.answers.get_mut(self.len) {
            *free = (set, answer);
            self.len += 1;
        }
        answer
    }
}

impl Snapshot {
    /// What the policies of `attachment` say: tiers, policies and rules in order, the first rule that matches decides.
    pub fn judge(&self, attachment: &Attachment, query: &PolicyQuery) -> Decision {
        let mut asked = Asked::new();
        let peer = match query.direction {
            Direction::Ingress => query.src,
            Direction::Egress => query.dst,
        };
        'tiers: for tier in &*attachment.0 {
            for policy in &*tier.policies {
                let Some(record) = self.policies.get(policy.0) else {
                    continue;
                };
                let rules = match query.direction {
                    Direction::Ingress => &record.ingress,
                    Direction::Egress => &record.egress,
                };
                let mut matches = |number: usize| self.matches(&rules.rules[number], query, peer, &mut asked);
                let first = match &rules.index {
                    Some(index) => index.first(query, peer, matches),
                    None => (0..)
                        .zip(&*rules.rules)
                        .find(|(number, rule)| rule.action != Action::Log && matches(*number))
                        .map(|(_, rule)| (rule.action, rule.id)),
                };
                let Some((action, rule)) = first else {
                    continue;
                };
                let allow = match action {
                    Action::Allow => true,
                    Action::Deny => false,
                    Action::Pass => continue 'tiers,
                    Action::Log => continue,
                };
                return Decision {
                    allow,
                    rule: Some(rule),
                };
            }
            if tier.default_deny {
                let first = tier
                    .policies
                    .first()
                    .and_then(|policy| self.policies.get(policy.0));
                let rule = first.map(|record| match query.direction {
                    Direction::Ingress => record.ingress.default_deny,
                    Direction::Egress => record.egress.default_deny,
                });
                return Decision { allow: false, rule };
            }
        }
        Decision {
            allow: true,
            rule: None,
        }
    }

    fn matches(&self, rule: &Rule, query: &PolicyQuery, peer: IpAddr, asked: &mut Asked) -> bool {
        // Ports first: they cost a compare.
        rule.ports.as_ref().is_none_or(|clauses| {
            clauses
                .iter()
                .any(|clause| self.port_matches(*clause, query, asked))
        }) && rule
            .peers
            .as_ref()
            .is_none_or(|peers| self.peer_matches(peers, peer, asked))
    }

    fn port_matches(&self, clause: PortClause, query: &PolicyQuery, asked: &mut Asked) -> bool {
        match clause {
            PortClause::Range {
                protocol,
                first,
                last,
            } => protocol == query.protocol && (first..=last).contains(&query.dst_port),
            PortClause::Named { protocol, set } => {
                let wanted = AddressPort {
                    address: query.dst,
                    protocol,
                    port: query.dst_port,
                };
                protocol == query.protocol
                    && asked.once(set, || {
                        self.sets
                            .get(set.0)
                            .is_some_and(|record| record.set.contains_port(&wanted))
                    })
            }
        }
    }

    fn peer_matches(&self, peers: &Peers, peer: IpAddr, asked: &mut Asked) -> bool {
        let in_block = match &peers.blocks {
            Blocks::Few(blocks) => blocks.iter().any(|block| block.contains(&peer)),
            Blocks::Many(blocks) => blocks.lookup(peer).is_some(),
        };
        in_block
            || peers.except.iter().any(|(block, except)| {
                block.contains(&peer) && !except.iter().any(|except| except.contains(&peer))
            })
            || peers.sets.iter().any(|set| {
                asked.once(*set, || {
                    self.sets
                        .get(set.0)
                        .is_some_and(|record| record.set.contains(peer))
                })
            })
    }
}
