//! VXLAN, RFC 7348: header, and templates of the outer headers.
//!
//! A template is serialised once per destination; per packet it is copied whole and a few fields are set. It starts
//! at the outer IP header: the Ethernet header, with or without a VLAN tag, belongs to the adjacency.

use core::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::addr::{Port, Vni};
use crate::checksum::Sum;
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::proto::IpProtocol;
use crate::udp::{self, UdpHeader};

/// Length of the header, in bytes; the inner Ethernet frame follows.
pub const HEADER_LEN: usize = 8;
/// The port that IANA assigned.
pub const PORT: Port = Port::new(4789);
/// From the outer IPv4 header to the inner frame, in bytes.
pub const OUTER_V4_LEN: usize = ipv4::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;
/// From the outer IPv6 header to the inner frame, in bytes.
pub const OUTER_V6_LEN: usize = ipv6::HEADER_LEN + udp::HEADER_LEN + HEADER_LEN;

/// Why bytes are not VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than the header.
    Truncated,
    /// The flag that says that there is a VNI is not set.
    NoVni,
}

/// VXLAN header, RFC 7348 section 5. Reserved bits are sent as zero and ignored on receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct VxlanHeader {
    flags: u8,
    reserved: [u8; 3],
    vni: [u8; 3],
    reserved2: u8,
}

const _: () = assert!(size_of::<VxlanHeader>() == HEADER_LEN);

impl VxlanHeader {
    /// A header for `vni`.
    pub const fn new(vni: Vni) -> Self {
        Self {
            flags: 0x08,
            reserved: [0; 3],
            vni: vni.to_wire(),
            reserved2: 0,
        }
    }

    /// Splits `bytes`, which follow the UDP header, into the header and the inner frame.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), Malformed> {
        let (header, frame) = Self::ref_from_prefix(bytes).map_err(|_| Malformed::Truncated)?;
        if header.flags & 0x08 == 0 {
            Err(Malformed::NoVni)
        } else {
            Ok((header, frame))
        }
    }

    /// Network identifier.
    #[inline]
    pub const fn vni(&self) -> Vni {
        Vni::from_wire(self.vni)
    }
}

/// Outer IPv4, UDP and VXLAN headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OuterV4 {
    /// IPv4 header, its checksum right at all times.
    pub ip: Ipv4Header,
    /// UDP header without checksum.
    pub udp: UdpHeader,
    /// VXLAN header.
    pub vxlan: VxlanHeader,
}

const _: () = assert!(size_of::<OuterV4>() == OUTER_V4_LEN);

impl OuterV4 {
    /// A template from `src` to `dst` with an empty payload and don't fragment set.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, port: Port, vni: Vni, ttl: u8) -> Self {
        let len = (OUTER_V4_LEN - ipv4::HEADER_LEN) as u16;
        Self {
            ip: Ipv4Header::new(src, dst, IpProtocol::UDP, ttl, len),
            udp: UdpHeader::new(Port::ZERO, port, HEADER_LEN as u16),
            vxlan: VxlanHeader::new(vni),
        }
    }

    /// The headers for an inner frame of `inner_len` bytes; `source_port` comes from the inner flow's hash. `None`
    /// when it does not fit an IPv4 packet.
    #[inline]
    pub fn stamp(&self, inner_len: u16, source_port: Port, tos: u8) -> Option<Self> {
        let total_len = inner_len.checked_add(OUTER_V4_LEN as u16)?;
        let mut outer = *self;
        outer.ip.set_total_len(total_len);
        outer.ip.set_tos(tos);
        outer.udp.src = source_port;
        outer.udp.len = U16::new(total_len - ipv4::HEADER_LEN as u16);
        Some(outer)
    }
}

/// Outer IPv6, UDP and VXLAN headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct OuterV6 {
    /// IPv6 header.
    pub ip: Ipv6Header,
    /// UDP header; over IPv6 receivers want a checksum, see [`Self::set_checksum`].
    pub udp: UdpHeader,
    /// VXLAN header.
    pub vxlan: VxlanHeader,
}

const _: () = assert!(size_of::<OuterV6>() == OUTER_V6_LEN);

