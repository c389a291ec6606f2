//! IPv4, RFC 791: header, options, header checksum, fragment fields.

use core::net::Ipv4Addr;

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{Delta, Sum};
use crate::proto::IpProtocol;

/// Length of a header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// "Don't fragment" in [`Ipv4Header::flags_offset`].
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in [`Ipv4Header::flags_offset`].
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset in [`Ipv4Header::flags_offset`], in units of eight bytes.
pub const OFFSET_MASK: u16 = 0x1fff;

/// Why bytes are not an IPv4 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    Truncated,
    /// The version is not 4.
    Version,
    /// The header length is below five words or beyond the total length.
    HeaderLength,
    /// The total length is beyond the bytes there are.
    TotalLength,
}

/// IPv4 header up to its options, RFC 791 section 3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv4Header {
    version_ihl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Header and payload in bytes, without the padding of the link.
    pub total_len: U16,
    /// Identification: fragments of one packet share it.
    pub id: U16,
    /// Three flags and the fragment offset.
    pub flags_offset: U16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol of the payload.
    pub proto: IpProtocol,
    /// Checksum of header and options.
    pub checksum: U16,
    src: [u8; 4],
    dst: [u8; 4],
}

const _: () = assert!(size_of::<Ipv4Header>() == HEADER_LEN);

/// An IPv4 packet taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    /// The fixed part.
    pub header: &'a Ipv4Header,
    /// Options and their padding, 0 to 40 bytes.
    pub options: &'a [u8],
    /// What follows up to the total length.
    pub payload: &'a [u8],
}

impl Ipv4Header {
    /// A header without options and fragments, don't fragment set, its checksum computed. `payload_len` saturates
    /// at 65,515 bytes.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, proto: IpProtocol, ttl: u8, payload_len: u16) -> Self {
        let mut header = Self {
            version_ihl: 0x45,
            tos: 0,
            total_len: U16::new(payload_len.saturating_add(HEADER_LEN as u16)),
            id: U16::ZERO,
            flags_offset: U16::new(DONT_FRAGMENT),
            ttl,
            proto,
            checksum: U16::ZERO,
            src: src.octets(),
            dst: dst.octets(),
        };
        header.checksum = Sum::of(header.as_bytes()).checksum();
        header
    }

    /// Splits `bytes` into header, options and payload, leaving link padding behind. The checksum is not looked
    /// at, see [`checksum_is_valid`].
    pub fn parse(bytes: &[u8]) -> Result<Ipv4<'_>, Malformed> {
        let (header, rest) = Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
        if header.version_ihl >> 4 != 4 {
            return Err(Malformed::Version);
        }
        let total_len = usize::from(header.total_len.get());
        let after_fixed = total_len.checked_sub(HEADER_LEN).ok_or(Malformed::HeaderLength)?;
        let options_len = header
            .header_len()
            .checked_sub(HEADER_LEN)
            .ok_or(Malformed::HeaderLength)?;
        let rest = rest.get(..after_fixed).ok_or(Malformed::TotalLength)?;
        let (options, payload) = rest
            .split_at_checked(options_len)
            .ok_or(Malformed::HeaderLength)?;
        Ok(Ipv4 {
            header,
            options,
            payload,
        })
    }

    /// The header at the start of `bytes`, writable; `None` when there are fewer than 20 bytes.
    #[inline]
    pub fn prefix_mut(bytes: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// The header at the start of `bytes`, unchecked but for its 20 bytes.
    #[inline]
    pub fn prefix(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Header and options in bytes as the header says: 0 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.version_ihl & 0x0f) as usize * 4
    }

    /// Sets version 4 and the length of header and options, a multiple of four up to 60.
    #[inline]
    pub const fn set_header_len(&mut self, header_len: usize) {
        self.version_ihl = 0x40 | (header_len / 4) as u8 & 0x0f;
    }

    /// Source address.
    #[inline]
    pub const fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.src)
    }

    /// Destination address.
    #[inline]
    pub const fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.dst)
    }

    /// Sets the source; the checksum is the caller's.
    #[inline]
    pub const fn set_src(&mut self, address: Ipv4Addr) {
        self.src = address.octets();
    }

    /// Sets the destination; the checksum is the caller's.
    #[inline]
    pub const fn set_dst(&mut self, address: Ipv4Addr) {
        self.dst = address.octets();
    }

    /// Sets the total length and updates the checksum.
    #[inline]
    pub fn set_total_len(&mut self, total_len: u16) {
        Delta::of_u16(self.total_len.get(), total_len).apply(&mut self.checksum);
        self.total_len.set(total_len);
    }

    /// Sets the TTL and updates the checksum.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        Delta::of_u16(u16::from(self.ttl) << 8, u16::from(ttl) << 8).apply(&mut self.checksum);
        self.ttl = ttl;
    }

    /// Sets DSCP and ECN and updates the checksum.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        Delta::of_u16(u16::from(self.tos), u16::from(tos)).apply(&mut self.checksum);
        self.tos = tos;
    }

    /// Sets identification, flags and offset and updates the checksum.
    #[inline]
    pub fn set_fragment(&mut self, id: u16, flags_offset: u16) {
        let delta = Delta::of_u16(self.id.get(), id) + Delta::of_u16(self.flags_offset.get(), flags_offset);
        delta.apply(&mut self.checksum);
        self.id.set(id);
        self.flags_offset.set(flags_offset);
    }

    /// Offset of this fragment's payload in the packet's, in bytes.
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        (self.flags_offset.get() & OFFSET_MASK) * 8
    }

    /// True when more fragments follow this one.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        self.flags_offset.get() & MORE_FRAGMENTS != 0
    }

    /// True when routers must not fragment the packet.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        self.flags_offset.get() & DONT_FRAGMENT != 0
    }
}

