//! What all workers share: flow tables, generations, the current snapshot, and who has passed which batch.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use flowtable::{Config, CreateError, Memory, Quiescence, SnapshotCell, TableV4, TableV6};

use crate::fragment::board::Board;
use crate::generations::{Generations, WORDS};
use crate::io::Waker;
use crate::snapshot::{Bumps, Snapshot};
use crate::unanswered::Unanswered;

/// The tables and the cell that the workers of one process share, and their heartbeats.
#[derive(Debug)]
pub struct Shared {
    v4: Arc<TableV4>,
    v6: Arc<TableV6>,
    snapshot: Arc<SnapshotCell<Snapshot>>,
    quiescence: Arc<Quiescence>,
    heartbeats: Box<[CachePadded<AtomicU64>]>,
    wanted: ArrayQueue<IpAddr>,
    wanted_waker: Waker,
    unanswered: Unanswered,
    affinities: AtomicI64,
    first_fragments: Option<Board>,
}

/// How large the tables are.
#[derive(Clone, Copy, Debug)]
pub struct SharedConfig {
    /// Workers, and other threads that read flows.
    pub seats: usize,
    /// IPv4 connections.
    pub connections_v4: u32,
    /// IPv6 connections.
    pub connections_v6: u32,
    /// Secret of the hash; given for reproducible runs.
    pub seed: u128,
}

impl Shared {
    /// Fresh tables, in memory of this process.
    ///
    /// # Errors
    /// What the tables say: no memory, or a capacity that can't be.
    pub fn new(config: &SharedConfig, first: Arc<Snapshot>) -> Result<Arc<Self>, CreateError> {
        let quiescence = Quiescence::new(config.seats);
        let table = |capacity| Config {
            capacity,
            seed: config.seed,
            user_words: WORDS,
        };
        let v4 = TableV4::create(table(config.connections_v4), Memory::Anonymous, &quiescence)?;
        let v6 = TableV6::create(table(config.connections_v6), Memory::Anonymous, &quiescence)?;
        Ok(Self::over(v4, v6, quiescence, first))
    }

    /// Over tables made (or adopted) elsewhere; both belong to `quiescence`, and `v4` has the user words of generations. After
    /// an adoption call [`Generations::bump_all`].
    pub fn over(
        v4: Arc<TableV4>,
        v6: Arc<TableV6>,
        quiescence: Arc<Quiescence>,
        first: Arc<Snapshot>,
    ) -> Arc<Self> {
        assert!(v4.user_area().len() >= WORDS, "user words for the generations");
        let unanswered = Unanswered::new(first.limits().ports as usize);
        // A single worker sees every fragment itself.
        let first_fragments = (quiescence.workers_max() > 1).then(|| {
            let timeout_ns = u64::from(first.timeouts().fragment) * 1_000_000_000;
            let (datagrams, of_source) = (first.limits().fragments, first.limits().fragments_per_source);
            Board::new(datagrams, of_source, timeout_ns, v4.hash(&[0; 2]).value())
        });
        let snapshot = Arc::new(SnapshotCell::new(&quiescence, first));
        let heartbeats = (0..quiescence.workers_max())
            .map(|_| CachePadded::default())
            .collect();
        Arc::new(Self {
            wanted: ArrayQueue::new(WANTED_MAX),
            wanted_waker: Waker::new().expect("a descriptor for an eventfd"),
            v4,
            v6,
            snapshot,
            quiescence,
            heartbeats,
            unanswered,
            affinities: AtomicI64::new(0),
            first_fragments,
        })
    }

    /// IPv4 flows.
    pub fn v4(&self) -> &Arc<TableV4> {
        &self.v4
    }

    /// IPv6 flows.
    pub fn v6(&self) -> &Arc<TableV6> {
        &self.v6
    }

    /// Connections in both tables. What else their slots hold (session affinity) is left out.
    pub fn flows_live(&self) -> u64 {
        // Relaxed: a number for people.
        let others = u64::try_from(self.affinities.load(Relaxed)).unwrap_or(0);
        (u64::from(self.v4.live()) + u64::from(self.v6.live())).saturating_sub(others)
    }

    pub(crate) fn unanswered(&self) -> &Unanswered {
        &self.unanswered
    }

    /// Where workers tell each other what became of first fragments; none where there is one worker.
    pub(crate) fn first_fragments(&self) -> Option<&Board> {
        self.first_fragments.as_ref()
    }

    pub(crate) fn count_affinities(&self, change: i64) {
        // Relaxed: a number for people.
        self.affinities.fetch_add(change, Relaxed);
    }

    /// The workers' domain.
    pub fn quiescence(&self) -> &Arc<Quiescence> {
        &self.quiescence
    }

    /// The cell of snapshots.
    pub fn snapshot(&self) -> &Arc<SnapshotCell<Snapshot>> {
        &self.snapshot
    }

    /// The generations that flow entries are stamped with.
    #[inline]
    pub fn generations(&self) -> Generations<'_> {
        Generations::over(self.v4.user_area())
    }

    /// Publishes `next` for the workers' next batches; returns its number. First half of a change.
    pub fn publish(&self, next: Arc<Snapshot>) -> u64 {
        self.snapshot.publish(next)
    }

    /// Second half of a change: once `published` [is visible to all](SnapshotCell::visible_to_all), outdates the entries
    /// that depend on what changed. False, and nothing done, while some worker still uses an older snapshot.
    pub fn outdate(&self, published: u64, changed: &Bumps) -> bool {
        if !self.snapshot.visible_to_all(published) {
            return false;
        }
        for shard in changed.iter() {
            self.generations().bump(shard);
        }
        true
    }

    /// When the worker in this seat last made a whole loop, nanoseconds of the workers' clock; stands still when it hangs.
    pub fn last_beat_ns(&self, seat: usize) -> u64 {
        // Relaxed: a sign of life, nothing is ordered by it.
        self.heartbeats.get(seat).map_or(0, |beat| beat.load(Relaxed))
    }

    pub(crate) fn beat(&self, seat: usize, now_ns: u64) {
        if let Some(beat) = self.heartbeats.get(seat) {
            // Relaxed: as above.
            beat.store(now_ns, Relaxed);
        }
    }

    /// A packet waits for the MAC of `address`, which is on an uplink's own subnet and not known yet. Whoever mirrors the
    /// kernel's neighbours is woken to ask the kernel for it. Never blocks; what does not fit is asked again by the next packet.
    pub(crate) fn want_neighbour(&self, address: IpAddr) {
        if self.wanted.push(address).is_ok() {
            self.wanted_waker.wake();
        }
    }

    /// Addresses whose MAC is waited for since the last call.
    pub fn take_wanted(&self) -> Vec<IpAddr> {
        self.wanted_waker.clear();
        std::iter::from_fn(|| self.wanted.pop()).collect()
    }

    /// Readable when there may be such addresses.
    pub fn wanted_waker(&self) -> &Waker {
        &self.wanted_waker
    }
}

/// Addresses that can be asked for at once.
const WANTED_MAX: usize = 256;
