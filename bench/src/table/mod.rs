//! `table`: the flow table alone, beside general-purpose maps that do the same.

mod contender;
mod maps;
mod ringway;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fastpath::io::clock;
use serde::Serialize;

use crate::random::Random;
use crate::slices::{Slices, clean};
use crate::usage::{Form, Usage, measurable, within};
use contender::{Contender, Hand, Key, keys_of, nobodys};

/// What is done to the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Op {
    /// Lookups of keys that are there, both directions of every connection.
    Hit,
    /// Lookups of keys that are not.
    Miss,
    /// Half and half, in random order.
    Mixed,
    /// The oldest connection removed, a new one inserted.
    Churn,
}

/// Who does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Implementation {
    /// The flow table of this repository.
    Ringway,
    /// `hashbrown::HashMap`, one thread.
    Hashbrown,
    /// `dashmap::DashMap`.
    Dashmap,
    /// `papaya::HashMap`.
    Papaya,
}

/// Arguments of `bench table`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// What is done.
    #[arg(long, value_enum)]
    pub(crate) op: Op,
    /// Connections in the table; each is found by two keys.
    #[arg(long, default_value_t = 64_000)]
    pub(crate) flows: u32,
    /// Keys looked up together.
    #[arg(long, default_value_t = 64)]
    pub(crate) batch: usize,
    /// Threads that do it at once.
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Whose table.
    #[arg(long = "impl", value_enum, default_value = "ringway")]
    pub(crate) implementation: Implementation,
    /// How long to measure.
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// The result of one run. An op is a lookup, or for churn a connection replaced.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    op: String,
    flows: u32,
    batch: usize,
    threads: usize,
    #[serde(rename = "impl")]
    implementation: String,
    cycles_per_op: f64,
    cycles_per_op_quartiles: [f64; 2],
    ns_per_op: f64,
    mops: f64,
    /// Where the implementation says it: what each has of its own, and its part of the index, which is 80 % full.
    bytes_per_connection: Option<f64>,
    slices: usize,
    slices_undisturbed: usize,
    tsc_hz: u64,
    /// Where the implementation says it.
    pages: Option<String>,
}

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        within("flows", self.flows, 1, FLOWS_MAX)?;
        within("batch", self.batch as u64, 1, BATCH_MAX)?;
        within(
            "threads",
            self.threads as u64,
            1,
            THREADS_MAX.min(self.flows.into()),
        )?;
        if self.implementation == Implementation::Hashbrown && self.threads > 1 {
            return Err(Usage(
                "--impl hashbrown is for one thread: give --threads 1, or dashmap or papaya".into(),
            ));
        }
        measurable(self.seconds)?;
        Ok(())
    }
}

/// Runs one combination.
pub(crate) fn run(args: &Args) -> Result<Line> {
    match args.implementation {
        Implementation::Ringway => contest::<ringway::Ringway>(args),
        Implementation::Hashbrown => contest::<maps::Hashbrown>(args),
        Implementation::Dashmap => contest::<maps::Dashmap>(args),
        Implementation::Papaya => contest::<maps::Papaya>(args),
    }
}

fn contest<C: Contender>(args: &Args) -> Result<Line> {
    // What is removed is free again two batches later.
    let spare = if args.op == Op::Churn {
        2 * args.batch * args.threads
    } else {
        0
    };
    let contender = C::create(args.flows + spare as u32, args.threads, args.form.seed)?;
    let barrier = Barrier::new(args.threads);
    let slices: Vec<Slices> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|thread| {
                let (contender, barrier) = (&contender, &barrier);
                scope.spawn(move || {
                    let mut hand = contender.hand(thread, args.threads);
                    work(args, &mut hand, thread, barrier)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("the thread does not panic"))
            .collect::<Result<_>>()
    })?;
    Ok(line(args, &slices, &contender))
}

/// The connections of one thread's share.
fn share(args: &Args, thread: usize) -> std::ops::Range<u32> {
    let edge = |thread: usize| (u64::from(args.flows) * thread as u64 / args.threads as u64) as u32;
    edge(thread)..edge(thread + 1)
}

