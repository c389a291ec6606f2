//! The flow table beside other maps, in turns: lookups of keys that are there, and of keys that are not; connections that come and
//! go; two threads at once.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use machine::HugePages;
use serde::Deserialize;

use super::compare::{Plan, progress};
use super::output;
use super::peer;
use super::row::{Outcome, Row};

/// What is measured, and the cycles that Ringway's table is to reach, by flows.
struct Case {
    /// As the row says it.
    name: &'static str,
    op: &'static str,
    threads: u32,
    /// With fewer or more flows it is not measured.
    flows: std::ops::RangeInclusive<u32>,
    unit: &'static str,
    goals: &'static [(u32, f64)],
}

const CASES: [Case; 4] = [
    Case {
        name: "hit",
        op: "hit",
        threads: 1,
        flows: 0..=u32::MAX,
        unit: LOOKUP,
        goals: &[
            (1000, 28.0),
            (64_000, 36.0),
            (1_000_000, 75.0),
            (10_000_000, 85.0),
        ],
    },
    Case {
        name: "miss",
        op: "miss",
        threads: 1,
        flows: 0..=u32::MAX,
        unit: LOOKUP,
        goals: &[
            (1000, 24.0),
            (64_000, 30.0),
            (1_000_000, 50.0),
            (10_000_000, 60.0),
        ],
    },
    Case {
        name: "churn",
        op: "churn",
        threads: 1,
        flows: 0..=u32::MAX,
        unit: "cycles per connection removed and inserted",
        goals: &[
            (1000, 250.0),
            (64_000, 250.0),
            (1_000_000, 250.0),
            (10_000_000, 250.0),
        ],
    },
    Case {
        name: TWO_THREADS,
        op: "hit",
        threads: 2,
        flows: 64_000..=1_000_000,
        unit: LOOKUP,
        // That of one thread, less 5 %: two do 1.9 times as much.
        goals: &[],
    },
];

const LOOKUP: &str = "cycles per lookup";
const TWO_THREADS: &str = "hit, two threads, each";
/// Two threads are to do so many times the work of one.
const TWO_BY_ONE: f64 = 1.9;

/// Who takes part, and how many keys are looked up together.
#[derive(Clone, Debug)]
enum Contender {
    /// One of `bench table --impl`.
    Ours {
        name: &'static str,
        batch: u32,
    },
    RteHash {
        program: PathBuf,
        batch: u32,
    },
}

/// What matters of a line of `bench table --json` and of `rte_hash`.
#[derive(Debug, Deserialize)]
struct Line {
    cycles_per_op: f64,
    slices: usize,
    slices_undisturbed: usize,
    pages: Option<String>,
    version: Option<String>,
}

/// Runs all contenders of all cases, in turns.
pub(crate) fn run(plan: &Plan, program: &Path) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut contenders = vec![
        Contender::Ours {
            name: "ringway",
            batch: 64,
        },
        Contender::Ours {
            name: "hashbrown",
            batch: 64,
        },
        Contender::Ours {
            name: "papaya",
            batch: 64,
        },
        Contender::Ours {
            name: "dashmap",
            batch: 64,
        },
    ];
    let mut huge = None;
    match peer::dpdk("rte_hash")? {
        Ok(program) => {
            for batch in [32, 64] {
                let program = program.clone();
                contenders.push(Contender::RteHash { program, batch });
            }
            match HugePages::reserve(plan.huge_pages()) {
                Ok(pages) => huge = Some(pages),
                Err(why) => outcome.notes.push(format!("rte_hash has no huge pages: {why:#}")),
            }
        }
        Err(missing) => outcome.missing.push(missing),
    }
    let mut seen = Seen::default();
    for case in &CASES {
        for flows in plan
            .flows()
            .into_iter()
            .filter(|flows| case.flows.contains(flows))
        {
            let mut figures = vec![Vec::new(); contenders.len()];
            for round in 0..plan.rounds(flows) {
                for step in 0..contenders.len() {
                    plan.interrupt.check()?;
                    // Who is first changes from round to round.
                    let at = (round + step) % contenders.len();
                    if case.threads > 1 && contenders[at].is_for_one_thread() {
                        continue;
                    }
                    let name = case.name;
                    let line = match measure(&contenders[at], program, case, flows, plan, huge.is_some()) {
                        Ok(line) => line,
                        Err(why) => {
                            outcome.fail(format!(
                                "table {name}, {flows} flows, {}: {why:#}",
                                contenders[at].label()
                            ));
                            continue;
                        }
                    };
                    progress(&format!(
                        "table {name} {flows}: {} {:.1}",
                        contenders[at].label(),
                        line.cycles_per_op
                    ));
                    figures[at].push(line.cycles_per_op);
                    seen.add(&contenders[at], &line);
                }
            }
            for (contender, figures) in contenders.iter().zip(&figures) {
                if figures.is_empty() {
                    continue;
                }
                let mut row = Row::of("table", case.name, flows, &contender.label(), case.unit, figures);
                if matches!(contender, Contender::Ours { name: "ringway", .. }) {
                    row.goal = case.goal(flows, &outcome.rows);
                }
                outcome.rows.push(row);
            }
        }
    }
    outcome.notes.extend(seen.notes());
    Ok(outcome)
}

