//! Packets, built whole and slowly by `etherparse`: templates for the emitters, expectations for what comes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4};

use etherparse::PacketBuilder;
use wire::Mac;

/// The transport of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Transport {
    /// TCP with a handshake before.
    Tcp,
    /// UDP, three datagrams before.
    Udp,
}

impl Transport {
    /// Bytes of its header.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
        }
    }

    /// Its number in the IP header.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Offset of its checksum.
    pub(crate) const fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// The version of IP that flows speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Family {
    /// IPv4.
    #[value(name = "4")]
    V4,
    /// IPv6: every address is one of IPv4 behind `fd00::/96`.
    #[value(name = "6")]
    V6,
}

impl Family {
    /// Bytes of its header.
    pub(crate) const fn header_len(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// The address that stands for this one.
    pub(crate) fn address(self, address: Ipv4Addr) -> IpAddr {
        match self {
            Self::V4 => address.into(),
            Self::V6 => Ipv6Addr::from_bits(PREFIX_V6 | u128::from(address.to_bits())).into(),
        }
    }

    /// The length that stands for this one of an IPv4 prefix.
    pub(crate) const fn prefix_len(self, length: u8) -> u8 {
        match self {
            Self::V4 => length,
            Self::V6 => 96 + length,
        }
    }
}

/// What the transport checksum of a packet from a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ChecksumFill {
    /// As on a wire.
    Full,
    /// The pseudo-header's sum alone, as a socket of this machine leaves it to its device: someone must complete it.
    Partial,
}

/// What a packet of a flow says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The client's first.
    Open,
    /// The server's answer to it.
    Answer,
    /// Whatever follows.
    Data,
}

/// A packet with its number of flow at the start of its data, and zeros behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) transport: Transport,
    pub(crate) family: Family,
    pub(crate) step: Step,
    pub(crate) src: SocketAddrV4,
    pub(crate) dst: SocketAddrV4,
    pub(crate) ttl: u8,
    pub(crate) flow: u32,
    /// Bytes of the Ethernet frame, without check sequence.
    pub(crate) frame_len: usize,
    pub(crate) checksum: ChecksumFill,
}

/// The Ethernet frame of it.
pub(crate) fn frame(to: Mac, from: Mac, content: &Content) -> Vec<u8> {
    let Content {
        transport, family, ..
    } = *content;
    let headers_len = 14 + family.header_len() + transport.header_len();
    let mut payload = vec![0; content.frame_len - headers_len];
    payload[..4].copy_from_slice(&content.flow.to_be_bytes());
    let (src, dst) = (
        family.address(*content.src.ip()),
        family.address(*content.dst.ip()),
    );
    let ethernet = PacketBuilder::ethernet2(from.0, to.0);
    let ip = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), content.ttl),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), content.ttl),
        _ => unreachable!("both are of one family"),
    };
    let mut out = Vec::with_capacity(content.frame_len);
    let (sport, dport) = (content.src.port(), content.dst.port());
    let written = match transport {
        Transport::Udp => ip.udp(sport, dport).write(&mut out, &payload),
        Transport::Tcp => {
            let tcp = ip.tcp(sport, dport, 1000, 64_000);
            match content.step {
                Step::Open => tcp.syn().write(&mut out, &payload),
                Step::Answer => tcp.syn().ack(2000).write(&mut out, &payload),
                Step::Data => tcp.ack(2000).write(&mut out, &payload),
            }
        }
    };
    written.expect("a vector takes what is written");
    assert_eq!(out.len(), content.frame_len);
    if content.checksum == ChecksumFill::Partial {
        let l4 = 14 + family.header_len();
        let addresses = match family {
            Family::V4 => 14 + 12..l4,
            Family::V6 => 14 + 8..l4,
        };
        let pseudo = sum(&out[addresses]) + u32::from(transport.number()) + (out.len() - l4) as u32;
        let at = l4 + transport.checksum_at();
        out[at..at + 2].copy_from_slice(&fold(pseudo).to_be_bytes());
    }
    out
}

/// The sum of 16-bit words.
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

/// The sum of its two halves.
#[inline]
pub(crate) fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// The ones' complement sum of a few dozen 16-bit words, as 16 bits.
#[inline]
pub(crate) fn fold(sum: u32) -> u16 {
    halves(halves(sum)) as u16
}

/// The two ends of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tunnel {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    /// UDP source port.
    pub(crate) sport: u16,
}

/// `inner` in VXLAN (RFC 7348), VNI 4096, as a kernel's device sends it: TTL 64, DF clear, no UDP checksum.
pub(crate) fn vxlan(tunnel: &Tunnel, inner: &[u8]) -> Vec<u8> {
    let (ethernet, ip_len) = (14, 20 + 8 + 8 + inner.len());
    let mut header = etherparse::Ipv4Header::new(
        (ip_len - 20) as u16,
        64,
        etherparse::IpNumber::UDP,
        tunnel.src.octets(),
        tunnel.dst.octets(),
    )
    .expect("the packet fits");
    header.dont_fragment = false;
    header.header_checksum = header.calc_header_checksum();
    let mut out = Vec::with_capacity(ethernet + ip_len);
    out.extend(tunnel.to.0);
    out.extend(tunnel.from.0);
    out.extend([8, 0]);
    header.write(&mut out).expect("a vector takes what is written");
    out.extend(tunnel.sport.to_be_bytes());
    out.extend(4789u16.to_be_bytes());
    out.extend(((ip_len - 20) as u16).to_be_bytes());
    out.extend([0, 0]); // checksum
    out.extend([8, 0, 0, 0, 0, 0x10, 0, 0]);
    out.extend(inner);
    out
}

/// Bytes that VXLAN puts before a frame.
pub(crate) const VXLAN_LEN: usize = 50;
const PREFIX_V6: u128 = 0xfd00 << 112;
