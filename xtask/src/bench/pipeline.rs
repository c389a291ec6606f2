//! The pipeline, memory to memory: the cases in turns.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::compare::{Plan, progress};
use super::row::{Outcome, Row};
use super::{output, workload};

/// The cases, with the cycles per packet that they are to reach at 1k, 64k, 1M and 10M flows.
const CASES: &[(&str, [f64; 4])] = &[
    ("io-floor", [12.0; 4]),
    ("forward", [45.0, 55.0, 105.0, 115.0]),
    ("policy", [55.0, 65.0, 125.0, 140.0]),
    ("service", [65.0, 75.0, 140.0, 155.0]),
    ("service-vxlan", [100.0, 115.0, 180.0, 200.0]),
    ("service-vxlan-return", [100.0, 115.0, 180.0, 200.0]),
    ("new-flows", [800.0; 4]),
];
/// The flows of the case come from so many pods: one alone may leave a quarter of the table unanswered.
const NEW_FLOWS: (&str, &str) = ("new-flows", "8");
const GOALS_AT: [u32; 4] = [1000, 64_000, 1_000_000, 10_000_000];

/// What matters of a line of `bench core --json`.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    pub(super) cycles_per_packet: f64,
    /// All workers together.
    pub(super) mpps: f64,
}

/// Runs all cases, in turns.
pub(crate) fn run(plan: &Plan, program: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut by_flows: Vec<(u32, Vec<Vec<f64>>)> = Vec::new();
    for flows in plan.flows() {
        let mut figures = vec![Vec::new(); CASES.len()];
        for round in 0..plan.rounds(flows) {
            for step in 0..CASES.len() {
                plan.interrupt.check()?;
                let at = (round + step) % CASES.len();
                let (case, _) = CASES[at];
                let arguments = format!("--case {case} --ports {}", ports(case));
                match measure(program, &arguments, flows, plan) {
                    Ok(line) => {
                        let cycles = line.cycles_per_packet;
                        progress(&format!("pipeline {case} {flows}: {cycles:.1}"));
                        figures[at].push(cycles);
                    }
                    Err(why) => outcome.fail(format!("pipeline {case}, {flows} flows: {why:#}")),
                }
            }
        }
        by_flows.push((flows, figures));
    }
    for (at, (case, goals)) in CASES.iter().enumerate() {
        for (flows, figures) in &by_flows {
            if figures[at].is_empty() {
                continue;
            }
            let unit = "cycles per packet";
            let mut row = Row::of("pipeline", case, *flows, "ringway", unit, &figures[at]);
            let goal = GOALS_AT.iter().position(|of| of == flows);
            row.goal = goal.and_then(|at| goals.get(at)).copied();
            outcome.rows.push(row);
        }
    }
    workload::run(plan, program, &mut outcome)?;
    Ok(outcome)
}

/// Runs `bench core` with these arguments, which spaces part.
pub(super) fn measure(program: &Path, arguments: &str, flows: u32, plan: &Plan) -> Result<Line> {
    let mut command = Command::new(program);
    command.args(["core", "--json"]).args(arguments.split(' '));
    command.args(["--flows", &flows.to_string()]);
    command.args(["--seconds", &plan.seconds().to_string()]);
    let text = output(&mut command)?;
    serde_json::from_str(text.trim()).with_context(|| format!("a result was expected, found {text:?}"))
}

/// How many pods send in a case.
pub(crate) fn ports(case: &str) -> &'static str {
    if case == NEW_FLOWS.0 { NEW_FLOWS.1 } else { "1" }
}
