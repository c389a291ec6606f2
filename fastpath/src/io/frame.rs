//! The handle of a packet: which chunk its front is in, and where in it.

use super::Checksum;

/// Bytes kept free before a received packet: 84 for the largest encapsulation (IPv6 VXLAN), [`METADATA_LEN`] for AF_XDP TX
/// metadata. It is what the kernel's `XDP_PACKET_HEADROOM` leaves before a received packet.
pub const HEADROOM: usize = 256;

/// Bytes before the packet that headers never grow into: AF_XDP TX metadata stands there, and the kernel refuses a
/// descriptor without room for it.
pub const METADATA_LEN: usize = 24;

/// In place of a chunk's number: none.
pub(super) const NO_CHUNK: u32 = u32::MAX;

/// A packet in a worker's memory: the handle of its first chunk, with the place and length of its bytes there.
///
/// Linear: not `Clone`; give it back with [`Memory::release`](super::Memory::release) or to a port with `tx`. A frame that is longer than one
/// chunk is a chain; its headers are contiguous in the first chunk.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is not released or sent leaks its chunk"]
pub struct Frame {
    pub(super) chunk: u32,
    pub(super) offset: u16,
    pub(super) len: u16,
    /// First chunk of the rest of the chain; `u32::MAX` for none.
    pub(super) next: u32,
    /// Bytes in the rest of the chain.
    pub(super) rest_len: u32,
    /// Transport checksum state, as received or as left by the pipeline.
    pub checksum: Checksum,
    /// When it was received, in nanoseconds of the port's clock (replayed time for captures, 0 where none is taken).
    pub timestamp_ns: u64,
}

const _: () = assert!(size_of::<Frame>() == 32);

impl Frame {
    /// Length in bytes, chain included.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.len) + self.rest_len as usize
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length in bytes of the first chunk alone.
    #[inline]
    pub fn head_len(&self) -> usize {
        usize::from(self.len)
    }

    /// The packet is longer than its first chunk.
    #[inline]
    pub fn is_chain(&self) -> bool {
        self.next != NO_CHUNK
    }

    /// Bytes that [`push_front`](Self::push_front) can still give.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.offset).saturating_sub(METADATA_LEN)
    }

    /// Makes room for `count` bytes before the packet (headers to be written). `false` when the headroom is too small.
    #[must_use]
    #[inline]
    pub fn push_front(&mut self, count: usize) -> bool {
        if count > self.headroom() {
            return false;
        }
        self.offset -= count as u16;
        self.len += count as u16;
        true
    }

    /// The frame, which is no chain, as the `before` bytes before `at` and the `rest` bytes from there on; [taken](Self::take).
    /// That they are in its chunk's headroom and packet is the caller's to know, and what is known of its checksum to set.
    #[inline]
    pub(crate) fn take_as(&mut self, at: usize, before: usize, rest: usize) -> Self {
        let middle = usize::from(self.offset) + at;
        debug_assert!(
            !self.is_chain() && at + rest <= usize::from(self.len) && METADATA_LEN + before <= middle
        );
        // Field by field, and one store for what stays: the whole of both would be twice the work.
        let taken = Self {
            chunk: self.chunk,
            offset: (middle - before) as u16,
            len: (before + rest) as u16,
            next: NO_CHUNK,
            rest_len: 0,
            checksum: Checksum::Full,
            timestamp_ns: self.timestamp_ns,
        };
        self.chunk = NO_CHUNK;
        taken
    }

    /// The frame; what stays in its place is to be forgotten, and nothing else.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        let taken = Self { ..*self };
        self.chunk = NO_CHUNK;
        taken
    }

    /// The frame was [taken](Self::take) from here.
    pub(crate) fn is_taken(&self) -> bool {
        self.chunk == NO_CHUNK
    }

    /// Cuts `count` bytes off the front (headers that were read). `false` when the first chunk has fewer.
    #[must_use]
    #[inline]
    pub fn trim_front(&mut self, count: usize) -> bool {
        let Some(len) = usize::from(self.len).checked_sub(count) else {
            return false;
        };
        self.len = len as u16;
        self.offset += count as u16;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Memory, *};

    #[test]
    fn headers_never_grow_into_the_metadata() {
        let mut memory = Memory::heap(1, 2048);
        let mut frame = memory.allocate_copy(&[1]).unwrap();
        assert!(!frame.push_front(HEADROOM - METADATA_LEN + 1));
        assert!(frame.push_front(HEADROOM - METADATA_LEN));
        assert_eq!(frame.headroom(), 0);
        memory.release(frame);
    }
}
