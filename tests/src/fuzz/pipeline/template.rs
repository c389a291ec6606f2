//! Packets as a script asks for them: who to whom, which protocol, how long, in how many pieces.

use std::net::{IpAddr, Ipv6Addr};

use wire::ipv4::Ipv4Header;
use wire::ipv6::Ipv6Header;
use wire::packet::parse_l3;
use wire::tcp::{TcpFlags, TcpHeader};
use wire::udp::UdpHeader;
use wire::{IpProtocol, Port, icmp, icmpv6};
use zerocopy::IntoBytes;

use super::cluster::Fam;
use crate::fuzz::input::Input;

/// Who stands at the other end of a wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sender {
    /// A pod on this node, by number.
    Pod(u8),
    Host,
    /// Beyond the cluster.
    Outside,
    /// A pod of a node reached plainly.
    Plain,
    /// A pod of this node, by VXLAN.
    Vxlan,
    /// The same, outside and inside of different families.
    VxlanAcross,
    Ipip,
}

pub(super) const SENDERS: &[Sender] = &[
    Sender::Pod(6),
    Sender::Pod(5),
    Sender::Pod(7),
    Sender::Host,
    Sender::Outside,
    Sender::Plain,
    Sender::Vxlan,
    Sender::Ipip,
    Sender::VxlanAcross,
];

impl Sender {
    pub(super) fn port(self) -> &'static str {
        match self {
            Self::Pod(5) => "pod:default/web",
            Self::Pod(6) => "pod:default/client",
            Self::Pod(_) => "pod:default/other",
            Self::Host => "host",
            _ => "uplink",
        }
    }

    fn address(self, f: Fam) -> String {
        match self {
            Self::Pod(number) => f.pod(1, number),
            Self::Host => f.node(1),
            Self::Outside => f.outside(),
            Self::Plain => f.pod(3, 9),
            Self::Vxlan | Self::VxlanAcross => f.pod(2, 9),
            Self::Ipip => f.pod(4, 9),
        }
    }
}

/// The addresses that a script can name.
fn address(f: Fam, number: u8) -> IpAddr {
    let text = match number % 18 {
        0 => f.pod(1, 5),
        1 => f.vip(10),
        2 => f.outside(),
        3 => f.pod(2, 9),
        4 => f.pod(1, 6),
        5 => f.pod(3, 9),
        6 => f.pod(4, 9),
        7 => f.vip(11),
        8 => f.node(1),
        9 => f.tunnel(1),
        10 => f.pod(1, 7),
        11 => f.node(2),
        12 => f.vip(99),
        13 => f.pod(1, 99),
        14 => f.tunnel(2),
        15 if f == Fam::V4 => "169.254.1.1".into(),
        15 => "fe80::ecee:eeff:feee:eeee".into(),
        16 if f == Fam::V4 => "224.0.0.5".into(),
        16 => "ff02::1".into(),
        17 if f == Fam::V4 => "192.168.0.3".into(),
        _ => "::".into(),
    };
    text.parse().expect("an address")
}

const PORTS: &[u16] = &[40_000, 80, 53, 8080, 4789, 50_000, 45_000, 68, 67, 0, 65_535];
const LENGTHS: &[usize] = &[8, 0, 1, 100, 1372, 1373, 1400, 1422, 1473, 2000, 5000, 9000];
const FLAGS: &[u8] = &[0x02, 0x10, 0x12, 0x11, 0x04, 0x18, 0x14, 0x00, 0x03, 0xc2];

/// IP packets (pieces of one, in the order in which they come) from `sender`.
pub(super) fn packets(input: &mut Input<'_>, sender: Sender) -> Vec<Vec<u8>> {
    let kind = input.byte();
    let f = if kind & 0x80 == 0 { Fam::V4 } else { Fam::V6 };
    let dst = address(f, input.byte());
    let ports = input.byte();
    let sport = PORTS[usize::from(ports >> 4) % PORTS.len()];
    let dport = PORTS[usize::from(ports & 15) % PORTS.len()];
    let len = input.pick(LENGTHS);
    let shape = input.byte();
    // Bit 0: a strange source. Bits 1 and 2: TTL. Bit 3: options. Bit 4: may be fragmented. Bit 5: partial checksum. Bits 6, 7: pieces.
    let src = if shape & 1 == 0 {
        sender.address(f).parse().expect("an address")
    } else {
        address(f, input.byte())
    };
    let ttl = [64, 1, 2, 0][usize::from(shape >> 1 & 3)];
    let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
    let (mut proto, head) = head(kind, f, sport, dport, len, input);
    let mut body = [head, payload].concat();
    if shape & 8 != 0 && f == Fam::V6 {
        let extension = input.pick(&[0_u8, 60, 43, 44]);
        body.splice(0..0, [proto.0, 0, 0, 0, 0, 0, 0, 0]);
        proto = IpProtocol(extension);
    }
    let mut bytes = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let options: &[u8] = match shape & 8 {
                0 => &[],
                _ => match input.byte() % 3 {
                    0 => &[148, 4, 0, 0],
                    1 => &[1, 1, 1, 0],
                    _ => &[131, 4, 4, 0],
                },
            };
            let total = (body.len() + options.len()).min(65_515) as u16;
            let mut header = Ipv4Header::new(src, dst, proto, ttl, total);
            header.set_fragment(u16::from(ports), if shape & 0x10 == 0 { 0x4000 } else { 0 });
            let mut bytes = [header.as_bytes(), options, &body].concat();
            bytes[0] += (options.len() / 4) as u8;
            wire::ipv4::write_checksum(&mut bytes[..20 + options.len()]);
            bytes
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Header::new(src, dst, proto, ttl, body.len() as u16);
            [header.as_bytes(), &body].concat()
        }
        _ => unreachable!("both are of one family"),
    };
    repair(&mut bytes);
    if shape & 0x20 != 0
        && let Ok(packet) = parse_l3(&bytes)
        && matches!(packet.proto, IpProtocol::TCP | IpProtocol::UDP)
    {
        let sum = packet.pseudo_sum(&bytes).folded();
        if let Some(field) = packet.l4_checksum_mut(&mut bytes) {
            *field = sum;
        }
    }
    match shape >> 6 {
        0 => vec![bytes],
        pieces => cut(&bytes, usize::from(pieces) + 1, input.byte()),
    }
}

