//! Quiescent-state reclamation: who may still hold what was unlinked.
//!
//! A worker says at each batch boundary that it holds nothing from before. That costs it one load and one store. What
//! is retired carries an epoch; it is free once every worker that is awake has announced that epoch or a later one.

use crossbeam::utils::CachePadded;

use crate::sync::{AcqRel, Acquire, Arc, AtomicU64, Relaxed, Release, SeqCst, fence};

/// A domain of workers that share flow tables and snapshots.
///
/// ```
/// # #[cfg(not(loom))] {
/// let domain = flowtable::Quiescence::new(2);
/// let mut worker = domain.register(0).expect("seat 0 is free");
/// loop {
///     // one batch of packets …
///     worker.quiescent(); // nothing found in that batch is used again
/// #   break;
/// }
/// let asleep = worker.sleep(); // counts as passed for as long as this lives
/// drop(asleep);
/// # }
/// ```
#[derive(Debug)]
pub struct Quiescence {
    epoch: CachePadded<AtomicU64>,
    seats: Box<[CachePadded<Seat>]>,
}

#[derive(Debug)]
struct Seat {
    /// The last epoch that the worker announced, or [`ASLEEP`].
    announced: AtomicU64,
    /// 1 while a [`Worker`] holds the seat.
    taken: AtomicU64,
}

const WORKERS_MAX: usize = 128;
/// Above every epoch, so that a sleeping or absent worker counts as passed.
const ASLEEP: u64 = u64::MAX;

impl Quiescence {
    /// A domain with seats `0..workers_max`, none of them taken.
    ///
    /// # Panics
    /// If `workers_max` exceeds 128: the index counts in bytes what workers have under way.
    pub fn new(workers_max: usize) -> Arc<Self> {
        assert!(
            workers_max <= WORKERS_MAX,
            "{workers_max} workers, at most {WORKERS_MAX}"
        );
        let seat = || {
            CachePadded::new(Seat {
                announced: AtomicU64::new(ASLEEP),
                taken: AtomicU64::new(0),
            })
        };
        Arc::new(Self {
            epoch: CachePadded::new(AtomicU64::new(1)),
            seats: (0..workers_max).map(|_| seat()).collect(),
        })
    }

    /// How many workers may register.
    pub fn workers_max(&self) -> usize {
        self.seats.len()
    }

    /// Takes seat `index`, awake. `None` if there is no such seat or it is taken.
    ///
    /// Any thread that looks up flows or reads snapshots needs a seat of its own, a status thread too.
    pub fn register(self: &Arc<Self>, index: usize) -> Option<Worker> {
        let seat = self.seats.get(index)?;
        // Acquire pairs with the Release in `Worker::drop`: we go on from what the previous holder left.
        seat.taken.compare_exchange(0, 1, Acquire, Relaxed).ok()?;
        let mut worker = Worker {
            domain: Arc::clone(self),
            index,
            wakes: 0,
        };
        worker.wake();
        Some(worker)
    }

    /// Stamps what the caller has just unlinked. It may be reused once [`horizon`](Self::horizon) reaches the stamp.
    #[inline]
    pub(crate) fn retire(&self) -> u64 {
        // Release pairs with the Acquire in `quiescent`: a worker that announces this epoch sees the unlinking.
        self.epoch.fetch_add(1, AcqRel) + 1
    }

    /// The highest epoch that every awake worker has announced: stamps up to it are free.
    #[inline]
    pub(crate) fn horizon(&self) -> u64 {
        // Pairs with the fence in `wake`: either we see that worker awake, or it sees what we unlinked.
        fence(SeqCst);
        // Acquire pairs with the Release in `quiescent`: its reads of what was retired come before our reuse.
        self.seats
            .iter()
            .map(|seat| seat.announced.load(Acquire))
            .min()
            .unwrap_or(ASLEEP)
    }

    /// The worker at `index` sleeps or is absent. To be read after a `SeqCst` fence.
    pub(crate) fn is_asleep(&self, index: usize) -> bool {
        self.seats[index].announced.load(Acquire) == ASLEEP
    }
}

/// A worker's seat in a [`Quiescence`] domain. Dropping it gives the seat back.
#[derive(Debug)]
pub struct Worker {
    domain: Arc<Quiescence>,
    index: usize,
    wakes: u64,
}

impl Worker {
    /// The seat's number.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The domain this seat belongs to.
    pub fn domain(&self) -> &Arc<Quiescence> {
        &self.domain
    }

    /// Call at each batch boundary: the worker holds no [`FlowRef`](crate::FlowRef) from before. One load, one store.
    #[inline]
    pub fn quiescent(&mut self) {
        // Acquire pairs with `retire`: after this we see what was unlinked up to that epoch.
        let epoch = self.domain.epoch.load(Acquire);
        // Release pairs with `horizon`: our reads so far come before any reuse.
        self.seat().announced.store(epoch, Release);
    }

    /// Counts as passed until the returned guard is dropped: for waits of unknown length.
    pub fn sleep(&mut self) -> Asleep<'_> {
        // Release as in `quiescent`.
        self.seat().announced.store(ASLEEP, Release);
        Asleep { worker: self }
    }

    /// How often this worker woke: a snapshot reader that sees it change must not go on with an old snapshot.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes
    }

    fn wake(&mut self) {
        self.wakes += 1;
        let epoch = self.domain.epoch.load(Acquire);
        // Relaxed: the fence orders it before every read that follows.
        self.seat().announced.store(epoch, Relaxed);
        // Pairs with the fence in `horizon`, see there.
        fence(SeqCst);
    }

    fn seat(&self) -> &Seat {
        &self.domain.seats[self.index]
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.seat().announced.store(ASLEEP, Release);
        // Release pairs with the Acquire in `register`.
        self.seat().taken.store(0, Release);
    }
}

/// A worker that waits. It wakes when this is dropped.
#[derive(Debug)]
#[must_use = "the worker wakes when this is dropped"]
pub struct Asleep<'w> {
    worker: &'w mut Worker,
}

impl Drop for Asleep<'_> {
    fn drop(&mut self) {
        self.worker.wake();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_free_once_every_awake_worker_has_passed() {
        let domain = Quiescence::new(3);
        let (mut a, mut b) = (domain.register(0).unwrap(), domain.register(1).unwrap());
        let stamp = domain.retire();
        assert!(domain.horizon() < stamp);
        a.quiescent();
        assert!(domain.horizon() < stamp);
        b.quiescent();
        assert!(domain.horizon() >= stamp);
    }

    #[test]
    fn a_sleeping_worker_counts_as_passed_and_wakes_up_to_date() {
        let domain = Quiescence::new(2);
        let (mut a, mut b) = (domain.register(0).unwrap(), domain.register(1).unwrap());
        let stamp = domain.retire();
        a.quiescent();
        let asleep = b.sleep();
        assert!(domain.horizon() >= stamp);
        drop(asleep);
        assert!(domain.horizon() >= stamp);
        assert!(domain.horizon() < domain.retire());
    }

    #[test]
    fn a_seat_is_held_by_one_worker_at_a_time() {
        let domain = Quiescence::new(1);
        let first = domain.register(0).unwrap();
        assert!(domain.register(0).is_none());
        assert!(domain.register(1).is_none());
        drop(first);
        assert!(domain.register(0).is_some());
    }
}
