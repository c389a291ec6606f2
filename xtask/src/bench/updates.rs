//! The pipeline while the cluster changes: `bench updates`, with its goals.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::compare::{Plan, progress};
use super::output;
use super::row::{Outcome, Row};

/// What matters of a line of `bench updates --json`.
#[derive(Debug, Deserialize)]
struct Line {
    loss_percent: f64,
    redecisions_per_second: f64,
    event_us: Times,
    compile_us: Times,
    batch_p999_added_us: f64,
    resync_loss_percent: Option<f64>,
    misrouted: u64,
}

#[derive(Debug, Deserialize)]
struct Times {
    p99: f64,
}

/// What is run: its name and arguments.
const RUNS: &[(&str, &[&str])] = &[
    ("endpoints", &[]),
    ("endpoints in policy's set", &["--by-set"]),
    ("label", &["--event", "label"]),
];

/// A figure of a line: its name, unit, goal, and which runs have it.
struct Figure {
    name: &'static str,
    unit: &'static str,
    goal: Option<f64>,
    of: fn(&Line) -> Option<f64>,
    of_label: bool,
}

const FIGURES: &[Figure] = &[
    Figure {
        name: "throughput lost",
        unit: "%",
        goal: Some(2.0),
        of: |line| Some(line.loss_percent),
        of_label: false,
    },
    Figure {
        name: "lost in a resync",
        unit: "%",
        goal: Some(2.0),
        of: |line| line.resync_loss_percent,
        of_label: false,
    },
    Figure {
        name: "event to all workers, p99",
        unit: "µs",
        goal: Some(1000.0),
        of: |line| Some(line.event_us.p99),
        of_label: false,
    },
    Figure {
        name: "of it: compile, p99",
        unit: "µs",
        goal: None,
        of: |line| Some(line.compile_us.p99),
        of_label: false,
    },
    Figure {
        name: "re-decisions",
        unit: "/s",
        goal: None,
        of: |line| Some(line.redecisions_per_second),
        of_label: false,
    },
    Figure {
        name: "added to a batch, p99.9",
        unit: "µs",
        goal: Some(100.0),
        of: |line| Some(line.batch_p999_added_us),
        of_label: true,
    },
];

/// Runs each in turns.
pub(crate) fn run(plan: &Plan, program: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let (services, flows, seconds) = if plan.quick {
        (5_000, 100_000, "2")
    } else {
        (50_000, 1_000_000, "6")
    };
    let mut lines: Vec<Vec<Line>> = RUNS.iter().map(|_| Vec::new()).collect();
    for round in 0..plan.rounds(flows).min(3) {
        for step in 0..RUNS.len() {
            plan.interrupt.check()?;
            let at = (round + step) % RUNS.len();
            let (name, arguments) = RUNS[at];
            let mut command = Command::new(program);
            command.args(["updates", "--json", "--seconds", seconds]);
            command.args(["--services", &services.to_string(), "--flows", &flows.to_string()]);
            command.args(arguments);
            match measure(&mut command) {
                Ok(line) => {
                    progress(&format!("updates {name}: {:.1} %", line.loss_percent));
                    lines[at].push(line);
                }
                Err(why) => outcome.fail(format!("updates {name}: {why:#}")),
            }
        }
    }
    for ((name, arguments), lines) in RUNS.iter().zip(&lines) {
        let is_label = !arguments.is_empty() && arguments[0] == "--event";
        for figure in FIGURES.iter().filter(|figure| figure.of_label || !is_label) {
            let figures: Vec<f64> = lines.iter().filter_map(figure.of).collect();
            if figures.is_empty() {
                continue;
            }
            let case = format!("{name}: {}, {}", figure.name, figure.unit);
            let mut row = Row::of("updates", &case, flows, "ringway", figure.unit, &figures);
            row.goal = figure.goal;
            outcome.rows.push(row);
        }
    }
    let misrouted: u64 = lines.iter().flatten().map(|line| line.misrouted).sum();
    outcome.notes.push(format!(
        "updates: {services} Services, 1,000 changes/s; {misrouted} packets misrouted"
    ));
    Ok(outcome)
}

fn measure(command: &mut Command) -> Result<Line> {
    let text = output(command)?;
    serde_json::from_str(text.trim()).with_context(|| format!("a result was expected, found {text:?}"))
}