fn head(
    kind: u8,
    f: Fam,
    sport: u16,
    dport: u16,
    len: usize,
    input: &mut Input<'_>,
) -> (IpProtocol, Vec<u8>) {
    let (sport, dport) = (Port::new(sport), Port::new(dport));
    let echo = |reply: bool| {
        let (proto, kind) = match (f, reply) {
            (Fam::V4, false) => (IpProtocol::ICMP, icmp::ECHO_REQUEST),
            (Fam::V4, true) => (IpProtocol::ICMP, icmp::ECHO_REPLY),
            (Fam::V6, false) => (IpProtocol::ICMPV6, icmpv6::ECHO_REQUEST),
            (Fam::V6, true) => (IpProtocol::ICMPV6, icmpv6::ECHO_REPLY),
        };
        let header = icmp::IcmpHeader::new(kind, 0, u32::from(sport.get()) << 16 | 1);
        (proto, header.as_bytes().to_vec())
    };
    match kind % 8 {
        0 | 1 => {
            let flags = TcpFlags(input.pick(FLAGS));
            let mut header = TcpHeader::new(sport, dport, u32::from(input.byte()) * 1000, 2000, flags);
            header.window.set(1000);
            (IpProtocol::TCP, header.as_bytes().to_vec())
        }
        2 | 3 => (
            IpProtocol::UDP,
            UdpHeader::new(sport, dport, len as u16).as_bytes().to_vec(),
        ),
        4 => {
            let [a, b] = sport.to_wire();
            let [c, d] = dport.to_wire();
            (IpProtocol::SCTP, vec![a, b, c, d, 0, 0, 0, 7, 0, 0, 0, 0])
        }
        5 => echo(false),
        6 => echo(true),
        _ => {
            let proto = input.pick(&[1_u8, 58, 47, 4, 41, 50, 2]);
            // An ICMP message, or neighbour discovery, of any type.
            let mut head = vec![input.byte(), 0, 0, 0, 0, 0, 0, 0];
            if matches!(head[0], 135 | 136)
                && let IpAddr::V6(target) = address(Fam::V6, input.byte())
            {
                head.extend(Ipv6Addr::octets(&target));
            }
            (IpProtocol(proto), head)
        }
    }
}

/// Writes every checksum anew, so that a change of other bytes gets past them.
pub(super) fn repair(l3: &mut [u8]) {
    if l3.first().is_some_and(|first| first >> 4 == 4) {
        let header_len = usize::from(l3[0] & 0xf) * 4;
        if let Some(header) = l3.get_mut(..header_len).filter(|header| header.len() >= 20) {
            wire::ipv4::write_checksum(header);
        }
    }
    let Ok(packet) = parse_l3(l3) else { return };
    if packet.fragment.is_some() {
        return;
    }
    let end = packet.total_len as usize;
    if packet.proto == IpProtocol::SCTP {
        if let Some(l4) = l3
            .get_mut(usize::from(packet.l4_offset)..end)
            .filter(|l4| l4.len() >= 12)
        {
            wire::sctp::write_checksum(l4);
        }
    } else {
        packet.write_l4_checksum(&mut l3[..end]);
    }
}

/// Cuts a packet in up to `pieces` and turns their order by `turn`; bit 7 of `turn` leaves the last away.
fn cut(l3: &[u8], pieces: usize, turn: u8) -> Vec<Vec<u8>> {
    let v4 = l3[0] >> 4 == 4;
    let header_len = if v4 { usize::from(l3[0] & 0xf) * 4 } else { 40 };
    let (header, body) = l3.split_at(header_len);
    let size = (body.len() / pieces / 8 * 8).max(8);
    let mut cut = Vec::new();
    for (at, piece) in body.chunks(size).enumerate() {
        let offset = at * size;
        let more = offset + piece.len() < body.len();
        let mut bytes = header.to_vec();
        if v4 {
            let field = ((offset / 8) as u16 | u16::from(more) << 13).to_be_bytes();
            (bytes[6], bytes[7]) = (field[0], field[1]);
            let len = ((header_len + piece.len()) as u16).to_be_bytes();
            (bytes[2], bytes[3]) = (len[0], len[1]);
            wire::ipv4::write_checksum(&mut bytes);
        } else {
            let field = (offset as u16 | u16::from(more)).to_be_bytes();
            bytes.extend([header[6], 0, field[0], field[1], 0, 0, 0, turn & 3]);
            bytes[6] = 44;
            let len = (8 + piece.len() as u16).to_be_bytes();
            (bytes[4], bytes[5]) = (len[0], len[1]);
        }
        bytes.extend_from_slice(piece);
        cut.push(bytes);
        if cut.len() == 8 {
            break;
        }
    }
    if turn & 0x80 != 0 {
        cut.pop();
    }
    let len = cut.len();
    if len > 0 {
        cut.rotate_left(usize::from(turn) % len);
    }
    cut
}
