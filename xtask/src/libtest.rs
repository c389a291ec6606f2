//! Reads what `cargo test -- --show-output` prints and counts it, line by line.
//!
//! A test that can't run on this machine passes and prints `SKIPPED: reason`; it is counted as skipped, not as passed.

use std::collections::{BTreeMap, BTreeSet};

use crate::tally::Tally;

/// Follows the output of one `cargo test` run.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// The binary whose tests are being reported, as cargo names it.
    suite: String,
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    ignored: BTreeMap<String, String>,
    skipped: BTreeMap<String, String>,
    /// The test whose captured output is being shown.
    showing: Option<String>,
    /// Some suite ended without a `test result` line, or cargo could not build it.
    open: bool,
}

impl Reader {
    /// Takes one line and counts finished suites into `tally`. Returns the line a person should see, if any.
    pub(crate) fn line(&mut self, line: &str, tally: &mut Tally) -> Option<String> {
        if let Some(suite) = suite_of(line) {
            self.finish(tally);
            self.suite = suite;
            return None;
        }
        if line.starts_with("running ") && line.trim_end().ends_with(['t', 's']) {
            self.open = true;
            return None;
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            let summary = format!("{}: {rest}", self.suite);
            self.open = false;
            self.finish(tally);
            return Some(summary);
        }
        if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            return self.outcome(name, outcome.trim(), line);
        }
        if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" ----"))
        {
            let name = name
                .strip_suffix(" stdout")
                .or_else(|| name.strip_suffix(" stderr"))
                .unwrap_or(name);
            self.showing = Some(name.to_owned());
        }
        if let Some(reason) = line.trim_start().strip_prefix("SKIPPED: ") {
            // With --show-output the test is known; a test without captured output reports outside of it.
            let name = self
                .showing
                .clone()
                .unwrap_or_else(|| format!("(unnamed {})", self.skipped.len() + 1));
            self.skipped.insert(name, reason.trim().to_owned());
            return None;
        }
        if BUILDING.iter().any(|word| line.trim_start().starts_with(word)) {
            return None;
        }
        if self.passed.contains(line.trim()) {
            // The list of successes.
            return None;
        }
        if line == "failures:" {
            self.showing = None;
        }
        let shown_test_passed = self
            .showing
            .as_ref()
            .is_some_and(|name| self.passed.contains(name));
        (!shown_test_passed && !line.is_empty() && line != "successes:").then(|| line.to_owned())
    }

    fn outcome(&mut self, name: &str, outcome: &str, line: &str) -> Option<String> {
        // "should_panic" and doc tests add words after the name; the captured output is shown under the whole of it.
        let name = name.strip_suffix(" - should panic").unwrap_or(name).to_owned();
        match outcome.split_once(',').map_or(outcome, |(first, _)| first) {
            "ok" => {
                self.passed.insert(name);
                None
            }
            "ignored" => {
                let reason = outcome.strip_prefix("ignored, ").unwrap_or("marked #[ignore]");
                self.ignored.insert(name, reason.to_owned());
                None
            }
            _ => {
                self.failed.insert(name);
                Some(line.to_owned())
            }
        }
    }

    /// Counts the suite that was being read. A suite that never gave its result (it crashed) is a failure.
    pub(crate) fn finish(&mut self, tally: &mut Tally) {
        if std::mem::take(&mut self.open) {
            tally.fail(format!("{}: ended without a result", self.suite));
        }
        for name in &self.passed {
            match self.skipped.get(name) {
                Some(reason) => tally.skip(self.full_name(name), reason),
                None => tally.pass(),
            }
        }
        for name in &self.failed {
            tally.fail(self.full_name(name));
        }
        for (name, reason) in &self.ignored {
            tally.skip(self.full_name(name), reason);
        }
        let suite = std::mem::take(&mut self.suite);
        *self = Self {
            suite,
            ..Self::default()
        };
    }

    fn full_name(&self, test: &str) -> String {
        format!("{} {test}", self.suite)
    }
}

/// How cargo's lines begin while all goes well.
const BUILDING: &[&str] = &[
    "Adding ",
    "Blocking ",
    "Building ",
    "Checking ",
    "Compiling ",
    "Downloaded ",
    "Downloading ",
    "Finished ",
    "Fresh ",
    "Locking ",
    "Updating ",
];

/// The suite that cargo announces on `line`: package and target, without the hash of the file.
fn suite_of(line: &str) -> Option<String> {
    let line = line.trim_start();
    if let Some(package) = line.strip_prefix("Doc-tests ") {
        return Some(format!("{package} (doc)"));
    }
    let (_, file) = line.strip_prefix("Running ")?.rsplit_once('(')?;
    let file = file.strip_suffix(')')?.rsplit('/').next()?;
    Some(file.rsplit_once('-').map_or(file, |(name, _)| name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Tally, Vec<String>) {
        let mut tally = Tally::default();
        let mut reader = Reader::default();
        let shown = text
            .lines()
            .filter_map(|line| reader.line(line, &mut tally))
            .collect();
        reader.finish(&mut tally);
        (tally, shown)
    }

    #[test]
    fn passed_failed_ignored_and_skipped_are_told_apart() {
        let (tally, shown) = read(
            "     Running unittests src/lib.rs (target/debug/deps/wire-0123abc)\n\n\
            running 4 tests\n\
            test a ... ok\n\
            test b ... FAILED\n\
            test c ... ignored, takes an hour\n\
            test d ... ok\n\n\
            successes:\n\n\
            ---- d stdout ----\nSKIPPED: needs root\n\n\
            successes:\n    a\n    d\n\n\
            failures:\n\n---- b stdout ----\nthread 'b' panicked\n\n\
            test result: FAILED. 2 passed; 1 failed; 1 ignored\n",
        );
        assert_eq!(
            tally.to_string(),
            "failed: wire b\nskipped: wire d (needs root)\nskipped: wire c (takes an hour)\n\
             1 passed, 1 failed, 2 skipped"
        );
        assert!(
            shown.contains(&"thread 'b' panicked".to_owned()),
            "a failure's output is shown: {shown:?}"
        );
    }

    #[test]
    fn a_suite_that_crashes_is_a_failure() {
        let (tally, _) = read(
            "     Running unittests src/lib.rs (target/debug/deps/wire-0123abc)\n\
            running 2 tests\ntest a ... ok\n\
            \x20    Running unittests src/lib.rs (target/debug/deps/control-0123abc)\n",
        );
        assert!(!tally.is_success());
        assert!(
            tally.to_string().contains("failed: wire: ended without a result"),
            "{tally}"
        );
    }
}
