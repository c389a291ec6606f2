//! Publishing immutable state to workers that never wait for it.
//!
//! A worker keeps its own `Arc` of the snapshot and, at a batch boundary, compares one version number: no locked
//! instruction unless something was published. The publisher keeps every older snapshot until the workers have let
//! go of it, so that none of them ever runs a destructor.

use crossbeam::utils::CachePadded;

use crate::{
    quiescence::{Quiescence, Worker},
    sync::{Acquire, Arc, AtomicU64, Mutex, Relaxed, Release, SeqCst, fence, lock},
};

/// The current `T` for the workers of a [`Quiescence`] domain.
///
/// ```
/// # #[cfg(not(loom))] {
/// use std::sync::Arc;
/// let domain = flowtable::Quiescence::new(1);
/// let cell = Arc::new(flowtable::SnapshotCell::new(&domain, Arc::new("old")));
/// let worker = domain.register(0).expect("seat 0 is free");
/// let mut reader = cell.reader(&worker);
///
/// let version = cell.publish(Arc::new("new"));
/// assert!(!cell.visible_to_all(version));
/// assert_eq!(*reader.refresh(&worker), "new"); // at the batch boundary; the borrow lasts until the next one
/// assert!(cell.visible_to_all(version));
/// assert_eq!(cell.reclaim(), 0); // nothing old is left
/// # }
/// ```
#[derive(Debug)]
pub struct SnapshotCell<T> {
    domain: Arc<Quiescence>,
    /// Counts publications, from 1.
    version: CachePadded<AtomicU64>,
    current: Mutex<Arc<T>>,
    retired: Mutex<Vec<Arc<T>>>,
    /// Per seat, the version its reader uses, or [`NO_READER`].
    seen: Box<[CachePadded<AtomicU64>]>,
}

/// Above every version, so that a seat without a reader counts as up to date.
const NO_READER: u64 = u64::MAX;

impl<T> SnapshotCell<T> {
    /// A cell whose first snapshot, version 1, is `first`.
    pub fn new(domain: &Arc<Quiescence>, first: Arc<T>) -> Self {
        let seen = || CachePadded::new(AtomicU64::new(NO_READER));
        Self {
            domain: Arc::clone(domain),
            version: CachePadded::new(AtomicU64::new(1)),
            current: Mutex::new(first),
            retired: Mutex::new(Vec::new()),
            seen: (0..domain.workers_max()).map(|_| seen()).collect(),
        }
    }

    /// Makes `next` the current snapshot and returns its version. Also frees what [`reclaim`](Self::reclaim) would.
    pub fn publish(&self, next: Arc<T>) -> u64 {
        let mut current = lock(&self.current);
        let old = std::mem::replace(&mut *current, next);
        // Relaxed: only publishers write it, and they hold the lock.
        let version = self.version.load(Relaxed) + 1;
        // Release pairs with `refresh`; the snapshot itself is handed over by the lock.
        self.version.store(version, Release);
        drop(current);
        lock(&self.retired).push(old);
        self.reclaim();
        version
    }

    /// Frees old snapshots that no worker uses; returns how many are still in use.
    ///
    /// A worker that sleeps keeps the snapshot it had until it wakes.
    pub fn reclaim(&self) -> usize {
        let mut free = Vec::new();
        let mut retired = lock(&self.retired);
        // A count of 1 is final: workers clone the current snapshot only.
        free.extend(retired.extract_if(.., |old| Arc::strong_count(old) == 1));
        let in_use = retired.len();
        drop(retired);
        drop(free); // destructors run outside the lock
        in_use
    }

    /// Every worker either uses `version` or a later one, or sleeps and will take it when it wakes.
    pub fn visible_to_all(&self, version: u64) -> bool {
        // Pairs with the fence in `Worker::wake`: a worker we see asleep sees, once awake, what was published.
        fence(SeqCst);
        self.seen.iter().enumerate().all(|(index, seen)| {
            // Acquire pairs with the Release in `refresh`: the worker is done with what came before.
            seen.load(Acquire) >= version || self.domain.is_asleep(index)
        })
    }

    /// The version published last.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// The current snapshot, for threads that are no workers.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&lock(&self.current))
    }

    /// A reader for `worker`'s thread, starting from the current snapshot.
    ///
    /// # Panics
    /// If `worker` belongs to another domain, or has a reader of this cell already.
    pub fn reader(self: &Arc<Self>, worker: &Worker) -> Reader<T> {
        assert!(
            Arc::ptr_eq(worker.domain(), &self.domain),
            "the worker is of another domain"
        );
        let seen = &self.seen[worker.index()];
        let current = lock(&self.current);
        let version = self.version.load(Relaxed);
        let taken = seen
            .compare_exchange(NO_READER, version, SeqCst, Relaxed)
            .is_err();
        assert!(
            !taken,
            "worker {} has a reader of this cell already",
            worker.index()
        );
        let snapshot = Arc::clone(&current);
        drop(current);
        Reader {
            cell: Arc::clone(self),
            index: worker.index(),
            version,
            wakes: worker.wakes(),
            snapshot,
        }
    }
}

