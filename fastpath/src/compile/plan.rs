//! Changes in an order that can be applied: one last word per name, by kind.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use contract::valid::{
    Block, Change, Limits, Node, Policy, Pool, Port, RemoteNode, Service, Timeouts, ValidState,
};
use ipnet::IpNet;

use crate::snapshot::Snapshot;

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

    /// The plan that makes `state` of `previous`. Upserts of what is there already, unchanged, do nothing when applied.
    pub(super) fn replacing(previous: &Snapshot, state: &ValidState) -> Self {
        let mut plan = Self {
            limits: Some(state.limits),
            timeouts: Some(state.timeouts),
            node: Some(state.node.clone()),
            service_ranges: Some(state.service_ranges.clone()),
            sets: state.ip_sets.iter().cloned().map(Change::IpSet).collect(),
            policies: state.policies.clone(),
            remote_nodes: state.remote_nodes.clone(),
            blocks: state.blocks.clone(),
            pools: state.pools.clone(),
            ports: state.ports.clone(),
            services: state.services.clone(),
            ..Self::default()
        };
        let gone = |names: Vec<&Arc<str>>, kept: HashSet<&Arc<str>>| -> Vec<Arc<str>> {
            let mut gone: Vec<_> = names
                .into_iter()
                .filter(|name| !kept.contains(name))
                .cloned()
                .collect();
            gone.sort_unstable();
            gone
        };
        let tables = previous;
        plan.ports_removed = gone(
            tables.port_names.iter().map(|(name, _)| name).collect(),
            state.ports.iter().map(|p| &p.name).collect(),
        );
        plan.remote_nodes_removed = gone(
            tables.peer_names.iter().map(|(name, _)| name).collect(),
            state.remote_nodes.iter().map(|node| &node.name).collect(),
        );
        plan.services_removed = gone(
            tables.service_names.iter().map(|(id, _)| id).collect(),
            state.services.iter().map(|service| &service.id).collect(),
        );
        plan.policies_removed = gone(
            tables.policy_names.iter().map(|(id, _)| id).collect(),
            state.policies.iter().map(|policy| &policy.id).collect(),
        );
        plan.sets_removed = gone(
            tables.set_names.iter().map(|(id, _)| id).collect(),
            state.ip_sets.iter().map(|s| &s.id).collect(),
        );
        let kept: HashSet<_> = state.blocks.iter().map(|block| block.prefix).collect();
        tables.blocks.each(|prefix, _| {
            if !kept.contains(&prefix) {
                plan.blocks_removed.push(prefix);
            }
        });
        let kept: HashSet<_> = state.pools.iter().map(|pool| pool.prefix).collect();
        tables.pools.each(|prefix, _| {
            if !kept.contains(&prefix) {
                plan.pools_removed.push(prefix);
            }
        });
        plan
    }
}
