//! The machine of a comparison: what it is, what it runs, huge pages lent for a while.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, bail, ensure};

use super::output;
use crate::{cargo, workspace};

const HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";

/// Ctrl-C, looked at between runs so that what was taken is given back.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the signals are noted.
    pub(crate) fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    /// An error once someone wants the end.
    pub(crate) fn check(&self) -> Result<()> {
        // Relaxed: nothing else is passed on with it.
        ensure!(!self.0.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }
}

/// Huge pages added, taken away again when this is dropped.
#[derive(Debug)]
pub(crate) struct HugePages {
    added: u64,
}

impl HugePages {
    /// Adds pages of 2 MiB until so many are free.
    pub(crate) fn reserve(wanted: u64) -> Result<Self> {
        let (before, free) = (count()?, memory("HugePages_Free")?);
        let asked = wanted.saturating_sub(free);
        if asked == 0 {
            return Ok(Self { added: 0 });
        }
        fs::write(HUGE_PAGES, (before + asked).to_string())
            .with_context(|| format!("writing {HUGE_PAGES}"))?;
        let pages = Self {
            added: count()?.saturating_sub(before),
        };
        if pages.added < asked {
            bail!("the machine gave {} of {asked}", pages.added);
        }
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if self.added == 0 {
            return;
        }
        let Ok(now) = count() else { return };
        if let Err(error) = fs::write(HUGE_PAGES, now.saturating_sub(self.added).to_string()) {
            eprintln!("xtask: {} huge pages are left: {error}", self.added);
        }
    }
}

fn count() -> Result<u64> {
    let text = fs::read_to_string(HUGE_PAGES).with_context(|| format!("reading {HUGE_PAGES}"))?;
    Ok(text.trim().parse()?)
}

/// A figure of `/proc/meminfo`: kilobytes, or a count.
pub(crate) fn memory(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("/proc/meminfo has no {name}"))?;
    let value = line.split_whitespace().next().unwrap_or_default();
    Ok(value.parse()?)
}

/// Threads that wanted a CPU, on average over the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

/// Processor, kernel, versions and commit, a line each.
pub(crate) fn describe() -> Result<Vec<String>> {
    let cpus = fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = cpus.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(workspace()));
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|text| !text.is_empty());
    let rustc = output(Command::new("rustc").arg("--version"))?;
    let tree = output(&mut cargo([
        "tree",
        "--package",
        "bench",
        "--depth",
        "1",
        "--prefix",
        "none",
    ]))?;
    let maps: Vec<&str> = tree
        .lines()
        .filter(|line| {
            ["hashbrown", "papaya", "dashmap"]
                .iter()
                .any(|map| line.starts_with(map))
        })
        .collect();
    Ok(vec![
        format!(
            "{}, {} CPUs, {} GiB, {}",
            field("model name").unwrap_or_else(|| "unknown processor".to_owned()),
            std::thread::available_parallelism().map_or(1, usize::from),
            memory("MemTotal")? >> 20,
            if cpus.contains("hypervisor") {
                "a virtual machine"
            } else {
                "no virtual machine"
            },
        ),
        format!("Linux {}, {}, {}", kernel.trim(), rustc.trim(), maps.join(", ")),
        format!(
            "commit {}{}",
            git(&["rev-parse", "--short=12", "HEAD"])
                .map_or_else(|_| "unknown".to_owned(), |id| id.trim().to_owned()),
            if changed { ", with changes" } else { "" }
        ),
    ])
}
