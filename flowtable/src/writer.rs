//! Installing, removing and deciding again: what one worker does to the table.

use crate::{
    counters::{Count, WorkerCounters},
    hash::FlowHash,
    quiescence::Worker,
    record::{Both, Direction, FlowRef, Unreadable},
    slots::Slots,
    state::{Lifecycle, State},
    sync::{Acquire, Arc, Relaxed, Release, SeqCst, fence},
    table::Table,
};

/// Why a connection was not installed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The original key is in the table, as either direction of this connection. Another worker may be about to finish
    /// installing it: then reading it says [`Busy`](Unreadable::Busy).
    #[error("the connection exists: {0:?}")]
    Exists(FlowRef),
    /// The reply key is in the table, as either direction of this connection: for SNAT, try another port.
    #[error("the reply key belongs to {0:?}")]
    ReplyTaken(FlowRef),
    /// The limit is reached, no slot is free, or (of keys that are new, one in 10⁷ in a full table, one in 10¹⁰ at 80 %) no
    /// place in the index.
    #[error("the flow table is full")]
    Full,
}

/// What a re-decision came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The connection goes on with what was written.
    Keep,
    /// The connection is removed.
    Remove,
}

/// The part of the slots that a worker sweeps: chunks of 64 slots, dealt round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which of the sweeping workers this is, from 0.
    pub index: u32,
    /// How many workers sweep.
    pub of: u32,
}

impl Share {
    /// Everything, for a single worker.
    pub const ALL: Self = Self { index: 0, of: 1 };
}

/// One worker's way to change a [`Table`]. Holds its free slots and those in limbo; give it back by dropping it.
#[derive(Debug)]
pub struct Writer<const K: usize, const W: usize> {
    pub(crate) table: Arc<Table<K, W>>,
    worker: usize,
    /// No other thread changes the table.
    is_alone: bool,
    slots: Slots,
    pub(crate) share: Share,
    /// Next slot to sweep, counted within the share.
    pub(crate) hand: u32,
}

impl<const K: usize, const W: usize> Table<K, W> {
    /// The way for `worker`'s thread to change the table. Memory for its lists is taken here.
    ///
    /// # Panics
    /// If `worker` is of another domain or has a writer of this table already, or `share` is impossible, or while there is a
    /// [sole writer](Self::sole_writer).
    pub fn writer(self: &Arc<Self>, worker: &Worker, share: Share) -> Writer<K, W> {
        self.seated(worker, share, false)
    }

    /// The same where no other thread changes the table for as long as this writer lives, which spares it the locked instructions that
    /// keep writers apart. Others may read.
    ///
    /// # Panics
    /// As [`writer`](Self::writer), and if there is any writer.
    pub fn sole_writer(self: &Arc<Self>, worker: &Worker) -> Writer<K, W> {
        self.seated(worker, Share::ALL, true)
    }

    fn seated(self: &Arc<Self>, worker: &Worker, share: Share, is_alone: bool) -> Writer<K, W> {
        assert!(
            Arc::ptr_eq(worker.domain(), self.domain()),
            "the worker is of another domain"
        );
        assert!(share.index < share.of, "share {} of {}", share.index, share.of);
        let seat = &self.worker_counters(worker.index()).taken;
        // Acquire pairs with the Release in `Writer::drop`.
        let free = seat.compare_exchange(0, 1, Acquire, Relaxed).is_ok();
        assert!(
            free,
            "worker {} has a writer of this table already",
            worker.index()
        );
        // Last, so that who is refused leaves nothing behind.
        if !self.seats.join(is_alone) {
            // Release as in `Writer::drop`.
            seat.store(0, Release);
            panic!("a worker that is to be the only one to change the table, and another one");
        }
        Writer {
            table: Arc::clone(self),
            worker: worker.index(),
            is_alone,
            slots: Slots::new(),
            share,
            hand: 0,
        }
    }
}

impl<const K: usize, const W: usize> Writer<K, W> {
    /// The table this changes.
    pub fn table(&self) -> &Arc<Table<K, W>> {
        &self.table
    }

