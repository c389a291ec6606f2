//! The memory that frames live in: equal chunks of one region, and the free list of one worker.
//!
//! A frame is its first chunk plus, for a packet longer than one chunk, a chain of further chunks. What follows a chunk
//! stands in a table beside the chunks, so a [`Frame`] stays 32 bytes and a packet of one chunk never looks at it.
#![allow(unsafe_code)]

use std::{ptr::NonNull, slice};

use super::{
    Checksum, Region,
    frame::{Frame, HEADROOM, METADATA_LEN, NO_CHUNK},
    region::RegionError,
};

/// Where the bytes of a chain's later chunk are, and which chunk follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) next: u32,
    pub(super) offset: u16,
    pub(super) len: u16,
}

/// The chunks of one worker and its free list.
///
/// A frame belongs to the memory that made it. Giving it to another one is a bug that mixes up packets; accesses stay
/// inside that memory's region all the same.
#[derive(Debug)]
pub struct Memory {
    region: Region,
    free: Vec<u32>,
    links: Box<[Link]>,
    chunk_len: usize,
    chunks: usize,
    #[cfg(debug_assertions)]
    is_free: Vec<bool>,
}

impl Memory {
    /// Memory of `chunks` chunks of `chunk_len` bytes, for ports that need no kernel.
    ///
    /// # Panics
    /// When the machine has not that much memory; [`mapped`](Self::mapped) returns it as an error.
    pub fn heap(chunks: usize, chunk_len: usize) -> Self {
        Self::mapped(chunks, chunk_len).expect("memory for frames")
    }

    /// Memory of `chunks` chunks of `chunk_len` bytes in a shared memory file, huge pages where granted. AF_XDP takes chunks
    /// of 2048 or 4096 bytes only.
    ///
    /// # Errors
    /// [`RegionError`] when the kernel does not give the memory.
    pub fn mapped(chunks: usize, chunk_len: usize) -> Result<Self, RegionError> {
        assert!(
            chunk_len > HEADROOM && u16::try_from(chunk_len).is_ok(),
            "chunk_len {chunk_len}"
        );
        assert!(chunks > 0 && chunks < NO_CHUNK as usize, "{chunks} chunks");
        Ok(Self::over(Region::new(chunks * chunk_len)?, chunks, chunk_len))
    }

    /// Cuts `region` into chunks, all of them free.
    fn over(region: Region, chunks: usize, chunk_len: usize) -> Self {
        assert!(
            chunks * chunk_len <= region.len(),
            "{chunks} chunks of {chunk_len} in {}",
            region.len()
        );
        Self {
            region,
            free: (0..chunks as u32).rev().collect(),
            links: vec![
                Link {
                    next: NO_CHUNK,
                    offset: 0,
                    len: 0
                };
                chunks
            ]
            .into_boxed_slice(),
            chunk_len,
            chunks,
            #[cfg(debug_assertions)]
            is_free: vec![true; chunks],
        }
    }

    /// The mapping under the chunks, to be registered with the kernel: chunk `i` starts at byte `i * chunk_len`.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Chunks that are neither in a frame nor in a ring.
    pub fn free_chunks(&self) -> usize {
        self.free.len()
    }

    /// All chunks.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Bytes of one chunk, headroom included.
    pub fn chunk_len(&self) -> usize {
        self.chunk_len
    }

