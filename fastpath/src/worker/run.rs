//! The thread's loop: busy under load, asleep without.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use super::Worker;
use crate::io::{PacketIo, clock};
use crate::observe::Observer;

/// When a worker sleeps.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// It goes on polling for so long after the last frame.
    pub busy_poll: Duration,
    /// The longest sleep: it beats at least so often.
    pub idle_wait: Duration,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            busy_poll: Duration::from_micros(100),
            idle_wait: Duration::from_millis(50),
        }
    }
}

/// While fragments wait here whose first may have come to another worker, which does not wake us: the longest sleep.
const LOOK_FOR_FIRST_FRAGMENTS: Duration = Duration::from_millis(1);

impl<P: PacketIo, O: Observer> Worker<P, O> {
    /// Polls until `stop`.
    pub fn run(&mut self, config: &RunConfig, stop: &AtomicBool) {
        let busy_poll_ns = config.busy_poll.as_nanos() as u64;
        let mut last_frame_ns = clock::monotonic_ns();
        // Relaxed: what stops us has nothing to show us.
        while !stop.load(Relaxed) {
            let now_ns = clock::monotonic_ns();
            if self.poll(now_ns) > 0 {
                last_frame_ns = now_ns;
            } else if now_ns.saturating_sub(last_frame_ns) > busy_poll_ns {
                self.sleep(config.idle_wait, now_ns);
            }
        }
    }

    /// Waits for a frame, a command or a deadline; counts as passed for whoever waits for this worker.
    fn sleep(&mut self, longest: Duration, now_ns: u64) {
        let due = self
            .next_deadline_ns()
            .map(|due| Duration::from_nanos(due.saturating_sub(now_ns)));
        let mut timeout = due.map_or(longest, |due| due.min(longest));
        if self.fragments.held() > 0 && self.shared.first_fragments().is_some() {
            timeout = timeout.min(LOOK_FOR_FIRST_FRAGMENTS);
        }
        let waker = self.handle.waker().clone();
        let mut ports: Vec<&mut P> = self.ports.iter_mut().flatten().collect();
        let asleep = self.seat.sleep();
        P::wait_or_wake(&mut ports, &waker, timeout);
        drop(asleep);
    }
}
