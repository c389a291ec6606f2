//! `policy`: what policy says of new flows, alone: [`PolicyBatch`] over many rules of one endpoint, as the short way asks it for a
//! run of opening packets; or [`Snapshot::judge`], which is for one flow at a time.

mod rules;

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contract::valid::ValidState;
use fastpath::compile;
use fastpath::io::clock;
use fastpath::snapshot::{Attachment, Decision, Direction, PolicyBatch, PolicyQuery, Snapshot};
use fastpath::underlay::Underlay;
use serde::Serialize;

use crate::random::Random;
use crate::slices::{Slices, clean};
use crate::usage::{Form, Usage, measurable, within};
use rules::{ENDPOINT, PORT, Peers, Rule, Tuple, linear};

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Implementation {
    /// The compiled snapshot, as the pipeline asks it for a flow's first packet.
    Ringway,
}

/// Arguments of `bench policy`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Rules that govern the endpoint.
    #[arg(long, default_value_t = 1000)]
    rules: u32,
    /// How the rules name their peers.
    #[arg(long, value_enum, default_value = "blocks")]
    peers: Peers,
    /// Policies that they are spread over.
    #[arg(long, default_value_t = 1)]
    policies: u32,
    /// Different tuples that are judged in turn.
    #[arg(long, default_value_t = 65_536)]
    tuples: u32,
    /// Tuples that are judged together, as those of a run of opening packets; 1: each alone, as a flow that is decided again.
    #[arg(long, default_value_t = BATCH_MAX)]
    batch: u32,
    /// Who judges.
    #[arg(long = "impl", value_enum, default_value = "ringway")]
    implementation: Implementation,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(flatten)]
    pub(crate) form: Form,
    /// Write rules, tuples and what was said of each, for a peer to judge too.
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
}

/// The result of one run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    rules: u32,
    policies: u32,
    tuples: u32,
    batch: u32,
    /// Of the tuples, those that a rule matches; for the others the default denies.
    matched: usize,
    /// Of the tuples, those that the linear reference judged too.
    checked: usize,
    #[serde(rename = "impl")]
    implementation: &'static str,
    cycles_per_verdict: f64,
    cycles_per_verdict_quartiles: [f64; 2],
    ns_per_verdict: f64,
    /// Compiling the state.
    build_ms: f64,
    /// Of the structure that finds rules; the rules themselves and what is told of them come on top.
    index_bytes_per_rule: f64,
    slices: usize,
    slices_undisturbed: usize,
    tsc_hz: u64,
}

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        within("rules", self.rules, 1, RULES_MAX)?;
        within("policies", self.policies, 1, self.rules.min(POLICIES_MAX))?;
        within("tuples", self.tuples, 1, TUPLES_MAX)?;
        within("batch", self.batch, 1, BATCH_MAX)?;
        measurable(self.seconds)?;
        if self.dump.is_some() && self.peers == Peers::Excepts {
            return Err(Usage("--dump: a dump's rules have no exceptions".into()));
        }
        Ok(())
    }
}

/// Compiles, checks, measures.
pub(crate) fn run(args: &Args) -> Result<Line> {
    let mut random = Random::new(args.form.seed);
    let rules = rules::rules(args.rules, args.peers, &mut random);
    let tuples = rules::tuples(args.tuples, &rules, &mut random);
    let state =
        ValidState::try_from(rules::state(&rules, args.policies as usize)).context("the bench's state")?;
    let started = Instant::now();
    let snapshot = compile::compile(&state, &Underlay::default())
        .context("the bench's state")?
        .snapshot;
    let build_ms = started.elapsed().as_secs_f64() * 1e3;
    drop(state);

    let queries: Vec<PolicyQuery> = tuples.iter().copied().map(query).collect();
    let said = judge_all(&snapshot, &queries)?;
    let checked = check(&rules, &tuples, &said)?;
    if let Some(file) = &args.dump {
        dump(file, &rules, &tuples, &said).with_context(|| file.display().to_string())?;
    }
    let slices = measure(args, &snapshot, &queries)?;
    let bytes = snapshot.policy_index_bytes();
    Ok(line(args, &slices, &said, checked, build_ms, bytes))
}