    /// An empty frame with [`HEADROOM`] bytes before it, or `None` when no chunk is free.
    #[inline]
    pub fn allocate(&mut self) -> Option<Frame> {
        let chunk = self.take_chunk()?;
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

    /// A frame with a copy of `bytes`, a chain when they don't fit one chunk; `None` when too few chunks are free.
    pub fn allocate_copy(&mut self, bytes: &[u8]) -> Option<Frame> {
        let mut frame = self.allocate()?;
        if self.append(&mut frame, bytes) {
            return Some(frame);
        }
        self.release(frame);
        None
    }

    /// Gives the frame's chunks back.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the handle ends here")]
    pub fn release(&mut self, frame: Frame) {
        self.release_parts(&frame);
    }

    /// As [`release`](Self::release), for a port that drops the handle itself.
    #[inline]
    pub(super) fn release_parts(&mut self, frame: &Frame) {
        let mut next = frame.next;
        self.return_chunk(frame.chunk);
        while next != NO_CHUNK {
            let link = self.links[next as usize];
            self.return_chunk(next);
            next = link.next;
        }
    }

    /// Asks the processor to bring what is at `offset` of a chunk nearer, and to be the only one that has it: it will be written.
    #[inline]
    pub(super) fn prefetch_to_write(&self, chunk: u32, offset: u16) {
        let (start, _) = self.place(chunk, offset, 1);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: in bounds by `place` and alive while `self` is. A prefetch is a hint that changes no value: it can't race.
        // Processors without it do nothing.
        unsafe {
            std::arch::asm!("prefetchw [{}]", in(reg) start.as_ptr(), options(nostack, preserves_flags, readonly));
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = start;
    }

    /// The frame's bytes in its first chunk: all of it unless it is a chain.
    #[inline]
    pub fn bytes(&self, frame: &Frame) -> &[u8] {
        let (start, len) = self.place(frame.chunk, frame.offset, frame.len);
        // SAFETY: in bounds by `place`, alive while `self` is. No reference of ours aliases it mutably while `self` is
        // borrowed; the kernel writes only to chunks in its rings, and a frame's chunk is in none.
        unsafe { slice::from_raw_parts(start.as_ptr(), len) }
    }

    /// As [`bytes`](Self::bytes), to be changed.
    #[inline]
    pub fn bytes_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let (start, len) = self.place(frame.chunk, frame.offset, frame.len);
        // SAFETY: as in `bytes`; `self` is borrowed mutably, so this is the only slice into the region.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) }
    }

    /// `AFTER` bytes of the frame's first chunk from `at` on, and the `BEFORE` bytes before them: of the frame's front and of its
    /// headroom. `None` when there are not so many.
    #[inline]
    pub fn around_mut<const BEFORE: usize, const AFTER: usize>(
        &mut self,
        frame: &mut Frame,
        at: usize,
    ) -> Option<(&mut [u8; BEFORE], &mut [u8; AFTER])> {
        let middle = usize::from(frame.offset) + at;
        if at + AFTER > usize::from(frame.len) || middle < METADATA_LEN + BEFORE {
            return None;
        }
        let (start, len) = self.place(frame.chunk, (middle - BEFORE) as u16, (BEFORE + AFTER) as u16);
        // SAFETY: in bounds by `place`, alive while `self` is, which is borrowed mutably: the only slice into the region.
        let bytes = unsafe { slice::from_raw_parts_mut(start.as_ptr(), len) };
        let (before, after) = bytes.split_first_chunk_mut()?;
        Some((before, after.first_chunk_mut()?))
    }

    /// The frame's bytes, chunk by chunk. Empty chunks are left out.
    pub fn segments<'a>(&'a self, frame: &Frame) -> Segments<'a> {
        let head = Link {
            next: frame.next,
            offset: frame.offset,
            len: frame.len,
        };
        Segments {
            memory: self,
            chunk: frame.chunk,
            link: head,
        }
    }

    /// Appends all of the frame's bytes to `out`.
    pub fn copy_out(&self, frame: &Frame, out: &mut Vec<u8>) {
        out.reserve(frame.len());
        for segment in self.segments(frame) {
            out.extend_from_slice(segment);
        }
    }

    /// All of the frame's bytes.
    pub fn to_vec(&self, frame: &Frame) -> Vec<u8> {
        let mut out = Vec::with_capacity(frame.len());
        self.copy_out(frame, &mut out);
        out
    }

    /// Copies the frame's bytes from `start` on into `out`. `false`, and nothing copied, when the frame has fewer.
    #[must_use]
    pub fn copy_range(&self, frame: &Frame, start: usize, mut out: &mut [u8]) -> bool {
        if start.checked_add(out.len()).is_none_or(|end| end > frame.len()) {
            return false;
        }
        let mut skip = start;
        for segment in self.segments(frame) {
            let Some(rest) = segment.get(skip..) else {
                skip -= segment.len();
                continue;
            };
            skip = 0;
            let count = rest.len().min(out.len());
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&rest[..count]);
            out = later;
        }
        true
    }

    /// Appends `bytes` to the frame, in new chunks where the last one is full. `false`, and the frame unchanged, when too few
    /// chunks are free.
    #[must_use]
    pub fn append(&mut self, frame: &mut Frame, bytes: &[u8]) -> bool {
        let mut last = self.last_link(frame);
        let room = self.chunk_len - usize::from(last.1.offset) - usize::from(last.1.len);
        let missing = bytes.len().saturating_sub(room);
        if missing.div_ceil(self.chunk_len - HEADROOM) > self.free.len() {
            return false;
        }
        let mut bytes = bytes;
        loop {
            let (chunk, link) = &mut last;
            let room = self.chunk_len - usize::from(link.offset) - usize::from(link.len);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let (start, _) = self.place(*chunk, link.offset + link.len, now.len() as u16);
            // SAFETY: in bounds by `place`; the chunk is this frame's, and `bytes`, a reference of the caller's made while
            // `self` is borrowed mutably, is not in the region.
            unsafe { start.as_ptr().copy_from_nonoverlapping(now.as_ptr(), now.len()) };
            link.len += now.len() as u16;
            if *chunk != frame.chunk {
                frame.rest_len += now.len() as u32;
            }
            bytes = later;
            if bytes.is_empty() {
                self.set_link(frame, last.0, last.1);
                return true;
            }
            let next = self.take_chunk().expect("counted above");
            link.next = next;
            self.set_link(frame, last.0, last.1);
            last = (
                next,
                Link {
                    next: NO_CHUNK,
                    offset: HEADROOM as u16,
                    len: 0,
                },
            );
        }
    }

    /// Cuts the frame to its first `len` bytes; chunks that become empty are freed. Nothing happens to a shorter frame.
    pub fn truncate(&mut self, frame: &mut Frame, len: usize) {
        if len >= frame.len() {
            return;
        }
        let mut keep = len;
        let (mut chunk, mut link) = (frame.chunk, self.link(frame, frame.chunk));
        while keep > usize::from(link.len) {
            keep -= usize::from(link.len);
            chunk = link.next;
            link = self.links[chunk as usize];
        }
        let mut next = link.next;
        self.set_link(
            frame,
            chunk,
            Link {
                next: NO_CHUNK,
                offset: link.offset,
                len: keep as u16,
            },
        );
        frame.rest_len = len.saturating_sub(usize::from(frame.len)) as u32;
        while next != NO_CHUNK {
            let link = self.links[next as usize];
            self.return_chunk(next);
            next = link.next;
        }
    }

    /// Frees the chunk with this index, taken from a ring.
    #[inline]
    pub(super) fn return_chunk(&mut self, chunk: u32) {
        assert!((chunk as usize) < self.chunks, "chunk {chunk} of {}", self.chunks);
        #[cfg(debug_assertions)]
        {
            let is_free = &mut self.is_free[chunk as usize];
            assert!(!*is_free, "chunk {chunk} was released twice");
            *is_free = true;
        }
        self.free.push(chunk);
    }

    /// Takes a chunk off the free list, for a ring.
    #[inline]
    pub(super) fn take_chunk(&mut self) -> Option<u32> {
        let chunk = self.free.pop()?;
        #[cfg(debug_assertions)]
        {
            self.is_free[chunk as usize] = false;
        }
        Some(chunk)
    }

    /// A frame of `len` bytes from `offset` on in `chunk`, which a port received and which is on no list.
    #[inline]
    pub(super) fn received(&mut self, chunk: u32, offset: u16, len: u16) -> Frame {
        let _ = self.place(chunk, offset, len);
        Frame {
            chunk,
            offset,
            len,
            next: NO_CHUNK,
            rest_len: 0,
            checksum: Checksum::Full,
            timestamp_ns: 0,
        }
    }

    /// Chunk, offset and length of each part of the frame, empty ones too.
    pub(super) fn links(&self, frame: &Frame) -> impl Iterator<Item = (u32, u16, u16)> {
        let head = (
            frame.chunk,
            Link {
                next: frame.next,
                offset: frame.offset,
                len: frame.len,
            },
        );
        let parts = std::iter::successors(Some(head), |(_, link)| {
            (link.next != NO_CHUNK).then(|| (link.next, self.links[link.next as usize]))
        });
        parts.map(|(chunk, link)| (chunk, link.offset, link.len))
    }

    /// Writes metadata into the bytes before the packet, which [`Frame::push_front`] keeps free for it.
    pub(super) fn write_before(&mut self, frame: &Frame, metadata: &[u8; METADATA_LEN]) {
        let offset = frame
            .offset
            .checked_sub(METADATA_LEN as u16)
            .expect("headers never grow into the metadata");
        let (start, len) = self.place(frame.chunk, offset, METADATA_LEN as u16);
        // SAFETY: in bounds by `place`; the chunk is this frame's, and `metadata` is not in the region.
        unsafe { start.as_ptr().copy_from_nonoverlapping(metadata.as_ptr(), len) };
    }

    /// Hangs `chunk` (with `len` bytes from `offset` on) behind `last`, the last chunk of `frame`.
    pub(super) fn attach(&mut self, frame: &mut Frame, last: u32, chunk: u32, offset: u16, len: u16) {
        let mut link = self.link(frame, last);
        link.next = chunk;
        self.set_link(frame, last, link);
        self.links[chunk as usize] = Link {
            next: NO_CHUNK,
            offset,
            len,
        };
        frame.rest_len += u32::from(len);
    }

    fn link(&self, frame: &Frame, chunk: u32) -> Link {
        if chunk == frame.chunk {
            return Link {
                next: frame.next,
                offset: frame.offset,
                len: frame.len,
            };
        }
        self.links[chunk as usize]
    }

    fn set_link(&mut self, frame: &mut Frame, chunk: u32, link: Link) {
        if chunk == frame.chunk {
            (frame.next, frame.offset, frame.len) = (link.next, link.offset, link.len);
        } else {
            self.links[chunk as usize] = link;
        }
    }

    fn last_link(&self, frame: &Frame) -> (u32, Link) {
        let (mut chunk, mut link) = (frame.chunk, self.link(frame, frame.chunk));
        while link.next != NO_CHUNK {
            chunk = link.next;
            link = self.links[chunk as usize];
        }
        (chunk, link)
    }

    /// First byte of `len` bytes at `offset` of `chunk`, checked to lie inside the region.
    #[inline]
    pub(super) fn place(&self, chunk: u32, offset: u16, len: u16) -> (NonNull<u8>, usize) {
        let start = chunk as usize * self.chunk_len + usize::from(offset);
        let len = usize::from(len);
        assert!(start + len <= self.region.len(), "a frame of another memory");
        debug_assert!(
            usize::from(offset) + len <= self.chunk_len,
            "bytes beyond their chunk"
        );
        // SAFETY: `start` is within the region's one mapping, as just asserted.
        (unsafe { self.region.start().add(start) }, len)
    }
}

