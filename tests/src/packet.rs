//! Packets to be replayed, made by etherparse: an IP packet with its transport header, checksums right unless a case breaks them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

/// An IP packet, to be given a link header by who sends it (see [`crate::cluster`]).
#[derive(Clone, Debug)]
pub struct IpPacket {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// IPv4: may not be fragmented.
    pub dont_fragment: bool,
    /// Identification, used in IPv4 and in fragments.
    pub id: u16,
    /// Offset in bytes and "more fragments".
    pub fragment: Option<(u16, bool)>,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension header before the transport header: its type, and all of its bytes but the next header field.
    pub extension: Option<(u8, Vec<u8>)>,
    /// Protocol of `payload`.
    pub proto: u8,
    /// Transport header and data.
    pub payload: Vec<u8>,
}

/// TCP flags by letter: S, A, F, R, P, U.
pub fn tcp(src: &str, dst: &str, flags: &str, seq: u32, ack: u32, len: usize) -> IpPacket {
    let (src, dst) = (socket(src), socket(dst));
    let mut header = TcpHeader::new(src.port(), dst.port(), seq, 64240);
    for flag in flags.chars() {
        match flag {
            'S' => header.syn = true,
            'A' => header.ack = true,
            'F' => header.fin = true,
            'R' => header.rst = true,
            'P' => header.psh = true,
            'U' => header.urg = true,
            other => panic!("no TCP flag {other}"),
        }
    }
    header.acknowledgment_number = ack;
    if header.syn {
        header
            .set_options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)])
            .expect("one option fits");
    }
    let data = data(len);
    header.checksum = match (src.ip(), dst.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => header.calc_checksum_ipv4_raw(s.octets(), d.octets(), &data),
        (IpAddr::V6(s), IpAddr::V6(d)) => header.calc_checksum_ipv6_raw(s.octets(), d.octets(), &data),
        _ => panic!("{src} and {dst} are of two families"),
    }
    .expect("short enough");
    let mut payload = header.to_bytes().to_vec();
    payload.extend(data);
    IpPacket::new(src.ip(), dst.ip(), IpNumber::TCP, payload)
}

/// A UDP datagram with `len` bytes of data.
pub fn udp(src: &str, dst: &str, len: usize) -> IpPacket {
    udp_with(src, dst, &data(len))
}

/// A UDP datagram with this data.
pub fn udp_with(src: &str, dst: &str, data: &[u8]) -> IpPacket {
    let (src, dst) = (socket(src), socket(dst));
    let header = match (src.ip(), dst.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let bare =
                UdpHeader::without_ipv4_checksum(src.port(), dst.port(), data.len()).expect("short enough");
            UdpHeader {
                checksum: bare
                    .calc_checksum_ipv4_raw(s.octets(), d.octets(), data)
                    .expect("short enough"),
                ..bare
            }
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let bare =
                UdpHeader::without_ipv4_checksum(src.port(), dst.port(), data.len()).expect("short enough");
            UdpHeader {
                checksum: bare
                    .calc_checksum_ipv6_raw(s.octets(), d.octets(), data)
                    .expect("short enough"),
                ..bare
            }
        }
        _ => panic!("{src} and {dst} are of two families"),
    };
    let mut payload = header.to_bytes().to_vec();
    payload.extend_from_slice(data);
    IpPacket::new(src.ip(), dst.ip(), IpNumber::UDP, payload)
}

/// An SCTP packet with one chunk of type `chunk` and `len` bytes in it, its CRC right.
pub fn sctp(src: &str, dst: &str, chunk: u8, len: usize) -> IpPacket {
    let (src, dst) = (socket(src), socket(dst));
    let mut payload = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    payload.extend_from_slice(&[0, 0, 0, 7, 0, 0, 0, 0, chunk, 0]);
    payload.extend_from_slice(&(len as u16 + 4).to_be_bytes());
    payload.extend(data(len.next_multiple_of(4)));
    let crc = crc32c(&payload);
    payload[8..12].copy_from_slice(&crc.to_le_bytes());
    IpPacket::new(src.ip(), dst.ip(), IpNumber::SCTP, payload)
}

/// The CRC of SCTP, bit by bit, RFC 9260 appendix A.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// An ICMP or ICMPv6 message, by the family of the addresses.
pub fn icmp(src: &str, dst: &str, kind: u8, code: u8, word: u32, body: &[u8]) -> IpPacket {
    let (src, dst): (IpAddr, IpAddr) = (ip(src), ip(dst));
    let mut payload = [&[kind, code, 0, 0][..], &word.to_be_bytes(), body].concat();
    let mut sum = 0_u32;
    let mut add = |bytes: &[u8]| {
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    };
    add(&payload);
    let proto = match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => IpNumber::ICMP,
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            add(&s.octets());
            add(&d.octets());
            add(&(payload.len() as u32).to_be_bytes());
            add(&[0, IpNumber::IPV6_ICMP.0]);
            IpNumber::IPV6_ICMP
        }
        _ => panic!("{src} and {dst} are of two families"),
    };
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    payload[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    IpPacket::new(src, dst, proto, payload)
}

