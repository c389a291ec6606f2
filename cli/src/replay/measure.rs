//! Measure: what a packet costs the pipeline, without what replay itself does around it.
//!
//! The same input is played once more by a fresh worker that nobody watches, in batches as on live ports; the clock of a batch
//! is its last packet's. Reading captures and copying packets into frames is not counted, receiving and sending them is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fastpath::io::merge::Merge;
use fastpath::io::{BATCH_MAX, clock};
use fastpath::observe::Unobserved;
use fastpath::port::PortId;
use fastpath::shared::Shared;

use super::Args;
use super::play::{Bench, each};

/// Time spent in the pipeline.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    packets: u64,
    ticks: u64,
    time: Duration,
}

impl Speed {
    /// Nanoseconds per packet; `None` without packets.
    pub(super) fn ns_per_packet(&self) -> Option<f64> {
        self.per_packet(self.time.as_nanos())
    }

    /// TSC ticks per packet.
    pub(super) fn cycles_per_packet(&self) -> Option<f64> {
        self.per_packet(u128::from(self.ticks))
    }

    /// To a tenth, which is below what two runs differ by.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a year in nanoseconds is exact to a microsecond"
    )]
    fn per_packet(&self, sum: u128) -> Option<f64> {
        let tenths = (sum * 10).checked_div(u128::from(self.packets))?;
        Some(tenths as f64 / 10.0)
    }
}

/// Plays all of `merge` through fresh tables.
pub(super) fn measure(
    shared: &Arc<Shared>,
    args: &Args,
    chunks: usize,
    merge: &mut Merge,
    ports: &[PortId],
) -> Result<Speed> {
    let mut bench = Bench::new(shared, args.seed, chunks, Unobserved);
    let mut speed = Speed::default();
    let (mut queued, mut now_ns) = (0, 0);
    each(merge, args.repeat.get(), |timestamp_ns, packet| {
        if !bench.feed(ports[packet.port], &packet.bytes, timestamp_ns) {
            bail!("no memory for a packet of {} bytes", packet.bytes.len());
        }
        (queued, now_ns) = (queued + 1, timestamp_ns);
        if queued == BATCH_MAX {
            queued = 0;
            drain(&mut bench, now_ns, &mut speed);
        }
        Ok(())
    })?;
    drain(&mut bench, now_ns, &mut speed);
    Ok(speed)
}

fn drain(bench: &mut Bench<Unobserved>, now_ns: u64, speed: &mut Speed) {
    let (time, ticks) = (Instant::now(), clock::tsc());
    while !bench.queue.borrow().is_empty() {
        speed.packets += bench.worker.poll(now_ns) as u64;
    }
    speed.ticks += clock::tsc() - ticks;
    speed.time += time.elapsed();
}
