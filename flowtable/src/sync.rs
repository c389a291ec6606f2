//! What loom replaces: atomics, fences and `Mutex`. Everything else in the crate imports them from here. `Arc` stays the
//! standard one: it only shares ownership, no protocol of ours hangs on its count while a worker can change it.

#[cfg(loom)]
pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, fence},
};
#[cfg(not(loom))]
pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, fence},
};

pub(crate) use std::sync::{
    Arc,
    atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};

/// A `Mutex` here guards plain data that is valid at every step, so a panic elsewhere poisons nothing.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