fn work(args: &Args, hand: &mut impl Hand, thread: usize, barrier: &Barrier) -> Result<Slices> {
    let mine = share(args, thread);
    let filled = mine.clone().try_for_each(|number| hand.insert(number));
    // All are in before anyone looks; whoever failed must not keep the others waiting.
    barrier.wait();
    filled?;
    let mut random = Random::new(args.form.seed + 1 + thread as u64);
    let mut slices = Slices::default();
    let goes_on = |end: Instant, slices: &Slices| Instant::now() < end || slices.len() < SLICES_MIN;
    let time = Duration::from_secs_f64(args.seconds);
    if args.op == Op::Churn {
        let mut next = args.flows + thread as u32;
        // As many at once as a slice has, but no more than are there.
        let batch = args.batch.min(mine.len());
        let mut live: std::collections::VecDeque<u32> = mine.collect();
        let (mut old, mut new) = (Vec::with_capacity(batch), Vec::with_capacity(batch));
        let end = Instant::now() + time;
        while goes_on(end, &slices) {
            let mut failed = None;
            let mut replaced = 0;
            let took = clean(|| {
                let mut ticks = 0;
                while replaced < CHURN_SLICE && failed.is_none() {
                    old.extend(live.drain(..batch));
                    while new.len() < batch {
                        new.push(next);
                        next = next.wrapping_add(args.threads as u32);
                    }
                    let start = clock::tsc();
                    failed = hand.replace(&old, &new).err();
                    hand.pass();
                    ticks += clock::tsc() - start;
                    replaced += batch as u64;
                    live.extend(new.drain(..));
                    old.clear();
                }
                ticks
            });
            if let Some(error) = failed {
                return Err(error);
            }
            slices.push(replaced, took);
        }
        return Ok(slices);
    }
    let (keys, hits) = keys(args, &mut random);
    let mut batches = keys.chunks(args.batch).zip(&hits).cycle();
    // From here on: to put ten million keys in order takes longer than to measure.
    let end = Instant::now() + time;
    while goes_on(end, &slices) {
        let (mut looked_up, mut found, mut wanted) = (0, 0, 0);
        let took = clean(|| {
            let start = clock::tsc();
            while looked_up < LOOKUP_SLICE {
                let (batch, hits) = batches.next().expect("there are keys");
                found += hand.lookup(batch);
                hand.pass();
                looked_up += batch.len() as u64;
                wanted += hits;
            }
            clock::tsc() - start
        });
        ensure!(
            found == wanted,
            "{found} of {looked_up} keys were found, {wanted} are there"
        );
        slices.push(looked_up, took);
    }
    Ok(slices)
}

/// All keys, once each, in random order; and how many of each batch are there.
fn keys(args: &Args, random: &mut Random) -> (Vec<Key>, Vec<u64>) {
    let mut keys: Vec<(Key, bool)> = Vec::with_capacity(args.flows as usize * 2);
    for number in 0..args.flows {
        for (at, key) in keys_of(number).into_iter().enumerate() {
            let hit = match args.op {
                Op::Hit | Op::Churn => true,
                Op::Miss => false,
                Op::Mixed => (number as usize + at).is_multiple_of(2),
            };
            keys.push((if hit { key } else { nobodys(key) }, hit));
        }
    }
    random.shuffle(&mut keys);
    let hits = keys.chunks(args.batch);
    let hits = hits.map(|chunk| chunk.iter().filter(|(_, hit)| *hit).count() as u64);
    let hits = hits.collect();
    (keys.into_iter().map(|(key, _)| key).collect(), hits)
}

#[expect(clippy::cast_precision_loss, reason = "GHz, GiB and a few threads")]
fn line<C: Contender>(args: &Args, slices: &[Slices], contender: &C) -> Line {
    use clap::ValueEnum;
    let name = |value: Option<clap::builder::PossibleValue>| {
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    };
    let tsc_hz = clock::tsc_hz(Duration::from_millis(50));
    let hz = tsc_hz as f64;
    let tenth = |value: f64| (value * 10.0).round() / 10.0;
    let mean =
        |part: f64| slices.iter().map(|slices| slices.quantile(part)).sum::<f64>() / slices.len() as f64;
    let mops: f64 = slices.iter().map(|slices| hz / slices.median() / 1e6).sum();
    Line {
        op: name(args.op.to_possible_value()),
        flows: args.flows,
        batch: args.batch,
        threads: args.threads,
        implementation: name(args.implementation.to_possible_value()),
        cycles_per_op: tenth(mean(0.5)),
        cycles_per_op_quartiles: [tenth(mean(0.25)), tenth(mean(0.75))],
        ns_per_op: tenth(mean(0.5) / hz * 1e9),
        mops: (mops * 1000.0).round() / 1000.0,
        bytes_per_connection: contender.bytes_per_connection(args.flows).map(tenth),
        slices: slices.iter().map(Slices::len).sum(),
        slices_undisturbed: slices.iter().map(Slices::clean).sum(),
        tsc_hz,
        pages: contender.pages(),
    }
}

const LOOKUP_SLICE: u64 = 8192;
const CHURN_SLICE: u64 = 4096;
const SLICES_MIN: usize = 5;
const FLOWS_MAX: u64 = 1 << 28;
const BATCH_MAX: u64 = 1 << 16;
const THREADS_MAX: u64 = 64;

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    /// `work` fails unless exactly the keys that are there are found, and unless what is removed was there.
    #[test]
    fn every_table_finds_what_is_there_and_nothing_else() {
        for implementation in Implementation::value_variants() {
            for op in Op::value_variants() {
                for threads in [1, 2] {
                    let args = Args {
                        op: *op,
                        flows: 3000,
                        batch: 50,
                        threads,
                        implementation: *implementation,
                        seconds: 1e-6,
                        form: Form { seed: 1, json: true },
                    };
                    if args.refuse().is_err() {
                        assert_eq!((*implementation, threads), (Implementation::Hashbrown, 2));
                        continue;
                    }
                    let line = run(&args).unwrap_or_else(|error| panic!("{args:?}: {error:#}"));
                    assert!(line.slices >= SLICES_MIN * threads, "{args:?}");
                }
            }
        }
    }

    #[test]
    fn both_directions_of_all_connections_have_keys_of_their_own() {
        let keys: std::collections::HashSet<Key> = (0..100_000).flat_map(keys_of).collect();
        assert_eq!(keys.len(), 200_000);
        assert!(
            (0..1000)
                .flat_map(keys_of)
                .all(|key| !keys.contains(&nobodys(key)))
        );
    }
}
