//! What the demo needs of the machine: root, Debian packages, the programs built.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;

use super::process;
use crate::workspace;

/// Programs that the demo runs and the Debian packages that have them.
const NEEDED: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("iperf3", "iperf3"),
    ("nft", "nftables"),
];

pub(crate) fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Installs what is missing, having said so.
pub(crate) fn install_missing() -> Result<()> {
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(program, _)| !is_there(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("installing with apt-get: {}", missing.join(" "));
    if !is_there("apt-get") {
        bail!("no apt-get here; please install: {}", missing.join(" "));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    process::run(apt().args(["update", "-qq"]))?;
    process::run(
        apt()
            .args(["install", "-qq", "-y", "--no-install-recommends"])
            .args(&missing),
    )
}

/// Whether a program is in the path, or where only root looks.
fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    directories
        .into_iter()
        .any(|directory| directory.join(program).is_file())
}

/// Builds the programs, as they ship or with debug assertions, and gives the directory that they are in.
pub(crate) fn build(debug: bool) -> Result<PathBuf> {
    let own = env::current_exe().context("finding this program")?;
    // target/debug/xtask: the target directory may be anywhere.
    let target = own
        .parent()
        .and_then(Path::parent)
        .context("this program is in a target directory")?;
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let profile = if debug { "dev" } else { "demo" };
    command
        .args(["build", "--bins", "--profile", profile])
        .current_dir(workspace());
    for package in ["ringway", "fastpath", "control"] {
        command.args(["--package", package]);
    }
    process::run(command.arg("--target-dir").arg(target))?;
    Ok(target.join(if debug { "debug" } else { "demo" }))
}
