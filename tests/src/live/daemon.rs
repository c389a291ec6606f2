//! Killing the lab's daemons and starting them again as `lab up` had.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::lab::{Lab, PATIENCE};
use super::place::Background;
use super::wait;

/// A daemon that is down, and how it was started.
#[derive(Debug)]
pub struct Killed {
    node: String,
    arguments: Vec<String>,
}

/// Kills the daemon (`NODE/ringway-...`) of process `pid` without giving it a chance, and waits until it is gone.
///
/// # Panics
/// When there is no such process.
pub fn kill_hard(daemon: &str, pid: i32) -> Killed {
    let line = fs::read(format!("/proc/{pid}/cmdline")).expect("the daemon runs");
    let line = String::from_utf8(line).expect("UTF-8");
    let arguments: Vec<String> = line
        .trim_end_matches('\0')
        .split('\0')
        .map(str::to_owned)
        .collect();
    let (node, program) = daemon.split_once('/').expect("NODE/PROGRAM");
    assert!(arguments[0].ends_with(program), "process {pid} is {arguments:?}");
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    wait::until("the killed daemon to be gone", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The first thread may be a zombie while others still hold the process's files.
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        threads <= 1
            && stat
                .rsplit_once(')')
                .is_none_or(|(_, rest)| rest.starts_with(" Z"))
    });
    Killed {
        node: node.to_owned(),
        arguments,
    }
}

impl Killed {
    /// Starts it again in its namespace, with the same arguments.
    pub fn start_again(&self, lab: &Lab) -> Background {
        lab.start(&self.node, &self.arguments.join(" "))
    }

    /// The same command for a test that wants to change it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(PathBuf::from(&self.arguments[0]));
        command.args(&self.arguments[1..]);
        command
    }
}

/// Waits until every port of the node is live and control's state is in force.
///
/// # Panics
/// When that does not come.
pub fn wait_ready(lab: &Lab, node: &str) {
    wait::until(&format!("every port of {node} to be live"), PATIENCE, || {
        let Some(status) = lab.ask(node, "status") else {
            return false;
        };
        let ports = status["ports"].as_array().cloned().unwrap_or_default();
        status["version"].as_u64() > Some(0)
            && ports.len() >= 5
            && ports.iter().all(|port| port["live"] == true)
    });
}
