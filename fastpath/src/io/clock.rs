//! The clocks of live ports: `CLOCK_MONOTONIC` for time, the TSC for measuring. Replay brings its own time.
#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// Nanoseconds of `CLOCK_MONOTONIC`: what `bpf_ktime_get_ns` says too. Read once per batch, without a system call.
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec of ours. The call cannot fail: the clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The processor's time stamp counter; nanoseconds on processors without one. For measuring, not ordered with loads and stores.
#[inline]
pub fn tsc() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction and Linux lets programs use it.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    monotonic_ns()
}

/// Ticks of [`tsc`] in a second, measured against the monotonic clock over `time`.
pub fn tsc_hz(time: Duration) -> u64 {
    let (start, start_tsc) = (Instant::now(), tsc());
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
    let (elapsed_ns, ticks) = (start.elapsed().as_nanos(), tsc() - start_tsc);
    (u128::from(ticks) * 1_000_000_000 / elapsed_ns.max(1)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_run_forward_together() {
        let (ns, ticks) = (monotonic_ns(), tsc());
        let hz = tsc_hz(Duration::from_millis(5));
        assert!(monotonic_ns() - ns >= 5_000_000);
        assert!(tsc() > ticks);
        assert!(hz > 1_000_000, "{hz} Hz");
    }
}
