//! `cargo xtask test`: formatting, lints, tests, loom, licences, documentation and instruction counts, one step after another.

use std::env;
use std::io::{BufRead as _, BufReader, pipe};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::libtest::Reader;
use crate::tally::Tally;
use crate::{bench, cargo, refused, workspace};

/// What to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Run only these steps: format, clippy, tests, loom, deny, doc, instructions
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

type Step = fn(&mut Tally) -> Result<()>;

const STEPS: &[(&str, Step)] = &[
    ("format", format),
    ("clippy", clippy),
    ("tests", tests),
    ("loom", loom),
    ("deny", deny),
    ("doc", doc),
    ("instructions", instructions),
];

/// Runs every step, then prints the counts. The very last line is `N passed, N failed, N skipped`.
pub(crate) fn run(options: &Options) -> ExitCode {
    if let Some(unknown) = options
        .only
        .iter()
        .find(|name| STEPS.iter().all(|(step, _)| step != name))
    {
        let known: Vec<&str> = STEPS.iter().map(|(step, _)| *step).collect();
        return refused(&format!(
            "no step is called {unknown:?}, expected some of {}",
            known.join(", ")
        ));
    }
    let mut tally = match Tally::from_env() {
        Ok(tally) => tally,
        Err(unknown) => return refused(&unknown),
    };
    for (name, step) in STEPS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        println!("==> {name}");
        let started = Instant::now();
        if let Err(error) = step(&mut tally) {
            println!("{name}: {error:#}");
            tally.fail(*name);
        }
        println!("    {name} took {} s", started.elapsed().as_secs());
    }
    println!();
    println!("{tally}");
    if tally.is_success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn format(tally: &mut Tally) -> Result<()> {
    one("format", cargo(["fmt", "--all", "--check"]), tally)
}

fn clippy(tally: &mut Tally) -> Result<()> {
    let command = cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    one("clippy", command, tally)
}

fn doc(tally: &mut Tally) -> Result<()> {
    let mut command = cargo([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--quiet",
    ]);
    // Private items are documented too, so links to them resolve.
    command.env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private_intra_doc_links");
    one("doc", command, tally)
}

fn tests(tally: &mut Tally) -> Result<()> {
    // The binaries first: end-to-end tests start them from beside their own executable.
    let built = cargo(["build", "--workspace", "--bins", "--quiet"])
        .status()
        .context("cargo build")?;
    anyhow::ensure!(built.success(), "the binaries do not build");
    let command = cargo(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    libtest("tests", command, tally)
}

/// The flow table's concurrent cells under loom, with the number of preemptions bounded.
fn loom(tally: &mut Tally) -> Result<()> {
    let mut command = cargo(["test", "--package", "flowtable", "--lib", "--release"]);
    let flags = env::var("RUSTFLAGS").unwrap_or_default();
    // A target directory of its own: other flags would build everything else anew each time.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    command
        .arg("--target-dir")
        .arg(target.join("loom"))
        .args(["loom", "--", "--show-output"])
        .env("RUSTFLAGS", format!("{flags} --cfg loom"))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env(
            "LOOM_MAX_PREEMPTIONS",
            env::var("LOOM_MAX_PREEMPTIONS").unwrap_or_else(|_| "2".to_owned()),
        );
    libtest("loom", command, tally)
}

fn deny(tally: &mut Tally) -> Result<()> {
    let installed = cargo(["deny", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !installed {
        tally.skip(
            "deny",
            "cargo-deny is not installed: cargo install cargo-deny --locked",
        );
        return Ok(());
    }
    one(
        "deny",
        cargo([
            "deny",
            "--log-level",
            "error",
            "check",
            "licenses",
            "bans",
            "sources",
        ]),
        tally,
    )?;
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    // It comes from GitHub, which not every machine reaches.
    let database = cargo_home.is_some_and(|home| home.join("advisory-dbs").is_dir());
    if database {
        one(
            "deny advisories",
            cargo(["deny", "--offline", "check", "advisories"]),
            tally,
        )
    } else {
        tally.skip(
            "deny advisories",
            "the advisory database is not on this machine: cargo deny fetch",
        );
        Ok(())
    }
}

/// Instructions per packet, beside the committed figures.
fn instructions(tally: &mut Tally) -> Result<()> {
    if let Some(why) = bench::instructions::missing() {
        tally.skip("instructions", &why);
    } else if bench::instructions::run(false)? {
        tally.pass();
    } else {
        tally.fail("instructions");
    }
    Ok(())
}

/// Runs a command that is one check.
fn one(name: &str, mut command: Command, tally: &mut Tally) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("starting {command:?}"))?;
    if status.success() {
        tally.pass();
    } else {
        tally.fail(name);
    }
    Ok(())
}

/// Runs a `cargo test`, shows what matters of its output and counts each test.
fn libtest(name: &str, mut command: Command, tally: &mut Tally) -> Result<()> {
    // One pipe for both streams: cargo names a suite on stderr, the suite reports on stdout.
    let (output, write) = pipe()?;
    command
        .stdout(write.try_clone()?)
        .stderr(write)
        .stdin(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
    drop(command);
    let failed_before = tally.failures();
    let mut reader = Reader::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        if let Some(line) = reader.line(&String::from_utf8_lossy(&line), tally) {
            println!("    {line}");
        }
    }
    reader.finish(tally);
    if !child.wait()?.success() && tally.failures() == failed_before {
        tally.fail(format!("{name}: cargo test ended with an error"));
    }
    Ok(())
}
