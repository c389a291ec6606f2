//! The table: made once, looked up by every worker.

use std::io;

use crossbeam::utils::CachePadded;

use crate::{
    counters::{Counters, WorkerCounters},
    hash::{FlowHash, Hasher},
    index::Index,
    layout::{HEADER_WORDS, LINE_WORDS, Layout, LayoutError, SLOTS_MAX},
    memory::{Memory, Pages, Region},
    pool::{CHUNK, Pool},
    prefetch::prefetch,
    quiescence::Quiescence,
    record::{Direction, FlowRef, Record, Snapshot, Unreadable},
    state::{Lifecycle, State},
    sync::{Arc, AtomicU64, Mutex, Relaxed},
    writer::Seats,
};

/// IPv4 flows: keys of 2 words, records of one cache line, 128 B per connection.
pub type TableV4 = Table<2, 8>;
/// IPv6 flows: keys of 5 words, records of 96 B, 192 B per connection.
pub type TableV6 = Table<5, 12>;

/// What a new table is like.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Connections to hold, at most 2³⁰. All memory is taken at creation.
    pub capacity: u32,
    /// The secret of the hash: from the kernel's random numbers, or given for reproducible runs.
    pub seed: u128,
    /// Words of the region left to the user, see [`Table::user_area`]; at most 2²⁰.
    pub user_words: usize,
}

