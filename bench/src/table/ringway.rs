//! The flow table of this repository.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowtable::{
    Config, Direction, FlowHash, FlowRef, Memory, Quiescence, Refused, Share, Sweep, TableV4, Worker, Writer,
};

use super::contender::{Contender, Hand, Key, keys_of};

/// A table, and the domain that its threads have seats in.
pub(crate) struct Ringway {
    table: Arc<TableV4>,
    domain: Arc<Quiescence>,
    /// Time, in batches of all threads.
    clock: Arc<AtomicU64>,
}

/// A thread's writer and its scratch space.
pub(crate) struct RingwayHand {
    table: Arc<TableV4>,
    hashes: Vec<FlowHash>,
    /// Of the connections to be inserted together, and their hashes.
    pairs: Vec<([Key; 2], [FlowHash; 2])>,
    clock: Arc<AtomicU64>,
    now: u64,
    found: Vec<Option<FlowRef>>,
    writer: Writer<2, 8>,
    /// Last, so that the writer goes before its seat.
    seat: Worker,
}

impl Contender for Ringway {
    type Hand<'a> = RingwayHand;

    fn create(connections: u32, threads: usize, seed: u64) -> Result<Self> {
        let domain = Quiescence::new(threads);
        let config = Config {
            // As DPDK's: an index that is 80 % full.
            capacity: connections + connections / 4,
            seed: seed.into(),
            user_words: 0,
        };
        let table = TableV4::create(config, Memory::Anonymous, &domain)?;
        Ok(Self {
            table,
            domain,
            clock: Arc::default(),
        })
    }

    fn hand(&self, thread: usize, threads: usize) -> RingwayHand {
        let seat = self.domain.register(thread).expect("a seat for each thread");
        let share = Share {
            index: thread as u32,
            of: threads as u32,
        };
        RingwayHand {
            writer: if threads == 1 {
                self.table.sole_writer(&seat)
            } else {
                self.table.writer(&seat, share)
            },
            table: Arc::clone(&self.table),
            hashes: Vec::new(),
            pairs: Vec::new(),
            clock: Arc::clone(&self.clock),
            now: 0,
            found: Vec::new(),
            seat,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "bytes of a table")]
    fn bytes_per_connection(&self, connections: u32) -> Option<f64> {
        let (all, index) = (self.table.memory_bytes(), self.table.index_bytes());
        let records = (all - index) as f64 / f64::from(self.table.capacity());
        Some(records + index as f64 / f64::from(connections))
    }

    fn pages(&self) -> Option<String> {
        Some(self.table.pages().to_string())
    }
}

impl Hand for RingwayHand {
    fn insert(&mut self, number: u32) -> Result<()> {
        let keys = keys_of(number);
        let hashes = keys.map(|key| self.table.hash(&key));
        self.install(&keys, hashes)
            .with_context(|| format!("inserting connection {number}"))
    }

    fn remove(&mut self, number: u32) -> Result<()> {
        let [key, _] = keys_of(number);
        let flow = self.table.lookup(&key, self.table.hash(&key));
        let flow = flow.with_context(|| format!("connection {number} is not there"))?;
        self.writer
            .remove(flow)
            .map_err(|why| anyhow::anyhow!("connection {number}: {why:?}"))
    }

    /// As a worker does it: expiry by the clock hand, which looks at when both directions were seen last and goes on until as many
    /// as `old` are gone; the new ones' buckets are asked for together.
    fn replace(&mut self, old: &[u32], new: &[u32]) -> Result<()> {
        // Relaxed: a number that no other thread has, nothing else.
        self.now = self.clock.fetch_add(1, Relaxed) + 1;
        let now = self.now;
        let (mut removed, mut rounds) = (0, 0);
        while removed < old.len() {
            let left = (old.len() - removed) as u32;
            let swept = self.writer.sweep(left, |connection| {
                let seen = [Direction::Original, Direction::Reply]
                    .map(|direction| connection.record(direction).word(LAST_SEEN));
                if now.saturating_sub(seen[0].max(seen[1])) >= TIMEOUT {
                    Sweep::Remove
                } else {
                    Sweep::Keep
                }
            });
            removed += swept.removed as usize;
            rounds += u32::from(swept.wrapped);
            ensure!(
                rounds < 3,
                "{removed} connections expired instead of {}",
                old.len()
            );
        }
        let view = self.table.view();
        self.pairs.clear();
        self.pairs.extend(new.iter().map(|&number| {
            let keys = keys_of(number);
            (keys, keys.map(|key| view.begin(&key)))
        }));
        let pairs = std::mem::take(&mut self.pairs);
        let installed = pairs
            .iter()
            .try_for_each(|(keys, hashes)| self.install(keys, *hashes));
        self.pairs = pairs;
        installed
    }

    fn lookup(&mut self, keys: &[Key]) -> u64 {
        if self.found.len() < keys.len() {
            self.found.resize(keys.len(), None);
            self.hashes.resize(keys.len(), FlowHash::default());
        }
        let found = &mut self.found[..keys.len()];
        self.table
            .lookup_batch(keys, &mut self.hashes[..keys.len()], found);
        found.iter().flatten().count() as u64
    }

    fn pass(&mut self) {
        self.seat.quiescent();
        self.writer.maintain();
    }
}

impl RingwayHand {
    /// A full table is waited for: another thread may be off its processor, and what was removed is not free before it
    /// has passed a batch.
    fn install(&mut self, keys: &[Key; 2], hashes: [FlowHash; 2]) -> Result<()> {
        let mut end = None;
        loop {
            let now = self.now;
            let inserted = self.writer.insert_hashed([&keys[0], &keys[1]], hashes, |both| {
                both.set_word(Direction::Original, LAST_SEEN, now);
                both.set_word(Direction::Reply, LAST_SEEN, now);
            });
            match inserted {
                Err(Refused::Full)
                    if Instant::now() < *end.get_or_insert_with(|| Instant::now() + WAIT_MAX) =>
                {
                    self.pass();
                    std::thread::yield_now();
                }
                inserted => return Ok(inserted.map(drop)?),
            }
        }
    }
}

/// The payload word that says when a packet came last.
const LAST_SEEN: usize = 0;
/// In batches: what this one inserts does not expire in it.
const TIMEOUT: u64 = 1;
/// Longer than any thread is kept off its processor.
const WAIT_MAX: Duration = Duration::from_secs(10);
