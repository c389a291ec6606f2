//! Ports: where frames come from and go to, behind one trait, and the memory that they live in.
//!
//! A worker owns one [`Memory`] and one queue of every port. Frames are linear handles into that memory: each is in
//! exactly one place (a ring, a batch, a hold queue, the free list), so forwarding between ports moves a handle.

pub mod afxdp;
pub mod bpf;
pub mod checksum;
pub mod clock;
pub mod fault;
pub mod frame;
pub mod memory;
pub mod merge;
pub mod netns;
pub mod pcap;
pub mod poll;
pub mod region;
pub mod ring;
pub mod tap;
pub mod unix;
pub mod wait;
#[cfg(feature = "xsk-rs")]
pub mod xsk_rs;

use std::{os::fd::RawFd, time::Duration};

pub use frame::Frame;
pub use memory::Memory;
pub use region::Region;
pub use ring::RingPort;
pub use wait::Waker;

/// Frames that one call of [`PacketIo::rx`] or one batch holds at most.
pub const BATCH_MAX: usize = 64;

/// A port as one worker sees it: its own queue of an interface, a capture file, or a ring.
///
/// Implementations are chosen once, at start, and monomorphised into the worker.
pub trait PacketIo {
    /// Appends up to `room` received frames to `into`. Returns how many.
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize;

    /// Sends frames from the front of `frames`, in order, and removes those that the port took. What it leaves did not
    /// fit: the caller decides (the pipeline drops it with `tx-ring-full`). A frame longer than the port's MTU is the
    /// caller's error. The frames taken belong to the port until the kernel is done with them.
    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize;

    /// Sleeps until one of `ports` has frames to receive, or the timeout. Spurious returns are fine, lost wake-ups are not.
    fn wait(ports: &mut [&mut Self], timeout: Duration)
    where
        Self: Sized,
    {
        wait::wait(ports, None, timeout);
    }

    /// As [`wait`](Self::wait), and returns when `waker` is woken too: how the config thread reaches a worker that sleeps.
    fn wait_or_wake(ports: &mut [&mut Self], waker: &Waker, timeout: Duration)
    where
        Self: Sized,
    {
        wait::wait(ports, Some(waker), timeout);
    }

    /// What the port can do for frames that it sends.
    fn capabilities(&self) -> Capabilities;

    /// The next [`rx`](Self::rx) would give frames, or do what can't wait. Asked before the worker sleeps; `false` is right for a
    /// port whose [`wait_fds`](Self::wait_fds) are readable then.
    fn has_input(&mut self) -> bool {
        false
    }

    /// Gives up the port: everything in its queues goes back to `memory`. Returns the chunks that someone else still has
    /// (packets on their way out of an interface): call again until none are, then drop the port. It moves no more frames.
    fn close(&mut self, memory: &mut Memory) -> usize {
        let _ = memory;
        0
    }

    /// Descriptors of which one is readable while frames wait. None for a port that never has to be waited for.
    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        std::iter::empty()
    }
}

/// What a port can do. Data, not methods: the worker copies it once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest frame in bytes, Ethernet header included.
    pub frame_len_max: u32,
    /// The port completes partial TCP and UDP checksums on TX ([`Checksum::Partial`] with its offsets).
    pub tx_checksum: bool,
    /// Frames may be chains of buffers.
    pub multi_buffer: bool,
}

/// What is known of a frame's transport checksum, inner one for a frame that will be encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The field holds a full checksum, or nothing is known of it.
    #[default]
    Full,
    /// The field holds the folded sum of the pseudo-header alone, not complemented; someone must complete it.
    Partial {
        /// Offset of the transport header from the first byte of the frame.
        start: u16,
        /// Offset of the checksum field from `start`: 16 for TCP, 6 for UDP.
        offset: u16,
    },
}
