//! Any bytes as desired state and deltas on top of it: what is refused is named and leaves nothing behind; what is taken
//! compiles; what the reference says of a delta and what fastpath makes of it agree.

use std::collections::BTreeSet;

use contract::merge::{self, prefix_key};
use contract::proto::change::Change;
use contract::proto::{Delta, State};
use contract::valid::{Invalid, ValidDelta, ValidState};
use fastpath::compile::{self, CompileError};
use fastpath::snapshot::Snapshot;
use fastpath::underlay::Underlay;
use prost::Message;

use super::input::Input;
use super::pipeline::{cluster, underlay};

/// One input: options, then a state and deltas, each with its length in two bytes before it. The state is merged into the
/// pipeline tests' cluster, or stands alone.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let options = input.byte();
    let mut state = if options & 1 == 0 {
        cluster()
    } else {
        State::default()
    };
    let underlay = if options & 2 == 0 {
        underlay()
    } else {
        Underlay::default()
    };
    if state.merge(message(&mut input)).is_err() {
        return;
    }
    let valid = match ValidState::try_from(state.clone()) {
        Ok(valid) => valid,
        Err(invalid) => return named(&invalid),
    };
    let mut snapshot = match compile::compile(&valid, &underlay) {
        Ok(compiled) => compiled.snapshot,
        Err(error) => return refused(&error),
    };
    merge::sort(&mut state);
    while !input.is_empty() {
        let Ok(mut delta) = Delta::decode(message(&mut input)) else {
            return;
        };
        if options & 4 == 0 {
            (delta.base_version, delta.version) = (state.version, state.version.saturating_add(1));
        }
        take(&mut state, &mut snapshot, &delta, &underlay);
    }
}

fn message<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let len = usize::from(input.word());
    input.take(len)
}

/// Applies a delta both ways, where it applies.
fn take(state: &mut State, snapshot: &mut Snapshot, delta: &Delta, underlay: &Underlay) {
    let merged = merge::apply(state, delta);
    if let Ok(merged) = &merged {
        // Diff and merge are each other's inverse.
        let again = control::diff::delta(state, merged);
        let mut again = merge::apply(state, &again).expect("a diff applies to what it was made from");
        let mut expected = merged.clone();
        for state in [&mut again, &mut expected] {
            // Absent and default say the same.
            state.limits.get_or_insert_default();
            state.timeouts.get_or_insert_default();
        }
        assert!(again == expected, "{again:?} and {expected:?}");
    }
    let valid = match ValidDelta::try_from(delta.clone()) {
        Ok(valid) => valid,
        Err(invalid) => return named(&invalid),
    };
    let applied = match compile::apply(snapshot, &valid) {
        Ok(compiled) => compiled.snapshot,
        Err(error) => return refused(&error),
    };
    // Without removals and upserts of one name there is but one order in which to read it.
    if !is_unambiguous(delta) {
        return;
    }
    let merged = merged.unwrap_or_else(|error| panic!("fastpath takes what the reference refuses: {error}"));
    let valid = ValidState::try_from(merged.clone())
        .unwrap_or_else(|invalid| panic!("fastpath takes a delta that leads to what is invalid: {invalid}"));
    let whole = compile::compile(&valid, underlay).unwrap_or_else(|error| {
        panic!("fastpath takes a delta that leads to what does not compile: {error}")
    });
    same(&applied, &whole.snapshot);
    (*state, *snapshot) = (merged, applied);
}

/// Both have the same ports, but for their numbers.
fn same(a: &Snapshot, b: &Snapshot) {
    assert_eq!(a.version(), b.version());
    assert_eq!(a.limits(), b.limits());
    assert_eq!(a.timeouts(), b.timeouts());
    assert_eq!(a.this_node(), b.this_node());
    assert_eq!(a.ports().count(), b.ports().count());
    for port in a.ports() {
        let other = b.port_by_name(&port.name).expect("a port in both");
        assert_eq!(
            (port.kind, port.own_mac, port.peer_mac, port.mtu, &port.addresses),
            (
                other.kind,
                other.own_mac,
                other.peer_mac,
                other.mtu,
                &other.addresses
            )
        );
        for address in port.addresses.iter() {
            assert_eq!(a.pool(*address), b.pool(*address));
        }
    }
}

fn is_unambiguous(delta: &Delta) -> bool {
    let mut keys = BTreeSet::new();
    delta.changes.iter().all(|change| {
        let Some(change) = &change.change else {
            return false;
        };
        let prefix = |prefix: Option<&_>| format!("{:?}", prefix_key(prefix));
        keys.insert(match change {
            Change::Node(_) => ("node", String::new()),
            Change::Port(port) => ("port", port.name.clone()),
            Change::PortRemoved(name) => ("port", name.clone()),
            Change::RemoteNode(node) => ("remote", node.name.clone()),
            Change::RemoteNodeRemoved(name) => ("remote", name.clone()),
            Change::Block(block) => ("block", prefix(block.prefix.as_ref())),
            Change::BlockRemoved(removed) => ("block", prefix(Some(removed))),
            Change::Pool(pool) => ("pool", prefix(pool.prefix.as_ref())),
            Change::PoolRemoved(removed) => ("pool", prefix(Some(removed))),
            Change::Service(service) => ("service", service.id.clone()),
            Change::ServiceRemoved(id) => ("service", id.clone()),
            Change::ServiceRanges(_) => ("ranges", String::new()),
            Change::IpSet(set) => ("set", set.id.clone()),
            Change::IpSetDelta(delta) => ("set", delta.id.clone()),
            Change::IpSetRemoved(id) => ("set", id.clone()),
            Change::Policy(policy) => ("policy", policy.id.clone()),
            Change::PolicyRemoved(id) => ("policy", id.clone()),
            Change::Timeouts(_) => ("timeouts", String::new()),
            Change::Limits(_) => ("limits", String::new()),
        })
    })
}

fn refused(error: &CompileError) {
    if let CompileError::Invalid(invalid) = error {
        named(invalid);
    }
}

/// A refusal says which object, which field, what was expected and what was found.
fn named(invalid: &Invalid) {
    assert!(
        !invalid.kind.is_empty() && !invalid.field.is_empty() && !invalid.expected.is_empty(),
        "{invalid:?}"
    );
}