/// True when `header` (with its options, nothing else) carries the right checksum.
pub fn checksum_is_valid(header: &[u8]) -> bool {
    Sum::of(header).is_valid()
}

/// Computes and writes the checksum of `header` (with its options, nothing else). Shorter than 20 bytes: nothing.
pub fn write_checksum(header: &mut [u8]) {
    if let Some(fixed) = Ipv4Header::prefix_mut(header) {
        fixed.checksum = U16::ZERO;
    }
    let checksum = Sum::of(header).checksum();
    if let Some(fixed) = Ipv4Header::prefix_mut(header) {
        fixed.checksum = checksum;
    }
}

/// One IPv4 option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Option<'a> {
    /// Copied flag, class and number in one byte.
    pub kind: u8,
    /// The whole option, kind and length included.
    pub bytes: &'a [u8],
}

impl Ipv4Option<'_> {
    /// Loose source and record route.
    pub const LOOSE_SOURCE_ROUTE: u8 = 131;
    /// Strict source and record route.
    pub const STRICT_SOURCE_ROUTE: u8 = 137;

    /// True when every fragment must carry the option, not the first alone.
    pub const fn is_copied(&self) -> bool {
        self.kind & 0x80 != 0
    }

    /// True for the two source routes, which RFC 7126 says to drop.
    pub const fn is_source_route(&self) -> bool {
        matches!(self.kind, Self::LOOSE_SOURCE_ROUTE | Self::STRICT_SOURCE_ROUTE)
    }
}

/// The length of an option is below two or runs out of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

/// Walks options; no-operation is skipped, end of list ends. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    /// Over the bytes between the fixed header and the payload.
    pub const fn new(options: &'a [u8]) -> Self {
        Self(options)
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<Ipv4Option<'a>, BadOption>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.0 {
                [] | [0, ..] => return None,
                [1, ref rest @ ..] => self.0 = rest,
                [kind, len, ..] if len >= 2 && usize::from(len) <= self.0.len() => {
                    let (bytes, rest) = self.0.split_at(usize::from(len));
                    self.0 = rest;
                    return Some(Ok(Ipv4Option { kind, bytes }));
                }
                _ => {
                    self.0 = &[];
                    return Some(Err(BadOption));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Ipv4Header {
        Ipv4Header::new(
            Ipv4Addr::new(10, 0, 0, 1),
            Ipv4Addr::new(10, 0, 0, 2),
            IpProtocol::UDP,
            64,
            8,
        )
    }

    #[test]
    fn padding_of_the_link_is_left_behind() {
        let mut bytes = [0u8; 46];
        bytes[..20].copy_from_slice(header().as_bytes());
        let packet = Ipv4Header::parse(&bytes).unwrap();
        assert_eq!((packet.options.len(), packet.payload.len()), (0, 8));
        assert!(checksum_is_valid(&bytes[..20]));
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let parse = |change: fn(&mut Ipv4Header)| {
            let mut bytes = [0u8; 28];
            let mut header = header();
            change(&mut header);
            bytes[..20].copy_from_slice(header.as_bytes());
            Ipv4Header::parse(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(parse(|h| h.version_ihl = 0x65), Malformed::Version);
        assert_eq!(parse(|h| h.version_ihl = 0x44), Malformed::HeaderLength);
        assert_eq!(parse(|h| h.version_ihl = 0x48), Malformed::HeaderLength);
        assert_eq!(parse(|h| h.total_len.set(19)), Malformed::HeaderLength);
        assert_eq!(parse(|h| h.total_len.set(29)), Malformed::TotalLength);
        assert_eq!(
            Ipv4Header::parse(&[0x45; 19]).map(|_| ()).unwrap_err(),
            Malformed::Truncated
        );
    }

    #[test]
    fn options_are_walked_and_bad_lengths_end_the_walk() {
        let options = [1, 131, 3, 4, 1, 148, 4, 0, 0, 0, 9, 9];
        let found: Vec<_> = Options::new(&options)
            .map(|option| option.unwrap().kind)
            .collect();
        assert_eq!(found, [131, 148]);
        assert!(Options::new(&options).next().unwrap().unwrap().is_source_route());
        for bad in [&[7, 1][..], &[7, 0], &[7], &[7, 3], &[1, 1, 68, 40, 0]] {
            let mut walk = Options::new(bad);
            assert_eq!(walk.next(), Some(Err(BadOption)));
            assert_eq!(walk.next(), None);
        }
    }

    proptest! {
        #[test]
        fn setters_keep_the_checksum_right(ttl: u8, tos: u8, total_len: u16, id: u16, flags_offset: u16) {
            let mut header = header();
            header.set_ttl(ttl);
            header.set_tos(tos);
            header.set_total_len(total_len);
            header.set_fragment(id, flags_offset);
            prop_assert!(checksum_is_valid(header.as_bytes()));
            let incremental = header.checksum;
            write_checksum(header.as_mut_bytes());
            prop_assert_eq!(header.checksum, incremental);
        }
    }
}
