//! Seeded randomness: permutations, Zipf draws. The same seed gives the same run.

/// `SplitMix64` (Steele, Lea, Flood 2014): small, and good enough to shuffle with.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; the bias is at most `end / 2^64`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// A number in `0.0..1.0`.
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what an f64 holds")]
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Puts `items` in random order (Fisher-Yates).
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }

    /// The numbers below `count`, in random order.
    pub(crate) fn permutation(&mut self, count: u32) -> Vec<u32> {
        let mut numbers: Vec<u32> = (0..count).collect();
        self.shuffle(&mut numbers);
        numbers
    }

    /// `draws` numbers below `count`: the one of rank k comes with probability proportional to `1 / k^exponent`. Which
    /// number has which rank is random, so that neighbours are not equally popular.
    pub(crate) fn zipf(&mut self, count: u32, exponent: f64, draws: usize) -> Vec<u32> {
        let ranks = self.permutation(count);
        let mut sum = 0.0;
        let cumulated: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += f64::from(rank).powf(-exponent);
                sum
            })
            .collect();
        (0..draws)
            .map(|_| {
                let at = self.fraction() * sum;
                let rank = cumulated.partition_point(|below| *below <= at);
                ranks[rank.min(ranks.len() - 1)]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_has_every_number_once_and_is_not_in_order() {
        let mut numbers = Random::new(1).permutation(10_000);
        let fixed = numbers.iter().zip(0..).filter(|(a, b)| **a == *b).count();
        assert!(fixed < 10, "{fixed} of 10,000 in place, 1 is expected");
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..10_000));
    }

    #[test]
    fn seeds_make_runs_that_repeat_and_differ() {
        let run = |seed| Random::new(seed).permutation(100);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn zipf_draws_follow_the_law() {
        const DRAWS: usize = 200_000;
        let mut counts = vec![0usize; 1000];
        for number in Random::new(3).zipf(1000, 1.1, DRAWS) {
            counts[number as usize] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let harmonic: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-1.1)).sum();
        for rank in [1usize, 2, 5, 10] {
            let expected = DRAWS as f64 * (rank as f64).powf(-1.1) / harmonic;
            let found = counts[rank - 1] as f64;
            assert!(
                (found / expected - 1.0).abs() < 0.06,
                "rank {rank}: {found} draws, {expected:.0} expected"
            );
        }
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut random = Random::new(5);
        let mut seen = [false; 7];
        (0..1000).for_each(|_| seen[random.below(7) as usize] = true);
        assert_eq!(seen, [true; 7]);
    }
}
