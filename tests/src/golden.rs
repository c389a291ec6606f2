//! Plays cases, checks what they promise, and keeps the files under `tests/golden/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::capture::{self, Captured};
use crate::case::{Bindings, Case, Source, Step, matches};
use crate::check::{faults, frames_of, policy_text};
use crate::dissect::describe;
use crate::replay::{Outcome, Replay};

/// A case that ran.
pub struct Played {
    /// Its packets.
    pub input: Vec<Captured>,
    /// What the command wrote.
    pub outcome: Outcome,
    /// Where the case was not kept; the first words say which packet.
    pub faults: Vec<String>,
}

/// The files of all cases.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

/// Replays the case, as often as packets depend on what left before, and holds it against its expectations.
///
/// # Errors
/// The command failed; broken promises are [`Played::faults`].
pub fn play(replay: &Replay, case: &Case) -> Result<Played> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let (state, input_path) = (folder.path().join("state.yaml"), folder.path().join("in.pcapng"));
    fs::write(&state, &case.state)?;
    let mut bindings = Bindings::new();
    let mut input = Vec::new();
    loop {
        let before = input.len();
        for step in &case.steps[before..] {
            let sent = match &step.source {
                Source::Ready(sent) => sent.clone(),
                Source::Later(names, make) if names.iter().all(|name| bindings.contains_key(*name)) => {
                    make(&bindings)
                }
                Source::Later(..) => break,
            };
            input.push(Captured {
                port: sent.port.to_owned(),
                time_ns: step.time_ns,
                frame: sent.frame,
            });
        }
        fs::write(&input_path, capture::write(&input)?)?;
        let outcome = replay.run(folder.path(), &state, &input_path, &case.options)?;
        let mut found = promises_broken(case, &outcome, input.len(), &mut bindings);
        let stuck = input.len() == before;
        if input.len() == case.steps.len() || stuck {
            if stuck {
                found.push(format!("packet {}: what it depends on never left", before + 1));
            }
            found.extend(faults(&input, &outcome));
            return Ok(Played {
                input,
                outcome,
                faults: found,
            });
        }
    }
}

fn promises_broken(case: &Case, outcome: &Outcome, count: usize, bindings: &mut Bindings) -> Vec<String> {
    let mut found = Vec::new();
    for (index, (step, line)) in case.steps.iter().zip(&outcome.verdicts).take(count).enumerate() {
        for fault in step.broken(outcome, line, bindings) {
            found.push(format!("packet {}: {fault}", index + 1));
        }
    }
    found
}

impl Step {
    fn broken(
        &self,
        outcome: &Outcome,
        line: &crate::replay::Verdict,
        bindings: &mut Bindings,
    ) -> Vec<String> {
        let mut found = Vec::new();
        let verdict = self
            .verdict
            .expect("every step of a case says what must come of it");
        if (verdict, self.reason) != (line.verdict.as_str(), line.reason.as_deref()) {
            found.push(format!(
                "{} {:?}, not {verdict} {:?}",
                line.verdict, line.reason, self.reason
            ));
        }
        let frames = frames_of(outcome, line);
        if verdict != "punt" && frames.len() != self.out.len() {
            let lines: Vec<_> = frames
                .iter()
                .map(|f| format!("\n      {}: {}", f.port, describe(&f.frame).line))
                .collect();
            found.push(format!(
                "{} frames, not {}:{}",
                frames.len(),
                self.out.len(),
                lines.concat()
            ));
        }
        for ((port, pattern), frame) in self.out.iter().zip(&frames) {
            if port != "*" && *port != frame.port {
                found.push(format!("leaves by {}, not {port}", frame.port));
            }
            if let Err(differs) = matches(&describe(&frame.frame).line, pattern, bindings) {
                found.push(differs);
            }
        }
        if let Some(expected) = &self.policy {
            let decided = line.policy.as_ref().map(policy_text).unwrap_or_default();
            if *expected != decided {
                found.push(format!("decided by {decided:?}, not {expected:?}"));
            }
        }
        if self.service.is_some() && self.service != line.service {
            found.push(format!("service {:?}, not {:?}", line.service, self.service));
        }
        if let Some((orig, reply)) = &self.flow {
            match &line.flow {
                None => found.push("no flow".to_owned()),
                Some(flow) => {
                    found.extend(matches(&flow.orig, orig, bindings).err());
                    found.extend(matches(&flow.reply, reply, bindings).err());
                }
            }
        }
        found
    }
}

/// Compares with the files of the case, byte for byte and counter for counter.
///
/// # Errors
/// A file that is missing or differs, and how.
pub fn compare(folder: &Path, case: &Case, played: &Played) -> Result<(), Vec<String>> {
    let mut differences = Vec::new();
    for (name, now) in files(case, played) {
        match fs::read(folder.join(name)) {
            Err(error) => differences.push(format!("{name}: {error}")),
            Ok(blessed) if blessed != now => differences.push(difference(name, &blessed, &now)),
            Ok(_) => {}
        }
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(differences)
    }
}

/// Writes the files of the case.
///
/// # Errors
/// A file that can't be written.
pub fn bless(folder: &Path, case: &Case, played: &Played) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (name, bytes) in files(case, played) {
        fs::write(folder.join(name), bytes).with_context(|| format!("{name} of {}", case.name))?;
    }
    Ok(())
}

fn files(case: &Case, played: &Played) -> [(&'static str, Vec<u8>); 5] {
    let input = capture::write(&played.input).expect("frames of a case fit a capture");
    [
        (
            "state.yaml",
            format!("# {}\n{}", case.about, case.state).into_bytes(),
        ),
        ("in.pcapng", input),
        ("out.pcapng", played.outcome.out.clone()),
        ("verdicts.jsonl", played.outcome.lines.clone().into_bytes()),
        ("counters.toml", counters(&played.outcome.report).into_bytes()),
    ]
}

fn difference(name: &str, blessed: &[u8], now: &[u8]) -> String {
    let (Ok(blessed), Ok(now)) = (std::str::from_utf8(blessed), std::str::from_utf8(now)) else {
        return format!("{name} differs");
    };
    let lines = blessed
        .lines()
        .zip(now.lines())
        .enumerate()
        .find(|(_, (old, new))| old != new);
    match lines {
        Some((index, (old, new))) => format!("{name} line {}:\n      was {old}\n      is  {new}", index + 1),
        None => format!(
            "{name}: {} lines, were {}",
            now.lines().count(),
            blessed.lines().count()
        ),
    }
}

/// The report without what depends on the machine.
fn counters(report: &serde_json::Value) -> String {
    let mut report = report.clone();
    if let Some(fields) = report.as_object_mut() {
        fields.retain(|name, value| !value.is_null() && !TIMES.iter().any(|time| name.contains(time)));
    }
    toml::to_string(&report).expect("a report is tables of numbers")
}

/// Parts of the names of what depends on the machine.
const TIMES: [&str; 5] = ["per_packet", "cycles", "elapsed", "seconds", "_hz"];
