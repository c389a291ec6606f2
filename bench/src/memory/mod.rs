//! `memory`: what this machine's caches and memory give, and so what a lookup can cost at best.

mod probe;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use fastpath::io::clock;
use flowtable::{Memory, Region};
use serde::Serialize;

use crate::random::Random;
use crate::slices::{Slices, clean};
use crate::usage::{Form, Usage};
use probe::{LINE_WORDS, Probe};

/// Arguments of `bench memory`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The largest working set, in MiB.
    #[arg(long, default_value_t = WORKING_SETS_KIB[WORKING_SETS_KIB.len() - 1] / 1024)]
    pub(crate) up_to: usize,
    /// How long each figure is measured.
    #[arg(long, default_value_t = 0.05)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// What one working set in pages of one kind costs, in ticks of the time stamp counter for each line of 64 bytes, medians.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pages: String,
    working_set_bytes: usize,
    /// A line whose address the line before told.
    dependent: f64,
    dependent_ns: f64,
    /// So many chains of such lines at once, ticks per line.
    chains: Vec<(usize, f64)>,
    /// So many lines at random asked for, then read; ticks per line.
    prefetched: Vec<(usize, f64)>,
    /// The same with a second line, whose address the first tells, asked for before any of them is read: ticks per pair. A
    /// lookup's memory, bucket and record, without its work.
    pairs: Vec<(usize, f64)>,
    /// Read in order, all words.
    gigabytes_per_second: f64,
    /// Cycles of the processor's clock in a tick, just then.
    clock_per_tick: f64,
    tsc_hz: u64,
}

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        if !(self.seconds > 0.0 && self.seconds <= 10.0) {
            return Err(Usage(format!(
                "--seconds {}: more than 0, at most 10",
                self.seconds
            )));
        }
        if !(1..=UP_TO_MAX_MIB).contains(&self.up_to) {
            return Err(Usage(format!(
                "--up-to {}: 1 to {UP_TO_MAX_MIB} MiB can be",
                self.up_to
            )));
        }
        Ok(())
    }

    /// Working sets in lines, smallest first.
    fn working_sets(&self) -> impl Iterator<Item = usize> {
        let most = self.up_to * 1024;
        let known = WORKING_SETS_KIB.into_iter().filter(move |kib| *kib < most);
        known.chain([most]).map(|kib| kib * 1024 / (LINE_WORDS * 8))
    }
}

