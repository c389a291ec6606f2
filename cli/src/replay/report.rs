//! The report: counters, both identities of conservation, and what a packet cost.

use std::collections::BTreeMap;
use std::io::{self, Write};

use fastpath::counters::{Count, Counters};
use fastpath::verdict::{DropReason, PuntReason};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::Args;
use super::measure::Speed;
use super::node::{Node, PortNames};
use super::output::Output;
use super::play::Outcome;

/// What `--report` writes.
#[derive(Debug, Serialize)]
pub(super) struct Report<'a> {
    node: &'a str,
    seed: u64,
    repeat: u64,
    max_flows: u32,
    /// Every port of the node, in the order of the output's interfaces.
    ports: Ordered<PortReport<'a>>,
    /// By reason; those that happened.
    drops: BTreeMap<&'static str, u64>,
    punts: BTreeMap<&'static str, u64>,
    flows: Flows,
    conservation: Conservation,
    /// Null when the input has no packets.
    ns_per_packet: Option<f64>,
    cycles_per_packet: Option<f64>,
    unknown_kinds: &'a BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Ordered<T>(Vec<T>);

#[derive(Debug)]
struct PortReport<'a> {
    name: &'a str,
    traffic: Traffic,
}

#[derive(Debug, Serialize)]
struct Traffic {
    r#in: Direction,
    out: Direction,
}

#[derive(Debug, Default, Serialize)]
struct Direction {
    packets: u64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Flows {
    created: u64,
    expired: u64,
    /// Closed and opened anew, or given up to make room while nobody had answered.
    removed: u64,
    live: u64,
}

#[derive(Debug, Serialize)]
struct Conservation {
    rx: u64,
    tx: u64,
    punt: u64,
    drop: u64,
    held: u64,
    generated: u64,
    split: u64,
    frames_out: u64,
    ok: bool,
}

impl<'a> Report<'a> {
    pub(super) fn new(
        args: &'a Args,
        node: &'a Node,
        names: &'a PortNames,
        outcome: &Outcome,
        speed: &Speed,
    ) -> Self {
        let counters = &outcome.counters;
        let ports = names.iter().map(|(name, id)| PortReport {
            name,
            traffic: Traffic::of(counters, id),
        });
        Self {
            node: &args.node,
            seed: args.seed,
            repeat: args.repeat.get(),
            max_flows: args.max_flows.get(),
            ports: Ordered(ports.collect()),
            drops: happened(
                DropReason::ALL
                    .iter()
                    .map(|reason| (reason.name(), counters.dropped(*reason))),
            ),
            punts: happened(
                PuntReason::ALL
                    .iter()
                    .map(|reason| (reason.name(), counters.punted(*reason))),
            ),
            flows: Flows {
                created: counters.flows_created.get(),
                expired: counters.flows_expired.get(),
                removed: counters.flows_removed.get() + counters.flows_evicted.get(),
                live: outcome.flows_live,
            },
            conservation: Conservation::of(counters),
            ns_per_packet: speed.ns_per_packet(),
            cycles_per_packet: speed.cycles_per_packet(),
            unknown_kinds: &node.unknown_kinds,
        }
    }

    pub(super) fn write(&self, output: &mut Output) -> io::Result<()> {
        serde_json::to_writer_pretty(&mut *output, self)?;
        output.write_all(b"\n")
    }
}

impl Traffic {
    fn of(counters: &Counters, port: fastpath::port::PortId) -> Self {
        let direction = |packets: &Count, bytes: &Count| Direction {
            packets: packets.get(),
            bytes: bytes.get(),
        };
        match counters.port(port) {
            Some(port) => Self {
                r#in: direction(&port.rx_frames, &port.rx_bytes),
                out: direction(&port.tx_frames, &port.tx_bytes),
            },
            None => Self {
                r#in: Direction::default(),
                out: Direction::default(),
            },
        }
    }
}

impl Conservation {
    fn of(counters: &Counters) -> Self {
        let sums = counters.conservation();
        Self {
            rx: sums.rx,
            tx: sums.tx,
            punt: sums.punt,
            drop: sums.drop,
            held: sums.held,
            generated: sums.generated,
            split: sums.split,
            frames_out: sums.frames_out,
            ok: sums.ok(),
        }
    }
}

impl Serialize for Ordered<PortReport<'_>> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for port in &self.0 {
            map.serialize_entry(port.name, &port.traffic)?;
        }
        map.end()
    }
}

fn happened(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    counts.filter(|(_, count)| *count > 0).collect()
}
