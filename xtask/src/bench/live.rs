//! Processes over veth, beside testpmd and the kernel: `bench live`, which takes its turns itself.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::compare::{Plan, progress};
use super::row::{Outcome, Row};

/// The cases, with the ratio to the peer that each is to reach.
const CASES: &[(&str, Option<f64>)] = &[
    ("afxdp-forward", Some(0.97)),
    ("binding", None),
    ("pod-to-pod", None),
    ("service", Some(3.0)),
    ("tcp-1", Some(1.0)),
];

/// What matters of a line of `bench live --json`.
#[derive(Debug, Deserialize)]
struct Line {
    unit: String,
    rounds: usize,
    sides: Vec<Side>,
    ratios: Vec<Ratio>,
    missing: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Side {
    name: String,
    version: String,
    median: f64,
    lowest: f64,
    highest: f64,
}

#[derive(Debug, Deserialize)]
struct Ratio {
    to: String,
    median: f64,
    lower_quartile: f64,
    upper_quartile: f64,
}

/// Runs all cases, one after another.
pub(crate) fn run(plan: &Plan, program: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    if !nix::unistd::geteuid().is_root() {
        outcome.missing.push("live cases: they need root".to_owned());
        return Ok(outcome);
    }
    let (rounds, seconds) = if plan.quick { ("3", "0.4") } else { ("20", "1") };
    for (case, goal) in CASES {
        plan.interrupt.check()?;
        progress(&format!("live: {case}"));
        let done = Command::new(program)
            .args(["live", "--json", "--case", case])
            .args(["--rounds", rounds, "--seconds", seconds])
            .stderr(Stdio::inherit())
            .output()
            .context("starting bench live")?;
        let text = String::from_utf8(done.stdout)?;
        let Ok(line) = serde_json::from_str::<Line>(text.trim()) else {
            // What it lacked (a tool, a kernel's feature) it has said; the other cases may work.
            outcome
                .missing
                .push(format!("live {case}: it ended with {}", done.status));
            continue;
        };
        if !done.status.success() {
            outcome
                .failed
                .push(format!("live {case}: the books do not balance"));
        }
        outcome.add(case, *goal, &line);
    }
    Ok(outcome)
}

impl Outcome {
    fn add(&mut self, case: &str, goal: Option<f64>, line: &Line) {
        let mut push = |name: String, unit: &str, [median, lowest, highest]: [f64; 3], goal| {
            self.rows.push(Row {
                part: "live",
                case: case.to_owned(),
                flows: None,
                rules: None,
                name,
                unit: unit.to_owned(),
                median,
                lowest,
                highest,
                rounds: line.rounds,
                goal,
            });
        };
        for side in &line.sides {
            let name = format!("{} {}, {}", side.name, side.version, line.unit);
            push(name, &line.unit, [side.median, side.lowest, side.highest], None);
        }
        for ratio in &line.ratios {
            let spread = [ratio.median, ratio.lower_quartile, ratio.upper_quartile];
            push(format!("ringway / {}", ratio.to), "ratio", spread, goal);
        }
        let missing = line.missing.iter();
        self.missing
            .extend(missing.map(|what| format!("live {case}: {what}")));
    }
}
