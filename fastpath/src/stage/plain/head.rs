//! Head: the headers of a plain packet, by fixed offsets, and what is checked of them.
//!
//! The checks are those of `wire::packet` and `ingress`; whatever they would refuse, and some that they would not, is simply
//! not plain.

use wire::IpProtocol;
use wire::checksum::Sum;
use wire::tcp::TcpFlags;

use super::lane::{Kind, Mark};
use crate::flow::key::plain_ports_word;

/// Ethernet, IPv4 without options, and the first 20 bytes behind: TCP's header, or UDP's and data.
#[derive(Clone, Copy)]
pub(super) struct Head<'f>(&'f [u8; HEAD_LEN]);

/// Bytes of a [`Head`].
pub(super) const HEAD_LEN: usize = 14 + 20 + 20;
/// Where the IP header is in a [`Head`].
pub(super) const L3: usize = 14;
const L4: usize = L3 + 20;

/// A plain packet: what its flow is found by, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plain {
    /// Key of its flow.
    pub(super) key: [u64; 2],
    /// What its replay needs to know.
    pub(super) mark: Mark,
    /// Its transport checksum, as it lies there.
    checksum: [u8; 2],
}

impl<'f> Head<'f> {
    /// The head of a frame, or of the frame inside a tunnel; `None` when there are too few bytes.
    #[inline]
    pub(super) fn of(frame: &'f [u8]) -> Option<Self> {
        frame.first_chunk().map(Self)
    }

    /// `N` bytes at `AT`: loads, since both are known.
    #[inline]
    fn at<const AT: usize, const N: usize>(self) -> [u8; N] {
        const { assert!(AT + N <= HEAD_LEN) };
        *self.0[AT..].first_chunk().expect("within the head")
    }

    /// The first 16 bytes: MAC addresses, Ethernet type, version and header length, DSCP and ECN.
    #[inline]
    pub(super) fn link(self) -> [u64; 2] {
        [
            u64::from_ne_bytes(self.at::<0, 8>()),
            u64::from_ne_bytes(self.at::<8, 8>()),
        ]
    }

    #[inline]
    pub(super) fn tos(self) -> u8 {
        self.0[L3 + 1]
    }

    #[inline]
    pub(super) fn total_len(self) -> u16 {
        u16::from_be_bytes(self.at::<16, 2>())
    }

    #[inline]
    pub(super) fn proto(self) -> IpProtocol {
        IpProtocol(self.0[L3 + 9])
    }

    #[inline]
    pub(super) fn src(self) -> [u8; 4] {
        self.at::<26, 4>()
    }

    #[inline]
    pub(super) fn dst(self) -> [u8; 4] {
        self.at::<30, 4>()
    }

    /// Source and destination port, as on the wire.
    #[inline]
    pub(super) fn ports(self) -> [u8; 4] {
        self.at::<L4, 4>()
    }

    #[inline]
    pub(super) fn dport(self) -> [u8; 2] {
        self.at::<{ L4 + 2 }, 2>()
    }

    /// The IP header is whole and right and its packet within `available` bytes and no fragment; both addresses may be met
    /// beyond their link. What the header's first two bytes say is asked by the [`gate`](super::gate).
    #[inline]
    pub(super) fn is_ip_plain(self, available: usize) -> bool {
        let is_fragment = u16::from_be_bytes(self.at::<20, 2>()) & 0x3fff != 0;
        let is_odd = ODD[usize::from(self.0[26])] | ODD[usize::from(self.0[30])];
        usize::from(self.total_len()) <= available
            && !is_fragment
            && !is_odd
            && Sum::of_plain_ipv4(&self.at::<L3, 20>()).is_valid()
    }

    /// Bytes of UDP header and data, when they are within the packet.
    #[inline]
    pub(super) fn udp_is_plain(self) -> bool {
        let len = u16::from_be_bytes(self.at::<{ L4 + 4 }, 2>());
        len >= 8 && u32::from(len) + 20 <= u32::from(self.total_len())
    }

    /// The packet behind a head whose IP header is plain and starts at `l3` of the frame. `zone` is the part of the key
    /// that says where it came from; `refuses` asks for UDP that is not to be forwarded.
    #[inline]
    pub(super) fn read(self, l3: usize, zone: u64, refuses: impl FnOnce(Self) -> bool) -> Option<Plain> {
        let (total_len, proto) = (self.total_len(), self.proto());
        let (kind, sequence, checksum) = match proto {
            IpProtocol::TCP => {
                let headers_len = u16::from(self.0[L4 + 12] >> 4) * 4 + 20;
                let flags = TcpFlags(self.0[L4 + 13]);
                let mut kind = Kind::Tcp;
                if flags.0 & CHANGING != 0 {
                    if !flags.is_opening() {
                        return None;
                    }
                    kind = Kind::Syn;
                }
                if headers_len < 20 + 20 || headers_len > total_len {
                    return None;
                }
                let start = u32::from_be_bytes(self.at::<{ L4 + 4 }, 4>());
                let after = start.wrapping_add(u32::from(total_len - headers_len));
                (kind, after, self.at::<{ L4 + 16 }, 2>())
            }
            IpProtocol::UDP if self.udp_is_plain() && !refuses(self) => {
                (Kind::Udp, 0, self.at::<{ L4 + 6 }, 2>())
            }
            _ => return None,
        };
        let ttl = self.0[L3 + 8];
        if ttl <= 1 {
            return None;
        }
        let addresses = u64::from_ne_bytes(self.at::<26, 8>());
        let ports = plain_ports_word(self.ports(), proto);
        let mark = Mark {
            sequence,
            l3: l3 as u16,
            total_len,
            kind,
        };
        Some(Plain {
            key: [addresses, ports | zone],
            mark,
            checksum,
        })
    }
}

impl Plain {
    /// Its transport checksum is partial: the sum of the pseudo-header alone.
    #[inline]
    pub(super) fn is_partial(&self) -> bool {
        let ([a, b, c, d, e, f, g, h], mark) = (self.key[0].to_ne_bytes(), self.mark);
        let pseudo = Sum::pseudo_v4([a, b, c, d], [e, f, g, h], mark.proto(), mark.total_len - 20);
        pseudo.folds_to(self.checksum)
    }
}

/// Flags of segments that may change a connection's state.
const CHANGING: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
/// First octets of addresses that are, or may be, unspecified, loopback, link-local, multicast, reserved or broadcast.
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
