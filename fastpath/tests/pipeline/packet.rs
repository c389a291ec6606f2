//! Packets as text and back: what tests send and expect.

use std::net::{IpAddr, SocketAddr};

use wire::ipv4::Ipv4Header;
use wire::ipv6::Ipv6Header;
use wire::packet::{Family, parse_l3, parse_l3_head};
use wire::sctp::SctpHeader;
use wire::tcp::{TcpFlags, TcpHeader};
use wire::udp::UdpHeader;
use wire::{IpProtocol, Port, icmp, icmpv6};
use zerocopy::IntoBytes;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkt {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub l4: L4,
    pub ttl: u8,
    pub tos: u8,
    pub df: bool,
    pub id: u16,
    pub payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum L4 {
    Tcp { flags: TcpFlags, seq: u32, ack: u32 },
    Udp,
    Sctp,
    EchoRequest,
    EchoReply,
    Other(u8),
}

fn at(text: &str) -> SocketAddr {
    text.parse()
        .unwrap_or_else(|_| SocketAddr::new(text.parse().expect("an address"), 0))
}

fn pkt(src: &str, dst: &str, l4: L4) -> Pkt {
    Pkt {
        src: at(src),
        dst: at(dst),
        l4,
        ttl: 64,
        tos: 0,
        df: true,
        id: 0,
        payload: b"payload!".to_vec(),
    }
}

pub fn tcp(src: &str, dst: &str) -> Pkt {
    Pkt {
        payload: vec![],
        ..pkt(
            src,
            dst,
            L4::Tcp {
                flags: TcpFlags::ACK,
                seq: 1000,
                ack: 2000,
            },
        )
    }
}

pub fn syn(src: &str, dst: &str) -> Pkt {
    tcp(src, dst).flags(TcpFlags::SYN)
}

pub fn syn_ack(src: &str, dst: &str) -> Pkt {
    tcp(src, dst).flags(TcpFlags::SYN | TcpFlags::ACK)
}

pub fn udp(src: &str, dst: &str) -> Pkt {
    pkt(src, dst, L4::Udp)
}

pub fn sctp(src: &str, dst: &str) -> Pkt {
    pkt(src, dst, L4::Sctp)
}

/// `id` is written as the port of the source.
pub fn echo(src: &str, dst: &str, id: u16) -> Pkt {
    let mut pkt = pkt(src, dst, L4::EchoRequest);
    pkt.src.set_port(id);
    pkt.dst.set_port(id);
    pkt
}

pub fn echo_reply(src: &str, dst: &str, id: u16) -> Pkt {
    Pkt {
        l4: L4::EchoReply,
        ..echo(src, dst, id)
    }
}

impl Pkt {
    pub fn flags(mut self, new: TcpFlags) -> Self {
        if let L4::Tcp { flags, .. } = &mut self.l4 {
            *flags = new;
        }
        self
    }

    pub fn seq(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let L4::Tcp { seq, ack, .. } = &mut self.l4 {
            (*seq, *ack) = (new_seq, new_ack);
        }
        self
    }

    pub fn ttl(self, ttl: u8) -> Self {
        Self { ttl, ..self }
    }

    pub fn tos(self, tos: u8) -> Self {
        Self { tos, ..self }
    }

    pub fn may_fragment(self) -> Self {
        Self { df: false, ..self }
    }

    pub fn id(self, id: u16) -> Self {
        Self { id, ..self }
    }

    pub fn payload(self, len: usize) -> Self {
        Self {
            payload: (0..len).map(|i| i as u8).collect(),
            ..self
        }
    }

    /// Routed once: a TTL less.
    pub fn routed(self) -> Self {
        let ttl = self.ttl - 1;
        self.ttl(ttl)
    }

    pub fn from(mut self, src: &str) -> Self {
        self.src = at(src);
        self
    }

    pub fn to(mut self, dst: &str) -> Self {
        self.dst = at(dst);
        self
    }

    /// From the IP header on.
    pub fn l3(&self) -> Vec<u8> {
        let l4 = self.l4_bytes();
        let proto = match self.l4 {
            L4::Tcp { .. } => IpProtocol::TCP,
            L4::Udp => IpProtocol::UDP,
            L4::Sctp => IpProtocol::SCTP,
            L4::EchoRequest | L4::EchoReply if self.src.is_ipv4() => IpProtocol::ICMP,
            L4::EchoRequest | L4::EchoReply => IpProtocol::ICMPV6,
            L4::Other(proto) => IpProtocol(proto),
        };
        let mut bytes = match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header::new(src, dst, proto, self.ttl, l4.len() as u16);
                header.set_tos(self.tos);
                header.set_fragment(self.id, if self.df { 0x4000 } else { 0 });
                header.as_bytes().to_vec()
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = Ipv6Header::new(src, dst, proto, self.ttl, l4.len() as u16);
                header.set_traffic_class(self.tos);
                header.as_bytes().to_vec()
            }
            _ => panic!("two families: {self:?}"),
        };
        bytes.extend_from_slice(&l4);
        let parsed = parse_l3(&bytes).expect("a valid packet");
        if self.l4 == L4::Sctp {
            wire::sctp::write_checksum(&mut bytes[usize::from(parsed.l4_offset)..]);
        } else {
            parsed.write_l4_checksum(&mut bytes);
        }
        bytes
    }

    /// The same with the checksum left to the device, as sockets on this machine do.
    pub fn l3_partial(&self) -> Vec<u8> {
        let mut bytes = self.l3();
        let parsed = parse_l3(&bytes).unwrap();
        let sum = parsed.pseudo_sum(&bytes).folded();
        *parsed.l4_checksum_mut(&mut bytes).unwrap() = sum;
        bytes
    }

    fn l4_bytes(&self) -> Vec<u8> {
        let (sport, dport) = (Port::new(self.src.port()), Port::new(self.dst.port()));
        let head = match &self.l4 {
            L4::Tcp { flags, seq, ack } => {
                let mut header = TcpHeader::new(sport, dport, *seq, *ack, *flags);
                header.window.set(1000);
                header.as_bytes().to_vec()
            }
            L4::Udp => UdpHeader::new(sport, dport, self.payload.len() as u16)
                .as_bytes()
                .to_vec(),
            L4::Sctp => SctpHeader {
                src: sport,
                dst: dport,
                verification_tag: 7.into(),
                checksum: [0; 4],
            }
            .as_bytes()
            .to_vec(),
            L4::EchoRequest | L4::EchoReply => {
                let reply = self.l4 == L4::EchoReply;
                let kind = match (self.src.is_ipv4(), reply) {
                    (true, false) => icmp::ECHO_REQUEST,
                    (true, true) => icmp::ECHO_REPLY,
                    (false, false) => icmpv6::ECHO_REQUEST,
                    (false, true) => icmpv6::ECHO_REPLY,
                };
                icmp::IcmpHeader::new(kind, 0, u32::from(self.src.port()) << 16 | 1)
                    .as_bytes()
                    .to_vec()
            }
            L4::Other(_) => vec![],
        };
        [head, self.payload.clone()].concat()
    }

    /// What `l3` is; `None` when it is no packet that this type knows. Checks every checksum.
    pub fn read(l3: &[u8]) -> Option<Self> {
        let parsed = parse_l3(l3).ok()?;
        let l3 = &l3[..parsed.total_len as usize];
        if parsed.fragment.is_some() {
            return None;
        }
        assert!(
            parsed.l4_checksum_is_valid(l3),
            "the transport checksum is wrong: {parsed:?}"
        );
        let l4_bytes = &l3[usize::from(parsed.l4_offset)..];
        let (l4, head) = match parsed.proto {
            IpProtocol::TCP => {
                let (header, options, _) = TcpHeader::parse(l4_bytes).unwrap();
                let l4 = L4::Tcp {
                    flags: header.flags,
                    seq: header.seq.get(),
                    ack: header.ack.get(),
                };
                (l4, 20 + options.len())
            }
            IpProtocol::UDP => (L4::Udp, 8),
            IpProtocol::SCTP => {
                assert!(wire::sctp::checksum_is_valid(l4_bytes), "the CRC is wrong");
                (L4::Sctp, 12)
            }
            _ if parsed.is_echo_request() => (L4::EchoRequest, 8),
            _ if parsed.is_echo_reply() => (L4::EchoReply, 8),
            _ if parsed.is_icmp() => return None,
            proto => (L4::Other(proto.0), 0),
        };
        let v4 = Ipv4Header::prefix(l3).filter(|_| parsed.family == Family::V4);
        Some(Self {
            src: SocketAddr::new(parsed.src(l3), parsed.sport.get()),
            dst: SocketAddr::new(parsed.dst(l3), parsed.dport.get()),
            l4,
            ttl: parsed.ttl,
            tos: parsed.tos,
            df: v4.is_none_or(wire::ipv4::Ipv4Header::dont_fragment),
            id: v4.map_or(0, |header| header.id.get()),
            payload: l4_bytes[head..].to_vec(),
        })
    }
}