/// Why a table could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CreateError {
    /// The capacity is 0 or above the limit of the index.
    #[error("a flow table of {capacity} connections cannot be made: 1 to {max} can")]
    Capacity {
        /// Connections asked for.
        capacity: u32,
        /// The most there can be.
        max: u32,
    },
    /// More user words than there can be.
    #[error("a user area of {words} words cannot be made: {max} can")]
    UserArea {
        /// Words asked for.
        words: usize,
        /// The most there can be.
        max: usize,
    },
    /// The memory was refused.
    #[error("no memory for a flow table of {capacity} connections ({bytes} bytes)")]
    Memory {
        /// Connections asked for.
        capacity: u32,
        /// Bytes asked for.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why a file could not be adopted as a table.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdoptError {
    /// The file could not be mapped.
    #[error("the flow table's file cannot be mapped")]
    Map(#[source] io::Error),
    /// The file holds no table that this build can use.
    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// A bounded table of connections with keys of `K` words and records of `W` words, shared by the workers of one
/// [`Quiescence`] domain. The crate's front page has an example.
#[derive(Debug)]
pub struct Table<const K: usize, const W: usize> {
    region: Region,
    pub(crate) layout: Layout,
    /// Where the index and the records begin, in words: what every lookup needs of the layout.
    index_at: usize,
    records_at: usize,
    index_words: usize,
    hasher: Hasher<K>,
    domain: Arc<Quiescence>,
    limit: AtomicU64,
    /// Live connections that were adopted.
    adopted: u64,
    pub(crate) pool: Pool,
    counters: Box<[CachePadded<WorkerCounters>]>,
    /// Slots that departed workers left in limbo, with their stamps.
    pub(crate) orphans: Mutex<Vec<(u64, u32)>>,
    /// Who changes the table.
    pub(crate) seats: Seats,
}

impl<const K: usize, const W: usize> Table<K, W> {
    /// Payload words of a record.
    pub const PAYLOAD_WORDS: usize = W - K - 1;

    /// An empty table for the workers of `domain`.
    pub fn create(
        config: Config,
        memory: Memory,
        domain: &Arc<Quiescence>,
    ) -> Result<Arc<Self>, CreateError> {
        let slack = (domain.workers_max() * SLACK_PER_WORKER) as u64;
        let max = CAPACITY_MAX.min((SLOTS_MAX - slack) as u32);
        if config.capacity == 0 || config.capacity > max {
            return Err(CreateError::Capacity {
                capacity: config.capacity,
                max,
            });
        }
        if config.user_words > USER_WORDS_MAX {
            return Err(CreateError::UserArea {
                words: config.user_words,
                max: USER_WORDS_MAX,
            });
        }
        let layout = Layout::new(K, W, config.capacity, slack, config.seed, config.user_words);
        let words = layout.total_words();
        let region = Region::create(memory, words).map_err(|source| CreateError::Memory {
            capacity: config.capacity,
            bytes: words * 8,
            source,
        })?;
        layout.write(region.words());
        Ok(Arc::new(Self::over(region, layout, domain)))
    }

    /// A table over `region`, all of whose slots are fresh.
    pub(crate) fn over(region: Region, layout: Layout, domain: &Arc<Quiescence>) -> Self {
        const {
            assert!(
                K >= 1 && W >= K + 2,
                "a record holds a key, a state word and some payload"
            );
        };
        Self {
            region,
            layout,
            index_at: layout.index_at(),
            records_at: layout.records_at(),
            index_words: layout.buckets as usize * LINE_WORDS,
            hasher: Hasher::new(layout.seed),
            domain: Arc::clone(domain),
            limit: AtomicU64::new(layout.capacity),
            adopted: 0,
            pool: Pool::new(0),
            counters: (0..domain.workers_max())
                .map(|_| CachePadded::new(WorkerCounters::new()))
                .collect(),
            orphans: Mutex::new(Vec::new()),
            seats: Seats::default(),
        }
    }

    /// What adoption found, before anyone else sees the table.
    pub(crate) fn set_adopted(&mut self, live: u64, high_water: u32) {
        self.adopted = live;
        self.pool = Pool::new(high_water);
    }

    /// The hash of `key`, to be passed to the calls below.
    #[inline]
    pub fn hash(&self, key: &[u64; K]) -> FlowHash {
        self.hasher.hash(key)
    }

    /// Brings the bucket of `hash` nearer: one line, to be asked for some 100 ns before the lookup.
    #[inline]
    pub fn prefetch(&self, hash: FlowHash) {
        self.index().prefetch(hash);
    }

    /// The established flow with this key. `hash` is [`hash`](Self::hash) of it.
    ///
    /// Never waits and makes no locked instruction. Flows being installed or removed are not found; one being decided
    /// again is, and [`read`](Self::read) says so. Deadlines are the caller's: a flow past its own is to be
    /// [removed](crate::Writer::remove) and treated as a miss.
    #[inline]
    pub fn lookup(&self, key: &[u64; K], hash: FlowHash) -> Option<FlowRef> {
        self.view().lookup(key, hash)
    }

    /// Looks up a batch: hashes all keys, prefetches all buckets, compares signatures, prefetches records, compares keys.
    /// A hit costs two cache lines, a miss nearly always one; none of them is waited for one by one.
    ///
    /// `hashes` and `out` receive a value per key. Batches of 16 or more hide the memory's latency; up to 64 or so do
    /// it best.
    ///
    /// # Panics
    /// If the three slices differ in length.
    pub fn lookup_batch(&self, keys: &[[u64; K]], hashes: &mut [FlowHash], out: &mut [Option<FlowRef>]) {
        assert!(
            keys.len() == hashes.len() && keys.len() == out.len(),
            "slices of different lengths"
        );
        let view = self.view();
        let groups = || {
            (0..keys.len())
                .step_by(GROUP)
                .map(|from| from..keys.len().min(from + GROUP))
        };
        // A group's buckets are on their way while the group before is compared.
        let mut next = groups();
        let begin = |group: Option<std::ops::Range<usize>>, hashes: &mut [FlowHash]| {
            if let Some(group) = group {
                view.begin_all(&keys[group.clone()], &mut hashes[group]);
            }
        };
        begin(next.next(), hashes);
        for group in groups() {
            begin(next.next(), hashes);
            let (keys, hashes, out) = (&keys[group.clone()], &hashes[group.clone()], &mut out[group]);
            view.approach(hashes, out);
            view.confirm_all(keys, hashes, out);
        }
    }

    /// A consistent copy of a record, without a locked instruction.
    ///
    /// Words that workers [store](Record::store) singly may each be older or newer than the rest.
    #[inline]
    pub fn read(&self, flow: FlowRef) -> Result<Snapshot<K, W>, Unreadable> {
        self.record(flow).read()
    }

    /// A record in place, for words that are read and written singly.
    ///
    /// # Panics
    /// If `flow` is of a larger table.
    #[inline]
    pub fn record(&self, flow: FlowRef) -> Record<'_, K, W> {
        let at = self.records_at + flow.index() as usize * W;
        let words = self.region.words()[at..]
            .first_chunk()
            .expect("the flow is of this table");
        Record::new(words)
    }

    /// Brings a record nearer.
    #[inline]
    pub fn prefetch_record(&self, flow: FlowRef) {
        let record = self.record(flow);
        prefetch(record.raw(0));
        if W > LINE_WORDS {
            // A record of 96 B spans two lines.
            prefetch(record.raw(W - 1));
        }
    }

    /// Words in the region for the user, zero in a new table and kept across adoption: the place for generations that
    /// flows are stamped against.
    pub fn user_area(&self) -> &[AtomicU64] {
        &self.region.words()[HEADER_WORDS..][..self.layout.user_words as usize]
    }

    /// Connections the table was made for.
    pub fn capacity(&self) -> u32 {
        self.layout.capacity as u32
    }

    /// Slots there are: a bit more than the capacity, since workers hold back free ones.
    pub fn slots(&self) -> u32 {
        self.layout.slots as u32
    }

    /// The original direction of every connection that is there when the walk comes by: for lists, not for packets.
    pub fn connections(&self) -> impl Iterator<Item = FlowRef> + '_ {
        let live = |slot: &u32| self.records(*slot)[0].state().lifecycle() != Lifecycle::Free;
        (0..self.slots())
            .filter(live)
            .map(|slot| FlowRef::of(slot, Direction::Original))
    }

    /// Connections allowed now.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed) as u32
    }

    /// Allows at most `limit` connections, no more than the capacity. A full table refuses new flows and keeps the old,
    /// also when the limit falls below what is there. Workers beside each other may exceed it by a few.
    pub fn set_limit(&self, limit: u32) {
        // Relaxed: every insert reads it anew.
        self.limit
            .store(u64::from(limit).min(self.layout.capacity), Relaxed);
    }

    /// Connections in the table.
    pub fn live(&self) -> u32 {
        let net: i64 = self.counters.iter().map(|worker| worker.net()).sum();
        // Two sums taken while workers install and remove may meet in the wrong order.
        u32::try_from(net.saturating_add_unsigned(self.adopted)).unwrap_or(0)
    }

    /// All counters, summed over the workers.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters {
            live: self.live().into(),
            ..Counters::default()
        };
        for worker in &self.counters {
            worker.add_to(&mut sum);
        }
        sum
    }

    /// The pages that back the table.
    pub fn pages(&self) -> Pages {
        self.region.pages()
    }

    /// Bytes of the whole region: header, user area, index and records.
    pub fn memory_bytes(&self) -> usize {
        self.layout.total_words() * 8
    }

    /// Bytes of the index alone.
    pub fn index_bytes(&self) -> usize {
        self.index_words * 8
    }

    /// Buckets with keys that live elsewhere, and all buckets: a walk over the whole index, for diagnosis.
    pub fn overflowed_buckets(&self) -> (usize, usize) {
        self.index().overflowed()
    }

    /// The domain whose workers may use the table.
    pub fn domain(&self) -> &Arc<Quiescence> {
        &self.domain
    }

    #[inline]
    pub(crate) fn index(&self) -> Index<'_> {
        Index::new(&self.region.words()[self.index_at..][..self.index_words])
    }

    #[inline]
    pub(crate) fn records(&self, slot: u32) -> [Record<'_, K, W>; 2] {
        let original = FlowRef::of(slot, Direction::Original);
        [self.record(original), self.record(original.peer())]
    }

    #[inline]
    pub(crate) fn worker_counters(&self, index: usize) -> &WorkerCounters {
        &self.counters[index]
    }

    #[inline]
    pub(crate) fn hasher(&self) -> &Hasher<K> {
        &self.hasher
    }

    /// The words of all records.
    #[inline]
    pub(crate) fn record_words(&self) -> &[AtomicU64] {
        &self.region.words()[self.records_at..]
    }
}

/// Lookups may return `flow`, whose record has this state.
#[inline]
pub(crate) fn is_visible(flow: FlowRef, state: State, original: impl FnOnce() -> State) -> bool {
    // The original's state speaks for both, and goes first. Rare: the installer is between two instructions.
    state.is_established()
        || state.lifecycle() == Lifecycle::Installing
            && flow.direction() == Direction::Reply
            && original().is_established()
}

/// Keys looked up together: each step is taken for all before the next, so that a line has the time of 64 keys to arrive,
/// and their 128 lines stay in L1.
const GROUP: usize = 64;
/// What one worker may hold back in cache and limbo without keeping the others from the capacity.
const SLACK_PER_WORKER: usize = if cfg!(loom) { 1 } else { 4 * CHUNK };
const CAPACITY_MAX: u32 = 1 << 30;
const USER_WORDS_MAX: usize = 1 << 20;
