//! The memory that frames live in: equal chunks of one region, and the free list of one worker.

use super::Checksum;

/// Bytes kept free before a received packet: 84 for the largest encapsulation (IPv6 VXLAN), 24 for AF_XDP TX metadata,
/// and what the kernel's XDP headroom makes of it.
pub const HEADROOM: usize = 256;

/// A packet in a worker's memory: the handle of its first chunk, with the place and length of its bytes there.
///
/// Linear: not `Clone`; give it back with [`Memory::release`] or to a port with `tx`. A frame that is longer than one
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

/// The chunks of one worker and its free list.
pub struct Memory {
    bytes: Box<[u8]>,
    free: Vec<u32>,
    chunk_len: usize,
    chunks: usize,
}

const NO_CHUNK: u32 = u32::MAX;

impl Memory {
    /// Memory of `chunks` chunks of `chunk_len` bytes on the heap, for ports that need no kernel.
    pub fn heap(chunks: usize, chunk_len: usize) -> Self {
        assert!(
            chunk_len > HEADROOM && chunk_len <= usize::from(u16::MAX),
            "chunk_len {chunk_len}"
        );
        let free = (0..chunks as u32).rev().collect();
        Self {
            bytes: vec![0; chunks * chunk_len].into_boxed_slice(),
            free,
            chunk_len,
            chunks,
        }
    }

    /// Chunks that are neither in a frame nor in a ring.
    pub fn free_chunks(&self) -> usize {
        self.free.len()
    }

    /// All chunks.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// An empty frame with [`HEADROOM`] bytes before it, or `None` when no chunk is free.
    pub fn allocate(&mut self) -> Option<Frame> {
        let chunk = self.free.pop()?;
        Some(Frame {
            chunk,
            offset: HEADROOM as u16,
            len: 0,
            next: NO_CHUNK,
            rest_len: 0,
            checksum: Checksum::Full,
            timestamp_ns: 0,
        })
    }

    /// A frame with a copy of `bytes`, or `None` when no chunk is free or `bytes` does not fit one chunk.
    pub fn allocate_copy(&mut self, bytes: &[u8]) -> Option<Frame> {
        if bytes.len() > self.chunk_len - HEADROOM {
            return None;
        }
        let mut frame = self.allocate()?;
        frame.len = bytes.len() as u16;
        self.bytes_mut(&mut frame).copy_from_slice(bytes);
        Some(frame)
    }

    /// Gives the frame's chunks back.
    pub fn release(&mut self, frame: Frame) {
        debug_assert!(self.free.len() < self.chunks, "a chunk was released twice");
        self.free.push(frame.chunk);
    }

    /// The frame's bytes in its first chunk: all of it unless it is a chain.
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        let start = frame.chunk as usize * self.chunk_len + usize::from(frame.offset);
        &self.bytes[start..start + usize::from(frame.len)]
    }

    /// As [`bytes`](Self::bytes), to be changed.
    pub fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let start = frame.chunk as usize * self.chunk_len + usize::from(frame.offset);
        &mut self.bytes[start..start + usize::from(frame.len)]
    }
}

impl Frame {
    /// Length in bytes, chain included.
    pub fn len(&self) -> usize {
        usize::from(self.len) + self.rest_len as usize
    }

    /// No bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length in bytes of the first chunk alone.
    pub fn head_len(&self) -> usize {
        usize::from(self.len)
    }

    /// Makes room for `count` bytes before the packet (headers to be written). `false` when the headroom is too small.
    #[must_use]
    pub fn push_front(&mut self, count: usize) -> bool {
        let Some(offset) = usize::from(self.offset).checked_sub(count) else {
            return false;
        };
        self.offset = offset as u16;
        self.len += count as u16;
        true
    }

    /// Cuts `count` bytes off the front (headers that were read). `false` when the first chunk has fewer.
    #[must_use]
    pub fn trim_front(&mut self, count: usize) -> bool {
        let Some(len) = usize::from(self.len).checked_sub(count) else {
            return false;
        };
        self.len = len as u16;
        self.offset += count as u16;
        true
    }
}
