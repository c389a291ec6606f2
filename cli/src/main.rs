//! The ringway command: lab, replay, status, flows, services, policy, drops.

mod lab;

use std::fmt;
use std::process::ExitCode;

use clap::Parser;

/// Ringway: a Kubernetes node dataplane in userspace.
#[derive(Debug, Parser)]
#[command(name = "ringway", version)]
enum Command {
    /// A cluster in network namespaces, without Kubernetes
    #[command(subcommand)]
    Lab(lab::Command),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Lab(command) => lab::run(command),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("ringway: {error:#}");
        if error.is::<BadInput>() {
            ExitCode::from(2)
        } else {
            ExitCode::FAILURE
        }
    })
}

/// What the caller gave is wrong: a flag, a file or an object in it. The process ends with code 2.
#[derive(Debug)]
pub(crate) struct BadInput(pub(crate) String);

impl fmt::Display for BadInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadInput {}
