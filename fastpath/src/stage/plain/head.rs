//! Head: the headers of a plain packet, by fixed offsets, and what is checked of them.
//!
//! The checks are those of `wire::packet` and `ingress`; whatever they would refuse, and some that they would not, is simply
//! not plain.

use wire::checksum::Sum;
use wire::tcp::TcpFlags;
use wire::{IpProtocol, ipv4, ipv6};

use super::lane::{Kind, Mark};
use crate::flow::key::plain_ports_word;

/// The first bytes of a frame of one version of IP: Ethernet, IP without options or extension headers, and 20 bytes behind it:
/// TCP's header, or UDP's and data.
pub(crate) trait Head<'f, const K: usize>: Copy {
    /// Bytes of the IP header.
    const IP_LEN: usize;

    /// The head of a frame, or of the frame inside a tunnel; `None` when there are too few bytes.
    fn of(frame: &'f [u8]) -> Option<Self>;

    /// The first 16 bytes: MAC addresses, Ethernet type, version and what follows it.
    fn link(self) -> [u64; 2];

    /// DSCP and ECN.
    fn tos(self) -> u8;

    /// Bytes of the packet, as its header says.
    fn total_len(self) -> usize;

    fn proto(self) -> IpProtocol;

    fn ttl(self) -> u8;

    /// The IP header is whole and right and its packet within `available` bytes and no fragment; both addresses may be met
    /// beyond their link. What the header's first two bytes say is asked by the [`gate`](super::gate).
    fn is_ip_plain(self, available: usize) -> bool;

    /// The key of its flow; `last` is the word of ports, protocol and zone.
    fn key(self, last: u64) -> [u64; K];

    /// What is behind the IP header.
    fn l4(self) -> L4<'f>;

    /// Bytes of UDP header and data, when they are within the packet.
    #[inline]
    fn udp_is_plain(self) -> bool {
        let len = self.l4().udp_len();
        len >= 8 && len + Self::IP_LEN <= self.total_len()
    }

    /// The packet behind a head whose IP header is plain and starts at `l3` of the frame. `zone` is the part of the key
    /// that says where it came from; `refuses` asks for UDP that is not to be forwarded.
    #[inline]
    fn read(self, l3: usize, zone: u64, refuses: impl FnOnce(L4<'f>) -> bool) -> Option<Plain<K>> {
        let (total_len, proto, l4) = (self.total_len(), self.proto(), self.l4());
        let (kind, sequence, checksum) = match proto {
            IpProtocol::TCP => {
                let headers_len = l4.tcp_header_len() + Self::IP_LEN;
                let flags = l4.tcp_flags();
                let mut kind = Kind::Tcp;
                if flags.0 & CHANGING != 0 {
                    if !flags.is_opening() {
                        return None;
                    }
                    kind = Kind::Syn;
                }
                if headers_len < 20 + Self::IP_LEN || headers_len > total_len {
                    return None;
                }
                let after = l4.sequence().wrapping_add((total_len - headers_len) as u32);
                (kind, after, l4.tcp_checksum())
            }
            IpProtocol::UDP if self.udp_is_plain() && !refuses(l4) => (Kind::Udp, 0, l4.udp_checksum()),
            _ => return None,
        };
        if self.ttl() <= 1 {
            return None;
        }
        let mark = Mark {
            sequence,
            l3: l3 as u16,
            total_len: total_len as u16,
            kind,
        };
        Some(Plain {
            key: self.key(plain_ports_word(l4.ports(), proto) | zone),
            mark,
            checksum,
        })
    }
}

/// The head of an IPv4 frame.
#[derive(Clone, Copy)]
pub(crate) struct HeadV4<'f>(&'f [u8; L3 + ipv4::HEADER_LEN + L4_LEN]);

/// The head of an IPv6 frame.
#[derive(Clone, Copy)]
pub(crate) struct HeadV6<'f>(&'f [u8; L3 + ipv6::HEADER_LEN + L4_LEN]);

/// The first bytes behind an IP header.
#[derive(Clone, Copy)]
pub(crate) struct L4<'f>(&'f [u8; L4_LEN]);

/// Where the IP header is in a head.
pub(super) const L3: usize = 14;
const L4_LEN: usize = 20;

/// A plain packet: what its flow is found by, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain<const K: usize> {
    /// Key of its flow.
    pub(super) key: [u64; K],
    /// What its replay needs to know.
    pub(super) mark: Mark,
    /// Its transport checksum, as it lies there.
    pub(super) checksum: [u8; 2],
}

/// `N` bytes at `AT`: loads, since both are known.
#[inline]
fn at<const AT: usize, const N: usize, const LEN: usize>(bytes: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN) };
    *bytes[AT..].first_chunk().expect("within the head")
}

/// The same as a word.
#[inline]
fn word<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u64 {
    u64::from_ne_bytes(at::<AT, 8, LEN>(bytes))
}

impl HeadV4<'_> {
    #[inline]
    pub(super) fn src(self) -> [u8; 4] {
        at::<26, 4, _>(self.0)
    }

    #[inline]
    pub(super) fn dst(self) -> [u8; 4] {
        at::<30, 4, _>(self.0)
    }
}

