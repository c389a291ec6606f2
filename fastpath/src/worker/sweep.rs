//! Expiry: a bounded part of each table per loop, and all of it within a few seconds.

use flowtable::{Connection, Direction, Sweep};

use super::Worker;
use crate::conntrack::Deadlines;
use crate::flow::key::{Family, V4, V6};
use crate::flow::record::{Bits, Layout, SeenWord};
use crate::io::PacketIo;
use crate::observe::Observer;
use crate::shared::Shared;
use crate::stage::idle_ms;

/// Up to when its parts have been swept.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    swept_ns: u64,
}

impl<P: PacketIo, O: Observer> Worker<P, O> {
    /// Removes connections whose time is up, in the part of the tables that is next.
    ///
    /// Deadlines are exact without it, a lookup asks for them; this frees the memory.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        // A clock that went back begins anew.
        let steps = now_ns
            .checked_sub(self.sweeper.swept_ns)
            .map_or(1, |ns| ns / STEP_NS);
        if steps == 0 {
            self.flows.v4.maintain();
            self.flows.v6.maintain();
            return;
        }
        self.sweeper.swept_ns = now_ns;
        let parts = STEPS_PER_ROUND / steps.min(STEPS_TOGETHER_MAX) as u32;
        let v4 = self.flows.v4.sweep_budget(parts).min(SLOTS_TOGETHER_MAX);
        let v6 = self.flows.v6.sweep_budget(parts).min(SLOTS_TOGETHER_MAX);
        self.sweep_part(now_ns, v4, v6);
    }

    /// Removes every connection of this worker's share whose time is up: where a clock jumps, as in a replay. Between batches.
    pub fn expire_all(&mut self, now_ns: u64) {
        // A part ends at the end of the share: the first goes from the hand to it, the second from the start.
        for _ in 0..2 {
            self.sweep_part(now_ns, u32::MAX, u32::MAX);
        }
    }

    fn sweep_part(&mut self, now_ns: u64, slots_v4: u32, slots_v6: u32) {
        let mut judge = Judge {
            deadlines: Deadlines::new(self.snapshot.snapshot().timeouts()),
            now_ms: (now_ns / 1_000_000) as u32,
            shared: &self.shared,
            is_alone: self.flows.v4.is_alone(),
            affinities: 0,
        };
        let v4 = self
            .flows
            .v4
            .sweep(slots_v4, |connection| judge.judge::<V4, 2, 8>(connection));
        let v6 = self
            .flows
            .v6
            .sweep(slots_v6, |connection| judge.judge::<V6, 5, 12>(connection));
        let affinities = judge.affinities.min(v4.removed + v6.removed);
        self.counters
            .flows_expired
            .add(u64::from(v4.removed + v6.removed - affinities));
        if affinities > 0 {
            self.shared.count_affinities(-i64::from(affinities));
        }
    }
}

struct Judge<'s> {
    deadlines: Deadlines,
    now_ms: u32,
    shared: &'s Shared,
    is_alone: bool,
    affinities: u32,
}

impl Judge<'_> {
    fn judge<L: Layout + Family<Key = [u64; K]>, const K: usize, const W: usize>(
        &mut self,
        connection: &Connection<'_, K, W>,
    ) -> Sweep {
        let bits = Bits(connection.state().bits());
        let original = connection.record(Direction::Original);
        let lasts_ms = if bits.has(Bits::AFFINITY) {
            original.word(L::BYTES) as u32
        } else {
            self.deadlines.of(bits.state())
        };
        let idle = |direction| idle_ms(self.now_ms, SeenWord(connection.record(direction).word(L::SEEN)));
        if idle(Direction::Original) < lasts_ms {
            return Sweep::Keep;
        }
        if bits.has(Bits::AFFINITY) {
            self.affinities += 1;
            return Sweep::Remove;
        }
        if idle(Direction::Reply) < lasts_ms {
            return Sweep::Keep;
        }
        if !bits.has(Bits::ANSWERED) {
            let zone = L::tuple(&original.key()).zone;
            self.shared.unanswered().ended(zone, self.is_alone);
        }
        Sweep::Remove
    }
}

/// Time between two parts: 0.25 ms. Short, so that slots come free as fast as new flows take them, a few at a time and still in
/// the caches.
const STEP_NS: u64 = 250_000;
/// Parts that make a whole: round every two seconds.
const STEPS_PER_ROUND: u32 = 8000;
/// Parts that are made up for together by a worker that was busy or asleep: a tenth of a second's.
const STEPS_TOGETHER_MAX: u64 = 400;
/// Slots at once at most: some ten microseconds' work.
const SLOTS_TOGETHER_MAX: u32 = 4096;
