//! A batch: parallel arrays, one for each thing that a stage sets.

use flowtable::{FlowHash, FlowRef, View};
use wire::packet::Family;

use crate::flow::key::{self, V4, V6};
use crate::io::{BATCH_MAX, Frame};
use crate::port::PortId;
use crate::stage::{Lanes, Parsed};

/// Frames received together, what they are, and what lookup found. Reused from loop to loop: nothing is allocated.
#[derive(Debug)]
pub(crate) struct Batch {
    pub frames: Vec<Frame>,
    /// The port of each.
    pub ports: Vec<PortId>,
    /// Frames in a row from one port.
    pub runs: Vec<(PortId, usize)>,
    /// What each is if it is plain.
    pub lanes: Lanes,
    /// What each of the others turned out to be, in order.
    pub parsed: Vec<Parsed>,
    /// Keys of those that belong to a flow, in order; plain ones have theirs in their lane.
    pub v4: Keys<2>,
    pub v6: Keys<5>,
}

/// The keys of one family, to be looked up together.
#[derive(Debug)]
pub(crate) struct Keys<const K: usize> {
    len: usize,
    words: [[u64; K]; BATCH_MAX],
    hashes: [FlowHash; BATCH_MAX],
    /// The records that probably have them.
    candidates: [Option<FlowRef>; BATCH_MAX],
}

/// A key that was looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup<'b, const K: usize> {
    pub key: &'b [u64; K],
    pub hash: FlowHash,
}

impl<const K: usize> Keys<K> {
    fn new() -> Self {
        Self {
            len: 0,
            words: [[0; K]; BATCH_MAX],
            hashes: [FlowHash::default(); BATCH_MAX],
            candidates: [None; BATCH_MAX],
        }
    }

    /// Adds a key, whose bucket is on its way from now on.
    #[inline]
    fn push<const W: usize>(&mut self, key: [u64; K], table: &View<'_, K, W>) {
        let at = self.len;
        assert!(at < BATCH_MAX, "a key for each frame of a batch");
        self.hashes[at] = table.begin(&key);
        self.words[at] = key;
        self.len = at + 1;
    }

    #[inline]
    fn look_up<const W: usize>(&mut self, table: &View<'_, K, W>) {
        table.approach(&self.hashes[..self.len], &mut self.candidates[..self.len]);
    }

    /// Key number `at`, which was looked up.
    #[inline]
    pub(crate) fn lookup(&self, at: usize) -> Lookup<'_, K> {
        Lookup {
            key: &self.words[at],
            hash: self.hashes[at],
        }
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            frames: Vec::with_capacity(BATCH_MAX),
            ports: Vec::with_capacity(BATCH_MAX),
            runs: Vec::with_capacity(BATCH_MAX),
            lanes: Lanes::default(),
            parsed: Vec::with_capacity(BATCH_MAX),
            v4: Keys::new(),
            v6: Keys::new(),
        }
    }

    /// Frames that still fit.
    pub(crate) fn room(&self) -> usize {
        BATCH_MAX - self.frames.len()
    }

    /// Forgets the last loop's frames, all of which have gone their way.
    pub(crate) fn clear(&mut self) {
        debug_assert!(self.frames.is_empty(), "a frame of the last batch got no verdict");
        self.ports.clear();
        self.runs.clear();
        self.parsed.clear();
        self.lanes.clear();
        self.v4.len = 0;
        self.v6.len = 0;
    }

    /// Notes that the last `count` frames came from `port`.
    #[inline]
    pub(crate) fn push_run(&mut self, port: PortId, count: usize) {
        if count > 0 {
            self.ports.extend(std::iter::repeat_n(port, count));
            self.runs.push((port, count));
        }
    }

    /// Forgets the frames, all of which have been taken.
    pub(crate) fn forget_frames(&mut self) {
        debug_assert!(self.frames.iter().all(Frame::is_taken), "a frame got no verdict");
        self.frames.clear();
    }

    /// Notes what the next frame that is not plain is, and its key; `head` are the bytes of its first chunk.
    pub(crate) fn push_parsed(
        &mut self,
        parsed: Parsed,
        head: &[u8],
        v4: &View<'_, 2, 8>,
        v6: &View<'_, 5, 12>,
    ) {
        self.parsed.push(parsed);
        let (Some(family), Parsed::Ip(place)) = (parsed.flow_family(), parsed) else {
            return;
        };
        let l3 = &head[usize::from(place.l3)..];
        let kind = key::ports_kind(&place.packet);
        match family {
            Family::V4 => self.v4.push(
                <V4 as key::Family>::key_of(l3, &place.packet, kind, place.zone),
                v4,
            ),
            Family::V6 => self.v6.push(
                <V6 as key::Family>::key_of(l3, &place.packet, kind, place.zone),
                v6,
            ),
        }
    }

    /// Looks up all keys, whose buckets are on their way.
    #[inline]
    pub(crate) fn look_up(&mut self, v4: &View<'_, 2, 8>, v6: &View<'_, 5, 12>) {
        self.lanes.look_up(self.frames.len(), v4, v6);
        if self.v4.len > 0 {
            self.v4.look_up(v4);
        }
        if self.v6.len > 0 {
            self.v6.look_up(v6);
        }
    }
}
