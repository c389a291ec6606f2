//! Compares one signature with the ten of a bucket at once.
#![allow(unsafe_code)]

use crate::index::Bucket;

/// Lanes of a bucket.
pub(crate) const LANES: usize = 10;

/// A bit per lane of `bucket` whose signature equals `signature`. What was written before a signature that matches is visible.
#[inline]
pub(crate) fn matches(bucket: &Bucket, signature: u16) -> u32 {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    return x86::matches(bucket, signature);
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    return {
        // Acquire pairs with the Release of whoever set a signature.
        let words = [0, 1, 2].map(|at| bucket[at].load(crate::sync::Acquire));
        portable(words, signature)
    };
}

/// What lane `lane` of `bucket`, below 10, has beside its signature.
#[inline]
pub(crate) fn entry(bucket: &Bucket, lane: u32) -> u32 {
    let lane = lane as usize;
    // Acquire pairs with the Release of whoever set it. The mask keeps the compiler from a bounds check.
    let word = bucket[(3 + lane / 2) & 7].load(crate::sync::Acquire);
    (word >> (32 * (lane % 2))) as u32
}

/// Gives lane `lane`, which is the caller's and has none, its signature. What was written before is visible to whoever sees it.
#[inline]
pub(crate) fn sign(bucket: &Bucket, lane: usize, signature: u16) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    x86::store_signature(bucket, lane, signature);
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    // Release: publishes entry and key. The lane's bits are 0 and ours alone, so adding is setting.
    bucket[lane / 4].fetch_add(u64::from(signature) << (16 * (lane % 4)), crate::sync::AcqRel);
}

/// Empties lane `lane`, which is the caller's: the signature first, so that a free lane never has one.
#[inline]
pub(crate) fn clear(bucket: &Bucket, lane: usize) {
    #[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
    {
        x86::store_signature(bucket, lane, 0);
        x86::clear_entry(bucket, lane);
    }
    #[cfg(not(all(target_arch = "x86_64", not(loom), not(miri))))]
    {
        bucket[lane / 4].fetch_and(!(0xffff << (16 * (lane % 4))), crate::sync::AcqRel);
        // Release pairs with the Acquire of whoever takes the lane next.
        let others = !(u64::from(u32::MAX) << (32 * (lane % 2)));
        bucket[3 + lane / 2].fetch_and(others, crate::sync::Release);
    }
}

#[cfg(all(target_arch = "x86_64", not(loom), not(miri)))]
mod x86 {
    use std::arch::{
        asm,
        x86_64::{__m128i, _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16},
    };

    use super::{Bucket, LANES};

    #[inline]
    pub(super) fn matches(bucket: &Bucket, signature: u16) -> u32 {
        let (low, high): (__m128i, __m128i);
        // SAFETY: in bounds and alive: the first 32 bytes of a bucket of 64 that is borrowed. Races: as four loads of its
        // atomic words, given that a processor loads each aligned 8-byte word of a vector whole. That is an assumption: Intel
        // and AMD promise it of 16 aligned bytes where there is AVX, and a bucket is aligned to 64. Every load acquires. The
        // compiler may not take it for one of a value that can't change: the block is not `pure`.
        unsafe {
            asm!(
                "movdqu {low}, [{bucket}]",
                "movdqu {high}, [{bucket} + 16]",
                bucket = in(reg) bucket,
                low = out(xmm_reg) low,
                high = out(xmm_reg) high,
                options(nostack, readonly, preserves_flags),
            );
        }
        // SAFETY: SSE2 is part of x86-64.
        unsafe { compare(low, high, signature) }
    }

    /// A store where the others have an addition: only the lane's holder writes its bits, and nobody else's change.
    #[inline]
    pub(super) fn store_signature(bucket: &Bucket, lane: usize, signature: u16) {
        assert!(lane < LANES);
        // SAFETY: in bounds and alive: bytes 0 to 20 of a bucket of 64 that is borrowed. Races: as `fetch_and` and `fetch_or`
        // of the word with Release, for the processor changes these two bytes alone, at once, and after every earlier store.
        unsafe {
            asm!(
                "mov word ptr [{bucket} + 2 * {lane}], {signature:x}",
                bucket = in(reg) bucket,
                lane = in(reg) lane,
                signature = in(reg) signature,
                options(nostack, preserves_flags),
            );
        }
    }

