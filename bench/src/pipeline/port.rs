//! Wire port: a ring in memory whose frames are written as they are received, and read as they are sent.
//!
//! All ports of a worker share a pool of frames that goes round, as the chunks of an AF_XDP region do: none is given again before
//! all others have been.

use std::cell::RefCell;
use std::rc::Rc;

use fastpath::io::frame::{HEADROOM, METADATA_LEN};
use fastpath::io::{Capabilities, Checksum, Frame, Memory, PacketIo};

use super::emitter::Emitters;
use super::traffic::Turn;

/// The frames that no port's caller has, by their length.
#[derive(Debug)]
pub(crate) struct Pool {
    kinds: Vec<Kind>,
}

/// Those of one length.
#[derive(Debug)]
struct Kind {
    /// To be given next, the last first.
    free: Vec<Frame>,
    /// Come back since those were.
    back: Vec<Frame>,
    /// What a frame is made of that starts behind the whole headroom.
    zeros: Vec<u8>,
}

impl Pool {
    /// `count` frames of zeros in all, of each of these lengths, which ascend.
    pub(crate) fn new(memory: &mut Memory, count: usize, lengths: &[usize]) -> Rc<RefCell<Self>> {
        assert!(lengths.is_sorted(), "{lengths:?}");
        let of_length = |len: &usize| {
            let mut kind = Kind {
                free: Vec::with_capacity(count),
                back: Vec::with_capacity(count),
                zeros: vec![0; *len],
            };
            for _ in 0..count / lengths.len() {
                let frame = kind.allocate(memory).expect("memory for the pool");
                kind.free.push(frame);
            }
            kind
        };
        Rc::new(RefCell::new(Self {
            kinds: lengths.iter().map(of_length).collect(),
        }))
    }

    /// Takes frames back, but for those that the pipeline made.
    #[inline]
    fn give(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) {
        if let [only] = &mut self.kinds[..] {
            // What is none of its own is found when its turn comes.
            only.back.append(frames);
            return;
        }
        for frame in frames.drain(..) {
            // Counted, not searched: lengths come in no order, and each wrong guess of a search would cost as much as a packet.
            let shorter = self
                .kinds
                .iter()
                .filter(|kind| kind.end() < end_of(&frame))
                .count();
            match self.kinds.get_mut(shorter) {
                Some(kind) if kind.has(&frame) => kind.back.push(frame),
                _ => memory.release(frame),
            }
        }
    }
}

impl Kind {
    fn allocate(&self, memory: &mut Memory) -> Option<Frame> {
        memory.allocate_copy(&self.zeros)
    }

    /// A frame of this length, which something may have been pushed in front of.
    #[inline]
    fn has(&self, frame: &Frame) -> bool {
        !frame.is_chain() && end_of(frame) == self.end()
    }

    /// Where its frames end, see [`end_of`].
    #[inline]
    fn end(&self) -> usize {
        HEADROOM - METADATA_LEN + self.zeros.len()
    }

    /// Moves `count` frames, of the length that they were given back with, to the end of `into`.
    #[inline]
    fn take(&mut self, memory: &mut Memory, count: usize, into: &mut Vec<Frame>) {
        if self.free.len() < count {
            std::mem::swap(&mut self.free, &mut self.back);
            self.free.append(&mut self.back);
        }
        while self.free.len() < count {
            let frame = self.allocate(memory).expect("a frame for each packet");
            self.free.push(frame);
        }
        if count <= FEW {
            (0..count).for_each(|_| into.extend(self.free.pop()));
            return;
        }
        // By one copy of all; one by one they would be looked at, too.
        into.append(&mut self.free.split_off(self.free.len() - count));
    }

    /// Puts a frame of this length in the place of one that the pipeline made.
    #[cold]
    #[inline(never)]
    fn replace(&self, memory: &mut Memory, frame: &mut Frame) {
        let own = self.allocate(memory).expect("a frame for each packet");
        memory.release(std::mem::replace(frame, own));
    }
}

/// Where a frame ends in its chunk, counted from the first byte of its headroom; whatever is pushed in front leaves it there.
#[inline]
fn end_of(frame: &Frame) -> usize {
    frame.headroom() + frame.len()
}

/// Makes `frame` one of `len` bytes that ends where it ended.
#[inline]
fn resize(frame: &mut Frame, len: usize) {
    let has = frame.head_len();
    let fits = if len > has {
        frame.push_front(len - has)
    } else {
        frame.trim_front(has - len)
    };
    assert!(fits, "headroom for {len} bytes");
    frame.checksum = Checksum::Full;
}

