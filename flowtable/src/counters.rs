//! What happened to a table, counted per worker and summed by the reader.

use crate::sync::{AtomicU64, Relaxed};

/// Sums over all workers. Each is exact once the workers rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Connections in the table.
    pub live: u64,
    /// Connections installed.
    pub inserts: u64,
    /// Connections removed.
    pub removes: u64,
    /// Inserts refused because the limit was reached or no slot was free.
    pub refused_full: u64,
    /// Inserts refused because the five buckets of a key were full.
    pub refused_index: u64,
    /// Inserts undone because another worker installed the same key first.
    pub races_lost: u64,
    /// Connections decided again.
    pub redecisions: u64,
}

/// One worker's counters. Only that worker writes them: a load and a store, no locked instruction.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    counts: [AtomicU64; Count::ALL],
    /// 1 while a writer holds the seat.
    pub(crate) taken: AtomicU64,
}

#[derive(Clone, Copy)]
pub(crate) enum Count {
    Inserts,
    Removes,
    RefusedFull,
    RefusedIndex,
    RacesLost,
    Redecisions,
}

impl Count {
    const ALL: usize = 6;
}

impl WorkerCounters {
    pub(crate) fn new() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            taken: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(crate) fn increment(&self, count: Count) {
        let word = &self.counts[count as usize];
        // Relaxed: one writer; readers want a recent value only.
        word.store(word.load(Relaxed) + 1, Relaxed);
    }

    /// Connections that this worker has installed less those it has removed; may be negative.
    #[inline]
    pub(crate) fn net(&self) -> i64 {
        let inserts = self.counts[Count::Inserts as usize].load(Relaxed);
        inserts
            .wrapping_sub(self.counts[Count::Removes as usize].load(Relaxed))
            .cast_signed()
    }

    pub(crate) fn add_to(&self, sum: &mut Counters) {
        let count = |count: Count| self.counts[count as usize].load(Relaxed);
        sum.inserts += count(Count::Inserts);
        sum.removes += count(Count::Removes);
        sum.refused_full += count(Count::RefusedFull);
        sum.refused_index += count(Count::RefusedIndex);
        sum.races_lost += count(Count::RacesLost);
        sum.redecisions += count(Count::Redecisions);
    }
}
