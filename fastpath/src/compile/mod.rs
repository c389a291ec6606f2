//! From desired state and underlay to the snapshot that workers use, and from one snapshot to the next.
//!
//! Pure: equal in, equal out. Tables that a change does not touch stay the same memory, so one endpoint's change costs what it
//! changes. Every call also tells which generation shards the change bumps: those of flows whose decision may differ now.
//! A refused change leaves nothing behind, for it worked on a copy.

mod claim;
mod node;
mod numbers;
mod peer;
mod plan;
mod policy;
mod port;
mod service;
mod set;
mod template;
mod underlay;

use std::sync::Arc;

use contract::valid::{Change, Invalid, Subject, ValidDelta, ValidState};
use wire::addr::Vni;

use crate::port::PortId;
use crate::snapshot::table::{Hops, Totals};
use crate::snapshot::vips::Vips;
use crate::snapshot::{Bumps, RuleId, Snapshot, ThisNode};
use crate::table::lpm::Prefixes;
use crate::table::slots::Slots;
use crate::table::trie::Trie;
use crate::underlay::Underlay;
use plan::Plan;

pub use numbers::Numbers;

/// A snapshot and what publishing it bumps.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// The tables.
    pub snapshot: Snapshot,
    /// Shards whose flows must be decided again.
    pub bumps: Bumps,
    /// Numbers that something else may have had before.
    pub reused: Reused,
}

/// Numbers of new things that were used before: what is counted by them is not theirs so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reused {
    /// Of ports.
    pub ports: Vec<PortId>,
    /// Of rules.
    pub rules: Vec<RuleId>,
}

/// Why a change was refused. The previous snapshot stays good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// An object contradicts the others, or passes a limit.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The delta is not for this version; a snapshot is needed.
    #[error("the delta applies to version {expected}, the version in force is {found}")]
    BaseVersion {
        /// What the delta was made for.
        expected: u64,
        /// What is in force.
        found: u64,
    },
}

/// The tables of a whole desired state, from nothing.
pub fn compile(state: &ValidState, underlay: &Underlay) -> Result<Compiled, CompileError> {
    compile_numbered(state, underlay, &Numbers::default())
}

/// As [`compile`], with the numbers that a process before gave: for the flow tables that it left.
pub fn compile_numbered(
    state: &ValidState,
    underlay: &Underlay,
    numbers: &Numbers,
) -> Result<Compiled, CompileError> {
    let mut work = Work::on(empty());
    work.snapshot.underlay = Arc::new(underlay.clone());
    let mut plan = Plan::replacing(&work.snapshot, state);
    numbers::sort(&mut plan.ports, &numbers.ports, |port| &port.name);
    numbers::sort(&mut plan.remote_nodes, &numbers.peers, |node| &node.name);
    work.numbers = numbers.clone();
    work.apply(state.version, plan)?;
    Ok(Compiled {
        snapshot: work.snapshot,
        bumps: Bumps::all(),
        reused: Reused::default(),
    })
}

/// The tables of a whole desired state that follows `previous`: what has the same name keeps its index, and only what differs
/// bumps. A control process that restarted sends such a state.
pub fn replace(previous: &Snapshot, state: &ValidState) -> Result<Compiled, CompileError> {
    let mut work = Work::on(previous.clone());
    work.apply(state.version, Plan::replacing(previous, state))?;
    Ok(work.done())
}

/// The tables after `delta`.
pub fn apply(previous: &Snapshot, delta: &ValidDelta) -> Result<Compiled, CompileError> {
    if delta.base_version != previous.version {
        return Err(CompileError::BaseVersion {
            expected: delta.base_version,
            found: previous.version,
        });
    }
    let mut work = Work::on(previous.clone());
    work.apply(delta.version, Plan::of_delta(previous, &delta.changes))?;
    Ok(work.done())
}

/// The tables after the underlay became `underlay`.
pub fn apply_underlay(previous: &Snapshot, underlay: &Underlay) -> Result<Compiled, CompileError> {
    let mut work = Work::on(previous.clone());
    work.snapshot.underlay = Arc::new(underlay.clone());
    work.snapshot.links = Arc::default();
    work.rebuild_underlay()?;
    work.settle();
    Ok(work.done())
}

/// A snapshot that is being changed.
struct Work {
    snapshot: Snapshot,
    bumps: Bumps,
    /// Numbers that were kept.
    numbers: Numbers,
    /// One past the highest number of a port and of a rule that was used before this change.
    used: (u32, u32),
    reused: Reused,
}

impl Work {
    fn on(snapshot: Snapshot) -> Self {
        Self {
            used: (snapshot.ports.end(), snapshot.rules.end()),
            snapshot,
            bumps: Bumps::none(),
            numbers: Numbers::default(),
            reused: Reused::default(),
        }
    }

    fn done(self) -> Compiled {
        Compiled {
            snapshot: self.snapshot,
            bumps: self.bumps,
            reused: self.reused,
        }
    }

