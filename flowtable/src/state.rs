//! The state word: what one compare-exchange decides.

/// Where a connection is in its life. The original record's word speaks for the whole connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Lifecycle {
    /// Nobody's: in a free list, a worker's cache or limbo.
    Free = 0,
    /// Being installed; invisible to lookups.
    Installing = 1,
    /// Established.
    Live = 2,
    /// One worker rewrites the payload of both records; lookups find it, reads say busy.
    Deciding = 3,
    /// Removed; waits until no worker can hold a reference.
    Closing = 4,
    /// Lost an insert race; its installer takes it back.
    Aborted = 5,
}

/// A state word, taken apart.
///
/// | bits | field |
/// | --- | --- |
/// | 0..16 | sequence: odd while the record is being written |
/// | 16..20 | [`Lifecycle`] |
/// | 20..64 | the user's 44 bits |
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct State(pub(crate) u64);

impl State {
    /// How many bits of the word are the user's.
    pub const USER_BITS: u32 = 44;
    /// The largest value the user's bits can hold.
    pub const USER_MAX: u64 = (1 << Self::USER_BITS) - 1;

    /// The user's 44 bits.
    #[inline]
    pub fn bits(self) -> u64 {
        self.0 >> USER_SHIFT
    }

    /// Where the connection is in its life.
    #[inline]
    pub fn lifecycle(self) -> Lifecycle {
        match (self.0 >> LIFECYCLE_SHIFT) & 0xf {
            1 => Lifecycle::Installing,
            2 => Lifecycle::Live,
            3 => Lifecycle::Deciding,
            4 => Lifecycle::Closing,
            5 => Lifecycle::Aborted,
            _ => Lifecycle::Free,
        }
    }

    /// The sequence number; odd while the record is being written.
    #[inline]
    pub fn sequence(self) -> u16 {
        self.0 as u16
    }

    /// Established, though perhaps being decided again: what lookups find.
    #[inline]
    pub(crate) fn is_established(self) -> bool {
        const _: () = assert!(Lifecycle::Live as u64 | 1 == Lifecycle::Deciding as u64 | 1);
        self.0 & (0xe << LIFECYCLE_SHIFT) == (Lifecycle::Live as u64) << LIFECYCLE_SHIFT
    }

    /// Established, and no one is writing.
    #[inline]
    pub fn is_stable(self) -> bool {
        self.0 & (0xf << LIFECYCLE_SHIFT | 1) == (Lifecycle::Live as u64) << LIFECYCLE_SHIFT
    }

    /// [`is_stable`](Self::is_stable), and of the user's bits those in `mask` are `bits`.
    #[inline]
    pub fn is_stable_with(self, mask: u64, bits: u64) -> bool {
        let (own, live) = (
            0xf << LIFECYCLE_SHIFT | 1,
            (Lifecycle::Live as u64) << LIFECYCLE_SHIFT,
        );
        self.0 & (own | mask << USER_SHIFT) == live | bits << USER_SHIFT
    }

    /// Sequence and lifecycle alone: what must not change under a reader.
    #[inline]
    pub(crate) fn guard(self) -> u64 {
        self.0 & ((1 << USER_SHIFT) - 1)
    }

    #[inline]
    pub(crate) fn with_bits(self, bits: u64) -> Self {
        debug_assert!(bits <= Self::USER_MAX, "user bits {bits:#x} exceed 44 bits");
        Self(self.guard() | bits << USER_SHIFT)
    }

    #[inline]
    pub(crate) fn with_lifecycle(self, lifecycle: Lifecycle) -> Self {
        Self(self.0 & !(0xf << LIFECYCLE_SHIFT) | (lifecycle as u64) << LIFECYCLE_SHIFT)
    }

    /// The same with an odd sequence: a write begins. Idempotent.
    #[inline]
    pub(crate) fn opened(self) -> Self {
        Self(self.0 | 1)
    }

    /// The same with the next even sequence: the write is over.
    #[inline]
    pub(crate) fn closed(self) -> Self {
        let next = ((self.0 as u16) | 1).wrapping_add(1);
        Self(self.0 & !0xffff | u64::from(next))
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?}#{} bits {:#x}",
            self.lifecycle(),
            self.sequence(),
            self.bits()
        )
    }
}

const LIFECYCLE_SHIFT: u32 = 16;
const USER_SHIFT: u32 = 20;
const _: () = assert!(USER_SHIFT + State::USER_BITS == 64);

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_disturb_each_other() {
        let state = State(u64::MAX)
            .with_bits(0x123)
            .with_lifecycle(Lifecycle::Live)
            .closed();
        assert_eq!(
            (state.bits(), state.lifecycle(), state.sequence()),
            (0x123, Lifecycle::Live, 0)
        );
        assert!(state.is_stable());
        let writing = state.opened().with_lifecycle(Lifecycle::Deciding);
        assert_eq!(
            (writing.bits(), writing.lifecycle(), writing.sequence()),
            (0x123, Lifecycle::Deciding, 1)
        );
        assert!(!writing.is_stable());
        assert_eq!(writing.opened(), writing);
        assert_eq!(writing.closed().sequence(), 2);
    }
}
