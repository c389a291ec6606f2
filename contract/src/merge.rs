//! What a delta means: a plain reference for those who make deltas and those who apply them fast.
//!
//! States are compared in [canonical order](sort): the contract gives the order of objects and members no meaning.

use crate::proto;
use proto::change::Change;

/// Why a delta does not apply to a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It starts from another version.
    #[error("the delta starts from version {base}, the state has version {found}")]
    OtherBase {
        /// What the delta starts from.
        base: u64,
        /// The state's.
        found: u64,
    },
    /// It changes or removes what is not there.
    #[error("{kind} {name} is not there")]
    NotThere {
        /// Which message.
        kind: &'static str,
        /// Name, id or prefix.
        name: String,
    },
    /// It adds a member that a set has already.
    #[error("a member that is added to IpSet {set} is there already")]
    MemberThere {
        /// The set's id.
        set: String,
    },
    /// A change without content.
    #[error("a change is empty")]
    Empty,
}

/// Puts everything that has a key in the order of the keys.
pub fn sort(state: &mut proto::State) {
    state.ports.sort_by(|a, b| a.name.cmp(&b.name));
    state.remote_nodes.sort_by(|a, b| a.name.cmp(&b.name));
    state.blocks.sort_by_key(|b| prefix_key(b.prefix.as_ref()));
    state.pools.sort_by_key(|p| prefix_key(p.prefix.as_ref()));
    state.services.sort_by(|a, b| a.id.cmp(&b.id));
    state.service_ranges.sort_by_key(|p| prefix_key(Some(p)));
    state.ip_sets.sort_by(|a, b| a.id.cmp(&b.id));
    state.policies.sort_by(|a, b| a.id.cmp(&b.id));
    for set in &mut state.ip_sets {
        set.members.sort_by_key(member_key);
    }
}

/// Key of a prefix: IPv4 before IPv6, then by address, then by length.
pub type PrefixKey = (usize, Vec<u8>, u32);

/// See [`PrefixKey`].
pub fn prefix_key(prefix: Option<&proto::Prefix>) -> PrefixKey {
    prefix
        .map(|p| (p.address.len(), p.address.clone(), p.length))
        .unwrap_or_default()
}

/// Key of a member of a set.
pub fn member_key(member: &proto::Member) -> (PrefixKey, u32, u32) {
    (prefix_key(member.prefix.as_ref()), member.protocol, member.port)
}

/// `state` after `delta`, in canonical order. Changes apply one after another.
pub fn apply(state: &proto::State, delta: &proto::Delta) -> Result<proto::State, MergeError> {
    if delta.base_version != state.version {
        return Err(MergeError::OtherBase {
            base: delta.base_version,
            found: state.version,
        });
    }
    let mut state = state.clone();
    sort(&mut state);
    state.version = delta.version;
    for change in &delta.changes {
        let Some(change) = &change.change else {
            return Err(MergeError::Empty);
        };
        apply_one(&mut state, change)?;
    }
    Ok(state)
}

