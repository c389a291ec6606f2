//! `updates`: what changes of the cluster cost the packets that are forwarded meanwhile, and how soon they count.

mod feed;
mod pool;
mod port;
mod report;
mod rig;
mod stage;
mod world;

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use contract::valid::ValidState;
use fastpath::compile;
use fastpath::counters::Counters;
use fastpath::io::clock;
use fastpath::shared::{Shared, SharedConfig};
use fastpath::snapshot::Snapshot;
use hdrhistogram::Histogram;

use crate::slices;
use crate::usage::{Form, Usage, measurable, within};
use feed::{Costs, Feed};
pub(crate) use report::Line;
use rig::{Rig, Seen};
use stage::{Kind, Stage};
use world::{Map, Truth, World};

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Event {
    /// Backends are replaced, one after another.
    Endpoint,
    /// A label of one client pod, so that another policy selects it: all its flows are decided again.
    Label,
}

/// Arguments of `bench updates`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  cargo run --release -p bench -- updates --services 50000 --flows 1000000 --changes-per-second 1000 --json")]
pub(crate) struct Args {
    /// Service ports with three backends each, on 250 other nodes; half TCP, half UDP.
    #[arg(long, default_value_t = 50_000)]
    pub(crate) services: u32,
    /// Flows, all workers together, spread evenly over Services and clients.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) flows: u32,
    /// Backends that are replaced in a second.
    #[arg(long, default_value_t = 1000)]
    pub(crate) changes_per_second: u32,
    /// What changes; label: one change at a time.
    #[arg(long, value_enum, default_value = "endpoint")]
    pub(crate) event: Event,
    /// The clients' policy names the backends by an IP set, which changes with them; otherwise it allows any address. All
    /// Services are UDP then: a connection to a pod that left the set is denied.
    #[arg(long)]
    pub(crate) by_set: bool,
    /// How often the whole state comes once more.
    #[arg(long, default_value_t = 5)]
    pub(crate) resyncs: u16,
    /// After each of these a rehearsal, whose snapshot is thrown away, and then as long a time in which the other thread only
    /// counts: what is lost to publication, to memory and caches, and to a busy second processor.
    #[arg(long)]
    pub(crate) controls: bool,
    /// Pods that the packets come from.
    #[arg(long, default_value_t = 10)]
    pub(crate) clients: u16,
    /// Workers, each with its own queues and its share of the flows.
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: usize,
    /// How long to measure, half of it with changes.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    #[command(flatten)]
    pub(crate) form: Form,
}

impl Args {
    /// What can't be run, in one line.
    pub(crate) fn refuse(&self) -> std::result::Result<(), Usage> {
        within("workers", self.workers as u64, 1, 16u64)?;
        within("clients", self.clients, 1, CLIENTS_MAX)?;
        within("services", self.services, 1, world::SERVICES_MAX)?;
        let flows_max = self.map().flows_max().min(FLOWS_MAX);
        within("flows", self.flows, self.workers as u64, flows_max)?;
        within("changes-per-second", self.changes_per_second, 1, 1_000_000u64)?;
        measurable(self.seconds)?;
        Ok(())
    }

    fn map(&self) -> Map {
        Map {
            services: self.services,
            clients: self.clients,
            by_set: self.by_set,
        }
    }

    /// Quiet phases and others in turns, the resyncs spread among them, a quiet one at both ends.
    fn phases(&self) -> Vec<Kind> {
        #[expect(clippy::cast_sign_loss, reason = "seconds are positive")]
        let pairs = (self.seconds / (2.0 * PHASE.as_secs_f64())).ceil().max(2.0) as usize;
        let resyncs = match self.event {
            Event::Endpoint => usize::from(self.resyncs),
            Event::Label => 0,
        };
        let resync: &[Kind] = if self.controls {
            &[Kind::Resync, Kind::Rehearsal, Kind::Spin]
        } else {
            &[Kind::Resync]
        };
        let mut phases = vec![Kind::Quiet];
        for pair in 0..pairs {
            for _ in resyncs * pair / pairs..resyncs * (pair + 1) / pairs {
                phases.extend(resync.iter().flat_map(|kind| [*kind, Kind::Quiet]));
            }
            let kind = match self.event {
                Event::Endpoint => Kind::Changes,
                Event::Label => Kind::Label,
            };
            phases.extend([kind, Kind::Quiet]);
        }
        phases
    }
}

/// What one worker measured in one phase.
#[derive(Clone, Debug)]
struct Measured {
    /// Of undisturbed slices.
    packets: u64,
    ticks: u64,
    slices: u64,
    disturbed: u64,
    /// Of each batch of undisturbed slices, ticks.
    batches: Histogram<u64>,
    /// Of all slices.
    all_ticks: u64,
    redecisions: u64,
    put_off: u64,
    created: u64,
}

/// What one worker measured in all.
struct Work {
    phases: Vec<Measured>,
    seen: Seen,
}

