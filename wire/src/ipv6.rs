//! IPv6, RFC 8200: header and the walk over its extension headers.

use core::net::Ipv6Addr;

use zerocopy::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::proto::IpProtocol;

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;
/// Length of a fragment header, in bytes.
pub const FRAGMENT_HEADER_LEN: usize = 8;
/// More extension headers than this are refused: eight, where RFC 8200 section 4.1 knows seven.
pub const EXTENSIONS_MAX: usize = 8;

/// Why bytes are not an IPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    Truncated,
    /// The version is not 6.
    Version,
    /// The payload length is beyond the bytes there are.
    PayloadLength,
    /// An extension header runs out of the packet.
    ExtensionLength,
    /// Hop-by-hop options not directly behind the header, RFC 8200 section 4.1.
    ExtensionOrder,
    /// More than [`EXTENSIONS_MAX`] extension headers.
    ExtensionCount,
}

/// IPv6 header, RFC 8200 section 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct Ipv6Header {
    version_class_flow: U32,
    /// What follows this header, in bytes.
    pub payload_len: U16,
    /// Extension header or protocol that follows.
    pub next_header: IpProtocol,
    /// Hop limit.
    pub hop_limit: u8,
    src: [u8; 16],
    dst: [u8; 16],
}

const _: () = assert!(size_of::<Ipv6Header>() == HEADER_LEN);

impl Ipv6Header {
    /// A header with traffic class and flow label 0.
    pub const fn new(
        src: Ipv6Addr,
        dst: Ipv6Addr,
        next_header: IpProtocol,
        hop_limit: u8,
        payload_len: u16,
    ) -> Self {
        Self {
            version_class_flow: U32::new(6 << 28),
            payload_len: U16::new(payload_len),
            next_header,
            hop_limit,
            src: src.octets(),
            dst: dst.octets(),
        }
    }

    /// Splits `bytes` into header and payload (extension headers included), leaving link padding behind.
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), Malformed> {
        let (header, rest) = Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
        if header.version_class_flow.get() >> 28 != 6 {
            return Err(Malformed::Version);
        }
        let payload = rest
            .get(..usize::from(header.payload_len.get()))
            .ok_or(Malformed::PayloadLength)?;
        Ok((header, payload))
    }

    /// The header at the start of `bytes`, writable; `None` when there are fewer than 40 bytes.
    #[inline]
    pub fn prefix_mut(bytes: &mut [u8]) -> Option<&mut Self> {
        Self::mut_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// The header at the start of `bytes`, unchecked but for its 40 bytes.
    #[inline]
    pub fn prefix(bytes: &[u8]) -> Option<&Self> {
        Self::ref_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Source address.
    #[inline]
    pub const fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.src)
    }

    /// Destination address.
    #[inline]
    pub const fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(self.dst)
    }

    /// Sets the source.
    #[inline]
    pub const fn set_src(&mut self, address: Ipv6Addr) {
        self.src = address.octets();
    }

    /// Sets the destination.
    #[inline]
    pub const fn set_dst(&mut self, address: Ipv6Addr) {
        self.dst = address.octets();
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// Sets the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let rest = self.version_class_flow.get() & !(0xff << 20);
        self.version_class_flow.set(rest | u32::from(class) << 20);
    }

    /// Flow label, 20 bits.
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0x000f_ffff
    }

    /// Sets the flow label, of which the low 20 bits count.
    #[inline]
    pub fn set_flow_label(&mut self, label: u32) {
        let rest = self.version_class_flow.get() & !0x000f_ffff;
        self.version_class_flow.set(rest | label & 0x000f_ffff);
    }
}

/// Fragment header, RFC 8200 section 4.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct FragmentHeader {
    /// First header of the fragmentable part.
    pub next_header: IpProtocol,
    reserved: u8,
    offset_more: U16,
    /// Identification: fragments of one packet share it.
    pub id: U32,
}

const _: () = assert!(size_of::<FragmentHeader>() == FRAGMENT_HEADER_LEN);

