//! Way: how plain packets leave by an adjacency: its header as one block that ends where the packet begins.
//!
//! Made of the adjacency and the capabilities of its port, again after each change of either.

use wire::checksum::Sum;
use wire::ethernet::EtherType;
use wire::ipv4::{self, Ipv4Header};
use wire::packet::Family;
use wire::{ethernet, vxlan};

use super::super::encap::source_port;
use super::head::Head;
use super::ip::Ip;
use super::lane::Mark;
use crate::io::{Checksum, Frame};
use crate::outbox::Outbox;
use crate::port::PortId;
use crate::snapshot::{Adjacency, AdjacencyEncap, AdjacencyId, Snapshot};

/// The ways that a worker used last: a cache of a fixed size over the snapshot's adjacencies.
#[derive(Debug)]
pub(crate) struct Ways {
    /// Counts changes; what was made before the last one is made anew when it is used.
    epoch: u64,
    ways: Box<[Way; WAYS]>,
}

/// How plain packets leave by one adjacency.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Way {
    /// Epoch and adjacency.
    tag: u64,
    pub(super) port: PortId,
    /// Largest IP packet, bytes; 0: nothing leaves this way, take the general one.
    pub(super) mtu: u16,
    header_len: u16,
    /// Partial checksums are to be completed here: the port can't, or the packet goes into a tunnel.
    pub(super) completes: bool,
    is_tunnel: bool,
    /// Don't fragment is clear in the outer header, so that its identification counts.
    has_id: bool,
    /// Sum of the outer IPv4 header but for length, DSCP and ECN, identification, checksum.
    outer_sum: Sum,
    /// The header, at the end of the block.
    block: [u8; BLOCK_LEN],
}

/// Bytes of a block: two vectors. More than the longest header that is prepared.
pub(super) const BLOCK_LEN: usize = 64;
const _: () = assert!(size_of::<Way>() == 128);

impl Default for Ways {
    fn default() -> Self {
        Self {
            epoch: 1,
            ways: vec![Way::NONE; WAYS]
                .into_boxed_slice()
                .try_into()
                .expect("as many as there are"),
        }
    }
}

impl Ways {
    /// Something that ways are made of has changed.
    pub(crate) fn outdate(&mut self) {
        self.epoch += 1;
    }

    /// The way by an adjacency.
    #[inline]
    pub(super) fn way(&mut self, id: AdjacencyId, snapshot: &Snapshot, outbox: &Outbox) -> &Way {
        let way = &mut self.ways[usize::from(id.0) % WAYS];
        let tag = self.epoch << 16 | u64::from(id.0);
        if way.tag != tag {
            *way = Way::by(snapshot.adjacency(id), outbox, tag);
        }
        way
    }
}

impl Way {
    const NONE: Self = Self {
        tag: 0,
        port: PortId(0),
        mtu: 0,
        header_len: 0,
        completes: false,
        is_tunnel: false,
        has_id: false,
        outer_sum: Sum::ZERO,
        block: [0; BLOCK_LEN],
    };

    #[cold]
    fn by(adjacency: &Adjacency, outbox: &Outbox, tag: u64) -> Self {
        let none = Self { tag, ..Self::NONE };
        let header_len = usize::from(adjacency.header_len);
        let is_tunnel = match adjacency.encap {
            AdjacencyEncap::Ethernet => false,
            AdjacencyEncap::Vxlan4 => true,
            AdjacencyEncap::Vxlan6 | AdjacencyEncap::Ipip => return none,
        };
        let lengths = if is_tunnel {
            VXLAN_HEADER_LEN..=BLOCK_LEN
        } else {
            ethernet::HEADER_LEN..=BLOCK_LEN - LINK
        };
        let Some(capabilities) = outbox.capabilities(adjacency.port) else {
            return none;
        };
        if !adjacency.resolved || !lengths.contains(&header_len) {
            return none;
        }
        let mut block = [0; BLOCK_LEN];
        block[BLOCK_LEN - header_len..].copy_from_slice(&adjacency.header[..header_len]);
        block[BLOCK_LEN - 2..].copy_from_slice(&EtherType::IPV4.get().to_be_bytes());
        let mut way = Self {
            port: adjacency.port,
            mtu: adjacency.mtu,
            header_len: header_len as u16,
            completes: is_tunnel || !capabilities.tx_checksum,
            is_tunnel,
            block,
            ..none
        };
        if is_tunnel && let Some(outer) = Ipv4Header::prefix_mut(&mut way.block[OUTER_IP..]) {
            outer.tos = 0;
            way.has_id = !outer.dont_fragment();
            outer.total_len.set(0);
            outer.checksum.set(0);
            if way.has_id {
                outer.id.set(0);
            }
            way.outer_sum = Sum::of(&way.block[OUTER_IP..OUTER_IP + ipv4::HEADER_LEN]);
        }
        way
    }

