//! Processes of a peer: children of this one, in a folder of their own, gone with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A folder that goes with this.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// A new one, for the user alone.
    pub(crate) fn new(what: &str) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let path = std::env::temp_dir().join(format!("ringway-bench-{what}-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("bench: {} is left: {error}", self.0.display());
        }
    }
}

/// A child that is ended with this, and by the kernel when this program is killed.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts `program` with `words`, the output going to nobody.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let shown = command.get_program().display().to_string();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Ctrl-C is for us, who take everything down in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {shown}"))?;
        Ok(Self(child))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether it ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if self.has_ended() {
                return;
            }
            thread::sleep(POLL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that dies with this program.
pub(crate) fn mortal(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Asks until there is an answer; `what` was awaited when there is none in time.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        thread::sleep(POLL);
    }
}

/// Times that the thread of process `id` whose name begins so was made to give up its CPU.
pub(crate) fn switches(id: u32, thread: &str) -> Result<u64> {
    for task in fs::read_dir(format!("/proc/{id}/task"))? {
        let status = fs::read_to_string(task?.path().join("status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.trim().to_owned())
        };
        if field("Name:").is_some_and(|name| name.starts_with(thread)) {
            let switches = field("nonvoluntary_ctxt_switches:").context("the kernel counts switches")?;
            return Ok(switches.parse()?);
        }
    }
    bail!("process {id} has no thread {thread}")
}

/// Where a program is: in the path, where only root looks, or in one of `others`.
pub(crate) fn find(name: &str, others: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].iter().chain(others).map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(10);
