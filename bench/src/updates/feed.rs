//! Feed: what the config thread does with a message of control's, and how long each part takes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use contract::frame::{Decoder, encode};
use contract::proto::{ToFastpath, to_fastpath::Body};
use contract::valid::{ValidDelta, ValidState};
use fastpath::compile::{self, Compiled};
use fastpath::counters::Counters;
use fastpath::shared::Shared;
use fastpath::snapshot::Snapshot;
use hdrhistogram::Histogram;

use super::TIME_MAX;
use super::stage::{Kind, Stage};
use super::world::{Truth, World};

/// The thread beside the workers.
pub(super) struct Feed<'r> {
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) world: World,
    pub(super) truth: &'r Truth,
    pub(super) stage: &'r Stage,
    pub(super) counters: Vec<Arc<Counters>>,
    pub(super) changes_per_second: u32,
    pub(super) connections: u32,
    /// Flows that a label's change touches.
    pub(super) flows_of_client: u64,
    pub(super) costs: Costs,
}

/// How long parts took, nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Costs {
    /// From the bytes of an event until every worker uses the snapshot and what it touched is outdated.
    pub(super) event: Histogram<u64>,
    /// Of that: bytes to a snapshot.
    pub(super) compile: Histogram<u64>,
    /// Of that: putting it in place, and freeing older ones.
    pub(super) publish: Histogram<u64>,
    pub(super) changes: u64,
    /// Changes that came more than a millisecond after their time.
    pub(super) behind: u64,
    pub(super) resyncs: Vec<Resync>,
    pub(super) labels: Vec<Label>,
}

/// One resync.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Resync {
    /// From the message until every worker uses the snapshot.
    pub(super) ms: f64,
    /// Of that: bytes to a message, and the message to objects that hold by themselves.
    pub(super) decode_ms: f64,
    pub(super) check_ms: f64,
    /// Of that: objects to a snapshot.
    pub(super) compile_ms: f64,
    /// Of that, from publication on, microseconds.
    pub(super) visible_us: f64,
    /// Shards of generations that it outdated.
    pub(super) outdated: usize,
    /// Flows decided again meanwhile.
    pub(super) redecided: u64,
}

/// One label's change.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub(super) struct Label {
    pub(super) visible_us: f64,
    /// Until as many flows as it touches were decided again.
    pub(super) all_redecided_ms: f64,
    pub(super) redecided: u64,
}

impl Costs {
    pub(super) fn new() -> Self {
        let histogram = || Histogram::new_with_max(TIME_MAX, 3).expect("three digits are possible");
        Self {
            event: histogram(),
            compile: histogram(),
            publish: histogram(),
            changes: 0,
            behind: 0,
            resyncs: Vec::new(),
            labels: Vec::new(),
        }
    }
}

