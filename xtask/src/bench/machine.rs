//! The machine of a comparison: what it is and what it runs.

use std::fs;
use std::process::Command;

use ::machine::meminfo;
use anyhow::Result;

use super::output;
use crate::{cargo, workspace};

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
            meminfo("MemTotal")? >> 20,
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