    /// Writes the header into the bytes before `packet`, which `mark` describes, of the flow with this hash.
    #[inline]
    pub(super) fn write<L: Ip<K, W>, const K: usize, const W: usize>(
        &self,
        before: &mut [u8; BLOCK_LEN],
        packet: &L::Packet,
        mark: Mark,
        hash: u64,
    ) {
        if self.is_tunnel {
            *before = self.block;
            self.stamp::<L, K, W>(before, packet, mark, hash);
        } else {
            before[LINK..].copy_from_slice(&self.block[LINK..]);
        }
        // Blocks are made for the other one.
        if L::FAMILY == Family::V6 {
            before[BLOCK_LEN - 2..].copy_from_slice(&EtherType::IPV6.get().to_be_bytes());
        }
    }

    /// The frame as it leaves behind the header that was [written](Self::write).
    #[inline]
    pub(super) fn leave<L: Ip<K, W>, const K: usize, const W: usize>(
        &self,
        frame: &mut Frame,
        mark: Mark,
    ) -> Frame {
        let header_len = usize::from(self.header_len);
        let mut sent = frame.take_as(usize::from(mark.l3), header_len, usize::from(mark.total_len));
        if let Checksum::Partial { offset, .. } = frame.checksum {
            let start = (header_len + <L::Head<'_> as Head<'_, K>>::IP_LEN) as u16;
            sent.checksum = Checksum::Partial { start, offset };
        }
        sent
    }

    /// What differs from packet to packet: lengths, DSCP (RFC 2983), ECN (RFC 6040), identification, source port, checksum.
    #[inline]
    fn stamp<L: Ip<K, W>, const K: usize, const W: usize>(
        &self,
        before: &mut [u8; BLOCK_LEN],
        packet: &L::Packet,
        mark: Mark,
        hash: u64,
    ) {
        const OUTER_LEN: u16 = (vxlan::OUTER_V4_LEN + ethernet::HEADER_LEN) as u16;
        let len = mark.total_len + OUTER_LEN;
        let tos = L::tos(packet);
        let id = match (self.has_id, L::id(packet)) {
            (false, _) => 0,
            // As it is now.
            (true, 0) => L::l4_checksum(packet, mark.is_udp()),
            (true, own) => own,
        };
        let sum = self.outer_sum + Sum::of_u16(len) + Sum::of_u16(id) + Sum::of_u16(tos.into());
        let mut put = |at: usize, field: [u8; 2]| before[at..at + 2].copy_from_slice(&field);
        put(OUTER_IP, [0x45, tos]);
        put(OUTER_IP + 2, len.to_be_bytes());
        if self.has_id {
            put(OUTER_IP + 4, id.to_be_bytes());
        }
        put(OUTER_IP + 10, sum.checksum().to_bytes());
        put(OUTER_UDP, source_port(hash).to_wire());
        put(OUTER_UDP + 4, (len - ipv4::HEADER_LEN as u16).to_be_bytes());
    }
}

/// Outer IPv4, UDP, VXLAN, inner Ethernet behind some link header.
const VXLAN_HEADER_LEN: usize = ethernet::HEADER_LEN + vxlan::OUTER_V4_LEN + ethernet::HEADER_LEN;
/// Where the outer IPv4 header begins in a block, and its UDP header.
const OUTER_IP: usize = BLOCK_LEN - ethernet::HEADER_LEN - vxlan::OUTER_V4_LEN;
const OUTER_UDP: usize = OUTER_IP + ipv4::HEADER_LEN;
/// Where a link header begins in a block, with or without a VLAN tag.
const LINK: usize = BLOCK_LEN - 32;
/// Adjacencies whose ways are kept: 128 KiB, of which those in use are touched.
const WAYS: usize = 1024;
