//! The workers' signs of life: a BPF array that is mapped into the process, so that a beat is one store.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::steer::WORKERS_MAX;

/// Tells the program on an uplink that a worker lives. Clones beat in the same place.
#[derive(Clone, Debug)]
pub struct Heartbeats {
    slots: Arc<Slots>,
}

#[derive(Debug)]
struct Slots {
    start: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone and is reached by atomics only.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

/// A worker's slot: a cache line, so that workers don't share one.
const SLOT_LEN: usize = 64;
const LEN: usize = WORKERS_MAX * SLOT_LEN;
const _: () = assert!(LEN.is_multiple_of(4096));

impl Heartbeats {
    /// Maps a BPF array of [`WORKERS_MAX`] slots.
    pub(super) fn map(array: BorrowedFd<'_>) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN,
                protection,
                libc::MAP_SHARED,
                array.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).expect("mmap gives no null page");
        Ok(Self {
            slots: Arc::new(Slots { start }),
        })
    }

    /// Worker `worker` lives at `now_ns` of `CLOCK_MONOTONIC`: one store, no system call.
    ///
    /// # Panics
    /// When `worker` is [`WORKERS_MAX`] or more.
    #[inline]
    pub fn beat(&self, worker: usize, now_ns: u64) {
        // Relaxed: the program reads nothing else that depends on it.
        self.slot(worker).store(now_ns, Relaxed);
    }

    /// When worker `worker` beat last, 0 for never.
    ///
    /// # Panics
    /// As [`beat`](Self::beat).
    pub fn last_ns(&self, worker: usize) -> u64 {
        // Relaxed: a number to show.
        self.slot(worker).load(Relaxed)
    }

    fn slot(&self, worker: usize) -> &AtomicU64 {
        assert!(worker < WORKERS_MAX, "worker {worker}");
        // SAFETY: in bounds of the mapping, as just asserted.
        let slot = unsafe { self.slots.start.add(worker * SLOT_LEN) };
        // SAFETY: aligned to 64 bytes; alive while `self` is; both sides access it by whole aligned words.
        unsafe { slot.cast::<AtomicU64>().as_ref() }
    }
}

impl Drop for Slots {
    fn drop(&mut self) {
        // SAFETY: our own mapping, with its own length; references into it borrow a `Heartbeats`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), LEN) };
    }
}