    /// Installs a connection: both directions or none. `init` writes the payload and the state bits, which start at 0.
    ///
    /// Of several workers that install the same key at once, exactly one wins. Nobody sees the connection before its
    /// payload is complete. If both keys are equal, the connection is found in its original direction only.
    pub fn insert(
        &mut self,
        original: &[u64; K],
        reply: &[u64; K],
        init: impl FnOnce(&mut Both<'_, K, W>),
    ) -> Result<FlowRef, Refused> {
        let hashes = [self.table.hash(original), self.table.hash(reply)];
        self.insert_hashed([original, reply], hashes, init)
    }

    /// [`insert`](Self::insert) with the hashes of original and reply key at hand.
    pub fn insert_hashed(
        &mut self,
        keys: [&[u64; K]; 2],
        hashes: [FlowHash; 2],
        init: impl FnOnce(&mut Both<'_, K, W>),
    ) -> Result<FlowRef, Refused> {
        let table = &*self.table;
        table.prefetch(hashes[1]);
        // Who is there already costs no slot: a search for a free SNAT port meets many.
        if let Some(flow) = table.lookup(keys[0], hashes[0]) {
            return Err(Refused::Exists(flow));
        }
        if let Some(flow) = table.lookup(keys[1], hashes[1]) {
            return Err(table.lost_to(flow.slot(), keys));
        }
        self.insert_missed(keys, hashes, init)
    }

    /// [`insert_hashed`](Self::insert_hashed) without looking first whether one of the keys is there already: for a key that was just
    /// looked up in vain. The result is the same; if one is, it costs a slot until a later batch.
    pub fn insert_missed(
        &mut self,
        keys: [&[u64; K]; 2],
        hashes: [FlowHash; 2],
        init: impl FnOnce(&mut Both<'_, K, W>),
    ) -> Result<FlowRef, Refused> {
        let table = &*self.table;
        let counters = table.worker_counters(self.worker);
        let is_alone = self.is_alone;
        // Nobody can get ahead of one that is alone, so it looks before it places.
        if is_alone && let Some(refused) = table.occupied(NO_SLOT, keys, hashes) {
            counters.increment(Count::RacesLost);
            return Err(refused);
        }
        let Some(slot) = self.slots.allocate(table) else {
            counters.increment(Count::RefusedFull);
            return Err(Refused::Full);
        };
        let installing = install(table, slot, keys, init);
        let one_key = keys[0] == keys[1];
        // The reply key goes first; readers see neither until the state says so.
        let index = table.index();
        let place = |hash, direction| index.place(hash, FlowRef::of(slot, direction).index(), is_alone);
        let reply_placed = one_key || place(hashes[1], Direction::Reply);
        let placed = [place(hashes[0], Direction::Original), reply_placed];
        let outcome = if placed != [true, true] {
            Err(Refused::Full)
        } else if is_alone {
            table.commit_alone(slot, &installing);
            Ok(())
        } else {
            table.commit(slot, keys, hashes, &installing)
        };
        match outcome {
            Ok(()) => {
                self.slots.spend_credit();
                counters.increment(Count::Inserts);
                Ok(FlowRef::of(slot, Direction::Original))
            }
            Err(refused) => {
                self.count(if refused == Refused::Full {
                    Count::RefusedIndex
                } else {
                    Count::RacesLost
                });
                // Nobody helps an Installing record along, and who aborted it has left it to us.
                for record in table.records(slot) {
                    record.force_state(|state| state.with_lifecycle(Lifecycle::Aborted));
                }
                if placed[0] {
                    index.unlink(hashes[0], FlowRef::of(slot, Direction::Original).index());
                }
                if placed[1] && !one_key {
                    index.unlink(hashes[1], FlowRef::of(slot, Direction::Reply).index());
                }
                self.slots.retire(table, slot);
                Err(refused)
            }
        }
    }

    /// Removes a connection, by either of its directions. Of several workers that try, exactly one gets `Ok`.
    ///
    /// The slot is reused only after every worker has passed a batch boundary.
    pub fn remove(&mut self, flow: FlowRef) -> Result<(), Unreadable> {
        self.remove_if(flow, |_| true)
    }

    /// Removes a connection if `judge` says so of the original direction's state bits, which then did not change
    /// before the removal. `Ok` also if `judge` declined.
    pub fn remove_if(&mut self, flow: FlowRef, judge: impl Fn(u64) -> bool) -> Result<(), Unreadable> {
        let mut state = self.table.record(flow.original()).state();
        loop {
            if !state.is_stable() {
                return Err(Unreadable::because(state));
            }
            if !judge(state.bits()) {
                return Ok(());
            }
            match self.remove_observed(flow.slot(), state) {
                Ok(()) => return Ok(()),
                Err(now) => state = now,
            }
        }
    }

    /// Removes the connection in `slot` if its state still is `observed`, which is stable.
    fn remove_observed(&mut self, slot: u32, observed: State) -> Result<(), State> {
        let hashes = self.table.hashes(slot);
        self.remove_hashed(slot, observed, hashes)
    }

    /// The same with the hashes of original and reply key at hand.
    pub(crate) fn remove_hashed(
        &mut self,
        slot: u32,
        observed: State,
        hashes: [FlowHash; 2],
    ) -> Result<(), State> {
        let [original, _] = self.table.records(slot);
        let closing = observed.closed().with_lifecycle(Lifecycle::Closing);
        if self.is_alone {
            original.change_state_alone(observed, closing)?;
        } else {
            original.change_state(observed, closing)?;
        }
        self.bury(slot, hashes);
        Ok(())
    }

    /// Gives the caller the exclusive right to rewrite both directions, unless another worker has it.
    ///
    /// Readers get either all of the old or all of the new, and [`Busy`](Unreadable::Busy) in between. If `decide`
    /// panics the connection stays busy for good: a worker that panics ends the process, and adoption drops it.
    pub fn redecide(
        &mut self,
        flow: FlowRef,
        decide: impl FnOnce(&mut Both<'_, K, W>) -> Decision,
    ) -> Result<Decision, Unreadable> {
        let slot = flow.slot();
        let records @ [original, reply] = self.table.records(slot);
        let mut before = original.state();
        loop {
            if !before.is_stable() {
                return Err(Unreadable::because(before));
            }
            match original.change_state(before, before.opened().with_lifecycle(Lifecycle::Deciding)) {
                Ok(()) => break,
                Err(now) => before = now,
            }
        }
        // The reply's bits may change, and its installer may finish, up to here.
        let reply_before = reply.force_state(|state| state.opened().with_lifecycle(Lifecycle::Deciding));
        let mut both = Both::open(records, [before.bits(), reply_before.bits()]);
        let decision = decide(&mut both);
        match decision {
            Decision::Keep => {
                // Plain stores: nobody else changes a Deciding state. The original goes last, so that a connection
                // whose original is Live is whole: adoption relies on it.
                let [bits, reply_bits] = both.bits;
                reply.set_state(
                    reply_before
                        .closed()
                        .with_lifecycle(Lifecycle::Live)
                        .with_bits(reply_bits),
                );
                original.set_state(before.opened().closed().with_bits(bits));
            }
            Decision::Remove => {
                original.set_state(before.opened().closed().with_lifecycle(Lifecycle::Closing));
                let hashes = self.table.hashes(slot);
                self.bury(slot, hashes);
            }
        }
        self.count(Count::Redecisions);
        Ok(decision)
    }

    /// Replaces the user's bits of the state word by what `next` makes of them, in one compare-exchange; `None` leaves
    /// them. Returns the bits as they are then. `next` may be called again if another worker was faster.
    pub fn update_state(
        &mut self,
        flow: FlowRef,
        mut next: impl FnMut(u64) -> Option<u64>,
    ) -> Result<u64, Unreadable> {
        let record = self.table.record(flow);
        let mut state = record.state();
        loop {
            if !state.is_stable() {
                return Err(Unreadable::because(state));
            }
            let Some(bits) = next(state.bits()) else {
                return Ok(state.bits());
            };
            match record.change_state(state, state.with_bits(bits)) {
                Ok(()) => return Ok(bits),
                Err(now) => state = now,
            }
        }
    }

    /// Moves removed slots on: call once per batch, after [`Worker::quiescent`]. Also done by
    /// [`sweep`](Self::sweep) and by an insert that finds no slot.
    pub fn maintain(&mut self) {
        self.slots.maintain(&self.table);
    }

    /// No other thread changes the table.
    #[inline]
    pub fn is_alone(&self) -> bool {
        self.is_alone
    }

    /// Slots this worker holds: free ones, and those in limbo.
    pub fn held(&self) -> (usize, usize) {
        self.slots.held()
    }

    fn count(&self, count: Count) {
        self.counters().increment(count);
    }

    fn counters(&self) -> &WorkerCounters {
        self.table.worker_counters(self.worker)
    }

    /// Takes a Closing connection, which is ours since its original's state changed, out of the index.
    fn bury(&mut self, slot: u32, hashes: [FlowHash; 2]) {
        let table = &*self.table;
        let [original, reply] = table.records(slot);
        let closing = |state: State| state.closed().with_lifecycle(Lifecycle::Closing);
        if self.is_alone {
            reply.set_state(closing(reply.state()));
        } else {
            reply.force_state(closing);
        }
        let index = table.index();
        let original_ref = FlowRef::of(slot, Direction::Original);
        let unlinked = index.unlink(hashes[0], original_ref.index());
        debug_assert!(unlinked, "a live original key is in the index");
        if original.key() != reply.key() {
            let unlinked = index.unlink(hashes[1], original_ref.peer().index());
            debug_assert!(unlinked, "a live reply key is in the index");
        }
        self.count(Count::Removes);
        self.slots.retire(&self.table, slot);
    }
}

impl<const K: usize, const W: usize> Drop for Writer<K, W> {
    fn drop(&mut self) {
        self.slots.give_back(&self.table);
        self.table.seats.leave();
        // Release pairs with the Acquire in `Table::seated`.
        self.counters().taken.store(0, Release);
    }
}

/// Who changes a table: so many writers, or one that is alone. A check, and no part of the protocol, so that loom need not see it.
#[derive(Debug, Default)]
pub(crate) struct Seats(std::sync::Mutex<Option<Sitting>>);

#[derive(Clone, Copy, Debug)]
enum Sitting {
    Several(u32),
    Alone,
}

impl Seats {
    /// Another one: among others unless one is alone, or alone unless there are any.
    fn join(&self, is_alone: bool) -> bool {
        let mut sitting = self.lock();
        let next = match *sitting {
            None if is_alone => Sitting::Alone,
            None => Sitting::Several(1),
            Some(Sitting::Several(count)) if !is_alone => Sitting::Several(count + 1),
            Some(_) => return false,
        };
        *sitting = Some(next);
        true
    }

    fn leave(&self) {
        let mut sitting = self.lock();
        *sitting = match *sitting {
            Some(Sitting::Several(count)) if count > 1 => Some(Sitting::Several(count - 1)),
            _ => None,
        };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Sitting>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Writes both records of a slot that is ours. Returns the state bits to commit.
fn install<const K: usize, const W: usize>(
    table: &Table<K, W>,
    slot: u32,
    keys: [&[u64; K]; 2],
    init: impl FnOnce(&mut Both<'_, K, W>),
) -> [u64; 2] {
    let records = table.records(slot);
    for (record, key) in records.iter().zip(keys) {
        let state = record.state();
        debug_assert_eq!(state.lifecycle(), Lifecycle::Free, "a slot was handed out twice");
        record.set_state(state.opened().with_lifecycle(Lifecycle::Installing).with_bits(0));
        record.write_key(key);
        record.clear_payload();
    }
    let mut both = Both::open(records, [0, 0]);
    init(&mut both);
    // At once: whoever decides the connection again, or adopts it, between the two steps of `commit` goes on from these. The
    // original's bits come with its Live state.
    let [_, reply] = records;
    reply.set_state(reply.state().with_bits(both.bits[1]));
    both.bits
}

impl<const K: usize, const W: usize> Table<K, W> {
    /// The hashes of both keys of a connection, which do not change while it may be found.
    pub(crate) fn hashes(&self, slot: u32) -> [FlowHash; 2] {
        self.records(slot).map(|record| self.hash(&record.key()))
    }

    /// Decides whether the placed connection in `slot` comes to life.
    ///
    /// Each contender has placed its keys before it looks for others, so of two with a common key at least one sees the
    /// other. The lower slot goes on and aborts the higher, the higher gives way: one of them wins, nobody waits.
    fn commit(
        &self,
        slot: u32,
        keys: [&[u64; K]; 2],
        hashes: [FlowHash; 2],
        bits: &[u64; 2],
    ) -> Result<(), Refused> {
        // Orders our placing before our looking. Pairs with itself in the other contender.
        fence(SeqCst);
        if let Some(refused) = self.occupied(slot, keys, hashes) {
            return Err(refused);
        }
        let [original, reply] = self.records(slot);
        let installing = original.state();
        let live = installing
            .closed()
            .with_lifecycle(Lifecycle::Live)
            .with_bits(bits[0]);
        let committed = installing.lifecycle() == Lifecycle::Installing
            && original.change_state(installing, live).is_ok();
        if !committed {
            // The contender that aborted us left its slot in the state's bits.
            let winner = original.state().bits() as u32;
            return Err(self.lost_to(winner, keys));
        }
        let installing = reply.state();
        if installing.lifecycle() == Lifecycle::Installing {
            // Fails if the connection is being removed or decided again already, which then sets the state.
            let _ = reply.change_state(
                installing,
                installing
                    .closed()
                    .with_lifecycle(Lifecycle::Live)
                    .with_bits(bits[1]),
            );
        }
        Ok(())
    }

    /// The placed connection in `slot`, whose keys no other has, comes to life: by the only thread that changes the table.
    fn commit_alone(&self, slot: u32, bits: &[u64; 2]) {
        for (record, bits) in self.records(slot).into_iter().zip(bits) {
            let live = record.state().closed().with_lifecycle(Lifecycle::Live);
            record.set_state(live.with_bits(*bits));
        }
    }

    /// Why the connection in `slot` must give way to another, if it must.
    fn occupied(&self, slot: u32, keys: [&[u64; K]; 2], hashes: [FlowHash; 2]) -> Option<Refused> {
        if let Some(holder) = self.contend(slot, keys[0], hashes[0]) {
            return Some(Refused::Exists(holder));
        }
        let holder = self.contend(slot, keys[1], hashes[1])?;
        Some(self.lost_to(holder.slot(), keys))
    }

    /// Another connection that holds `key` and to which `slot` must give way. Aborts those that must give way to us.
    fn contend(&self, slot: u32, key: &[u64; K], hash: FlowHash) -> Option<FlowRef> {
        self.index().find(hash, |record| {
            let flow = FlowRef::new(record);
            if flow.slot() == slot || !self.record(flow).has_key(key) {
                return None;
            }
            let original = self.record(flow.original());
            loop {
                let state = original.state();
                match state.lifecycle() {
                    Lifecycle::Live | Lifecycle::Deciding => return Some(flow),
                    Lifecycle::Installing if flow.slot() < slot => return Some(flow),
                    Lifecycle::Installing => {
                        let aborted = state.with_lifecycle(Lifecycle::Aborted).with_bits(slot.into());
                        if original.change_state(state, aborted).is_ok() {
                            return None;
                        }
                    }
                    Lifecycle::Free | Lifecycle::Closing | Lifecycle::Aborted => return None,
                }
            }
        })
    }

    /// What to tell an installer of `keys`, one of which the connection in slot `winner` has. The original key counts
    /// first: it may have become visible after the installer looked for it.
    fn lost_to(&self, winner: u32, keys: [&[u64; K]; 2]) -> Refused {
        let original = FlowRef::of(winner, Direction::Original);
        let holder = |key: &[u64; K]| {
            [original, original.peer()]
                .into_iter()
                .find(|&flow| self.record(flow).has_key(key))
        };
        match holder(keys[0]) {
            Some(flow) => Refused::Exists(flow),
            None => Refused::ReplyTaken(holder(keys[1]).unwrap_or(original)),
        }
    }
}

/// Stands for a slot that is none, above all others.
const NO_SLOT: u32 = u32::MAX;
