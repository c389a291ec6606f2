//! Generations: how a flow entry knows that what it was decided by has changed.
//!
//! An entry depends on four things: the policies of its two endpoints, its Service, its route. Each hashes to one of
//! [`SHARDS`] counters; the entry keeps the four shard numbers and the sum of their counters as its [`Stamp`]. A change
//! bumps only the shards of what it touches, so an entry whose sum differs is decided again, and the array stays in L1.
//!
//! **The order that makes it right.** Whoever publishes a snapshot bumps the shards only after every worker uses that
//! snapshot (or sleeps, and takes it when it wakes). A worker that stamps an entry with a new counter has therefore decided
//! it by the new snapshot; the other order would let a decision by the old one carry the new stamp for ever.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use crate::snapshot::{SHARDS, Shard};

/// The counters, one for each shard: words of the flow table's user area, so that a process which adopts the table
/// goes on counting.
#[derive(Clone, Copy, Debug)]
pub struct Generations<'t> {
    counters: &'t [AtomicU64; SHARDS],
}

impl<'t> Generations<'t> {
    /// Over the first [`SHARDS`] words.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn over(words: &'t [AtomicU64]) -> Self {
        Self {
            counters: words
                .first_chunk()
                .expect("the user area has a word for each shard"),
        }
    }

    /// Everything that hashes to `shard` has changed, in a snapshot that every worker uses by now.
    pub fn bump(self, shard: Shard) {
        // Release pairs with the Acquire in `sum`: who sees the bump has passed the snapshot's publication.
        self.counters[usize::from(shard.0) & MASK].fetch_add(1, Release);
    }

    /// Everything has changed: after adopting a table that another process left.
    pub fn bump_all(self) {
        for counter in self.counters {
            counter.fetch_add(ADOPTION, Release);
        }
    }

    /// The decision was another process's: what it says of adjacencies and rules means nothing here. (So is one that more
    /// changes outdated than a process sees in the life of a flow.)
    pub fn is_foreign(self, stamp: Stamp) -> bool {
        let behind = self.sum(stamp.0).wrapping_sub(stamp.0 >> SUM_SHIFT) & SUM_MASK;
        behind >= 4 * ADOPTION
    }

    /// The stamp of a decision made now by these shards.
    #[inline]
    pub fn stamp(self, shards: [Shard; 4]) -> Stamp {
        let packed = shards.iter().rev().fold(0u64, |word, shard| {
            word << SHARD_BITS | (u64::from(shard.0) & MASK as u64)
        });
        Stamp(packed | self.sum(packed) << SUM_SHIFT)
    }

    /// Nothing that `stamp` depends on has changed since. (A sum of 24 bits comes round after 16 million changes; an entry
    /// that sees no packet for so long has timed out.)
    #[inline]
    pub fn is_current(self, stamp: Stamp) -> bool {
        self.sum(stamp.0) == stamp.0 >> SUM_SHIFT
    }

    #[inline]
    fn sum(self, packed: u64) -> u64 {
        let mut sum = 0u64;
        for at in 0..4 {
            let shard = (packed >> (at * SHARD_BITS)) as usize & MASK;
            // Acquire pairs with `bump`; a plain load on x86.
            sum = sum.wrapping_add(self.counters[shard].load(Acquire));
        }
        sum & SUM_MASK
    }
}

/// Four shard numbers of ten bits and the 24-bit sum of their counters, as a flow entry keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Stamp(pub u64);

const SHARD_BITS: u32 = SHARDS.trailing_zeros();
const MASK: usize = SHARDS - 1;
const SUM_SHIFT: u32 = 4 * SHARD_BITS;
/// What an adoption adds to each counter: far more than changes do, and no divisor of the sum's range, so that a flow that slept
/// through many adoptions is not taken for a fresh one.
const ADOPTION: u64 = (1 << 18) + 1;
const SUM_MASK: u64 = (1 << (64 - SUM_SHIFT)) - 1;
const _: () = assert!(SHARDS.is_power_of_two() && SUM_SHIFT == 40);

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..SHARDS).map(|_| AtomicU64::new(0)).collect()
    }

    const SHARDS_OF_FLOW: [Shard; 4] = [Shard(3), Shard(1023), Shard(0), Shard(512)];

    #[test]
    fn a_bump_of_any_of_the_four_shards_outdates_a_stamp_and_no_other_does() {
        for shard in SHARDS_OF_FLOW {
            let words = words();
            let generations = Generations::over(&words);
            let stamp = generations.stamp(SHARDS_OF_FLOW);
            generations.bump(Shard(4));
            assert!(generations.is_current(stamp));
            generations.bump(shard);
            assert!(!generations.is_current(stamp));
            assert!(generations.is_current(generations.stamp(SHARDS_OF_FLOW)));
        }
    }

    #[test]
    fn adoption_outdates_every_stamp() {
        let words = words();
        let generations = Generations::over(&words);
        let stamp = generations.stamp(SHARDS_OF_FLOW);
        generations.bump_all();
        assert!(!generations.is_current(stamp));
    }

    #[test]
    fn a_foreign_stamp_is_told_from_an_outdated_one() {
        let words = words();
        let generations = Generations::over(&words);
        let stamp = generations.stamp(SHARDS_OF_FLOW);
        for _ in 0..10_000 {
            generations.bump(SHARDS_OF_FLOW[0]);
        }
        assert!(!generations.is_foreign(stamp));
        for _ in 0..15 {
            generations.bump_all();
            assert!(generations.is_foreign(stamp));
        }
        for _ in 0..100 {
            generations.bump_all();
            assert!(!generations.is_current(stamp));
        }
    }

    #[test]
    fn a_shard_that_an_entry_depends_on_twice_counts_twice() {
        let words = words();
        let generations = Generations::over(&words);
        let twice = [Shard(9); 4];
        let stamp = generations.stamp(twice);
        assert!(generations.is_current(stamp));
        generations.bump(Shard(9));
        assert!(!generations.is_current(stamp));
    }
}