impl OuterV6 {
    /// A template from `src` to `dst` with an empty payload.
    pub const fn new(src: Ipv6Addr, dst: Ipv6Addr, port: Port, vni: Vni, hop_limit: u8) -> Self {
        let len = (OUTER_V6_LEN - ipv6::HEADER_LEN) as u16;
        Self {
            ip: Ipv6Header::new(src, dst, IpProtocol::UDP, hop_limit, len),
            udp: UdpHeader::new(Port::ZERO, port, HEADER_LEN as u16),
            vxlan: VxlanHeader::new(vni),
        }
    }

    /// The headers for an inner frame of `inner_len` bytes, without UDP checksum; `source_port` comes from the inner
    /// flow's hash. `None` when it does not fit an IPv6 packet.
    #[inline]
    pub fn stamp(&self, inner_len: u16, source_port: Port, traffic_class: u8) -> Option<Self> {
        let len = inner_len.checked_add((OUTER_V6_LEN - ipv6::HEADER_LEN) as u16)?;
        let mut outer = *self;
        outer.ip.payload_len = U16::new(len);
        outer.ip.set_traffic_class(traffic_class);
        outer.udp.src = source_port;
        outer.udp.len = U16::new(len);
        Some(outer)
    }

    /// Sets the UDP checksum, given the sum of the inner frame.
    #[inline]
    pub fn set_checksum(&mut self, inner: Sum) {
        self.udp.checksum = U16::ZERO;
        let len = u32::from(self.udp.len.get());
        let pseudo = Sum::pseudo_v6(
            self.ip.src().octets(),
            self.ip.dst().octets(),
            IpProtocol::UDP,
            len,
        );
        let headers = Sum::of(self.udp.as_bytes()) + Sum::of(self.vxlan.as_bytes());
        self.udp.checksum = (pseudo + headers + inner).udp_checksum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::parse_l3;

    const INNER: [u8; 61] = [0x5a; 61];

    fn check(outer: &[u8], tos: u8) {
        let bytes = [outer, &INNER].concat();
        let packet = parse_l3(&bytes).unwrap();
        assert_eq!(
            (packet.sport.get(), packet.dport, packet.tos),
            (50_000, PORT, tos)
        );
        assert!(packet.l4_checksum_is_valid(&bytes));
        let (_, data) = UdpHeader::parse(&bytes[usize::from(packet.l4_offset)..]).unwrap();
        let (header, frame) = VxlanHeader::parse(data).unwrap();
        assert_eq!((header.vni().get(), frame), (4096, &INNER[..]));
    }

    #[test]
    fn a_stamped_template_is_a_valid_packet_over_either_family() {
        let vni = Vni::try_from(4096).unwrap();
        let v4 = OuterV4::new(
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv4Addr::new(192, 0, 2, 2),
            PORT,
            vni,
            64,
        );
        check(v4.stamp(61, Port::new(50_000), 0xb9).unwrap().as_bytes(), 0xb9);
        let v6 = OuterV6::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, PORT, vni, 64);
        let mut outer = v6.stamp(61, Port::new(50_000), 2).unwrap();
        outer.set_checksum(Sum::of(&INNER));
        check(outer.as_bytes(), 2);
    }

    #[test]
    fn what_does_not_fit_is_not_stamped() {
        let v4 = OuterV4::new(Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST, PORT, Vni::MAX, 64);
        assert!(v4.stamp(65_499, PORT, 0).is_some() && v4.stamp(65_500, PORT, 0).is_none());
        let v6 = OuterV6::new(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, PORT, Vni::MAX, 64);
        assert!(v6.stamp(65_519, PORT, 0).is_some() && v6.stamp(65_520, PORT, 0).is_none());
    }

    #[test]
    fn a_header_without_vni_is_refused_and_reserved_bits_are_ignored() {
        assert_eq!(VxlanHeader::parse(&[0; 8]).unwrap_err(), Malformed::NoVni);
        assert_eq!(VxlanHeader::parse(&[8; 7]).unwrap_err(), Malformed::Truncated);
        assert_eq!(VxlanHeader::parse(&[0xff; 8]).unwrap().0.vni(), Vni::MAX);
    }
}
