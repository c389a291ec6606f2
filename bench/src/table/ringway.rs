//! The flow table of this repository.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flowtable::{Config, FlowHash, FlowRef, Memory, Quiescence, Refused, Share, TableV4, Worker, Writer};

use super::contender::{Contender, Hand, Key, keys_of};

/// A table, and the domain that its threads have seats in.
pub(crate) struct Ringway {
    table: Arc<TableV4>,
    domain: Arc<Quiescence>,
}

/// A thread's writer and its scratch space.
pub(crate) struct RingwayHand {
    table: Arc<TableV4>,
    hashes: Vec<FlowHash>,
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
            capacity: connections,
            seed: seed.into(),
            user_words: 0,
        };
        let table = TableV4::create(config, Memory::Anonymous, &domain)?;
        Ok(Self { table, domain })
    }

    fn hand(&self, thread: usize, threads: usize) -> RingwayHand {
        let seat = self.domain.register(thread).expect("a seat for each thread");
        let share = Share {
            index: thread as u32,
            of: threads as u32,
        };
        RingwayHand {
            writer: self.table.writer(&seat, share),
            table: Arc::clone(&self.table),
            hashes: Vec::new(),
            found: Vec::new(),
            seat,
        }
    }

    fn bytes(&self) -> Option<usize> {
        Some(self.table.memory_bytes())
    }

    fn pages(&self) -> Option<String> {
        Some(self.table.pages().to_string())
    }
}

impl Hand for RingwayHand {
    /// A full table is waited for: another thread may be off its processor, and what was removed is not free before it
    /// has passed a batch.
    fn insert(&mut self, number: u32) -> Result<()> {
        let [key, reply] = keys_of(number);
        let mut inserted = self.writer.insert(&key, &reply, |_| ());
        let mut end = None;
        while inserted == Err(Refused::Full)
            && Instant::now() < *end.get_or_insert_with(|| Instant::now() + WAIT_MAX)
        {
            self.pass();
            std::thread::yield_now();
            inserted = self.writer.insert(&key, &reply, |_| ());
        }
        inserted.with_context(|| format!("inserting connection {number}"))?;
        Ok(())
    }

    fn remove(&mut self, number: u32) -> Result<()> {
        let [key, _] = keys_of(number);
        let flow = self.table.lookup(&key, self.table.hash(&key));
        let flow = flow.with_context(|| format!("connection {number} is not there"))?;
        self.writer
            .remove(flow)
            .map_err(|why| anyhow::anyhow!("connection {number}: {why:?}"))
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

/// Longer than any thread is kept off its processor.
const WAIT_MAX: Duration = Duration::from_secs(10);
