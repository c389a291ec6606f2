//! `ringway lab`: a cluster in network namespaces, without Kubernetes.
//!
//! Each node and each pod is a namespace; nodes hang on a bridge, and a namespace called `outside` is their gateway and
//! every host beyond. A lab has a directory `/run/ringway-lab/NAME` with its record, sockets and logs.

mod cluster;
mod daemon;
mod kernel;
mod links;
mod netns;
mod network;
mod plan;
mod process;
mod record;
mod status;

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use self::plan::{Dataplane, Plan};
use self::record::Record;
use crate::BadInput;

/// What to do with a lab.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make the nodes, pods and wires, and start the daemons
    Up(Up),
    /// Run a command on a node or in a pod
    Exec(Exec),
    /// Remove everything that `up` made, also after a crash
    Down(Which),
    /// Show the nodes, pods and daemons
    Status {
        #[command(flatten)]
        which: Which,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Options of `up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Kubernetes objects: a directory or a file of YAML or JSON. May be repeated
    #[arg(long, required = true, value_name = "DIR|FILE")]
    state: Vec<PathBuf>,
    /// The lab's name; the first state's file name unless given
    #[arg(long)]
    name: Option<String>,
    /// What forwards packets on the nodes
    #[arg(long, value_enum, default_value = "ringway")]
    dataplane: Dataplane,
    /// A node that the kernel forwards on, beside others that run Ringway. May be repeated
    #[arg(long, value_name = "NODE")]
    kernel_node: Vec<String>,
    /// Receive and transmit queues of every link
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    queues: u32,
    /// Workers of each node's fastpath
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    workers: u32,
}

/// Options of `exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    which: Which,
    /// A node's name, `<namespace>/<pod>`, `outside` or `underlay`
    target: String,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Which lab is meant. Not needed where there is only one.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The state that the lab was made from; needed only where there are several labs
    #[arg(long, value_name = "DIR|FILE")]
    state: Vec<PathBuf>,
    /// The lab's name, instead of its state
    #[arg(long)]
    name: Option<String>,
}

/// Runs a `lab` command.
pub(crate) fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Up(options) => up(options),
        Command::Exec(options) => exec(&options),
        Command::Down(which) => {
            require_root()?;
            let name = which.name()?;
            record::remove(&name)?;
            println!("lab {name} is removed");
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { which, json } => status::show(&which.name()?, json),
    }
}

fn up(options: Up) -> Result<ExitCode> {
    let name = options.name.map_or_else(|| name_of(&options.state), Ok)?;
    let choices = cluster::Choices {
        name: checked(name)?,
        dataplane: options.dataplane,
        kernel_nodes: options.kernel_node,
        queues: options.queues.max(options.workers),
        workers: options.workers,
    };
    let (plan, warnings) = cluster::plan(&options.state, choices)?;
    for warning in warnings {
        eprintln!("ringway: {warning}");
    }
    require_root()?;
    let programs = match plan.ringway_nodes().next() {
        Some(_) => Some(daemon::Programs::beside_this_one()?),
        None => None,
    };
    let mut record = Record::create(plan)?;
    let started = network::build(&mut record).and_then(|()| {
        kernel::start(&record.plan)?;
        programs
            .iter()
            .try_for_each(|programs| daemon::start(&mut record, programs))
    });
    if let Err(error) = started {
        let name = &record.plan.name;
        if let Err(left) = record::remove(name) {
            eprintln!("ringway: {left:#}");
        }
        return Err(error.context(format!(
            "lab {name} is not up, and what was made of it is removed"
        )));
    }
    status::show(&record.plan.name, false)
}

fn exec(options: &Exec) -> Result<ExitCode> {
    require_root()?;
    let plan = record::plan(&options.which.name()?)?;
    let Some(netns) = plan.find(&options.target) else {
        let target = &options.target;
        return Err(BadInput(format!(
            "lab {} has no {target}; it has {}",
            plan.name,
            targets(&plan)
        ))
        .into());
    };
    netns::enter_with_sysfs(&netns)?;
    let (program, arguments) = options.command.split_first().context("clap demands a command")?;
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    if let Some(node) = plan.nodes.iter().find(|node| node.name == options.target) {
        // What a person asks on a node is asked of this node's daemons.
        command.env(
            "RINGWAY_STATUS_SOCKET",
            daemon::Files::of(&plan, node).status_socket,
        );
    }
    let error = command.exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

fn targets(plan: &Plan) -> String {
    let mut names: Vec<String> = Vec::new();
    for node in &plan.nodes {
        names.push(node.name.clone());
        names.extend(
            node.pods
                .iter()
                .map(|pod| format!("{}/{}", pod.namespace, pod.name)),
        );
    }
    names.extend(["outside".to_owned(), "underlay".to_owned()]);
    names.join(", ")
}

impl Which {
    fn name(&self) -> Result<String> {
        if let Some(name) = &self.name {
            return checked(name.clone());
        }
        if !self.state.is_empty() {
            return checked(name_of(&self.state)?);
        }
        match record::names().as_slice() {
            [] => bail!("there is no lab: `ringway lab up --state DIR` makes one"),
            [only] => Ok(only.clone()),
            several => Err(BadInput(format!(
                "several labs are up, choose by --name: {}",
                several.join(", ")
            ))
            .into()),
        }
    }
}

/// The lab's name where none was given: the first state's file name without its ending.
fn name_of(state: &[PathBuf]) -> Result<String> {
    let first = state.first().context("clap demands a state")?;
    let absolute = first
        .canonicalize()
        .map_err(|error| BadInput(format!("reading {}: {error}", first.display())))?;
    let stem = if absolute.is_dir() {
        absolute.file_name()
    } else {
        absolute.file_stem()
    };
    let stem = stem.unwrap_or_else(|| Path::new("lab").as_os_str());
    Ok(stem.to_string_lossy().into_owned())
}

/// A name that is a file name, short enough for the sockets below it.
fn checked(name: String) -> Result<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 32 || name.starts_with('.') || !name.chars().all(fine) {
        let message = format!(
            "{name:?} can't name a lab: expected up to 32 letters, digits, '-', '_', '.'; choose one by --name"
        );
        return Err(BadInput(message).into());
    }
    Ok(name)
}

fn require_root() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("a lab needs root (it makes network namespaces); `ringway replay` does not");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lab_is_named_after_its_state() {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        assert_eq!(name_of(&[here.join("src")]).unwrap(), "src");
        assert_eq!(name_of(&[here.join("Cargo.toml")]).unwrap(), "Cargo");
        let missing = name_of(&[here.join("no-such")]).unwrap_err();
        assert!(missing.is::<BadInput>(), "{missing}");
    }

    #[test]
    fn a_name_with_a_slash_is_refused() {
        assert!(checked("two-nodes".to_owned()).is_ok());
        for bad in ["", "a/b", "..", "with space", "x23456789012345678901234567890123"] {
            assert!(checked(bad.to_owned()).unwrap_err().is::<BadInput>(), "{bad}");
        }
    }
}
