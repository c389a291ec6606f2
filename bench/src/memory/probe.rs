//! One working set: a ring through all its lines, and the ways to walk it.

use std::array::from_fn;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use fastpath::io::clock::tsc;
use flowtable::prefetch;

use crate::random::Random;

/// Words of a cache line.
pub(crate) const LINE_WORDS: usize = 8;

/// Lines, the first word of each naming the next in one ring in random order.
pub(crate) struct Probe<'r> {
    lines: &'r [[AtomicU64; LINE_WORDS]],
}

impl<'r> Probe<'r> {
    /// Writes a ring through all of `words`.
    pub(crate) fn over(words: &'r [AtomicU64], random: &mut Random) -> Self {
        let lines: &[[AtomicU64; LINE_WORDS]] = words.as_chunks().0;
        for (at, line) in lines.iter().enumerate() {
            line[0].store(at as u64, Relaxed);
        }
        // Sattolo's shuffle: one ring, never several.
        for at in (1..lines.len()).rev() {
            let with = random.below(at as u64) as usize;
            let (this, other) = (lines[at][0].load(Relaxed), lines[with][0].load(Relaxed));
            lines[at][0].store(other, Relaxed);
            lines[with][0].store(this, Relaxed);
        }
        Self { lines }
    }

    /// Of the working set.
    pub(crate) fn bytes(&self) -> usize {
        self.lines.len() * LINE_WORDS * 8
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        self.lines[at][0].load(Relaxed) as usize
    }

    /// `N` walkers along the ring, from anywhere, each of whom must read a line to know the next. Lines and ticks.
    pub(crate) fn chains<const N: usize>(&self, random: &mut Random) -> (u64, u64) {
        let mut at: [usize; N] = from_fn(|_| random.below(self.lines.len() as u64) as usize);
        let steps = STEPS / N.isqrt();
        let start = tsc();
        for _ in 0..steps {
            for walker in &mut at {
                *walker = self.next(*walker);
            }
        }
        let ticks = tsc() - start;
        black_box(at);
        ((steps * N) as u64, ticks)
    }

    /// Batches of lines at random, all asked for before the first is read. Lines and ticks.
    pub(crate) fn prefetched(&self, batch: usize, random: &mut Random) -> (u64, u64) {
        let mut at = [0; BATCH_MAX];
        let at = &mut at[..batch];
        let mut sum = 0;
        let start = tsc();
        for _ in 0..STEPS / batch {
            self.ask(at, random);
            for &line in &*at {
                sum ^= self.next(line);
            }
        }
        let ticks = tsc() - start;
        black_box(sum);
        ((STEPS / batch * batch) as u64, ticks)
    }

    /// The same, and what each line names is asked for, then read. Pairs and ticks.
    pub(crate) fn pairs(&self, batch: usize, random: &mut Random) -> (u64, u64) {
        let mut at = [0; BATCH_MAX];
        let at = &mut at[..batch];
        let mut sum = 0;
        let start = tsc();
        for _ in 0..STEPS / batch {
            self.ask(at, random);
            for line in &mut *at {
                *line = self.next(*line);
                prefetch(&self.lines[*line]);
            }
            for &line in &*at {
                sum ^= self.next(line);
            }
        }
        let ticks = tsc() - start;
        black_box(sum);
        ((STEPS / batch * batch) as u64, ticks)
    }

    #[inline]
    fn ask(&self, at: &mut [usize], random: &mut Random) {
        for line in at {
            *line = random.below(self.lines.len() as u64) as usize;
            prefetch(&self.lines[*line]);
        }
    }

    /// Every word, in order; a part of a large working set at a time. Lines and ticks.
    pub(crate) fn in_order(&self) -> (u64, u64) {
        let lines = &self.lines[..self.lines.len().min(IN_ORDER_MAX)];
        let mut sums = [0u64; LINE_WORDS];
        let start = tsc();
        for line in lines {
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(word.load(Relaxed));
            }
        }
        let ticks = tsc() - start;
        black_box(sums);
        (lines.len() as u64, ticks)
    }
}

/// Cycles, and the ticks they took: a chain of multiplications (3 cycles on every x86-64 and `AArch64` processor of these years) and
/// "or"s (1).
pub(crate) fn clock() -> (u64, u64) {
    let mut x = black_box(3u64);
    let start = tsc();
    for _ in 0..STEPS {
        x = x.wrapping_mul(x | 1);
    }
    let ticks = tsc() - start;
    black_box(x);
    (4 * STEPS as u64, ticks)
}

/// Lines of a slice: about a millisecond from memory.
const STEPS: usize = 4096;
const BATCH_MAX: usize = 64;
/// 64 MiB.
const IN_ORDER_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_goes_through_every_line_once() {
        let words: Vec<AtomicU64> = (0..1000 * LINE_WORDS).map(|_| AtomicU64::new(0)).collect();
        let probe = Probe::over(&words, &mut Random::new(7));
        let mut at = 0;
        let mut seen = vec![false; 1000];
        for _ in 0..1000 {
            assert!(!std::mem::replace(&mut seen[at], true), "line {at} twice");
            at = probe.next(at);
        }
        assert_eq!(at, 0);
    }
}
