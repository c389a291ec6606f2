//! Peers that are built here, from sources of ours against a library of theirs.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::{output, target};
use crate::workspace;

/// How these end when they have no huge pages.
pub(crate) const NO_HUGE_PAGES: i32 = 3;

/// Builds `bench/peers/NAME`, which uses DPDK. Returns the program, or what is missing and how to get it.
pub(crate) fn dpdk(name: &str) -> Result<Result<PathBuf, String>> {
    const LIBRARY: &str = "libdpdk";
    let missing = |what: &str, package: &str| {
        Ok(Err(format!(
            "{name}: {what} is not installed: apt-get install {package}"
        )))
    };
    if !answers("pkg-config", &["--version"]) {
        return missing("pkg-config", "pkg-config");
    }
    if !answers("cc", &["--version"]) {
        return missing("a C compiler", "gcc libc6-dev");
    }
    if !answers("pkg-config", &["--exists", LIBRARY]) {
        return missing("DPDK's library", "libdpdk-dev");
    }
    let flags = |kind: &str| -> Result<Vec<String>> {
        let text = output(Command::new("pkg-config").args([kind, LIBRARY]))?;
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    let directory = target().join("peers");
    std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let program = directory.join(name);
    output(
        Command::new("cc")
            .args(["-O3", "-march=native", "-Wall", "-Wextra"])
            .args(flags("--cflags")?)
            .arg(workspace().join(format!("bench/peers/{name}/{name}.c")))
            .arg("-o")
            .arg(&program)
            .args(flags("--libs")?),
    )
    .with_context(|| format!("building bench/peers/{name}"))?;
    Ok(Ok(program))
}

/// Whether a program is there and says yes.
pub(crate) fn answers(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
