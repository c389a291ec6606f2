//! The ringway command: lab, replay, status, flows, services, policy, drops.

mod ask;
mod lab;
mod replay;

use std::fmt;
use std::process::ExitCode;

use clap::Parser;
use fastpath::status::Question;

/// Ringway: a Kubernetes node dataplane in userspace.
#[derive(Debug, Parser)]
#[command(name = "ringway", version)]
enum Command {
    /// A cluster in network namespaces, without Kubernetes
    #[command(subcommand)]
    Lab(lab::Command),
    /// Captures through the pipeline, without NIC, cluster or root; every packet gets its verdict
    Replay(replay::Args),
    /// Health, ports, workers and conservation of a running fastpath; exit 1 when something is wrong
    Status(ask::Target),
    /// Its connections
    Flows(ask::FlowsArgs),
    /// Its Services and their backends
    Services(ask::Target),
    /// Its policies, with a counter for each rule
    Policy(ask::Target),
    /// Its drops by reason, and the last ones with the rule that refused them
    Drops(ask::Target),
}

fn main() -> ExitCode {
    let outcome = match Command::parse() {
        Command::Lab(command) => lab::run(command),
        Command::Replay(args) => replay::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Status(target) => ask::status(&target),
        Command::Flows(args) => ask::flows(&args),
        Command::Services(target) => ask::plain(&target, &Question::Services),
        Command::Policy(target) => ask::plain(&target, &Question::Policy),
        Command::Drops(target) => ask::plain(&target, &Question::Drops),
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
