//! Daemons of the lab: started in a namespace, found again by id and start time, stopped.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::netns;

/// How long a process may take to end by itself before it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How often a condition outside this process is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A process that the lab started. Ids are reused, so the start time belongs to the identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) pid: i32,
    /// Clock ticks from boot to its start, field 22 of `/proc/PID/stat`.
    pub(crate) started: u64,
}

impl Process {
    /// Starts `program` in a namespace, in a process group of its own, its output in `log`.
    pub(crate) fn start(
        name: String,
        netns: &str,
        program: &Path,
        arguments: &[&OsStr],
        log: &Path,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0);
        let child = netns::within_with_sysfs(netns, || {
            // A mask that our caller blocked signals with would keep the daemon from ending.
            SigSet::empty()
                .thread_set_mask()
                .context("clearing the signal mask")?;
            command
                .spawn()
                .with_context(|| format!("starting {}", program.display()))
        })?;
        let pid = i32::try_from(child.id()).context("process id")?;
        let Some(started) = start_time(pid) else {
            let said = fs::read_to_string(log).unwrap_or_default();
            bail!("{name} ended at once; it said: {}", said.trim());
        };
        Ok(Self { name, pid, started })
    }

    pub(crate) fn is_running(&self) -> bool {
        // Where the lab is brought up and watched by one process, an ended daemon is its zombie.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        start_time(self.pid) == Some(self.started)
    }

    /// Asks it to end, kills it when it does not, and returns when it has ended.
    pub(crate) fn stop(&self) -> Result<()> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.is_running() {
                return Ok(());
            }
            // Ended meanwhile: nothing to signal.
            let _ = kill(Pid::from_raw(self.pid), signal);
            if wait_for(STOP_PATIENCE, || !self.is_running()) {
                return Ok(());
            }
        }
        bail!("{} (process {}) does not end", self.name, self.pid)
    }
}

/// Ends whatever still runs in a namespace of the lab.
pub(crate) fn end_all_in(netns: &str) -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let pids = netns::processes(netns)?;
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        let others: Vec<i32> = pids.into_iter().filter(|pid| *pid != own).collect();
        for pid in &others {
            let _ = kill(Pid::from_raw(*pid), signal);
        }
        let gone = || netns::processes(netns).is_ok_and(|left| left.iter().all(|pid| !others.contains(pid)));
        if others.is_empty() || wait_for(Duration::from_secs(1), gone) {
            return Ok(());
        }
    }
    Ok(())
}

/// Looks at a condition until it holds; false when it does not within `patience`.
pub(crate) fn wait_for(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// When the process started; none when there is none with that id, or it has ended.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the fields after it are plain.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        None
    } else {
        fields.nth(18)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_one_with_another_start_time_does_not() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let started = start_time(pid).unwrap();
        let process = Process {
            name: "self".into(),
            pid,
            started,
        };
        assert!(process.is_running());
        assert!(
            !Process {
                started: started + 1,
                ..process
            }
            .is_running()
        );
    }
}
