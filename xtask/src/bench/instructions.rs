//! Instructions that a packet takes, counted by callgrind, beside the committed figures of `bench/instructions.json`.
//!
//! Each case runs twice, once with twice the packets: what remains of the difference is packets, the set-up cancels out. Seeds
//! and the clock are the bench's own, so that a figure repeats to the last digit on one processor and toolchain.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::{peer, pipeline, program, target};
use crate::workspace;

/// The names of the figures, the cases that they are of, and the version of IP.
const CASES: &[(&str, &str, u8)] = &[
    ("io-floor", "io-floor", 4),
    ("forward", "forward", 4),
    ("policy", "policy", 4),
    ("service", "service", 4),
    ("service-vxlan", "service-vxlan", 4),
    ("service-vxlan-return", "service-vxlan-return", 4),
    ("new-flows", "new-flows", 4),
    ("forward-ipv6", "forward", 6),
    ("policy-ipv6", "policy", 6),
    ("service-ipv6", "service", 6),
    ("service-vxlan-ipv6", "service-vxlan", 6),
    ("service-vxlan-return-ipv6", "service-vxlan-return", 6),
    ("new-flows-ipv6", "new-flows", 6),
];
/// Established flows.
const FLOWS: u32 = 1000;
/// Packets of the shorter run.
const PACKETS: u64 = 16_384;
/// How many percent more than committed a case may take.
const TOLERANCE_PERCENT: f64 = 3.0;

/// Why nothing can be counted here, with the word that `RINGWAY_REQUIRE` knows.
pub(crate) fn missing() -> Option<String> {
    (!peer::answers("valgrind", &["--version"]))
        .then(|| "valgrind is not installed: apt-get install valgrind".to_owned())
}

/// Counts all cases, prints them beside what is committed. False when a case takes too many.
pub(crate) fn run(bless: bool) -> Result<bool> {
    let program = program()?;
    let committed = if bless {
        BTreeMap::new()
    } else {
        read().with_context(|| file().display().to_string())?
    };
    let mut counted = BTreeMap::new();
    let mut worse = Vec::new();
    println!("| case | instructions per packet | committed | |\n| --- | ---: | ---: | ---: |");
    for (name, case, family) in CASES {
        let (once, twice) = (
            start(&program, case, *family, PACKETS)?,
            start(&program, case, *family, 2 * PACKETS)?,
        );
        let (once, twice) = (once.finish()?, twice.finish()?);
        ensure!(
            twice > once,
            "{name}: {twice} instructions for twice the packets of {once}"
        );
        let figure = tenth((twice - once) as f64 / PACKETS as f64);
        let verdict = match committed.get(*name) {
            _ if bless => "blessed".to_owned(),
            None => {
                worse.push(format!("{name}: no figure is committed"));
                "not committed".to_owned()
            }
            Some(before) => {
                let percent = (figure / before - 1.0) * 100.0;
                if percent > TOLERANCE_PERCENT {
                    worse.push(format!(
                        "{name}: {figure} instructions per packet, {before} are committed"
                    ));
                }
                format!("{percent:+.1} %")
            }
        };
        let before = committed.get(*name).map_or("-".to_owned(), f64::to_string);
        println!("| {name} | {figure} | {before} | {verdict} |");
        counted.insert((*name).to_owned(), figure);
    }
    if bless {
        fs::write(file(), serde_json::to_string_pretty(&counted)? + "\n")?;
        println!("written: {}", file().display());
    }
    for case in &worse {
        println!("too many: {case}");
    }
    if !worse.is_empty() {
        println!("if that is meant: cargo xtask bench --instructions --bless");
    }
    Ok(worse.is_empty())
}

/// A run under way.
struct Counting {
    child: Child,
    log: PathBuf,
}

fn start(program: &Path, case: &str, family: u8, packets: u64) -> Result<Counting> {
    let log = target().join(format!("callgrind-{case}-{family}-{packets}.log"));
    let child = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--log-file={}", log.display()))
        .arg(program)
        .args(["core", "--case", case, "--family", &family.to_string()])
        .args(["--flows", &FLOWS.to_string()])
        .args(["--ports", pipeline::ports(case)])
        .args(["--packets", &packets.to_string(), "--json"])
        .stdout(Stdio::null())
        .spawn()
        .context("starting valgrind")?;
    Ok(Counting { child, log })
}

impl Counting {
    fn finish(mut self) -> Result<u64> {
        let status = self.child.wait()?;
        let log = fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())?;
        ensure!(
            status.success(),
            "bench under valgrind ended with {status}: {log}"
        );
        collected(&log).with_context(|| format!("callgrind's count is missing: {log}"))
    }
}

/// What callgrind says at its end: `==123== Collected : 51127252`.
fn collected(log: &str) -> Option<u64> {
    let line = log.lines().find_map(|line| line.split_once("Collected :"))?;
    line.1.trim().parse().ok()
}

fn read() -> Result<BTreeMap<String, f64>> {
    Ok(serde_json::from_str(&fs::read_to_string(file())?)?)
}

fn file() -> PathBuf {
    workspace().join("bench/instructions.json")
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_the_log() {
        let log =
            "==7== Events    : Ir\n==7== Collected : 51127252\n==7==\n==7== I   refs:      51,127,252\n";
        assert_eq!(collected(log), Some(51_127_252));
        assert_eq!(collected("==7== Command: bench"), None);
    }

    #[test]
    fn every_case_has_a_committed_figure() {
        let committed = read().unwrap();
        let names: Vec<&str> = CASES.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(committed.len(), names.len());
        assert!(names.iter().all(|name| committed[*name] > 0.0));
    }
}