    /// The same for the entry beside it.
    #[inline]
    pub(super) fn clear_entry(bucket: &Bucket, lane: usize) {
        assert!(lane < LANES);
        // SAFETY: as above, with bytes 24 to 64.
        unsafe {
            asm!(
                "mov dword ptr [{bucket} + 4 * {lane} + 24], 0",
                bucket = in(reg) bucket,
                lane = in(reg) lane,
                options(nostack, preserves_flags),
            );
        }
    }

    #[target_feature(enable = "sse2")]
    #[inline]
    fn compare(low: __m128i, high: __m128i, signature: u16) -> u32 {
        let wanted = _mm_set1_epi16(signature.cast_signed());
        let (low, high) = (_mm_cmpeq_epi16(low, wanted), _mm_cmpeq_epi16(high, wanted));
        _mm_movemask_epi8(_mm_packs_epi16(low, high)).cast_unsigned() & ((1 << LANES) - 1)
    }
}

/// The same with plain words.
#[cfg(any(test, not(target_arch = "x86_64"), loom, miri))]
#[inline]
fn portable(words: [u64; 3], signature: u16) -> u32 {
    const LOW: u64 = 0x7fff_7fff_7fff_7fff;
    let wanted = u64::from(signature) * 0x0001_0001_0001_0001;
    let mut mask = 0;
    for (at, word) in words.into_iter().enumerate() {
        let differs = word ^ wanted;
        // The top bit of each lane is set when the lane is zero; no carry crosses a lane.
        let zero = !(((differs & LOW) + LOW) | differs | LOW);
        let nibble = (zero >> 15 & 1) | (zero >> 30 & 2) | (zero >> 45 & 4) | (zero >> 60 & 8);
        mask |= (nibble as u32) << (4 * at);
    }
    mask & ((1 << LANES) - 1)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every lane by itself, and no bit of another.
    #[test]
    fn a_lane_is_signed_and_cleared_alone() {
        for (lane, rest) in (0..LANES).flat_map(|lane| [(lane, 0), (lane, u64::MAX)]) {
            let bucket: Bucket = std::array::from_fn(|_| rest.into());
            clear(&bucket, lane);
            assert_eq!(
                (matches(&bucket, 0) >> lane & 1, entry(&bucket, lane as u32)),
                (1, 0)
            );
            sign(&bucket, lane, 0x1235);
            assert_eq!(
                (matches(&bucket, 0x1235), entry(&bucket, lane as u32)),
                (1 << lane, 0)
            );
            for other in (0..LANES as u32).filter(|&other| other != lane as u32) {
                assert_eq!(entry(&bucket, other), rest as u32);
                assert_eq!(matches(&bucket, rest as u16) >> other & 1, 1);
            }
        }
    }

    proptest! {
        /// Small values make equal lanes, neighbours differing by one bit, and carries likely.
        #[test]
        fn both_ways_agree_with_a_loop(lanes in prop::array::uniform12(0u16..4), shift in 0u32..15, signature in 0u16..4) {
            let lanes = lanes.map(|lane| lane << shift);
            let signature = signature << shift;
            let word = |n: usize| (0..4).fold(0, |w, i| w | u64::from(lanes[4 * n + i]) << (16 * i));
            let words = [word(0), word(1), word(2)];
            let expected = (0..LANES).filter(|&i| lanes[i] == signature).fold(0, |mask, i| mask | 1 << i);
            prop_assert_eq!(portable(words, signature), expected);
            let bucket: Bucket = std::array::from_fn(|at| words.get(at).copied().unwrap_or(u64::MAX).into());
            prop_assert_eq!(matches(&bucket, signature), expected);
        }
    }
}
