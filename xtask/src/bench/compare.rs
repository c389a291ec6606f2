//! `--compare`: every part in turn, its contenders in turns, and one table.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use machine::{Interrupt, load, meminfo};

use super::machine::describe;
use super::row::{Outcome, markdown};
use super::{Options, Part, forwarders, live, pipeline, plot, policy, program, table, updates};

/// How much is measured.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    large: bool,
    pub(crate) interrupt: Interrupt,
}

impl Plan {
    /// Numbers of flows.
    pub(crate) fn flows(&self) -> Vec<u32> {
        let mut flows = vec![1000, 64_000];
        if !self.quick {
            flows.push(1_000_000);
        }
        if self.large {
            flows.push(10_000_000);
        }
        flows
    }

    /// Runs of each contender with so many flows.
    pub(crate) fn rounds(&self, flows: u32) -> usize {
        if self.quick || flows > 1_000_000 { 3 } else { 5 }
    }

    /// How long each run measures.
    pub(crate) fn seconds(&self) -> f64 {
        if self.quick { 0.2 } else { 0.5 }
    }

    /// Pages of 2 MiB that the largest table of DPDK takes, and some for others.
    pub(crate) fn huge_pages(&self) -> u64 {
        let flows = u64::from(self.flows().into_iter().max().unwrap_or_default());
        64 + flows * 2 * 200 / (2 << 20)
    }
}

/// Measures and prints. False when a run went wrong.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let started = Instant::now();
    let program = program()?;
    let machine = describe()?;
    let before = load();
    let mut plan = Plan {
        quick: options.quick,
        large: options.large,
        interrupt: Interrupt::catch()?,
    };
    let mut too_little = None;
    if plan.large && meminfo("MemAvailable")? < LARGE_KIB {
        plan.large = false;
        too_little = Some(format!(
            "10,000,000 flows: {} GiB of memory have to be available",
            LARGE_KIB >> 20
        ));
    }
    let mut outcomes: Vec<(&str, Outcome)> = Vec::new();
    let is_asked = |part: Part| options.only.is_empty() || options.only.contains(&part);
    if is_asked(Part::Table) {
        let title = "Flow table alone: TSC cycles per lookup, or per connection removed and inserted; lower is better";
        outcomes.push((title, table::run(&plan, &program)?));
    }
    if is_asked(Part::Pipeline) {
        let title = "Pipeline, memory to memory: TSC cycles per packet less the I/O floor, 64-byte frames and one worker unless said";
        outcomes.push((title, pipeline::run(&plan, &program)?));
    }
    if is_asked(Part::Forwarders) {
        let title = "Beside other forwarders, memory to memory: TSC cycles per packet less each one's I/O floor, 64-byte frames, one worker";
        outcomes.push((title, forwarders::run(&plan, &program)?));
    }
    if is_asked(Part::Policy) {
        let title = "Policy alone: TSC cycles per verdict, one thread, lower is better";
        outcomes.push((title, policy::run(&plan, &program)?));
    }
    if is_asked(Part::Updates) {
        let title = "The pipeline while the cluster changes, 64-byte frames, one worker: lower is better";
        outcomes.push((title, updates::run(&plan, &program)?));
    }
    if is_asked(Part::Live) {
        let title = "Processes over veth: higher is better; ratios are of pairs, with quartiles";
        outcomes.push((title, live::run(&plan, &program)?));
    }
    let mut missing: Vec<String> = too_little.into_iter().collect();
    missing.extend(outcomes.iter().flat_map(|(_, outcome)| outcome.missing.clone()));
    if let Some(file) = &options.svg {
        let of_table = outcomes.iter().find(|(_, outcome)| {
            let first = outcome.rows.first();
            first.is_some_and(|row| row.part == "table")
        });
        let (title, outcome) = of_table.context("--svg draws the flow table, which was not measured")?;
        fs::write(file, plot::svg(title, &outcome.rows)).with_context(|| file.display().to_string())?;
    }
    let failed: Vec<&String> = outcomes.iter().flat_map(|(_, outcome)| &outcome.failed).collect();
    if options.json {
        for row in outcomes.iter().flat_map(|(_, outcome)| &outcome.rows) {
            println!("{}", serde_json::to_string(row)?);
        }
        for what in &missing {
            println!("{}", serde_json::json!({ "missing": what }));
        }
        for what in &failed {
            println!("{}", serde_json::json!({ "failed": what }));
        }
        return Ok(failed.is_empty());
    }
    for (title, outcome) in &outcomes {
        println!(
            "{title}; medians of the rounds (lowest–highest)\n\n{}",
            markdown(&outcome.rows)
        );
    }
    for what in &missing {
        println!("not compared: {what}");
    }
    for line in machine
        .iter()
        .chain(outcomes.iter().flat_map(|(_, outcome)| &outcome.notes))
    {
        println!("# {line}");
    }
    println!(
        "# load {before} before and {} after; took {} s",
        load(),
        started.elapsed().as_secs()
    );
    Ok(failed.is_empty())
}

/// What happens, on standard error: standard output is the result's.
pub(crate) fn progress(what: &str) {
    eprintln!("xtask: {what}");
}

/// What the largest map of ten million connections takes, its keys and the other processes.
const LARGE_KIB: u64 = 8 << 20;
