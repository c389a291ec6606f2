//! Generations: how a flow entry knows that what it was decided by has changed.
//!
//! An entry depends on its two ends: an endpoint of this node (its policy, its port) or the route to it, each; and on what else is
//! known of the address of the end that is not here: a VIP, a Service's backend, a member of policy's sets. Each of the three
//! hashes to a counter; the entry keeps the three shard numbers and the sum of their counters as its [`Stamp`]. A change bumps
//! only the shards of what it touches, so an entry whose sum differs is decided again, and of the arrays only what is in use is
//! in the caches.
//!
//! **The order that makes it right.** Whoever publishes a snapshot bumps the shards only after every worker uses that
//! snapshot (or sleeps, and takes it when it wakes). A worker that stamps an entry with a new counter has therefore decided
//! it by the new snapshot; the other order would let a decision by the old one carry the new stamp for ever.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};

use crate::snapshot::{ADDRESS_SHARDS, PLACE_SHARDS, Shard};

/// Words of the flow table's user area that the counters take.
pub const WORDS: usize = PLACE_SHARDS + ADDRESS_WORDS;

/// The counters, in the flow table's user area, so that a process which adopts the table goes on counting.
#[derive(Clone, Copy, Debug)]
pub struct Generations<'t> {
    /// One in each word.
    places: &'t [AtomicU64; PLACE_SHARDS],
    /// Four of 16 bits in each word. One that comes round adds to its neighbour: a flow is decided again for nothing.
    addresses: &'t [AtomicU64; ADDRESS_WORDS],
}

impl<'t> Generations<'t> {
    /// Over the first [`WORDS`] words.
    ///
    /// # Panics
    /// If there are fewer.
    #[inline]
    pub fn over(words: &'t [AtomicU64]) -> Self {
        let counters = words
            .split_first_chunk()
            .and_then(|(places, rest)| Some((places, rest.first_chunk()?)));
        let (places, addresses) = counters.expect("the user area has a word for each counter");
        Self { places, addresses }
    }

    /// Everything that hashes to `shard` has changed, in a snapshot that every worker uses by now.
    pub fn bump(self, shard: Shard) {
        let at = shard.0 as usize;
        let (word, one) = match at.checked_sub(PLACE_SHARDS) {
            None => (&self.places[at], 1),
            Some(at) => (
                &self.addresses[at / LANES % ADDRESS_WORDS],
                1 << (at % LANES * LANE_BITS),
            ),
        };
        // Release pairs with the Acquire in `sum`: who sees the bump has passed the snapshot's publication.
        word.fetch_add(one, Release);
    }

    /// Everything has changed: after adopting a table that another process left. Every entry depends on two places.
    pub fn bump_all(self) {
        for counter in self.places {
            counter.fetch_add(ADOPTION, Release);
        }
    }

    /// The decision was another process's: what it says of adjacencies and rules means nothing here. (So is one that more
    /// changes outdated than a process sees in the life of a flow. One whose address's counter came round since is not: its sum
    /// seems to have gone back a little.)
    pub fn is_foreign(self, stamp: Stamp) -> bool {
        let behind = self.sum(stamp.0).wrapping_sub(stamp.0 >> SUM_SHIFT) & SUM_MASK;
        (2 * ADOPTION..SUM_MASK + 1 - WRAPS).contains(&behind)
    }

    /// The stamp of a decision made now by these shards: two places and an address.
    #[inline]
    pub fn stamp(self, shards: [Shard; 3]) -> Stamp {
        let [one, other, address] = shards.map(|shard| u64::from(shard.0));
        let packed = one & PLACE_MASK
            | (other & PLACE_MASK) << PLACE_BITS
            | (address.wrapping_sub(PLACE_SHARDS as u64) & ADDRESS_MASK) << (2 * PLACE_BITS);
        Stamp(packed | self.sum(packed) << SUM_SHIFT)
    }

    /// Nothing that `stamp` depends on has changed since. (A place's counter comes round after 16 million changes, an address's after
    /// 65,536: an entry that sees no packet for just so many has long timed out.)
    #[inline]
    pub fn is_current(self, stamp: Stamp) -> bool {
        self.sum(stamp.0) == stamp.0 >> SUM_SHIFT
    }

