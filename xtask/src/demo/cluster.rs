//! A lab of the demo: brought up, asked, and taken down whatever happens.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::process;
use crate::traffic::Outcome;
use crate::workspace;

/// Start of the demo's labs' names; the process id follows.
const PREFIX: &str = "demo-";

/// A lab that is taken down when this is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    name: String,
    ringway: PathBuf,
    servers: Vec<Child>,
    down: bool,
}

/// A protocol of the traffic tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Cluster {
    /// Brings up a lab from `examples/two-nodes`.
    pub(crate) fn up(programs: &Path, dataplane: &str) -> Result<Self> {
        let name = format!("{PREFIX}{dataplane}-{}", std::process::id());
        let cluster = Self {
            name,
            ringway: programs.join("ringway"),
            servers: Vec::new(),
            down: false,
        };
        let state = workspace().join("examples/two-nodes");
        let mut command = cluster.lab("up");
        command.args(["--dataplane", dataplane, "--state"]).arg(state);
        process::run(&mut command)?;
        Ok(cluster)
    }

    fn lab(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.ringway);
        command.args(["lab", verb, "--name", &self.name]);
        command
    }

    /// A command on a node or in a pod.
    pub(crate) fn command(&self, target: &str, words: &[&str]) -> Command {
        let mut command = self.lab("exec");
        command.args([target, "--"]).args(words);
        command
    }

    /// Starts a command that goes on by itself, and waits for a line of its output that has `ready`.
    pub(crate) fn start(mut command: Command, ready: &str) -> Result<Child> {
        let shown = process::display(&command);
        process::check()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("starting `{shown}`"))?;
        let output = child.stdout.take().context("the command's output")?;
        for line in BufReader::new(output).lines() {
            if line?.contains(ready) {
                return Ok(child);
            }
        }
        let status = child.wait()?;
        bail!("`{shown}` ended before it was ready: {status}")
    }

    /// Starts a server, which lives as long as the lab.
    pub(crate) fn serve(&mut self, command: Command, ready: &str) -> Result<()> {
        let server = Self::start(command, ready)?;
        self.servers.push(server);
        Ok(())
    }

    /// Starts the traffic tool's server. `udp_addresses`: those that answers must come from, where there are several.
    pub(crate) fn serve_traffic(
        &mut self,
        target: &str,
        tcp: u16,
        udp: u16,
        udp_addresses: &[&str],
    ) -> Result<()> {
        let name = target.rsplit('/').next().unwrap_or(target);
        let mut command = self.traffic(target)?;
        command.args([
            "serve",
            "--name",
            name,
            "--tcp",
            &tcp.to_string(),
            "--udp",
            &udp.to_string(),
        ]);
        for address in udp_addresses {
            command.args(["--udp-address", address]);
        }
        self.serve(command, "ready")
    }

    /// Exchanges bytes `count` times, from `from` to an address and port.
    pub(crate) fn exchange(
        &self,
        from: &str,
        protocol: Protocol,
        to: &str,
        bytes: u64,
        count: u64,
        patience_ms: u64,
    ) -> Result<Vec<Outcome>> {
        let mut command = self.traffic(from)?;
        let protocol = if protocol == Protocol::Tcp { "tcp" } else { "udp" };
        command.args([
            protocol,
            to,
            "--bytes",
            &bytes.to_string(),
            "--count",
            &count.to_string(),
        ]);
        command.args(["--patience-ms", &patience_ms.to_string()]);
        let output = process::output(&mut command)?;
        let text = String::from_utf8(output.stdout)?;
        let outcomes = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<Vec<Outcome>, _>>()?;
        if outcomes.len() as u64 != count {
            bail!(
                "`{}`: {}",
                process::display(&command),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(outcomes)
    }

    fn traffic(&self, target: &str) -> Result<Command> {
        let mut command = self.command(target, &[]);
        command.arg(std::env::current_exe()?).arg("traffic");
        Ok(command)
    }

    /// Asks a node's fastpath by `ringway VERB --json`. `status` ends with 1 where something is wrong, so codes are not looked at.
    pub(crate) fn ask(&self, node: &str, verb: &str) -> Result<Value> {
        let mut command = Command::new(&self.ringway);
        command
            .args([verb, "--json", "--socket"])
            .arg(self.directory().join(node).join("status.sock"));
        let output = process::output(&mut command)?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`{}`: {}",
                process::display(&command),
                String::from_utf8_lossy(&output.stderr).trim()
            )
        })
    }

    fn directory(&self) -> PathBuf {
        Path::new("/run/ringway-lab").join(&self.name)
    }

    /// Takes the lab down and makes sure that nothing of it is left.
    pub(crate) fn down(mut self) -> Result<()> {
        self.take_down()?;
        let mut left = Vec::new();
        let prefix = format!("ringway-{}.", self.name);
        for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&prefix) {
                left.push(format!("namespace {name}"));
            }
        }
        if self.directory().exists() {
            left.push(self.directory().display().to_string());
        }
        if !left.is_empty() {
            bail!("left behind: {}", left.join(", "));
        }
        Ok(())
    }

    fn take_down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.down, true) || !self.directory().exists() {
            return Ok(());
        }
        take_down(&self.ringway, &self.name)?;
        for server in &mut self.servers {
            // Ended by `lab down`, as everything in the lab's namespaces.
            server.wait()?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("clean-up: {error:#}");
        }
    }
}

/// Takes down labs of demos that were killed.
pub(crate) fn remove_stale(programs: &Path) -> Result<()> {
    for entry in fs::read_dir("/run/ringway-lab").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.rsplit('-').next()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            println!("removing lab {name}, left by a demo that was killed");
            take_down(&programs.join("ringway"), &name)?;
        }
    }
    Ok(())
}

/// Not interruptible, and in a process group of its own: a second Ctrl-C must not stop the clean-up.
fn take_down(ringway: &Path, name: &str) -> Result<()> {
    use std::os::unix::process::CommandExt as _;
    let mut command = Command::new(ringway);
    command
        .args(["lab", "down", "--name", name])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0);
    let status = command.status().context("starting `ringway lab down`")?;
    if !status.success() {
        bail!("`{}`: {status}", process::display(&command));
    }
    Ok(())
}