fn measure(
    contender: &Contender,
    program: &Path,
    case: &Case,
    flows: u32,
    plan: &Plan,
    huge: bool,
) -> Result<Line> {
    let command = |program: &Path, batch: u32| {
        let mut command = Command::new(program);
        // What malloc gives lies in transparent huge pages too: the other maps' best form.
        command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");
        let arguments = [
            ("--op", case.op.to_owned()),
            ("--flows", flows.to_string()),
            ("--batch", batch.to_string()),
            ("--threads", case.threads.to_string()),
            ("--seconds", plan.seconds().to_string()),
        ];
        (command, arguments)
    };
    let text = match contender {
        Contender::Ours { name, batch } => {
            let (mut command, arguments) = command(program, *batch);
            command.args(["table", "--json", "--impl", name]);
            for (flag, value) in arguments {
                command.args([flag, &value]);
            }
            output(&mut command)?
        }
        Contender::RteHash { program, batch } => {
            let run = |pages: &str| {
                let (mut command, arguments) = command(program, *batch);
                for (flag, value) in arguments {
                    command.args([flag, &value]);
                }
                command.arg(pages).output().context("starting rte_hash")
            };
            let mut done = run(if huge { "--huge" } else { "--no-huge" })?;
            if huge && done.status.code() == Some(peer::NO_HUGE_PAGES) {
                // Another process was quicker. The figure's pages are told below the table.
                done = run("--no-huge")?;
            }
            if !done.status.success() {
                bail!(
                    "rte_hash ended with {}: {}",
                    done.status,
                    String::from_utf8_lossy(&done.stderr).trim()
                );
            }
            String::from_utf8(done.stdout)?
        }
    };
    serde_json::from_str(text.trim()).with_context(|| format!("a result was expected, found {text:?}"))
}

impl Case {
    /// Ringway's goal with so many flows, when these rows are known.
    fn goal(&self, flows: u32, rows: &[Row]) -> Option<f64> {
        if self.threads == 1 {
            return self
                .goals
                .iter()
                .find(|(of, _)| *of == flows)
                .map(|(_, goal)| *goal);
        }
        let alone = rows.iter().find(|row| {
            (row.case.as_str(), row.name.as_str(), row.flows) == (self.op, "ringway", Some(flows))
        })?;
        Some((alone.median * f64::from(self.threads) / TWO_BY_ONE * 10.0).round() / 10.0)
    }
}

impl Contender {
    /// It can't be shared, or not as it is measured here.
    fn is_for_one_thread(&self) -> bool {
        matches!(
            self,
            Self::Ours {
                name: "hashbrown",
                ..
            }
        )
    }

    fn label(&self) -> String {
        match self {
            Self::Ours { name, .. } => (*name).to_owned(),
            Self::RteHash { batch, .. } => format!("rte_hash, bulk of {batch}"),
        }
    }
}

/// What the runs said of themselves.
#[derive(Debug, Default)]
struct Seen {
    slices: usize,
    undisturbed: usize,
    /// Whose, which pages, in how many runs.
    pages: Vec<(&'static str, String, usize)>,
    dpdk: Option<String>,
}

impl Seen {
    fn add(&mut self, contender: &Contender, line: &Line) {
        self.slices += line.slices;
        self.undisturbed += line.slices_undisturbed;
        if line.version.is_some() {
            self.dpdk.clone_from(&line.version);
        }
        let Some(pages) = &line.pages else { return };
        let whose = match contender {
            Contender::Ours { name, .. } => name,
            Contender::RteHash { .. } => "rte_hash",
        };
        match self
            .pages
            .iter_mut()
            .find(|(of, known, _)| *of == whose && known == pages)
        {
            Some((_, _, runs)) => *runs += 1,
            None => self.pages.push((whose, pages.clone(), 1)),
        }
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = vec![format!(
            "flow table: {} of {} slices undisturbed by other threads; only these count",
            self.undisturbed, self.slices
        )];
        for (whose, pages, runs) in &self.pages {
            notes.push(format!("{whose} lay in {pages} in {runs} runs"));
        }
        notes.extend(
            self.dpdk
                .iter()
                .map(|version| format!("rte_hash is of {version}")),
        );
        notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_threads_may_each_be_slower_by_a_twentieth() {
        let alone = Row::of("table", "hit", 64_000, "ringway", LOOKUP, &[19.0]);
        let two = &CASES[3];
        assert_eq!(two.goal(64_000, &[alone]), Some(20.0));
        assert_eq!(two.goal(64_000, &[]), None);
        assert_eq!(CASES[2].goal(1000, &[]), Some(250.0));
    }
}
