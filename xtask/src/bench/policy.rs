//! Policy alone beside DPDK's classifier, in turns: the same rules, the same tuples, the same verdicts.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use machine::HugePages;
use serde::Deserialize;

use super::compare::{Plan, progress};
use super::row::{Outcome, Row, thousands};
use super::{output, peer, target};

/// Numbers of rules, the cycles per verdict that Ringway is to reach, and pages of 2 MiB that the classifier's tries may take.
const RULES: &[(u32, f64, u64)] = &[(1000, 120.0, 32), (10_000, 180.0, 96), (65_000, 300.0, 640)];
/// Tuples that are classified together.
const BATCHES: [u32; 2] = [32, 64];

/// Who takes part.
#[derive(Clone, Debug)]
enum Contender {
    Ringway,
    RteAcl { program: PathBuf, batch: u32 },
}

/// What matters of a line of `bench policy --json` and of `rte_acl`.
#[derive(Debug, Deserialize)]
struct Line {
    cycles_per_verdict: f64,
    matched: u32,
    tuples: u32,
    build_ms: f64,
    heap_mib: Option<f64>,
    algorithm: Option<String>,
    pages: Option<String>,
    version: Option<String>,
}

/// Runs all contenders with all numbers of rules, in turns.
pub(crate) fn run(plan: &Plan, program: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let sizes = if plan.quick { &RULES[..2] } else { RULES };
    let mut contenders = vec![Contender::Ringway];
    let mut huge = None;
    match peer::dpdk("rte_acl")? {
        Ok(program) => {
            let program = || program.clone();
            contenders.extend(BATCHES.map(|batch| Contender::RteAcl {
                program: program(),
                batch,
            }));
            let most = sizes.iter().map(|(_, _, pages)| *pages).max();
            match HugePages::reserve(most.unwrap_or_default()) {
                Ok(pages) => huge = Some(pages),
                Err(why) => outcome.notes.push(format!("rte_acl has no huge pages: {why:#}")),
            }
        }
        Err(missing) => outcome.missing.push(missing),
    }
    for (rules, goal, _) in sizes {
        let dump = Dump::write(program, *rules)?;
        let mut figures = vec![Vec::new(); contenders.len()];
        let mut last: Vec<Option<Line>> = contenders.iter().map(|_| None).collect();
        for round in 0..plan.rounds(0) {
            for step in 0..contenders.len() {
                plan.interrupt.check()?;
                // Who is first changes from round to round.
                let at = (round + step) % contenders.len();
                let label = contenders[at].label();
                match measure(&contenders[at], program, *rules, &dump, plan, huge.is_some()) {
                    Ok(line) => {
                        progress(&format!("policy {rules}: {label} {:.1}", line.cycles_per_verdict));
                        figures[at].push(line.cycles_per_verdict);
                        last[at] = Some(line);
                    }
                    Err(why) => outcome.fail(format!("policy, {rules} rules, {label}: {why:#}")),
                }
            }
        }
        for ((contender, figures), last) in contenders.iter().zip(&figures).zip(&last) {
            let Some(last) = last else { continue };
            let label = contender.label();
            let mut row = Row::of("policy", "verdict", *rules, &label, "cycles per verdict", figures);
            (row.flows, row.rules) = (None, Some(*rules));
            row.goal = matches!(contender, Contender::Ringway).then_some(*goal);
            outcome.rows.push(row);
            outcome.notes.push(last.note(&label, *rules));
        }
    }
    Ok(outcome)
}

fn measure(
    contender: &Contender,
    program: &Path,
    rules: u32,
    dump: &Dump,
    plan: &Plan,
    huge: bool,
) -> Result<Line> {
    let seconds = plan.seconds().to_string();
    let text = match contender {
        Contender::Ringway => {
            let mut command = Command::new(program);
            command.args(["policy", "--json", "--impl", "ringway", "--seconds", &seconds]);
            output(command.args(["--rules", &rules.to_string()]))?
        }
        Contender::RteAcl { program, batch } => {
            let run = |pages: &str| {
                let mut command = Command::new(program);
                command.arg("--file").arg(&dump.0);
                command.args(["--batch", &batch.to_string(), "--seconds", &seconds, pages]);
                command.output().context("starting rte_acl")
            };
            let mut done = run(if huge { "--huge" } else { "--no-huge" })?;
            if huge && done.status.code() == Some(peer::NO_HUGE_PAGES) {
                // Another process was quicker. The figure's pages are told below the table.
                done = run("--no-huge")?;
            }
            if !done.status.success() {
                let said = String::from_utf8_lossy(&done.stderr);
                bail!("rte_acl ended with {}: {}", done.status, said.trim());
            }
            String::from_utf8(done.stdout)?
        }
    };
    serde_json::from_str(text.trim()).with_context(|| format!("a result was expected, found {text:?}"))
}

impl Contender {
    fn label(&self) -> String {
        match self {
            Self::Ringway => "ringway".to_owned(),
            Self::RteAcl { batch, .. } => format!("rte_acl, {batch} at once"),
        }
    }
}

impl Line {
    fn note(&self, label: &str, rules: u32) -> String {
        let mut note = format!(
            "{label}, {} rules: built in {:.0} ms, a rule matches {} of {} tuples",
            thousands(rules),
            self.build_ms,
            self.matched,
            self.tuples
        );
        if let Some(mib) = self.heap_mib {
            let _ = write!(note, ", {mib:.0} MiB");
        }
        for more in [&self.algorithm, &self.pages, &self.version]
            .into_iter()
            .flatten()
        {
            note.push_str(", ");
            note.push_str(more);
        }
        note
    }
}

/// Rules, tuples and verdicts in a file, which goes with this.
#[derive(Debug)]
struct Dump(PathBuf);

impl Dump {
    fn write(program: &Path, rules: u32) -> Result<Self> {
        let directory = target().join("peers");
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let dump = Self(directory.join(format!("policy-{rules}-{}.txt", std::process::id())));
        let mut command = Command::new(program);
        command.args(["policy", "--json", "--seconds", "0.001"]);
        command
            .args(["--rules", &rules.to_string(), "--dump"])
            .arg(&dump.0);
        output(&mut command)?;
        Ok(dump)
    }
}

impl Drop for Dump {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("xtask: {} is left: {error}", self.0.display());
        }
    }
}
