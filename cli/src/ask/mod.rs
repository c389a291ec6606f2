//! `ringway status|flows|services|policy|drops`: questions to a running fastpath, as tables or as JSON.

mod render;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use fastpath::status::{Answer, Question, ask};

/// Where to ask, and how to show the answer.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The status socket of the fastpath to ask
    #[arg(
        long,
        env = "RINGWAY_STATUS_SOCKET",
        value_name = "PATH",
        default_value = "/run/ringway/status.sock"
    )]
    socket: PathBuf,
    /// Print the answer as one JSON value
    #[arg(long)]
    json: bool,
}

/// Which flows.
#[derive(Debug, Args)]
pub(crate) struct FlowsArgs {
    #[command(flatten)]
    target: Target,
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Show only flows whose text has this: an address, a state, a policy's name
    #[arg(long, value_name = "TEXT")]
    contains: Option<String>,
}

/// `ringway status`: exits 1 when something is wrong, so that a probe can use it.
pub(crate) fn status(target: &Target) -> Result<ExitCode> {
    let answer = ask(&target.socket, &Question::Status)?;
    let healthy = matches!(&answer, Answer::Status(status) if status.problems.is_empty());
    show(target, &answer)?;
    Ok(if healthy {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `ringway flows`.
pub(crate) fn flows(args: &FlowsArgs) -> Result<ExitCode> {
    let question = Question::Flows {
        limit: args.limit,
        contains: args.contains.clone(),
    };
    show(&args.target, &ask(&args.target.socket, &question)?)?;
    Ok(ExitCode::SUCCESS)
}

/// `ringway services`, `ringway policy` and `ringway drops`.
pub(crate) fn plain(target: &Target, question: &Question) -> Result<ExitCode> {
    show(target, &ask(&target.socket, question)?)?;
    Ok(ExitCode::SUCCESS)
}

fn show(target: &Target, answer: &Answer) -> Result<()> {
    let text = if target.json {
        render::json(answer)?
    } else {
        render::table(answer)
    };
    // A reader that goes away (head, less) is no failure of ours.
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
