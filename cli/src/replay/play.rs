//! Play: the input through one worker, in replayed time.
//!
//! **The clock** is the packets' clock. Each packet is a batch of its own, at its own time, so every timeout falls between
//! the same packets as on the wire and frames leave in the order of their causes, whatever the ports. Between two packets
//! the clock stops wherever something that waits is due. Speed is measured apart, in batches ([`super::measure`]).

use std::fs;
use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fastpath::counters::Counters;
use fastpath::io::Memory;
use fastpath::io::merge::{Input, Merge, Merged};
use fastpath::observe::Observer;
use fastpath::port::PortId;
use fastpath::shared::Shared;
use fastpath::worker::{Worker, WorkerConfig};

use super::pace::Pacer;
use super::port::{Queue, ReplayPort};
use super::recorder::Recorder;
use super::{Args, bad_capture};

/// Chunks of frame memory that will do, even if every packet of the input were held: memory is taken at start, and most
/// captures are small.
pub(super) fn chunks(inputs: &[Input], merge: &Merge, args: &Args) -> usize {
    let len = |input: &Input| match fs::metadata(&input.path) {
        Ok(file) if file.is_file() => file.len(),
        _ => u64::MAX,
    };
    let bytes = inputs.iter().map(len).fold(0, u64::saturating_add);
    let once = (bytes / CHUNK_ROOM).saturating_add(merge.packets());
    let chunks = once.saturating_mul(args.repeat.get()).saturating_add(CHUNKS_MIN);
    chunks.min(CHUNKS_MAX) as usize
}

/// A worker with the node's ports.
pub(super) struct Bench<O: Observer> {
    pub(super) worker: Worker<ReplayPort, O>,
    pub(super) queue: Queue,
}

impl<O: Observer> Bench<O> {
    pub(super) fn new(shared: &Arc<Shared>, seed: u64, chunks: usize, observer: O) -> Self {
        let config = WorkerConfig {
            seat: 0,
            workers: 1,
            seed,
            punt_to_host_mac: false,
        };
        let memory = Memory::heap(chunks, CHUNK_LEN);
        let mut worker = Worker::new(config, Arc::clone(shared), memory, observer);
        let queue = Queue::default();
        let ports: Vec<PortId> = shared.snapshot().current().ports().map(|port| port.id).collect();
        for port in ports {
            worker.add_port(port, ReplayPort::new(port, &queue));
        }
        Self { worker, queue }
    }

    /// Queues a packet. `false` when there is no memory for it.
    #[must_use]
    pub(super) fn feed(&mut self, port: PortId, bytes: &[u8], timestamp_ns: u64) -> bool {
        let place = self.worker.port_mut(port);
        place.is_some_and(|(memory, port)| port.feed(memory, bytes, timestamp_ns))
    }
}

/// A replay that is running.
pub(super) struct Player {
    bench: Bench<Recorder>,
    now_ns: Option<u64>,
}

/// What it came to.
pub(super) struct Outcome {
    pub(super) counters: Arc<Counters>,
    /// Connections at the end whose time is not up.
    pub(super) flows_live: u64,
}

impl Player {
    pub(super) fn new(shared: &Arc<Shared>, seed: u64, chunks: usize, recorder: Recorder) -> Self {
        Self {
            bench: Bench::new(shared, seed, chunks, recorder),
            now_ns: None,
        }
    }

    /// One packet, at its time.
    fn packet(&mut self, timestamp_ns: u64, port: PortId, bytes: &[u8]) -> Result<()> {
        self.advance(timestamp_ns)?;
        if !self.bench.feed(port, bytes, timestamp_ns) {
            bail!("no memory for a packet of {} bytes", bytes.len());
        }
        self.poll(timestamp_ns)?;
        Ok(())
    }

    /// The clock runs to `until_ns`; whatever is due by then happens at its time.
    fn advance(&mut self, until_ns: u64) -> io::Result<()> {
        let Some(before_ns) = self.now_ns else {
            return Ok(());
        };
        self.deadlines(until_ns)?;
        let now_ns = self.now_ns.unwrap_or(before_ns);
        if until_ns - now_ns >= SWEEP_GAP_NS {
            // Beyond that, milliseconds of 32 bits would begin to lie about what is long ago.
            self.bench
                .worker
                .expire_all(until_ns.min(now_ns.saturating_add(GAP_MAX_NS)));
        }
        Ok(())
    }

