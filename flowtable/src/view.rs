//! View: the table as a worker sees it within one batch, its parts found once.

use crate::{
    hash::{FlowHash, Hasher},
    index::Index,
    prefetch::prefetch_at,
    record::{FlowRef, Record},
    state::State,
    sync::AtomicU64,
    table::{Table, is_visible},
};

/// Index and records of a [`Table`], for many packets in a row. It costs a few loads to make; all of it borrows the table.
///
/// The order that hides the memory's latency: [`begin`](Self::begin) for every key as soon as it is known, then
/// [`approach`](Self::approach) for all, then each record, by [`peek`](Self::peek) or, when that gives nothing, by
/// [`lookup`](Self::lookup).
#[derive(Clone, Copy)]
pub struct View<'t, const K: usize, const W: usize> {
    hasher: &'t Hasher<K>,
    index: Index<'t>,
    records: &'t [[AtomicU64; W]],
}

impl<const K: usize, const W: usize> Table<K, W> {
    /// The table for the packets of one batch.
    #[inline]
    pub fn view(&self) -> View<'_, K, W> {
        View {
            hasher: self.hasher(),
            index: self.index(),
            records: self.record_words().as_chunks().0,
        }
    }
}

impl<'t, const K: usize, const W: usize> View<'t, K, W> {
    /// The hash of `key`; its bucket is on its way from now on.
    #[inline]
    pub fn begin(&self, key: &[u64; K]) -> FlowHash {
        let hash = self.hasher.hash(key);
        self.index.prefetch(hash);
        hash
    }

    /// [`begin`](Self::begin) for all `keys`.
    // Each step of a batch is a function of its own: its loop then has the registers it needs.
    #[inline(never)]
    pub(crate) fn begin_all(&self, keys: &[[u64; K]], hashes: &mut [FlowHash]) {
        for (key, hash) in keys.iter().zip(hashes) {
            *hash = self.begin(key);
        }
    }

    /// For each hash, whose bucket was [asked for](Self::begin), the record that probably has its key, on its way from now on;
    /// or `None` if no flow has the key.
    ///
    /// # Panics
    /// If the slices differ in length.
    #[inline(never)]
    pub fn approach(&self, hashes: &[FlowHash], out: &mut [Option<FlowRef>]) {
        assert!(hashes.len() == out.len(), "slices of different lengths");
        for (hash, out) in hashes.iter().zip(out) {
            *out = self.candidate(*hash);
        }
    }

    /// As [`approach`](Self::approach), for one hash.
    #[inline]
    pub fn candidate(&self, hash: FlowHash) -> Option<FlowRef> {
        let flow = self.index.glance(hash)?;
        self.prefetch_record(flow);
        Some(flow)
    }

    /// State and some payload words of a record, if it has this key, consistent as in [`Table::read`], by a single attempt:
    /// `None` also when another worker wrote it just now. The words count only if the state is [stable](State::is_stable).
    #[inline]
    pub fn peek<const N: usize>(
        &self,
        flow: FlowRef,
        key: &[u64; K],
        at: [usize; N],
    ) -> Option<(State, [u64; N])> {
        let record = self.record(flow);
        if record.has_key(key) {
            record.peek(at)
        } else {
            None
        }
    }

    /// Keeps the flows that have the key and looks on for the others.
    #[inline(never)]
    pub(crate) fn confirm_all(&self, keys: &[[u64; K]], hashes: &[FlowHash], out: &mut [Option<FlowRef>]) {
        for ((key, hash), out) in keys.iter().zip(hashes).zip(out) {
            if out.is_some_and(|flow| !self.confirms(flow, key)) {
                *out = self.lookup_further(key, *hash);
            }
        }
    }

    /// The candidate was another flow.
    #[cold]
    #[inline(never)]
    fn lookup_further(&self, key: &[u64; K], hash: FlowHash) -> Option<FlowRef> {
        self.lookup(key, hash)
    }

    /// The established flow with this key, as [`Table::lookup`].
    #[inline]
    pub fn lookup(&self, key: &[u64; K], hash: FlowHash) -> Option<FlowRef> {
        self.index.find(hash, |record| {
            let flow = FlowRef::new(record);
            self.confirms(flow, key).then_some(flow)
        })
    }

    #[inline]
    fn confirms(&self, flow: FlowRef, key: &[u64; K]) -> bool {
        let record = self.record(flow);
        record.has_key(key) && is_visible(flow, record.state(), || self.record(flow.original()).state())
    }

    /// A record in place.
    ///
    /// # Panics
    /// If `flow` is of a larger table.
    #[inline]
    pub fn record(&self, flow: FlowRef) -> Record<'t, K, W> {
        Record::new(&self.records[flow.index() as usize])
    }

    /// Brings the key of a record nearer.
    #[inline]
    pub fn prefetch_key(&self, flow: FlowRef) {
        prefetch_at(self.records.as_ptr().wrapping_add(flow.index() as usize));
    }

    /// Brings a record nearer.
    #[inline]
    pub fn prefetch_record(&self, flow: FlowRef) {
        let record = self.records.as_ptr().wrapping_add(flow.index() as usize);
        prefetch_at(record);
        if W > LINE_WORDS {
            // A record of 96 B spans two lines.
            prefetch_at(record.cast::<AtomicU64>().wrapping_add(W - 1));
        }
    }
}

impl<const K: usize, const W: usize> std::fmt::Debug for View<'_, K, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("records", &self.records.len())
            .finish_non_exhaustive()
    }
}

const LINE_WORDS: usize = crate::layout::LINE_WORDS;