    /// Referents come before what refers to them and go after it.
    fn apply(&mut self, version: u64, plan: Plan) -> Result<(), CompileError> {
        let mut underlay_changed = self.snapshot.version == 0 && self.snapshot.ports.is_empty();
        self.snapshot.version = version;
        if underlay_changed || plan.touches_links() {
            self.snapshot.links = Arc::default();
        }
        if let Some(limits) = plan.limits {
            self.snapshot.limits = limits;
        }
        if let Some(timeouts) = plan.timeouts {
            self.snapshot.timeouts = timeouts;
        }
        if let Some(node) = plan.node {
            underlay_changed |= self.node(node);
        }
        for change in plan.sets {
            match change {
                Change::IpSet(set) => self.ip_set(set)?,
                Change::IpSetDelta(delta) => self.ip_set_delta(&delta)?,
                _ => unreachable!("the plan sorts changes by kind"),
            }
        }
        for policy in plan.policies {
            self.policy(policy)?;
        }
        for node in plan.remote_nodes {
            self.remote_node(node)?;
        }
        for prefix in plan.blocks_removed {
            self.block_removed(prefix)?;
        }
        for block in plan.blocks {
            self.block(block)?;
        }
        for pool in plan.pools_removed {
            self.pool_removed(pool)?;
        }
        for pool in plan.pools {
            self.pool(pool);
        }
        for name in plan.ports_removed {
            underlay_changed |= self.port_removed(&name)?;
        }
        self.give_up_addresses(&plan.ports);
        for port in plan.ports {
            underlay_changed |= self.port(port)?;
        }
        for id in plan.services_removed {
            self.service_removed(&id)?;
        }
        for service in plan.services {
            self.service(service)?;
        }
        if let Some(ranges) = plan.service_ranges {
            self.service_ranges(&ranges);
        }
        for id in plan.policies_removed {
            self.policy_removed(&id)?;
        }
        for id in plan.sets_removed {
            self.ip_set_removed(&id)?;
        }
        for name in plan.remote_nodes_removed {
            self.remote_node_removed(&name)?;
        }
        if underlay_changed {
            self.rebuild_underlay()?;
        }
        self.limits()?;
        self.settle();
        Ok(())
    }

    /// Indexes that were freed may be used again from the next change on.
    fn settle(&mut self) {
        let tables = &mut self.snapshot;
        tables.ports.settle();
        tables.adjacencies.settle();
        tables.peers.settle();
        tables.services.settle();
        tables.sets.settle();
        tables.policies.settle();
        tables.rules.settle();
    }

    /// Sums against limits that were lowered; each object's own growth names the object before it comes here.
    fn limits(&self) -> Result<(), CompileError> {
        let tables = &self.snapshot;
        let limits = &tables.limits;
        for (name, found, max) in [
            ("ports", tables.ports.len(), limits.ports),
            ("services", tables.services.len(), limits.services),
            ("backends", tables.totals.backends, limits.backends),
            ("policies", tables.policies.len(), limits.policies),
            ("rules", tables.totals.rules, limits.rules),
            ("ip_set_members", tables.totals.members, limits.ip_set_members),
        ] {
            within(&Subject::new("Limits", "", ""), name, found, max)?;
        }
        Ok(())
    }
}

/// Refuses `subject` when `found` in all is beyond the limit.
fn within(subject: &Subject, limit: &str, found: usize, max: u32) -> Result<(), CompileError> {
    if found <= max as usize {
        return Ok(());
    }
    Err(subject
        .invalid(&format!("limits.{limit}"), format!("at most {max} in all"), found)
        .into())
}

/// Tables of nothing, version 0: before the first state.
///
/// [`apply_underlay`] and [`replace`] lead on from here as [`compile`] does.
pub fn empty() -> Snapshot {
    let name: Arc<str> = "".into();
    Snapshot {
        version: 0,
        node: Arc::new(node::nobody()),
        this: Arc::new(ThisNode {
            name,
            addresses: [].into(),
            vteps: [].into(),
            vxlan_address_v4: None,
            vxlan_address_v6: None,
            ipip_address_v4: None,
            vni: Vni::default(),
            vxlan_port: 0,
            snat_ports: (0, 0),
        }),
        timeouts: contract::valid::Timeouts::default(),
        links: Arc::default(),
        limits: contract::valid::Limits::default(),
        ports: Slots::default(),
        port_names: Trie::default(),
        host: None,
        adjacencies: Slots::default(),
        claims: Prefixes::default(),
        peers: Slots::default(),
        peer_names: Trie::default(),
        blocks: Prefixes::default(),
        pools: Prefixes::default(),
        services: Slots::default(),
        service_names: Trie::default(),
        vips: Vips::default(),
        vip_addresses: Trie::default(),
        service_ranges: Prefixes::default(),
        sets: Slots::default(),
        set_names: Trie::default(),
        policies: Slots::default(),
        policy_names: Trie::default(),
        rules: Slots::default(),
        totals: Totals::default(),
        underlay: Arc::new(Underlay::default()),
        hops: Arc::new(Hops::default()),
    }
}

#[cfg(test)]
mod tests;