    /// What is due until then, in turn.
    fn deadlines(&mut self, until_ns: u64) -> io::Result<()> {
        while let Some(due_ns) = self
            .bench
            .worker
            .next_deadline_ns()
            .filter(|due| *due <= until_ns)
        {
            let now_ns = self.now_ns.map_or(due_ns, |now| now.max(due_ns));
            let held = self.bench.worker.held();
            self.poll(now_ns)?;
            if self.bench.worker.held() == held && self.bench.worker.next_deadline_ns() == Some(due_ns) {
                debug_assert!(false, "nothing happened when it was due");
                break;
            }
        }
        Ok(())
    }

    /// The input is over: the clock runs on until nothing is held.
    fn run_out(&mut self) -> io::Result<()> {
        self.deadlines(u64::MAX)?;
        if let Some(now_ns) = self.now_ns {
            self.bench.worker.expire_all(now_ns);
        }
        Ok(())
    }

    fn poll(&mut self, now_ns: u64) -> io::Result<()> {
        self.now_ns = Some(now_ns);
        self.bench.worker.observer_mut().set_now(now_ns);
        self.bench.worker.poll(now_ns);
        debug_assert!(
            self.bench.queue.borrow().is_empty(),
            "every packet is received at once"
        );
        self.bench.worker.observer_mut().settle()
    }

    pub(super) fn outcome(&self, shared: &Shared) -> Outcome {
        Outcome {
            counters: Arc::clone(self.bench.worker.counters()),
            flows_live: shared.flows_live(),
        }
    }

    pub(super) fn into_recorder(self) -> Recorder {
        self.bench.worker.into_observer()
    }
}

/// Plays all of `merge`, as often as asked; `ports` are those of the merge.
pub(super) fn all(player: &mut Player, merge: &mut Merge, ports: &[PortId], args: &Args) -> Result<()> {
    let mut pacer = Pacer::new(args.pace);
    let mut progress = Progress::new(merge.packets().saturating_mul(args.repeat.get()));
    each(merge, args.repeat.get(), |timestamp_ns, packet| {
        pacer.wait(timestamp_ns);
        progress.step();
        player.packet(timestamp_ns, ports[packet.port], &packet.bytes)
    })?;
    player.run_out()?;
    Ok(())
}

/// Every packet of `merge` so many times, with its replayed time.
pub(super) fn each(
    merge: &mut Merge,
    repeat: u64,
    mut act: impl FnMut(u64, &Merged) -> Result<()>,
) -> Result<()> {
    let pass_ns = merge.duration_ns().saturating_add(PASS_GAP_NS);
    let mut packet = Merged::default();
    for pass in 0..repeat {
        merge.rewind().map_err(bad_capture)?;
        let later_ns = pass_ns.saturating_mul(pass);
        while merge.next_into(&mut packet).map_err(bad_capture)? {
            act(packet.timestamp_ns.saturating_add(later_ns), &packet)?;
        }
    }
    Ok(())
}

/// A count on a terminal, where someone waits.
struct Progress {
    done: u64,
    all: u64,
    shown: Option<Instant>,
}

impl Progress {
    fn new(all: u64) -> Self {
        Self {
            done: 0,
            all,
            shown: io::stderr().is_terminal().then(Instant::now),
        }
    }

    fn step(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(PROGRESS_STEP)
            && let Some(shown) = &mut self.shown
            && shown.elapsed() >= PROGRESS_EVERY
        {
            *shown = Instant::now();
            eprint!("\rringway: {} of {} packets", self.done, self.all);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

/// Chunks of frame memory to work with, beside those that wait: a batch, and what a packet of the largest size is cut into.
const CHUNKS_MIN: u64 = 1 << 10;
/// As many fragments of the largest size as may wait, and room to work.
const CHUNKS_MAX: u64 = 1 << 15;
/// What fits a chunk at least.
const CHUNK_ROOM: u64 = 3_500;
const CHUNK_LEN: usize = 4096;
/// Between the end of one pass and the start of the next.
const PASS_GAP_NS: u64 = 1_000;
/// The worker's own sweep goes round in two seconds, if it is polled; a longer silence is swept at once.
const SWEEP_GAP_NS: u64 = 2_000_000_000;
/// 20 days: longer than any timeout, shorter than half the range of 32-bit milliseconds.
const GAP_MAX_NS: u64 = 20 * 86_400 * 1_000_000_000;
const PROGRESS_STEP: u64 = 1024;
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