fn query(tuple: Tuple) -> PolicyQuery {
    PolicyQuery {
        src: IpAddr::V4(Ipv4Addr::from(tuple.peer)),
        dst: IpAddr::V4(ENDPOINT),
        protocol: tuple.protocol,
        dst_port: tuple.port,
        direction: Direction::Ingress,
    }
}

/// What is said of each: allowed or not, and the number of the rule that decided; `None` for the default deny.
type Said = Vec<(bool, Option<u32>)>;

fn judge_all(snapshot: &Snapshot, queries: &[PolicyQuery]) -> Result<Said> {
    let attachment = &snapshot
        .port_by_name(PORT)
        .context("the endpoint's port")?
        .ingress;
    let number = |decision: Decision| {
        let id = decision.rule.context("policy selects the endpoint")?;
        let origin = snapshot.rule_origin(id).context("the rule is known")?;
        Ok((decision.allow, origin.rule))
    };
    queries
        .iter()
        .map(|query| number(snapshot.judge(attachment, query)))
        .collect()
}

/// Compares a sample with the linear reference. Returns how many.
fn check(rules: &[Rule], tuples: &[Tuple], said: &Said) -> Result<usize> {
    let step = tuples.len().div_ceil(CHECKED);
    let mut checked = 0;
    for (tuple, said) in tuples.iter().zip(said).step_by(step) {
        let rule = linear(rules, *tuple);
        let expected = (rule.is_some_and(|rule| rules[rule as usize].allow), rule);
        ensure!(
            *said == expected,
            "{tuple:?}: {said:?} was said, by asking each rule it is {expected:?}"
        );
        checked += 1;
    }
    Ok(checked)
}

/// Lines `rule ADDRESS LENGTH PROTOCOL FIRST LAST` (protocol 0: every one) and `tuple PEER PROTOCOL PORT RULE`, the rule
/// counted from 1, 0 for none; addresses are numbers.
fn dump(file: &Path, rules: &[Rule], tuples: &[Tuple], said: &Said) -> Result<()> {
    let mut text = format!("{} {}\n", rules.len(), tuples.len());
    for rule in rules {
        let protocol = rule.protocol.unwrap_or_default();
        writeln!(
            text,
            "rule {} {} {protocol} {} {}",
            rule.address, rule.length, rule.first, rule.last
        )?;
    }
    for (tuple, (_, rule)) in tuples.iter().zip(said) {
        let rule = rule.map_or(0, |rule| rule + 1);
        writeln!(
            text,
            "tuple {} {} {} {rule}",
            tuple.peer, tuple.protocol, tuple.port
        )?;
    }
    Ok(std::fs::write(file, text)?)
}

fn measure(args: &Args, snapshot: &Snapshot, queries: &[PolicyQuery]) -> Result<Slices> {
    let attachment = &snapshot
        .port_by_name(PORT)
        .context("the endpoint's port")?
        .ingress;
    // A number for each decision, so that each slice can be checked by its sum.
    let worth = |decision: Decision| {
        let rule = decision.rule.map_or(0, |rule| u64::from(rule.0) + 1);
        rule << 1 | u64::from(decision.allow)
    };
    let alone = |queries: &[PolicyQuery]| -> u64 {
        let decisions = queries.iter().map(|query| snapshot.judge(attachment, query));
        decisions.map(worth).sum()
    };
    let expected: Vec<u64> = queries.chunks(SLICE).map(alone).collect();
    let judge = |queries: &[PolicyQuery]| match args.batch {
        1 => alone(queries),
        batch => queries
            .chunks(batch as usize)
            .map(|run| together(snapshot, attachment, run, worth))
            .sum(),
    };
    let mut slices = Slices::default();
    let end = Instant::now() + Duration::from_secs_f64(args.seconds);
    while Instant::now() < end || slices.len() < SLICES_MIN {
        for (queries, expected) in queries.chunks(SLICE).zip(&expected) {
            let mut sum = 0;
            let took = clean(|| {
                let start = clock::tsc();
                sum = judge(queries);
                clock::tsc() - start
            });
            ensure!(sum == *expected, "the same tuples were judged differently");
            slices.push(queries.len() as u64, took);
        }
    }
    Ok(slices)
}