/// The bytes of a frame, chunk by chunk.
pub struct Segments<'a> {
    memory: &'a Memory,
    chunk: u32,
    link: Link,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.chunk != NO_CHUNK {
            let (chunk, link) = (self.chunk, self.link);
            self.chunk = link.next;
            if self.chunk != NO_CHUNK {
                self.link = self.memory.links[self.chunk as usize];
            }
            if link.len > 0 {
                let (start, len) = self.memory.place(chunk, link.offset, link.len);
                // SAFETY: as in `Memory::bytes`, whose borrow of the memory this iterator holds.
                return Some(unsafe { slice::from_raw_parts(start.as_ptr(), len) });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn a_jumbo_packet_is_a_chain_with_its_headers_in_the_first_chunk() {
        let mut memory = Memory::heap(8, 4096);
        let packet = pattern(9014);
        let frame = memory.allocate_copy(&packet).unwrap();

        assert_eq!(
            (frame.len(), frame.head_len(), frame.is_chain()),
            (9014, 3840, true)
        );
        assert_eq!(
            memory.segments(&frame).map(<[u8]>::len).collect::<Vec<_>>(),
            [3840, 3840, 1334]
        );
        assert_eq!(memory.to_vec(&frame), packet);
        assert_eq!(memory.free_chunks(), 5);
        memory.release(frame);
        assert_eq!(memory.free_chunks(), 8);
    }

    #[test]
    fn a_packet_that_does_not_fit_leaves_the_memory_as_it_was() {
        let mut memory = Memory::heap(2, 2048);
        assert_eq!(memory.allocate_copy(&pattern(2 * 1792 + 1)), None);
        assert_eq!(memory.free_chunks(), 2);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "released twice")]
    fn a_chunk_released_twice_is_found_in_debug_builds() {
        let mut memory = Memory::heap(2, 2048);
        memory.return_chunk(0);
    }

    proptest! {
        #[test]
        fn append_and_truncate_match_a_vector(steps in prop::collection::vec((any::<bool>(), 0_usize..9000), 1..12)) {
            let mut memory = Memory::heap(16, 2048);
            let mut frame = memory.allocate().unwrap();
            let mut model = Vec::new();
            for (append, count) in steps {
                if append {
                    let bytes = pattern(count);
                    if memory.append(&mut frame, &bytes) {
                        model.extend_from_slice(&bytes);
                    }
                } else {
                    memory.truncate(&mut frame, count);
                    model.truncate(count);
                }
                prop_assert_eq!(frame.len(), model.len());
                prop_assert_eq!(&memory.to_vec(&frame), &model);
                let start = model.len() / 3;
                let mut part = vec![0; model.len() - start];
                prop_assert!(memory.copy_range(&frame, start, &mut part));
                prop_assert_eq!(&part, &model[start..]);
            }
            memory.release(frame);
            prop_assert_eq!(memory.free_chunks(), 16);
        }
    }
}
