//! Which of many ranges hold a value: one binary search, whatever their number.

use std::collections::BTreeMap;

/// Ranges of items, cut into elementary intervals: between two neighbouring boundaries the same items hold every value.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    /// The first value of each interval, ascending. What lies before all of them is in no range.
    starts: Box<[u128]>,
    /// Where the items of each interval begin in `items`, and where the last's end.
    begins: Box<[u32]>,
    /// Of each interval in turn, ascending.
    items: Box<[u32]>,
}

/// A first value, a last one, and the item that has them.
pub type Range = (u128, u128, u32);

impl Intervals {
    /// Of `ranges`, of which one item may have several. `None` when the intervals' items are more than `items_max` all together:
    /// ranges that overlap much are not for this table.
    pub fn new(ranges: &[Range], items_max: usize) -> Option<Self> {
        // Who begins or ends at each boundary; what ends at the last value of all never does.
        let mut boundaries: BTreeMap<u128, Vec<(u32, bool)>> = BTreeMap::new();
        for (first, last, item) in ranges {
            boundaries.entry(*first).or_default().push((*item, true));
            if let Some(after) = last.checked_add(1) {
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
            starts: starts.into(),
            begins: begins.into(),
            items: items.into(),
        })
    }

    /// The items that hold `value`, ascending.
    pub fn at(&self, value: u128) -> &[u32] {
        let after = self.starts.partition_point(|start| *start <= value);
        let Some(at) = after.checked_sub(1) else {
            return &[];
        };
        &self.items[self.begins[at] as usize..self.begins[after] as usize]
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
            let ranges: Vec<Range> = ranges.iter().map(|(first, len, item)| (shift + first, shift + first + len, *item)).collect();
            let intervals = Intervals::new(&ranges, 1000).unwrap();
            for value in (0..=52).map(|value| shift + value) {
                let mut holding: Vec<u32> =
                    ranges.iter().filter(|(first, last, _)| (first..=last).contains(&&value)).map(|(_, _, item)| *item).collect();
                holding.sort_unstable();
                holding.dedup();
                prop_assert_eq!(intervals.at(value), &holding[..]);
            }
        }
    }

    #[test]
    fn ranges_that_overlap_too_much_are_refused() {
        let nested: Vec<Range> = (0..100)
            .map(|n| (u128::from(n), 1000 - u128::from(n), n))
            .collect();
        assert!(Intervals::new(&nested, 1600).is_none());
        assert!(Intervals::new(&nested, 100_000).is_some());
    }
}
