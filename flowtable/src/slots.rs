//! One worker's slots: free ones at hand, and removed ones in limbo until nobody can hold a reference.

use std::collections::VecDeque;

use crate::{
    pool::CHUNK,
    record::{Direction, FlowRef},
    state::Lifecycle,
    sync::lock,
    table::Table,
};

/// What a [`Writer`](crate::Writer) holds back from the pool. Bounded, so that no worker starves: the table has as many
/// slots beyond its capacity as the caches can hold.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Free slots, at most twice [`CHUNK`].
    cache: Vec<u32>,
    /// Removed since the last stamp.
    removed: Vec<u32>,
    /// Removed slots with stamps, oldest first: free once the domain's horizon reaches the stamp.
    limbo: VecDeque<(u64, u32)>,
    /// Inserts allowed before the live connections are counted again.
    credit: u32,
    /// The limit under which the credit was given.
    limit: u32,
}

impl Slots {
    pub(crate) fn new() -> Self {
        Self {
            cache: Vec::with_capacity(4 * CHUNK),
            removed: Vec::with_capacity(REMOVED_MAX),
            limbo: VecDeque::with_capacity(LIMBO_FIRST),
            credit: 0,
            limit: 0,
        }
    }

    /// A free slot, if the limit allows.
    pub(crate) fn allocate<const K: usize, const W: usize>(&mut self, table: &Table<K, W>) -> Option<u32> {
        let limit = table.limit();
        if self.credit == 0 || self.limit != limit {
            self.limit = limit;
            self.credit = 0;
            let room = limit.saturating_sub(table.live());
            if room == 0 {
                return None;
            }
            // Only part of the room, since others take their part: looked at again within the batch.
            let workers = table.domain().workers_max() as u32;
            self.credit = (room / (4 * workers.max(1))).clamp(1, CREDIT_MAX);
        }
        loop {
            if let Some(slot) = self.cache.pop() {
                if let Some(next) = self.cache.iter().nth_back(AHEAD) {
                    for direction in [Direction::Original, Direction::Reply] {
                        table.prefetch_record(FlowRef::of(*next, direction));
                    }
                }
                return Some(slot);
            }
            if !table.pool.pop(table, &mut self.cache) && !self.reclaim(table) {
                return None;
            }
        }
    }

    /// A connection was installed on the credit that [`allocate`](Self::allocate) found or made.
    #[inline]
    pub(crate) fn spend_credit(&mut self) {
        self.credit -= 1;
    }

    /// Puts a slot that is out of the index in limbo.
    pub(crate) fn retire<const K: usize, const W: usize>(&mut self, table: &Table<K, W>, slot: u32) {
        self.removed.push(slot);
        if self.removed.len() >= REMOVED_MAX {
            self.stamp(table);
        }
    }

    /// Frees what every worker has passed.
    pub(crate) fn maintain<const K: usize, const W: usize>(&mut self, table: &Table<K, W>) {
        self.credit = 0;
        self.settle(table);
    }

    /// Slots free, and in limbo.
    pub(crate) fn held(&self) -> (usize, usize) {
        (self.cache.len(), self.removed.len() + self.limbo.len())
    }

    /// Leaves everything to the other workers.
    pub(crate) fn give_back<const K: usize, const W: usize>(&mut self, table: &Table<K, W>) {
        self.maintain(table);
        table.pool.push(table, &self.cache);
        self.cache.clear();
        lock(&table.orphans).extend(self.limbo.drain(..));
    }

    fn settle<const K: usize, const W: usize>(&mut self, table: &Table<K, W>) {
        self.stamp(table);
        if self.limbo.is_empty() {
            return;
        }
        let horizon = table.domain().horizon();
        while let Some(&(stamp, slot)) = self.limbo.front()
            && stamp <= horizon
        {
            self.limbo.pop_front();
            self.free(table, slot);
        }
    }

    /// One stamp for all that was removed since the last: what was unlinked before is unreachable from then on.
    fn stamp<const K: usize, const W: usize>(&mut self, table: &Table<K, W>) {
        if !self.removed.is_empty() {
            let stamp = table.domain().retire();
            self.limbo
                .extend(self.removed.drain(..).map(|slot| (stamp, slot)));
        }
    }

    /// A slot that nobody can reach becomes free: to the cache, and from a full cache to everyone.
    fn free<const K: usize, const W: usize>(&mut self, table: &Table<K, W>, slot: u32) {
        for record in table.records(slot) {
            // The sequence goes on, so that a reader from the slot's earlier life would notice.
            record.set_state(
                record
                    .state()
                    .closed()
                    .with_lifecycle(Lifecycle::Free)
                    .with_bits(0),
            );
        }
        self.cache.push(slot);
        if self.cache.len() > 2 * CHUNK {
            let spare = self.cache.len() - CHUNK;
            table.pool.push(table, &self.cache[spare..]);
            self.cache.truncate(spare);
        }
    }

    /// Last resorts: our own limbo, then what departed workers left.
    #[cold]
    fn reclaim<const K: usize, const W: usize>(&mut self, table: &Table<K, W>) -> bool {
        self.settle(table);
        if self.cache.is_empty() {
            let horizon = table.domain().horizon();
            let mut orphans = lock(&table.orphans);
            let free: Vec<_> = orphans
                .extract_if(.., |(stamp, _)| *stamp <= horizon)
                .take(CHUNK)
                .collect();
            drop(orphans);
            for (_, slot) in free {
                self.free(table, slot);
            }
        }
        !self.cache.is_empty()
    }
}

/// Removals that share a stamp, unless the batch ends before.
const REMOVED_MAX: usize = 64;
/// Inserts before a slot is taken whose records are asked for: about the memory's latency.
const AHEAD: usize = 3;
/// Room in limbo before its list grows.
const LIMBO_FIRST: usize = if cfg!(loom) { 4 } else { 4096 };
/// Inserts between two counts of the live connections, at most.
const CREDIT_MAX: u32 = 64;
