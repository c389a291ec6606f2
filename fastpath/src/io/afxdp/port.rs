//! One queue of an interface as a port.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::{
    BindError, Mode, Statistics, Umem,
    lent::Lent,
    ring::Descriptor,
    socket::{self, QueueName, RingSlots, Rings},
};
use crate::io::{Capabilities, Checksum, Frame, Memory, PacketIo, checksum, frame::METADATA_LEN};

/// A port's rings, whose sizes are powers of two, and what comes into them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AfxdpOptions {
    /// Slots of the RX ring, and of the fill ring.
    pub rx_slots: u32,
    /// Slots of the TX ring, and of the completion ring.
    pub tx_slots: u32,
    /// Packets may come with partial checksums: from a veth, not from a NIC.
    pub partial_checksums: bool,
}

impl Default for AfxdpOptions {
    fn default() -> Self {
        Self {
            rx_slots: 1024,
            tx_slots: 1024,
            partial_checksums: true,
        }
    }
}

/// Whether a port's interface still carries frames, as sending found out. An interface that only receives tells nothing: the
/// configuration thread hears of its end by netlink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// Sending works.
    Up,
    /// The interface is down; what waits is sent when it comes up.
    Down,
    /// The interface is gone for good. Close the port.
    Gone,
}

/// An `AF_XDP` socket on one queue.
///
/// It may be opened on any thread of the interface's network namespace, and used on any one thread then. It takes chunks from
/// the worker's memory on [`rx`](PacketIo::rx) and gives them all back on [`close`](PacketIo::close); dropped without that, it takes
/// them along.
pub struct AfxdpPort {
    /// `None` once closed: the rings are read without it.
    socket: Option<OwnedFd>,
    rings: Rings,
    /// Chunks with the kernel for reception.
    lent: Lent,
    /// Chunks in the TX ring, in the kernel, or in the completion ring.
    sending: u32,
    /// Chunks that the port wants to have with the kernel for reception.
    fill_target: u32,
    /// Calls of `rx` in a row without a frame.
    idle_calls: u32,
    /// A quarter of the pool.
    held_max: u32,
    fill_slots: u32,
    /// Chunks are of 2 to the power of this many bytes.
    chunk_shift: u32,
    /// The kernel was asked to send and did not send all.
    unsent: bool,
    liveness: Liveness,
    tx_metadata: bool,
    detect_partial: bool,
    mode: Mode,
    frame_len_max: u32,
    refused: u64,
}

/// Chunks that a port always keeps with the kernel for reception.
const FILL_MIN: u32 = 64;
/// Idle calls of `rx` after which a port gives back half of the credits it drew.
const IDLE_CALLS: u32 = 1024;
/// Buffers of one packet: the kernel's `MAX_SKB_FRAGS`, and the first.
const SEGMENTS_MAX: usize = 18;
const ETHERNET_HEADER_LEN: usize = 14;
/// Tries to make the kernel send before the rest waits for the next call.
const KICKS_MAX: u32 = 64;

