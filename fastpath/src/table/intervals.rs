//! Which of many ranges hold a value: one search of a few cache lines, whatever their number.

use std::collections::BTreeMap;

/// A value that ranges are of.
pub trait Value: Copy + Ord {
    /// The largest.
    const MAX: Self;

    /// The next one; `None` behind the largest.
    fn next(self) -> Option<Self>;
}

impl Value for u32 {
    const MAX: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Value for u128 {
    const MAX: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Ranges of items, cut into elementary intervals: between two neighbouring boundaries the same items hold every value.
#[derive(Clone, Debug)]
pub struct Intervals<T> {
    /// The first value of each interval. What lies before all of them is in no range.
    starts: Starts<T>,
    /// Where the items of each interval begin in `items`, and where the last's end.
    begins: Box<[u32]>,
    /// Of each interval in turn, ascending.
    items: Box<[u32]>,
}

/// A first value, a last one, and the item that has them.
pub type Range<T> = (T, T, u32);

impl<T: Value> Intervals<T> {
    /// Of `ranges`, of which one item may have several. `None` when the intervals' items are more than `items_max` all together:
    /// ranges that overlap much are not for this table.
    pub fn new(ranges: &[Range<T>], items_max: usize) -> Option<Self> {
        // Who begins or ends at each boundary; what ends at the last value of all never does.
        let mut boundaries: BTreeMap<T, Vec<(u32, bool)>> = BTreeMap::new();
        for (first, last, item) in ranges {
            boundaries.entry(*first).or_default().push((*item, true));
            if let Some(after) = last.next() {
                boundaries.entry(after).or_default().push((*item, false));
            }
        }
        let mut inside: BTreeMap<u32, usize> = BTreeMap::new();
        let (mut starts, mut begins, mut items) = (Vec::new(), vec![0], Vec::new());
        for (start, changes) in boundaries {
            for (item, _) in changes.iter().filter(|(_, begins)| *begins) {
                *inside.entry(*item).or_default() += 1;
            }
            for (item, _) in changes.iter().filter(|(_, begins)| !*begins) {
                if let Some(count) = inside.get_mut(item) {
                    *count -= 1;
                    if *count == 0 {
                        inside.remove(item);
                    }
                }
            }
            if items.len() + inside.len() > items_max {
                return None;
            }
            items.extend(inside.keys());
            starts.push(start);
            begins.push(items.len() as u32);
        }
        Some(Self {
            starts: Starts::new(&starts),
            begins: begins.into(),
            items: items.into(),
        })
    }

    /// The items that hold `value`, ascending.
    #[inline]
    pub fn at(&self, value: T) -> &[u32] {
        let after = self.starts.up_to(value);
        let Some(at) = after.checked_sub(1) else {
            return &[];
        };
        &self.items[self.begins[at] as usize..self.begins[after] as usize]
    }
}

/// Ascending values to be searched: a tree of blocks, whose keys are compared all at once. A binary search would guess wrong at every
/// other step, and meet as many lines as steps.
#[derive(Clone, Debug)]
struct Starts<T> {
    /// From the root down, each with how many values it has; the last has all of them, those above the first of each block below.
    levels: Box<[(usize, Box<[Block<T>]>)]>,
}

/// Of 32-bit values a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Block<T>([T; BLOCK]);

const BLOCK: usize = 16;

impl<T: Value> Starts<T> {
    fn new(values: &[T]) -> Self {
        let mut levels = Vec::new();
        let mut values = values.to_vec();
        while !values.is_empty() {
            let blocks: Box<[Block<T>]> = values
                .chunks(BLOCK)
                .map(|chunk| Block(std::array::from_fn(|at| chunk.get(at).copied().unwrap_or(T::MAX))))
                .collect();
            let above: Vec<T> = values.iter().copied().step_by(BLOCK).collect();
            levels.push((values.len(), blocks));
            if levels.last().is_some_and(|(_, blocks)| blocks.len() == 1) {
                break;
            }
            values = above;
        }
        levels.reverse();
        Self {
            levels: levels.into(),
        }
    }

    /// How many are no larger than `value`.
    #[inline]
    fn up_to(&self, value: T) -> usize {
        let mut count = 0_usize;
        for (len, blocks) in &self.levels {
            let block = count.saturating_sub(1);
            // In 32 bits, so that of 32-bit values a vector's worth is compared at once.
            let inside: u32 = blocks[block]
                .0
                .iter()
                .map(|start| u32::from(*start <= value))
                .sum();
            // What fills the last block is not above the largest value.
            count = (block * BLOCK + inside as usize).min(*len);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_holds_a_value_is_found_and_nothing_else(
            ranges in prop::collection::vec((0u128..40, 0u128..12, 0u32..9), 0..20),
            at_the_end: bool,
        ) {
            let shift = if at_the_end { u128::MAX - 52 } else { 0 };
            let ranges: Vec<Range<u128>> = ranges.iter().map(|(first, len, item)| (shift + first, shift + first + len, *item)).collect();
            let intervals = Intervals::new(&ranges, 1000).unwrap();
            for value in (0..=52).map(|value| shift + value) {
                let mut holding: Vec<u32> =
                    ranges.iter().filter(|(first, last, _)| (first..=last).contains(&&value)).map(|(_, _, item)| *item).collect();
                holding.sort_unstable();
                holding.dedup();
                prop_assert_eq!(intervals.at(value), &holding[..]);
            }
        }

        #[test]
        fn a_search_of_any_depth_counts_like_a_walk(
            mut values in prop::collection::btree_set(prop_oneof![0u32..2000, (u32::MAX - 2000)..=u32::MAX], 0..1500),
            ends: bool,
            asked in prop::collection::vec(prop_oneof![0u32..2001, (u32::MAX - 2001)..=u32::MAX], 1..50),
        ) {
            if ends {
                values.extend([0, u32::MAX]);
            }
            let values: Vec<u32> = values.into_iter().collect();
            let starts = Starts::new(&values);
            for asked in asked.into_iter().chain([0, u32::MAX]).chain(values.iter().copied()) {
                prop_assert_eq!(starts.up_to(asked), values.partition_point(|value| *value <= asked));
            }
        }
    }

    #[test]
    fn ranges_that_overlap_too_much_are_refused() {
        let nested: Vec<Range<u32>> = (0..100).map(|n| (n, 1000 - n, n)).collect();
        assert!(Intervals::new(&nested, 1600).is_none());
        assert!(Intervals::new(&nested, 100_000).is_some());
    }
}