/// An echo request with `len` bytes of data.
pub fn ping(src: &str, dst: &str, id: u16, seq: u16, len: usize) -> IpPacket {
    let kind = if src.contains(':') { 128 } else { 8 };
    icmp(
        src,
        dst,
        kind,
        0,
        u32::from(id) << 16 | u32::from(seq),
        &data(len),
    )
}

/// An echo reply with `len` bytes of data.
pub fn pong(src: &str, dst: &str, id: u16, seq: u16, len: usize) -> IpPacket {
    let kind = if src.contains(':') { 129 } else { 0 };
    icmp(
        src,
        dst,
        kind,
        0,
        u32::from(id) << 16 | u32::from(seq),
        &data(len),
    )
}

/// An ICMP error about `original` as a router on the way got it (TTL 1), quoting up to `quote` bytes.
pub fn icmp_error(
    src: &str,
    dst: &str,
    kind: u8,
    code: u8,
    word: u32,
    original: &IpPacket,
    quote: usize,
) -> IpPacket {
    let mut bytes = original.clone().ttl(1).bytes();
    bytes.truncate(quote);
    icmp(src, dst, kind, code, word, &bytes)
}

impl IpPacket {
    /// A packet with TTL 64 that may not be fragmented.
    pub fn new(src: IpAddr, dst: IpAddr, proto: IpNumber, payload: Vec<u8>) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            tos: 0,
            dont_fragment: true,
            id: 0x1234,
            fragment: None,
            options: Vec::new(),
            extension: None,
            proto: proto.0,
            payload,
        }
    }

    /// With this TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With this DSCP and ECN.
    #[must_use]
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// Routers may fragment it.
    #[must_use]
    pub fn may_fragment(mut self) -> Self {
        self.dont_fragment = false;
        self
    }

    /// The fragments of at most `mtu` bytes with this identification.
    pub fn cut(self, mtu: usize, id: u16) -> Vec<Self> {
        let headers = if self.src.is_ipv4() { 20 } else { 48 };
        let step = (mtu - headers) & !7;
        let count = self.payload.len().div_ceil(step);
        let pieces = self.payload.chunks(step).enumerate();
        pieces
            .map(|(index, piece)| Self {
                id,
                dont_fragment: false,
                fragment: Some(((index * step) as u16, index + 1 < count)),
                payload: piece.to_vec(),
                ..self.clone()
            })
            .collect()
    }

    /// From the IP header on.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let len = self.payload.len() as u16;
                let mut header =
                    Ipv4Header::new(len, self.ttl, IpNumber(self.proto), src.octets(), dst.octets())
                        .expect("short enough");
                header.dscp = etherparse::IpDscp::try_new(self.tos >> 2).expect("six bits");
                header.ecn = etherparse::IpEcn::try_new(self.tos & 3).expect("two bits");
                header.identification = self.id;
                header.dont_fragment = self.dont_fragment;
                if let Some((offset, more)) = self.fragment {
                    header.fragment_offset = etherparse::IpFragOffset::try_new(offset / 8).expect("13 bits");
                    header.more_fragments = more;
                }
                header.options = self
                    .options
                    .as_slice()
                    .try_into()
                    .expect("at most 40 bytes in words");
                header.set_payload_len(self.payload.len()).expect("short enough");
                header.write(&mut out).expect("a vector takes everything");
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut extensions = Vec::new();
                let mut next = self.proto;
                if let Some((offset, more)) = self.fragment {
                    let [high, low] = (offset | u16::from(more)).to_be_bytes();
                    extensions = vec![next, 0, high, low, 0, 0];
                    extensions.extend_from_slice(&self.id.to_be_bytes());
                    next = IpNumber::IPV6_FRAGMENTATION_HEADER.0;
                }
                if let Some((kind, bytes)) = &self.extension {
                    extensions = [&[next], &bytes[..], &extensions].concat();
                    next = *kind;
                }
                Ipv6Header {
                    traffic_class: self.tos,
                    flow_label: Ipv6FlowLabel::ZERO,
                    payload_length: (extensions.len() + self.payload.len()) as u16,
                    next_header: IpNumber(next),
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                }
                .write(&mut out)
                .expect("a vector takes everything");
                out.extend(extensions);
            }
            _ => panic!("{} and {} are of two families", self.src, self.dst),
        }
        out.extend_from_slice(&self.payload);
        out
    }

    /// Behind an Ethernet header.
    pub fn frame(&self, src_mac: [u8; 6], dst_mac: [u8; 6]) -> Vec<u8> {
        let kind: [u8; 2] = if self.src.is_ipv4() { [8, 0] } else { [0x86, 0xdd] };
        [&dst_mac[..], &src_mac, &kind, &self.bytes()].concat()
    }
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
fn socket(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is no address with a port"))
}

/// An address.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

/// `len` bytes that tell their place.
pub fn data(len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) ^ (i >> 8).wrapping_mul(7)) as u8)
        .collect()
}