/// One worker's view of a [`SnapshotCell`].
#[derive(Debug)]
pub struct Reader<T> {
    cell: Arc<SnapshotCell<T>>,
    index: usize,
    version: u64,
    wakes: u64,
    snapshot: Arc<T>,
}

impl<T> Reader<T> {
    /// Moves on to the current snapshot. Call at the batch boundary: the borrow rules out keeping the old one.
    ///
    /// Never waits: if a publisher is at work this very moment, the batch runs with the previous snapshot. Only after a
    /// sleep does it wait for the publisher, whose part under the lock is a pointer swap.
    #[inline]
    pub fn refresh(&mut self, worker: &Worker) -> &T {
        debug_assert_eq!(self.index, worker.index(), "the reader is of another worker");
        // Acquire pairs with `publish`.
        if self.cell.version.load(Acquire) != self.version {
            self.advance(worker.wakes() != self.wakes);
        }
        self.wakes = worker.wakes();
        &self.snapshot
    }

    /// The snapshot of the current batch.
    #[inline]
    pub fn snapshot(&self) -> &T {
        &self.snapshot
    }

    /// The version of [`snapshot`](Self::snapshot).
    pub fn version(&self) -> u64 {
        self.version
    }

    #[cold]
    fn advance(&mut self, woke: bool) {
        let current = if woke {
            lock(&self.cell.current)
        } else {
            match self.cell.current.try_lock() {
                Ok(current) => current,
                Err(_) => return,
            }
        };
        // Not the last reference: the publisher keeps the old snapshot until it is ours no more.
        self.snapshot = Arc::clone(&current);
        // Relaxed: written under the lock that we hold.
        self.version = self.cell.version.load(Relaxed);
        drop(current);
        // Release pairs with `visible_to_all`.
        self.cell.seen[self.index].store(self.version, Release);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.cell.seen[self.index].store(NO_READER, Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_in_use_survives_until_its_reader_moves_on() {
        let domain = Quiescence::new(2);
        let cell = Arc::new(SnapshotCell::new(&domain, Arc::new(1)));
        let worker = domain.register(0).unwrap();
        let mut reader = cell.reader(&worker);
        let two = cell.publish(Arc::new(2));
        let three = cell.publish(Arc::new(3));
        // 1 is in use; 2 was never taken and is gone.
        assert_eq!((cell.reclaim(), *reader.snapshot()), (1, 1));
        assert!(!cell.visible_to_all(two));
        assert_eq!(*reader.refresh(&worker), 3);
        assert!(cell.visible_to_all(three));
        assert_eq!(cell.reclaim(), 0);
    }

    #[test]
    fn a_sleeping_worker_does_not_hold_up_an_acknowledgement() {
        let domain = Quiescence::new(1);
        let cell = Arc::new(SnapshotCell::new(&domain, Arc::new(1)));
        let mut worker = domain.register(0).unwrap();
        let mut reader = cell.reader(&worker);
        let asleep = worker.sleep();
        let version = cell.publish(Arc::new(2));
        assert!(cell.visible_to_all(version));
        drop(asleep);
        assert!(!cell.visible_to_all(version), "awake, and has not looked yet");
        assert_eq!(*reader.refresh(&worker), 2);
        assert!(cell.visible_to_all(version));
    }

    #[test]
    fn the_publisher_runs_every_destructor() {
        struct OnDrop(std::thread::ThreadId);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                assert_eq!(std::thread::current().id(), self.0, "dropped by a worker");
            }
        }
        let publisher = std::thread::current().id();
        let domain = Quiescence::new(1);
        let cell = Arc::new(SnapshotCell::new(&domain, Arc::new(OnDrop(publisher))));
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut worker = domain.register(0).unwrap();
                let mut reader = cell.reader(&worker);
                while !done.load(Acquire) {
                    reader.refresh(&worker);
                    worker.quiescent();
                }
            });
            for _ in 0..10_000 {
                cell.publish(Arc::new(OnDrop(publisher)));
            }
            done.store(true, Release);
            reading.join().unwrap();
        });
        assert_eq!(cell.reclaim(), 0);
    }
}