impl Feed<'_> {
    /// Does what each phase asks for, to the last.
    pub(super) fn run(mut self) -> Result<Costs> {
        let mut event_of = None;
        let mut next = Instant::now();
        while let Some((moment, kind)) = self.stage.now() {
            match kind {
                Kind::Changes => {
                    self.wait_for(&mut next);
                    self.change()?;
                }
                Kind::Resync | Kind::Rehearsal | Kind::Spin | Kind::Label
                    if event_of != Some(moment.phase()) =>
                {
                    event_of = Some(moment.phase());
                    match kind {
                        Kind::Label => self.label(moment.phase())?,
                        Kind::Spin => self.spin(moment.phase()),
                        _ => self.resync(moment.phase(), kind == Kind::Resync)?,
                    }
                    self.stage.event_done();
                }
                _ => {
                    std::thread::sleep(Duration::from_millis(1));
                    next = Instant::now();
                }
            }
        }
        Ok(self.costs)
    }

    fn wait_for(&mut self, next: &mut Instant) {
        let now = Instant::now();
        if now < *next {
            std::thread::sleep(*next - now);
        } else if now - *next > Duration::from_millis(1) {
            self.costs.behind += 1;
            *next = now;
        }
        *next += Duration::from_secs(1) / self.changes_per_second;
    }

    fn change(&mut self) -> Result<()> {
        let delta = self.world.replace_backend(self.truth);
        let bytes = encode(&ToFastpath {
            body: Some(Body::Delta(delta)),
        })?;
        let start = Instant::now();
        let compiled = self.take(&bytes)?;
        let compile = start.elapsed();
        let publishing = Instant::now();
        let publication = self.publish(compiled);
        let publish = publishing.elapsed();
        self.settle(&publication);
        let event = start.elapsed();
        self.truth.settle(self.world.version);
        for (histogram, took) in [
            (&mut self.costs.event, event),
            (&mut self.costs.compile, compile),
            (&mut self.costs.publish, publish),
        ] {
            histogram.saturating_record(took.as_nanos() as u64);
        }
        self.costs.changes += 1;
        Ok(())
    }

    /// The whole state once more. The phase counts from when its bytes are there until the former snapshot is freed.
    fn resync(&mut self, phase: usize, publishes: bool) -> Result<()> {
        self.world.version += u64::from(publishes);
        let state = self.world.state(self.connections);
        let bytes = encode(&ToFastpath {
            body: Some(Body::Snapshot(state)),
        })?;
        let before = self.redecisions();
        self.stage.count(phase, true);
        let start = Instant::now();
        let body = message(&bytes)?;
        let decoded = start.elapsed();
        let Body::Snapshot(state) = body else {
            bail!("the message that was sent")
        };
        let state = ValidState::try_from(state)?;
        let checked = start.elapsed();
        let compiled = compile::replace(&self.snapshot, &state)?;
        drop(state);
        let made = start.elapsed();
        if !publishes {
            drop(compiled);
            self.stage.count(phase, false);
            return Ok(());
        }
        let outdated = compiled.bumps.len();
        let publication = self.publish(compiled);
        self.settle(&publication);
        let all = start.elapsed();
        self.stage.count(phase, false);
        self.truth.settle(self.world.version);
        let [decoded, checked, made, all] =
            [decoded, checked, made, all].map(|time| time.as_secs_f64() * 1e3);
        self.costs.resyncs.push(Resync {
            ms: all,
            decode_ms: decoded,
            check_ms: checked - decoded,
            compile_ms: made - checked,
            visible_us: (all - made) * 1e3,
            outdated,
            redecided: self.redecisions() - before,
        });
        Ok(())
    }

    /// As long as the last resync took.
    fn spin(&self, phase: usize) {
        let took = self.costs.resyncs.last().map_or(1.0, |resync| resync.ms);
        self.stage.count(phase, true);
        let start = Instant::now();
        while start.elapsed().as_secs_f64() * 1e3 < took {
            std::hint::spin_loop();
        }
        self.stage.count(phase, false);
    }

    fn label(&mut self, phase: usize) -> Result<()> {
        let client = (phase % usize::from(self.world.map.clients)) as u16;
        let delta = self.world.relabel_client(client);
        let bytes = encode(&ToFastpath {
            body: Some(Body::Delta(delta)),
        })?;
        let before = self.redecisions();
        self.stage.count(phase, true);
        let start = Instant::now();
        let compiled = self.take(&bytes)?;
        let publication = self.publish(compiled);
        self.settle(&publication);
        let visible = start.elapsed();
        self.truth.settle(self.world.version);
        while self.redecisions() - before < self.flows_of_client && start.elapsed() < LABEL_MAX {
            std::thread::sleep(Duration::from_micros(200));
        }
        self.costs.labels.push(Label {
            visible_us: visible.as_secs_f64() * 1e6,
            all_redecided_ms: start.elapsed().as_secs_f64() * 1e3,
            redecided: self.redecisions() - before,
        });
        Ok(())
    }

    fn redecisions(&self) -> u64 {
        self.counters.iter().map(|worker| worker.redecisions.get()).sum()
    }

    /// As the daemon: the message is read, checked and compiled.
    fn take(&self, bytes: &[u8]) -> Result<Compiled> {
        let Body::Delta(delta) = message(bytes)? else {
            bail!("the message that was sent")
        };
        Ok(compile::apply(&self.snapshot, &ValidDelta::try_from(delta)?)?)
    }

    fn publish(&mut self, compiled: Compiled) -> Publication {
        self.snapshot = Arc::new(compiled.snapshot);
        let number = self.shared.publish(Arc::clone(&self.snapshot));
        Publication {
            number,
            bumps: compiled.bumps,
        }
    }

    fn settle(&self, publication: &Publication) {
        while !self.shared.outdate(publication.number, &publication.bumps) {
            std::hint::spin_loop();
        }
        self.shared.snapshot().reclaim();
    }
}

/// What these bytes say.
fn message(bytes: &[u8]) -> Result<Body> {
    let mut decoder = Decoder::default();
    decoder.extend(bytes);
    let message: ToFastpath = decoder.next_message()?.context("a whole message")?;
    message.body.context("a message of a known kind")
}

struct Publication {
    number: u64,
    bumps: fastpath::snapshot::Bumps,
}

/// The longest that a label's change is followed.
const LABEL_MAX: Duration = Duration::from_secs(10);
