//! Pace: how replayed time relates to the wall's.

use std::str::FromStr;
use std::time::{Duration, Instant};

/// How fast packets are given to the pipeline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// One after the other.
    Asap,
    /// So many times as fast as they were captured.
    Times(f64),
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "asap" => return Ok(Self::Asap),
            "realtime" => return Ok(Self::Times(1.0)),
            _ => {}
        }
        let times = text.strip_prefix('x').and_then(|number| number.parse().ok());
        match times.filter(|times: &f64| times.is_finite() && *times > 0.0) {
            Some(times) => Ok(Self::Times(times)),
            None => {
                Err("expected asap, realtime or xN, where N is more than 0, such as x10 or x0.5".to_owned())
            }
        }
    }
}

/// Waits until a packet is due.
pub(super) struct Pacer {
    pace: Pace,
    /// The wall's time and the replayed time of the first packet.
    start: Option<(Instant, u64)>,
}

impl Pacer {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, start: None }
    }

    /// Returns when it is the time for a packet of `timestamp_ns`.
    pub(super) fn wait(&mut self, timestamp_ns: u64) {
        let Pace::Times(times) = self.pace else { return };
        let (start, first_ns) = *self.start.get_or_insert((Instant::now(), timestamp_ns));
        let Some(left) = due(timestamp_ns - first_ns, times).checked_sub(start.elapsed()) else {
            return;
        };
        std::thread::sleep(left);
    }
}

/// The wall's time after which a packet is due that was captured `after_ns` after the first.
fn due(after_ns: u64, times: f64) -> Duration {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a capture of 100 days is off by a microsecond"
    )]
    let seconds = after_ns as f64 / 1e9 / times;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_read_as_people_write_it() {
        assert_eq!("asap".parse(), Ok(Pace::Asap));
        assert_eq!("realtime".parse(), Ok(Pace::Times(1.0)));
        assert_eq!("x10".parse(), Ok(Pace::Times(10.0)));
        assert_eq!("x0.5".parse(), Ok(Pace::Times(0.5)));
        for wrong in ["", "x", "10", "x0", "x-1", "xinf", "xNaN", "fast"] {
            assert!(wrong.parse::<Pace>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn twice_as_fast_is_due_in_half_the_time() {
        assert_eq!(due(3_000_000_000, 2.0), Duration::from_millis(1500));
        assert_eq!(due(u64::MAX, 1e-300), Duration::MAX);
    }
}
