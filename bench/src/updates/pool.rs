//! Pool: frames that go round between a worker's ports, as the chunks of an `AF_XDP` region do.

use std::cell::RefCell;
use std::rc::Rc;

use fastpath::io::{Checksum, Frame, Memory};

use super::port::FRAME_LEN;

/// The frames that no port's caller has.
#[derive(Debug)]
pub(super) struct Pool {
    /// To be given next, the last first.
    free: Vec<Frame>,
    /// Come back since those were.
    back: Vec<Frame>,
}

impl Pool {
    /// `count` frames of zeros.
    pub(super) fn new(memory: &mut Memory, count: usize) -> Rc<RefCell<Self>> {
        let mut pool = Self {
            free: Vec::with_capacity(count),
            back: Vec::with_capacity(count),
        };
        pool.free.extend((0..count).map(|_| fresh(memory)));
        Rc::new(RefCell::new(pool))
    }

    /// Moves `count` frames, of the length that they were given back with, to the end of `into`.
    #[inline]
    pub(super) fn take(&mut self, memory: &mut Memory, count: usize, into: &mut Vec<Frame>) {
        if self.free.len() < count {
            std::mem::swap(&mut self.free, &mut self.back);
            self.free.append(&mut self.back);
        }
        while self.free.len() < count {
            self.free.push(fresh(memory));
        }
        into.extend(self.free.drain(self.free.len() - count..));
    }

    /// Takes frames back.
    #[inline]
    pub(super) fn give(&mut self, frames: &mut Vec<Frame>) {
        self.back.append(frames);
    }
}

fn fresh(memory: &mut Memory) -> Frame {
    memory
        .allocate_copy(&[0; FRAME_LEN])
        .expect("a frame for each packet")
}

/// Makes `frame` one of `len` bytes that ends where it ended.
#[inline]
pub(super) fn resize(frame: &mut Frame, len: usize) {
    let has = frame.len();
    let fits = if len > has {
        frame.push_front(len - has)
    } else {
        frame.trim_front(has - len)
    };
    assert!(fits, "headroom for {len} bytes");
    frame.checksum = Checksum::Full;
}
