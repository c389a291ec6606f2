//! TCP, RFC 9293: header, flags, the MSS option, resets.

use core::fmt;
use core::ops::BitOr;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::Port;

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// Offset of the checksum in the header.
pub const CHECKSUM_OFFSET: usize = 16;

/// Why bytes are not a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    Truncated,
    /// The data offset is below five words or beyond the segment.
    DataOffset,
}

/// Control bits.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No bit.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// True when every bit of `bits` is set.
    #[inline]
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// True for SYN without ACK, RST or FIN: an attempt to open a connection.
    #[inline]
    pub const fn is_opening(self) -> bool {
        self.0 & (Self::SYN.0 | Self::ACK.0 | Self::RST.0 | Self::FIN.0) == Self::SYN.0
    }
}

impl BitOr for TcpFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut wrote = false;
        for (bit, name) in ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"]
            .iter()
            .enumerate()
        {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{}{name}", if wrote { "|" } else { "" })?;
                wrote = true;
            }
        }
        if wrote { Ok(()) } else { f.write_str("NONE") }
    }
}

/// TCP header up to its options, RFC 9293 section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct TcpHeader {
    /// Source port.
    pub src: Port,
    /// Destination port.
    pub dst: Port,
    /// Sequence number of the first byte, or of SYN.
    pub seq: U32,
    /// Next sequence number expected.
    pub ack: U32,
    offset_reserved: u8,
    /// Control bits.
    pub flags: TcpFlags,
    /// Receive window, unscaled.
    pub window: U16,
    /// Checksum over pseudo-header, header and data.
    pub checksum: U16,
    /// Urgent pointer.
    pub urgent: U16,
}

const _: () = assert!(size_of::<TcpHeader>() == HEADER_LEN);

impl TcpHeader {
    /// A header without options, window and checksum 0.
    pub const fn new(src: Port, dst: Port, seq: u32, ack: u32, flags: TcpFlags) -> Self {
        Self {
            src,
            dst,
            seq: U32::new(seq),
            ack: U32::new(ack),
            offset_reserved: 5 << 4,
            flags,
            window: U16::ZERO,
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        }
    }

    /// The reset that answers `segment`, RFC 9293 section 3.10.7.1; `payload_len` is that of the segment. `None`
    /// when the segment is itself a reset. The checksum is left to the caller.
    pub fn reset_for(segment: &Self, payload_len: u32) -> Option<Self> {
        if segment.flags.has(TcpFlags::RST) {
            return None;
        }
        Some(if segment.flags.has(TcpFlags::ACK) {
            Self::new(segment.dst, segment.src, segment.ack.get(), 0, TcpFlags::RST)
        } else {
            let phantom =
                u32::from(segment.flags.has(TcpFlags::SYN)) + u32::from(segment.flags.has(TcpFlags::FIN));
            let ack = segment.seq.get().wrapping_add(payload_len).wrapping_add(phantom);
            Self::new(segment.dst, segment.src, 0, ack, TcpFlags::RST | TcpFlags::ACK)
        })
    }

    /// Splits `segment` into header, options and data.
    pub fn parse(segment: &[u8]) -> Result<(&Self, &[u8], &[u8]), Malformed> {
        let (header, rest) = Self::ref_from_prefix(segment).map_err(|_| Malformed::Truncated)?;
        let options_len = header
            .header_len()
            .checked_sub(HEADER_LEN)
            .ok_or(Malformed::DataOffset)?;
        let (options, data) = rest.split_at_checked(options_len).ok_or(Malformed::DataOffset)?;
        Ok((header, options, data))
    }

    /// The header at the start of `segment`, writable; `None` when there are fewer than 20 bytes.
    #[inline]
    pub fn prefix_mut(segment: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(segment).ok().map(|(header, _)| header)
    }

    /// The header at the start of `segment`, unchecked but for its 20 bytes.
    #[inline]
    pub fn prefix(segment: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(segment).ok().map(|(header, _)| header)
    }

    /// Header and options in bytes as the header says: 0 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.offset_reserved >> 4) as usize * 4
    }
}

/// Offset of the MSS value in `segment` (from the TCP header), if that option is there, RFC 9293 section 3.2.
///
/// The value is two bytes in network order and may lie at an odd offset, where [`crate::checksum::Delta`] has to be
/// byte-swapped.
pub fn mss_offset(segment: &[u8]) -> Option<usize> {
    let (_, options, _) = TcpHeader::parse(segment).ok()?;
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [] | [0, ..] => return None,
            [1, ..] => at += 1,
            [2, 4, _, _, ..] => return Some(HEADER_LEN + at + 2),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}

/// The MSS that `segment` announces, in bytes.
pub fn mss(segment: &[u8]) -> Option<u16> {
    let at = mss_offset(segment)?;
    segment
        .get(at..)?
        .first_chunk()
        .map(|value| u16::from_be_bytes(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(options: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(Port::new(1), Port::new(2), 100, 200, TcpFlags::SYN);
        header.offset_reserved = ((HEADER_LEN + options.len()) * 4) as u8;
        [header.as_bytes(), options].concat()
    }

    #[test]
    fn the_mss_is_found_behind_other_options() {
        let segment = segment(&[1, 3, 3, 7, 1, 2, 4, 0x05, 0xb4, 4, 2, 0]);
        assert_eq!(mss_offset(&segment), Some(27));
        assert_eq!(mss(&segment), Some(1460));
    }

    #[test]
    fn options_that_lie_have_no_mss() {
        for options in [
            [2, 3, 5, 5],
            [1, 1, 2, 4],
            [8, 0, 2, 4],
            [0, 2, 4, 5],
            [8, 200, 0, 0],
            [8, 1, 2, 4],
        ] {
            assert_eq!(mss(&segment(&options)), None, "{options:?}");
        }
    }

    #[test]
    fn a_data_offset_beyond_the_segment_is_refused() {
        let mut bytes = segment(&[]);
        bytes[12] = 0x60;
        assert_eq!(TcpHeader::parse(&bytes).unwrap_err(), Malformed::DataOffset);
        bytes[12] = 0x40;
        assert_eq!(TcpHeader::parse(&bytes).unwrap_err(), Malformed::DataOffset);
        assert_eq!(TcpHeader::parse(&bytes[..19]).unwrap_err(), Malformed::Truncated);
    }

    #[test]
    fn a_reset_acknowledges_what_it_refuses() {
        let mut syn = TcpHeader::new(Port::new(1), Port::new(2), 100, 0, TcpFlags::SYN);
        let reset = TcpHeader::reset_for(&syn, 0).unwrap();
        assert_eq!((reset.seq.get(), reset.ack.get()), (0, 101));
        assert_eq!(reset.flags, TcpFlags::RST | TcpFlags::ACK);
        assert_eq!((reset.src.get(), reset.dst.get()), (2, 1));

        syn.flags = TcpFlags::ACK;
        syn.ack.set(7);
        let reset = TcpHeader::reset_for(&syn, 50).unwrap();
        assert_eq!(
            (reset.seq.get(), reset.ack.get(), reset.flags),
            (7, 0, TcpFlags::RST)
        );
        assert_eq!(TcpHeader::reset_for(&reset, 0), None);
    }

    #[test]
    fn flags_print_their_names() {
        assert_eq!(format!("{:?}", TcpFlags::SYN | TcpFlags::ACK), "SYN|ACK");
        assert!(TcpFlags::SYN.is_opening() && !(TcpFlags::SYN | TcpFlags::ACK).is_opening());
    }
}