impl FragmentHeader {
    /// A fragment header; `offset` in bytes, a multiple of eight.
    pub fn new(next_header: IpProtocol, id: u32, offset: u16, more: bool) -> Self {
        let offset_more = U16::new(offset & 0xfff8 | u16::from(more));
        Self {
            next_header,
            reserved: 0,
            offset_more,
            id: U32::new(id),
        }
    }

    /// Offset of this fragment's payload in the fragmentable part, in bytes.
    #[inline]
    pub const fn offset(&self) -> u16 {
        self.offset_more.get() & 0xfff8
    }

    /// True when more fragments follow this one.
    #[inline]
    pub const fn more(&self) -> bool {
        self.offset_more.get() & 1 != 0
    }
}

/// Where the extension headers end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Upper {
    /// The first header that is no extension we walk. For later fragments what the fragment header says, which
    /// may be an extension header.
    pub proto: IpProtocol,
    /// Its offset from the start of the IPv6 header.
    pub offset: u16,
    /// Offset of the fragment header from the start of the IPv6 header.
    pub fragment_header: Option<u16>,
    /// The fragment header, unless it is atomic (offset 0, nothing more: a whole packet, RFC 6946).
    pub fragment: Option<FragmentHeader>,
    /// A routing header of type 0 (RFC 5095: drop), or any other that still has segments to visit.
    pub source_routed: bool,
}

