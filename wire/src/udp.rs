//! UDP, RFC 768.

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::Port;

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 6;

/// Why bytes are not a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    Truncated,
    /// The length is below eight or beyond the bytes there are.
    Length,
}

/// UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub src: Port,
    /// Destination port.
    pub dst: Port,
    /// Header and data in bytes.
    pub len: U16,
    /// Checksum over pseudo-header, header and data; 0 is none.
    pub checksum: U16,
}

const _: () = assert!(size_of::<UdpHeader>() == HEADER_LEN);

impl UdpHeader {
    /// A header without checksum; `payload_len` saturates at 65,527 bytes.
    pub const fn new(src: Port, dst: Port, payload_len: u16) -> Self {
        Self {
            src,
            dst,
            len: U16::new(payload_len.saturating_add(HEADER_LEN as u16)),
            checksum: U16::ZERO,
        }
    }

    /// Splits `datagram` into header and data.
    pub fn parse(datagram: &[u8]) -> Result<(&Self, &[u8]), Malformed> {
        let (header, rest) = Self::ref_from_prefix(datagram).map_err(|_| Malformed::Truncated)?;
        let data = usize::from(header.len.get())
            .checked_sub(HEADER_LEN)
            .and_then(|len| rest.get(..len))
            .ok_or(Malformed::Length)?;
        Ok((header, data))
    }

    /// The header at the start of `datagram`, writable; `None` when there are fewer than eight bytes.
    #[inline]
    pub fn prefix_mut(datagram: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(datagram).ok().map(|(header, _)| header)
    }

    /// The header at the start of `datagram`, unchecked but for its eight bytes.
    #[inline]
    pub fn prefix(datagram: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(datagram).ok().map(|(header, _)| header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_bounds_the_data() {
        let mut bytes = [
            UdpHeader::new(Port::new(1), Port::new(2), 3).as_bytes(),
            b"abcdef",
        ]
        .concat();
        assert_eq!(UdpHeader::parse(&bytes).unwrap().1, b"abc");
        bytes[5] = 7;
        assert_eq!(UdpHeader::parse(&bytes).unwrap_err(), Malformed::Length);
        bytes[5] = 15;
        assert_eq!(UdpHeader::parse(&bytes).unwrap_err(), Malformed::Length);
        assert_eq!(UdpHeader::parse(&bytes[..7]).unwrap_err(), Malformed::Truncated);
    }
}
