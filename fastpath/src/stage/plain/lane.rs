//! Lane: what is known of one frame of a batch as a plain packet.

use flowtable::{FlowHash, FlowRef, View};
use wire::IpProtocol;

use crate::batch::Lookup;

/// A plain packet on its way through the batch: where it is in its frame, what it is, its flow's key, and what lookup found.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub(crate) struct Lane {
    pub(super) key: [u64; 2],
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

const _: () = assert!(size_of::<Lane>() == 40);

impl Lane {
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
    pub(super) fn set(&mut self, mark: Mark, key: [u64; 2], table: &View<'_, 2, 8>) {
        self.mark = mark;
        self.key = key;
        self.hash = table.begin(&key);
    }

    /// Finds the record that probably has the key, which is on its way from now on.
    #[inline]
    pub(crate) fn look_up(&mut self, table: &View<'_, 2, 8>) {
        if self.is_plain() {
            self.candidate = table.candidate(self.hash);
        }
    }

    /// As any other key that was looked up.
    pub(crate) const fn lookup(&self) -> Lookup<'_, 2> {
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
