//! `cargo xtask fuzz [SECONDS]`: every fuzz target of `tests/fuzz` for that long, one after another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::tally::Tally;
use crate::{refused, workspace};

/// What to run, and for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Seconds for each target
    #[arg(default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Run only these targets
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Afterwards make the committed corpora of what was found and what was there, as few inputs as cover it all
    #[arg(long)]
    minimize: bool,
}

/// Runs the targets. The very last line is `N passed, N failed, N skipped`.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut tally = match Tally::from_env() {
        Ok(tally) => tally,
        Err(unknown) => return refused(&unknown),
    };
    match targets() {
        Err(error) => {
            println!("{error:#}");
            tally.fail("fuzz");
        }
        Ok(targets) => {
            if let Some(unknown) = options.only.iter().find(|name| !targets.contains(name)) {
                return refused(&format!(
                    "no fuzz target is called {unknown:?}, expected some of {}",
                    targets.join(", ")
                ));
            }
            if is_installed() {
                for target in targets {
                    if !options.only.is_empty() && !options.only.contains(&target) {
                        continue;
                    }
                    println!("==> {target}");
                    match fuzz(&target, options) {
                        Ok(()) => tally.pass(),
                        Err(error) => {
                            println!("{target}: {error:#}");
                            tally.fail(target);
                        }
                    }
                }
            } else {
                tally.skip(
                    "fuzz",
                    "a nightly toolchain or cargo-fuzz is not installed: rustup toolchain install nightly && cargo install \
                     cargo-fuzz",
                );
            }
        }
    }
    println!();
    println!("{tally}");
    if tally.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Names of the targets, in order.
fn targets() -> Result<Vec<String>> {
    let directory = directory().join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let name = path.file_stem().context("a file without a name")?;
        targets.push(name.to_string_lossy().into_owned());
    }
    targets.sort();
    Ok(targets)
}

/// Runs one target: new inputs go beside the build, the committed ones are only read.
fn fuzz(target: &str, options: &Options) -> Result<()> {
    let committed = directory().join("corpus").join(target);
    let found = directory().join("target/corpus").join(target);
    fs::create_dir_all(&found)?;
    let seconds = format!("-max_total_time={}", options.seconds);
    libfuzzer(
        target,
        &[&found, &committed],
        &[
            &seconds,
            "-timeout=20",
            "-rss_limit_mb=2048",
            "-malloc_limit_mb=512",
        ],
    )
    .context("an input broke a promise: it is in tests/fuzz/artifacts")?;
    if options.minimize {
        let minimal = directory().join("target/corpus").join(format!("{target}.min"));
        if minimal.exists() {
            fs::remove_dir_all(&minimal)?;
        }
        fs::create_dir_all(&minimal)?;
        libfuzzer(
            target,
            &[&minimal, &committed, &found],
            &["-set_cover_merge=1", "-use_counters=0"],
        )?;
        fs::remove_dir_all(&committed)?;
        fs::create_dir_all(&committed)?;
        for entry in fs::read_dir(&minimal)? {
            let path = entry?.path();
            fs::copy(
                &path,
                committed.join(path.file_name().context("a file without a name")?),
            )?;
        }
    }
    Ok(())
}

fn libfuzzer(target: &str, corpora: &[&Path], flags: &[&str]) -> Result<()> {
    let status = nightly()
        .args(["run", target])
        .args(corpora)
        .arg("--")
        .args(flags)
        .status()
        .context("cargo fuzz")?;
    ensure!(status.success(), "cargo fuzz ended with {status}");
    Ok(())
}

fn is_installed() -> bool {
    nightly()
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// `cargo fuzz` of the nightly toolchain.
fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", "nightly", "cargo", "fuzz"])
        .current_dir(directory());
    command
}

fn directory() -> PathBuf {
    workspace().join("tests/fuzz")
}
