//! IP in IP: IPv4 (RFC 2003) and IPv6 (RFC 4213) inside IPv4, and how ECN crosses a tunnel (RFC 6040).

use core::net::Ipv4Addr;

use crate::ipv4::{self, Ipv4Header};
use crate::packet::Family;
use crate::proto::IpProtocol;

/// Length of the outer header, in bytes.
pub const OUTER_LEN: usize = ipv4::HEADER_LEN;

/// The outer protocol number that carries `inner`.
pub const fn protocol_of(inner: Family) -> IpProtocol {
    match inner {
        Family::V4 => IpProtocol::IPV4,
        Family::V6 => IpProtocol::IPV6,
    }
}

/// What a packet with outer protocol `proto` carries, if it is a tunnel packet.
pub const fn inner_family(proto: IpProtocol) -> Option<Family> {
    match proto {
        IpProtocol::IPV4 => Some(Family::V4),
        IpProtocol::IPV6 => Some(Family::V6),
        _ => None,
    }
}

/// A template of the outer header from `src` to `dst`, don't fragment set. See [`stamp`].
pub fn outer(src: Ipv4Addr, dst: Ipv4Addr, inner: Family, ttl: u8) -> Ipv4Header {
    Ipv4Header::new(src, dst, protocol_of(inner), ttl, 0)
}

/// The outer header for an inner packet of `inner_len` bytes. `None` when it does not fit an IPv4 packet.
#[inline]
pub fn stamp(template: &Ipv4Header, inner_len: u16, tos: u8) -> Option<Ipv4Header> {
    let total_len = inner_len.checked_add(OUTER_LEN as u16)?;
    let mut outer = *template;
    outer.set_total_len(total_len);
    outer.set_tos(tos);
    Some(outer)
}

const ECN_MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// The inner type of service behind a tunnel, RFC 6040 section 4.2: inner DSCP, and the congestion the outer header met.
/// `None` where the packet must be dropped: congestion met by a packet whose sender would not understand.
#[inline]
pub const fn decapsulated_tos(outer: u8, inner: u8) -> Option<u8> {
    match (inner & ECN_MASK, outer & ECN_MASK) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(inner),
        (_, CE) => Some(inner | CE),
        (CE, _) => Some(inner),
        (_, ECT_1) => Some(inner & !ECN_MASK | ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::packet::parse_l3;

    #[test]
    fn a_stamped_header_carries_the_inner_packet() {
        let template = outer(
            Ipv4Addr::new(192, 0, 2, 1),
            Ipv4Addr::new(192, 0, 2, 2),
            Family::V6,
            64,
        );
        let header = stamp(&template, 40, 3).unwrap();
        let bytes = [header.as_bytes(), &[0x60; 40]].concat();
        let packet = parse_l3(&bytes).unwrap();
        assert_eq!(inner_family(packet.proto), Some(Family::V6));
        assert_eq!((packet.tos, packet.l4_offset, packet.total_len), (3, 20, 60));
        assert!(stamp(&template, 65_516, 0).is_none());
        assert_eq!(inner_family(IpProtocol::GRE), None);
    }

    #[test]
    fn congestion_crosses_the_tunnel_as_rfc_6040_figure_4_says() {
        const ECT_0: u8 = 0b10;
        // Rows: inner Not-ECT, ECT(0), ECT(1), CE. Columns: outer Not-ECT, ECT(0), ECT(1), CE.
        let figure = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ];
        for (inner, row) in figure {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let dscp = 0xb8;
                let found = decapsulated_tos(0x20 | outer, dscp | inner);
                assert_eq!(
                    found,
                    expected.map(|ecn| dscp | ecn),
                    "inner {inner:02b} outer {outer:02b}"
                );
            }
        }
    }
}
