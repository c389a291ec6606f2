//! Policy, judged for a flow's first packet.

use std::net::IpAddr;

use contract::valid::{Action, AddressPort};

use super::rule_list::Open;
use super::table::{Blocks, Peers, PortClause, Rule, Rules, SetId};
use super::{Attachment, Decision, Direction, PolicyQuery, RuleId, Snapshot, TierAttachment};

/// What a set said in a query, for the sets asked first: rules of a policy tend to name the same ones.
pub(super) struct Asked {
    sets: [SetId; Self::MAX],
    answers: u32,
    len: usize,
}

impl Asked {
    const MAX: usize = 16;

    pub(super) const fn new() -> Self {
        Self {
            sets: [SetId(u32::MAX); Self::MAX],
            answers: 0,
            len: 0,
        }
    }

    fn once(&mut self, set: SetId, ask: impl FnOnce() -> bool) -> bool {
        if let Some(at) = self.sets[..self.len].iter().position(|asked| *asked == set) {
            return self.answers >> at & 1 != 0;
        }
        let answer = ask();
        if let Some(free) = self.sets.get_mut(self.len) {
            *free = set;
            self.answers |= u32::from(answer) << self.len;
            self.len += 1;
        }
        answer
    }
}

/// The way of one query through tiers and policies, in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'s> {
    /// Those that have not decided yet.
    tiers: &'s [TierAttachment],
    /// Policies of the first of them that have not.
    at: usize,
}

/// What comes next on it.
pub(super) enum Next<'s> {
    Rules(&'s Rules),
    Decided(Decision),
}

impl<'s> Walk<'s> {
    pub(super) fn new(attachment: &'s Attachment) -> Self {
        Self {
            tiers: &attachment.0,
            at: 0,
        }
    }

    #[inline]
    pub(super) fn next(&mut self, snapshot: &'s Snapshot, direction: Direction) -> Next<'s> {
        while let Some((tier, others)) = self.tiers.split_first() {
            while let Some(policy) = tier.policies.get(self.at) {
                self.at += 1;
                if let Some(record) = snapshot.policies.get(policy.0) {
                    return Next::Rules(record.rules(direction));
                }
            }
            if tier.default_deny {
                let first = tier
                    .policies
                    .first()
                    .and_then(|policy| snapshot.policies.get(policy.0));
                return Next::Decided(Decision {
                    allow: false,
                    rule: first.map(|record| record.rules(direction).default_deny),
                });
            }
            (self.tiers, self.at) = (others, 0);
        }
        Next::Decided(Decision::NO_POLICY)
    }

    /// What the first rule of a policy decides that matches; `None`: nothing, another policy is next.
    #[inline]
    pub(super) fn said(&mut self, first: Option<(Action, RuleId)>) -> Option<Decision> {
        let (action, rule) = first?;
        let allow = match action {
            Action::Allow => true,
            Action::Deny => false,
            Action::Pass => {
                (self.tiers, self.at) = (&self.tiers[1..], 0);
                return None;
            }
            Action::Log => return None,
        };
        Some(Decision {
            allow,
            rule: Some(rule),
        })
    }
}

impl Snapshot {
    /// What the policies of `attachment` say: tiers, policies and rules in order, the first rule that matches decides.
    pub fn judge(&self, attachment: &Attachment, query: &PolicyQuery) -> Decision {
        let mut walk = Walk::new(attachment);
        let mut asked = Asked::new();
        loop {
            let rules = match walk.next(self, query.direction) {
                Next::Rules(rules) => rules,
                Next::Decided(decision) => return decision,
            };
            let first = self.first_rule(rules, query, None, &mut asked);
            if let Some(decision) = walk.said(first) {
                return decision;
            }
        }
    }

    /// What the first rule of a policy does that matches. `place` is where the index has the rules of the peer, if it is known.
    #[inline]
    pub(super) fn first_rule(
        &self,
        rules: &Rules,
        query: &PolicyQuery,
        place: Option<u32>,
        asked: &mut Asked,
    ) -> Option<(Action, RuleId)> {
        let peer = query.peer();
        if let Some(index) = &rules.index {
            let place = place.unwrap_or_else(|| index.place(peer, index.begin(peer)));
            return index.first(query, place, |number, open| {
                self.matches(&rules.rules[number], open, query, peer, asked)
            });
        }
        let mut deciding = rules.rules.iter().filter(|rule| rule.action != Action::Log);
        let first = deciding.find(|rule| self.matches(rule, Open::Both, query, peer, asked))?;
        Some((first.action, first.id))
    }

    /// Does the rule match in what is open of it?
    #[inline]
    fn matches(&self, rule: &Rule, open: Open, query: &PolicyQuery, peer: IpAddr, asked: &mut Asked) -> bool {
        // Ports first: they cost a compare.
        let has_ports = |clauses: &[PortClause], asked: &mut Asked| {
            clauses
                .iter()
                .any(|clause| self.port_matches(*clause, query, asked))
        };
        let ports = rule.ports.as_ref().filter(|_| open != Open::Peers);
        let peers = rule.peers.as_ref().filter(|_| open != Open::Ports);
        ports.is_none_or(|clauses| has_ports(clauses, asked))
            && peers.is_none_or(|peers| self.peer_matches(peers, peer, asked))
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
