//! Packets, built whole and slowly by `etherparse`: templates for the emitters, expectations for what comes out.

use std::net::{Ipv4Addr, SocketAddrV4};

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

    /// Offset of its checksum.
    pub(crate) const fn checksum_at(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
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
    pub(crate) step: Step,
    pub(crate) src: SocketAddrV4,
    pub(crate) dst: SocketAddrV4,
    pub(crate) ttl: u8,
    pub(crate) flow: u32,
    /// Bytes of the Ethernet frame, without check sequence.
    pub(crate) frame_len: usize,
}

/// The Ethernet frame of it.
pub(crate) fn frame(to: Mac, from: Mac, content: &Content) -> Vec<u8> {
    let payload_len = content.frame_len - 14 - 20 - content.transport.header_len();
    let mut payload = vec![0; payload_len];
    payload[..4].copy_from_slice(&content.flow.to_be_bytes());
    let ip = PacketBuilder::ethernet2(from.0, to.0).ipv4(
        content.src.ip().octets(),
        content.dst.ip().octets(),
        content.ttl,
    );
    let mut out = Vec::with_capacity(content.frame_len);
    let (sport, dport) = (content.src.port(), content.dst.port());
    let written = match content.transport {
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
    out
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
