//! Sleeping until a port has input: one poll(2) over the descriptors of all of a worker's ports.
#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use super::PacketIo;

/// Wakes a worker that sleeps in [`PacketIo::wait_or_wake`], from any thread. A wake before the sleep is not lost.
#[derive(Clone, Debug)]
pub struct Waker {
    event: Arc<OwnedFd>,
}

impl Waker {
    /// A waker that nobody has woken.
    ///
    /// # Errors
    /// The kernel's, when the process has no descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain system call without pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just made and nobody else knows it.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            event: Arc::new(event),
        })
    }

    /// Ends the worker's sleep, the present one or else the next.
    pub fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: `one` is 8 readable bytes. The only error is a counter at its limit, which wakes as well.
        unsafe { libc::write(self.event.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Forgets wakes so far: they have been seen.
    pub fn clear(&self) {
        let mut count = [0_u8; 8];
        // SAFETY: `count` is 8 writable bytes. The only error is that nobody woke.
        unsafe { libc::read(self.event.as_raw_fd(), count.as_mut_ptr().cast(), count.len()) };
    }

    pub(super) fn fd(&self) -> i32 {
        self.event.as_raw_fd()
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

thread_local! {
    /// A worker sleeps often and has the same ports each time: the list keeps its memory.
    static POLLED: RefCell<Vec<libc::pollfd>> = const { RefCell::new(Vec::new()) };
}

/// Sleeps until a port has input, the waker is woken, a signal comes, or the timeout.
pub(super) fn wait<P: PacketIo>(ports: &mut [&mut P], waker: Option<&Waker>, timeout: Duration) {
    if ports.iter_mut().any(|port| port.has_input()) {
        return;
    }
    POLLED.with_borrow_mut(|polled| {
        polled.clear();
        let fds = ports
            .iter()
            .flat_map(|port| port.wait_fds())
            .chain(waker.map(Waker::fd));
        polled.extend(fds.map(|fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        }));
        let timeout = libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::from(timeout.subsec_nanos()),
        };
        let count = polled.len() as libc::nfds_t;
        // SAFETY: `polled` is `count` entries that live through the call, `timeout` too; no signal mask.
        let ready = unsafe { libc::ppoll(polled.as_mut_ptr(), count, &raw const timeout, std::ptr::null()) };
        // An interrupted or failed poll is a spurious return: the caller polls its ports and sleeps again.
        let woken = ready > 0 && polled.last().is_some_and(|last| last.revents != 0);
        if let Some(waker) = waker.filter(|_| woken) {
            waker.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Instant};

    use super::*;
    use crate::io::RingPort;

    #[test]
    fn a_wake_before_the_sleep_is_not_lost_and_is_seen_once() {
        let waker = Waker::new().unwrap();
        let mut port = RingPort::new(4);
        waker.wake();
        let start = Instant::now();
        RingPort::wait_or_wake(&mut [&mut port], &waker, Duration::from_secs(30));
        assert!(start.elapsed() < Duration::from_secs(10));

        let start = Instant::now();
        RingPort::wait_or_wake(&mut [&mut port], &waker, Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20));
    }

    #[test]
    fn another_thread_ends_the_sleep() {
        let waker = Waker::new().unwrap();
        let theirs = waker.clone();
        let mut port = RingPort::new(4);
        let other = thread::spawn(move || theirs.wake());
        let start = Instant::now();
        RingPort::wait_or_wake(&mut [&mut port], &waker, Duration::from_secs(30));
        assert!(start.elapsed() < Duration::from_secs(10));
        other.join().unwrap();
    }
}
