//! From bytes to [`Packet`]: a single pass, and no loop for IPv4 without options.

use super::{Family, Fragment, Malformed, Packet};
use crate::addr::Port;
use crate::checksum::Sum;
use crate::proto::IpProtocol;
use crate::tcp::TcpFlags;
use crate::{icmp, icmpv6, ipv4, ipv6, sctp, tcp, udp};

/// The transport bytes that an ICMP error must carry (RFC 792; RFC 4443 promises more).
const EMBEDDED_L4_LEN_MIN: usize = 8;

/// How much of a packet the bytes hold.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// All of it, though maybe in further buffers.
    No,
    /// Only as much as an ICMP error took.
    Embedded,
}

/// Parses the packet whose IP header starts `bytes`; what lies behind its length is padding.
///
/// What it checks: version, lengths, IPv4 header checksum and options, extension headers, the place of a fragment,
/// and (but for later fragments) that the transport header is there and its lengths agree. Not the transport
/// checksum, see [`Packet::l4_checksum_is_valid`].
#[inline]
pub fn parse_l3(bytes: &[u8]) -> Result<Packet, Malformed> {
    parse(bytes, bytes.len(), Cut::No)
}

/// As [`parse_l3`] for a packet in several buffers: `head` is the first and must hold all headers, `available` counts
/// the bytes of all buffers from the IP header on.
#[inline]
pub fn parse_l3_head(head: &[u8], available: usize) -> Result<Packet, Malformed> {
    parse(head, available.max(head.len()), Cut::No)
}

/// Parses the packet inside an ICMP error, of which at least eight bytes behind the IP header must be there. Its
/// length and header checksum are not checked: it was cut, and its last router may have changed its TTL.
///
/// [`Packet::total_len`] is what the header says and may be beyond `bytes`; [`Packet::tcp_flags`] are none when they
/// were cut off.
pub fn parse_embedded(bytes: &[u8]) -> Result<Packet, Malformed> {
    parse(bytes, usize::MAX, Cut::Embedded)
}

#[inline]
fn parse(bytes: &[u8], available: usize, cut: Cut) -> Result<Packet, Malformed> {
    match bytes {
        [0x40..=0x4f, ..] => parse_v4(bytes, available, cut),
        [0x60..=0x6f, ..] => parse_v6(bytes, available, cut),
        [_, ..] => Err(Malformed::Version),
        [] => Err(Malformed::Truncated),
    }
}

#[inline]
fn parse_v4(bytes: &[u8], available: usize, cut: Cut) -> Result<Packet, Malformed> {
    let header = ipv4::Ipv4Header::prefix(bytes).ok_or(Malformed::Truncated)?;
    let header_len = header.header_len();
    let mut source_routed = false;
    if header_len == ipv4::HEADER_LEN {
        let fixed: &[u8; ipv4::HEADER_LEN] = zerocopy::transmute_ref!(header);
        if cut == Cut::No && !Sum::of_plain_ipv4(fixed).is_valid() {
            return Err(Malformed::HeaderChecksum);
        }
    } else {
        source_routed = check_options(bytes, header_len, cut)?;
    }

    let total_len = usize::from(header.total_len.get());
    if total_len < header_len || total_len > available {
        return Err(Malformed::TotalLength);
    }
    let flags_offset = header.flags_offset.get();
    let fragment = if flags_offset & (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK) == 0 {
        None
    } else {
        let (offset, more) = (header.fragment_offset(), header.more_fragments());
        let fragment = Fragment {
            id: u32::from(header.id.get()),
            offset,
            more,
        };
        // The reassembled packet has this header too, and its total length 16 bits.
        check_fragment(fragment, total_len - header_len, header_len, header.proto, cut)?;
        Some(fragment)
    };

    let place = Place {
        family: Family::V4,
        proto: header.proto,
        l4_offset: header_len,
        total_len,
        fragment,
    };
    let l4 = read_l4(place, bytes, cut)?;
    Ok(Packet {
        family: Family::V4,
        proto: header.proto,
        ttl: header.ttl,
        tos: header.tos,
        l4_offset: header_len as u16,
        sport: l4.sport,
        dport: l4.dport,
        tcp_flags: l4.tcp_flags,
        icmp_type: l4.icmp_type,
        icmp_code: l4.icmp_code,
        dont_fragment: flags_offset & ipv4::DONT_FRAGMENT != 0,
        source_routed,
        total_len: total_len as u32,
        fragment,
    })
}

