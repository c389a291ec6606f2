//! Policies: rules as flat arrays over IP sets, each rule with an index of its own that a flow can carry.

use std::sync::Arc;

use contract::valid::{self, Peer, Ports, SetKind, Subject, ip_sets_of};
use ipnet::IpNet;

use super::node::missing;
use super::{CompileError, Work, within};
use crate::port::PortId;
use crate::snapshot::rule_index::RuleIndex;
use crate::snapshot::table::{Blocks, Peers, PolicyRecord, PortClause, Rule, RuleRecord, Rules, SetId};
use crate::snapshot::{Direction, PolicyId, RuleId, Shard};
use crate::table::lpm::Prefixes;
use crate::table::trie::Trie;

/// A flow entry has 24 bits for a rule.
const RULE_IDS_MAX: u32 = 1 << 24;

/// From here on a tree is faster than a scan.
const BLOCKS_FEW: usize = 8;

type RuleKey = (Direction, Option<u32>);

impl Work {
    pub(super) fn policy(&mut self, source: valid::Policy) -> Result<(), CompileError> {
        let known = self.snapshot.policy_names.get(&source.id).copied();
        let before = known.and_then(|id| self.snapshot.policies.get(id.0)).cloned();
        if before.as_ref().is_some_and(|before| *before.source == source) {
            return Ok(());
        }
        let subject = Subject::origin(&source.origin);
        let count = |policy: &valid::Policy| policy.ingress.len() + policy.egress.len();
        let rules = self.snapshot.totals.rules - before.as_ref().map_or(0, |before| count(&before.source))
            + count(&source);
        within(&subject, "rules", rules, self.snapshot.limits.rules)?;
        self.snapshot.totals.rules = rules;

        let sets = self.sets_of(&subject, &source)?;
        let same_origin = before
            .as_ref()
            .is_some_and(|before| before.source.origin == source.origin);
        let old_ids = before
            .as_ref()
            .map(|before| before.rule_ids.clone())
            .unwrap_or_default();
        let rule_ids = self.rule_ids(&subject, &source, &old_ids, same_origin)?;
        let id = known.unwrap_or(PolicyId(self.snapshot.policies.next_index()));
        let record = PolicyRecord {
            ingress: Arc::new(self.rules(&source.ingress, Direction::Ingress, &rule_ids)),
            egress: Arc::new(self.rules(&source.egress, Direction::Egress, &rule_ids)),
            rule_ids: rule_ids.into(),
            sets: sets.into(),
            ports: before
                .as_ref()
                .map(|before| before.ports.clone())
                .unwrap_or_default(),
            source: Arc::new(source),
        };
        let before_sets = before
            .as_ref()
            .map(|before| before.sets.clone())
            .unwrap_or_default();
        self.refer(id, &before_sets, &record.sets.clone());
        for (port, ()) in &record.ports {
            self.bumps.add(Shard::endpoint(PortId(*port as u16)));
        }
        if known.is_some() {
            *self
                .snapshot
                .policies
                .get_mut(id.0)
                .expect("an index that a name has is taken") = record;
        } else {
            within(
                &subject,
                "policies",
                self.snapshot.policies.len() + 1,
                self.snapshot.limits.policies,
            )?;
            self.snapshot.policy_names.insert(record.source.id.clone(), id);
            let index = self.snapshot.policies.insert(record);
            debug_assert_eq!(index, id.0, "the index that was promised");
        }
        Ok(())
    }

    pub(super) fn policy_removed(&mut self, name: &str) -> Result<(), CompileError> {
        let Some(id) = self.snapshot.policy_names.get_name(name).copied() else {
            return Err(missing("Policy", name));
        };
        let Some(record) = self.snapshot.policies.get(id.0).cloned() else {
            return Err(missing("Policy", name));
        };
        if let Some((port, ())) = record.ports.iter().next() {
            let port = self
                .snapshot
                .port(PortId(*port as u16))
                .map_or("a port", |port| &port.name);
            let subject = Subject::origin(&record.source.origin);
            return Err(subject
                .invalid("id", "no port that a policy which goes is attached to", port)
                .into());
        }
        self.refer(id, &record.sets, &[]);
        for (_, _, rule) in &*record.rule_ids {
            self.snapshot.rules.remove(rule.0);
        }
        self.snapshot.totals.rules -= record.source.ingress.len() + record.source.egress.len();
        self.snapshot.policies.remove(id.0);
        self.snapshot.policy_names.remove(&record.source.id);
        Ok(())
    }

    /// The sets that a policy names, sorted.
    fn sets_of(&self, subject: &Subject, policy: &valid::Policy) -> Result<Vec<SetId>, CompileError> {
        let mut sets = Vec::new();
        let mut named: Vec<_> = ip_sets_of(policy).into_iter().collect();
        // The error must not depend on the order of a hash set.
        named.sort_unstable();
        for (name, kind) in named {
            let found = self.snapshot.set_names.get(&name).copied();
            match found.and_then(|id| Some((id, self.snapshot.sets.get(id.0)?.set.kind()))) {
                Some((id, found)) if found == kind => sets.push(id),
                found => {
                    let expected = match kind {
                        SetKind::Addresses => "the id of a set of addresses",
                        SetKind::AddressPorts => "the id of a set of address and port",
                    };
                    let found =
                        found.map_or(format!("{name:?}"), |(_, kind)| format!("{name:?} of {kind:?}"));
                    return Err(subject.invalid("ip_set", expected, found).into());
                }
            }
        }
        sets.sort_unstable();
        sets.dedup();
        Ok(sets)
    }

