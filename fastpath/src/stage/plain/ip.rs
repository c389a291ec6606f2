//! Ip: what differs between the two versions of IP on the short way. All that is generic over it is compiled once for each.

use flowtable::{FlowRef, View};
use wire::IpProtocol;
use wire::checksum::Sum;

use super::super::{Table, rewrite};
use super::head::{Head, HeadV4, HeadV6};
use super::lane::{Lane, Lanes};
use super::way::BLOCK_LEN;
use crate::flow::key::{V4, V6};
use crate::io::{Frame, Memory};

/// A version of IP, with its table.
pub(crate) trait Ip<const K: usize, const W: usize>: Table<K, W> {
    /// The headers of a frame.
    type Head<'f>: Head<'f, K>;
    /// The first bytes of a packet: IP header, and 20 bytes behind.
    type Packet;
    /// Source and destination as they lie in the header.
    type Addresses: Copy;

    /// The lanes of a batch.
    fn lanes(lanes: &Lanes) -> &[Lane<K>];

    /// The table of this version.
    fn view<'p, 't>(v4: &'p View<'t, 2, 8>, v6: &'p View<'t, 5, 12>) -> &'p View<'t, K, W>;

    /// The packet that starts at `at` of a frame, and the bytes before it; `None` when there are too few.
    fn around<'m>(
        memory: &'m mut Memory,
        frame: &mut Frame,
        at: usize,
    ) -> Option<(&'m mut [u8; BLOCK_LEN], &'m mut Self::Packet)>;

    /// The sum of the pseudo-header of a packet with this key, whose transport header and data are `l4_len` bytes.
    fn pseudo(key: &[u64; K], proto: IpProtocol, l4_len: u16) -> Sum;

    /// What the addresses of a flow's packets become; `word` is that of its record where there is one for them.
    fn addresses(view: &View<'_, K, W>, flow: FlowRef, word: u64) -> Self::Addresses;

    /// Takes one off TTL or hop limit.
    fn hop(packet: &mut Self::Packet);

    /// The same, and gives a packet with this key new addresses and ports (as they lie in the header).
    fn rewrite(
        packet: &mut Self::Packet,
        key: &[u64; K],
        is_udp: bool,
        partial: bool,
        addresses: Self::Addresses,
        ports: [u8; 4],
    );

    /// DSCP and ECN.
    fn tos(packet: &Self::Packet) -> u8;

    /// Identification, 0 where there is none.
    fn id(packet: &Self::Packet) -> u16;

    /// Checksum of UDP or TCP.
    fn l4_checksum(packet: &Self::Packet, is_udp: bool) -> u16;
}

impl Ip<2, 8> for V4 {
    type Head<'f> = HeadV4<'f>;
    type Packet = [u8; 40];
    type Addresses = u64;

    #[inline]
    fn lanes(lanes: &Lanes) -> &[Lane<2>] {
        &lanes.v4
    }

    #[inline]
    fn view<'p, 't>(v4: &'p View<'t, 2, 8>, _: &'p View<'t, 5, 12>) -> &'p View<'t, 2, 8> {
        v4
    }

    #[inline]
    fn around<'m>(
        memory: &'m mut Memory,
        frame: &mut Frame,
        at: usize,
    ) -> Option<(&'m mut [u8; BLOCK_LEN], &'m mut [u8; 40])> {
        memory.around_mut(frame, at)
    }

    #[inline]
    fn pseudo(key: &[u64; 2], proto: IpProtocol, l4_len: u16) -> Sum {
        let [a, b, c, d, e, f, g, h] = key[0].to_ne_bytes();
        Sum::pseudo_v4([a, b, c, d], [e, f, g, h], proto, l4_len)
    }

    #[inline]
    fn addresses(_: &View<'_, 2, 8>, _: FlowRef, word: u64) -> u64 {
        word
    }

    #[inline]
    fn hop(packet: &mut [u8; 40]) {
        rewrite::replay_ttl(packet);
    }

    #[inline]
    fn rewrite(
        packet: &mut [u8; 40],
        key: &[u64; 2],
        is_udp: bool,
        partial: bool,
        addresses: u64,
        ports: [u8; 4],
    ) {
        rewrite::replay_v4(packet, *key, is_udp, partial, addresses, ports);
    }

    #[inline]
    fn tos(packet: &[u8; 40]) -> u8 {
        packet[1]
    }

    #[inline]
    fn id(packet: &[u8; 40]) -> u16 {
        u16::from_be_bytes([packet[4], packet[5]])
    }

    #[inline]
    fn l4_checksum(packet: &[u8; 40], is_udp: bool) -> u16 {
        if is_udp {
            u16::from_be_bytes([packet[26], packet[27]])
        } else {
            u16::from_be_bytes([packet[36], packet[37]])
        }
    }
}

impl Ip<5, 12> for V6 {
    type Head<'f> = HeadV6<'f>;
    type Packet = [u8; 60];
    type Addresses = [u64; 4];

    #[inline]
    fn lanes(lanes: &Lanes) -> &[Lane<5>] {
        &lanes.v6
    }

    #[inline]
    fn view<'p, 't>(_: &'p View<'t, 2, 8>, v6: &'p View<'t, 5, 12>) -> &'p View<'t, 5, 12> {
        v6
    }

    #[inline]
    fn around<'m>(
        memory: &'m mut Memory,
        frame: &mut Frame,
        at: usize,
    ) -> Option<(&'m mut [u8; BLOCK_LEN], &'m mut [u8; 60])> {
        memory.around_mut(frame, at)
    }

    #[inline]
    fn pseudo(key: &[u64; 5], proto: IpProtocol, l4_len: u16) -> Sum {
        let [a, b, c, d, _] = *key;
        Sum::of_words([a, b, c, d]) + Sum::of_u16(u16::from(proto.0)) + Sum::of_u16(l4_len)
    }

    /// Those by which the other direction's packets come, in turn.
    #[inline]
    fn addresses(view: &View<'_, 5, 12>, flow: FlowRef, _: u64) -> [u64; 4] {
        // The word of ports is in a line of its own, which nothing else has asked for.
        let [a, b, c, d] = view.record(flow.peer()).key_start();
        [c, d, a, b]
    }

    #[inline]
    fn hop(packet: &mut [u8; 60]) {
        packet[7] = packet[7].wrapping_sub(1);
    }

    #[inline]
    fn rewrite(
        packet: &mut [u8; 60],
        key: &[u64; 5],
        is_udp: bool,
        partial: bool,
        addresses: [u64; 4],
        ports: [u8; 4],
    ) {
        rewrite::replay_v6(packet, key, is_udp, partial, addresses, ports);
    }

    #[inline]
    fn tos(packet: &[u8; 60]) -> u8 {
        packet[0] << 4 | packet[1] >> 4
    }

    #[inline]
    fn id(_: &[u8; 60]) -> u16 {
        0
    }

    #[inline]
    fn l4_checksum(packet: &[u8; 60], is_udp: bool) -> u16 {
        if is_udp {
            u16::from_be_bytes([packet[46], packet[47]])
        } else {
            u16::from_be_bytes([packet[56], packet[57]])
        }
    }
}
