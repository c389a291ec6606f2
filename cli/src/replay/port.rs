//! Ports of a replay: one queue of input packets for all of them, in order, and nothing behind them.
//!
//! A port receives the packet at the front of the queue only when it is its own, so a worker that asks its ports one after
//! the other receives packets in the order of time. What it sends is seen by the observer; the frame ends here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use fastpath::io::pcap::PACKET_LEN_MAX;
use fastpath::io::{Capabilities, Frame, Memory, PacketIo};
use fastpath::port::PortId;

/// Packets that wait to be received.
pub(super) type Queue = Rc<RefCell<VecDeque<(PortId, Frame)>>>;

/// One port.
pub(super) struct ReplayPort {
    id: PortId,
    queue: Queue,
}

impl ReplayPort {
    pub(super) fn new(id: PortId, queue: &Queue) -> Self {
        Self {
            id,
            queue: Rc::clone(queue),
        }
    }

    /// Queues a packet as received here. `false` when the memory has no room for it.
    #[must_use]
    pub(super) fn feed(&self, memory: &mut Memory, bytes: &[u8], timestamp_ns: u64) -> bool {
        let Some(mut frame) = memory.allocate_copy(bytes) else {
            return false;
        };
        frame.timestamp_ns = timestamp_ns;
        self.queue.borrow_mut().push_back((self.id, frame));
        true
    }
}

impl PacketIo for ReplayPort {
    fn rx(&mut self, _: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let mut queue = self.queue.borrow_mut();
        let mut count = 0;
        while count < room
            && let Some((_, frame)) = queue.pop_front_if(|(port, _)| *port == self.id)
        {
            into.push(frame);
            count += 1;
        }
        count
    }

    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len();
        frames.drain(..).for_each(|frame| memory.release(frame));
        count
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_len_max: PACKET_LEN_MAX as u32,
            tx_checksum: true,
            multi_buffer: true,
        }
    }
}
