//! Records: one direction of a connection, `W` words. Words `0..K` are the key, word `K` the state, the rest payload.

use std::num::NonZeroU32;

use crate::{
    state::{Lifecycle, State},
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release, fence},
};

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The way of the first packet.
    Original = 0,
    /// The way back.
    Reply = 1,
}

/// One direction of one connection: `slot * 2 + direction`, in 32 bits also as an `Option`.
///
/// Valid in the batch in which it was found: past the worker's next
/// [`quiescent`](crate::Worker::quiescent) call it may name another connection. Using one too long is memory-safe, and wrong.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowRef(NonZeroU32);

impl FlowRef {
    /// Some flow, which a table always has room for.
    pub(crate) const ANY: Self = Self(NonZeroU32::MIN);

    /// What a lane of the index holds: a record's index plus one, or 0.
    #[inline]
    pub(crate) fn in_lane(lane: u32) -> Option<Self> {
        NonZeroU32::new(lane).map(Self)
    }

    #[inline]
    pub(crate) fn new(index: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index))
    }

    #[inline]
    pub(crate) fn of(slot: u32, direction: Direction) -> Self {
        Self::new(slot * 2 + direction as u32)
    }

    /// `slot * 2 + direction`.
    #[inline]
    pub fn index(self) -> u32 {
        self.0.get() - 1
    }

    /// The connection's number, below [`Table::slots`](crate::Table::slots).
    #[inline]
    pub fn slot(self) -> u32 {
        self.index() / 2
    }

    /// Which direction of the connection this is.
    #[inline]
    pub fn direction(self) -> Direction {
        if self.index().is_multiple_of(2) {
            Direction::Original
        } else {
            Direction::Reply
        }
    }

    /// The other direction of the same connection.
    #[inline]
    #[must_use]
    pub fn peer(self) -> Self {
        Self::new(self.index() ^ 1)
    }

    /// The original direction of the same connection.
    #[inline]
    #[must_use]
    pub fn original(self) -> Self {
        Self::of(self.slot(), Direction::Original)
    }
}

impl std::fmt::Debug for FlowRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "flow {} {:?}", self.slot(), self.direction())
    }
}

/// Why a record could not be read or changed just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Another worker is installing or rewriting it: take the slow path, or drop and let the sender try again.
    #[error("another worker is writing the flow")]
    Busy,
    /// The connection was removed: as if the lookup had missed.
    #[error("the flow is gone")]
    Gone,
}

impl Unreadable {
    pub(crate) fn because(state: State) -> Self {
        match state.lifecycle() {
            Lifecycle::Live | Lifecycle::Deciding | Lifecycle::Installing => Self::Busy,
            Lifecycle::Free | Lifecycle::Closing | Lifecycle::Aborted => Self::Gone,
        }
    }
}

/// A consistent copy of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot<const K: usize, const W: usize> {
    words: [u64; W],
}

impl<const K: usize, const W: usize> Snapshot<K, W> {
    /// The state word at the time of the copy.
    #[inline]
    pub fn state(&self) -> State {
        State(self.words[K])
    }

    /// Payload word `at`, below `W - K - 1`.
    #[inline]
    pub fn word(&self, at: usize) -> u64 {
        self.words[K + 1 + at]
    }

    /// All payload words, `W - K - 1` of them.
    #[inline]
    pub fn payload(&self) -> &[u64] {
        &self.words[K + 1..]
    }

    /// The key.
    pub fn key(&self) -> [u64; K] {
        std::array::from_fn(|at| self.words[at])
    }
}

/// A record in place: single words, each read or written whole, with nothing promised between them.
///
/// This is the way to what changes with every packet: when it was seen last, counters. Two workers that write the same
/// word at once lose one of the updates. For words that belong together use [`Table::read`](crate::Table::read).
#[derive(Clone, Copy, Debug)]
pub struct Record<'t, const K: usize, const W: usize> {
    words: &'t [AtomicU64; W],
}

impl<'t, const K: usize, const W: usize> Record<'t, K, W> {
    #[inline]
    pub(crate) fn new(words: &'t [AtomicU64; W]) -> Self {
        Self { words }
    }

    /// The key. It does not change while the reference to the record is valid.
    pub fn key(self) -> [u64; K] {
        // Relaxed: the key was written before its index was published, and we got here by the index.
        std::array::from_fn(|at| self.words[at].load(Relaxed))
    }

    /// The first words of the key, and no others: a load that nobody needs waits for its line, too.
    #[inline]
    pub fn key_start<const N: usize>(self) -> [u64; N] {
        const { assert!(N <= K) };
        // Relaxed: as in `key`.
        std::array::from_fn(|at| self.words[at].load(Relaxed))
    }

    #[inline]
    pub(crate) fn has_key(self, key: &[u64; K]) -> bool {
        // Without a branch per word: the first difference is nearly always no difference.
        // Relaxed: as in `key`.
        (0..K).fold(0, |differs, at| {
            differs | (self.words[at].load(Relaxed) ^ key[at])
        }) == 0
    }

    /// The state word.
    #[inline]
    pub fn state(self) -> State {
        // Acquire pairs with every release of the word: what was written before it is visible.
        State(self.words[K].load(Acquire))
    }

    /// Payload word `at`, below `W - K - 1`.
    #[inline]
    pub fn word(self, at: usize) -> u64 {
        // Relaxed: promised by itself only.
        self.words[K + 1 + at].load(Relaxed)
    }

    /// Writes payload word `at`, below `W - K - 1`. A plain store.
    #[inline]
    pub fn store(self, at: usize, value: u64) {
        // Relaxed: promised by itself only.
        self.words[K + 1 + at].store(value, Relaxed);
    }

