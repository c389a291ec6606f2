//! What must hold of every replay, whatever the case: nothing is lost, nothing is made up, and every checksum is right.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::capture::Captured;
use crate::dissect::describe;
use crate::replay::{Outcome, Policy, Verdict};

/// Everything that is wrong with `outcome` of `input`.
pub fn faults(input: &[Captured], outcome: &Outcome) -> Vec<String> {
    let mut faults = Vec::new();
    every_packet_has_its_line(input, outcome, &mut faults);
    every_frame_has_one_cause(outcome, &mut faults);
    punts_are_unchanged(input, outcome, &mut faults);
    frames_are_sound(input, outcome, &mut faults);
    counters_agree(outcome, &mut faults);
    faults
}

/// A policy as cases write it: `NetworkPolicy default/web ingress rule 0`, `... ingress default`.
pub fn policy_text(policy: &Policy) -> String {
    let name = match &policy.namespace {
        Some(namespace) => format!("{namespace}/{}", policy.name),
        None => policy.name.clone(),
    };
    let rule = match (policy.rule, policy.default) {
        (Some(rule), None) => format!("rule {rule}"),
        (None, Some(true)) => "default".to_owned(),
        other => format!("{other:?}"),
    };
    format!("{} {name} {} {rule}", policy.kind, policy.direction)
}

fn every_packet_has_its_line(input: &[Captured], outcome: &Outcome, faults: &mut Vec<String>) {
    if input.len() != outcome.verdicts.len() {
        faults.push(format!(
            "{} packets, {} verdict lines",
            input.len(),
            outcome.verdicts.len()
        ));
    }
    for (packet, line) in input.iter().zip(&outcome.verdicts) {
        if (packet.time_ns, &packet.port) != (line.ts, &line.port) {
            faults.push(format!(
                "line {} is of {} at {}, the packet of {} at {}",
                line.n, line.port, line.ts, packet.port, packet.time_ns
            ));
        }
        let has_reason = line.reason.is_some();
        if !matches!(
            (line.verdict.as_str(), has_reason),
            ("tx", false) | ("punt" | "drop", true)
        ) {
            faults.push(format!(
                "line {}: verdict {} with reason {:?}",
                line.n, line.verdict, line.reason
            ));
        }
        let frames_fit = match line.verdict.as_str() {
            "tx" => !line.out.is_empty(),
            "punt" => line.out.len() == 1 && line.out[0].port == "host",
            _ => line.out.len() <= 2,
        };
        if !frames_fit {
            faults.push(format!(
                "line {}: a {} with {} frames",
                line.n,
                line.verdict,
                line.out.len()
            ));
        }
    }
}

fn every_frame_has_one_cause(outcome: &Outcome, faults: &mut Vec<String>) {
    let mut causes = vec![0; outcome.frames.len()];
    for line in &outcome.verdicts {
        for out in &line.out {
            match out
                .frame
                .checked_sub(1)
                .and_then(|index| outcome.frames.get(index))
            {
                Some(frame) if frame.port == out.port => causes[out.frame - 1] += 1,
                found => faults.push(format!(
                    "line {}: no frame {} on {}: {:?}",
                    line.n,
                    out.frame,
                    out.port,
                    found.map(|f| &f.port)
                )),
            }
        }
    }
    for (index, count) in causes.iter().enumerate().filter(|(_, count)| **count != 1) {
        faults.push(format!("frame {} has {count} causes", index + 1));
    }
    if !outcome.frames.is_sorted_by_key(|frame| frame.time_ns) {
        faults.push("frames go back in time".into());
    }
}

fn punts_are_unchanged(input: &[Captured], outcome: &Outcome, faults: &mut Vec<String>) {
    for (packet, line) in input
        .iter()
        .zip(&outcome.verdicts)
        .filter(|(_, line)| line.verdict == "punt")
    {
        for frame in frames_of(outcome, line) {
            if frame.frame != packet.frame {
                faults.push(format!(
                    "line {}: punted changed:\n      {}\n      {}",
                    line.n,
                    describe(&packet.frame).line,
                    describe(&frame.frame).line
                ));
            }
        }
    }
}

/// Checksums and lengths are right, and nobody gets data that nobody sent.
fn frames_are_sound(input: &[Captured], outcome: &Outcome, faults: &mut Vec<String>) {
    for (index, frame) in outcome.frames.iter().enumerate() {
        if frame.port == "host" {
            continue;
        }
        let described = describe(&frame.frame);
        for fault in &described.faults {
            faults.push(format!("frame {}: {fault}: {}", index + 1, described.line));
        }
        let is_error = described.line.contains(" icmp ");
        let data = described.data;
        if !data.is_empty() && !is_error && !input.iter().any(|sent| contains(&sent.frame, &data)) {
            faults.push(format!(
                "frame {}: data that nobody sent: {}",
                index + 1,
                described.line
            ));
        }
    }
}

/// The report says what the lines say, and both identities hold.
fn counters_agree(outcome: &Outcome, faults: &mut Vec<String>) {
    let count = |verdict: &str| {
        outcome
            .verdicts
            .iter()
            .filter(|line| line.verdict == verdict)
            .count() as u64
    };
    let frames_of_drops: usize = outcome
        .verdicts
        .iter()
        .filter(|l| l.verdict == "drop")
        .map(|l| l.out.len())
        .sum();
    let frames_of_tx: usize = outcome
        .verdicts
        .iter()
        .filter(|l| l.verdict == "tx")
        .map(|l| l.out.len())
        .sum();
    let (tx, punt, drop) = (count("tx"), count("punt"), count("drop"));
    let expected = [
        ("rx", outcome.verdicts.len() as u64),
        ("tx", tx),
        ("punt", punt),
        ("drop", drop),
        ("held", 0),
        ("generated", frames_of_drops as u64),
        ("split", frames_of_tx as u64 - tx.min(frames_of_tx as u64)),
        ("frames_out", outcome.frames.len() as u64),
    ];
    let conservation = &outcome.report["conservation"];
    for (name, expected) in expected {
        if conservation[name].as_u64() != Some(expected) {
            faults.push(format!(
                "conservation {name} is {}, the lines say {expected}",
                conservation[name]
            ));
        }
    }
    if conservation["ok"] != Value::Bool(true) {
        faults.push(format!("not conserved: {conservation}"));
    }
    for (verdict, field) in [("drop", "drops"), ("punt", "punts")] {
        let mut by_reason: BTreeMap<&str, u64> = BTreeMap::new();
        for line in outcome.verdicts.iter().filter(|line| line.verdict == verdict) {
            *by_reason
                .entry(line.reason.as_deref().unwrap_or_default())
                .or_default() += 1;
        }
        let reported = outcome.report[field].as_object();
        let reported: BTreeMap<&str, u64> = reported
            .into_iter()
            .flatten()
            .map(|(reason, count)| (reason.as_str(), count.as_u64().unwrap_or(u64::MAX)))
            .filter(|(_, count)| *count != 0)
            .collect();
        if reported != by_reason {
            faults.push(format!("{field} are {reported:?}, the lines say {by_reason:?}"));
        }
    }
}

/// The frames that `line` caused.
pub fn frames_of<'a>(outcome: &'a Outcome, line: &Verdict) -> Vec<&'a Captured> {
    line.out
        .iter()
        .filter_map(|out| outcome.frames.get(out.frame.checked_sub(1)?))
        .collect()
}

fn contains(frame: &[u8], data: &[u8]) -> bool {
    frame.windows(data.len()).any(|window| window == data)
}