fn apply_one(state: &mut proto::State, change: &Change) -> Result<(), MergeError> {
    match change {
        Change::Node(node) => state.node = Some(node.clone()),
        Change::Port(port) => upsert(&mut state.ports, port, |p| p.name.clone()),
        Change::PortRemoved(name) => remove(&mut state.ports, "Port", name, |p| p.name.clone())?,
        Change::RemoteNode(node) => upsert(&mut state.remote_nodes, node, |n| n.name.clone()),
        Change::RemoteNodeRemoved(name) => {
            remove(&mut state.remote_nodes, "RemoteNode", name, |n| n.name.clone())?;
        }
        Change::Block(block) => upsert(&mut state.blocks, block, |b| prefix_key(b.prefix.as_ref())),
        Change::BlockRemoved(prefix) => {
            remove(&mut state.blocks, "Block", &prefix_key(Some(prefix)), |b| {
                prefix_key(b.prefix.as_ref())
            })?;
        }
        Change::Pool(pool) => upsert(&mut state.pools, pool, |p| prefix_key(p.prefix.as_ref())),
        Change::PoolRemoved(prefix) => {
            remove(&mut state.pools, "Pool", &prefix_key(Some(prefix)), |p| {
                prefix_key(p.prefix.as_ref())
            })?;
        }
        Change::Service(service) => upsert(&mut state.services, service, |s| s.id.clone()),
        Change::ServiceRemoved(id) => remove(&mut state.services, "Service", id, |s| s.id.clone())?,
        Change::ServiceRanges(ranges) => state.service_ranges.clone_from(&ranges.ranges),
        Change::IpSet(set) => {
            let mut set = set.clone();
            set.members.sort_by_key(member_key);
            upsert(&mut state.ip_sets, &set, |s| s.id.clone());
        }
        Change::IpSetDelta(delta) => {
            let set = state.ip_sets.iter_mut().find(|set| set.id == delta.id);
            let set = set.ok_or_else(|| not_there("IpSet", &delta.id))?;
            for member in &delta.removed {
                remove(&mut set.members, "Member", &member_key(member), member_key)?;
            }
            for member in &delta.added {
                if set
                    .members
                    .binary_search_by_key(&member_key(member), member_key)
                    .is_ok()
                {
                    return Err(MergeError::MemberThere {
                        set: delta.id.clone(),
                    });
                }
                upsert(&mut set.members, member, member_key);
            }
        }
        Change::IpSetRemoved(id) => remove(&mut state.ip_sets, "IpSet", id, |s| s.id.clone())?,
        Change::Policy(policy) => upsert(&mut state.policies, policy, |p| p.id.clone()),
        Change::PolicyRemoved(id) => remove(&mut state.policies, "Policy", id, |p| p.id.clone())?,
        Change::Timeouts(timeouts) => state.timeouts = Some(*timeouts),
        Change::Limits(limits) => state.limits = Some(*limits),
    }
    Ok(())
}

fn not_there(kind: &'static str, name: &dyn std::fmt::Debug) -> MergeError {
    MergeError::NotThere {
        kind,
        name: format!("{name:?}"),
    }
}

fn upsert<T: Clone, K: Ord>(items: &mut Vec<T>, item: &T, key: impl Fn(&T) -> K) {
    match items.binary_search_by_key(&key(item), &key) {
        Ok(index) => items[index] = item.clone(),
        Err(index) => items.insert(index, item.clone()),
    }
}

fn remove<T, K: Ord + std::fmt::Debug>(
    items: &mut Vec<T>,
    kind: &'static str,
    wanted: &K,
    key: impl Fn(&T) -> K,
) -> Result<(), MergeError> {
    let index = items
        .binary_search_by_key(wanted, key)
        .map_err(|_| not_there(kind, wanted))?;
    items.remove(index);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(last: u8) -> proto::Member {
        let prefix = proto::Prefix {
            address: vec![10, 0, 0, last],
            length: 32,
        };
        proto::Member {
            prefix: Some(prefix),
            protocol: 0,
            port: 0,
        }
    }

    fn delta(changes: Vec<Change>) -> proto::Delta {
        let changes = changes
            .into_iter()
            .map(|change| proto::Change { change: Some(change) })
            .collect();
        proto::Delta {
            base_version: 1,
            version: 2,
            changes,
        }
    }

    fn state() -> proto::State {
        let set = proto::IpSet {
            id: "s".to_owned(),
            kind: 1,
            members: vec![member(2), member(1)],
        };
        proto::State {
            version: 1,
            ip_sets: vec![set],
            ..proto::State::default()
        }
    }

    #[test]
    fn members_come_and_go() {
        let change = proto::IpSetDelta {
            id: "s".to_owned(),
            removed: vec![member(1)],
            added: vec![member(3), member(0)],
        };
        let after = apply(&state(), &delta(vec![Change::IpSetDelta(change)])).unwrap();
        assert_eq!(after.version, 2);
        assert_eq!(after.ip_sets[0].members, [member(0), member(2), member(3)]);
    }

    #[test]
    fn a_delta_that_does_not_fit_is_refused() {
        let set = |removed: Vec<proto::Member>, added: Vec<proto::Member>| {
            Change::IpSetDelta(proto::IpSetDelta {
                id: "s".to_owned(),
                removed,
                added,
            })
        };
        assert!(apply(&state(), &delta(vec![set(vec![member(9)], vec![])])).is_err());
        assert!(apply(&state(), &delta(vec![set(vec![], vec![member(1)])])).is_err());
        assert!(apply(&state(), &delta(vec![Change::PolicyRemoved("p".to_owned())])).is_err());
        assert!(
            apply(
                &state(),
                &proto::Delta {
                    base_version: 7,
                    ..delta(vec![])
                }
            )
            .is_err()
        );
    }
}