/// The rare header with options. Returns whether it holds a source route.
#[cold]
fn check_options(bytes: &[u8], header_len: usize, cut: Cut) -> Result<bool, Malformed> {
    if header_len < ipv4::HEADER_LEN {
        return Err(Malformed::HeaderLength);
    }
    let header = bytes.get(..header_len).ok_or(Malformed::HeaderLength)?;
    if cut == Cut::No && !Sum::of(header).is_valid() {
        return Err(Malformed::HeaderChecksum);
    }
    let mut source_routed = false;
    for option in ipv4::Options::new(header.get(ipv4::HEADER_LEN..).unwrap_or_default()) {
        source_routed |= option
            .map_err(|ipv4::BadOption| Malformed::Ipv4Option)?
            .is_source_route();
    }
    Ok(source_routed)
}

#[inline]
fn parse_v6(bytes: &[u8], available: usize, cut: Cut) -> Result<Packet, Malformed> {
    let header = ipv6::Ipv6Header::prefix(bytes).ok_or(Malformed::Truncated)?;
    let total_len = ipv6::HEADER_LEN + usize::from(header.payload_len.get());
    if total_len > available {
        return Err(Malformed::TotalLength);
    }
    let (upper, fragment) = match header.next_header {
        proto @ (IpProtocol::TCP | IpProtocol::UDP | IpProtocol::ICMPV6) => {
            let offset = ipv6::HEADER_LEN as u16;
            let upper = ipv6::Upper {
                proto,
                offset,
                fragment_header: None,
                fragment: None,
                source_routed: false,
            };
            (upper, None)
        }
        _ => read_extensions(bytes, total_len, cut)?,
    };
    let l4_offset = usize::from(upper.offset);
    let place = Place {
        family: Family::V6,
        proto: upper.proto,
        l4_offset,
        total_len,
        fragment,
    };
    let l4 = read_l4(place, bytes, cut)?;
    Ok(Packet {
        family: Family::V6,
        proto: upper.proto,
        ttl: header.hop_limit,
        tos: header.traffic_class(),
        l4_offset: upper.offset,
        sport: l4.sport,
        dport: l4.dport,
        tcp_flags: l4.tcp_flags,
        icmp_type: l4.icmp_type,
        icmp_code: l4.icmp_code,
        dont_fragment: true,
        source_routed: upper.source_routed,
        total_len: total_len as u32,
        fragment,
    })
}

#[cold]
fn read_extensions(
    bytes: &[u8],
    total_len: usize,
    cut: Cut,
) -> Result<(ipv6::Upper, Option<Fragment>), Malformed> {
    let upper = ipv6::walk(bytes.get(..total_len).unwrap_or(bytes))?;
    let Some(header) = upper.fragment else {
        return Ok((upper, None));
    };
    let fragment = Fragment {
        id: header.id.get(),
        offset: header.offset(),
        more: header.more(),
    };
    // Extension headers before the fragment header count in the reassembled payload length, RFC 8200 section 4.5.
    let before = upper
        .fragment_header
        .map_or(0, usize::from)
        .saturating_sub(ipv6::HEADER_LEN);
    let fragment_header_end = before + ipv6::HEADER_LEN + ipv6::FRAGMENT_HEADER_LEN;
    let payload_len = total_len.saturating_sub(fragment_header_end);
    check_fragment(fragment, payload_len, before, upper.proto, cut)?;
    Ok((upper, Some(fragment)))
}

/// `headers_len` is what counts against 65,535 together with the fragments' payloads.
#[cold]
fn check_fragment(
    fragment: Fragment,
    payload_len: usize,
    headers_len: usize,
    proto: IpProtocol,
    cut: Cut,
) -> Result<(), Malformed> {
    let Fragment { offset, more, .. } = fragment;
    if cut == Cut::Embedded {
        return Ok(());
    }
    if payload_len == 0 || more && !payload_len.is_multiple_of(8) {
        return Err(Malformed::FragmentLength);
    }
    if headers_len + usize::from(offset) + payload_len > usize::from(u16::MAX) {
        return Err(Malformed::FragmentOverflow);
    }
    if proto == IpProtocol::TCP && offset != 0 && usize::from(offset) < tcp::HEADER_LEN {
        return Err(Malformed::FragmentOverlapsHeader);
    }
    Ok(())
}

