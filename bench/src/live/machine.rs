//! What the machine gives: programs, CPUs, priority. What is taken is given back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::{Pid, geteuid};

/// The CPU that forwards.
pub(crate) const FORWARDER_CPU: usize = 0;
/// The CPU that the packets come from, where there are two.
pub(crate) const SOURCE_CPU: usize = 1;

/// Niceness of everything that takes part.
const RAISED: &str = "-15";

/// Fails without root: namespaces are made.
pub(crate) fn require_root() -> Result<()> {
    if !geteuid().is_root() {
        bail!("live cases need root: they make network namespaces");
    }
    Ok(())
}

/// This program.
pub(crate) fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("finding this program")
}

/// Where the programs of this build are: beside this one, or, for a test, one folder up.
pub(crate) fn programs() -> Result<PathBuf> {
    let own = own_program()?;
    let folder = own.parent().context("this program is in a folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().context("deps is in a folder")?
    } else {
        folder
    };
    Ok(folder.to_owned())
}

/// Builds `ringway`, `ringway-fastpath` and `ringway-control` beside this program, in its profile.
pub(crate) fn build_programs() -> Result<PathBuf> {
    let programs = programs()?;
    let target = programs
        .parent()
        .context("a profile's folder is in the target folder")?;
    let profile = match programs.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--bins", "--profile", profile])
        .args([
            "--package",
            "ringway",
            "--package",
            "fastpath",
            "--package",
            "control",
        ])
        .arg("--target-dir")
        .arg(target)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .stdin(Stdio::null())
        // Standard output is the result's.
        .stdout(Stdio::null());
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        bail!("building ringway, ringway-fastpath and ringway-control: {status}");
    }
    Ok(programs)
}

/// Whether a program is in the path, or where only root looks.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .any(|folder| folder.join(name).is_file())
}

/// The version of an installed Debian package.
pub(crate) fn package_version(package: &str) -> Option<String> {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat", "${Version}", package]);
    let output = command.stdin(Stdio::null()).output().ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !version.is_empty()).then_some(version)
}

/// Release of the kernel that runs.
pub(crate) fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// This session's weight among all, raised while this is alive: source, forwarders and sinks alike.
///
/// A kernel with `CONFIG_SCHED_AUTOGROUP` weighs sessions, and niceness counts only within one.
///
/// The kernel's own packet threads are raised with it: a kernel that forwards does so there when it is offered too much.
#[derive(Debug)]
pub(crate) struct Priority {
    session_before: Option<String>,
    kernel_threads: Vec<String>,
}

const AUTOGROUP: &str = "/proc/self/autogroup";

impl Priority {
    /// Raises it. A machine that refuses measures with more noise.
    pub(crate) fn raise() -> Self {
        renice(RAISED, &[std::process::id().to_string()]);
        // "/autogroup-34 nice 0"
        let before = fs::read_to_string(AUTOGROUP).ok();
        let before = before.and_then(|text| Some(text.trim().rsplit_once(' ')?.1.to_owned()));
        let session_before = before.filter(|_| fs::write(AUTOGROUP, RAISED).is_ok());
        let kernel_threads = packet_threads();
        renice(RAISED, &kernel_threads);
        Self {
            session_before,
            kernel_threads,
        }
    }
}

impl Drop for Priority {
    fn drop(&mut self) {
        renice("0", &self.kernel_threads);
        if let Some(before) = &self.session_before
            && let Err(error) = fs::write(AUTOGROUP, before)
        {
            eprintln!("bench: the session keeps its raised priority: {error}");
        }
    }
}

/// Sets the niceness of processes and threads, where it may.
fn renice(niceness: &str, ids: &[String]) {
    let mut command = Command::new("renice");
    command.args(["-n", niceness, "-p"]).args(ids);
    let _ = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
}

/// Ids of the kernel's threads for packets that interrupts have no time for: `ksoftirqd/N`.
fn packet_threads() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            name.starts_with("ksoftirqd/")
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Ids of the kernel's threads for an interface's packets (`threaded` NAPI).
pub(crate) fn napi_threads(interface: &str) -> Vec<i32> {
    let start = format!("napi/{interface}-");
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            let pid = entry.file_name().to_string_lossy().parse().ok()?;
            name.starts_with(&start).then_some(pid)
        })
        .collect()
}

/// Pins threads of the kernel to the CPU that forwards, and raises them.
pub(crate) fn make_forwarders(threads: &[i32]) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(FORWARDER_CPU)?;
    for thread in threads {
        sched_setaffinity(Pid::from_raw(*thread), &set)
            .with_context(|| format!("pinning the kernel's thread {thread}"))?;
    }
    let ids: Vec<String> = threads.iter().map(ToString::to_string).collect();
    renice(RAISED, &ids);
    Ok(())
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("pinning a thread to CPU {cpu}"))
}

/// The CPU of the source: another than the forwarder's where there is one.
pub(crate) fn source_cpu() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors > SOURCE_CPU {
        SOURCE_CPU
    } else {
        FORWARDER_CPU
    }
}

/// Packets that the kernel dropped since its backlogs were full, on all CPUs: column 2 of `softnet_stat`.
pub(crate) fn backlog_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let dropped = |line: &str| {
        let column = line.split_ascii_whitespace().nth(1)?;
        u64::from_str_radix(column, 16).ok()
    };
    text.lines().filter_map(dropped).sum()
}

/// Runs a command to its end; an error shows what it said.
pub(crate) fn succeed(command: &mut Command) -> Result<Output> {
    use std::os::unix::process::CommandExt as _;
    let shown = format!("{command:?}");
    // A group of its own: Ctrl-C is for us, who take everything down in order.
    let command = command.stdin(Stdio::null()).process_group(0);
    let output = command.output().with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{shown}: {}: {}", output.status, said.trim());
    }
    Ok(output)
}
