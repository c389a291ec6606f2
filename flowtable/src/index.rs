//! The index: buckets of one cache line that map a hash to the records whose keys may match.
//!
//! A key lives in its primary bucket, or, when that was full, in one of four alternates. The primary counts how many
//! of its keys each alternate holds, so that a miss normally reads one line and nothing is ever displaced. The index
//! alone decides nothing: a candidate is confirmed by the key in its record.
//!
//! | words of a bucket | bits | field |
//! | --- | --- | --- |
//! | 0, 1 | 4 × 16 each | signatures of lanes 0 to 7; 0: not (yet) matchable |
//! | 2 | 2 × 16 | signatures of lanes 8, 9 |
//! | 2 | 32.. 4 × 8 | keys of this primary that live in alternate 1 to 4 |
//! | 3..8 | 2 × 32 each | record index + 1 of lanes 0 to 9; 0: free |

use crate::{
    hash::FlowHash,
    prefetch::prefetch,
    record::FlowRef,
    signature::{LANES, clear, entry, matches, sign},
    sync::{AcqRel, Acquire, AtomicU64, Relaxed, Release},
};

/// One cache line.
pub(crate) type Bucket = [AtomicU64; 8];

/// A view of the buckets of a region.
#[derive(Clone, Copy)]
pub(crate) struct Index<'t> {
    buckets: &'t [Bucket],
}

/// How many other buckets a key may live in.
const ALTERNATES: usize = 4;

impl<'t> Index<'t> {
    #[inline]
    pub(crate) fn new(words: &'t [AtomicU64]) -> Self {
        Self {
            buckets: words.as_chunks().0,
        }
    }

    #[inline]
    fn primary(self, hash: FlowHash) -> usize {
        // A multiplication where a power of two would need a mask: the index is as large as it must be, no larger.
        ((hash.bucket_bits() * self.buckets.len() as u64) >> 32) as usize
    }