impl AfxdpPort {
    /// Binds to `queue` of `interface`, in copy mode over a worker's shared memory.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn open(umem: &Umem, interface: &str, queue: u16, options: AfxdpOptions) -> Result<Self, BindError> {
        let name = QueueName::new(interface, queue)?;
        let socket = socket::open()?;
        let rings = socket::make_rings(socket.as_fd(), options.slots(), &name)?;
        socket::bind(socket.as_fd(), &name, Mode::Copy, Some(umem.anchor()))?;
        Self::new(
            socket,
            rings,
            &name,
            options,
            umem.tx_metadata(),
            (umem.chunks(), umem.chunk_len()),
        )
    }

    /// Binds to `queue` of `interface` with a registration of `memory` of its own, for a zero-copy interface: offsets are the
    /// same in all registrations, so frames move freely between the worker's ports.
    ///
    /// # Errors
    /// [`BindError::ZeroCopyRefused`] when the driver has no such mode: ask again with [`Mode::Copy`] or share the UMEM.
    pub fn open_alone(
        memory: &Memory,
        interface: &str,
        queue: u16,
        mode: Mode,
        options: AfxdpOptions,
    ) -> Result<Self, BindError> {
        let name = QueueName::new(interface, queue)?;
        let socket = socket::open()?;
        let tx_metadata = socket::register(socket.as_fd(), memory, &name)?;
        let rings = socket::make_rings(socket.as_fd(), options.slots(), &name)?;
        socket::bind(socket.as_fd(), &name, mode, None)?;
        // A driver in zero-copy mode needs not offer the checksum: whoever sends there completes it.
        let tx_metadata = tx_metadata && mode == Mode::Copy;
        Self::new(
            socket,
            rings,
            &name,
            options,
            tx_metadata,
            (memory.chunks(), memory.chunk_len()),
        )
    }

    fn new(
        socket: OwnedFd,
        rings: Rings,
        name: &QueueName,
        options: AfxdpOptions,
        tx_metadata: bool,
        (chunks, chunk_len): (usize, usize),
    ) -> Result<Self, BindError> {
        let mode =
            socket::mode(socket.as_fd()).map_err(|error| name.error("reading the socket's mode", error))?;
        let mtu = socket::mtu(name)?;
        debug_assert!(chunk_len.is_power_of_two(), "the kernel takes no other");
        Ok(Self {
            socket: Some(socket),
            rings,
            lent: Lent::new(chunks),
            sending: 0,
            fill_target: FILL_MIN.min(options.rx_slots),
            idle_calls: 0,
            held_max: (chunks / 4) as u32,
            fill_slots: options.rx_slots,
            chunk_shift: chunk_len.trailing_zeros(),
            unsent: false,
            liveness: Liveness::Up,
            tx_metadata,
            detect_partial: options.partial_checksums,
            mode,
            frame_len_max: mtu + ETHERNET_HEADER_LEN as u32,
            refused: 0,
        })
    }

    /// The socket, to be put into an XSKMAP.
    ///
    /// # Panics
    /// When the port is closed.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().expect("an open port").as_fd()
    }

    /// What the kernel lost on this socket; zeroes when it is closed.
    pub fn statistics(&self) -> Statistics {
        let read = |socket: &OwnedFd| socket::statistics(socket.as_fd()).ok();
        self.socket.as_ref().and_then(read).unwrap_or_default()
    }

    /// The mode that the kernel chose, read back from it.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the interface carries frames.
    pub fn liveness(&self) -> Liveness {
        self.liveness
    }

    /// Chunks that the kernel has, for reception and for sending.
    pub fn held(&self) -> usize {
        (self.lent.len() + self.sending) as usize
    }

    /// Frames that were taken for sending and thrown away since no network carries them: shorter than an Ethernet header, or
    /// of more buffers than the kernel takes.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// Gives the kernel chunks to receive into, up to the target.
    fn refill(&mut self, memory: &mut Memory) {
        let spare = self.held_max.saturating_sub(self.sending);
        let target = self.fill_target.min(spare.max(FILL_MIN)).min(self.fill_slots);
        let want = target.saturating_sub(self.lent.len());
        // A few at a time cost as many stores to shared lines as many at a time.
        if want == 0 || (want < target / 4 && self.lent.len() >= FILL_MIN) {
            return;
        }
        let count = want.min(self.rings.fill.room(want));
        for _ in 0..count {
            let Some(chunk) = memory.take_chunk() else { break };
            self.lent.insert(chunk);
            self.rings.fill.push(u64::from(chunk) << self.chunk_shift);
        }
        self.rings.fill.submit();
        if self.mode == Mode::ZeroCopy && self.rings.fill.needs_wakeup() {
            socket::wake_rx(self.socket());
        }
    }

    /// Draws credits when frames come faster than chunks, and gives them back when nothing comes.
    fn adapt(&mut self, received: usize, room: usize) {
        if received == 0 {
            self.idle_calls += 1;
            if self.idle_calls >= IDLE_CALLS {
                self.idle_calls = 0;
                self.fill_target = (self.fill_target / 2).max(FILL_MIN);
            }
            return;
        }
        self.idle_calls = 0;
        if received == room || self.lent.len() < self.fill_target / 2 {
            self.fill_target = (self.fill_target * 2)
                .min(self.held_max.max(FILL_MIN))
                .min(self.fill_slots);
        }
    }

    /// The chunk that an address lies in.
    fn chunk_of(&self, address: u64) -> u32 {
        (address >> self.chunk_shift) as u32
    }

    /// Chunk, offset in it and length of what a descriptor from the kernel means.
    fn locate(&self, descriptor: Descriptor) -> (u32, u16, u16) {
        let offset = descriptor.addr & ((1 << self.chunk_shift) - 1);
        (
            self.chunk_of(descriptor.addr),
            offset as u16,
            descriptor.len as u16,
        )
    }

    /// Descriptors of the packet that starts `ahead` in the RX ring; `None` while its end is not there.
    fn packet_descriptors(&mut self, ahead: u32) -> Option<u32> {
        let mut count = 0;
        loop {
            if self.rings.rx.available(ahead + count + 1) <= ahead + count {
                return None;
            }
            let options = self.rings.rx.peek(ahead + count).options;
            count += 1;
            if options & libc::XDP_PKT_CONTD == 0 {
                return Some(count);
            }
        }
    }

    /// The packet of `count` descriptors that starts `ahead` in the RX ring.
    fn assemble(&mut self, memory: &mut Memory, ahead: u32, count: u32) -> Frame {
        let first = self.rings.rx.peek(ahead);
        let (chunk, offset, len) = self.locate(first);
        assert!(
            self.lent.remove(chunk),
            "the kernel gave a chunk that it did not have: {first:?}"
        );
        let mut frame = memory.received(chunk, offset, len);
        let mut last = chunk;
        for ahead in ahead + 1..ahead + count {
            let descriptor = self.rings.rx.peek(ahead);
            let (chunk, offset, len) = self.locate(descriptor);
            assert!(
                self.lent.remove(chunk),
                "the kernel gave a chunk that it did not have: {descriptor:?}"
            );
            memory.attach(&mut frame, last, chunk, offset, len);
            last = chunk;
        }
        frame
    }

    /// Frees the chunks of what was sent.
    fn collect_completions(&mut self, memory: &mut Memory) {
        let count = self.rings.completion.available(self.sending);
        for ahead in 0..count {
            let address = self.rings.completion.peek(ahead);
            memory.return_chunk(self.chunk_of(address));
        }
        self.rings.completion.advance(count);
        self.sending -= count;
    }

    /// Puts a frame's chunks into the TX ring: they are the kernel's then. `false` when the ring, or the port's share of the
    /// pool, is full.
    fn push(&mut self, memory: &mut Memory, frame: &mut Frame) -> bool {
        if !frame.is_chain() {
            if self.rings.tx.room(1) < 1 || self.sending >= self.held_max {
                return false;
            }
            let options = self.metadata(memory, frame);
            self.rings
                .tx
                .push(self.descriptor(frame.chunk, frame.offset, frame.len, options));
            self.sending += 1;
            return true;
        }
        let mut parts = [(0, 0, 0); SEGMENTS_MAX];
        let mut count = 0;
        for (slot, part) in parts.iter_mut().zip(memory.links(frame)) {
            *slot = part;
            count += 1;
        }
        if (self.rings.tx.room(count) as usize) < count as usize || self.sending + count > self.held_max {
            return false;
        }
        let mut options = self.metadata(memory, frame);
        // The kernel takes no empty buffers; the last one of a chain is never empty (`Memory::truncate` frees those).
        let (parts, last) = (&parts[..count as usize], count as usize - 1);
        for (index, (chunk, offset, len)) in parts.iter().enumerate() {
            if *len == 0 {
                memory.return_chunk(*chunk);
                continue;
            }
            let more = if index < last { libc::XDP_PKT_CONTD } else { 0 };
            self.rings
                .tx
                .push(self.descriptor(*chunk, *offset, *len, options | more));
            self.sending += 1;
            options = 0;
        }
        true
    }

    fn descriptor(&self, chunk: u32, offset: u16, len: u16, options: u32) -> Descriptor {
        let addr = (u64::from(chunk) << self.chunk_shift) + u64::from(offset);
        Descriptor {
            addr,
            len: u32::from(len),
            options,
        }
    }

    /// Asks the kernel to complete a partial checksum, or completes it. Returns the descriptor's options.
    fn metadata(&self, memory: &mut Memory, frame: &mut Frame) -> u32 {
        let Checksum::Partial { start, offset } = frame.checksum else {
            return 0;
        };
        // The kernel refuses a place outside of the frame, tries that descriptor again for ever, and nothing behind it leaves.
        let field_end = usize::from(start) + usize::from(offset) + 2;
        if !self.tx_metadata || field_end > frame.len() {
            debug_assert!(field_end <= frame.len(), "a checksum outside of its frame");
            checksum::complete(memory, frame);
            return 0;
        }
        let mut metadata = [0_u8; METADATA_LEN];
        metadata[..8].copy_from_slice(&u64::from(libc::XDP_TXMD_FLAGS_CHECKSUM).to_ne_bytes());
        metadata[8..10].copy_from_slice(&start.to_ne_bytes());
        metadata[10..12].copy_from_slice(&offset.to_ne_bytes());
        memory.write_before(frame, &metadata);
        libc::XDP_TX_METADATA
    }

    /// Makes the kernel send what is in the TX ring, as far as it can now.
    fn flush(&mut self, memory: &mut Memory) {
        let Some(socket) = &self.socket else { return };
        if self.mode == Mode::ZeroCopy && !self.rings.tx.needs_wakeup() {
            self.unsent = false;
            return;
        }
        let socket = socket.as_raw_fd();
        // SAFETY: `self.socket` stays open through this function.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let mut before = self.rings.tx.pending();
        for _ in 0..KICKS_MAX {
            let result = socket::kick(socket);
            let pending = self.rings.tx.pending();
            match result.map_err(|error| error.raw_os_error().unwrap_or(0)) {
                Ok(()) => self.liveness = Liveness::Up,
                // Not an error of the interface: the kernel sends so many packets per call, its queue is full, or the
                // completion ring is.
                Err(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR) => {
                    self.collect_completions(memory);
                }
                Err(libc::ENETDOWN) => {
                    self.liveness = Liveness::Down;
                    break;
                }
                Err(_) => {
                    self.liveness = Liveness::Gone;
                    break;
                }
            }
            if pending == 0 || pending == before && self.mode == Mode::Copy {
                break;
            }
            before = pending;
        }
        self.unsent = self.mode == Mode::Copy && self.rings.tx.pending() > 0;
    }
}