    /// Adds to payload word `at` by a load and a store: beside another worker one of the two additions may be lost.
    #[inline]
    pub fn add(self, at: usize, value: u64) {
        self.store(at, self.word(at).wrapping_add(value));
    }

    /// The raw words, for links between free slots.
    pub(crate) fn raw(self, at: usize) -> &'t AtomicU64 {
        &self.words[at]
    }

    pub(crate) fn write_key(self, key: &[u64; K]) {
        for (word, &value) in self.words.iter().zip(key) {
            // Relaxed: published by the index.
            word.store(value, Relaxed);
        }
    }

    pub(crate) fn clear_payload(self) {
        for word in &self.words[K + 1..] {
            // Relaxed: published by the index.
            word.store(0, Relaxed);
        }
    }

    pub(crate) fn set_state(self, state: State) {
        // Release pairs with the Acquire in `state` and `read`.
        self.words[K].store(state.0, Release);
    }

    /// Replaces exactly `from`; else tells what is there.
    pub(crate) fn change_state(self, from: State, to: State) -> Result<(), State> {
        // Acquire: the winner sees what the last one wrote; Release: the next one sees what the winner wrote.
        self.words[K]
            .compare_exchange(from.0, to.0, AcqRel, Acquire)
            .map(drop)
            .map_err(State)
    }

    /// [`change_state`](Self::change_state) by the only thread that changes states: a load and a store.
    pub(crate) fn change_state_alone(self, from: State, to: State) -> Result<(), State> {
        let now = self.state();
        if now != from {
            return Err(now);
        }
        self.set_state(to);
        Ok(())
    }

    /// Replaces the state whatever it is by what `next` makes of it.
    pub(crate) fn force_state(self, next: impl Fn(State) -> State) -> State {
        let mut from = self.state();
        while let Err(now) = self.change_state(from, next(from)) {
            from = now;
        }
        from
    }

    /// A consistent copy, by the sequence number: state, words, state again. No locked instruction.
    #[inline]
    pub(crate) fn read(self) -> Result<Snapshot<K, W>, Unreadable> {
        for _ in 0..READS_MAX {
            let before = self.state();
            if !before.is_stable() {
                return Err(Unreadable::because(before));
            }
            let mut words = [0; W];
            for (copy, word) in words.iter_mut().zip(self.words) {
                // Relaxed: the fence below orders them before the second look at the state.
                *copy = word.load(Relaxed);
            }
            // Pairs with the Release fence of `Both::open`: had we read a word of a rewrite, we would see its state.
            fence(Acquire);
            if State(self.words[K].load(Relaxed)).guard() == before.guard() {
                words[K] = before.0;
                return Ok(Snapshot { words });
            }
        }
        Err(Unreadable::Busy)
    }
}

impl<const K: usize, const W: usize> Record<'_, K, W> {
    /// State and some payload words, by one attempt of [`read`](Self::read). Whether the state is
    /// [stable](State::is_stable) is the caller's to ask: in another one the words say nothing.
    #[inline]
    pub(crate) fn peek<const N: usize>(self, at: [usize; N]) -> Option<(State, [u64; N])> {
        let before = self.state();
        // Relaxed: as in `read`. A loop, since a closure over an array is called where much is inlined around it.
        let mut words = [0; N];
        for (word, at) in words.iter_mut().zip(at) {
            *word = self.word(at);
        }
        // Pairs with the Release fence of `Both::open`, as in `read`.
        fence(Acquire);
        let same = State(self.words[K].load(Relaxed)).guard() == before.guard();
        same.then_some((before, words))
    }
}

/// A reader that met this many rewrites in a row calls the record busy, so that its work per packet has a bound.
const READS_MAX: usize = 4;

/// Both directions of a connection, held exclusively: what [`Writer::insert`](crate::Writer::insert) and
/// [`Writer::redecide`](crate::Writer::redecide) give to their closure.
///
/// Words that are not set keep their values (in an insert: 0).
#[derive(Debug)]
pub struct Both<'t, const K: usize, const W: usize> {
    pub(crate) records: [Record<'t, K, W>; 2],
    pub(crate) bits: [u64; 2],
}

impl<'t, const K: usize, const W: usize> Both<'t, K, W> {
    /// Everything written through the result is invisible to readers who saw the state before.
    pub(crate) fn open(records: [Record<'t, K, W>; 2], bits: [u64; 2]) -> Self {
        // Pairs with the Acquire fence in `Record::read`.
        fence(Release);
        Self { records, bits }
    }

    /// The key of one direction.
    pub fn key(&self, direction: Direction) -> [u64; K] {
        self.records[direction as usize].key()
    }

    /// Payload word `at` of one direction.
    pub fn word(&self, direction: Direction, at: usize) -> u64 {
        self.records[direction as usize].word(at)
    }

    /// Sets payload word `at` of one direction.
    pub fn set_word(&mut self, direction: Direction, at: usize, value: u64) {
        self.records[direction as usize].store(at, value);
    }

    /// Sets the first payload words of one direction.
    pub fn set_words(&mut self, direction: Direction, values: &[u64]) {
        for (at, &value) in values.iter().enumerate() {
            self.set_word(direction, at, value);
        }
    }

    /// The user's bits of one direction's state word.
    pub fn bits(&self, direction: Direction) -> u64 {
        self.bits[direction as usize]
    }

    /// Sets the user's bits of one direction's state word, at most [`State::USER_MAX`]. They become visible at the end.
    pub fn set_bits(&mut self, direction: Direction, bits: u64) {
        debug_assert!(bits <= State::USER_MAX, "user bits {bits:#x} exceed 44 bits");
        self.bits[direction as usize] = bits & State::USER_MAX;
    }
}
