//! Counts of what passed, failed and was skipped, with the reasons.

use std::collections::BTreeMap;
use std::env;
use std::fmt;

/// What a run of checks came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: Vec<String>,
    /// Names of what was skipped, by reason.
    skipped: BTreeMap<String, Vec<String>>,
    required: Vec<String>,
}

impl Tally {
    /// A tally that counts a skip for want of anything in `RINGWAY_REQUIRE` (comma-separated) as a failure.
    pub(crate) fn from_env() -> Self {
        Self::requiring(&env::var("RINGWAY_REQUIRE").unwrap_or_default())
    }

    fn requiring(list: &str) -> Self {
        let required = list
            .split(',')
            .map(plain)
            .filter(|need| !need.is_empty())
            .collect();
        Self {
            required,
            ..Self::default()
        }
    }

    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    pub(crate) fn fail(&mut self, name: impl Into<String>) {
        self.failed.push(name.into());
    }

    /// Counts `name` as skipped for `reason`, or as failed where the reason names something required.
    pub(crate) fn skip(&mut self, name: impl Into<String>, reason: &str) {
        let name = name.into();
        match self.required.iter().find(|need| names(reason, need)) {
            Some(need) => self
                .failed
                .push(format!("{name}: skipped ({reason}), but {need} is required")),
            None => self.skipped.entry(reason.to_owned()).or_default().push(name),
        }
    }

    pub(crate) fn is_success(&self) -> bool {
        self.failed.is_empty()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.failed {
            writeln!(f, "failed: {name}")?;
        }
        for (reason, names) in &self.skipped {
            writeln!(f, "skipped: {} ({reason})", names.join(", "))?;
        }
        let skipped: usize = self.skipped.values().map(Vec::len).sum();
        write!(
            f,
            "{} passed, {} failed, {skipped} skipped",
            self.passed,
            self.failed.len()
        )
    }
}

/// Whether a word of `reason` is `need`: `AF_XDP` is `afxdp`.
fn names(reason: &str, need: &str) -> bool {
    reason
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|word| plain(word) == need)
}

fn plain(word: &str) -> String {
    word.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_skip_is_a_failure() {
        let mut tally = Tally::requiring("root, afxdp");
        tally.skip("lab", "needs root");
        tally.skip("socket", "no AF_XDP: EPERM");
        tally.skip("fuzz", "no nightly toolchain");
        assert!(!tally.is_success());
        assert!(
            tally.to_string().ends_with("0 passed, 2 failed, 1 skipped"),
            "{tally}"
        );
    }

    #[test]
    fn skips_are_named_with_their_reason() {
        let mut tally = Tally::default();
        tally.pass();
        tally.skip("a", "needs root");
        tally.skip("b", "needs root");
        assert!(tally.is_success());
        assert_eq!(
            tally.to_string(),
            "skipped: a, b (needs root)\n1 passed, 0 failed, 2 skipped"
        );
    }
}
