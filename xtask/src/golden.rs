//! `cargo xtask golden`: builds the command and plays the golden cases, or blesses them.

use std::process::{Command, ExitCode};

use clap::Parser;

/// Options of the golden command.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Write what comes out now to tests/golden, for cases whose promises are kept
    #[arg(long)]
    bless: bool,
    /// Cases by name; all when none is named
    cases: Vec<String>,
}

/// Builds, then runs the `golden` program of the tests package.
pub(crate) fn run(options: &Options) -> ExitCode {
    let cargo = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).current_dir(crate::workspace());
        command
    };
    let built = cargo(&["build", "--quiet", "--package", "ringway", "--package", "tests"]).status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("golden: the build failed");
        return ExitCode::FAILURE;
    }
    let mut golden = cargo(&["run", "--quiet", "--package", "tests", "--bin", "golden", "--"]);
    golden
        .args(options.bless.then_some("--bless"))
        .args(&options.cases);
    match golden.status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)),
        Err(error) => {
            eprintln!("golden: {error}");
            ExitCode::FAILURE
        }
    }
}
