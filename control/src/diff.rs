//! From one state to the next by the fewest changes, in an order in which every step's references lead somewhere.

use std::collections::{BTreeMap, BTreeSet};

use contract::merge::{member_key, prefix_key};
use contract::proto;
use contract::proto::change::Change;

/// The delta from `old` to `new`, with their versions. Without changes there is nothing to send.
///
/// What others refer to (sets, policies, remote nodes) comes before and goes after those who do; what claims an
/// address (ports, Services, ranges) goes first, so that the address is free for who claims it next. A set of which at
/// most half changes is changed by its members. Order within `old` and `new` does not matter.
pub fn delta(old: &proto::State, new: &proto::State) -> proto::Delta {
    let mut changes = Changes(Vec::new());
    let ports = Keyed::of(&old.ports, &new.ports, |p| p.name.clone());
    let services = Keyed::of(&old.services, &new.services, |s| s.id.clone());
    let blocks = Keyed::of(&old.blocks, &new.blocks, |b| prefix_key(b.prefix.as_ref()));
    let pools = Keyed::of(&old.pools, &new.pools, |p| prefix_key(p.prefix.as_ref()));
    let policies = Keyed::of(&old.policies, &new.policies, |p| p.id.clone());
    let sets = Keyed::of(&old.ip_sets, &new.ip_sets, |s| s.id.clone());
    let remote_nodes = Keyed::of(&old.remote_nodes, &new.remote_nodes, |n| n.name.clone());

    changes.extend(ports.removed().map(|p| Change::PortRemoved(p.name.clone())));
    changes.extend(services.removed().map(|s| Change::ServiceRemoved(s.id.clone())));
    changes.extend(
        blocks
            .removed()
            .filter_map(|b| b.prefix.clone())
            .map(Change::BlockRemoved),
    );
    changes.extend(
        pools
            .removed()
            .filter_map(|p| p.prefix.clone())
            .map(Change::PoolRemoved),
    );

    // Limits first: what follows may need them wider.
    changes.single(old.limits, new.limits, Change::Limits);
    changes.single(old.timeouts, new.timeouts, Change::Timeouts);
    changes.single(old.node.clone(), new.node.clone(), Change::Node);
    changes.extend(remote_nodes.upserted().map(|n| Change::RemoteNode(n.clone())));
    changes.extend(pools.upserted().map(|p| Change::Pool(p.clone())));
    changes.extend(blocks.upserted().map(|b| Change::Block(b.clone())));
    if old.service_ranges != new.service_ranges {
        let ranges = proto::ServiceRanges {
            ranges: new.service_ranges.clone(),
        };
        changes.0.push(Change::ServiceRanges(ranges));
    }
    changes.extend(services.upserted().map(|s| Change::Service(s.clone())));
    changes.extend(sets.pairs().filter_map(|(old, new)| set_change(old, new)));
    changes.extend(policies.upserted().map(|p| Change::Policy(p.clone())));
    changes.extend(ports.upserted().map(|p| Change::Port(p.clone())));

    changes.extend(policies.removed().map(|p| Change::PolicyRemoved(p.id.clone())));
    changes.extend(sets.removed().map(|s| Change::IpSetRemoved(s.id.clone())));
    changes.extend(
        remote_nodes
            .removed()
            .map(|n| Change::RemoteNodeRemoved(n.name.clone())),
    );

    let changes = changes
        .0
        .into_iter()
        .map(|change| proto::Change { change: Some(change) })
        .collect();
    proto::Delta {
        base_version: old.version,
        version: new.version,
        changes,
    }
}

struct Changes(Vec<Change>);

impl Changes {
    fn extend(&mut self, changes: impl Iterator<Item = Change>) {
        self.0.extend(changes);
    }

    /// Absent and default say the same.
    fn single<T: Default + PartialEq>(
        &mut self,
        old: Option<T>,
        new: Option<T>,
        change: impl Fn(T) -> Change,
    ) {
        let new = new.unwrap_or_default();
        if old.unwrap_or_default() != new {
            self.0.push(change(new));
        }
    }
}

/// Objects of one kind, before and after, by key.
struct Keyed<'a, K, T> {
    old: BTreeMap<K, &'a T>,
    new: BTreeMap<K, &'a T>,
}

impl<'a, K: Ord, T: PartialEq> Keyed<'a, K, T> {
    fn of(old: &'a [T], new: &'a [T], key: impl Fn(&T) -> K) -> Self {
        let map = |items: &'a [T]| items.iter().map(|item| (key(item), item)).collect();
        Self {
            old: map(old),
            new: map(new),
        }
    }

    fn removed(&self) -> impl Iterator<Item = &'a T> {
        self.old
            .iter()
            .filter(|(key, _)| !self.new.contains_key(key))
            .map(|(_, item)| *item)
    }

    /// New objects, each with what it replaces.
    fn pairs(&self) -> impl Iterator<Item = (Option<&'a T>, &'a T)> {
        self.new
            .iter()
            .map(|(key, item)| (self.old.get(key).copied(), *item))
    }

    fn upserted(&self) -> impl Iterator<Item = &'a T> {
        self.pairs()
            .filter(|(old, new)| *old != Some(*new))
            .map(|(_, new)| new)
    }
}

