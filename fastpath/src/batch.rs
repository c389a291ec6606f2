//! A batch: parallel arrays, one for each thing that a stage sets.

use flowtable::{FlowHash, FlowRef, View};
use wire::packet::Family;

use crate::flow::key::{self, V4, V6};
use crate::io::{BATCH_MAX, Frame};
use crate::port::PortId;
use crate::stage::{Mark, Parsed, Plain};

/// Frames received together, what they are, and what lookup found. Reused from loop to loop: nothing is allocated.
#[derive(Debug)]
pub(crate) struct Batch {
    pub frames: Vec<Frame>,
    /// The port of each.
    pub ports: Vec<PortId>,
    /// Frames in a row from one port.
    pub runs: Vec<(PortId, usize)>,
    /// What each is if it is plain.
    pub marks: Vec<Mark>,
    /// What each of the others turned out to be, in order.
    pub parsed: Vec<Parsed>,
    /// Keys of those that belong to a flow, in order.
    pub v4: Keys<2>,
    pub v6: Keys<5>,
}

/// The keys of one family, to be looked up together.
#[derive(Debug)]
pub(crate) struct Keys<const K: usize> {
    words: Vec<[u64; K]>,
    hashes: Vec<FlowHash>,
    found: Vec<Option<FlowRef>>,
}

/// What the lookup of one key found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup<const K: usize> {
    pub key: [u64; K],
    pub hash: FlowHash,
    pub found: Option<FlowRef>,
}

impl<const K: usize> Keys<K> {
    fn new() -> Self {
        Self {
            words: Vec::with_capacity(BATCH_MAX),
            hashes: Vec::with_capacity(BATCH_MAX),
            found: vec![None; BATCH_MAX],
        }
    }

    fn clear(&mut self) {
        self.words.clear();
        self.hashes.clear();
    }

    /// Adds a key, whose bucket is on its way from now on.
    #[inline]
    fn push<const W: usize>(&mut self, key: [u64; K], table: &View<'_, K, W>) {
        self.hashes.push(table.begin(&key));
        self.words.push(key);
    }

    #[inline]
    fn look_up<const W: usize>(&mut self, table: &View<'_, K, W>) {
        let len = self.words.len();
        table.finish(&self.words, &self.hashes, &mut self.found[..len]);
    }

    /// What was found, in order.
    #[inline]
    pub(crate) fn lookups(&self) -> impl Iterator<Item = Lookup<K>> {
        let results = self.hashes.iter().zip(&self.found);
        self.words.iter().zip(results).map(|(key, (hash, found))| Lookup {
            key: *key,
            hash: *hash,
            found: *found,
        })
    }
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            frames: Vec::with_capacity(BATCH_MAX),
            ports: Vec::with_capacity(BATCH_MAX),
            runs: Vec::with_capacity(BATCH_MAX),
            marks: Vec::with_capacity(BATCH_MAX),
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
        self.marks.clear();
        self.parsed.clear();
        self.v4.clear();
        self.v6.clear();
    }

    /// Notes that the last `count` frames came from `port`.
    #[inline]
    pub(crate) fn push_run(&mut self, port: PortId, count: usize) {
        if count > 0 {
            self.ports.extend(std::iter::repeat_n(port, count));
            self.runs.push((port, count));
        }
    }

    /// Notes that the next frame is plain.
    #[inline]
    pub(crate) fn push_plain(&mut self, plain: &Plain, v4: &View<'_, 2, 8>) {
        self.marks.push(plain.mark);
        self.v4.push(plain.key, v4);
    }

    /// Notes what the next frame is, and its key; `head` are the bytes of its first chunk.
    pub(crate) fn push_parsed(
        &mut self,
        parsed: Parsed,
        head: &[u8],
        v4: &View<'_, 2, 8>,
        v6: &View<'_, 5, 12>,
    ) {
        self.marks.push(Mark::default());
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
        self.v4.look_up(v4);
        if !self.v6.words.is_empty() {
            self.v6.look_up(v6);
        }
    }
}
