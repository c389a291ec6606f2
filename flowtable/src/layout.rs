//! The region, word by word: header, user area, index, records. The header is versioned and checksummed.

use crate::{
    hash::mix,
    sync::{Acquire, AtomicU64, Relaxed, Release},
};

/// Changes whenever a region written by an older build would be misread: layout, hash, or probe sequence.
const LAYOUT_VERSION: u64 = 2;
const MAGIC: u64 = u64::from_le_bytes(*b"ringflow");
/// Words of the header; one page holds it and the beginning of the user area.
pub(crate) const HEADER_WORDS: usize = if cfg!(loom) { 16 } else { 64 };
/// Words of a cache line, and of a bucket.
pub(crate) const LINE_WORDS: usize = 8;
/// Index and records start on a page boundary.
const ALIGN_WORDS: usize = if cfg!(loom) { 8 } else { 512 };
/// Mean keys per bucket when every slot is live: half the lanes, so that 1.4 % of buckets overflow.
const KEYS_PER_BUCKET: u64 = 5;
/// Enough that a primary and its four alternates are distinct.
const BUCKETS_MIN: u64 = 8;
/// Slot numbers fit 24 to 31 bits: two records each, plus one for "none", in 32 bits.
pub(crate) const SLOTS_MAX: u64 = (1 << 31) - 2;

/// What the header says, and where everything lies. All sizes in words of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) key_words: u64,
    pub(crate) record_words: u64,
    /// Connections the table is made for.
    pub(crate) capacity: u64,
    /// Slots there are: the capacity and what workers may hold back.
    pub(crate) slots: u64,
    pub(crate) buckets: u64,
    pub(crate) seed: u128,
    pub(crate) user_words: u64,
}

/// Why a region is not a table that this build can use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The first word is not ours; a table whose creation was cut short looks the same.
    #[error("no flow table in the file (magic {found:#018x})")]
    Magic {
        /// What the first word holds.
        found: u64,
    },
    /// Written by an incompatible build.
    #[error("the flow table has layout version {found}, this build reads {expected}")]
    Version {
        /// The version in the header.
        found: u64,
        /// The version this build writes.
        expected: u64,
    },
    /// The header's fields don't match their checksum.
    #[error("the flow table's header is damaged: checksum {found:#018x}, computed {expected:#018x}")]
    Checksum {
        /// The checksum in the header.
        found: u64,
        /// The checksum of the fields in the header.
        expected: u64,
    },
    /// A table of another kind, for instance IPv6 flows where IPv4 flows were asked for.
    #[error(
        "the flow table has keys of {found_key} and records of {found_record} words, not {key} and {record}"
    )]
    Shape {
        /// Words of a key in the file.
        found_key: u64,
        /// Words of a record in the file.
        found_record: u64,
        /// Words of a key expected.
        key: u64,
        /// Words of a record expected.
        record: u64,
    },
    /// The header's sizes need more bytes than the file has.
    #[error("the flow table's file is cut short: {found} bytes, {expected} needed")]
    Length {
        /// Bytes in the file.
        found: u64,
        /// Bytes the header asks for.
        expected: u64,
    },
}

impl Layout {
    pub(crate) fn new(
        key_words: usize,
        record_words: usize,
        capacity: u32,
        slack: u64,
        seed: u128,
        user_words: usize,
    ) -> Self {
        let slots = u64::from(capacity) + slack;
        Self {
            key_words: key_words as u64,
            record_words: record_words as u64,
            capacity: capacity.into(),
            slots,
            buckets: (2 * slots).div_ceil(KEYS_PER_BUCKET).max(BUCKETS_MIN),
            seed,
            user_words: user_words as u64,
        }
    }

    pub(crate) fn index_at(&self) -> usize {
        (HEADER_WORDS + self.user_words as usize).next_multiple_of(ALIGN_WORDS)
    }

    pub(crate) fn records_at(&self) -> usize {
        (self.index_at() + self.buckets as usize * LINE_WORDS).next_multiple_of(ALIGN_WORDS)
    }

    pub(crate) fn total_words(&self) -> usize {
        self.records_at() + (2 * self.slots * self.record_words) as usize
    }

    /// Writes the header. The magic comes last: a region is a table from then on.
    pub(crate) fn write(&self, words: &[AtomicU64]) {
        let fields = self.fields();
        for (word, field) in words[1..].iter().zip(fields) {
            word.store(field, Relaxed);
        }
        words[1 + FIELDS].store(checksum(&fields), Relaxed);
        // Release pairs with the Acquire in `read`.
        words[0].store(MAGIC, Release);
    }

