//! Ringway's one command: `cargo xtask test` and `cargo xtask demo`.

mod bench;
mod check;
mod demo;
mod fuzz;
mod golden;
mod libtest;
mod record;
mod tally;
mod traffic;

use std::env;
use std::ffi::OsStr;
use std::fmt::Display;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use clap::{CommandFactory as _, Parser};

/// Ringway's one command.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
enum Command {
    /// Run every test that this machine can run. The last line counts what passed, failed and was skipped.
    ///
    /// `RINGWAY_REQUIRE=root,afxdp` makes a skip for want of one of these a failure.
    Test(check::Options),
    /// The main job: two nodes in network namespaces, real sockets through them, who reached whom and why not.
    ///
    /// As root it starts the lab; otherwise it replays the captures of examples/two-nodes. The last line says
    /// `demo: passed` or `demo: failed: WHAT`.
    Demo(demo::Options),
    /// Ringway beside its peers in one table, or the instructions that a packet takes.
    Bench(bench::Options),
    /// Run every fuzz target of tests/fuzz, one after another. Needs a nightly toolchain and cargo-fuzz.
    Fuzz(fuzz::Options),
    /// Record the captures of examples/two-nodes anew from the lab, and their verdicts. Needs root and tcpdump.
    Record {
        /// Use programs built without optimisation
        #[arg(long)]
        debug_build: bool,
    },
    /// Play the golden cases of tests/golden, all or those named, and compare every byte and counter; or bless them.
    Golden(golden::Options),
    /// Sockets of the demo
    #[command(subcommand, hide = true)]
    Traffic(traffic::Traffic),
}

const EXAMPLES: &str = "Examples:
  cargo xtask demo
  cargo xtask test
  cargo xtask test --only format,clippy
  cargo xtask golden forward-tcp-v4
  cargo xtask bench --compare --quick --only table
  cargo xtask fuzz 30 --only wire_packet

Exit codes: 0 when all is well, 1 when something failed, 2 for a bad flag or name.";

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        // Help is no error.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => return refused(&usage::one_line(&error, &Command::command())),
    };
    match command {
        Command::Test(options) => check::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Record { debug_build } => record::run(debug_build),
        Command::Golden(options) => golden::run(&options),
        Command::Traffic(role) => match traffic::run(&role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("traffic: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// What was typed is wrong: says so on one line.
fn refused(why: &impl Display) -> ExitCode {
    eprintln!("xtask: {why}");
    ExitCode::from(2)
}

/// The top of the workspace.
fn workspace() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}

/// Cargo, at the top of the workspace.
fn cargo(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> process::Command {
    let mut command = process::Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace());
    command
}
