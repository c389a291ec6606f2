//! From manifests to the tables of one node, by the code that control and fastpath run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use contract::valid::{Invalid, PortKind, ValidState};
use control::object::Objects;
use control::resolve::{Mode, Options, resolve};
use control::source::directory;
use fastpath::compile::{CompileError, compile};
use fastpath::port::PortId;
use fastpath::snapshot::Snapshot;

use super::underlay;
use crate::BadInput;

/// One node, ready for packets.
pub(super) struct Node {
    pub(super) snapshot: Arc<Snapshot>,
    /// What has no effect and why, one sentence each.
    pub(super) warnings: Vec<String>,
    /// How many objects of kinds that Ringway does not know, by `apiVersion Kind`.
    pub(super) unknown_kinds: BTreeMap<String, usize>,
}

/// Reads `state` and compiles it for `node`.
pub(super) fn load(state: &[PathBuf], node: &str) -> Result<Node, BadInput> {
    let objects = directory::load(state).map_err(|errors| BadInput(errors.to_string()))?;
    let options = Options {
        mode: Mode::Replay,
        ..Options::default()
    };
    let resolved = resolve(&objects, node, &options).map_err(|error| BadInput(error.to_string()))?;
    let valid = ValidState::try_from(resolved.state).map_err(|error| BadInput(located(&objects, &error)))?;
    let compiled = compile(&valid, &underlay::of(&valid)).map_err(|error| {
        BadInput(match error {
            CompileError::Invalid(error) => located(&objects, &error),
            other => other.to_string(),
        })
    })?;
    Ok(Node {
        snapshot: Arc::new(compiled.snapshot),
        warnings: resolved.warnings,
        unknown_kinds: resolved.unknown_kinds,
    })
}

/// The message, with file and line where the object that it names was written.
fn located(objects: &Objects, error: &Invalid) -> String {
    let place = objects.locations.iter().find(|((kind, name), _)| {
        kind.to_string() == *error.kind && *name.namespace == *error.namespace && *name.name == *error.name
    });
    match place {
        Some((_, location)) => format!("{location}: {error}"),
        None => error.to_string(),
    }
}

/// The node's ports in the order of the output's interfaces: uplinks, host, pods by name.
pub(super) struct PortNames {
    ports: Vec<(Arc<str>, PortId)>,
}

impl PortNames {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut ports: Vec<_> = snapshot.ports().collect();
        ports.sort_by_key(|port| {
            let class = match port.kind {
                PortKind::Uplink => 0,
                PortKind::Host => 1,
                PortKind::Pod => 2,
            };
            // `uplink2` before `uplink10`; pods by the letters of their names.
            let length = if port.kind == PortKind::Uplink {
                port.name.len()
            } else {
                0
            };
            (class, length, Arc::clone(&port.name))
        });
        Self {
            ports: ports
                .into_iter()
                .map(|port| (Arc::clone(&port.name), port.id))
                .collect(),
        }
    }

    /// In order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, PortId)> {
        self.ports.iter().map(|(name, id)| (&**name, *id))
    }

    /// The port that a capture names.
    pub(super) fn id(&self, name: &str, node: &str) -> Result<PortId, BadInput> {
        let found = self.iter().find(|(known, _)| *known == name);
        found.map(|(_, id)| id).ok_or_else(|| {
            let known: Vec<&str> = self.iter().map(|(name, _)| name).collect();
            BadInput(format!(
                "node {node} has no port {name:?}; it has {}",
                known.join(", ")
            ))
        })
    }
}
