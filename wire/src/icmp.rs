//! ICMP, RFC 792: header, types and codes.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;

/// Length of the header, in bytes; the embedded packet of an error follows it. The same in ICMPv6.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum in the header. The same in ICMPv6.
pub const CHECKSUM_OFFSET: usize = 2;
/// Offset of the identifier of echo messages in the header. The same in ICMPv6.
pub const ECHO_ID_OFFSET: usize = 4;

/// Echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Source quench, deprecated by RFC 6633.
pub const SOURCE_QUENCH: u8 = 4;
/// Redirect.
pub const REDIRECT: u8 = 5;
/// Echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;

/// Codes of [`UNREACHABLE`], RFC 792 and RFC 1812 section 5.2.7.1.
pub mod unreachable {
    /// No route.
    pub const NETWORK: u8 = 0;
    /// The last router can't reach the host.
    pub const HOST: u8 = 1;
    /// The host does not speak the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody listens on the port.
    pub const PORT: u8 = 3;
    /// Too big and not to be fragmented; bytes 6 and 7 hold the MTU (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// Forbidden by policy.
    pub const ADMINISTRATIVELY_PROHIBITED: u8 = 13;
}

/// Codes of [`TIME_EXCEEDED`].
pub mod time_exceeded {
    /// The TTL ran out on the way.
    pub const IN_TRANSIT: u8 = 0;
    /// Fragments did not come in time.
    pub const REASSEMBLY: u8 = 1;
}

/// True for the types that carry the packet that caused them.
#[inline]
pub const fn is_error(icmp_type: u8) -> bool {
    matches!(
        icmp_type,
        UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM
    )
}

/// Header of ICMP and ICMPv6 alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IcmpHeader {
    /// Type.
    pub icmp_type: u8,
    /// Code.
    pub code: u8,
    /// Checksum over the message; in ICMPv6 over the pseudo-header too.
    pub checksum: U16,
    /// Depends on the type: identifier and sequence number, MTU, pointer.
    pub rest: [u8; 4],
}

const _: () = assert!(size_of::<IcmpHeader>() == HEADER_LEN);

impl IcmpHeader {
    /// A header with checksum 0.
    pub const fn new(icmp_type: u8, code: u8, rest: u32) -> Self {
        Self {
            icmp_type,
            code,
            checksum: U16::ZERO,
            rest: rest.to_be_bytes(),
        }
    }

    /// Identifier of an echo message.
    #[inline]
    pub const fn echo_id(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Sequence number of an echo message.
    #[inline]
    pub const fn echo_seq(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The MTU of a "fragmentation needed" (RFC 1191; 0 from routers that don't know).
    #[inline]
    pub const fn mtu_v4(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// The MTU of a "packet too big", RFC 4443 section 3.2.
    #[inline]
    pub const fn mtu_v6(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }

    /// The header at the start of `message`, writable; `None` when there are fewer than eight bytes.
    #[inline]
    pub fn prefix_mut(message: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(message).ok().map(|(header, _)| header)
    }

    /// The header at the start of `message`, unchecked but for its eight bytes.
    #[inline]
    pub fn prefix(message: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(message).ok().map(|(header, _)| header)
    }
}

/// Computes and writes the checksum of an ICMP `message`; `pseudo` is [`Sum::ZERO`] for IPv4. Shorter than a header:
/// nothing.
pub fn write_checksum(message: &mut [u8], pseudo: Sum) {
    if let Some(header) = IcmpHeader::prefix_mut(message) {
        header.checksum = U16::ZERO;
        let checksum = (pseudo + Sum::of(message)).checksum();
        if let Some(header) = IcmpHeader::prefix_mut(message) {
            header.checksum = checksum;
        }
    }
}
