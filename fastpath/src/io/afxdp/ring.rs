//! The four rings that a socket shares with the kernel: one side produces, the other consumes, indexes run freely and wrap.
#![allow(unsafe_code)]

use std::{
    ffi::c_int,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed, Release},
    },
};

/// A packet, or a part of one, in an RX or TX ring: the kernel's `xdp_desc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Descriptor {
    /// Byte offset in the UMEM.
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) options: u32,
}

const _: () = assert!(size_of::<Descriptor>() == size_of::<libc::xdp_desc>());

/// What a ring's slots may be: plain data, any bits of which are a value.
pub(super) trait Slot: Copy {}

impl Slot for Descriptor {}
impl Slot for u64 {}

/// One mapped ring. The mapping outlives the socket: its pages belong to whoever maps them.
struct Ring<T> {
    start: NonNull<u8>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<T>,
    mask: u32,
}

// SAFETY: the mapping belongs to this value alone and is not bound to a thread; the kernel's side is reached by atomics.
unsafe impl<T: Slot> Send for Ring<T> {}

impl<T: Slot> Ring<T> {
    fn map(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: &libc::xdp_ring_offset,
        slots: u32,
    ) -> io::Result<Self> {
        assert!(slots.is_power_of_two(), "{slots} slots");
        let len = offsets.desc as usize + slots as usize * size_of::<T>();
        assert!(
            [offsets.producer, offsets.consumer, offsets.flags]
                .iter()
                .all(|at| *at as usize + 4 <= len)
        );
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags: c_int = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice; it aliases nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                flags,
                socket.as_raw_fd(),
                page_offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast::<u8>()).expect("mmap gives no null page");
        // SAFETY: within the mapping, as asserted; the kernel aligns its indexes to cache lines.
        let at = |offset: u64| unsafe { start.add(offset as usize) };
        Ok(Self {
            start,
            len,
            producer: at(offsets.producer).cast(),
            consumer: at(offsets.consumer).cast(),
            flags: at(offsets.flags).cast(),
            slots: at(offsets.desc).cast(),
            mask: slots - 1,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, which lives as long as `self`; both sides access it atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() };
        // Relaxed: a hint. The kernel sets it before it looks at the ring a last time, and whoever sleeps polls the socket.
        flags.load(Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    fn slot(&self, index: u32) -> NonNull<T> {
        let index = (index & self.mask) as usize;
        // SAFETY: in bounds: `map` made the mapping long enough for `mask + 1` slots.
        unsafe { self.slots.add(index) }
    }

    /// The slot's value, also of slots that belong to the kernel for the moment: any bits are a value.
    fn read(&self, index: u32) -> T {
        // SAFETY: alive while the mapping is. The kernel does not write to slots between consumer and producer of a ring
        // that we consume, never to those of a ring that we produce.
        unsafe { self.slot(index).read() }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: our own mapping, with its own length; no pointer into it leaves this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// A ring that we fill and the kernel empties: fill and TX.
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// First slot that is not written yet; the kernel sees slots up to its `producer` index only.
    next: u32,
    /// The kernel's consumer index when last looked at.
    consumed: u32,
}

impl<T: Slot> Producer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: &libc::xdp_ring_offset,
        slots: u32,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, offsets, slots)?;
        // Relaxed: before the socket is bound, or handed over by a process that stopped, nobody else writes it.
        let next = ring.producer().load(Relaxed);
        let consumed = ring.consumer().load(Acquire);
        Ok(Self { ring, next, consumed })
    }

    /// Slots that can be written, at least `want` if there are so many.
    pub(super) fn room(&mut self, want: u32) -> u32 {
        let slots = self.ring.mask + 1;
        if slots - self.next.wrapping_sub(self.consumed) < want {
            // Acquire: pairs with the kernel's release of its consumer index; it has read the slots before it.
            self.consumed = self.ring.consumer().load(Acquire);
        }
        slots - self.next.wrapping_sub(self.consumed)
    }