    #[inline]
    fn bucket(self, hash: FlowHash) -> &'t Bucket {
        &self.buckets[self.primary(hash)]
    }

    /// Alternate `nth` of 1 to 4. The stride is at most a fifth of the buckets, so that all five are distinct.
    #[inline]
    fn alternate(self, hash: FlowHash, nth: usize) -> usize {
        let buckets = self.buckets.len();
        let stride = 1 + ((hash.step_bits() * (buckets as u64 / 5)) >> 16) as usize;
        let at = self.primary(hash) + nth * stride.min(buckets / 5);
        if at < buckets { at } else { at - buckets }
    }

    /// Brings the primary bucket nearer.
    #[inline]
    pub(crate) fn prefetch(self, hash: FlowHash) {
        prefetch(self.bucket(hash));
    }

    /// What the primary bucket says at one glance: `None` for no candidate anywhere, else the first one. Where there is more
    /// to it (candidates elsewhere only, a lane that is just changing hands) the answer is some flow, for the caller to
    /// find that it is another and to ask [`find`](Self::find).
    #[inline]
    pub(crate) fn glance(self, hash: FlowHash) -> Option<FlowRef> {
        let bucket = self.bucket(hash);
        let mask = matches(bucket, hash.signature());
        if mask == 0 {
            return (overflow(bucket) != 0).then_some(FlowRef::ANY);
        }
        FlowRef::in_lane(entry(bucket, mask.trailing_zeros())).or(Some(FlowRef::ANY))
    }

    /// The primary bucket's candidates and whether there may be others elsewhere.
    #[inline]
    fn candidates(self, hash: FlowHash) -> Candidates<'t> {
        Candidates::of(self.bucket(hash), hash)
    }

    /// The first record among all candidates for which `confirm` gives a value.
    #[inline]
    pub(crate) fn find<R>(self, hash: FlowHash, mut confirm: impl FnMut(u32) -> Option<R>) -> Option<R> {
        let primary = self.candidates(hash);
        let overflow = primary.overflow;
        for record in primary {
            if let Some(found) = confirm(record) {
                return Some(found);
            }
        }
        if overflow == 0 {
            None
        } else {
            self.find_elsewhere(hash, overflow, confirm)
        }
    }

    #[cold]
    fn find_elsewhere<R>(
        self,
        hash: FlowHash,
        overflow: u32,
        mut confirm: impl FnMut(u32) -> Option<R>,
    ) -> Option<R> {
        (1..=ALTERNATES)
            .filter(|nth| overflow >> (8 * (nth - 1)) & 0xff != 0)
            .flat_map(|nth| Candidates::of(&self.buckets[self.alternate(hash, nth)], hash))
            .find_map(&mut confirm)
    }

    /// Makes `record`, whose key is written, findable under `hash`. False if all its buckets are full. `is_alone`: by the only
    /// thread that changes the index.
    ///
    /// At most five buckets are looked at, and nothing is moved.
    #[inline]
    pub(crate) fn place(self, hash: FlowHash, record: u32, is_alone: bool) -> bool {
        let primary = self.bucket(hash);
        let is_placed = if is_alone {
            claim_alone(primary, hash, record)
        } else {
            claim(primary, hash, record)
        };
        is_placed || self.place_elsewhere(hash, record)
    }

    #[cold]
    fn place_elsewhere(self, hash: FlowHash, record: u32) -> bool {
        let primary = self.bucket(hash);
        for nth in 1..=ALTERNATES {
            let one = 1 << (32 + 8 * (nth - 1));
            // Counted first: whoever misses the count, and so this alternate, looked before we placed anything. The
            // count cannot overflow: an alternate has 10 lanes, and each of at most 128 workers has one key pending.
            primary[2].fetch_add(one, AcqRel);
            if claim(&self.buckets[self.alternate(hash, nth)], hash, record) {
                return true;
            }
            primary[2].fetch_sub(one, AcqRel);
        }
        false
    }

    /// Takes `record` out. The caller has the only right to; false if it is not there.
    #[inline]
    pub(crate) fn unlink(self, hash: FlowHash, record: u32) -> bool {
        let primary = self.bucket(hash);
        if release(primary, hash, record) {
            return true;
        }
        for nth in 1..=ALTERNATES {
            if release(&self.buckets[self.alternate(hash, nth)], hash, record) {
                primary[2].fetch_sub(1 << (32 + 8 * (nth - 1)), AcqRel);
                return true;
            }
        }
        false
    }

    /// Forgets everything. Only while nobody else uses the table.
    pub(crate) fn clear(self) {
        for word in self.buckets.as_flattened() {
            word.store(0, Relaxed);
        }
    }

    /// Buckets with a key elsewhere, and all buckets.
    pub(crate) fn overflowed(self) -> (usize, usize) {
        let overflowed = self
            .buckets
            .iter()
            .filter(|bucket| bucket[2].load(Relaxed) >> 32 != 0)
            .count();
        (overflowed, self.buckets.len())
    }
}

/// Records of one bucket whose signature matches, lowest lane first.
struct Candidates<'t> {
    bucket: &'t Bucket,
    mask: u32,
    /// Four 8-bit counts of keys in the alternates.
    overflow: u32,
}

