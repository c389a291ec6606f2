//! Slices: many short measurements, of which those count that no other thread broke into.

use nix::sys::resource::{UsageWho, getrusage};

/// Ticks per item, slice by slice.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slices {
    clean: Vec<f64>,
    broken: Vec<f64>,
    quickest: Option<f64>,
}

/// How long something took, and whether the thread kept its processor all the while.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Took {
    ticks: u64,
    is_clean: bool,
}

impl Took {
    /// How many ticks.
    pub(crate) const fn ticks(self) -> u64 {
        self.ticks
    }

    /// The thread kept its processor.
    pub(crate) const fn is_clean(self) -> bool {
        self.is_clean
    }

    /// As someone else measured it.
    pub(crate) const fn new(ticks: u64, is_clean: bool) -> Self {
        Self { ticks, is_clean }
    }
}

/// Runs `work`, which returns its ticks.
pub(crate) fn clean(work: impl FnOnce() -> u64) -> Took {
    let before = switches();
    let ticks = work();
    Took {
        ticks,
        is_clean: switches() == before,
    }
}

/// Times that this thread was made to give up its processor.
fn switches() -> Option<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).ok()?;
    Some(usage.involuntary_context_switches())
}

impl Slices {
    /// Adds a slice of `items`.
    #[expect(clippy::cast_precision_loss, reason = "a slice is milliseconds")]
    pub(crate) fn push(&mut self, items: u64, took: Took) {
        let per_item = took.ticks as f64 / items as f64;
        self.quickest = Some(self.quickest.map_or(per_item, |known| known.min(per_item)));
        if took.is_clean {
            self.clean.push(per_item);
        } else {
            self.broken.push(per_item);
        }
    }

    /// Items for a slice of about `ticks`, by what the quickest slice so far took; `most` at most, and few while nothing
    /// is known.
    #[expect(clippy::cast_sign_loss, reason = "ticks are positive")]
    pub(crate) fn items_for(&self, ticks: f64, most: u64) -> u64 {
        self.quickest.map_or(ITEMS_FIRST, |per_item| {
            ((ticks / per_item) as u64).clamp(ITEMS_FIRST.min(most), most)
        })
    }

    /// All slices.
    pub(crate) fn len(&self) -> usize {
        self.clean.len() + self.broken.len()
    }

    /// Those that count.
    pub(crate) fn clean(&self) -> usize {
        self.clean.len()
    }

    /// The median of those that count; of all, when hardly any does.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The value below which this part of the slices is: 0.0 for the lowest. NaN without slices.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into some thousand slices"
    )]
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.clean.clone();
        if sorted.len() < CLEAN_MIN {
            sorted.extend(&self.broken);
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted
            .get((last as f64 * part).round() as usize)
            .copied()
            .unwrap_or(f64::NAN)
    }
}

/// Two full batches.
const ITEMS_FIRST: u64 = 128;
/// Below so many clean slices all count.
const CLEAN_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_shrink_where_items_are_slow() {
        let mut slices = Slices::default();
        assert_eq!(slices.items_for(1e6, 8192), ITEMS_FIRST);
        slices.push(10, Took::new(10_000, false));
        assert_eq!(slices.items_for(1e6, 8192), 1000);
        slices.push(10, Took::new(100, true));
        assert_eq!(slices.items_for(1e6, 8192), 8192);
    }

    #[test]
    fn broken_slices_count_only_when_there_is_nothing_else() {
        let mut slices = Slices::default();
        (0..5).for_each(|_| slices.push(10, Took::new(1000, false)));
        slices.push(10, Took::new(100, true));
        assert_eq!((slices.len(), slices.clean(), slices.median()), (6, 1, 100.0));
        for ticks in [200, 300, 400, 500] {
            slices.push(10, Took::new(ticks, true));
        }
        assert_eq!(
            (slices.quantile(0.0), slices.median(), slices.quantile(1.0)),
            (10.0, 30.0, 50.0)
        );
    }
}