    /// Writes the next slot. The caller asked [`room`](Self::room).
    pub(super) fn push(&mut self, value: T) {
        debug_assert!(
            self.next.wrapping_sub(self.consumed) <= self.ring.mask,
            "no room was asked for"
        );
        // SAFETY: in bounds by `slot`, alive with the mapping. Ours alone: the kernel reads only below `producer`, and `submit`
        // has not moved `producer` past `next` yet.
        unsafe { self.ring.slot(self.next).write(value) };
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the kernel what was pushed.
    pub(super) fn submit(&self) {
        // Release: pairs with the kernel's acquire of the producer index; the slots are written before it.
        self.ring.producer().store(self.next, Release);
    }

    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    /// Slots that the kernel has not consumed.
    pub(super) fn pending(&mut self) -> u32 {
        // Acquire: as in `room`.
        self.consumed = self.ring.consumer().load(Acquire);
        self.next.wrapping_sub(self.consumed)
    }

    /// Takes back what the kernel did not consume. Only after the kernel let go of the socket.
    pub(super) fn take_back(&mut self, mut each: impl FnMut(T)) {
        let pending = self.pending();
        let first = self.consumed;
        (0..pending).for_each(|ahead| each(self.ring.read(first.wrapping_add(ahead))));
        self.consumed = self.next;
    }
}

/// A ring that the kernel fills and we empty: completion and RX.
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// First slot that was not taken yet.
    next: u32,
    /// The kernel's producer index when last looked at.
    produced: u32,
}

impl<T: Slot> Consumer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: &libc::xdp_ring_offset,
        slots: u32,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, offsets, slots)?;
        // Relaxed: only we write it, and this is our only view of it.
        let next = ring.consumer().load(Relaxed);
        Ok(Self {
            ring,
            next,
            produced: next,
        })
    }

    /// Slots that can be taken, at least `want` if there are so many.
    pub(super) fn available(&mut self, want: u32) -> u32 {
        if self.produced.wrapping_sub(self.next) < want {
            // Acquire: pairs with the kernel's release of its producer index; it wrote the slots before it.
            self.produced = self.ring.producer().load(Acquire);
        }
        self.produced.wrapping_sub(self.next)
    }

    /// The slot `ahead` of the next one. The caller asked [`available`](Self::available).
    pub(super) fn peek(&self, ahead: u32) -> T {
        debug_assert!(ahead < self.produced.wrapping_sub(self.next), "not available");
        self.ring.read(self.next.wrapping_add(ahead))
    }

    /// Takes `count` slots and lets the kernel have them again.
    pub(super) fn advance(&mut self, count: u32) {
        debug_assert!(count <= self.produced.wrapping_sub(self.next), "not available");
        self.next = self.next.wrapping_add(count);
        // Release: pairs with the kernel's acquire of the consumer index; we read the slots before it.
        self.ring.consumer().store(self.next, Release);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    const OFFSETS: libc::xdp_ring_offset = libc::xdp_ring_offset {
        producer: 0,
        consumer: 64,
        flags: 128,
        desc: 192,
    };

    /// Both ends of one ring, its indexes about to wrap.
    fn pair() -> (Producer<u64>, Consumer<u64>) {
        // SAFETY: the name is a literal with its nul byte.
        let fd = unsafe { libc::memfd_create(c"ring".as_ptr(), libc::MFD_CLOEXEC) };
        assert!(fd >= 0);
        // SAFETY: `fd` was just made and nobody else knows it.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: plain system call on our own file.
        assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), 4096) }, 0);
        let ring: Ring<u64> = Ring::map(file.as_fd(), 0, &OFFSETS, 4).unwrap();
        ring.producer().store(u32::MAX - 1, Relaxed);
        ring.consumer().store(u32::MAX - 1, Relaxed);
        let producer = Producer::map(file.as_fd(), 0, &OFFSETS, 4).unwrap();
        (producer, Consumer::map(file.as_fd(), 0, &OFFSETS, 4).unwrap())
    }

    #[test]
    fn order_is_kept_over_the_wrap_of_the_indexes() {
        let (mut producer, mut consumer) = pair();
        let (mut sent, mut seen) = (0_u64, 0_u64);
        for step in [4_u32, 1, 3, 2, 4, 4, 1] {
            assert_eq!(producer.room(4), 4);
            for _ in 0..step {
                producer.push(sent);
                sent += 1;
            }
            assert_eq!(consumer.available(1), 0, "not submitted yet");
            producer.submit();
            assert_eq!(consumer.available(4), step);
            for ahead in 0..step {
                assert_eq!(consumer.peek(ahead), seen);
                seen += 1;
            }
            consumer.advance(step);
        }
    }

    #[test]
    fn a_full_ring_has_no_room_and_gives_back_what_was_not_consumed() {
        let (mut producer, mut consumer) = pair();
        assert_eq!(producer.room(5), 4);
        (0..4).for_each(|value| producer.push(value));
        producer.submit();
        assert_eq!(producer.room(1), 0);
        assert_eq!(consumer.available(1), 4);
        consumer.advance(1);
        let mut left = Vec::new();
        producer.take_back(|value| left.push(value));
        assert_eq!(left, [1, 2, 3]);
    }
}