/// What a run of queries is worth, asked as the short way asks for opening packets.
fn together(
    snapshot: &Snapshot,
    attachment: &Attachment,
    run: &[PolicyQuery],
    worth: impl Fn(Decision) -> u64,
) -> u64 {
    let mut batch = PolicyBatch::new(snapshot);
    for query in run {
        if let Some(decision) = batch.ask(attachment, query) {
            batch.put(decision);
        }
    }
    batch.judge().iter().map(|decision| worth(*decision)).sum()
}

#[expect(clippy::cast_precision_loss, reason = "GHz")]
fn line(args: &Args, slices: &Slices, said: &Said, checked: usize, build_ms: f64, bytes: usize) -> Line {
    let tsc_hz = clock::tsc_hz(Duration::from_millis(50));
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    let Implementation::Ringway = args.implementation;
    Line {
        rules: args.rules,
        policies: args.policies,
        tuples: args.tuples,
        batch: args.batch,
        matched: said.iter().filter(|(_, rule)| rule.is_some()).count(),
        checked,
        implementation: "ringway",
        cycles_per_verdict: tenth(slices.median()),
        cycles_per_verdict_quartiles: [tenth(slices.quantile(0.25)), tenth(slices.quantile(0.75))],
        ns_per_verdict: tenth(slices.median() / tsc_hz as f64 * 1e9),
        build_ms: tenth(build_ms),
        index_bytes_per_rule: tenth(bytes as f64 / f64::from(args.rules)),
        slices: slices.len(),
        slices_undisturbed: slices.clean(),
        tsc_hz,
    }
}

/// Verdicts in a slice.
const SLICE: usize = 2048;
const SLICES_MIN: usize = 5;
/// Tuples that the linear reference judges: it asks each rule.
const CHECKED: usize = 4096;
const BATCH_MAX: u32 = PolicyBatch::MAX as u32;
const RULES_MAX: u32 = 1 << 20;
const POLICIES_MAX: u32 = 1 << 16;
const TUPLES_MAX: u32 = 1 << 24;

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rules: u32, policies: u32) -> Args {
        Args {
            rules,
            policies,
            peers: Peers::Blocks,
            tuples: 4096,
            batch: BATCH_MAX,
            implementation: Implementation::Ringway,
            seconds: 1e-6,
            form: Form { seed: 7, json: true },
            dump: None,
        }
    }

    /// `run` fails unless what is said is what asking each rule says, here of every tuple.
    #[test]
    fn what_is_said_is_what_asking_each_rule_says() {
        for (rules, policies) in [(1, 1), (7, 1), (300, 1), (2000, 1), (2000, 9)] {
            let args = args(rules, policies);
            let line = run(&args).unwrap_or_else(|error| panic!("{args:?}: {error:#}"));
            assert_eq!(line.checked, 4096);
            let part = line.matched as f64 / 4096.0;
            assert!(
                (0.7..0.95).contains(&part),
                "{args:?}: {part} of the tuples match"
            );
        }
    }

    #[test]
    fn so_it_is_however_peers_are_named_and_whoever_is_asked_with_them() {
        for peers in [Peers::Blocks, Peers::Excepts, Peers::Sets] {
            for batch in [1, 7, BATCH_MAX] {
                let line = run(&Args {
                    peers,
                    batch,
                    ..args(100, 2)
                })
                .unwrap();
                assert_eq!(line.checked, 4096, "{peers:?}, {batch} together");
            }
        }
    }

    #[test]
    fn most_rules_decide_something() {
        let mut random = Random::new(1);
        let rules = rules::rules(1000, Peers::Blocks, &mut random);
        let tuples = rules::tuples(8000, &rules, &mut random);
        let deciding: std::collections::HashSet<u32> =
            tuples.iter().filter_map(|tuple| linear(&rules, *tuple)).collect();
        assert!(deciding.len() > 900, "{} of 1000", deciding.len());
    }

    #[test]
    fn a_dump_has_every_rule_and_tuple() {
        let folder = std::env::temp_dir().join(format!("bench-policy-{}", std::process::id()));
        let args = Args {
            dump: Some(folder.clone()),
            ..args(50, 1)
        };
        run(&args).unwrap();
        let text = std::fs::read_to_string(&folder).unwrap();
        std::fs::remove_file(&folder).unwrap();
        let count = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
        assert_eq!((count("50 4096"), count("rule "), count("tuple ")), (1, 50, 4096));
    }
}
