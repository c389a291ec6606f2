//! Conditions instead of sleeps: looked at until they hold.

use std::thread;
use std::time::{Duration, Instant};

/// How often a condition outside this process is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Returns what `look` finds and how long that took.
///
/// # Panics
/// When there is nothing within `patience`; `what` says what was waited for.
pub fn until_some<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return (found, start.elapsed());
        }
        assert!(start.elapsed() < patience, "waited {patience:?} for {what}");
        thread::sleep(LOOK_AGAIN);
    }
}

/// Waits until `condition` holds and returns how long that took.
///
/// # Panics
/// When it does not within `patience`; `what` says what was waited for.
pub fn until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    until_some(what, patience, || condition().then_some(())).1
}
