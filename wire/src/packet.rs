//! The one-pass parser that workers run for each frame, from the IP header on.
//!
//! [`parse_l3`] validates what forwarding, NAT and policy rely on and leaves a small `Copy` summary; whoever holds a
//! [`Packet`] may use its offsets on the same bytes without looking again. [`parse_embedded`] does the same for the
//! cut packet inside an ICMP error, where only the first bytes are promised.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::addr::Port;
use crate::proto::IpProtocol;
use crate::tcp::TcpFlags;
use crate::{icmp, icmpv6};

mod checksum;
mod parse;

pub use parse::{parse_embedded, parse_l3, parse_l3_head};

/// The two versions of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Place of a fragment in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Identification, 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Offset of its payload in bytes, a multiple of eight.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// What the headers of one IP packet say. Offsets count from the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// IP version.
    pub family: Family,
    /// Protocol behind the IP header and its extension headers. For later IPv6 fragments it may be an extension header.
    pub proto: IpProtocol,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// DSCP and ECN: type of service or traffic class.
    pub tos: u8,
    /// Length of the IP header with options or extension headers, which is where the transport header starts.
    pub l4_offset: u16,
    /// Source port, ICMP echo identifier, or 0 where there is neither, as in later fragments.
    pub sport: Port,
    /// Destination port, ICMP echo identifier, or 0 where there is neither, as in later fragments.
    pub dport: Port,
    /// TCP control bits; none for other protocols and later fragments.
    pub tcp_flags: TcpFlags,
    /// ICMP type; 0 for other protocols.
    pub icmp_type: u8,
    /// ICMP code; 0 for other protocols.
    pub icmp_code: u8,
    /// Routers must not fragment it: the flag in IPv4, always in IPv6.
    pub dont_fragment: bool,
    /// An IPv4 source route, or an IPv6 routing header of type 0 or with segments left (RFC 7126, RFC 5095: drop).
    pub source_routed: bool,
    /// Length in bytes from the IP header on, without padding of the link.
    pub total_len: u32,
    /// Set when the packet is a fragment. An IPv6 atomic fragment is none.
    pub fragment: Option<Fragment>,
}

// Half a cache line, so that a batch of 64 stays in L1.
const _: () = assert!(size_of::<Packet>() <= 32);

impl Packet {
    /// True for fragments without a transport header: all but the first.
    #[inline]
    pub const fn is_later_fragment(&self) -> bool {
        matches!(self.fragment, Some(Fragment { offset: 1.., .. }))
    }

    /// Transport header and payload, in bytes.
    #[inline]
    pub const fn l4_len(&self) -> u32 {
        self.total_len.saturating_sub(self.l4_offset as u32)
    }

    /// Offset of the source address; the destination follows it.
    #[inline]
    pub const fn addresses_offset(&self) -> usize {
        match self.family {
            Family::V4 => 12,
            Family::V6 => 8,
        }
    }

    /// Source and destination of an IPv4 packet. `l3` are the bytes that were parsed; others may give zeros.
    #[inline]
    pub fn addresses_v4(&self, l3: &[u8]) -> ([u8; 4], [u8; 4]) {
        debug_assert_eq!(self.family, Family::V4);
        (bytes_at(l3, 12), bytes_at(l3, 16))
    }

    /// Source and destination of an IPv6 packet. `l3` are the bytes that were parsed; others may give zeros.
    #[inline]
    pub fn addresses_v6(&self, l3: &[u8]) -> ([u8; 16], [u8; 16]) {
        debug_assert_eq!(self.family, Family::V6);
        (bytes_at(l3, 8), bytes_at(l3, 24))
    }