/// An ICMP error: type, code, who says it, to whom, and the packet that it is about as far as it was quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpError {
    pub kind: u8,
    pub code: u8,
    pub rest: u32,
    pub src: IpAddr,
    pub dst: IpAddr,
    pub about: Vec<u8>,
}

impl IcmpError {
    pub fn read(l3: &[u8]) -> Option<Self> {
        let parsed = parse_l3_head(l3, l3.len()).ok()?;
        if !parsed.is_icmp_error() {
            return None;
        }
        let l3 = &l3[..parsed.total_len as usize];
        assert!(parsed.l4_checksum_is_valid(l3), "the ICMP checksum is wrong");
        let header = icmp::IcmpHeader::prefix(&l3[usize::from(parsed.l4_offset)..])?;
        Some(Self {
            kind: header.icmp_type,
            code: header.code,
            rest: u32::from_be_bytes(header.rest),
            src: parsed.src(l3),
            dst: parsed.dst(l3),
            about: l3[parsed.embedded_offset()?..].to_vec(),
        })
    }

    pub fn l3(&self) -> Vec<u8> {
        let mut out = vec![0; 1500];
        let len = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(_)) => {
                wire::reply::icmp_error(&mut out, src, &self.about, self.kind, self.code, self.rest)
            }
            (IpAddr::V6(src), IpAddr::V6(_)) => {
                wire::reply::icmpv6_error(&mut out, src, &self.about, self.kind, self.code, self.rest)
            }
            _ => None,
        };
        out.truncate(len.unwrap());
        out
    }
}
