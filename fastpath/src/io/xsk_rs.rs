//! The second `AF_XDP` backend, over the `xsk-rs` crate: what [`afxdp`](super::afxdp) does is checked against it, by the same suite.
//!
//! `xsk-rs` takes no memory from its caller and no packet that begins elsewhere than it decides, so this port has a UMEM of its own
//! and copies each packet, in both directions. It requests no TX metadata: partial checksums are completed in software. It is
//! slower by that and otherwise equal.
#![allow(unsafe_code)]

use std::{
    io::{self, Write},
    num::NonZeroU32,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
};

use xsk_rs::{
    CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem,
    config::{BindFlags, FrameSize, LibxdpFlags, QueueSize, SocketConfig, UmemConfig},
};

use super::{Capabilities, Checksum, Frame, Memory, PacketIo, afxdp::interface_mtu, checksum};

/// Why a port over `xsk-rs` could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XskError {
    /// A size is not one that the kernel takes.
    #[error("{what} is no size that the kernel takes: {detail}")]
    Size {
        /// Of what.
        what: &'static str,
        /// What `xsk-rs` says.
        detail: String,
    },
    /// The interface does not tell its MTU: most likely it is not there.
    #[error("{interface}: {source}")]
    Interface {
        /// The interface.
        interface: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The memory could not be registered.
    #[error("the UMEM could not be made: {detail}")]
    Umem {
        /// What `xsk-rs` says.
        detail: String,
    },
    /// The socket could not be made and bound.
    #[error("{interface} queue {queue} could not be bound: {detail}")]
    Bind {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u16,
        /// What `xsk-rs` says.
        detail: String,
    },
}

/// A queue of an interface, by way of `xsk-rs`.
pub struct XskRsPort {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
    umem: Umem,
    /// Descriptors that are in none of the rings. `FrameDesc` is `Copy`: each leaves this list before it is given to a ring,
    /// and none is kept anywhere else, so none is given twice.
    free: Vec<FrameDesc>,
    /// Received, and waiting for a chunk of the worker's.
    received: Vec<FrameDesc>,
    lent: usize,
    sending: usize,
    tx_slots: usize,
    frame_len_max: u32,
    closed: bool,
}

// SAFETY: the queues hold raw pointers to mappings that belong to them alone and are not bound to a thread; `Socket`, which they
// share, is itself `Send` and behind a lock.
unsafe impl Send for XskRsPort {}

const FRAME_LEN: u32 = 4096;
/// Chunks with the kernel for reception.
const FILL: u32 = 256;
const BATCH: usize = 64;
const KICKS_MAX: usize = 64;

impl XskRsPort {
    /// Binds to `queue` of `interface` in copy mode, with a TX ring of `tx_slots` (a power of two). Attaches no program.
    ///
    /// # Errors
    /// [`XskError`].
    pub fn open(interface: &str, queue: u16, tx_slots: u32) -> Result<Self, XskError> {
        let size = |what, size| {
            QueueSize::new(size).map_err(|error| XskError::Size {
                what,
                detail: error.to_string(),
            })
        };
        let frame_size = FrameSize::new(FRAME_LEN).map_err(|error| XskError::Size {
            what: "a frame",
            detail: error.to_string(),
        })?;
        let config = UmemConfig::builder()
            .frame_size(frame_size)
            .fill_queue_size(size("the fill ring", FILL)?)
            .comp_queue_size(size("the completion ring", tx_slots)?)
            .build()
            .map_err(|error| XskError::Size {
                what: "the UMEM",
                detail: error.to_string(),
            })?;
        let mtu = interface_mtu(interface).map_err(|source| XskError::Interface {
            interface: interface.to_owned(),
            source,
        })?;
        let frame_len_max = config.mtu().min(mtu + 14);
        let frames = NonZeroU32::new(FILL + tx_slots).expect("FILL is not zero");
        let (umem, free) = Umem::new(config, frames, false).map_err(|error| XskError::Umem {
            detail: error.to_string(),
        })?;
        let config = SocketConfig::builder()
            .rx_queue_size(size("the RX ring", FILL)?)
            .tx_queue_size(size("the TX ring", tx_slots)?)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        let failed = |detail: String| XskError::Bind {
            interface: interface.to_owned(),
            queue,
            detail,
        };
        let name = interface.parse().map_err(|error| failed(format!("{error:?}")))?;
        // SAFETY: the UMEM is not shared, so no other socket is on this queue with it.
        let bound = unsafe { Socket::new(config, &umem, &name, u32::from(queue)) };
        let (tx, rx, rings) = bound.map_err(|error| failed(error.to_string()))?;
        let (fill, completion) = rings.expect("a UMEM that is not shared comes with its rings");
        Ok(Self {
            tx,
            rx,
            fill,
            completion,
            umem,
            free,
            received: Vec::with_capacity(BATCH),
            lent: 0,
            sending: 0,
            tx_slots: tx_slots as usize,
            frame_len_max,
            closed: false,
        })
    }

