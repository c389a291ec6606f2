//! Packets that a router answers with: ICMP errors, resets, echo replies. From the IP header on; the Ethernet header is
//! the caller's.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;

use crate::checksum::{Delta, Sum};
use crate::icmp::{self, IcmpHeader};
use crate::ipv4::{self, Ipv4Header};
use crate::ipv6::{self, Ipv6Header};
use crate::packet::{Family, Packet};
use crate::proto::IpProtocol;
use crate::tcp::{self, TcpHeader};
use crate::{icmpv6, udp};

/// The longest ICMP error, in bytes, RFC 1812 section 4.3.2.3.
pub const ICMP_ERROR_LEN_MAX: usize = 576;
/// The longest ICMPv6 error, in bytes: the minimum MTU, RFC 4443 section 2.4 (c).
pub const ICMPV6_ERROR_LEN_MAX: usize = 1280;
/// TTL and hop limit of what is made here.
pub const TTL: u8 = 64;
/// Type of service of ICMP errors: internetwork control, RFC 1812 section 4.3.2.5.
pub const ICMP_ERROR_TOS: u8 = 0xc0;

/// True when `packet`, parsed from `l3`, may be answered with an ICMP error or a reset: it is no ICMP error itself, no
/// later fragment, and its addresses name one host each (RFC 1122 section 3.2.2, RFC 4443 section 2.4 (e)).
///
/// "Packet too big" is also sent about IPv6 multicast; `about_multicast` allows that. Broadcast on the link and directed
/// broadcast are the caller's to know.
pub fn may_be_answered(packet: &Packet, l3: &[u8], about_multicast: bool) -> bool {
    // In ICMPv6 any type below 128 is an error, known or not; RFC 4443 adds redirects.
    let is_unanswerable_icmp = packet.is_icmp()
        && match packet.family {
            Family::V4 => icmp::is_error(packet.icmp_type),
            Family::V6 => packet.icmp_type < 128 || packet.icmp_type == icmpv6::REDIRECT,
        };
    if is_unanswerable_icmp || packet.is_later_fragment() {
        return false;
    }
    let src_is_one = match packet.src(l3) {
        // 240.0.0.0/4 holds the limited broadcast and what is reserved.
        IpAddr::V4(src) => {
            !(src.is_unspecified() || src.is_loopback() || src.is_multicast() || src.octets()[0] >= 240)
        }
        IpAddr::V6(src) => !(src.is_unspecified() || src.is_loopback() || src.is_multicast()),
    };
    let dst_is_one = match packet.dst(l3) {
        IpAddr::V4(dst) => !(dst.is_multicast() || dst.is_broadcast()),
        IpAddr::V6(dst) => !dst.is_multicast() || about_multicast,
    };
    src_is_one && dst_is_one
}

/// Writes an ICMP error from `from` about `original`, the bytes from its IPv4 header to its end (padding left out). As
/// much of it as [`ICMP_ERROR_LEN_MAX`] and `out` have room for is embedded. Returns the length written; `None` when
/// `original` has no IPv4 header or `out` no room for a header and eight bytes.
///
/// `rest` is the second word of the message: the MTU of "fragmentation needed", a pointer, or 0.
pub fn icmp_error(
    out: &mut [u8],
    from: Ipv4Addr,
    original: &[u8],
    icmp_type: u8,
    code: u8,
    rest: u32,
) -> Option<usize> {
    let to = Ipv4Header::prefix(original)?.src();
    let room = out.len().min(ICMP_ERROR_LEN_MAX);
    let (header, message, len) = split_error(out, ipv4::HEADER_LEN, room, original)?;
    let mut ip = Ipv4Header::new(from, to, IpProtocol::ICMP, TTL, message.len() as u16);
    ip.set_tos(ICMP_ERROR_TOS);
    ip.set_fragment(0, 0);
    ip.write_to(header).ok()?;
    IcmpHeader::new(icmp_type, code, rest)
        .write_to_prefix(message)
        .ok()?;
    icmp::write_checksum(message, Sum::ZERO);
    Some(len)
}

/// Writes an ICMPv6 error from `from` about `original`, the bytes from its IPv6 header to its end (padding left out). As
/// much of it as [`ICMPV6_ERROR_LEN_MAX`] and `out` have room for is embedded. Returns the length written; `None` when
/// `original` has no IPv6 header or `out` no room for a header and eight bytes.
///
/// `rest` is the second word of the message: the MTU of "packet too big", a pointer, or 0.
pub fn icmpv6_error(
    out: &mut [u8],
    from: Ipv6Addr,
    original: &[u8],
    icmp_type: u8,
    code: u8,
    rest: u32,
) -> Option<usize> {
    let to = Ipv6Header::prefix(original)?.src();
    let room = out.len().min(ICMPV6_ERROR_LEN_MAX);
    let (header, message, len) = split_error(out, ipv6::HEADER_LEN, room, original)?;
    Ipv6Header::new(from, to, IpProtocol::ICMPV6, TTL, message.len() as u16)
        .write_to(header)
        .ok()?;
    IcmpHeader::new(icmp_type, code, rest)
        .write_to_prefix(message)
        .ok()?;
    let pseudo = Sum::pseudo_v6(
        from.octets(),
        to.octets(),
        IpProtocol::ICMPV6,
        message.len() as u32,
    );
    icmp::write_checksum(message, pseudo);
    Some(len)
}

