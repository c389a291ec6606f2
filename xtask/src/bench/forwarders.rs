//! The pipeline beside other forwarders, memory to memory, in turns: OVS with DPDK in its cases, testpmd as the I/O floor.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::compare::{Plan, progress};
use super::pipeline::ports;
use super::row::{Outcome, Row, thousands};

/// The cases, and who is beside Ringway in each: how `bench peer --impl` and the table call it.
const CASES: &[(&str, (&str, &str))] = &[
    ("io-floor", ("testpmd", "testpmd, net_null, macswap")),
    ("forward", OVS),
    ("policy", OVS),
    ("service", OVS),
    ("service-vxlan", OVS),
    ("service-vxlan-return", OVS),
];
const OVS: (&str, &str) = ("ovs", "OVS-DPDK");
/// What OVS has packet buffers for.
const FLOWS_MAX: u32 = 200_000;
/// How `bench peer` ends when a peer is not there.
const MISSING: i32 = 3;

/// What matters of a line of `bench core --json` and of `bench peer --json`.
#[derive(Debug, Deserialize)]
struct Line {
    cycles_per_packet: f64,
    cycles_gross: f64,
    io_floor_cycles: f64,
    windows: Option<usize>,
    windows_undisturbed: Option<usize>,
    connections: Option<u64>,
    compared: Option<u64>,
    version: Option<String>,
}

/// How a run ended that went well.
enum Run {
    Measured(Line),
    /// The peer is not there.
    Missing(String),
}

/// Runs both sides of all cases, in turns.
pub(crate) fn run(plan: &Plan, program: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut absent: Vec<&str> = Vec::new();
    for flows in plan.flows() {
        if flows > FLOWS_MAX {
            outcome.missing.push(format!(
                "OVS-DPDK with {} flows: all frames lie in its packet buffers (net_pcap, infinite_rx), and it has 262,144",
                thousands(flows)
            ));
            continue;
        }
        for (case, (implementation, label)) in CASES {
            let sides = [None, Some(*implementation)];
            let mut figures = [Vec::new(), Vec::new()];
            let mut last = None;
            for round in 0..plan.rounds(flows) {
                for step in 0..sides.len() {
                    plan.interrupt.check()?;
                    // Who is first changes from round to round.
                    let at = (round + step) % sides.len();
                    if sides[at].is_some_and(|side| absent.contains(&side)) {
                        continue;
                    }
                    let name = if at == 0 { "ringway" } else { *label };
                    match measure(program, sides[at], case, flows, plan) {
                        Ok(Run::Measured(line)) => {
                            progress(&format!(
                                "forwarders {case} {flows}: {name} {:.1}",
                                line.cycles_per_packet
                            ));
                            figures[at].push(line.cycles_per_packet);
                            if at == 1 {
                                last = Some(line);
                            }
                        }
                        Ok(Run::Missing(why)) => {
                            outcome.missing.push(format!("{label}: {why}"));
                            absent.push(implementation);
                        }
                        Err(why) => {
                            outcome.fail(format!("forwarders {case}, {flows} flows, {name}: {why:#}"));
                        }
                    }
                }
            }
            for (figures, name) in figures.iter().zip(["ringway", *label]) {
                if !figures.is_empty() {
                    let unit = "cycles per packet";
                    outcome
                        .rows
                        .push(Row::of("forwarders", case, flows, name, unit, figures));
                }
            }
            outcome
                .notes
                .extend(last.map(|line| line.note(&format!("{label}, {case}, {} flows", thousands(flows)))));
        }
    }
    outcome.missing.push(
        "VPP: Debian has no package of it; bench/README.md quotes figures of another machine".to_owned(),
    );
    Ok(outcome)
}

/// `side`: None for Ringway.
fn measure(program: &Path, side: Option<&str>, case: &str, flows: u32, plan: &Plan) -> Result<Run> {
    let mut command = Command::new(program);
    match side {
        None => command.args(["core", "--ports", ports(case)]),
        Some(side) => command.args(["peer", "--impl", side]),
    };
    command.args(["--json", "--case", case, "--flows", &flows.to_string()]);
    command.args(["--seconds", &plan.seconds().to_string()]);
    let done = command.output().context("starting bench")?;
    let said = String::from_utf8_lossy(&done.stderr);
    let said = said.trim().trim_start_matches("bench: ");
    if side.is_some() && done.status.code() == Some(MISSING) {
        return Ok(Run::Missing(said.to_owned()));
    }
    if !done.status.success() {
        bail!("bench ended with {}: {said}", done.status);
    }
    let text = String::from_utf8(done.stdout)?;
    let line: Line = serde_json::from_str(text.trim())
        .with_context(|| format!("a result was expected, found {text:?}"))?;
    if side == Some(OVS.0) && line.windows_undisturbed == Some(0) {
        bail!("the machine was too busy: its thread had to wait in every window");
    }
    Ok(Run::Measured(line))
}

impl Line {
    fn note(&self, what: &str) -> String {
        let mut note = format!(
            "{what}, last round: gross {:.0}, floor {:.0}",
            self.cycles_gross, self.io_floor_cycles
        );
        if let (Some(clean), Some(all)) = (self.windows_undisturbed, self.windows) {
            let _ = write!(note, ", {clean} of {all} windows undisturbed");
        }
        if let (Some(connections), Some(compared @ 1..)) = (self.connections, self.compared) {
            let _ = write!(note, ", {connections} connections, {compared} frames compared");
        }
        if let Some(version) = &self.version {
            note.push_str(", ");
            note.push_str(version);
        }
        note
    }
}
