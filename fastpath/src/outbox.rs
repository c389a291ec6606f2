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

/// What is to be known of one frame, beside that it is a packet forwarded.
#[derive(Clone, Copy, Debug)]
struct Note {
    /// Its place in the queue.
    at: usize,
    cause: Option<PacketNumber>,
    kind: Kind,
}

/// The queue of one port.
#[derive(Debug)]
struct Queue {
    frames: Vec<Frame>,
    /// Bytes of all of them.
    bytes: u64,
    /// Of those that are not just forwarded; of all, when someone watches. In their order.
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
    observed: bool,
}

impl Outbox {
    /// Someone watches, or nobody.
    pub(crate) fn new(observed: bool) -> Self {
        Self {
            observed,
            ..Self::default()
        }
    }

    pub(crate) fn add_port(&mut self, port: PortId, capabilities: Capabilities) {
        if self.queues.len() <= port.index() {
            self.queues.resize_with(port.index() + 1, || None);
        }
        self.queues[port.index()] = Some(Queue {
            frames: Vec::with_capacity(QUEUE_FIRST),
            bytes: 0,
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

    /// Queues an input packet that is forwarded; `port` is one that the worker [has](Self::capabilities), `number` is for who
    /// watches. One by one: where flows leave by many ports, guessing whether the next leaves by the same one is wrong too often.
    #[inline]
    pub(crate) fn forward(&mut self, port: PortId, frame: Frame, number: Option<PacketNumber>) {
        debug_assert_eq!(self.observed, number.is_some());
        let queue = self.queues.get_mut(port.index()).and_then(Option::as_mut);
        let queue = queue.expect("ports go between batches, and prepared ways with them");
        let at = queue.frames.len();
        if at == 0 {
            self.waiting.push(port);
        }
        if number.is_some() {
            let (cause, kind) = (number, Kind::Forwarded);
            queue.notes.push(Note { at, cause, kind });
        }
        queue.bytes += frame.len() as u64;
        queue.frames.push(frame);
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
        if self.observed || kind != Kind::Forwarded {
            let at = queue.frames.len();
            queue.notes.push(Note { at, cause, kind });
        }
        queue.bytes += frame.len() as u64;
        queue.frames.push(frame);
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
            let queued = queue.frames.len();
            let io = ports.get_mut(port.index()).and_then(Option::as_mut);
            match io {
                None => {}
                Some(io) if O::ACTIVE => flush_observed(queue, io, port, memory, observer, scratch),
                Some(io) => {
                    io.tx(memory, &mut queue.frames);
                }
            }
            queue.account(queued, port, counters, observer);
            for frame in queue.frames.drain(..) {
                memory.release(frame);
            }
        }
    }
}

impl Queue {
    /// Closes the books of a queue of `queued` frames, after the port took those that are not in it any more.
    fn account<O: Observer>(&mut self, queued: usize, port: PortId, counters: &Counters, observer: &mut O) {
        let taken = queued - self.frames.len();
        let left_bytes: u64 = self.frames.iter().map(|frame| frame.len() as u64).sum();
        let (mut forwarded, mut lost) = (taken, queued - taken);
        for note in self.notes.drain(..) {
            let is_taken = note.at < taken;
            if note.kind != Kind::Forwarded {
                *(if is_taken { &mut forwarded } else { &mut lost }) -= 1;
                account_other(note.kind, is_taken, counters);
            }
            if !is_taken && let (Kind::Forwarded | Kind::Punted(_), Some(packet)) = (note.kind, note.cause) {
                observer.unsent(packet, LOST);
            }
        }
        counters.tx.add(forwarded as u64);
        if lost > 0 {
            counters.verdicts(LOST, lost as u64);
        }
        counters.frames_out.add(taken as u64);
        if let Some(port) = counters.port(port) {
            port.tx_frames.add(taken as u64);
            port.tx_bytes.add(self.bytes - left_bytes);
        }
        self.bytes = 0;
    }
}

/// A frame that is not just a packet forwarded.
fn account_other(kind: Kind, is_taken: bool, counters: &Counters) {
    match (kind, is_taken) {
        (Kind::Punted(reason), true) => counters.verdicts(Verdict::Punt(reason), 1),
        (Kind::Punted(_), false) => counters.verdicts(LOST, 1),
        (Kind::Split, true) => counters.split.add(1),
        (Kind::Generated, true) => counters.generated.add(1),
        (Kind::Generated, false) => counters.generated_lost.add(1),
        // A ring takes frames from the front, so the first fragment tells the packet's verdict.
        (Kind::Split, false) | (Kind::Forwarded, _) => {}
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
) {
    let mut one = Vec::with_capacity(1);
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
            observer.sent(note.cause, port, scratch, note.kind.emission());
        } else {
            left.append(&mut one);
        }
    }
    queue.frames = left;
}

/// The verdict of a packet that the port had no room for.
const LOST: Verdict = Verdict::Drop(DropReason::TxRingFull);
/// Frames that a queue has room for from the start: a batch, and what may be generated or released beside it.
const QUEUE_FIRST: usize = 4 * crate::io::BATCH_MAX;