/// Lays out IP header and message in `out` with as much of `original` as `room` bytes in all allow.
fn split_error<'a>(
    out: &'a mut [u8],
    header_len: usize,
    room: usize,
    original: &[u8],
) -> Option<(&'a mut [u8], &'a mut [u8], usize)> {
    let embedded_len = original
        .len()
        .min(room.checked_sub(header_len + icmp::HEADER_LEN)?);
    // The embedded packet must tell its ports, or nobody can use the error.
    if embedded_len < original.len().min(header_len + udp::HEADER_LEN) {
        return None;
    }
    let len = header_len + icmp::HEADER_LEN + embedded_len;
    let (header, message) = out.get_mut(..len)?.split_at_mut_checked(header_len)?;
    message
        .get_mut(icmp::HEADER_LEN..)?
        .copy_from_slice(original.get(..embedded_len)?);
    Some((header, message, len))
}

/// Writes the reset that answers the segment of `packet`, parsed from `l3`. Returns the length written, 40 or 60; `None`
/// when it is no TCP, a fragment, itself a reset, or `out` is too short.
pub fn tcp_reset(out: &mut [u8], packet: &Packet, l3: &[u8]) -> Option<usize> {
    if packet.proto != IpProtocol::TCP || packet.fragment.is_some() {
        return None;
    }
    let segment = TcpHeader::prefix(l3.get(usize::from(packet.l4_offset)..)?)?;
    let payload_len = packet.l4_len().saturating_sub(segment.header_len() as u32);
    let reset = TcpHeader::reset_for(segment, payload_len)?;
    // The answer goes the other way.
    tcp_segment(out, packet.dst(l3), packet.src(l3), &reset)
}

/// Writes a packet of `header` alone, from `src` to `dst`, its checksum computed. Returns the length written, 40 or 60;
/// `None` when `out` is too short or the families differ.
pub fn tcp_segment(out: &mut [u8], src: IpAddr, dst: IpAddr, header: &TcpHeader) -> Option<usize> {
    const L4_LEN: u16 = tcp::HEADER_LEN as u16;
    let mut tcp = *header;
    tcp.checksum = zerocopy::network_endian::U16::ZERO;
    let (pseudo, ip_len) = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Ipv4Header::new(src, dst, IpProtocol::TCP, TTL, L4_LEN)
                .write_to_prefix(out)
                .ok()?;
            (
                Sum::pseudo_v4(src.octets(), dst.octets(), IpProtocol::TCP, L4_LEN),
                ipv4::HEADER_LEN,
            )
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Ipv6Header::new(src, dst, IpProtocol::TCP, TTL, L4_LEN)
                .write_to_prefix(out)
                .ok()?;
            let pseudo = Sum::pseudo_v6(src.octets(), dst.octets(), IpProtocol::TCP, u32::from(L4_LEN));
            (pseudo, ipv6::HEADER_LEN)
        }
        _ => return None,
    };
    tcp.checksum = (pseudo + Sum::of(tcp.as_bytes())).checksum();
    tcp.write_to_prefix(out.get_mut(ip_len..)?).ok()?;
    Some(ip_len + tcp::HEADER_LEN)
}

/// Turns the echo request of `packet`, parsed from `l3`, into its reply in place: addresses swapped, TTL fresh, checksums
/// updated. Returns false, and changes nothing, when it is no echo request.
pub fn echo_reply_in_place(packet: &Packet, l3: &mut [u8]) -> bool {
    if !packet.is_echo_request() {
        return false;
    }
    let reply_type = match packet.family {
        Family::V4 => icmp::ECHO_REPLY,
        Family::V6 => icmpv6::ECHO_REPLY,
    };
    let Some((ip, message)) = l3.split_at_mut_checked(usize::from(packet.l4_offset)) else {
        return false;
    };
    let Some(header) = IcmpHeader::prefix_mut(message) else {
        return false;
    };
    // A swap leaves sums as they are, so only the type counts.
    match packet.family {
        Family::V4 => {
            let Some(ip) = Ipv4Header::prefix_mut(ip) else {
                return false;
            };
            let (src, dst) = (ip.src(), ip.dst());
            ip.set_src(dst);
            ip.set_dst(src);
            ip.set_ttl(TTL);
        }
        Family::V6 => {
            let Some(ip) = Ipv6Header::prefix_mut(ip) else {
                return false;
            };
            let (src, dst) = (ip.src(), ip.dst());
            ip.set_src(dst);
            ip.set_dst(src);
            ip.hop_limit = TTL;
        }
    }
    Delta::of_u16(u16::from(header.icmp_type) << 8, u16::from(reply_type) << 8).apply(&mut header.checksum);
    header.icmp_type = reply_type;
    true
}

#[cfg(test)]
mod tests;
