//! Changes in an order that can be applied: one last word per name, by kind.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use contract::valid::{
    Block, Change, IpSet, Limits, Node, Policy, Pool, Port, RemoteNode, Service, Timeouts, ValidState,
};
use ipnet::IpNet;

use crate::snapshot::Snapshot;
use crate::table::lpm::Prefixes;
use crate::table::trie::Trie;

/// What is to be done, sorted by kind. No name is in an upsert and a removal.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) limits: Option<Limits>,
    pub(super) timeouts: Option<Timeouts>,
    pub(super) node: Option<Node>,
    pub(super) service_ranges: Option<Vec<IpNet>>,
    /// Upserts and deltas, in the order in which they came.
    pub(super) sets: Vec<Change>,
    pub(super) sets_removed: Vec<Arc<str>>,
    pub(super) policies: Vec<Policy>,
    pub(super) policies_removed: Vec<Arc<str>>,
    pub(super) remote_nodes: Vec<RemoteNode>,
    pub(super) remote_nodes_removed: Vec<Arc<str>>,
    pub(super) blocks: Vec<Block>,
    pub(super) blocks_removed: Vec<IpNet>,
    pub(super) pools: Vec<Pool>,
    pub(super) pools_removed: Vec<IpNet>,
    pub(super) ports: Vec<Port>,
    pub(super) ports_removed: Vec<Arc<str>>,
    pub(super) services: Vec<Service>,
    pub(super) services_removed: Vec<Arc<str>>,
}

/// The last word on each name: `None` is its removal.
struct Last<K, T>(BTreeMap<K, Option<T>>);

impl<K: Ord + Clone, T: Clone> Last<K, T> {
    const fn new() -> Self {
        Self(BTreeMap::new())
    }

    fn upsert(&mut self, key: &K, object: &T) {
        self.0.insert(key.clone(), Some(object.clone()));
    }

    /// What only came in this delta goes without a trace.
    fn removed(&mut self, key: &K, is_known: bool) {
        if !is_known && self.0.get(key).is_some_and(Option::is_some) {
            self.0.remove(key);
        } else {
            self.0.insert(key.clone(), None);
        }
    }

    fn split(self) -> (Vec<T>, Vec<K>) {
        let mut upserts = Vec::new();
        let mut removed = Vec::new();
        for (key, object) in self.0 {
            match object {
                Some(object) => upserts.push(object),
                None => removed.push(key),
            }
        }
        (upserts, removed)
    }
}

