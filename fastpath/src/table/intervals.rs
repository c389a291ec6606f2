//! Which of many ranges hold a value: one search of a few cache lines, whatever their number.

/// A value that ranges are of.
pub trait Value: Copy + Ord {
    /// The smallest.
    const MIN: Self;
    /// The largest.
    const MAX: Self;

    /// The next one; `None` behind the largest.
    fn next(self) -> Option<Self>;
}

macro_rules! values {
    ($($integer:ty),*) => {$(
        impl Value for $integer {
            const MIN: Self = Self::MIN;
            const MAX: Self = Self::MAX;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }
        }
    )*};
}

values!(i32, u128);

/// A 32-bit number as one of the same order that has a sign: the only ones that every vector unit compares.
#[inline]
pub const fn signed(value: u32) -> i32 {
    (value ^ 1 << 31).cast_signed()
}

/// Ranges of items, cut into elementary intervals: between two neighbouring boundaries the same items hold every value.
///
/// What is kept of an interval is where the list of its items is, and the search ends with it: the lists are the caller's.
#[derive(Clone, Debug)]
pub struct Intervals<T> {
    /// A tree of blocks, whose keys are compared all at once. A binary search would guess wrong at every other step, and meet as
    /// many lines as steps. Level by level from the root down, without the leaves; keys are the first of each block below.
    blocks: Box<[Block<T>]>,
    levels: [Level; LEVELS_MAX],
    depth: usize,
    leaves: Box<[Leaf<T>]>,
}

/// Where a level's blocks are.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    first: usize,
    /// The last one, counted from the first.
    last: usize,
}

/// A first value, a last one, and the item that has them.
pub type Range<T> = (T, T, u32);

/// The number of a leaf, where a search comes to before it reads it.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeafNumber(u32);

/// Where the list without items is.
pub const EMPTY: u32 = 0;

impl<T: Value> Intervals<T> {
    /// Of `ranges`, of which one item may have several. `list` says where the list of some items is, ascending and not none; it
    /// may say the same again for the same items. `None` when the intervals' items are more than `items_max` all together:
    /// ranges that overlap much are not for this table.
    pub fn new(ranges: &[Range<T>], items_max: usize, mut list: impl FnMut(&[u32]) -> u32) -> Option<Self> {
        // Who begins at each boundary, and who ends; what ends at the last value of all never does.
        let mut begins: Vec<(T, u32)> = ranges.iter().map(|(first, _, item)| (*first, *item)).collect();
        let after = |(_, last, item): &Range<T>| Some((last.next()?, *item));
        let mut ends: Vec<(T, u32)> = ranges.iter().filter_map(after).collect();
        begins.sort_unstable();
        ends.sort_unstable();
        let (mut begins, mut ends) = (begins.as_slice(), ends.as_slice());
        let (mut inside, mut items, mut items_all) = (Inside::default(), Vec::new(), 0);
        let mut starts = vec![(T::MIN, EMPTY)];
        while let Some((start, _)) = begins.first().into_iter().chain(ends.first()).min() {
            inside.begin(up_to(&mut begins, *start));
            inside.end(up_to(&mut ends, *start));
            items_all += inside.0.len();
            if items_all > items_max {
                return None;
            }
            items.clear();
            items.extend(inside.0.iter().map(|(item, _)| *item));
            let place = if items.is_empty() { EMPTY } else { list(&items) };
            if starts.last().is_none_or(|(_, before)| *before != place) {
                starts.push((*start, place));
            }
        }
        Some(Self::of(&starts))
    }

    /// Of intervals that begin at these values, ascending from the smallest of all.
    fn of(starts: &[(T, u32)]) -> Self {
        let leaves: Box<[Leaf<T>]> = starts.chunks(BLOCK).map(Leaf::new).collect();
        let mut firsts: Vec<T> = starts.iter().map(|(start, _)| *start).step_by(BLOCK).collect();
        let mut from_below: Vec<Vec<Block<T>>> = Vec::new();
        while firsts.len() > 1 {
            from_below.push(firsts.chunks(BLOCK).map(Block::new).collect());
            firsts = firsts.iter().copied().step_by(BLOCK).collect();
        }
        let depth = from_below.len();
        assert!(depth <= LEVELS_MAX, "{} intervals", starts.len());
        let (mut blocks, mut levels) = (Vec::new(), [Level::default(); LEVELS_MAX]);
        for (level, of_level) in levels.iter_mut().zip(from_below.iter().rev()) {
            *level = Level {
                first: blocks.len(),
                last: of_level.len() - 1,
            };
            blocks.extend_from_slice(of_level);
        }
        Self {
            blocks: blocks.into(),
            levels,
            depth,
            leaves,
        }
    }