    /// Reads and checks the header of a table with keys and records of the given words.
    pub(crate) fn read(
        words: &[AtomicU64],
        key_words: usize,
        record_words: usize,
    ) -> Result<Self, LayoutError> {
        // Acquire pairs with the Release in `write`.
        let magic = words[0].load(Acquire);
        if magic != MAGIC {
            return Err(LayoutError::Magic { found: magic });
        }
        let fields: [u64; FIELDS] = std::array::from_fn(|at| words[1 + at].load(Relaxed));
        let [
            version,
            key,
            record,
            capacity,
            slots,
            buckets,
            seed_low,
            seed_high,
            user_words,
        ] = fields;
        if version != LAYOUT_VERSION {
            return Err(LayoutError::Version {
                found: version,
                expected: LAYOUT_VERSION,
            });
        }
        let (found, expected) = (words[1 + FIELDS].load(Relaxed), checksum(&fields));
        if found != expected {
            return Err(LayoutError::Checksum { found, expected });
        }
        if (key, record) != (key_words as u64, record_words as u64) {
            return Err(LayoutError::Shape {
                found_key: key,
                found_record: record,
                key: key_words as u64,
                record: record_words as u64,
            });
        }
        let seed = u128::from(seed_high) << 64 | u128::from(seed_low);
        let layout = Self {
            key_words: key,
            record_words: record,
            capacity,
            slots,
            buckets,
            seed,
            user_words,
        };
        // The checksum is no signature: sizes are checked against the file before anything is computed from them.
        let have = words.len() as u64;
        let sane = slots <= SLOTS_MAX && buckets >= BUCKETS_MIN && buckets <= have && user_words <= have;
        if !sane || layout.total_words() as u64 > have {
            let expected = if sane {
                layout.total_words() as u64 * 8
            } else {
                u64::MAX
            };
            return Err(LayoutError::Length {
                found: have * 8,
                expected,
            });
        }
        Ok(layout)
    }

    fn fields(&self) -> [u64; FIELDS] {
        [
            LAYOUT_VERSION,
            self.key_words,
            self.record_words,
            self.capacity,
            self.slots,
            self.buckets,
            self.seed as u64,
            (self.seed >> 64) as u64,
            self.user_words,
        ]
    }
}

const FIELDS: usize = 9;

fn checksum(fields: &[u64; FIELDS]) -> u64 {
    fields
        .iter()
        .fold(MAGIC, |sum, &field| mix(sum ^ field).rotate_left(7))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn written() -> (Layout, Vec<AtomicU64>) {
        let layout = Layout::new(2, 8, 100, 10, 42, 16);
        let words: Vec<_> = (0..layout.total_words()).map(|_| AtomicU64::new(0)).collect();
        layout.write(&words);
        (layout, words)
    }

    #[test]
    fn a_header_is_read_back_as_written() {
        let (layout, words) = written();
        assert_eq!(Layout::read(&words, 2, 8), Ok(layout));
    }

    #[test]
    fn any_flipped_bit_of_the_header_is_noticed() {
        let (_, words) = written();
        for at in 0..=1 + FIELDS {
            for bit in 0..64 {
                words[at].fetch_xor(1 << bit, Relaxed);
                assert!(Layout::read(&words, 2, 8).is_err(), "word {at} bit {bit}");
                words[at].fetch_xor(1 << bit, Relaxed);
            }
        }
    }

    #[test]
    fn another_shape_and_a_short_file_are_refused_by_name() {
        let (_, words) = written();
        assert!(matches!(
            Layout::read(&words, 5, 12),
            Err(LayoutError::Shape { found_key: 2, .. })
        ));
        assert!(matches!(
            Layout::read(&words[..600], 2, 8),
            Err(LayoutError::Length { .. })
        ));
    }

    #[test]
    fn index_and_records_cost_at_most_160_bytes_per_connection() {
        for capacity in [1 << 16, 1 << 20, 3_000_000, 8 << 20] {
            let layout = Layout::new(2, 8, capacity, 0, 0, 0);
            let index = (layout.records_at() - layout.index_at()) as u64 * 8;
            assert!(index * 10 <= u64::from(capacity) * 257, "{index} for {capacity}");
            assert!(layout.total_words() as u64 * 8 <= u64::from(capacity) * 160);
        }
    }
}
