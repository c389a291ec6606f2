//! A port in memory: two queues of frames. For tests, benches and as the model that every other port must match.
//!
//! The thread that owns the port feeds and reads frames; another thread may inject packets as bytes, as a wire would.

use std::{
    collections::VecDeque,
    os::fd::RawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use super::{Capabilities, Frame, Memory, PacketIo, Waker, checksum};

/// A port whose two ends are in this process.
#[derive(Debug)]
pub struct RingPort {
    to_rx: VecDeque<Frame>,
    sent: VecDeque<Frame>,
    tx_capacity: usize,
    capabilities: Capabilities,
    inbox: Option<Arc<Inbox>>,
}

/// The other end of a [`RingPort`], for another thread.
#[derive(Clone, Debug)]
pub struct Injector {
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Inbox {
    packets: Mutex<VecDeque<Vec<u8>>>,
    /// Length of `packets`, so that an idle port takes no lock.
    waiting: AtomicUsize,
    arrived: Waker,
}

impl RingPort {
    /// A port whose TX ring holds `tx_capacity` frames until someone takes them out with [`take_sent`](Self::take_sent).
    /// It completes checksums and takes chains; frames of any length up to the largest IP packet.
    pub fn new(tx_capacity: usize) -> Self {
        let capabilities = Capabilities {
            frame_len_max: 65_535 + 14,
            tx_checksum: true,
            multi_buffer: true,
        };
        Self {
            to_rx: VecDeque::with_capacity(tx_capacity),
            sent: VecDeque::with_capacity(tx_capacity),
            tx_capacity,
            capabilities,
            inbox: None,
        }
    }

    /// The same with other capabilities.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }

    /// Queues a frame to be received.
    pub fn feed(&mut self, frame: Frame) {
        self.to_rx.push_back(frame);
    }

    /// Queues a copy of `bytes` to be received. `false` when `memory` has too few free chunks.
    #[must_use]
    pub fn feed_copy(&mut self, memory: &mut Memory, bytes: &[u8], timestamp_ns: u64) -> bool {
        let Some(mut frame) = memory.allocate_copy(bytes) else {
            return false;
        };
        frame.timestamp_ns = timestamp_ns;
        self.to_rx.push_back(frame);
        true
    }

    /// The oldest frame sent, taken off the TX ring.
    pub fn take_sent(&mut self) -> Option<Frame> {
        self.sent.pop_front()
    }

    /// Appends all frames sent to `into`, in order. Returns how many.
    pub fn take_all_sent(&mut self, into: &mut Vec<Frame>) -> usize {
        let count = self.sent.len();
        into.extend(self.sent.drain(..));
        count
    }

    /// The bytes of the oldest frame sent; its chunks are freed.
    pub fn take_sent_bytes(&mut self, memory: &mut Memory) -> Option<Vec<u8>> {
        let frame = self.sent.pop_front()?;
        let bytes = memory.to_vec(&frame);
        memory.release(frame);
        Some(bytes)
    }

    /// Frames that wait to be received.
    pub fn waiting(&self) -> usize {
        self.to_rx.len() + self.inbox.as_ref().map_or(0, |inbox| inbox.waiting.load(Relaxed))
    }

    /// Frees every frame in both queues, before the port goes.
    pub fn clear(&mut self, memory: &mut Memory) {
        self.to_rx
            .drain(..)
            .chain(self.sent.drain(..))
            .for_each(|frame| memory.release(frame));
    }

    /// The end that another thread feeds packets into.
    ///
    /// # Panics
    /// When the process has no descriptors left.
    pub fn injector(&mut self) -> Injector {
        let inbox = self.inbox.get_or_insert_with(|| {
            let arrived = Waker::new().expect("a descriptor for an eventfd");
            Arc::new(Inbox {
                packets: Mutex::default(),
                waiting: AtomicUsize::new(0),
                arrived,
            })
        });
        Injector {
            inbox: Arc::clone(inbox),
        }
    }

    fn receive_injected(&mut self, memory: &mut Memory, room: usize) {
        // Relaxed: a packet missed now is seen on the next call; the lock orders its bytes, the eventfd the sleep.
        let Some(inbox) = self
            .inbox
            .as_ref()
            .filter(|inbox| inbox.waiting.load(Relaxed) > 0)
        else {
            return;
        };
        let mut packets = inbox.packets.lock().unwrap_or_else(PoisonError::into_inner);
        while self.to_rx.len() < room
            && let Some(packet) = packets.front()
            && let Some(frame) = memory.allocate_copy(packet)
        {
            packets.pop_front();
            self.to_rx.push_back(frame);
        }
        inbox.waiting.store(packets.len(), Relaxed);
        if packets.is_empty() {
            inbox.arrived.clear();
        }
    }
}

impl Injector {
    /// Queues a packet to be received, and wakes the port's worker.
    pub fn inject(&self, packet: &[u8]) {
        let mut packets = self.inbox.packets.lock().unwrap_or_else(PoisonError::into_inner);
        packets.push_back(packet.to_vec());
        self.inbox.waiting.store(packets.len(), Relaxed);
        // Under the lock, so that the port cannot clear it between the push and the wake.
        self.inbox.arrived.wake();
    }
}

impl PacketIo for RingPort {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        if self.inbox.is_some() {
            self.receive_injected(memory, room);
        }
        let count = room.min(self.to_rx.len());
        into.extend(self.to_rx.drain(..count));
        count
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        let room = self.tx_capacity.saturating_sub(self.sent.len());
        let count = room.min(frames.len());
        for mut frame in frames.drain(..count) {
            if self.capabilities.tx_checksum {
                checksum::complete(memory, &mut frame);
            }
            self.sent.push_back(frame);
        }
        count
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn has_input(&mut self) -> bool {
        self.waiting() > 0
    }

    fn close(&mut self, memory: &mut Memory) -> usize {
        self.clear(memory);
        0
    }

    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        self.inbox.as_ref().map(|inbox| inbox.arrived.fd()).into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_tx_ring_leaves_the_rest_with_the_caller() {
        let mut memory = Memory::heap(4, 2048);
        let mut port = RingPort::new(2);
        let mut frames: Vec<_> = (0..3).map(|i| memory.allocate_copy(&[i]).unwrap()).collect();

        assert_eq!(port.tx(&mut memory, &mut frames), 2);
        assert_eq!(memory.bytes(&frames[0]), [2]);
        assert_eq!(port.take_sent_bytes(&mut memory), Some(vec![0]));
        assert_eq!(port.tx(&mut memory, &mut frames), 1);
        assert!(frames.is_empty());
        port.clear(&mut memory);
        assert_eq!(memory.free_chunks(), 4);
    }

    #[test]
    fn packets_without_a_free_chunk_wait_at_the_wire() {
        let mut memory = Memory::heap(1, 2048);
        let mut port = RingPort::new(2);
        let wire = port.injector();
        wire.inject(&[1]);
        wire.inject(&[2]);
        let mut frames = Vec::new();

        assert_eq!(port.rx(&mut memory, &mut frames, 8), 1);
        assert_eq!(port.rx(&mut memory, &mut frames, 8), 0);
        memory.release(frames.pop().unwrap());
        assert_eq!(port.rx(&mut memory, &mut frames, 8), 1);
        assert_eq!(memory.bytes(&frames[0]), [2]);
    }
}