fn set_change(old: Option<&proto::IpSet>, new: &proto::IpSet) -> Option<Change> {
    let Some(old) = old.filter(|old| old.kind == new.kind) else {
        return Some(Change::IpSet(new.clone()));
    };
    if old.members == new.members {
        return None;
    }
    let without = |members: &[proto::Member], others: &[proto::Member]| -> Vec<proto::Member> {
        let others: BTreeSet<_> = others.iter().map(member_key).collect();
        members
            .iter()
            .filter(|member| !others.contains(&member_key(member)))
            .cloned()
            .collect()
    };
    let removed = without(&old.members, &new.members);
    let added = without(&new.members, &old.members);
    let changed = removed.len() + added.len();
    if changed == 0 {
        None
    } else if changed * 2 <= new.members.len() {
        Some(Change::IpSetDelta(proto::IpSetDelta {
            id: new.id.clone(),
            removed,
            added,
        }))
    } else {
        Some(Change::IpSet(new.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::btree_map;

    use super::*;
    use contract::merge;
    use proptest::prelude::*;

    fn prefix() -> impl Strategy<Value = proto::Prefix> {
        prop_oneof![
            (0_u8..6).prop_map(|n| proto::Prefix {
                address: vec![10, 0, 0, n],
                length: 32
            }),
            (0_u8..3).prop_map(|n| proto::Prefix {
                address: vec![10, n, 0, 0],
                length: 16
            }),
            (0_u8..3).prop_map(|n| proto::Prefix {
                address: [&[0xfd; 15][..], &[n]].concat(),
                length: 128
            }),
        ]
    }

    fn name() -> impl Strategy<Value = String> {
        "[a-d]".prop_map(String::from)
    }

    /// Some objects of a kind, each key once.
    fn some<T: Clone + std::fmt::Debug, K: Ord + Clone + std::fmt::Debug>(
        key: impl Strategy<Value = K>,
        make: impl Fn(K, u32) -> T + Clone,
    ) -> impl Strategy<Value = Vec<T>> {
        prop::collection::btree_map(key, 0_u32..3, 0..5).prop_map(move |map: BTreeMap<K, u32>| {
            let entries: btree_map::IntoIter<K, u32> = map.into_iter();
            entries.map(|(key, value)| make(key, value)).collect()
        })
    }

    fn ordered_prefix() -> impl Strategy<Value = (usize, Vec<u8>, u32)> {
        prefix().prop_map(|p| prefix_key(Some(&p)))
    }

    fn of_key((_, address, length): (usize, Vec<u8>, u32)) -> proto::Prefix {
        proto::Prefix { address, length }
    }

    fn sets() -> impl Strategy<Value = Vec<proto::IpSet>> {
        let members = prop::collection::btree_set(ordered_prefix(), 0..9);
        prop::collection::btree_map(name(), (1_i32..3, members), 0..4).prop_map(|map| {
            let member = |key| proto::Member {
                prefix: Some(of_key(key)),
                protocol: 0,
                port: 0,
            };
            let set = |(id, (kind, members)): (String, (i32, BTreeSet<_>))| proto::IpSet {
                id,
                kind,
                members: members.into_iter().map(member).collect(),
            };
            map.into_iter().map(set).collect()
        })
    }

    prop_compose! {
        fn state()(
            node_mtu in 0_u32..2,
            ports in some(name(), |name, mtu| proto::Port { name, mtu, ..Default::default() }),
            remote_nodes in some(name(), |name, n| proto::RemoteNode { name, uplink_mac: vec![0; n as usize], ..Default::default() }),
            blocks in some(ordered_prefix(), |key, n| proto::Block { prefix: Some(of_key(key)), node: n.to_string(), encap: 0 }),
            pools in some(ordered_prefix(), |key, n| proto::Pool { prefix: Some(of_key(key)), nat_outgoing: n == 0, ..Default::default() }),
            services in some(name(), |id, port| proto::Service { id, port, ..Default::default() }),
            service_ranges in some(ordered_prefix(), |key, _| of_key(key)),
            ip_sets in sets(),
            policies in some(name(), |id, n| proto::Policy { id, ingress: vec![proto::Rule::default(); n as usize], ..Default::default() }),
            udp in 0_u32..2,
            limits in 0_u32..2,
        ) -> proto::State {
            proto::State {
                version: 1,
                node: Some(proto::Node { name: "n".into(), uplink_mtu: node_mtu, ..Default::default() }),
                ports, remote_nodes, blocks, pools, services, service_ranges, ip_sets, policies,
                timeouts: Some(proto::Timeouts { udp, ..Default::default() }),
                limits: Some(proto::Limits { ports: limits, ..Default::default() }),
            }
        }
    }

    proptest! {
        #[test]
        fn applying_the_delta_gives_the_new_state(mut old in state(), mut new in state()) {
            new.version = 2;
            let delta = delta(&old, &new);
            merge::sort(&mut old);
            merge::sort(&mut new);
            prop_assert_eq!(merge::apply(&old, &delta).unwrap(), new);
        }

        #[test]
        fn nothing_changed_needs_no_changes(state in state()) {
            prop_assert!(delta(&state, &state).changes.is_empty());
        }
    }

    #[test]
    fn one_member_more_is_a_small_change() {
        let member = |n: u8| proto::Member {
            prefix: Some(proto::Prefix {
                address: vec![10, 0, 0, n],
                length: 32,
            }),
            protocol: 0,
            port: 0,
        };
        let state = |last: u8, version: u64| proto::State {
            version,
            ip_sets: vec![proto::IpSet {
                id: "s".into(),
                kind: 1,
                members: (0..last).map(member).collect(),
            }],
            ..proto::State::default()
        };
        let changes = delta(&state(100, 1), &state(101, 2)).changes;
        let expected = proto::IpSetDelta {
            id: "s".into(),
            removed: vec![],
            added: vec![member(100)],
        };
        assert_eq!(
            changes,
            [proto::Change {
                change: Some(Change::IpSetDelta(expected))
            }]
        );
        assert!(matches!(
            delta(&state(100, 1), &state(2, 2)).changes[0].change,
            Some(Change::IpSet(_))
        ));
    }
}
