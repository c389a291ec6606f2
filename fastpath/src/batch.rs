//! A batch: the frames of one loop, gathered across ports, as parallel arrays.

use flowtable::{FlowHash, FlowRef, Table};
use wire::packet::Family;

use crate::flow::key::{self, V4, V6};
use crate::io::{BATCH_MAX, Frame};
use crate::port::PortId;
use crate::stage::Parsed;

/// Frames received together, what they are, and what lookup found. Reused from loop to loop: nothing is allocated.
#[derive(Debug)]
pub(crate) struct Batch {
    pub frames: Vec<Frame>,
    /// The port of each.
    pub ports: Vec<PortId>,
    /// What each turned out to be.
    pub parsed: Vec<Parsed>,
    /// Where the lookup of each stands.
    pub lookups: Vec<Lookup>,
    v4: Keys<2>,
    v6: Keys<5>,
}

/// What the batch's lookup found for one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Not looked up: no packet of a flow, or a later fragment.
    None,
    /// IPv4, with the hash of its key.
    V4(FlowHash, Option<FlowRef>),
    /// IPv6.
    V6(FlowHash, Option<FlowRef>),
}

/// The keys of one family, to be looked up together.
#[derive(Debug)]
struct Keys<const K: usize> {
    words: Vec<[u64; K]>,
    /// Which frame each key is of.
    frames: Vec<u8>,
    hashes: Vec<FlowHash>,
    found: Vec<Option<FlowRef>>,
}

impl<const K: usize> Keys<K> {
    fn new() -> Self {
        Self {
            words: Vec::with_capacity(BATCH_MAX),
            frames: Vec::with_capacity(BATCH_MAX),
            hashes: vec![FlowHash::default(); BATCH_MAX],
            found: vec![None; BATCH_MAX],
        }
    }

    fn clear(&mut self) {
        self.words.clear();
        self.frames.clear();
    }

    fn lookup<const W: usize>(
        &mut self,
        table: &Table<K, W>,
    ) -> impl Iterator<Item = (usize, FlowHash, Option<FlowRef>)> {
        let len = self.words.len();
        table.lookup_batch(&self.words, &mut self.hashes[..len], &mut self.found[..len]);
        let results = self.hashes.iter().zip(&self.found);
        self.frames
            .iter()
            .zip(results)
            .map(|(frame, (hash, found))| (usize::from(*frame), *hash, *found))
    }
}

const _: () = assert!(BATCH_MAX <= u8::MAX as usize);

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            frames: Vec::with_capacity(BATCH_MAX),
            ports: Vec::with_capacity(BATCH_MAX),
            parsed: Vec::with_capacity(BATCH_MAX),
            lookups: Vec::with_capacity(BATCH_MAX),
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
        self.parsed.clear();
        self.lookups.clear();
        self.v4.clear();
        self.v6.clear();
    }

    /// Notes what the next frame is, and its key; `head` are the bytes of its first chunk.
    #[inline]
    pub(crate) fn push_parsed(&mut self, parsed: Parsed, head: &[u8]) {
        let index = self.parsed.len();
        self.parsed.push(parsed);
        self.lookups.push(Lookup::None);
        let Parsed::Ip(place) = parsed else { return };
        if place.packet.is_later_fragment() {
            return;
        }
        let l3 = &head[usize::from(place.l3)..];
        let kind = key::ports_kind(&place.packet);
        match place.packet.family {
            Family::V4 => {
                self.v4
                    .words
                    .push(<V4 as key::Family>::key_of(l3, &place.packet, kind, place.zone));
                self.v4.frames.push(index as u8);
            }
            Family::V6 => {
                self.v6
                    .words
                    .push(<V6 as key::Family>::key_of(l3, &place.packet, kind, place.zone));
                self.v6.frames.push(index as u8);
            }
        }
    }

    /// Looks up all keys: hashes them, prefetches, compares.
    #[inline]
    pub(crate) fn lookup(&mut self, v4: &Table<2, 8>, v6: &Table<5, 12>) {
        let lookups = &mut self.lookups;
        if !self.v4.words.is_empty() {
            self.v4
                .lookup(v4)
                .for_each(|(frame, hash, found)| lookups[frame] = Lookup::V4(hash, found));
        }
        if !self.v6.words.is_empty() {
            self.v6
                .lookup(v6)
                .for_each(|(frame, hash, found)| lookups[frame] = Lookup::V6(hash, found));
        }
    }
}