/// What a port is to receive.
#[derive(Clone, Debug)]
pub(crate) struct Play {
    pub(crate) emitters: Emitters,
    /// Whose turn it is; begins anew at its end.
    pub(crate) order: Rc<[Turn]>,
    next: usize,
    left: u64,
}

impl Play {
    /// The turns in this order, round and round; nothing is sent until [`WirePort::let_in`].
    pub(crate) fn new(emitters: Emitters, order: Rc<[Turn]>) -> Self {
        Self {
            emitters,
            order,
            next: 0,
            left: 0,
        }
    }

    /// Makes `frames`, of the one length that there is, those of the next turns.
    #[inline]
    fn write_all(&mut self, kind: &Kind, memory: &mut Memory, mut frames: &mut [Frame]) {
        let (_, emitter) = self.emitters.of(Turn::FIRST);
        while !frames.is_empty() {
            let turns = &self.order[self.next..];
            let (now, later) = frames.split_at_mut(turns.len().min(frames.len()));
            for (frame, turn) in now.iter_mut().zip(turns) {
                if !kind.has(frame) {
                    kind.replace(memory, frame);
                }
                resize(frame, emitter.frame_len());
                emitter.write(*turn, memory.bytes_mut(frame));
            }
            self.next = (self.next + now.len()) % self.order.len();
            frames = later;
        }
    }
}

/// One worker's queue of a port.
#[derive(Debug)]
pub(crate) struct WirePort {
    pool: Rc<RefCell<Pool>>,
    play: Option<Play>,
    /// Frames that one call gives at most, so that many ports share a batch.
    burst: usize,
    /// Frames sent by the pipeline.
    pub(crate) sent: u64,
    /// Copies of them, while someone looks.
    pub(crate) captured: Option<Vec<Vec<u8>>>,
}

impl WirePort {
    /// A silent port.
    pub(crate) fn new(pool: &Rc<RefCell<Pool>>, burst: usize) -> Self {
        Self {
            pool: Rc::clone(pool),
            play: None,
            burst,
            sent: 0,
            captured: None,
        }
    }

    /// Sets what is received from now on.
    pub(crate) fn play(&mut self, play: Option<Play>) {
        self.play = play;
    }

    /// Lets `frames` more in.
    pub(crate) fn let_in(&mut self, frames: u64) {
        if let Some(play) = &mut self.play {
            play.left += frames;
        }
    }

    /// Place of the next turn in the order.
    pub(crate) fn place(&self) -> usize {
        self.play.as_ref().map_or(0, |play| play.next)
    }

    /// Goes on from such a place.
    pub(crate) fn go_to(&mut self, place: usize) {
        if let Some(play) = &mut self.play {
            play.next = place % play.order.len();
        }
    }

    /// Turns until the order begins anew.
    pub(crate) fn played(&self) -> u64 {
        self.play.as_ref().map_or(0, |play| play.order.len() as u64)
    }

    /// Frames that are let in and not received yet.
    pub(crate) fn waiting(&self) -> u64 {
        self.play.as_ref().map_or(0, |play| play.left)
    }
}

impl PacketIo for WirePort {
    #[inline]
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let Some(play) = self.play.as_mut().filter(|play| play.left > 0) else {
            return 0;
        };
        let count = (room.min(self.burst) as u64).min(play.left) as usize;
        let (from, mut pool) = (into.len(), self.pool.borrow_mut());
        play.left -= count as u64;
        if let [only] = &mut pool.kinds[..] {
            only.take(memory, count, into);
            play.write_all(only, memory, &mut into[from..]);
            return count;
        }
        for at in from..from + count {
            let turn = play.order[play.next];
            let (kind, emitter) = play.emitters.of(turn);
            pool.kinds[kind].take(memory, 1, into);
            let frame = &mut into[at];
            resize(frame, emitter.frame_len());
            emitter.write(turn, memory.bytes_mut(frame));
            play.next += 1;
            if play.next == play.order.len() {
                play.next = 0;
            }
        }
        count
    }

    #[inline]
    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        let count = frames.len();
        if let Some(captured) = &mut self.captured {
            captured.extend(frames.iter().map(|frame| memory.to_vec(frame)));
        }
        self.pool.borrow_mut().give(memory, frames);
        self.sent += count as u64;
        count
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            frame_len_max: 2048 - HEADROOM as u32,
            tx_checksum: false,
            multi_buffer: false,
        }
    }

    fn has_input(&mut self) -> bool {
        self.waiting() > 0
    }
}

/// So many frames are taken one by one: a copy of all at once costs an allocation.
const FEW: usize = 4;