    /// An index for every rule of the object and for each direction's default deny. Those that were there keep theirs.
    fn rule_ids(
        &mut self,
        subject: &Subject,
        policy: &valid::Policy,
        before: &[(Direction, Option<u32>, RuleId)],
        same_origin: bool,
    ) -> Result<Vec<(Direction, Option<u32>, RuleId)>, CompileError> {
        let mut keys: Vec<RuleKey> = vec![(Direction::Ingress, None), (Direction::Egress, None)];
        keys.extend(
            policy
                .ingress
                .iter()
                .map(|rule| (Direction::Ingress, Some(rule.index))),
        );
        keys.extend(
            policy
                .egress
                .iter()
                .map(|rule| (Direction::Egress, Some(rule.index))),
        );
        keys.sort_unstable();
        keys.dedup();
        let mut ids = Vec::with_capacity(keys.len());
        for (direction, rule) in &keys {
            let record = RuleRecord {
                origin: policy.origin.clone(),
                direction: *direction,
                rule: *rule,
            };
            let id = if let Some(id) = find(before, (*direction, *rule)) {
                if !same_origin {
                    *self
                        .snapshot
                        .rules
                        .get_mut(id.0)
                        .expect("an index that a policy has is taken") = record;
                }
                id
            } else {
                let id = self.snapshot.rules.insert(record);
                if id >= RULE_IDS_MAX {
                    return Err(subject
                        .invalid("rules", format!("at most {RULE_IDS_MAX} at once"), id)
                        .into());
                }
                if id < self.used.1 {
                    self.reused.rules.push(RuleId(id));
                }
                RuleId(id)
            };
            ids.push((*direction, *rule, id));
        }
        for (direction, rule, id) in before {
            if keys.binary_search(&(*direction, *rule)).is_err() {
                self.snapshot.rules.remove(id.0);
            }
        }
        Ok(ids)
    }

    fn rules(
        &self,
        source: &[valid::Rule],
        direction: Direction,
        ids: &[(Direction, Option<u32>, RuleId)],
    ) -> Rules {
        let id = |rule| find(ids, (direction, rule)).expect("every rule was given an index");
        let rules = source.iter().map(|rule| Rule {
            action: rule.action,
            id: id(Some(rule.index)),
            ports: rule
                .ports
                .as_ref()
                .map(|ports| ports.iter().map(|port| self.clause(port)).collect()),
            peers: rule.peers.as_ref().map(|peers| self.peers(peers)),
        });
        let rules: Box<[Rule]> = rules.collect();
        Rules {
            index: RuleIndex::new(&rules),
            rules,
            default_deny: id(None),
        }
    }

    fn clause(&self, port: &valid::PortMatch) -> PortClause {
        let protocol = port.protocol;
        match &port.ports {
            Ports::Any => PortClause::Range {
                protocol,
                first: 0,
                last: u16::MAX,
            },
            Ports::Range(first, last) => PortClause::Range {
                protocol,
                first: *first,
                last: *last,
            },
            Ports::Named(id) => PortClause::Named {
                protocol,
                set: self.set(id),
            },
        }
    }

    fn peers(&self, peers: &[Peer]) -> Peers {
        let mut sets: Vec<SetId> = Vec::new();
        let mut blocks: Vec<IpNet> = Vec::new();
        let mut except = Vec::new();
        for peer in peers {
            match peer {
                Peer::IpSet(id) => sets.push(self.set(id)),
                Peer::IpBlock { prefix, except: none } if none.is_empty() => blocks.push(*prefix),
                Peer::IpBlock { prefix, except: some } => except.push((*prefix, some.as_slice().into())),
            }
        }
        let blocks = if blocks.len() <= BLOCKS_FEW {
            Blocks::Few(blocks.into())
        } else {
            let mut many = Prefixes::default();
            for block in blocks {
                many.insert(block, ());
            }
            Blocks::Many(many)
        };
        Peers {
            sets: sets.into(),
            blocks,
            except: except.into(),
        }
    }

    fn set(&self, id: &Arc<str>) -> SetId {
        *self
            .snapshot
            .set_names
            .get(id)
            .expect("the policy's sets were looked up")
    }

    /// Keeps the list of policies at each set.
    fn refer(&mut self, policy: PolicyId, before: &[SetId], after: &[SetId]) {
        for set in before.iter().filter(|set| after.binary_search(set).is_err()) {
            self.policies_of(*set).remove(&policy.0);
        }
        for set in after.iter().filter(|set| before.binary_search(set).is_err()) {
            self.policies_of(*set).insert(policy.0, ());
        }
    }

    fn policies_of(&mut self, set: SetId) -> &mut Trie<u32, ()> {
        &mut self
            .snapshot
            .sets
            .get_mut(set.0)
            .expect("a set that a policy names stays")
            .policies
    }
}

fn find(ids: &[(Direction, Option<u32>, RuleId)], key: RuleKey) -> Option<RuleId> {
    let place = ids
        .binary_search_by(|(direction, rule, _)| (*direction, *rule).cmp(&key))
        .ok()?;
    Some(ids[place].2)
}
