//! `cargo xtask bench`: the benchmarks side by side with their peers, and the instructions that a packet takes.

mod compare;
mod forwarders;
pub(crate) mod instructions;
mod live;
mod machine;
mod peer;
mod pipeline;
mod plot;
mod policy;
mod row;
mod table;
mod updates;
mod workload;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, refused, workspace};

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Options {
    /// Ringway and its peers in turns, medians of several rounds, in one table
    #[arg(long, group = "what")]
    compare: bool,
    /// Instructions for each packet, by callgrind, beside the committed figures; more than 3 % too many fails
    #[arg(long, group = "what")]
    instructions: bool,
    /// With --compare: only these parts
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "instructions")]
    only: Vec<Part>,
    /// With --compare: fewer flows, fewer and shorter rounds, for a first look
    #[arg(long, conflicts_with = "instructions")]
    quick: bool,
    /// With --compare: 10 million flows too; takes 8 GiB and half an hour more
    #[arg(long, conflicts_with_all = ["instructions", "quick"])]
    large: bool,
    /// With --compare: one JSON line for each row instead of a table
    #[arg(long, conflicts_with = "instructions")]
    json: bool,
    /// With --compare: write the flow table's figures as a picture
    #[arg(long, value_name = "FILE", conflicts_with = "instructions")]
    svg: Option<PathBuf>,
    /// With --instructions: make these figures the committed ones
    #[arg(long, requires = "instructions")]
    bless: bool,
}

/// A part of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// The flow table beside other maps
    Table,
    /// The pipeline, memory to memory
    Pipeline,
    /// The pipeline beside OVS-DPDK and testpmd, memory to memory; needs root
    Forwarders,
    /// Policy alone, with many rules
    Policy,
    /// The pipeline while endpoints and labels change
    Updates,
    /// Processes over veth beside testpmd and the kernel; needs root
    Live,
}

/// Runs what was asked for.
pub(crate) fn run(options: &Options) -> ExitCode {
    let result = if options.instructions {
        if let Some(why) = instructions::missing() {
            return refused(&why);
        }
        instructions::run(options.bless)
    } else {
        compare::run(options)
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the bench program as it is measured. Returns its path.
fn program() -> Result<PathBuf> {
    let built = cargo(["build", "--release", "--quiet", "--package", "bench"])
        .status()
        .context("cargo build")?;
    ensure!(built.success(), "the bench program does not build");
    Ok(target().join("release/bench"))
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// What `command` prints, which must succeed; its standard error is shown when it does not.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}
