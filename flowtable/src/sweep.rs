//! Expiry: a clock hand over a worker's share of the slots, a bounded number per call. No wheel, no list, no timer.

use crate::{
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
            if verdict == Sweep::Remove && self.remove_observed(slot, state).is_ok() {
                swept.removed += 1;
            }
        }
        swept
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

/// Neighbouring slots that one worker sweeps.
const SHARE_CHUNK: u32 = 64;
/// How far the hand reads ahead: about the memory's latency divided by the work per slot.
const AHEAD: u32 = 8;
