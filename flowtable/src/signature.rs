//! Compares one signature with the ten of a bucket at once.
#![allow(unsafe_code)]

/// Lanes of a bucket.
pub(crate) const LANES: usize = 10;

/// A bit per lane of the three signature words that equals `signature`. The upper half of the third word holds no
/// signatures and never matches.
#[inline]
pub(crate) fn matches(words: [u64; 3], signature: u16) -> u32 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE2 is part of x86-64. Memory is not touched: the words come by value.
    return unsafe { sse2(words, signature) };
    #[cfg(not(target_arch = "x86_64"))]
    return portable(words, signature);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn sse2(words: [u64; 3], signature: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_cvtsi64_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x,
        _mm_set1_epi16,
    };
    let wanted = _mm_set1_epi16(signature.cast_signed());
    let low = _mm_cmpeq_epi16(
        _mm_set_epi64x(words[1].cast_signed(), words[0].cast_signed()),
        wanted,
    );
    let high = _mm_cmpeq_epi16(_mm_cvtsi64_si128(words[2].cast_signed()), wanted);
    _mm_movemask_epi8(_mm_packs_epi16(low, high)).cast_unsigned() & ((1 << LANES) - 1)
}

/// The same with plain words.
#[cfg(any(all(test, not(loom)), not(target_arch = "x86_64")))]
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
            prop_assert_eq!(matches(words, signature), expected);
        }
    }
}
