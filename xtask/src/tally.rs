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
    ///
    /// # Errors
    /// A name that no skip is ever told by: it would require nothing.
    pub(crate) fn from_env() -> Result<Self, UnknownNeed> {
        Self::requiring(&env::var("RINGWAY_REQUIRE").unwrap_or_default())
    }

    fn requiring(list: &str) -> Result<Self, UnknownNeed> {
        let mut required = Vec::new();
        for need in list.split(',').map(str::trim).filter(|need| !need.is_empty()) {
            if NEEDS.iter().all(|known| plain(known) != plain(need)) {
                return Err(UnknownNeed(need.to_owned()));
            }
            required.push(plain(need));
        }
        Ok(Self {
            required,
            ..Self::default()
        })
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

    /// How many failed so far.
    pub(crate) fn failures(&self) -> usize {
        self.failed.len()
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

/// What `RINGWAY_REQUIRE` may demand: the word by which tests and steps say what they miss.
const NEEDS: &[&str] = &[
    "root",
    "afxdp",
    "cargo-deny",
    "clang",
    "kube-apiserver",
    "nightly",
    "scapy",
    "tcpdump",
    "tshark",
    "valgrind",
];

/// A name in `RINGWAY_REQUIRE` that is none of [`NEEDS`].
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnknownNeed(String);

impl fmt::Display for UnknownNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RINGWAY_REQUIRE: {:?} is unknown, expected some of {}",
            self.0,
            NEEDS.join(", ")
        )
    }
}

/// Whether a word of `reason` is `need`: `AF_XDP` is `afxdp`. A part of a path is no word.
fn names(reason: &str, need: &str) -> bool {
    reason
        .split(|c: char| c.is_whitespace() || ",;:()".contains(c))
        .any(|word| plain(word) == need)
}

fn plain(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_skip_is_a_failure() {
        let mut tally = Tally::requiring("root, afxdp").unwrap();
        tally.skip("lab", "needs root");
        tally.skip("socket", "no AF_XDP: EPERM");
        tally.skip("fuzz", "no nightly toolchain");
        tally.skip("file", "/srv/root/x: not found");
        assert!(!tally.is_success());
        assert!(
            tally.to_string().ends_with("0 passed, 2 failed, 2 skipped"),
            "{tally}"
        );
    }

    #[test]
    fn what_nothing_is_skipped_for_cannot_be_required() {
        let unknown = Tally::requiring("root,gpu").unwrap_err();
        let message = unknown.to_string();
        assert!(
            message.contains("\"gpu\"") && message.contains("afxdp"),
            "{message}"
        );
        assert!(!message.contains('\n'));
        assert!(Tally::requiring(" AF_XDP ,,cargo-deny").is_ok());
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