    #[inline]
    fn sum(self, packed: u64) -> u64 {
        // Acquire pairs with `bump`; plain loads on x86.
        let place = |at: u64| self.places[(at & PLACE_MASK) as usize].load(Acquire);
        let address = (packed >> (2 * PLACE_BITS) & ADDRESS_MASK) as usize;
        let word = self.addresses[address / LANES].load(Acquire);
        let lane = word >> (address % LANES * LANE_BITS) & LANE_MASK;
        place(packed)
            .wrapping_add(place(packed >> PLACE_BITS))
            .wrapping_add(lane)
            & SUM_MASK
    }
}

/// Two places of ten bits, an address of 20 and the 24-bit sum of their counters, as a flow entry keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Stamp(pub u64);

const PLACE_BITS: u32 = PLACE_SHARDS.trailing_zeros();
const PLACE_MASK: u64 = PLACE_SHARDS as u64 - 1;
const ADDRESS_MASK: u64 = ADDRESS_SHARDS as u64 - 1;
/// Counters of a word, and bits of each.
const LANES: usize = 4;
const LANE_BITS: usize = 16;
const LANE_MASK: u64 = (1 << LANE_BITS) - 1;
const ADDRESS_WORDS: usize = ADDRESS_SHARDS / LANES;
const SUM_SHIFT: u32 = 40;
/// What an adoption adds to each place's counter: far more than changes do, and no divisor of the sum's range, so that a flow that
/// slept through many adoptions is not taken for a fresh one.
const ADOPTION: u64 = (1 << 19) + 1;
/// As much as a sum goes back when the counter of its address comes round, twice at most in the life of a flow.
const WRAPS: u64 = 2 << LANE_BITS;
const SUM_MASK: u64 = (1 << (64 - SUM_SHIFT)) - 1;
const _: () = assert!(PLACE_SHARDS.is_power_of_two() && ADDRESS_SHARDS.is_power_of_two());
const _: () = assert!(2 * PLACE_BITS + ADDRESS_SHARDS.trailing_zeros() <= SUM_SHIFT);

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<AtomicU64> {
        (0..WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    const ADDRESS: u32 = PLACE_SHARDS as u32 + 6;
    const SHARDS_OF_FLOW: [Shard; 3] = [Shard(3), Shard(1023), Shard(ADDRESS)];

    #[test]
    fn a_bump_of_any_of_the_three_shards_outdates_a_stamp_and_no_other_does() {
        for shard in SHARDS_OF_FLOW {
            let words = words();
            let generations = Generations::over(&words);
            let stamp = generations.stamp(SHARDS_OF_FLOW);
            for other in [4, ADDRESS - 1, ADDRESS + 1, ADDRESS + 4] {
                generations.bump(Shard(other));
            }
            assert!(generations.is_current(stamp));
            generations.bump(shard);
            assert!(!generations.is_current(stamp));
            assert!(generations.is_current(generations.stamp(SHARDS_OF_FLOW)));
        }
    }

    #[test]
    fn the_last_shards_have_counters_of_their_own() {
        let words = words();
        let generations = Generations::over(&words);
        let last = Shard((PLACE_SHARDS + ADDRESS_SHARDS - 1) as u32);
        let stamp = generations.stamp([Shard(0), Shard(0), last]);
        generations.bump(Shard(last.0 - 1));
        assert!(generations.is_current(stamp));
        generations.bump(last);
        assert!(!generations.is_current(stamp));
    }

    #[test]
    fn a_counter_of_an_address_that_comes_round_leaves_its_own_stamps_right() {
        let words = words();
        let generations = Generations::over(&words);
        for _ in 0..(1 << LANE_BITS) - 1 {
            generations.bump(SHARDS_OF_FLOW[2]);
        }
        let stamp = generations.stamp(SHARDS_OF_FLOW);
        generations.bump(SHARDS_OF_FLOW[2]);
        assert!(!generations.is_current(stamp));
        assert!(!generations.is_foreign(stamp));
        assert!(generations.is_current(generations.stamp(SHARDS_OF_FLOW)));
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
        let twice = [Shard(9), Shard(9), SHARDS_OF_FLOW[2]];
        let stamp = generations.stamp(twice);
        assert!(generations.is_current(stamp));
        generations.bump(Shard(9));
        assert!(!generations.is_current(stamp));
    }
}
