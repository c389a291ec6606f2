//! Expiry: a clock hand over a worker's share of the slots, a bounded number per call. No wheel, no list, no timer.

use crate::{
    hash::FlowHash,
    prefetch::prefetch,
    record::{Direction, FlowRef, Record},
    state::State,
    table::Table,
    writer::Writer,
};

/// What becomes of a connection that the hand has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// It stays.
    Keep,
    /// It is removed, unless its original state word changed since it was judged.
    Remove,
}

/// A connection that the hand has reached.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'t, const K: usize, const W: usize> {
    table: &'t Table<K, W>,
    slot: u32,
    state: State,
}

impl<'t, const K: usize, const W: usize> Connection<'t, K, W> {
    /// One of its directions.
    pub fn flow(&self, direction: Direction) -> FlowRef {
        FlowRef::of(self.slot, direction)
    }

    /// The record of one direction, in place. Reading the reply's costs a second cache line.
    pub fn record(&self, direction: Direction) -> Record<'t, K, W> {
        self.table.record(self.flow(direction))
    }

    /// The original direction's state when the hand came.
    pub fn state(&self) -> State {
        self.state
    }
}

/// What a call of [`Writer::sweep`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Slots looked at, free ones too.
    pub visited: u32,
    /// Connections judged.
    pub judged: u32,
    /// Connections removed.
    pub removed: u32,
    /// The hand passed the end of the share: every connection has been judged since it last did.
    pub wrapped: bool,
}

impl<const K: usize, const W: usize> Writer<K, W> {
    /// Judges the connections in the next `budget` slots of this worker's [`Share`](crate::Share), removing those that `judge` says.
    /// Ends early at the end of the share.
    ///
    /// Connections that another worker is installing or deciding are left for the next round. Also does what
    /// [`maintain`](Self::maintain) does.
    pub fn sweep(&mut self, budget: u32, mut judge: impl FnMut(&Connection<'_, K, W>) -> Sweep) -> Swept {
        self.maintain();
        let end = self.table.pool.high_water();
        let mut swept = Swept::default();
        let mut due = Due::NONE;
        while swept.visited < budget {
            let slot = self.slot_at(self.hand);
            if slot >= end {
                self.hand = 0;
                swept.wrapped = true;
                break;
            }
            let ahead = self.slot_at(self.hand + AHEAD);
            if ahead < end {
                for record in self.table.records(ahead) {
                    prefetch(record.raw(0));
                }
            }
            self.hand += 1;
            swept.visited += 1;
            let [original, _] = self.table.records(slot);
            let state = original.state();
            if !state.is_stable() {
                continue;
            }
            swept.judged += 1;
            let verdict = judge(&Connection {
                table: &self.table,
                slot,
                state,
            });
            if verdict == Sweep::Remove && due.push(&self.table, slot, state) == DUE_MAX {
                swept.removed += self.remove_due(&mut due);
            }
        }
        swept.removed += self.remove_due(&mut due);
        swept
    }

    /// Removes those whose buckets were asked for; returns how many.
    fn remove_due(&mut self, due: &mut Due) -> u32 {
        let mut removed = 0;
        for (slot, state, hashes) in &due.all[..due.len] {
            removed += u32::from(self.remove_hashed(*slot, *state, *hashes).is_ok());
        }
        due.len = 0;
        removed
    }

    /// The budget with which `calls` sweeps go once round this worker's share, as far as slots were ever used.
    pub fn sweep_budget(&self, calls: u32) -> u32 {
        let chunks = self
            .table
            .pool
            .high_water()
            .div_ceil(SHARE_CHUNK)
            .div_ceil(self.share.of);
        // One more call's worth of nothing is saved by rounding up.
        (chunks * SHARE_CHUNK).div_ceil(calls.max(1)) + 1
    }

    /// The slot of the hand's position: chunks are dealt round, so that each worker has its part of the used ones.
    fn slot_at(&self, hand: u32) -> u32 {
        (hand / SHARE_CHUNK * self.share.of + self.share.index)
            .saturating_mul(SHARE_CHUNK)
            .saturating_add(hand % SHARE_CHUNK)
    }
}

/// Connections to be removed, whose buckets are on their way: one by one, each removal would wait twice for memory.
struct Due {
    len: usize,
    all: [(u32, State, [FlowHash; 2]); DUE_MAX],
}

impl Due {
    const NONE: Self = Self {
        len: 0,
        all: [(0, State(0), [FlowHash(0); 2]); DUE_MAX],
    };

    /// Adds one; returns how many there are.
    fn push<const K: usize, const W: usize>(
        &mut self,
        table: &Table<K, W>,
        slot: u32,
        state: State,
    ) -> usize {
        let hashes = table.hashes(slot);
        hashes.into_iter().for_each(|hash| table.prefetch(hash));
        self.all[self.len] = (slot, state, hashes);
        self.len += 1;
        self.len
    }
}

/// Connections that are removed together: their lines fit in L1.
const DUE_MAX: usize = 16;
/// Neighbouring slots that one worker sweeps.
const SHARE_CHUNK: u32 = 64;
/// How far the hand reads ahead: about the memory's latency divided by the work per slot.
const AHEAD: u32 = 8;
