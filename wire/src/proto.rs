//! IP protocol numbers.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The protocol field of IPv4 and the next header field of IPv6 (IANA "Assigned Internet Protocol Numbers").
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options, RFC 8200 section 4.3.
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4, RFC 792.
    pub const ICMP: Self = Self(1);
    /// IPv4 in IP, RFC 2003.
    pub const IPV4: Self = Self(4);
    /// TCP, RFC 9293.
    pub const TCP: Self = Self(6);
    /// UDP, RFC 768.
    pub const UDP: Self = Self(17);
    /// IPv6 in IP, RFC 2473 and RFC 4213.
    pub const IPV6: Self = Self(41);
    /// IPv6 routing header, RFC 8200 section 4.4.
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header, RFC 8200 section 4.5.
    pub const FRAGMENT: Self = Self(44);
    /// GRE, RFC 2784.
    pub const GRE: Self = Self(47);
    /// ESP, RFC 4303.
    pub const ESP: Self = Self(50);
    /// ICMPv6, RFC 4443.
    pub const ICMPV6: Self = Self(58);
    /// Nothing follows, RFC 8200 section 4.7.
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// IPv6 destination options, RFC 8200 section 4.6.
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// SCTP, RFC 9260.
    pub const SCTP: Self = Self(132);

    /// True where the first four bytes of the payload are two ports that we know to read.
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// The lower-case name that commands and verdicts print, if there is one.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::ICMP => "icmp",
            Self::TCP => "tcp",
            Self::UDP => "udp",
            Self::ICMPV6 => "icmpv6",
            Self::SCTP => "sctp",
            _ => return None,
        })
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "proto {}", self.0),
        }
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IpProtocol({})", self.0)
    }
}