impl Plan {
    /// The plan of a delta to `previous`.
    pub(super) fn of_delta(previous: &Snapshot, changes: &[Change]) -> Self {
        let mut plan = Self::default();
        let mut ports = Last::new();
        let mut remote_nodes = Last::new();
        let mut blocks = Last::new();
        let mut pools = Last::new();
        let mut services = Last::new();
        let mut policies = Last::new();
        let mut sets: BTreeMap<&Arc<str>, Option<Vec<&Change>>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Node(node) => plan.node = Some(node.clone()),
                Change::Timeouts(timeouts) => plan.timeouts = Some(*timeouts),
                Change::Limits(limits) => plan.limits = Some(*limits),
                Change::ServiceRanges(ranges) => plan.service_ranges = Some(ranges.clone()),
                Change::Port(port) => ports.upsert(&port.name, port),
                Change::PortRemoved(name) => ports.removed(name, previous.port_names.contains(name)),
                Change::RemoteNode(node) => remote_nodes.upsert(&node.name, node),
                Change::RemoteNodeRemoved(name) => {
                    remote_nodes.removed(name, previous.peer_names.contains(name));
                }
                Change::Block(block) => blocks.upsert(&block.prefix, block),
                Change::BlockRemoved(prefix) => {
                    blocks.removed(prefix, previous.blocks.exact(*prefix).is_some());
                }
                Change::Pool(pool) => pools.upsert(&pool.prefix, pool),
                Change::PoolRemoved(prefix) => pools.removed(prefix, previous.pools.exact(*prefix).is_some()),
                Change::Service(service) => services.upsert(&service.id, service),
                Change::ServiceRemoved(id) => services.removed(id, previous.service_names.contains(id)),
                Change::Policy(policy) => policies.upsert(&policy.id, policy),
                Change::PolicyRemoved(id) => policies.removed(id, previous.policy_names.contains(id)),
                Change::IpSet(set) => {
                    sets.insert(&set.id, Some(vec![change]));
                }
                Change::IpSetRemoved(id) => {
                    let only_here = !previous.set_names.contains(id);
                    if sets.insert(id, None).flatten().is_some() && only_here {
                        sets.remove(id);
                    }
                }
                // After a removal it finds the set gone and is refused there: keep both.
                Change::IpSetDelta(delta) => {
                    match sets.entry(&delta.id).or_insert_with(|| Some(Vec::new())) {
                        Some(changes) => changes.push(change),
                        None => plan.sets.push(Change::IpSetDelta(delta.clone())),
                    }
                }
            }
        }
        for (id, changes) in sets {
            match changes {
                Some(changes) => plan.sets.extend(changes.into_iter().cloned()),
                None => plan.sets_removed.push(id.clone()),
            }
        }
        (plan.ports, plan.ports_removed) = ports.split();
        (plan.remote_nodes, plan.remote_nodes_removed) = remote_nodes.split();
        (plan.blocks, plan.blocks_removed) = blocks.split();
        (plan.pools, plan.pools_removed) = pools.split();
        (plan.services, plan.services_removed) = services.split();
        (plan.policies, plan.policies_removed) = policies.split();
        plan
    }

    /// It is about more than Services, sets and policies.
    pub(super) fn touches_links(&self) -> bool {
        let Self {
            node,
            remote_nodes,
            remote_nodes_removed,
            blocks,
            blocks_removed,
            pools,
            pools_removed,
            ports,
            ports_removed,
            limits: _,
            timeouts: _,
            service_ranges: _,
            sets: _,
            sets_removed: _,
            policies: _,
            policies_removed: _,
            services: _,
            services_removed: _,
        } = self;
        node.is_some()
            || !(remote_nodes.is_empty() && remote_nodes_removed.is_empty())
            || !(blocks.is_empty() && blocks_removed.is_empty())
            || !(pools.is_empty() && pools_removed.is_empty())
            || !(ports.is_empty() && ports_removed.is_empty())
    }

    /// The plan that makes `state` of `previous`. What is there already, unchanged, is not in it: a control process that restarted
    /// says again what is in force, and then nothing is copied, compiled or bumped.
    pub(super) fn replacing(previous: &Snapshot, state: &ValidState) -> Self {
        let tables = previous;
        let mut plan = Self {
            limits: Some(state.limits),
            timeouts: Some(state.timeouts),
            node: (*tables.node != state.node).then(|| state.node.clone()),
            service_ranges: Some(state.service_ranges.clone()),
            ..Self::default()
        };
        (plan.ports, plan.ports_removed) = differing(
            &state.ports,
            |port| &port.name,
            &tables.port_names,
            |record, port| *record.source == *port,
        );
        (plan.remote_nodes, plan.remote_nodes_removed) = differing(
            &state.remote_nodes,
            |node| &node.name,
            &tables.peer_names,
            |id, node| {
                let peer = tables.peers.get(u32::from(id.0));
                peer.is_some_and(|peer| *peer.source == *node)
            },
        );
        (plan.services, plan.services_removed) = differing(
            &state.services,
            |service| &service.id,
            &tables.service_names,
            |id, service| {
                let record = tables.services.get(id.0);
                record.is_some_and(|record| *record.source == *service)
            },
        );
        (plan.policies, plan.policies_removed) = differing(
            &state.policies,
            |policy| &policy.id,
            &tables.policy_names,
            |id, policy| {
                let record = tables.policies.get(id.0);
                record.is_some_and(|record| *record.source == *policy)
            },
        );
        let sets: Vec<IpSet>;
        (sets, plan.sets_removed) = differing(
            &state.ip_sets,
            |set| &set.id,
            &tables.set_names,
            |id, set| {
                let record = tables.sets.get(id.0);
                record.is_some_and(|record| record.set.equals(&set.members))
            },
        );
        plan.sets = sets.into_iter().map(Change::IpSet).collect();
        (plan.blocks, plan.blocks_removed) = differing_in(
            &state.blocks,
            |block| block.prefix,
            &tables.blocks,
            |record, block| *record.source == *block,
        );
        (plan.pools, plan.pools_removed) = differing_in(
            &state.pools,
            |pool| pool.prefix,
            &tables.pools,
            |record, pool| record.source == *pool,
        );
        plan
    }
}

/// Of `wanted` what is not `same` under its name in `known`, and the names of `known` that are wanted no more, sorted.
fn differing<T: Clone, V: Clone>(
    wanted: &[T],
    name: impl Fn(&T) -> &Arc<str>,
    known: &Trie<Arc<str>, V>,
    same: impl Fn(&V, &T) -> bool,
) -> (Vec<T>, Vec<Arc<str>>) {
    let mut found = 0;
    let mut differs = Vec::new();
    for object in wanted {
        let there = known.get(name(object));
        found += usize::from(there.is_some());
        if !there.is_some_and(|there| same(there, object)) {
            differs.push(object.clone());
        }
    }
    // No name is wanted twice: as many as there are, so all of them.
    if found == known.len() {
        return (differs, Vec::new());
    }
    let kept: HashSet<_> = wanted.iter().map(&name).collect();
    let names = known.iter().map(|(name, _)| name);
    let mut gone: Vec<_> = names.filter(|name| !kept.contains(name)).cloned().collect();
    gone.sort_unstable();
    (differs, gone)
}

/// The same by prefix.
fn differing_in<T: Clone, V: Clone>(
    wanted: &[T],
    prefix: impl Fn(&T) -> IpNet,
    known: &Prefixes<V>,
    same: impl Fn(&V, &T) -> bool,
) -> (Vec<T>, Vec<IpNet>) {
    let mut found = 0;
    let mut differs = Vec::new();
    for object in wanted {
        let there = known.exact(prefix(object));
        found += usize::from(there.is_some());
        if !there.is_some_and(|there| same(there, object)) {
            differs.push(object.clone());
        }
    }
    let mut gone = Vec::new();
    if found < known.len() {
        let kept: HashSet<_> = wanted.iter().map(&prefix).collect();
        known.each(|prefix, _| {
            if !kept.contains(&prefix) {
                gone.push(prefix);
            }
        });
    }
    (differs, gone)
}
