//! The pipeline with other packets than 64 bytes from one pod to one worker: mixes, ports, workers, IPv6, attacks.

use std::collections::HashMap;
use std::path::Path;

use super::compare::{Plan, progress};
use super::pipeline::{Line, measure};
use super::row::{Outcome, Row};

/// One row.
struct Workload {
    name: &'static str,
    /// Arguments of `bench core`.
    of: &'static str,
    figure: Figure,
    goal: Option<f64>,
}

/// What of the run is the row's, and what it is held against.
#[derive(Clone, Copy, Debug)]
enum Figure {
    /// Cycles per packet.
    Cycles,
    /// As many times the cycles of this run.
    Times(&'static str),
    /// So many cycles more than this run.
    More(&'static str),
    /// As many times the packets per second of this run.
    Faster(&'static str),
}

const fn cycles(name: &'static str, of: &'static str, goal: Option<f64>) -> Workload {
    Workload {
        name,
        of,
        figure: Figure::Cycles,
        goal,
    }
}

const fn against(name: &'static str, of: &'static str, figure: Figure, goal: f64) -> Workload {
    Workload {
        name,
        of,
        figure,
        goal: Some(goal),
    }
}

/// What all are held against.
const PLAIN: &str = "--case service-vxlan";
const LONG: &str = "--case service-vxlan --frame 1500";
/// What no attacker may make a packet cost: as much as a new flow.
const DEAREST: Option<f64> = Some(800.0);
/// What a packet may cost that is thrown away before anything is looked up.
const THROWN_AWAY: Option<f64> = Some(250.0);

const WORKLOADS: &[Workload] = &[
    cycles(
        "service-vxlan, Zipf 1.1",
        "--case service-vxlan --dist zipf",
        Some(115.0),
    ),
    against(
        "service-vxlan, IMIX to 64 bytes",
        "--case service-vxlan --frame imix",
        Figure::Times(PLAIN),
        1.05,
    ),
    against(
        "service-vxlan, 1500 bytes to 64",
        LONG,
        Figure::Times(PLAIN),
        1.05,
    ),
    against(
        "service-vxlan, 1500 bytes, partial checksums, cycles more",
        "--case service-vxlan --frame 1500 --checksum partial",
        Figure::More(LONG),
        100.0,
    ),
    against(
        "service-vxlan, 110 ports to one",
        "--case service-vxlan --ports 110",
        Figure::Times(PLAIN),
        1.2,
    ),
    against(
        "service-vxlan, packets of two workers to one's",
        "--case service-vxlan --workers 2",
        Figure::Faster(PLAIN),
        1.9,
    ),
    cycles("forward, IPv6", "--case forward --family 6", None),
    cycles("policy, IPv6", "--case policy --family 6", None),
    cycles("service, IPv6", "--case service --family 6", None),
    cycles("service-vxlan, IPv6", "--case service-vxlan --family 6", None),
    against(
        "attack: colliding keys, secret known, to other keys",
        "--case service --attack colliding",
        Figure::Times("--case service"),
        2.0,
    ),
    against(
        "attack: colliding keys, secret guessed, to other keys",
        "--case service --attack guessed",
        Figure::Times("--case service"),
        1.05,
    ),
    cycles(
        "attack: no flow, reset answered",
        "--case service --attack no-flow",
        DEAREST,
    ),
    cycles(
        "attack: denied by policy",
        "--case policy --attack denied",
        DEAREST,
    ),
    cycles(
        "attack: spoofed source",
        "--case policy --attack spoofed",
        THROWN_AWAY,
    ),
    cycles(
        "attack: malformed",
        "--case policy --attack malformed",
        THROWN_AWAY,
    ),
    cycles(
        "attack: first fragments",
        "--case service --attack first-fragments",
        DEAREST,
    ),
    cycles(
        "attack: orphan fragments",
        "--case service --attack orphans",
        THROWN_AWAY,
    ),
];

/// Flows of all.
const FLOWS: u32 = 64_000;

/// Runs all of them and what they are held against, in turns.
pub(super) fn run(plan: &Plan, program: &Path, outcome: &mut Outcome) -> anyhow::Result<()> {
    let mut figures = vec![Vec::new(); WORKLOADS.len()];
    for round in 0..plan.rounds(FLOWS) {
        // A round's pairs share what they are held against.
        let mut lines: HashMap<&str, Line> = HashMap::new();
        for step in 0..WORKLOADS.len() {
            plan.interrupt.check()?;
            let at = (round + step) % WORKLOADS.len();
            let workload = &WORKLOADS[at];
            for arguments in [Some(workload.of), workload.figure.base()].into_iter().flatten() {
                if lines.contains_key(arguments) {
                    continue;
                }
                match measure(program, arguments, FLOWS, plan) {
                    Ok(line) => {
                        lines.insert(arguments, line);
                    }
                    Err(why) => outcome.fail(format!("pipeline {arguments}, {FLOWS} flows: {why:#}")),
                }
            }
            if let Some(figure) = workload.figure.of(&lines, workload.of) {
                progress(&format!("pipeline {}: {figure:.2}", workload.name));
                figures[at].push(figure);
            }
        }
    }
    for (workload, figures) in WORKLOADS.iter().zip(&figures) {
        if figures.is_empty() {
            continue;
        }
        let unit = workload.figure.unit();
        let mut row = Row::of("pipeline", workload.name, FLOWS, "ringway", unit, figures);
        row.goal = workload.goal;
        outcome.rows.push(row);
    }
    Ok(())
}

impl Figure {
    /// The run that it is held against.
    const fn base(self) -> Option<&'static str> {
        match self {
            Self::Cycles => None,
            Self::Times(base) | Self::More(base) | Self::Faster(base) => Some(base),
        }
    }

    const fn unit(self) -> &'static str {
        match self {
            Self::Cycles | Self::More(_) => "cycles per packet",
            Self::Times(_) | Self::Faster(_) => "ratio",
        }
    }

    /// The figure of the run of `arguments`; none when one of the two is missing.
    fn of(self, lines: &HashMap<&str, Line>, arguments: &str) -> Option<f64> {
        let line = lines.get(arguments)?;
        let base = self.base().map(|base| lines.get(base));
        let figure = match (self, base) {
            (Self::Cycles, _) => line.cycles_per_packet,
            (Self::Times(_), Some(base)) => line.cycles_per_packet / base?.cycles_per_packet,
            (Self::More(_), Some(base)) => line.cycles_per_packet - base?.cycles_per_packet,
            (Self::Faster(_), Some(base)) => line.mpps / base?.mpps,
            (_, None) => return None,
        };
        Some(figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_run_and_what_it_is_held_against() {
        let line = |cycles_per_packet, mpps| Line {
            cycles_per_packet,
            mpps,
        };
        let lines = HashMap::from([("a", line(120.0, 40.0)), ("b", line(80.0, 20.0))]);
        assert_eq!(Figure::Cycles.of(&lines, "a"), Some(120.0));
        assert_eq!(Figure::Times("b").of(&lines, "a"), Some(1.5));
        assert_eq!(Figure::More("b").of(&lines, "a"), Some(40.0));
        assert_eq!(Figure::Faster("b").of(&lines, "a"), Some(2.0));
        assert_eq!(Figure::Times("c").of(&lines, "a"), None);
        assert_eq!(Figure::Cycles.of(&lines, "c"), None);
    }

    #[test]
    fn every_row_has_a_name_of_its_own() {
        let mut names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), WORKLOADS.len());
    }
}
