//! Commands that the demo runs, and what Ctrl-C does to them.
//!
//! An interrupt ends the command that is being waited for and makes every later one fail, so that the demo unwinds and
//! cleans up by the same way as after any failure.

use std::ffi::OsStr;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Set by the thread that takes signals. Relaxed: nothing else is published with it.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// The command being waited for, 0 for none.
static WAITED_FOR: AtomicI32 = AtomicI32::new(0);

/// From here on SIGINT, SIGTERM and SIGHUP end the demo in order.
pub(crate) fn catch_interrupts() -> Result<()> {
    // Handlers, not a blocked mask: the mask would be inherited by every command that is started.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("catching signals")?;
    thread::spawn(move || {
        for _ in signals.forever() {
            INTERRUPTED.store(true, Ordering::Relaxed);
            let pid = WAITED_FOR.load(Ordering::SeqCst);
            if pid != 0 {
                // Ended meanwhile: nothing to signal.
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    });
    Ok(())
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Fails once an interrupt came.
pub(crate) fn check() -> Result<()> {
    if interrupted() {
        bail!("interrupted");
    }
    Ok(())
}

/// Runs a command to its end and gives what it printed. An exit code other than 0 is no error here.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    wait(command, |child| {
        child.wait_with_output().context("waiting for a command")
    })
}

/// Runs a command to its end with its output shown. Fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = display(command);
    let status = wait(command.stdin(Stdio::null()), |mut child| Ok(child.wait()?))?;
    if !status.success() {
        bail!("`{shown}`: {status}");
    }
    Ok(())
}

fn wait<T>(command: &mut Command, wait: impl FnOnce(Child) -> Result<T>) -> Result<T> {
    check()?;
    let child = command
        .spawn()
        .with_context(|| format!("starting `{}`", display(command)))?;
    let pid = i32::try_from(child.id()).context("process id")?;
    WAITED_FOR.store(pid, Ordering::SeqCst);
    if interrupted() {
        // It came between the check and the store: nobody else tells the child.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let result = wait(child);
    WAITED_FOR.store(0, Ordering::SeqCst);
    check()?;
    result
}

/// The command as a person would type it.
pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