/// Runs it.
pub(crate) fn run(args: &Args) -> Result<Line> {
    let map = args.map();
    let truth = Truth::new(map);
    let world = World::new(map);
    // Datagram flows that moved leave room for themselves when their entry is decided again.
    let connections = args.flows + args.flows / 2 + 8192;
    let valid = ValidState::try_from(world.state(connections)).context("the bench's state")?;
    let snapshot = compile::compile(&valid, &world::underlay())
        .context("the bench's state")?
        .snapshot;
    drop(valid);
    let config = SharedConfig {
        seats: args.workers,
        connections_v4: connections,
        connections_v6: 64,
        seed: u128::from(args.form.seed),
    };
    let snapshot = Arc::new(snapshot);
    let shared = Shared::new(&config, Arc::clone(&snapshot))?;
    let stage = Stage::new(args.phases());
    let counters: Mutex<Vec<Arc<Counters>>> = Mutex::default();
    let barrier = Barrier::new(args.workers + 1);
    let (works, costs) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.workers)
            .map(|seat| {
                let (shared, snapshot) = (Arc::clone(&shared), Arc::clone(&snapshot));
                let (counters, barrier, stage, truth) = (&counters, &barrier, &stage, &truth);
                scope.spawn(move || {
                    let rig = prepare(args, &shared, &snapshot, seat);
                    drop(snapshot);
                    match &rig {
                        Ok(rig) => lock(counters).push(Arc::clone(rig.counters())),
                        Err(_) => stage.fail(),
                    }
                    barrier.wait();
                    let done = rig.and_then(|rig| work(rig, stage, truth));
                    if done.is_err() {
                        stage.fail();
                    }
                    done
                })
            })
            .collect();
        barrier.wait();
        let feed = Feed {
            shared: Arc::clone(&shared),
            snapshot,
            world,
            truth: &truth,
            stage: &stage,
            counters: lock(&counters).clone(),
            changes_per_second: args.changes_per_second,
            connections,
            flows_of_client: u64::from(args.flows) / u64::from(args.clients),
            costs: Costs::new(),
        };
        let feed = scope.spawn(|| {
            let done = feed.run();
            if done.is_err() {
                stage.fail();
            }
            done
        });
        conduct(&stage);
        let works: Result<Vec<Work>> = workers
            .into_iter()
            .map(|thread| thread.join().expect("the worker does not panic"))
            .collect();
        (works, feed.join().expect("the feed does not panic"))
    });
    Ok(Line::of(args, &stage.phases, &works?, &costs?))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics while it holds this")
}

/// Leads through the phases.
fn conduct(stage: &Stage) {
    let mut events = 0;
    for (phase, kind) in stage.phases.iter().enumerate() {
        let settles = matches!(kind, Kind::Quiet | Kind::Changes);
        // What happens once begins to count when it begins.
        stage.enter(phase, false);
        if settles {
            std::thread::sleep(SETTLE);
            stage.enter(phase, true);
            std::thread::sleep(PHASE);
        } else {
            events += 1;
            while stage.events_done() < events && !stage.has_failed() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        if stage.has_failed() {
            break;
        }
    }
    stage.end();
}

/// A worker with its share of the flows established.
fn prepare(args: &Args, shared: &Arc<Shared>, snapshot: &Snapshot, seat: usize) -> Result<Rig> {
    let mut rig = Rig::new(args.map(), shared, snapshot, seat, args.workers)?;
    let share = |seat: usize| (u64::from(args.flows) * seat as u64 / args.workers as u64) as u32;
    rig.establish(share(seat)..share(seat + 1), args.form.seed + seat as u64)?;
    Ok(rig)
}

/// Slice after slice, to the last phase; what left is looked at between them.
fn work(mut rig: Rig, stage: &Stage, truth: &Truth) -> Result<Work> {
    let mut phases = Vec::new();
    for _ in &stage.phases {
        phases.push(Measured::new()?);
    }
    let counters = Arc::clone(rig.counters());
    let counts = || {
        [
            counters.redecisions.get(),
            counters.redecisions_put_off.get(),
            counters.flows_created.get(),
        ]
    };
    let mut batches = Vec::with_capacity(SLICE_PACKETS as usize);
    while let Some((moment, _)) = stage.now() {
        let since = truth.settled();
        batches.clear();
        let before = counts();
        let mut packets = 0;
        let took = slices::clean(|| {
            let (sent, ticks) = rig.slice(SLICE_PACKETS, &mut batches);
            packets = sent;
            ticks
        });
        let after = counts();
        if moment.counts() && stage.now().is_some_and(|(now, _)| now == moment) {
            let [redecisions, put_off, created] = [0, 1, 2].map(|at| after[at] - before[at]);
            let measured = &mut phases[moment.phase()];
            measured.all_ticks += took.ticks();
            measured.redecisions += redecisions;
            measured.put_off += put_off;
            measured.created += created;
            if took.is_clean() {
                measured.slices += 1;
                measured.packets += packets;
                measured.ticks += took.ticks();
                for ticks in &batches {
                    measured.batches.saturating_record((*ticks).into());
                }
            } else {
                measured.disturbed += 1;
            }
        }
        rig.check(truth, since, after[1] - before[1])?;
    }
    if stage.has_failed() {
        bail!("another thread could not go on");
    }
    Ok(Work {
        phases,
        seen: rig.seen,
    })
}

impl Measured {
    fn new() -> Result<Self> {
        Ok(Self {
            packets: 0,
            ticks: 0,
            slices: 0,
            disturbed: 0,
            batches: Histogram::new_with_max(TIME_MAX, 3)?,
            all_ticks: 0,
            redecisions: 0,
            put_off: 0,
            created: 0,
        })
    }
}

fn tsc_hz() -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "some GHz")]
    let hz = clock::tsc_hz(Duration::from_millis(50)) as f64;
    hz
}

/// How long a phase counts, and what it is given before that: every flow has its turn once and has met what changed.
const PHASE: Duration = Duration::from_millis(300);
const SETTLE: Duration = Duration::from_millis(400);
/// Some 0.4 ms.
const SLICE_PACKETS: u64 = 4096;
/// The longest that is told apart, nanoseconds or ticks.
const TIME_MAX: u64 = 1 << 40;
const CLIENTS_MAX: u64 = 200;
const FLOWS_MAX: u64 = 50_000_000;

#[cfg(test)]
mod tests;
