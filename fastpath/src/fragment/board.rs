//! The board of first fragments: what became of each, shared by all workers.
//!
//! A worker's own [tracker](super::track) remembers what it saw; the parts of a datagram may come to another worker (the kernel
//! rehashes, a port's queues are spread over workers), which finds the outcome here. A worker that holds parts looks again when
//! [`Board::posted`] has moved.
//!
//! The table is of fixed size: a source's entries lie in one region of it, so a flood of one source displaces a small part of the
//! others' entries at most. An entry that is displaced or that two workers write at once may be lost: the worker that
//! made it still has it, another one's fragments wait in vain and time out. Nobody waits for anybody: a writer takes an entry
//! by one compare-exchange and passes over one that another writer has; a reader that sees an entry change takes it as absent.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use super::key::{FragmentKey, Hashes, KEY_WORDS};

/// Words of an outcome.
pub const OUTCOME_WORDS: usize = 8;

/// Outcomes of first fragments by key.
#[derive(Debug)]
pub struct Board {
    entries: Box<[Entry]>,
    /// Sets that the entries of one source are spread over, a power of two.
    sets_of_source: usize,
    seed: u64,
    timeout_ns: u64,
    posted: AtomicU64,
}

/// One outcome: a sequence lock over plain words.
#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    /// Odd while it is written; 0: never was.
    sequence: AtomicU64,
    deadline_ns: AtomicU64,
    key: [AtomicU64; KEY_WORDS],
    outcome: [AtomicU64; OUTCOME_WORDS],
}

impl Board {
    /// For `datagrams`, `of_source` of them of one source, each remembered for `timeout_ns`; `seed` keys its hash. There is
    /// room for four times as many, 128 B each, since hashing fills it unevenly.
    pub fn new(datagrams: u32, of_source: u32, timeout_ns: u64, seed: u64) -> Self {
        let sets_for = |datagrams: u32| (datagrams as usize * ROOM).div_ceil(WAYS).next_power_of_two();
        let sets_of_source = sets_for(of_source);
        let sets = sets_for(datagrams).max(sets_of_source);
        Self {
            entries: (0..sets * WAYS).map(|_| Entry::new()).collect(),
            sets_of_source,
            seed,
            timeout_ns,
            posted: AtomicU64::new(0),
        }
    }

    /// A number that has moved when an outcome may have been posted since it was read.
    #[inline]
    pub fn posted(&self) -> u64 {
        // Acquire: pairs with the increment in `post`; whoever sees it finds the entry posted before.
        self.posted.load(Acquire)
    }

    /// A first fragment got this outcome at `now_ns`. It replaces the outcome of an earlier datagram with the same key.
    pub fn post(&self, key: &FragmentKey, outcome: [u64; OUTCOME_WORDS], now_ns: u64) {
        let words = key.words();
        let set = self.set(key);
        let mut tried = 0_usize;
        for _ in 0..WAYS {
            let untried = set.iter().enumerate().filter(|(at, _)| tried & 1 << at == 0);
            let ranked = untried.map(|(at, entry)| (entry.rank(&words), at, entry));
            let Some(((_, sequence), at, entry)) = ranked.min_by_key(|((age, _), ..)| *age) else {
                break;
            };
            if entry.write(sequence, &words, &outcome, now_ns.saturating_add(self.timeout_ns)) {
                break;
            }
            tried |= 1 << at;
        }
        // Release: pairs with `posted`. Once for each first fragment, nothing else pays for it.
        self.posted.fetch_add(1, Release);
    }

    /// What became of the datagram's first fragment, where some worker saw it and it is still remembered at `now_ns`.
    pub fn find(&self, key: &FragmentKey, now_ns: u64) -> Option<[u64; OUTCOME_WORDS]> {
        let words = key.words();
        let found = self.set(key).iter().filter_map(|entry| entry.read(&words));
        // Two workers may have posted the same key at once: the later one counts.
        let (deadline_ns, outcome) = found.max_by_key(|(deadline_ns, _)| *deadline_ns)?;
        (now_ns < deadline_ns).then_some(outcome)
    }

    fn set(&self, key: &FragmentKey) -> &[Entry] {
        let sets = self.entries.len() / WAYS;
        let within = self.sets_of_source - 1;
        let Hashes { datagram, source } = key.hashes(self.seed);
        let region = source as usize & (sets - 1) & !within;
        let set = region | (datagram as usize & within);
        &self.entries[set * WAYS..(set + 1) * WAYS]
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            sequence: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(0),
            key: std::array::from_fn(|_| AtomicU64::new(0)),
            outcome: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// How soon it gives way to `key`, its own first, and its sequence at that moment.
    fn rank(&self, key: &[u64; KEY_WORDS]) -> (u64, u64) {
        // Acquire: what is read below is at least as new, so that an entry written since is not taken for the one it was.
        let sequence = self.sequence.load(Acquire);
        // Relaxed: `write` fails where the sequence has moved.
        let is_its = self
            .key
            .iter()
            .zip(key)
            .all(|(word, wanted)| word.load(Relaxed) == *wanted);
        let age = if sequence != 0 && is_its {
            0
        } else {
            self.deadline_ns.load(Relaxed).max(1)
        };
        (age, sequence)
    }

    /// False, and nothing done, while another worker writes it, or when one has since its sequence was `before`.
    fn write(
        &self,
        before: u64,
        key: &[u64; KEY_WORDS],
        outcome: &[u64; OUTCOME_WORDS],
        deadline_ns: u64,
    ) -> bool {
        let odd = before.wrapping_add(1);
        // Acquire: what we write comes after; a writer before us is done. Relaxed on failure: nothing is done.
        if before % 2 == 1
            || self
                .sequence
                .compare_exchange(before, odd, Acquire, Relaxed)
                .is_err()
        {
            return false;
        }
        // Pairs with the fence in `read`: who reads one of the words below sees the odd number after it.
        fence(Release);
        // Relaxed: the sequence orders them.
        self.deadline_ns.store(deadline_ns, Relaxed);
        for (place, word) in self.key.iter().zip(key) {
            place.store(*word, Relaxed);
        }
        for (place, word) in self.outcome.iter().zip(outcome) {
            place.store(*word, Relaxed);
        }
        // Release: pairs with the load at the beginning of `read`; who sees this number sees the words.
        self.sequence.store(before.wrapping_add(2), Release);
        true
    }

    /// Deadline and outcome, where it is whole and of `key`.
    fn read(&self, key: &[u64; KEY_WORDS]) -> Option<(u64, [u64; OUTCOME_WORDS])> {
        // Acquire: pairs with the store at the end of `write`.
        let before = self.sequence.load(Acquire);
        if before == 0 || before % 2 == 1 {
            return None;
        }
        // Relaxed: the sequence orders them.
        let is_it = self
            .key
            .iter()
            .zip(key)
            .all(|(word, wanted)| word.load(Relaxed) == *wanted);
        let deadline_ns = self.deadline_ns.load(Relaxed);
        let outcome = std::array::from_fn(|at| self.outcome[at].load(Relaxed));
        // Pairs with the fence in `write`: had one of the words been a later writer's, its number would be seen below.
        fence(Acquire);
        (is_it && self.sequence.load(Relaxed) == before).then_some((deadline_ns, outcome))
    }
}

/// Entries of a set: where a key may lie.
const WAYS: usize = 8;
/// Entries for each datagram asked for.
const ROOM: usize = 4;
const _: () = assert!(size_of::<Entry>() == 128);

#[cfg(test)]
mod tests;
