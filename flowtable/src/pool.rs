//! Free slots that no worker has cached: a stack of chunks, linked through the free records themselves, and the slots
//! that were never used.

use crossbeam::utils::CachePadded;

use crate::{
    record::{Direction, FlowRef},
    sync::{AcqRel, Acquire, AtomicU64, Relaxed},
    table::Table,
};

/// Slots that move between a worker and the pool at once, by one compare-exchange.
pub(crate) const CHUNK: usize = if cfg!(loom) { 1 } else { 32 };

/// The shared part of slot allocation. Lock-free.
#[derive(Debug)]
pub(crate) struct Pool {
    /// Upper half: counts changes, so that a head that came back is not mistaken for one that stayed. Lower half: the
    /// first slot of the first chunk, plus one.
    head: CachePadded<AtomicU64>,
    /// Slots from here on were never used.
    fresh: CachePadded<AtomicU64>,
}

impl Pool {
    pub(crate) fn new(fresh: u32) -> Self {
        Self {
            head: CachePadded::new(AtomicU64::new(0)),
            fresh: CachePadded::new(AtomicU64::new(fresh.into())),
        }
    }

    /// No slot from here on has ever held a connection.
    pub(crate) fn high_water(&self) -> u32 {
        // Relaxed: a hint; whoever needs a slot's contents gets at them by the index.
        self.fresh.load(Relaxed) as u32
    }

    /// Gives `slots` back, as one chunk. The caller owns them and nobody can reach them any more.
    pub(crate) fn push<const K: usize, const W: usize>(&self, table: &Table<K, W>, slots: &[u32]) {
        let Some((&first, rest)) = slots.split_first() else {
            return;
        };
        let mut last = first;
        for &slot in rest {
            in_chunk(table, last).store(u64::from(slot) + 1, Relaxed);
            last = slot;
        }
        in_chunk(table, last).store(0, Relaxed);
        let mut head = self.head.load(Relaxed);
        loop {
            next_chunk(table, first).store(head & u64::from(u32::MAX), Relaxed);
            // Release: the links are visible to whoever pops. Pairs with the Acquire in `pop`.
            match self
                .head
                .compare_exchange(head, changed(head, u64::from(first) + 1), AcqRel, Relaxed)
            {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Moves a chunk of free slots to `cache`, used ones before fresh ones. False if there is none.
    pub(crate) fn pop<const K: usize, const W: usize>(
        &self,
        table: &Table<K, W>,
        cache: &mut Vec<u32>,
    ) -> bool {
        // Acquire pairs with the Release in `push`.
        let mut head = self.head.load(Acquire);
        while let Some(first) = (head as u32).checked_sub(1) {
            // May be nonsense if another worker popped the chunk meanwhile: then the exchange fails.
            let next = next_chunk(table, first).load(Relaxed);
            match self
                .head
                .compare_exchange(head, changed(head, next), AcqRel, Acquire)
            {
                Ok(_) => {
                    let mut slot = Some(first);
                    while let Some(at) = slot {
                        cache.push(at);
                        slot = (in_chunk(table, at).load(Relaxed) as u32).checked_sub(1);
                    }
                    return true;
                }
                Err(now) => head = now,
            }
        }
        let mut fresh = self.fresh.load(Relaxed);
        loop {
            let end = (fresh + CHUNK as u64).min(table.slots().into());
            if end == fresh {
                return false;
            }
            // Relaxed: the slots were never used, so there is nothing to see in them.
            match self.fresh.compare_exchange(fresh, end, Relaxed, Relaxed) {
                Ok(_) => {
                    cache.extend((fresh as u32..end as u32).rev());
                    return true;
                }
                Err(now) => fresh = now,
            }
        }
    }

    /// Every slot in the pool. Only while nobody else uses the table.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn slots<const K: usize, const W: usize>(&self, table: &Table<K, W>) -> Vec<u32> {
        let mut all: Vec<u32> = (self.high_water()..table.slots()).collect();
        let mut chunk = (self.head.load(Acquire) as u32).checked_sub(1);
        while let Some(first) = chunk {
            let mut slot = Some(first);
            while let Some(at) = slot {
                all.push(at);
                slot = (in_chunk(table, at).load(Relaxed) as u32).checked_sub(1);
            }
            chunk = (next_chunk(table, first).load(Relaxed) as u32).checked_sub(1);
        }
        all
    }
}

/// A changed head: the next count, and another first slot.
fn changed(head: u64, first: u64) -> u64 {
    ((head >> 32).wrapping_add(1) << 32) | (first & u64::from(u32::MAX))
}

/// Where a free slot keeps the next slot of its chunk, plus one.
fn in_chunk<const K: usize, const W: usize>(table: &Table<K, W>, slot: u32) -> &AtomicU64 {
    table.record(FlowRef::of(slot, Direction::Original)).raw(0)
}

/// Where the first slot of a chunk keeps the first slot of the next chunk, plus one.
fn next_chunk<const K: usize, const W: usize>(table: &Table<K, W>, slot: u32) -> &AtomicU64 {
    table.record(FlowRef::of(slot, Direction::Reply)).raw(0)
}
