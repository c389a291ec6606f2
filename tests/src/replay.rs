//! Runs `ringway replay` and reads what it wrote.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::binary;
use crate::capture::{self, Captured};

/// What one run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The output capture, byte for byte.
    pub out: Vec<u8>,
    /// Its frames.
    pub frames: Vec<Captured>,
    /// The verdict lines, byte for byte.
    pub lines: String,
    /// The verdict lines, read.
    pub verdicts: Vec<Verdict>,
    /// The report.
    pub report: Value,
}

/// A verdict line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// From 1.
    pub n: u64,
    /// Nanoseconds.
    pub ts: u64,
    /// Where it came from.
    pub port: String,
    /// `tx`, `punt`, `drop`.
    pub verdict: String,
    /// Of a punt or drop.
    pub reason: Option<String>,
    /// Frames that left because of it.
    #[serde(default)]
    pub out: Vec<Out>,
    /// What decided.
    pub policy: Option<Policy>,
    /// Service port.
    pub service: Option<String>,
    /// Flow.
    pub flow: Option<Flow>,
}

/// A frame of the output.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Out {
    /// Port.
    pub port: String,
    /// From 1, over the whole output.
    pub frame: usize,
}

/// A policy and its rule.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// API group.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Namespace; none for cluster-wide kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// From 0.
    pub rule: Option<u32>,
    /// No rule allowed it.
    pub default: Option<bool>,
}

/// A flow.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// This packet made it.
    #[serde(default)]
    pub new: bool,
    /// As the first packet came.
    pub orig: String,
    /// As replies come.
    pub reply: String,
}

/// The command, found beside our own executable.
#[derive(Clone, Debug)]
pub struct Replay {
    binary: PathBuf,
}

impl Replay {
    /// Finds the command.
    ///
    /// # Errors
    /// Where it was looked for, or that it knows no `replay`.
    pub fn find() -> Result<Self, String> {
        let binary = binary::find("ringway")?;
        let help = Command::new(&binary).args(["replay", "--help"]).output();
        match help {
            Ok(output) if String::from_utf8_lossy(&output.stdout).contains("--verdicts") => {
                Ok(Self { binary })
            }
            Ok(_) => Err(format!("{} has no replay", binary.display())),
            Err(error) => Err(format!("{}: {error}", binary.display())),
        }
    }

    /// Replays `input` on node-a of the manifests at `state`, with files in `folder`.
    ///
    /// # Errors
    /// What the command said, unless it ended with 0; or a file that can't be read.
    pub fn run(&self, folder: &Path, state: &Path, input: &Path, options: &[String]) -> Result<Outcome> {
        let [out, verdicts, report] =
            ["out.pcapng", "verdicts.jsonl", "report.json"].map(|name| folder.join(name));
        let output = Command::new(&self.binary)
            .arg("replay")
            .args(["--node", "node-a"])
            .arg("--state")
            .arg(state)
            .arg("--in")
            .arg(input)
            .arg("--out")
            .arg(&out)
            .arg("--verdicts")
            .arg(&verdicts)
            .arg("--report")
            .arg(&report)
            .args(options)
            .output()
            .with_context(|| format!("{}", self.binary.display()))?;
        if !output.status.success() {
            bail!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let lines = std::fs::read_to_string(&verdicts).context("verdicts")?;
        let read: Result<Vec<Verdict>> = lines
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("verdict line {line}")))
            .collect();
        let report = serde_json::from_slice(&std::fs::read(&report).context("report")?).context("report")?;
        let outcome = Outcome {
            out: std::fs::read(&out).context("output")?,
            frames: capture::read(&out)?,
            lines,
            verdicts: read?,
            report,
        };
        ensure!(
            outcome
                .verdicts
                .iter()
                .enumerate()
                .all(|(index, line)| line.n == index as u64 + 1),
            "verdict lines are not numbered from 1 without a gap"
        );
        Ok(outcome)
    }
}