impl<'f> Head<'f, 2> for HeadV4<'f> {
    const IP_LEN: usize = ipv4::HEADER_LEN;

    #[inline]
    fn of(frame: &'f [u8]) -> Option<Self> {
        frame.first_chunk().map(Self)
    }

    #[inline]
    fn link(self) -> [u64; 2] {
        [word::<0, _>(self.0), word::<8, _>(self.0)]
    }

    #[inline]
    fn tos(self) -> u8 {
        self.0[L3 + 1]
    }

    #[inline]
    fn total_len(self) -> usize {
        u16::from_be_bytes(at::<16, 2, _>(self.0)).into()
    }

    #[inline]
    fn proto(self) -> IpProtocol {
        IpProtocol(self.0[L3 + 9])
    }

    #[inline]
    fn ttl(self) -> u8 {
        self.0[L3 + 8]
    }

    #[inline]
    fn is_ip_plain(self, available: usize) -> bool {
        let is_fragment = u16::from_be_bytes(at::<20, 2, _>(self.0)) & 0x3fff != 0;
        let is_odd = ODD[usize::from(self.0[26])] | ODD[usize::from(self.0[30])];
        self.total_len() <= available
            && !is_fragment
            && !is_odd
            && Sum::of_plain_ipv4(&at::<L3, 20, _>(self.0)).is_valid()
    }

    #[inline]
    fn key(self, last: u64) -> [u64; 2] {
        [word::<26, _>(self.0), last]
    }

    #[inline]
    fn l4(self) -> L4<'f> {
        L4(self.0.last_chunk().expect("within the head"))
    }
}

impl<'f> Head<'f, 5> for HeadV6<'f> {
    const IP_LEN: usize = ipv6::HEADER_LEN;

    #[inline]
    fn of(frame: &'f [u8]) -> Option<Self> {
        frame.first_chunk().map(Self)
    }

    #[inline]
    fn link(self) -> [u64; 2] {
        [word::<0, _>(self.0), word::<8, _>(self.0)]
    }

    #[inline]
    fn tos(self) -> u8 {
        self.0[L3] << 4 | self.0[L3 + 1] >> 4
    }

    #[inline]
    fn total_len(self) -> usize {
        usize::from(u16::from_be_bytes(at::<18, 2, _>(self.0))) + Self::IP_LEN
    }

    #[inline]
    fn proto(self) -> IpProtocol {
        IpProtocol(self.0[L3 + 6])
    }

    #[inline]
    fn ttl(self) -> u8 {
        self.0[L3 + 7]
    }

    /// Extension headers are protocols that are not plain, that of fragments among them.
    #[inline]
    fn is_ip_plain(self, available: usize) -> bool {
        let first = |bytes: [u8; 2]| u16::from_be_bytes(bytes);
        let (src, dst) = (first(at::<22, 2, _>(self.0)), first(at::<38, 2, _>(self.0)));
        self.total_len() <= available && FAR.contains(&src) && FAR.contains(&dst)
    }

    #[inline]
    fn key(self, last: u64) -> [u64; 5] {
        let bytes = self.0;
        [
            word::<22, _>(bytes),
            word::<30, _>(bytes),
            word::<38, _>(bytes),
            word::<46, _>(bytes),
            last,
        ]
    }

    #[inline]
    fn l4(self) -> L4<'f> {
        L4(self.0.last_chunk().expect("within the head"))
    }
}

impl L4<'_> {
    /// Source and destination port, as on the wire.
    #[inline]
    pub(super) fn ports(self) -> [u8; 4] {
        at::<0, 4, _>(self.0)
    }

    #[inline]
    pub(super) fn dport(self) -> [u8; 2] {
        at::<2, 2, _>(self.0)
    }

    #[inline]
    fn udp_len(self) -> usize {
        u16::from_be_bytes(at::<4, 2, _>(self.0)).into()
    }

    #[inline]
    fn udp_checksum(self) -> [u8; 2] {
        at::<6, 2, _>(self.0)
    }

    #[inline]
    fn sequence(self) -> u32 {
        u32::from_be_bytes(at::<4, 4, _>(self.0))
    }

    #[inline]
    fn tcp_header_len(self) -> usize {
        usize::from(self.0[12] >> 4) * 4
    }

    #[inline]
    fn tcp_flags(self) -> TcpFlags {
        TcpFlags(self.0[13])
    }

    #[inline]
    fn tcp_checksum(self) -> [u8; 2] {
        at::<16, 2, _>(self.0)
    }
}

/// Flags of segments that may change a connection's state.
const CHANGING: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
/// First two bytes of IPv6 addresses that are neither unspecified nor loopback, nor link-local or multicast, as they may be.
const FAR: std::ops::RangeInclusive<u16> = 0x0001..=0xfdff;
/// First octets of IPv4 addresses that are, or may be, unspecified, loopback, link-local, multicast, reserved or broadcast.
static ODD: [bool; 256] = {
    let mut odd = [false; 256];
    odd[0] = true;
    odd[127] = true;
    odd[169] = true;
    let mut first = 224;
    while first < odd.len() {
        odd[first] = true;
        first += 1;
    }
    odd
};