impl<'t> Candidates<'t> {
    #[inline]
    fn of(bucket: &'t Bucket, hash: FlowHash) -> Self {
        Self {
            bucket,
            // A signature we see comes with its record index and key.
            mask: matches(bucket, hash.signature()),
            overflow: overflow(bucket),
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        while self.mask != 0 {
            // For a lane that changed hands since we read its signature: its key is of the new record.
            let record = entry(self.bucket, self.mask.trailing_zeros());
            self.mask &= self.mask - 1;
            if record != 0 {
                return Some(record - 1);
            }
        }
        None
    }
}

/// Four 8-bit counts of keys of this primary that live in the alternates.
#[inline]
fn overflow(bucket: &Bucket) -> u32 {
    // Acquire: whoever sees a count sees what it was made for.
    (bucket[2].load(Acquire) >> 32) as u32
}

/// Takes a free lane for `record`, then sets its signature. Lock-free: it tries again only where another succeeded. A lane
/// that another worker is just filling or emptying counts as taken.
#[inline]
fn claim(bucket: &Bucket, hash: FlowHash, record: u32) -> bool {
    for lane in lanes(matches(bucket, 0)) {
        let place = &bucket[3 + lane / 2];
        let mut word = place.load(Acquire);
        while (word >> (32 * (lane % 2))) as u32 == 0 {
            let taken = word | u64::from(record + 1) << (32 * (lane % 2));
            // Release: publishes the key written before. Acquire: pairs with `clear`, whose clearing of the signature must
            // precede our setting of it.
            match place.compare_exchange(word, taken, AcqRel, Acquire) {
                Ok(_) => {
                    sign(bucket, lane, hash.signature());
                    return true;
                }
                Err(now) => word = now,
            }
        }
    }
    false
}

/// [`claim`] by the only thread that takes and frees lanes: no locked instruction.
#[inline]
fn claim_alone(bucket: &Bucket, hash: FlowHash, record: u32) -> bool {
    // Nobody is filling or emptying a lane: one without a signature is free.
    let Some(lane) = lanes(matches(bucket, 0)).next() else {
        return false;
    };
    let place = &bucket[(3 + lane / 2) & 7];
    // Release: publishes the key written before. Relaxed: the word is changed by this thread alone.
    let taken = place.load(Relaxed) | u64::from(record + 1) << (32 * (lane % 2));
    place.store(taken, Release);
    sign(bucket, lane, hash.signature());
    true
}

/// Frees the lane of `record`, if it is here.
#[inline]
fn release(bucket: &Bucket, hash: FlowHash, record: u32) -> bool {
    let lane =
        lanes(matches(bucket, hash.signature())).find(|&lane| entry(bucket, lane as u32) == record + 1);
    lane.inspect(|&lane| clear(bucket, lane)).is_some()
}

/// The lanes of a mask, lowest first.
#[inline]
fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let lane = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (lane < LANES as u32).then_some(lane as usize)
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn words(buckets: usize) -> Vec<AtomicU64> {
        (0..buckets * 8).map(|_| AtomicU64::new(0)).collect()
    }

    fn all(index: Index<'_>, hash: FlowHash) -> Vec<u32> {
        let mut found = Vec::new();
        index.find::<()>(hash, |record| {
            found.push(record);
            None
        });
        found
    }

    #[test]
    fn equal_hashes_fill_five_buckets_and_are_then_refused() {
        let words = words(64);
        let index = Index::new(&words);
        let hash = FlowHash(0x8000_0000_1234_5678);
        let placed = (0..1000)
            .take_while(|&record| index.place(hash, record, record % 2 == 0))
            .count();
        assert_eq!(placed, LANES * (1 + ALTERNATES));
        assert_eq!(all(index, hash).len(), placed);
        // The refusal left nothing behind, and everything can be taken out again, in any order.
        for record in (0..placed as u32).rev() {
            assert!(index.unlink(hash, record));
            assert!(!index.unlink(hash, record));
        }
        assert!(words.iter().all(|word| word.load(Relaxed) == 0));
    }

    #[test]
    fn a_bucket_and_its_alternates_are_five_different_ones() {
        for buckets in [8, 9, 64, 100, 12345] {
            let words = words(buckets);
            let index = Index::new(&words);
            for n in 0..5000u64 {
                let hash = FlowHash(crate::hash::mix(n));
                let mut five = vec![index.primary(hash)];
                five.extend((1..=ALTERNATES).map(|nth| index.alternate(hash, nth)));
                five.sort_unstable();
                five.dedup();
                assert_eq!(five.len(), 5, "{buckets} buckets");
            }
        }
    }

    /// The load the layout aims at: everything finds a place, and few buckets overflow.
    #[test]
    fn at_full_load_a_miss_reads_one_line_in_98_of_100() {
        let words = words(1 << 14);
        let index = Index::new(&words);
        for n in 0..(5 << 14) {
            assert!(
                index.place(FlowHash(crate::hash::mix(n)), n as u32, n % 2 == 0),
                "key {n} found no place"
            );
        }
        let (overflowed, buckets) = index.overflowed();
        assert!(overflowed * 50 < buckets, "{overflowed} of {buckets}");
    }
}
