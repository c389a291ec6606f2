//! Ringway's one command: `cargo xtask test` and `cargo xtask demo`.

mod check;
mod demo;
mod fuzz;
mod golden;
mod libtest;
mod record;
mod tally;
mod traffic;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Ringway's one command.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
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

fn main() -> ExitCode {
    match Command::parse() {
        Command::Test(options) => check::run(&options),
        Command::Demo(options) => demo::run(&options),
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

/// The top of the workspace.
fn workspace() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}
