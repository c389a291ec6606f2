//! Expiry: a bounded part of each table per loop, and all of it within a few seconds.

use flowtable::{Connection, Direction, Sweep};

use super::Worker;
use crate::conntrack::Deadlines;
use crate::flow::key::{V4, V6};
use crate::flow::record::{Bits, Layout, SeenWord};
use crate::io::PacketIo;
use crate::observe::Observer;
use crate::stage::idle_ms;

/// When the next part is due.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    next_ns: u64,
}

impl<P: PacketIo, O: Observer> Worker<P, O> {
    /// Removes connections whose time is up, in the part of the tables that is next.
    ///
    /// Deadlines are exact without it, a lookup asks for them; this frees the memory.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        let (deadlines, now_ms) = (
            Deadlines::new(self.snapshot.snapshot().timeouts()),
            (now_ns / 1_000_000) as u32,
        );
        if now_ns < self.sweeper.next_ns && self.sweeper.next_ns - now_ns <= STEP_NS {
            self.flows.v4.maintain();
            self.flows.v6.maintain();
            return;
        }
        self.sweeper.next_ns = now_ns + STEP_NS;
        let v4 = self.flows.v4.sweep_budget(STEPS_PER_ROUND).min(STEP_SLOTS_MAX);
        let v6 = self.flows.v6.sweep_budget(STEPS_PER_ROUND).min(STEP_SLOTS_MAX);
        self.sweep_part(&deadlines, now_ms, v4, v6);
    }

    /// Removes every connection of this worker's share whose time is up: where a clock jumps, as in a replay. Between batches.
    pub fn expire_all(&mut self, now_ns: u64) {
        let deadlines = Deadlines::new(self.snapshot.snapshot().timeouts());
        // A part ends at the end of the share: the first goes from the hand to it, the second from the start.
        for _ in 0..2 {
            self.sweep_part(&deadlines, (now_ns / 1_000_000) as u32, u32::MAX, u32::MAX);
        }
    }

    fn sweep_part(&mut self, deadlines: &Deadlines, now_ms: u32, slots_v4: u32, slots_v6: u32) {
        let v4 = self.flows.v4.sweep(slots_v4, |connection| {
            judge::<V4, 2, 8>(connection, deadlines, now_ms)
        });
        let v6 = self.flows.v6.sweep(slots_v6, |connection| {
            judge::<V6, 5, 12>(connection, deadlines, now_ms)
        });
        self.counters
            .flows_expired
            .add(u64::from(v4.removed + v6.removed));
    }
}

fn judge<L: Layout, const K: usize, const W: usize>(
    connection: &Connection<'_, K, W>,
    deadlines: &Deadlines,
    now_ms: u32,
) -> Sweep {
    let lasts_ms = deadlines.of(Bits(connection.state().bits()).state());
    let idle = |direction| idle_ms(now_ms, SeenWord(connection.record(direction).word(L::SEEN)));
    if idle(Direction::Original) >= lasts_ms && idle(Direction::Reply) >= lasts_ms {
        Sweep::Remove
    } else {
        Sweep::Keep
    }
}

/// Time between two parts: 5 ms.
const STEP_NS: u64 = 5_000_000;
/// Parts that make a whole: round every two seconds.
const STEPS_PER_ROUND: u32 = 400;
/// Slots per part at most: some ten microseconds' work.
const STEP_SLOTS_MAX: u32 = 4096;
