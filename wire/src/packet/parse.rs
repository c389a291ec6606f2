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
        if cut == Cut::No && !checksum_of_plain_header_is_valid(fixed) {
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

    let mut packet = Packet {
        family: Family::V4,
        proto: header.proto,
        ttl: header.ttl,
        tos: header.tos,
        l4_offset: header_len as u16,
        sport: Port::ZERO,
        dport: Port::ZERO,
        tcp_flags: TcpFlags::NONE,
        icmp_type: 0,
        icmp_code: 0,
        dont_fragment: flags_offset & ipv4::DONT_FRAGMENT != 0,
        source_routed,
        total_len: total_len as u32,
        fragment,
    };
    read_l4(&mut packet, bytes, cut)?;
    Ok(packet)
}

/// Five loads of four bytes, nothing to loop over.
#[inline]
fn checksum_of_plain_header_is_valid(header: &[u8; ipv4::HEADER_LEN]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    words
        .iter()
        .fold(Sum::ZERO, |sum, word| sum + Sum::of_address_v4(*word))
        .is_valid()
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
    let mut packet = Packet {
        family: Family::V6,
        proto: header.next_header,
        ttl: header.hop_limit,
        tos: header.traffic_class(),
        l4_offset: ipv6::HEADER_LEN as u16,
        sport: Port::ZERO,
        dport: Port::ZERO,
        tcp_flags: TcpFlags::NONE,
        icmp_type: 0,
        icmp_code: 0,
        dont_fragment: true,
        source_routed: false,
        total_len: total_len as u32,
        fragment: None,
    };
    if !matches!(
        header.next_header,
        IpProtocol::TCP | IpProtocol::UDP | IpProtocol::ICMPV6
    ) {
        read_extensions(&mut packet, bytes, cut)?;
    }
    read_l4(&mut packet, bytes, cut)?;
    Ok(packet)
}

#[cold]
fn read_extensions(packet: &mut Packet, bytes: &[u8], cut: Cut) -> Result<(), Malformed> {
    let within = bytes.get(..packet.total_len as usize).unwrap_or(bytes);
    let upper = ipv6::walk(within)?;
    packet.proto = upper.proto;
    packet.l4_offset = upper.offset;
    packet.source_routed = upper.source_routed;
    if let Some(header) = upper.fragment {
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
        let payload_len = (packet.total_len as usize).saturating_sub(fragment_header_end);
        check_fragment(fragment, payload_len, before, upper.proto, cut)?;
        packet.fragment = Some(fragment);
    }
    Ok(())
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

/// Reads ports, flags, type and code; nothing from later fragments.
#[inline]
fn read_l4(packet: &mut Packet, bytes: &[u8], cut: Cut) -> Result<(), Malformed> {
    if packet.is_later_fragment() {
        return Ok(());
    }
    let end = (packet.total_len as usize).min(bytes.len());
    let l4 = bytes.get(usize::from(packet.l4_offset)..end).unwrap_or_default();
    let l4_len = packet.l4_len();
    let header_len_min = |full: usize| {
        if cut == Cut::Embedded {
            EMBEDDED_L4_LEN_MIN
        } else {
            full
        }
    };
    match (packet.proto, packet.family) {
        (IpProtocol::TCP, _) => {
            let head = checked_head(l4, header_len_min(tcp::HEADER_LEN)).ok_or(Malformed::TcpHeader)?;
            read_ports(packet, head);
            if let Some(header) = tcp::TcpHeader::prefix(l4) {
                let header_len = header.header_len();
                if cut == Cut::No && (header_len < tcp::HEADER_LEN || header_len > l4.len()) {
                    return Err(Malformed::TcpHeader);
                }
                packet.tcp_flags = header.flags;
            }
        }
        (IpProtocol::UDP, _) => {
            let head = checked_head(l4, udp::HEADER_LEN).ok_or(Malformed::UdpHeader)?;
            read_ports(packet, head);
            let len = u32::from(u16::from_be_bytes([head[4], head[5]]));
            // A first fragment carries the length of the whole datagram.
            let beyond = len > l4_len && packet.fragment.is_none() && cut == Cut::No;
            if len < udp::HEADER_LEN as u32 || beyond {
                return Err(Malformed::UdpHeader);
            }
        }
        (IpProtocol::ICMP, Family::V4) => {
            let head = checked_head(l4, icmp::HEADER_LEN).ok_or(Malformed::IcmpHeader)?;
            read_icmp(
                packet,
                head,
                matches!(head[0], icmp::ECHO_REQUEST | icmp::ECHO_REPLY),
            );
        }
        (IpProtocol::ICMPV6, Family::V6) => {
            let head = checked_head(l4, icmp::HEADER_LEN).ok_or(Malformed::IcmpHeader)?;
            read_icmp(
                packet,
                head,
                matches!(head[0], icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY),
            );
        }
        (IpProtocol::SCTP, _) => {
            let head = checked_head(l4, header_len_min(sctp::HEADER_LEN)).ok_or(Malformed::SctpHeader)?;
            read_ports(packet, head);
        }
        _ => {}
    }
    Ok(())
}

/// The first eight bytes of `l4`, if it has at least `len_min` (eight or more).
#[inline]
fn checked_head(l4: &[u8], len_min: usize) -> Option<[u8; 8]> {
    if l4.len() < len_min {
        None
    } else {
        l4.first_chunk().copied()
    }
}

#[inline]
fn read_ports(packet: &mut Packet, head: [u8; 8]) {
    packet.sport = Port::from_wire([head[0], head[1]]);
    packet.dport = Port::from_wire([head[2], head[3]]);
}

#[inline]
fn read_icmp(packet: &mut Packet, head: [u8; 8], is_echo: bool) {
    packet.icmp_type = head[0];
    packet.icmp_code = head[1];
    if is_echo {
        packet.sport = Port::from_wire([head[4], head[5]]);
        packet.dport = packet.sport;
    }
}