/// What the transport header says. By value: written through a reference to the packet it would be read back at once,
/// in wider pieces than it was written.
#[derive(Clone, Copy, Default)]
struct L4 {
    sport: Port,
    dport: Port,
    tcp_flags: TcpFlags,
    icmp_type: u8,
    icmp_code: u8,
}

/// Where the transport header is.
#[derive(Clone, Copy)]
struct Place {
    family: Family,
    proto: IpProtocol,
    l4_offset: usize,
    total_len: usize,
    fragment: Option<Fragment>,
}

/// Reads ports, flags, type and code; nothing from later fragments.
#[inline]
fn read_l4(place: Place, bytes: &[u8], cut: Cut) -> Result<L4, Malformed> {
    let Place {
        family,
        proto,
        l4_offset,
        total_len,
        fragment,
    } = place;
    if fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Ok(L4::default());
    }
    let l4 = bytes
        .get(l4_offset..total_len.min(bytes.len()))
        .unwrap_or_default();
    match (proto, family) {
        (IpProtocol::TCP, _) => {
            let Some(header) = tcp::TcpHeader::prefix(l4) else {
                let head = embedded_head(l4, cut).ok_or(Malformed::TcpHeader)?;
                return Ok(ports(head));
            };
            let header_len = header.header_len();
            if cut == Cut::No && (header_len < tcp::HEADER_LEN || header_len > l4.len()) {
                return Err(Malformed::TcpHeader);
            }
            Ok(L4 {
                sport: header.src,
                dport: header.dst,
                tcp_flags: header.flags,
                ..L4::default()
            })
        }
        (IpProtocol::UDP, _) => {
            let header = udp::UdpHeader::prefix(l4).ok_or(Malformed::UdpHeader)?;
            let len = usize::from(header.len.get());
            // A first fragment carries the length of the whole datagram.
            let beyond = len > total_len.saturating_sub(l4_offset) && fragment.is_none() && cut == Cut::No;
            if len < udp::HEADER_LEN || beyond {
                return Err(Malformed::UdpHeader);
            }
            Ok(L4 {
                sport: header.src,
                dport: header.dst,
                ..L4::default()
            })
        }
        (IpProtocol::ICMP, Family::V4) => {
            let header = icmp::IcmpHeader::prefix(l4).ok_or(Malformed::IcmpHeader)?;
            Ok(type_and_code(
                *header,
                matches!(header.icmp_type, icmp::ECHO_REQUEST | icmp::ECHO_REPLY),
            ))
        }
        (IpProtocol::ICMPV6, Family::V6) => {
            let header = icmp::IcmpHeader::prefix(l4).ok_or(Malformed::IcmpHeader)?;
            Ok(type_and_code(
                *header,
                matches!(header.icmp_type, icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY),
            ))
        }
        (IpProtocol::SCTP, _) => match sctp::SctpHeader::prefix(l4) {
            Some(header) => Ok(L4 {
                sport: header.src,
                dport: header.dst,
                ..L4::default()
            }),
            None => embedded_head(l4, cut).map(ports).ok_or(Malformed::SctpHeader),
        },
        _ => Ok(L4::default()),
    }
}

/// The eight bytes that an ICMP error carries at least, where fewer than a whole header are there.
#[cold]
fn embedded_head(l4: &[u8], cut: Cut) -> Option<[u8; EMBEDDED_L4_LEN_MIN]> {
    if cut == Cut::Embedded {
        l4.first_chunk().copied()
    } else {
        None
    }
}

fn ports(head: [u8; EMBEDDED_L4_LEN_MIN]) -> L4 {
    let [s0, s1, d0, d1, ..] = head;
    L4 {
        sport: Port::from_wire([s0, s1]),
        dport: Port::from_wire([d0, d1]),
        ..L4::default()
    }
}

#[inline]
fn type_and_code(header: icmp::IcmpHeader, is_echo: bool) -> L4 {
    let id = if is_echo {
        Port::new(header.echo_id())
    } else {
        Port::ZERO
    };
    L4 {
        sport: id,
        dport: id,
        icmp_type: header.icmp_type,
        icmp_code: header.code,
        ..L4::default()
    }
}
