//! A token bucket: so many at once, so many a second.

/// Allows bursts of `burst` and `per_second` on average.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "all of it is time")]
pub struct TokenBucket {
    /// Time saved up; a token costs `cost_ns` of it.
    credit_ns: u64,
    cost_ns: u64,
    credit_max_ns: u64,
    last_ns: u64,
}

impl TokenBucket {
    /// A full bucket.
    ///
    /// # Panics
    /// When `per_second` is not 1 to 10^9, or `burst` is 0.
    pub fn new(per_second: u32, burst: u32) -> Self {
        assert!(
            (1..=1_000_000_000).contains(&per_second) && burst > 0,
            "{per_second} a second, {burst} at once"
        );
        let cost_ns = 1_000_000_000 / u64::from(per_second);
        let credit_max_ns = cost_ns * u64::from(burst);
        Self {
            credit_ns: credit_max_ns,
            cost_ns,
            credit_max_ns,
            last_ns: 0,
        }
    }

    /// Takes one token at `now_ns`; false when there is none. A clock that goes back adds nothing.
    #[must_use]
    pub fn take(&mut self, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.last_ns);
        self.last_ns = self.last_ns.max(now_ns);
        self.credit_ns = self.credit_ns.saturating_add(elapsed_ns).min(self.credit_max_ns);
        let Some(left_ns) = self.credit_ns.checked_sub(self.cost_ns) else {
            return false;
        };
        self.credit_ns = left_ns;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut bucket = TokenBucket::new(1000, 5);
        let start_ns = 1_700_000_000_000_000_000;
        assert_eq!((0..100).filter(|_| bucket.take(start_ns)).count(), 5);
        let in_a_second = (1..=10_000u64)
            .filter(|step| bucket.take(start_ns + step * 100_000))
            .count();
        assert_eq!(in_a_second, 1000);
        assert_eq!(
            (0..100).filter(|_| bucket.take(start_ns)).count(),
            0,
            "a clock that goes back"
        );
    }
}