/// Measures all working sets, in pages of 4 KiB and then in the largest that the machine gives.
pub(crate) fn run(args: &Args, mut print: impl FnMut(&Line) -> Result<()>) -> Result<()> {
    let tsc_hz = clock::tsc_hz(Duration::from_millis(50));
    for memory in [|| Memory::Small, || Memory::Anonymous] {
        let lines = args.working_sets().last().expect("one at least");
        let region = Region::create(memory(), lines * LINE_WORDS).context("taking the memory")?;
        for lines in args.working_sets() {
            let probe = Probe::over(
                &region.words()[..lines * LINE_WORDS],
                &mut Random::new(args.form.seed),
            );
            print(&measure(args, &probe, region.pages().to_string(), tsc_hz))?;
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "GHz and GB")]
fn measure(args: &Args, probe: &Probe<'_>, pages: String, tsc_hz: u64) -> Line {
    let ticks = |figure: &mut dyn FnMut() -> (u64, u64)| median(args.seconds, figure);
    let mut random = Random::new(args.form.seed + 1);
    // What a cache that takes others' leftovers (an L3) is to hold has to be read more than once.
    for _ in 0..PASSES {
        probe.in_order();
    }
    let dependent = ticks(&mut || probe.chains::<1>(&mut random));
    let chains = vec![
        (2, ticks(&mut || probe.chains::<2>(&mut random))),
        (4, ticks(&mut || probe.chains::<4>(&mut random))),
        (8, ticks(&mut || probe.chains::<8>(&mut random))),
        (16, ticks(&mut || probe.chains::<16>(&mut random))),
        (24, ticks(&mut || probe.chains::<24>(&mut random))),
        (32, ticks(&mut || probe.chains::<32>(&mut random))),
    ];
    let prefetched = BATCHES.map(|batch| (batch, ticks(&mut || probe.prefetched(batch, &mut random))));
    let pairs = BATCHES.map(|batch| (batch, ticks(&mut || probe.pairs(batch, &mut random))));
    let per_line = ticks(&mut || probe.in_order());
    let hz = tsc_hz as f64;
    Line {
        pages,
        working_set_bytes: probe.bytes(),
        dependent: tenth(dependent),
        dependent_ns: tenth(dependent / hz * 1e9),
        chains: chains
            .into_iter()
            .map(|(count, ticks)| (count, tenth(ticks)))
            .collect(),
        prefetched: prefetched.map(|(batch, ticks)| (batch, tenth(ticks))).to_vec(),
        pairs: pairs.map(|(batch, ticks)| (batch, tenth(ticks))).to_vec(),
        gigabytes_per_second: tenth((LINE_WORDS * 8) as f64 / per_line * hz / 1e9),
        clock_per_tick: (100.0 / ticks(&mut || probe::clock())).round() / 100.0,
        tsc_hz,
    }
}

/// The median of ticks per item over slices; `figure` gives items and ticks.
fn median(seconds: f64, figure: &mut dyn FnMut() -> (u64, u64)) -> f64 {
    let mut slices = Slices::default();
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    // The first brings the working set where it belongs.
    figure();
    while Instant::now() < end || slices.len() < SLICES_MIN {
        let mut items = 0;
        let took = clean(|| {
            let (done, ticks) = figure();
            items = done;
            ticks
        });
        slices.push(items, took);
    }
    slices.median()
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl Line {
    /// For people.
    #[expect(clippy::cast_precision_loss, reason = "GHz")]
    pub(crate) fn print(&self) {
        let list = |figures: &[(usize, f64)]| -> String {
            let each = figures.iter().map(|(count, ticks)| format!("{ticks} of {count}"));
            each.collect::<Vec<_>>().join(", ")
        };
        println!(
            "{} KiB in {}: {} ticks ({} ns) after one another\n  chains: {}\n  prefetched: {}\n  pairs: {}\n  \
             {} GB/s in order; {} cycles in a tick of {:.2} GHz",
            self.working_set_bytes / 1024,
            self.pages,
            self.dependent,
            self.dependent_ns,
            list(&self.chains),
            list(&self.prefetched),
            list(&self.pairs),
            self.gigabytes_per_second,
            self.clock_per_tick,
            self.tsc_hz as f64 / 1e9,
        );
    }
}

/// Within L1, L2, a share of L3, and beyond: among them what the flow table takes for 1k, 64k and 1M connections, and the most
/// that a machine of 4 GiB lends.
const WORKING_SETS_KIB: [usize; 8] = [
    16,
    150,
    768,
    10 * 1024,
    24 * 1024,
    150 * 1024,
    512 * 1024,
    1331 * 1024,
];
const UP_TO_MAX_MIB: usize = 64 * 1024;
/// Lines under way at once.
const BATCHES: [usize; 4] = [8, 16, 32, 64];
const PASSES: usize = 4;
const SLICES_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_is_measured_whole() {
        let args = Args {
            up_to: 1,
            seconds: 0.0001,
            form: Form { seed: 1, json: true },
        };
        let mut sets = Vec::new();
        run(&args, |line| {
            let figures = line.chains.iter().chain(&line.prefetched).chain(&line.pairs);
            assert!(
                figures.map(|(_, ticks)| *ticks).all(|ticks| ticks > 0.0),
                "{line:?}"
            );
            assert!(
                line.dependent > 0.0 && line.gigabytes_per_second > 0.0,
                "{line:?}"
            );
            sets.push(line.working_set_bytes / 1024);
            Ok(())
        })
        .expect("there is a MiB");
        assert_eq!(sets, [16, 150, 768, 1024, 16, 150, 768, 1024]);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        let args = |up_to, seconds| Args {
            up_to,
            seconds,
            form: Form { seed: 1, json: false },
        };
        assert!(args(1331, 0.05).refuse().is_ok());
        assert!(args(0, 0.05).refuse().is_err());
        assert!(args(1, 0.0).refuse().is_err());
    }
}