impl AfxdpOptions {
    fn slots(self) -> RingSlots {
        RingSlots {
            fill: self.rx_slots,
            completion: self.tx_slots,
            rx: self.rx_slots,
            tx: self.tx_slots,
        }
    }
}

impl PacketIo for AfxdpPort {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let (mut taken, mut received) = (0, 0);
        // The kernel wrote them on another CPU, if it is not the same: all are on their way before the first is looked at, which is
        // after everything else.
        for ahead in 0..self.rings.rx.available(room as u32).min(room as u32) {
            let (chunk, offset, _) = self.locate(self.rings.rx.peek(ahead));
            memory.prefetch_to_write(chunk, offset);
        }
        let first = into.len();
        while received < room {
            let Some(count) = self.packet_descriptors(taken) else {
                break;
            };
            into.push(self.assemble(memory, taken, count));
            taken += count;
            received += 1;
        }
        if taken > 0 {
            self.rings.rx.advance(taken);
        }
        if self.sending > 0 {
            self.collect_completions(memory);
        }
        if self.socket.is_some() {
            self.adapt(received, room);
            self.refill(memory);
            if self.unsent {
                self.flush(memory);
            }
        }
        if self.detect_partial {
            for frame in &mut into[first..] {
                frame.checksum = checksum::detect(memory.bytes(frame));
            }
        }
        received
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        if self.liveness == Liveness::Gone || self.socket.is_none() {
            return 0;
        }
        self.collect_completions(memory);
        let mut taken = 0;
        for frame in frames.iter_mut() {
            let parts = if frame.is_chain() {
                memory.links(frame).count()
            } else {
                1
            };
            if frame.len() < ETHERNET_HEADER_LEN || parts > SEGMENTS_MAX {
                self.refused += 1;
                memory.release_parts(frame);
            } else if !self.push(memory, frame) {
                break;
            }
            taken += 1;
        }
        // Their chunks are the kernel's, or free: the handles end here.
        frames.drain(..taken).for_each(drop);
        if taken > 0 {
            self.rings.tx.submit();
            self.flush(memory);
        }
        taken
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_len_max: self.frame_len_max,
            tx_checksum: self.tx_metadata,
            multi_buffer: true,
        }
    }

    fn has_input(&mut self) -> bool {
        // What the kernel did not send yet is asked for again by `rx`, and no descriptor tells when it can be: a worker that slept
        // on it would send the end of a burst by its next beat.
        self.rings.rx.available(1) > 0 || self.unsent && self.liveness == Liveness::Up
    }

    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        self.socket.as_ref().map(AsRawFd::as_raw_fd).into_iter()
    }

    fn close(&mut self, memory: &mut Memory) -> usize {
        if self.socket.take().is_some() {
            // The kernel has let go of the rings, but for completions of packets that are on their way. What it had for
            // reception, in whichever ring or list, is ours again.
            self.lent.drain(|chunk| memory.return_chunk(chunk));
            let (chunk_shift, mut unsent) = (self.chunk_shift, 0);
            self.rings.tx.take_back(|descriptor| {
                memory.return_chunk((descriptor.addr >> chunk_shift) as u32);
                unsent += 1;
            });
            self.sending -= unsent;
            self.liveness = Liveness::Gone;
        }
        self.collect_completions(memory);
        self.sending as usize
    }
}

impl std::fmt::Debug for AfxdpPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfxdpPort")
            .field("socket", &self.socket)
            .field("lent", &self.lent.len())
            .field("sending", &self.sending)
            .field("liveness", &self.liveness)
            .finish_non_exhaustive()
    }
}