/// Walks the extension headers of `packet`, which starts at the IPv6 header: hop-by-hop, destination options,
/// routing, fragment. It stops behind the fragment header of a later fragment. At most [`EXTENSIONS_MAX`] steps.
///
/// `packet` should end where the header says; [`Upper::offset`] is at most its length.
pub fn walk(packet: &[u8]) -> Result<Upper, Malformed> {
    let (header, _) = Ipv6Header::ref_from_prefix(packet).map_err(|_| Malformed::Truncated)?;
    let mut upper = Upper {
        proto: header.next_header,
        offset: HEADER_LEN as u16,
        fragment_header: None,
        fragment: None,
        source_routed: false,
    };
    for step in 0..=EXTENSIONS_MAX {
        let at = upper.offset;
        let extension = packet.get(usize::from(at)..).unwrap_or_default();
        let len = match upper.proto {
            IpProtocol::HOP_BY_HOP if step > 0 => return Err(Malformed::ExtensionOrder),
            IpProtocol::HOP_BY_HOP | IpProtocol::DESTINATION_OPTIONS | IpProtocol::ROUTING => {
                let [_, units, kind, segments_left] =
                    *extension.first_chunk().ok_or(Malformed::ExtensionLength)?;
                if upper.proto == IpProtocol::ROUTING {
                    upper.source_routed |= kind == 0 || segments_left != 0;
                }
                (u16::from(units) + 1) * 8
            }
            IpProtocol::FRAGMENT => FRAGMENT_HEADER_LEN as u16,
            _ => return Ok(upper),
        };
        let extension = extension
            .get(..usize::from(len))
            .ok_or(Malformed::ExtensionLength)?;
        let was_fragment = upper.proto == IpProtocol::FRAGMENT;
        upper.proto = IpProtocol(extension.first().copied().unwrap_or_default());
        // A header that lies in `packet` behind 65,535 bytes cannot be one that `payload_len` covers.
        upper.offset = at.checked_add(len).ok_or(Malformed::ExtensionLength)?;
        if was_fragment {
            let (fragment, _) =
                FragmentHeader::read_from_prefix(extension).map_err(|_| Malformed::ExtensionLength)?;
            if upper.fragment_header.replace(at).is_some() {
                return Err(Malformed::ExtensionOrder);
            }
            if fragment.offset() != 0 || fragment.more() {
                upper.fragment = Some(fragment);
            }
            if fragment.offset() != 0 {
                return Ok(upper);
            }
        }
    }
    Err(Malformed::ExtensionCount)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet whose extension headers are `chain`, each eight bytes long but for its first byte as given here.
    fn packet(first: u8, chain: &[[u8; 8]]) -> Vec<u8> {
        let payload_len = (chain.len() * 8) as u16;
        let header = Ipv6Header::new(
            Ipv6Addr::LOCALHOST,
            Ipv6Addr::LOCALHOST,
            IpProtocol(first),
            64,
            payload_len,
        );
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend(chain.as_flattened());
        bytes
    }

    #[test]
    fn fields_do_not_disturb_one_another() {
        let mut header = Ipv6Header::new(Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, IpProtocol::TCP, 64, 0);
        header.set_traffic_class(0xb8);
        header.set_flow_label(0xfff_ffff);
        assert_eq!((header.traffic_class(), header.flow_label()), (0xb8, 0xf_ffff));
        header.set_flow_label(1);
        assert_eq!((header.traffic_class(), header.flow_label()), (0xb8, 1));
        assert!(Ipv6Header::parse(header.as_bytes()).is_ok());
    }

    #[test]
    fn the_walk_ends_at_the_upper_protocol() {
        let bytes = packet(
            0,
            &[
                [60, 0, 1, 4, 0, 0, 0, 0],
                [44, 0, 1, 4, 0, 0, 0, 0],
                [17, 0, 0, 1, 0, 0, 0, 9],
            ],
        );
        let upper = walk(&bytes).unwrap();
        assert_eq!(
            (upper.proto, upper.offset, upper.fragment_header),
            (IpProtocol::UDP, 64, Some(56))
        );
        let fragment = upper.fragment.unwrap();
        assert_eq!(
            (fragment.id.get(), fragment.offset(), fragment.more()),
            (9, 0, true)
        );
    }

    #[test]
    fn the_walk_stops_behind_a_later_fragment() {
        // What would be the next header is payload here.
        let upper = walk(&packet(
            44,
            &[[60, 0, 0, 8, 0, 0, 0, 9], [6, 0xff, 0, 0, 0, 0, 0, 0]],
        ))
        .unwrap();
        assert_eq!((upper.proto, upper.offset), (IpProtocol::DESTINATION_OPTIONS, 48));
        assert_eq!(upper.fragment.unwrap().offset(), 8);
    }

    #[test]
    fn an_atomic_fragment_is_a_whole_packet() {
        let upper = walk(&packet(44, &[[6, 0, 0, 0, 0, 0, 0, 9]])).unwrap();
        assert_eq!(
            (upper.proto, upper.fragment, upper.fragment_header),
            (IpProtocol::TCP, None, Some(40))
        );
    }

    #[test]
    fn chains_that_lie_are_refused() {
        assert_eq!(
            walk(&packet(60, &[[6, 1, 0, 0, 0, 0, 0, 0]])),
            Err(Malformed::ExtensionLength)
        );
        assert_eq!(walk(&packet(44, &[])), Err(Malformed::ExtensionLength));
        let late = packet(60, &[[0, 0, 1, 4, 0, 0, 0, 0], [6, 0, 1, 4, 0, 0, 0, 0]]);
        assert_eq!(walk(&late), Err(Malformed::ExtensionOrder));
        assert_eq!(
            walk(&packet(60, &[[60, 0, 1, 4, 0, 0, 0, 0]; 20])),
            Err(Malformed::ExtensionCount)
        );
        let mut most = [[60, 0, 1, 4, 0, 0, 0, 0]; EXTENSIONS_MAX];
        most[EXTENSIONS_MAX - 1][0] = 17;
        assert_eq!(walk(&packet(60, &most)).unwrap().proto, IpProtocol::UDP);
    }

    #[test]
    fn a_type_0_routing_header_is_told() {
        assert!(
            walk(&packet(43, &[[6, 0, 0, 0, 0, 0, 0, 0]]))
                .unwrap()
                .source_routed
        );
        assert!(
            walk(&packet(43, &[[6, 0, 4, 1, 0, 0, 0, 0]]))
                .unwrap()
                .source_routed
        );
        assert!(
            !walk(&packet(43, &[[6, 0, 4, 0, 0, 0, 0, 0]]))
                .unwrap()
                .source_routed
        );
    }
}