    /// The socket, to be put into an XSKMAP.
    pub fn socket(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open while its queues live, and they belong to `self`.
        unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) }
    }

    fn refill(&mut self) {
        while self.lent < FILL as usize
            && let Some(frame) = self.free.pop()
        {
            // SAFETY: of this UMEM, and in no other ring: it was on the free list alone.
            let produced = unsafe { self.fill.produce_one(&frame) };
            if produced == 0 {
                self.free.push(frame);
                return;
            }
            self.lent += 1;
        }
    }

    fn collect_completions(&mut self) {
        let mut done = [FrameDesc::default(); BATCH];
        while self.sending > 0 {
            // SAFETY: the ring is of this UMEM; the descriptors only receive what it holds.
            let count = unsafe { self.completion.consume(&mut done) };
            if count == 0 {
                return;
            }
            self.sending -= count;
            self.free.extend_from_slice(&done[..count]);
        }
    }

    /// Copies the frame into the UMEM and puts it into the TX ring. `false` when there is no room.
    fn push(&mut self, memory: &Memory, frame: &Frame) -> bool {
        if self.sending >= self.tx_slots {
            return false;
        }
        let Some(mut descriptor) = self.free.pop() else {
            return false;
        };
        descriptor.set_options(0);
        // SAFETY: of this UMEM, and in no ring: it was on the free list alone.
        let mut data = unsafe { self.umem.data_mut(&mut descriptor) };
        let mut cursor = data.cursor();
        cursor.set_pos(0);
        let copied: io::Result<()> = memory
            .segments(frame)
            .try_for_each(|segment| cursor.write_all(segment));
        // SAFETY: as above; its bytes are written before the ring shows it.
        if copied.is_ok() && unsafe { self.tx.produce_one(&descriptor) } == 1 {
            self.sending += 1;
            return true;
        }
        self.free.push(descriptor);
        false
    }

    /// Makes the kernel send. `TxQueue::wakeup` does not tell whether it sent all, so completions do.
    fn flush(&mut self) {
        for _ in 0..KICKS_MAX {
            let before = self.sending;
            if self.tx.wakeup().is_err() {
                return;
            }
            self.collect_completions();
            if self.sending == 0 || self.sending == before {
                return;
            }
        }
    }
}

impl PacketIo for XskRsPort {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        if self.closed {
            return 0;
        }
        let mut count = 0;
        while count < room {
            if self.received.is_empty() {
                let mut batch = [FrameDesc::default(); BATCH];
                // SAFETY: the ring is of this UMEM; the descriptors only receive what it holds.
                let got = unsafe { self.rx.consume(&mut batch[..BATCH.min(room - count)]) };
                if got == 0 {
                    break;
                }
                self.lent -= got;
                self.received.extend(batch[..got].iter().rev());
            }
            let Some(descriptor) = self.received.last() else {
                break;
            };
            // SAFETY: of this UMEM, and in no ring since it was consumed.
            let data = unsafe { self.umem.data(descriptor) };
            let Some(mut frame) = memory.allocate_copy(data.contents()) else {
                break;
            };
            frame.checksum = checksum::detect(memory.bytes(&frame));
            into.push(frame);
            self.free.extend(self.received.pop());
            count += 1;
        }
        self.collect_completions();
        if self.sending > 0 {
            self.flush();
        }
        self.refill();
        count
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        if self.closed {
            return 0;
        }
        self.collect_completions();
        let mut taken = 0;
        for frame in frames.iter_mut() {
            if frame.checksum != Checksum::Full {
                checksum::complete(memory, frame);
            }
            if !self.push(memory, frame) {
                break;
            }
            memory.release_parts(frame);
            taken += 1;
        }
        frames.drain(..taken).for_each(drop);
        if taken > 0 {
            self.flush();
        }
        taken
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_len_max: self.frame_len_max,
            tx_checksum: true,
            multi_buffer: false,
        }
    }

    fn has_input(&mut self) -> bool {
        !self.received.is_empty() || self.rx.nb_avail(1) > 0
    }

    /// Nothing of the worker's memory is ever with the kernel.
    fn close(&mut self, _memory: &mut Memory) -> usize {
        self.closed = true;
        0
    }

    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        (!self.closed).then(|| self.tx.fd().as_raw_fd()).into_iter()
    }
}
