//! Outbox: frames on their way out, per port, with what each counts as once the port has taken it.
//!
//! Accounting is final only after tx: what the ring leaves becomes a drop, `tx-ring-full`.

use crate::counters::Counters;
use crate::io::{Capabilities, Frame, Memory, PacketIo};
use crate::observe::{Emission, Observer, PacketNumber};
use crate::port::PortId;
use crate::verdict::{DropReason, PuntReason, Verdict};

/// What a frame on its way out is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An input packet, forwarded or answered.
    Forwarded,
    /// An input packet, to the kernel.
    Punted(PuntReason),
    /// A further fragment of the packet before.
    Split,
    /// Ours.
    Generated,
}

impl Kind {
    const fn emission(self) -> Emission {
        match self {
            Self::Forwarded => Emission::Forwarded,
            Self::Punted(_) => Emission::Punted,
            Self::Split => Emission::Split,
            Self::Generated => Emission::Generated,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Note {
    cause: Option<PacketNumber>,
    kind: Kind,
    len: u32,
}

/// The queue of one port.
#[derive(Debug)]
struct Queue {
    frames: Vec<Frame>,
    notes: Vec<Note>,
    capabilities: Capabilities,
}

/// The queues of all of a worker's ports.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queues: Vec<Option<Queue>>,
    /// Ports with frames, in the order in which they got their first.
    waiting: Vec<PortId>,
    scratch: Vec<u8>,
}

impl Outbox {
    pub(crate) fn add_port(&mut self, port: PortId, capabilities: Capabilities) {
        if self.queues.len() <= port.index() {
            self.queues.resize_with(port.index() + 1, || None);
        }
        self.queues[port.index()] = Some(Queue {
            frames: Vec::with_capacity(QUEUE_FIRST),
            notes: Vec::with_capacity(QUEUE_FIRST),
            capabilities,
        });
        self.waiting.reserve(self.queues.len());
    }

    /// Between batches, when its queue is empty.
    pub(crate) fn remove_port(&mut self, port: PortId) {
        if let Some(queue) = self.queues.get_mut(port.index()) {
            debug_assert!(queue.as_ref().is_none_or(|queue| queue.frames.is_empty()));
            *queue = None;
        }
    }

    /// What the port can do; `None`: this worker has no such port.
    #[inline]
    pub(crate) fn capabilities(&self, port: PortId) -> Option<Capabilities> {
        self.queues
            .get(port.index())?
            .as_ref()
            .map(|queue| queue.capabilities)
    }

    /// Queues `frame`, or gives it back when there is no such port.
    #[inline]
    pub(crate) fn push(
        &mut self,
        port: PortId,
        frame: Frame,
        cause: Option<PacketNumber>,
        kind: Kind,
    ) -> Result<(), Frame> {
        let Some(Some(queue)) = self.queues.get_mut(port.index()) else {
            return Err(frame);
        };
        if queue.frames.is_empty() {
            self.waiting.push(port);
        }
        let len = frame.len() as u32;
        queue.frames.push(frame);
        queue.notes.push(Note { cause, kind, len });
        Ok(())
    }

    /// Hands every queue to its port and accounts for what each took and left.
    pub(crate) fn flush<P: PacketIo, O: Observer>(
        &mut self,
        ports: &mut [Option<P>],
        memory: &mut Memory,
        counters: &Counters,
        observer: &mut O,
    ) {
        let scratch = &mut self.scratch;
        for port in self.waiting.drain(..) {
            let Some(queue) = self.queues[port.index()].as_mut() else {
                continue;
            };
            let io = ports.get_mut(port.index()).and_then(Option::as_mut);
            let taken = match io {
                None => 0,
                Some(io) if O::ACTIVE => flush_observed(queue, io, port, memory, observer, scratch),
                Some(io) => io.tx(memory, &mut queue.frames),
            };
            for (at, note) in queue.notes.drain(..).enumerate() {
                account(note, at < taken, port, counters, observer);
            }
            for frame in queue.frames.drain(..) {
                memory.release(frame);
            }
        }
    }
}

/// One frame at a time, so that each is seen before the port has it.
fn flush_observed<P: PacketIo, O: Observer>(
    queue: &mut Queue,
    io: &mut P,
    port: PortId,
    memory: &mut Memory,
    observer: &mut O,
    scratch: &mut Vec<u8>,
) -> usize {
    let mut one = Vec::with_capacity(1);
    let mut taken = 0;
    let mut left = Vec::new();
    for (frame, note) in queue.frames.drain(..).zip(&queue.notes) {
        if !left.is_empty() {
            left.push(frame);
            continue;
        }
        let mut frame = frame;
        // A capture shows what the wire carries: whole checksums.
        crate::io::checksum::complete(memory, &mut frame);
        scratch.clear();
        memory.copy_out(&frame, scratch);
        one.push(frame);
        if io.tx(memory, &mut one) == 1 {
            taken += 1;
            observer.sent(note.cause, port, scratch, note.kind.emission());
        } else {
            left.append(&mut one);
        }
    }
    queue.frames = left;
    taken
}

#[inline]
fn account<O: Observer>(note: Note, taken: bool, port: PortId, counters: &Counters, observer: &mut O) {
    if taken {
        counters.frames_out.add(1);
        if let Some(port) = counters.port(port) {
            port.tx_frames.add(1);
            port.tx_bytes.add(note.len.into());
        }
        return match note.kind {
            Kind::Forwarded => counters.verdict(Verdict::Tx(port)),
            Kind::Punted(reason) => counters.verdict(Verdict::Punt(reason)),
            Kind::Split => counters.split.add(1),
            Kind::Generated => counters.generated.add(1),
        };
    }
    match note.kind {
        Kind::Forwarded | Kind::Punted(_) => {
            let verdict = Verdict::Drop(DropReason::TxRingFull);
            counters.verdict(verdict);
            if let Some(packet) = note.cause {
                observer.unsent(packet, verdict);
            }
        }
        Kind::Generated => counters.generated_lost.add(1),
        // A ring takes frames from the front, so the first fragment tells the packet's verdict.
        Kind::Split => {}
    }
}

/// Frames that a queue has room for from the start: a batch, and what may be generated or released beside it.
const QUEUE_FIRST: usize = 4 * crate::io::BATCH_MAX;
