//! Numbers: which index each port and each node has, to be kept beside the flow tables.
//!
//! Keys of flow entries hold the number of the port or node that their packets come from. A process that adopts the tables of
//! another one has to give the same numbers, or every entry would be missed, or found by somebody else's packets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::snapshot::Snapshot;

/// Indexes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// Of ports.
    pub ports: BTreeMap<String, u16>,
    /// Of other nodes.
    pub peers: BTreeMap<String, u16>,
}

impl Numbers {
    /// Those that `snapshot` gave.
    pub fn of(snapshot: &Snapshot) -> Self {
        let ports = snapshot
            .port_names
            .iter()
            .map(|(name, port)| (name.to_string(), port.id.0));
        let peers = snapshot
            .peer_names
            .iter()
            .map(|(name, peer)| (name.to_string(), peer.0));
        Self {
            ports: ports.collect(),
            peers: peers.collect(),
        }
    }
}

/// Puts what has a number first, in its order; what has none finds its place behind.
pub(super) fn sort<T>(things: &mut [T], numbers: &BTreeMap<String, u16>, name: impl Fn(&T) -> &str) {
    things.sort_by_key(|thing| numbers.get(name(thing)).copied().unwrap_or(u16::MAX));
}

/// The number that was kept for `name`, if it can be given: beyond `end`, all that were given so far, and below `max`. Else `next`.
pub(super) fn kept(numbers: &BTreeMap<String, u16>, name: &str, end: u32, next: u32, max: u32) -> u32 {
    let number = numbers.get(name).map(|&number| u32::from(number));
    number
        .filter(|number| (end..max).contains(number))
        .unwrap_or(next)
}
