//! The ringway command: lab, replay, status, flows, services, policy, drops.

mod ask;
mod lab;
mod replay;

use std::fmt;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use fastpath::status::Question;
use usage::one_line;

/// Ringway: a Kubernetes node dataplane in userspace.
#[derive(Debug, Parser)]
#[command(name = "ringway", version, after_help = EXAMPLES)]
enum Command {
    /// A cluster in network namespaces, without Kubernetes
    #[command(subcommand)]
    Lab(lab::Command),
    /// Captures through the pipeline, without NIC, cluster or root; every packet gets its verdict
    Replay(replay::Args),
    /// Health, ports, workers and conservation of a running fastpath; exit 1 when something is wrong
    Status(ask::Target),
    /// Connections of a running fastpath
    Flows(ask::FlowsArgs),
    /// Services of a running fastpath and their backends
    Services(ask::Target),
    /// Policies of a running fastpath, with a counter for each rule
    Policy(ask::Target),
    /// Drops of a running fastpath by reason, and the last ones with the rule that refused them
    Drops(ask::Target),
}

const EXAMPLES: &str = "Examples:
  ringway lab up --state examples/two-nodes
  ringway lab exec default/client -- ping -c 1 10.244.2.10
  ringway lab exec node-a -- ringway status
  ringway replay --state manifests/ --node node-a --in node.pcapng --out out.pcapng --verdicts verdicts.jsonl
  ringway flows --contains 10.96.0.10
  ringway drops --json

Exit codes: 0 when all is well, 1 when the system refuses something or what was asked is not well, 2 for a bad flag, file or object.";

fn main() -> ExitCode {
    let command = match Command::try_parse() {
        Ok(command) => command,
        // Help and version are no errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("ringway: {}", one_line(&error, &Command::command()));
            return ExitCode::from(2);
        }
    };
    let outcome = match command {
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
