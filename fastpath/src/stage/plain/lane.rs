//! Lane: what is known of one frame of a batch as a plain packet.

use flowtable::{FlowHash, FlowRef, View};
use wire::IpProtocol;

use crate::batch::Lookup;
use crate::io::BATCH_MAX;

/// The lanes of a batch, of either version of IP: a frame is a plain packet in one of its two, if at all.
#[derive(Debug)]
pub(crate) struct Lanes {
    pub(crate) v4: [Lane<2>; BATCH_MAX],
    pub(crate) v6: [Lane<5>; BATCH_MAX],
    /// From here on those of IPv6 are of no plain packets.
    v6_len: usize,
}

/// A plain packet on its way through the batch: where it is in its frame, what it is, its flow's key, and what lookup found.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Lane<const K: usize = 2> {
    pub(super) key: [u64; K],
    pub(super) hash: FlowHash,
    pub(super) candidate: Option<FlowRef>,
    pub(super) mark: Mark,
}

/// Where a plain packet is in its frame, and what it is.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(super) struct Mark {
    /// TCP: the sequence number after the segment's data.
    pub(super) sequence: u32,
    /// Offset of the IP header; 0 for a frame that is no plain packet.
    pub(super) l3: u16,
    /// Bytes of the IP packet.
    pub(super) total_len: u16,
    pub(super) kind: Kind,
}

/// What plain packets are told apart by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// TCP without SYN, FIN and RST.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// TCP that opens a connection.
    Syn,
}

const _: () = assert!(size_of::<Lane<2>>() == 40 && size_of::<Lane<5>>() == 64);

impl Default for Lanes {
    fn default() -> Self {
        Self {
            v4: [Lane::default(); BATCH_MAX],
            v6: [Lane::default(); BATCH_MAX],
            v6_len: 0,
        }
    }
}

impl Lanes {
    /// Frame number `at` is a plain packet.
    #[inline]
    pub(crate) fn is_plain(&self, at: usize) -> bool {
        self.v4[at].is_plain() || self.is_plain_v6(at)
    }

    /// Frame number `at` is plain, and its flow probably has an entry.
    #[inline]
    pub(crate) fn may_be_steady(&self, at: usize) -> bool {
        self.v4[at].may_be_steady() || at < self.v6_len && self.v6[at].may_be_steady()
    }

    /// Frame number `at` is a plain packet of IPv6.
    #[inline]
    pub(crate) fn is_plain_v6(&self, at: usize) -> bool {
        at < self.v6_len && self.v6[at].is_plain()
    }

    /// Lanes of IPv6 below `end` may be of plain packets.
    #[inline]
    pub(crate) const fn extend_v6(&mut self, end: usize) {
        self.v6_len = end;
    }

    /// Looks up the keys of the first `frames`.
    #[inline]
    pub(crate) fn look_up(&mut self, frames: usize, v4: &View<'_, 2, 8>, v6: &View<'_, 5, 12>) {
        for lane in &mut self.v4[..frames] {
            lane.look_up(v4);
        }
        for lane in &mut self.v6[..self.v6_len] {
            lane.look_up(v6);
            if let Some(flow) = lane.candidate {
                // The addresses that its packets get are there.
                v6.prefetch_key(flow.peer());
            }
        }
    }

    /// Forgets the last batch. (Lanes of IPv4 are set for each frame, those of IPv6 only where one is not IPv4.)
    #[inline]
    pub(crate) fn clear(&mut self) {
        self.v6[..self.v6_len].iter_mut().for_each(Lane::clear);
        self.v6_len = 0;
    }
}

impl<const K: usize> Default for Lane<K> {
    fn default() -> Self {
        Self {
            key: [0; K],
            hash: FlowHash::default(),
            candidate: None,
            mark: Mark::default(),
        }
    }
}

impl<const K: usize> Lane<K> {
    /// The packet is plain.
    #[inline]
    pub(crate) const fn is_plain(&self) -> bool {
        self.mark.l3 != 0
    }

    /// The packet is plain, and its flow probably has an entry.
    #[inline]
    pub(crate) const fn may_be_steady(&self) -> bool {
        self.candidate.is_some()
    }

    /// The packet is plain and opens a flow: TCP's SYN or any of UDP, of a flow that has no entry.
    #[inline]
    pub(super) fn opens(&self) -> bool {
        self.is_plain() && self.mark.kind != Kind::Tcp && self.candidate.is_none()
    }

    /// The frame is no plain packet.
    #[inline]
    pub(super) const fn clear(&mut self) {
        self.mark.l3 = 0;
        self.candidate = None;
    }

    /// The frame is a plain packet of the flow with this key, whose bucket is on its way from now on.
    #[inline]
    pub(super) fn set<const W: usize>(&mut self, mark: Mark, key: [u64; K], table: &View<'_, K, W>) {
        self.mark = mark;
        self.key = key;
        self.hash = table.begin(&key);
    }

    /// Finds the record that probably has the key, which is on its way from now on.
    #[inline]
    pub(crate) fn look_up<const W: usize>(&mut self, table: &View<'_, K, W>) {
        if self.is_plain() {
            self.candidate = table.candidate(self.hash);
        }
    }

    /// As any other key that was looked up.
    pub(crate) const fn lookup(&self) -> Lookup<'_, K> {
        Lookup {
            key: &self.key,
            hash: self.hash,
        }
    }
}

impl Mark {
    /// Of UDP; else of TCP.
    #[inline]
    pub(super) const fn is_udp(self) -> bool {
        matches!(self.kind, Kind::Udp)
    }

    /// Protocol.
    #[inline]
    pub(super) const fn proto(self) -> IpProtocol {
        if self.is_udp() {
            IpProtocol::UDP
        } else {
            IpProtocol::TCP
        }
    }
}