    /// Source address. `l3` are the bytes that were parsed.
    #[inline]
    pub fn src(&self, l3: &[u8]) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from(self.addresses_v4(l3).0).into(),
            Family::V6 => Ipv6Addr::from(self.addresses_v6(l3).0).into(),
        }
    }

    /// Destination address. `l3` are the bytes that were parsed.
    #[inline]
    pub fn dst(&self, l3: &[u8]) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::from(self.addresses_v4(l3).1).into(),
            Family::V6 => Ipv6Addr::from(self.addresses_v6(l3).1).into(),
        }
    }

    /// True for ICMP of the packet's own family that is not a later fragment, so that type and code are read.
    #[inline]
    pub const fn is_icmp(&self) -> bool {
        let icmp = match self.family {
            Family::V4 => IpProtocol::ICMP,
            Family::V6 => IpProtocol::ICMPV6,
        };
        self.proto.0 == icmp.0 && !self.is_later_fragment()
    }

    /// True for ICMP errors, which carry the packet that caused them: IPv4 types 3, 4, 5, 11, 12, ICMPv6 1 to 4.
    #[inline]
    pub const fn is_icmp_error(&self) -> bool {
        self.is_icmp()
            && match self.family {
                Family::V4 => icmp::is_error(self.icmp_type),
                Family::V6 => icmpv6::is_error(self.icmp_type),
            }
    }

    /// True for an echo request, which has its identifier as both ports.
    #[inline]
    pub const fn is_echo_request(&self) -> bool {
        self.is_icmp()
            && self.icmp_type
                == match self.family {
                    Family::V4 => icmp::ECHO_REQUEST,
                    Family::V6 => icmpv6::ECHO_REQUEST,
                }
    }

    /// True for an echo reply, which has its identifier as both ports.
    #[inline]
    pub const fn is_echo_reply(&self) -> bool {
        self.is_icmp()
            && self.icmp_type
                == match self.family {
                    Family::V4 => icmp::ECHO_REPLY,
                    Family::V6 => icmpv6::ECHO_REPLY,
                }
    }

    /// Offset of the packet inside an ICMP error, for [`parse_embedded`]; `None` for anything else.
    #[inline]
    pub const fn embedded_offset(&self) -> Option<usize> {
        if self.is_icmp_error() {
            Some(self.l4_offset as usize + icmp::HEADER_LEN)
        } else {
            None
        }
    }
}

/// `N` bytes at `offset`, zeros where there are none.
#[inline]
fn bytes_at<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let found = bytes.get(offset..).and_then(<[u8]>::first_chunk::<N>);
    debug_assert!(found.is_some(), "not the bytes that were parsed");
    found.copied().unwrap_or([0; N])
}

/// Why bytes are not an IP packet that can be forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// The bytes end inside the IP header.
    Truncated,
    /// Neither version 4 nor 6.
    Version,
    /// The IPv4 header length is below five words or beyond the packet.
    HeaderLength,
    /// The IPv4 header checksum is wrong.
    HeaderChecksum,
    /// The packet says it is longer than the frame, or shorter than its header.
    TotalLength,
    /// An IPv4 option runs out of the header.
    Ipv4Option,
    /// An IPv6 extension header runs out of the packet.
    ExtensionLength,
    /// IPv6 hop-by-hop options in the wrong place, or two fragment headers.
    ExtensionOrder,
    /// More IPv6 extension headers than [`crate::ipv6::EXTENSIONS_MAX`].
    ExtensionCount,
    /// The payload of a fragment that is not the last is not a multiple of eight, or a fragment is empty.
    FragmentLength,
    /// A fragment ends behind the largest possible packet.
    FragmentOverflow,
    /// A later TCP fragment starts inside the TCP header, RFC 3128.
    FragmentOverlapsHeader,
    /// The TCP header is cut or its data offset lies.
    TcpHeader,
    /// The UDP header is cut or its length lies.
    UdpHeader,
    /// The ICMP or ICMPv6 header is cut.
    IcmpHeader,
    /// The SCTP header is cut.
    SctpHeader,
}

impl Malformed {
    /// A stable name for counters and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Truncated => "truncated",
            Self::Version => "version",
            Self::HeaderLength => "header-length",
            Self::HeaderChecksum => "header-checksum",
            Self::TotalLength => "total-length",
            Self::Ipv4Option => "ipv4-option",
            Self::ExtensionLength => "extension-length",
            Self::ExtensionOrder => "extension-order",
            Self::ExtensionCount => "extension-count",
            Self::FragmentLength => "fragment-length",
            Self::FragmentOverflow => "fragment-overflow",
            Self::FragmentOverlapsHeader => "fragment-overlaps-header",
            Self::TcpHeader => "tcp-header",
            Self::UdpHeader => "udp-header",
            Self::IcmpHeader => "icmp-header",
            Self::SctpHeader => "sctp-header",
        }
    }
}

impl core::fmt::Display for Malformed {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

impl core::error::Error for Malformed {}

impl From<crate::ipv6::Malformed> for Malformed {
    fn from(cause: crate::ipv6::Malformed) -> Self {
        use crate::ipv6::Malformed as V6;
        match cause {
            V6::Truncated => Self::Truncated,
            V6::Version => Self::Version,
            V6::PayloadLength => Self::TotalLength,
            V6::ExtensionLength => Self::ExtensionLength,
            V6::ExtensionOrder => Self::ExtensionOrder,
            V6::ExtensionCount => Self::ExtensionCount,
        }
    }
}

#[cfg(test)]
mod tests;
