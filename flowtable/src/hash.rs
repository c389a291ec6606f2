//! The keyed hash: NH (a universal hash) over the key's words, then two folded multiplications.
//!
//! NH, from UMAC (RFC 4418, Black et al., CRYPTO 1999), sums `(word + key) * (word + key)` over pairs of words as
//! 128-bit products: for any two distinct keys, whatever their relation, the 128-bit sums collide with probability
//! at most 2^-64 over the secret. That is what CRC, and Toeplitz with a known key, cannot offer: their collisions
//! do not depend on the seed. The finisher spreads the 128 bits over the 64 that choose bucket, step and signature.

/// The hash of a key. Made by [`Table::hash`](crate::Table::hash); the same seed gives the same value anywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowHash(pub(crate) u64);

impl FlowHash {
    /// All 64 bits, well mixed: good for choosing a backend or an ECMP path too.
    #[inline]
    pub fn value(self) -> u64 {
        self.0
    }

    /// Lower 16 bits, kept beside the record index in a bucket. 0 marks a free lane, so it is odd: of 6,500 lookups in a
    /// full table one meets another key's signature instead of one of 13,000.
    #[inline]
    pub(crate) fn signature(self) -> u16 {
        self.0 as u16 | 1
    }

    /// Upper 32 bits: the primary bucket.
    #[inline]
    pub(crate) fn bucket_bits(self) -> u64 {
        self.0 >> 32
    }

    /// Bits 16 to 31: the distance between alternates.
    #[inline]
    pub(crate) fn step_bits(self) -> u64 {
        (self.0 >> 16) & 0xffff
    }
}

/// Secret words derived from a table's seed.
#[derive(Clone, Debug)]
pub(crate) struct Hasher<const K: usize> {
    words: [u64; K],
    /// Stands in for the missing partner of the last word when `K` is odd.
    partner: u64,
    finish: [u64; 3],
}

impl<const K: usize> Hasher<K> {
    pub(crate) fn new(seed: u128) -> Self {
        let mut expand = Expand::new(seed);
        Self {
            words: std::array::from_fn(|_| expand.next()),
            partner: expand.next(),
            finish: std::array::from_fn(|_| expand.next() | 1),
        }
    }

    #[inline]
    pub(crate) fn hash(&self, key: &[u64; K]) -> FlowHash {
        let mut sum = 0u128;
        let mut at = 0;
        while at < K {
            let left = key[at].wrapping_add(self.words[at]);
            let right = if at + 1 < K {
                key[at + 1].wrapping_add(self.words[at + 1])
            } else {
                self.partner
            };
            sum = sum.wrapping_add(u128::from(left) * u128::from(right));
            at += 2;
        }
        let (low, high) = (sum as u64, (sum >> 64) as u64);
        let mixed = fold(low ^ self.finish[0], self.finish[1]) ^ high;
        FlowHash(fold(mixed, self.finish[2]).wrapping_add(mixed.rotate_left(32)))
    }
}

/// Both halves of the 128-bit product, combined.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Splitmix64 over each half of the seed, combined: any number of words from 128 secret bits.
struct Expand {
    low: u64,
    high: u64,
}

impl Expand {
    fn new(seed: u128) -> Self {
        Self {
            low: seed as u64,
            high: (seed >> 64) as u64 ^ 0x6a09_e667_f3bc_c908,
        }
    }

    fn next(&mut self) -> u64 {
        self.low = self.low.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.high = self.high.wrapping_add(0xd1b5_4a32_d192_ed03);
        mix(self.low).wrapping_add(mix(self.high ^ self.low.rotate_left(17)))
    }
}

/// The finisher of splitmix64 (Stafford's variant 13).
pub(crate) fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A snapshot of flows outlives the process that made it, so these values may never change.
    #[test]
    fn the_hash_of_a_key_is_the_same_on_every_machine() {
        let v4 = Hasher::<2>::new(7).hash(&[1, 2]);
        let v6 = Hasher::<5>::new(7).hash(&[1, 2, 3, 4, 5]);
        assert_eq!((v4.0, v6.0), (GOLDEN_V4, GOLDEN_V6));
    }

    const GOLDEN_V4: u64 = 0xf5e2_e466_910f_1f0b;
    const GOLDEN_V6: u64 = 0xf79a_349e_d943_b111;

    #[test]
    fn another_seed_separates_keys_that_collided() {
        // Keys that share a bucket of 1024 under one seed spread over the buckets under another.
        let first = Hasher::<2>::new(1);
        let bucket = |hash: FlowHash| (hash.bucket_bits() * 1024) >> 32;
        let target = bucket(first.hash(&[0, 0]));
        let aimed: Vec<[u64; 2]> = (0..1 << 18)
            .map(|n| [n, n << 20])
            .filter(|key| bucket(first.hash(key)) == target)
            .collect();
        assert!(aimed.len() > 100, "the generator found too few: {}", aimed.len());
        let second = Hasher::<2>::new(2);
        let mut hits = vec![0u32; 1024];
        for key in &aimed {
            hits[bucket(second.hash(key)) as usize] += 1;
        }
        assert!(
            hits.iter().all(|&n| n < 8),
            "still aimed: {:?}",
            hits.iter().max()
        );
    }

    #[test]
    fn neighbouring_keys_fill_buckets_and_signatures_evenly() {
        let hasher = Hasher::<2>::new(0x1234_5678_9abc_def0);
        let (mut buckets, mut low) = (vec![0u32; 4096], vec![0u32; 4096]);
        let n = 4096 * 64;
        for i in 0..n {
            // A port scan: one field counts up, the rest stays.
            let hash = hasher.hash(&[0x0a00_0001_0a00_0002, i << 16 | 6]);
            buckets[(hash.bucket_bits() >> 20) as usize] += 1;
            low[usize::from(hash.0 as u16 >> 4)] += 1;
        }
        for counts in [buckets, low] {
            // Chi-square with 4095 degrees of freedom: mean 4095, standard deviation 90.5; 6 sigma either way.
            let chi: f64 = counts.iter().map(|&c| (f64::from(c) - 64.0).powi(2) / 64.0).sum();
            assert!((3552.0..4638.0).contains(&chi), "chi-square {chi}");
        }
    }
}
