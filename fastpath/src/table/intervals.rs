//! Which of many ranges hold a value: one search of a few cache lines, whatever their number.

use std::collections::BTreeMap;

/// A value that ranges are of.
pub trait Value: Copy + Ord {
    /// The smallest.
    const MIN: Self;
    /// The largest.
    const MAX: Self;

    /// The next one; `None` behind the largest.
    fn next(self) -> Option<Self>;
}

impl Value for u32 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Value for u128 {
    const MIN: Self = Self::MIN;
    const MAX: Self = Self::MAX;

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

/// Ranges of items, cut into elementary intervals: between two neighbouring boundaries the same items hold every value.
///
/// What is kept of an interval is where the list of its items is, and the search ends with it: the lists are the caller's.
#[derive(Clone, Debug)]
pub struct Intervals<T> {
    /// A tree of blocks, whose keys are compared all at once. A binary search would guess wrong at every other step, and meet as
    /// many lines as steps. From the root down, without the leaves; keys are the first of each block below.
    levels: Box<[Box<[Block<T>]>]>,
    leaves: Box<[Leaf<T>]>,
}

/// A first value, a last one, and the item that has them.
pub type Range<T> = (T, T, u32);

/// Where the list without items is.
pub const EMPTY: u32 = 0;

impl<T: Value> Intervals<T> {
    /// Of `ranges`, of which one item may have several. `list` says where the list of some items is, ascending and not none; it
    /// may say the same again for the same items. `None` when the intervals' items are more than `items_max` all together:
    /// ranges that overlap much are not for this table.
    pub fn new(ranges: &[Range<T>], items_max: usize, mut list: impl FnMut(&[u32]) -> u32) -> Option<Self> {
        // Who begins or ends at each boundary; what ends at the last value of all never does.
        let mut boundaries: BTreeMap<T, Vec<(u32, bool)>> = BTreeMap::new();
        for (first, last, item) in ranges {
            boundaries.entry(*first).or_default().push((*item, true));
            if let Some(after) = last.next() {
                boundaries.entry(after).or_default().push((*item, false));
            }
        }
        let mut inside: BTreeMap<u32, usize> = BTreeMap::new();
        let (mut starts, mut items, mut items_all) = (vec![(T::MIN, EMPTY)], Vec::new(), 0);
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
            items_all += inside.len();
            if items_all > items_max {
                return None;
            }
            items.clear();
            items.extend(inside.keys());
            let place = if items.is_empty() { EMPTY } else { list(&items) };
            starts.push((start, place));
        }
        Some(Self::of(&starts))
    }

    /// Of intervals that begin at these values, ascending from the smallest of all.
    fn of(starts: &[(T, u32)]) -> Self {
        let leaves: Box<[Leaf<T>]> = starts.chunks(BLOCK).map(Leaf::new).collect();
        let mut firsts: Vec<T> = starts.iter().map(|(start, _)| *start).step_by(BLOCK).collect();
        let mut levels = Vec::new();
        while firsts.len() > 1 {
            levels.push(firsts.chunks(BLOCK).map(Block::new).collect());
            firsts = firsts.iter().copied().step_by(BLOCK).collect();
        }
        levels.reverse();
        Self {
            levels: levels.into(),
            leaves,
        }
    }

    /// Where the list is of the items that hold `value`.
    #[inline]
    pub fn at(&self, value: T) -> u32 {
        let mut block = 0;
        for blocks in &self.levels {
            // What fills the last block is not above the largest value, so that the search may come behind the last of a level.
            let at = block.min(blocks.len() - 1);
            block = at * BLOCK + (blocks[at].up_to(value) as usize).saturating_sub(1);
        }
        let last = self.leaves.len() - 1;
        self.leaves[block.min(last)].place(value)
    }
}

/// Keys of a node, filled up with the largest. Of 32-bit values a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Block<T>([T; BLOCK]);

impl<T: Value> Block<T> {
    fn new(keys: &[T]) -> Self {
        Self(std::array::from_fn(|at| keys.get(at).copied().unwrap_or(T::MAX)))
    }

    /// How many are no larger than `value`. In 32 bits, so that of 32-bit values a vector's worth is compared at once.
    #[inline]
    fn up_to(&self, value: T) -> u32 {
        self.0.iter().map(|key| u32::from(*key <= value)).sum()
    }
}

/// Intervals: where each begins, and where its list is.
#[derive(Clone, Copy, Debug)]
struct Leaf<T> {
    starts: Block<T>,
    /// From the place before to its own, the first from 0: the sum up to an interval is its place. So both lines are read at
    /// once, not the second when the first has said where.
    steps: Steps,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Steps([u32; BLOCK]);

impl<T: Value> Leaf<T> {
    fn new(intervals: &[(T, u32)]) -> Self {
        let mut starts = [T::MAX; BLOCK];
        let mut steps = [0; BLOCK];
        let mut before = 0_u32;
        for (at, (start, place)) in intervals.iter().enumerate() {
            starts[at] = *start;
            steps[at] = place.wrapping_sub(before);
            before = *place;
        }
        Self {
            starts: Block(starts),
            steps: Steps(steps),
        }
    }

    #[inline]
    fn place(&self, value: T) -> u32 {
        let steps = self.starts.0.iter().zip(&self.steps.0);
        steps.fold(0, |place, (start, step)| {
            place.wrapping_add(if *start <= value { *step } else { 0 })
        })
    }
}

const BLOCK: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(lists: &mut Vec<Vec<u32>>, items: &[u32]) -> u32 {
        lists.push(items.to_vec());
        lists.len() as u32 - 1
    }

    proptest! {
        #[test]
        fn what_holds_a_value_is_found_and_nothing_else(
            ranges in prop::collection::vec((0u128..40, 0u128..12, 0u32..9), 0..20),
            at_the_end: bool,
        ) {
            let shift = if at_the_end { u128::MAX - 52 } else { 0 };
            let ranges: Vec<Range<u128>> = ranges.iter().map(|(first, len, item)| (shift + first, shift + first + len, *item)).collect();
            let mut lists = vec![vec![]];
            let intervals = Intervals::new(&ranges, 1000, |items| listed(&mut lists, items)).unwrap();
            for value in (0..=52).map(|value| shift + value) {
                let mut holding: Vec<u32> =
                    ranges.iter().filter(|(first, last, _)| (first..=last).contains(&&value)).map(|(_, _, item)| *item).collect();
                holding.sort_unstable();
                holding.dedup();
                prop_assert_eq!(&lists[intervals.at(value) as usize], &holding);
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
            // The place of each is how many are no larger.
            let mut starts: Vec<(u32, u32)> = (1..).zip(&values).map(|(count, value)| (*value, count)).collect();
            if values.first() != Some(&0) {
                starts.insert(0, (0, 0));
            }
            let intervals = Intervals::of(&starts);
            for asked in asked.into_iter().chain([0, u32::MAX]).chain(values.iter().copied()) {
                prop_assert_eq!(intervals.at(asked) as usize, values.partition_point(|value| *value <= asked));
            }
        }
    }

    #[test]
    fn ranges_that_overlap_too_much_are_refused() {
        let nested: Vec<Range<u32>> = (0..100).map(|n| (n, 1000 - n, n)).collect();
        assert!(Intervals::new(&nested, 1600, |_| 1).is_none());
        assert!(Intervals::new(&nested, 100_000, |_| 1).is_some());
    }
}
