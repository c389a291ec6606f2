//! Ringway's one command: `cargo xtask test` and `cargo xtask demo`.

mod check;
mod libtest;
mod tally;

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
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Test(options) => check::run(&options),
    }
}

/// The top of the workspace.
fn workspace() -> PathBuf {
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().map_or(manifest.clone(), PathBuf::from)
}