    /// Where the list is of the items that hold `value`.
    #[inline]
    pub fn at(&self, value: T) -> u32 {
        self.place(self.leaf(value), value)
    }

    /// The leaf of `value`, which is on its way from now on.
    #[inline]
    pub fn begin(&self, value: T) -> LeafNumber {
        let leaf = self.leaf(value);
        let lines = &self.leaves[leaf.0 as usize];
        flowtable::prefetch(&lines.starts);
        flowtable::prefetch(&lines.steps);
        leaf
    }

    #[inline]
    fn leaf(&self, value: T) -> LeafNumber {
        // A compiler that knew it to be 1 would count the bits of a mask, which is the longer way where processors may lack `popcnt`.
        let one = std::hint::black_box(1);
        let mut block = 0;
        for level in &self.levels[..self.depth] {
            // What fills the last block is not above the largest value, so that the search may come behind the last of a level.
            let at = block.min(level.last);
            block = at * BLOCK + self.blocks[level.first + at].up_to(value, one) as usize - 1;
        }
        LeafNumber(block.min(self.leaves.len() - 1) as u32)
    }

    /// Where the list is of the items that hold `value`, whose leaf is this.
    #[inline]
    pub fn place(&self, leaf: LeafNumber, value: T) -> u32 {
        self.leaves[leaf.0 as usize].place(value)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.blocks) + size_of_val(&*self.leaves)
    }
}

/// Takes those at `value` off the front.
fn up_to<'a, T: Value>(sorted: &mut &'a [(T, u32)], value: T) -> &'a [(T, u32)] {
    let count = sorted.iter().take_while(|(at, _)| *at <= value).count();
    let (taken, rest) = sorted.split_at(count);
    *sorted = rest;
    taken
}

/// Items that hold a value, ascending, and by how many of their ranges each.
#[derive(Default)]
struct Inside(Vec<(u32, u32)>);

impl Inside {
    #[expect(clippy::stable_sort_primitive, reason = "two runs, which it merges")]
    fn begin<T>(&mut self, begun: &[(T, u32)]) {
        let known = self.0.len();
        for (_, item) in begun {
            let (before, fresh) = self.0.split_at_mut(known);
            if let Ok(at) = before.binary_search_by_key(item, |(item, _)| *item) {
                before[at].1 += 1;
            } else if let Some((_, count)) = fresh.last_mut().filter(|(last, _)| last == item) {
                *count += 1;
            } else {
                self.0.push((*item, 1));
            }
        }
        self.0.sort();
    }

    fn end<T>(&mut self, ended: &[(T, u32)]) {
        let mut has_gone = false;
        for (_, item) in ended {
            if let Ok(at) = self.0.binary_search_by_key(item, |(item, _)| *item) {
                self.0[at].1 -= 1;
                has_gone |= self.0[at].1 == 0;
            }
        }
        if has_gone {
            self.0.retain(|(_, count)| *count > 0);
        }
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

    /// How many are no larger than `value`, each counted as `one`: one at least, for no search comes to a block that begins behind
    /// it. In 32 bits, so that of 32-bit values a vector's worth is compared at once.
    #[inline]
    fn up_to(&self, value: T, one: u32) -> u32 {
        self.0.iter().map(|key| if *key <= value { one } else { 0 }).sum()
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
/// 2^32 intervals need them all.
const LEVELS_MAX: usize = 7;

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
            let values: Vec<i32> = values.into_iter().map(signed).collect();
            // The place of each is how many are no larger.
            let mut starts: Vec<(i32, u32)> = (1..).zip(&values).map(|(count, value)| (*value, count)).collect();
            if values.first() != Some(&i32::MIN) {
                starts.insert(0, (i32::MIN, 0));
            }
            let intervals = Intervals::of(&starts);
            for asked in asked.into_iter().map(signed).chain([i32::MIN, i32::MAX]).chain(values.iter().copied()) {
                prop_assert_eq!(intervals.at(asked) as usize, values.partition_point(|value| *value <= asked));
            }
        }
    }

    #[test]
    fn ranges_that_overlap_too_much_are_refused() {
        let nested: Vec<Range<i32>> = (0..100_i32).map(|n| (n, 1000 - n, n.cast_unsigned())).collect();
        assert!(Intervals::new(&nested, 1600, |_| 1).is_none());
        assert!(Intervals::new(&nested, 100_000, |_| 1).is_some());
    }
}
