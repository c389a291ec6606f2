//! Prints a frame as one line, so that a case can say by hand what must leave, and tells of every checksum that is wrong.
//!
//! `gw > b 10.244.1.10 > 10.244.1.11 ttl 63 df tcp 40000 > 80 S seq 100 ack 0 data 0`. Link addresses have the names of
//! [`crate::cluster::mac_name`], what a header holds by default (TOS 0, no options) is left out, headers inside follow `|`, the packet
//! that an ICMP error quotes stands in `[` `]`. Reads with etherparse, not with our own parsers.

use std::fmt::Write as _;

use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};

use crate::cluster::mac_name;
use crate::packet::crc32c;

/// What a frame says.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// The line.
    pub line: String,
    /// What is wrong with it: checksums, lengths.
    pub faults: Vec<String>,
    /// Data of the innermost TCP, UDP or SCTP packet, or the bytes that an ICMP message carries.
    pub data: Vec<u8>,
}

/// Where a packet stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Whole,
    /// Inside an ICMP error: may be cut, checksums are the sender's.
    Quoted,
}

/// Takes `frame` apart from its Ethernet header on.
pub fn describe(frame: &[u8]) -> Described {
    let mut out = Described::default();
    ethernet(frame, &mut out);
    out.line = out.line.trim_end().to_owned();
    out
}

fn ethernet(frame: &[u8], out: &mut Described) {
    let Some((head, mut rest)) = frame.split_at_checked(14) else {
        out.faults.push("a frame without Ethernet header".into());
        return;
    };
    let mac = |at: usize| mac_name(head[at..at + 6].try_into().expect("six bytes"));
    put(out, format_args!("{} > {}", mac(6), mac(0)));
    let mut kind = [head[12], head[13]];
    if kind == [0x81, 0] {
        let [tag_high, tag_low, high, low, inside @ ..] = rest else {
            return out.faults.push("VLAN tag cut".into());
        };
        put(
            out,
            format_args!("vlan {}", u16::from_be_bytes([tag_high & 0xf, *tag_low])),
        );
        (kind, rest) = ([*high, *low], inside);
    }
    match kind {
        [8, 0] => ipv4(rest, Place::Whole, out),
        [0x86, 0xdd] => ipv6(rest, Place::Whole, out),
        [8, 6] => arp(rest, out),
        [high, low] => put(out, format_args!("type {high:02x}{low:02x} data {}", rest.len())),
    }
}

fn arp(bytes: &[u8], out: &mut Described) {
    if bytes.len() < 28 || bytes[..6] != [0, 1, 8, 0, 6, 4] {
        out.faults.push("not ARP for IPv4".into());
        return;
    }
    let what = if bytes[7] == 1 { "request" } else { "reply" };
    let mac = |at: usize| mac_name(bytes[at..at + 6].try_into().expect("six bytes"));
    let ip =
        |at: usize| std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).expect("four bytes"));
    put(
        out,
        format_args!("arp {what} {} {} > {} {}", mac(8), ip(14), mac(18), ip(24)),
    );
}

fn ipv4(bytes: &[u8], place: Place, out: &mut Described) {
    let slice = match Ipv4HeaderSlice::from_slice(bytes) {
        Ok(slice) => slice,
        Err(error) => return out.faults.push(format!("IPv4: {error}")),
    };
    let header = slice.to_header();
    put(
        out,
        format_args!(
            "{} > {} ttl {}",
            slice.source_addr(),
            slice.destination_addr(),
            header.time_to_live
        ),
    );
    let tos = bytes[1];
    if tos != 0 {
        put(out, format_args!("tos {tos:#04x}"));
    }
    if header.dont_fragment {
        put(out, format_args!("df"));
    }
    if !slice.options().is_empty() {
        put(out, format_args!("options {}", slice.options().len()));
    }
    if header.header_checksum != header.calc_header_checksum() && place == Place::Whole {
        out.faults.push("IPv4 header checksum".into());
    }
    let (header_len, total_len) = (slice.slice().len(), usize::from(header.total_len));
    if place == Place::Whole && total_len > bytes.len() {
        return out
            .faults
            .push(format!("IPv4 length {total_len} of {}", bytes.len()));
    }
    let payload = &bytes[header_len..total_len.clamp(header_len, bytes.len())];
    let offset = header.fragment_offset.byte_offset();
    let fragment = offset != 0 || header.more_fragments;
    if fragment {
        put_fragment(
            out,
            u32::from(header.identification),
            offset,
            header.more_fragments,
        );
    }
    let sum = sum16(&slice.source()) + sum16(&slice.destination());
    let l4 = L4 {
        bytes: payload,
        proto: header.protocol.0,
        addresses: sum,
        v6: false,
        fragment,
        place,
    };
    if offset == 0 {
        l4.put(out);
    } else {
        l4.put_data(payload, out);
    }
}

fn ipv6(bytes: &[u8], place: Place, out: &mut Described) {
    let slice = match Ipv6HeaderSlice::from_slice(bytes) {
        Ok(slice) => slice,
        Err(error) => return out.faults.push(format!("IPv6: {error}")),
    };
    let header = slice.to_header();
    put(
        out,
        format_args!(
            "{} > {} ttl {}",
            slice.source_addr(),
            slice.destination_addr(),
            header.hop_limit
        ),
    );
    if header.traffic_class != 0 {
        put(out, format_args!("tos {:#04x}", header.traffic_class));
    }
    let end = 40 + usize::from(header.payload_length);
    if place == Place::Whole && end > bytes.len() {
        return out.faults.push(format!("IPv6 length {end} of {}", bytes.len()));
    }
    let mut payload = &bytes[40..end.min(bytes.len())];
    let (mut proto, mut fragment, mut offset) = (header.next_header.0, false, 0);
    loop {
        let len = match (proto, payload) {
            (0 | 43 | 60, [_, units, ..]) => (usize::from(*units) + 1) * 8,
            (44, [_, _, high, low, a, b, c, d, ..]) => {
                let field = u16::from_be_bytes([*high, *low]);
                (offset, fragment) = (field & !7, true);
                put_fragment(out, u32::from_be_bytes([*a, *b, *c, *d]), offset, field & 1 == 1);
                8
            }
            _ => break,
        };
        let Some((extension, rest)) = payload.split_at_checked(len) else {
            break;
        };
        if proto != 44 {
            put(out, format_args!("extension {proto}"));
        }
        (proto, payload) = (extension[0], rest);
        if offset != 0 {
            break;
        }
    }
    let sum = sum16(&slice.source()) + sum16(&slice.destination());
    let l4 = L4 {
        bytes: payload,
        proto,
        addresses: sum,
        v6: true,
        fragment,
        place,
    };
    if offset == 0 {
        l4.put(out);
    } else {
        l4.put_data(payload, out);
    }
}

fn put_fragment(out: &mut Described, id: u32, offset: u16, more: bool) {
    put(
        out,
        format_args!("fragment {id:x} at {offset}{}", if more { " more" } else { "" }),
    );
}

/// A transport header and what follows.
struct L4<'a> {
    bytes: &'a [u8],
    proto: u8,
    /// Sum of the addresses, for the pseudo-header.
    addresses: u32,
    v6: bool,
    /// Its checksum covers more than `bytes`.
    fragment: bool,
    place: Place,
}

impl L4<'_> {
    fn put(&self, out: &mut Described) {
        match self.proto {
            4 | 41 if !self.fragment => {
                put(out, format_args!("|"));
                let faults = out.faults.len();
                if self.proto == 4 {
                    ipv4(self.bytes, self.place, out);
                } else {
                    ipv6(self.bytes, self.place, out);
                }
                if self.place == Place::Quoted {
                    // What stands inside the quoted packet is its sender's, and may be cut anywhere.
                    out.faults.truncate(faults);
                }
            }
            6 => self.tcp(out),
            17 => self.udp(out),
            132 => self.sctp(out),
            1 if !self.v6 => self.icmp(out),
            58 if self.v6 => self.icmp(out),
            proto => {
                put(out, format_args!("proto {proto}"));
                self.put_data(self.bytes, out);
            }
        }
    }

    fn put_data(&self, data: &[u8], out: &mut Described) {
        if self.place == Place::Whole {
            put(out, format_args!("data {}", data.len()));
            out.data = data.to_vec();
        }
    }

    fn tcp(&self, out: &mut Described) {
        if self.place == Place::Quoted && self.bytes.len() < 20 {
            return self.ports("tcp", out);
        }
        let header = match TcpHeaderSlice::from_slice(self.bytes) {
            Ok(header) => header,
            Err(error) => return out.faults.push(format!("TCP: {error}")),
        };
        self.ports("tcp", out);
        let flags = [
            (header.syn(), 'S'),
            (header.fin(), 'F'),
            (header.rst(), 'R'),
            (header.psh(), 'P'),
            (header.urg(), 'U'),
            (header.ack(), 'A'),
        ];
        let letters: String = flags
            .iter()
            .filter(|(set, _)| *set)
            .map(|(_, letter)| letter)
            .collect();
        put(
            out,
            format_args!(
                "{letters} seq {} ack {}",
                header.sequence_number(),
                header.acknowledgment_number()
            ),
        );
        self.put_data(&self.bytes[header.slice().len()..], out);
        self.check("TCP", self.bytes, out);
    }

    fn udp(&self, out: &mut Described) {
        if self.bytes.len() < 8 {
            return out.faults.push("UDP header cut".into());
        }
        self.ports("udp", out);
        let header = UdpHeaderSlice::from_slice(self.bytes).expect("eight bytes");
        let len = usize::from(header.length());
        let datagram = &self.bytes[..len.clamp(8, self.bytes.len())];
        if !self.fragment && self.place == Place::Whole && len != self.bytes.len() {
            out.faults
                .push(format!("UDP length {len} of {}", self.bytes.len()));
        }
        if header.checksum() == 0 {
            put(out, format_args!("no-checksum"));
            if self.v6 && self.place == Place::Whole {
                out.faults.push("UDP over IPv6 without checksum".into());
            }
        } else {
            self.check("UDP", datagram, out);
        }
        let is_vxlan = header.destination_port() == 4789 && self.place == Place::Whole && !self.fragment;
        match datagram[8..].split_at_checked(8) {
            Some((vxlan, inner)) if is_vxlan => {
                let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
                if vxlan[0] != 8 || vxlan[1..4] != [0; 3] || vxlan[7] != 0 {
                    out.faults.push("VXLAN flags".into());
                }
                put(out, format_args!("vxlan {vni} |"));
                ethernet(inner, out);
            }
            _ => self.put_data(&datagram[8..], out),
        }
    }

    fn sctp(&self, out: &mut Described) {
        let Some(kind) = self.bytes.get(12).filter(|_| self.place == Place::Whole) else {
            return self.ports("sctp", out);
        };
        self.ports("sctp", out);
        put(out, format_args!("chunk {kind}"));
        self.put_data(&self.bytes[12..], out);
        let zeroed = [&self.bytes[..8], &[0; 4], &self.bytes[12..]].concat();
        if !self.fragment && crc32c(&zeroed).to_le_bytes() != self.bytes[8..12] {
            out.faults.push("SCTP checksum".into());
        }
    }

    fn ports(&self, name: &str, out: &mut Described) {
        match self.bytes {
            [a, b, c, d, ..] => {
                let (src, dst) = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                put(out, format_args!("{name} {src} > {dst}"));
            }
            _ => out.faults.push(format!("{name} ports cut")),
        }
    }

    fn icmp(&self, out: &mut Described) {
        let [kind, code, _, _, a, b, c, d, ref body @ ..] = *self.bytes else {
            return out.faults.push("ICMP header cut".into());
        };
        let (id, seq) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let word = u32::from_be_bytes([a, b, c, d]);
        match (self.v6, kind) {
            (false, 8) | (true, 128) => put(out, format_args!("echo-request {id} {seq}")),
            (false, 0) | (true, 129) => put(out, format_args!("echo-reply {id} {seq}")),
            (true, 135 | 136) if body.len() >= 16 => return self.neighbour(kind, word, body, out),
            (false, 3 | 11 | 12) | (true, 1..=4) if self.place == Place::Whole && !self.fragment => {
                put(out, format_args!("icmp {kind}/{code} {word} ["));
                if self.v6 {
                    ipv6(body, Place::Quoted, out);
                } else {
                    ipv4(body, Place::Quoted, out);
                }
                put(out, format_args!("]"));
                out.data = body.to_vec();
                return self.check("ICMP", self.bytes, out);
            }
            _ => put(out, format_args!("icmp {kind}/{code} {word}")),
        }
        self.put_data(body, out);
        self.check("ICMP", self.bytes, out);
    }

    fn neighbour(&self, kind: u8, word: u32, body: &[u8], out: &mut Described) {
        let target = std::net::Ipv6Addr::from(<[u8; 16]>::try_from(&body[..16]).expect("16 bytes"));
        let flags: String = [(31, 'R'), (30, 'S'), (29, 'O')]
            .iter()
            .filter(|(bit, _)| word >> bit & 1 == 1)
            .map(|(_, letter)| letter)
            .collect();
        put(
            out,
            format_args!(
                "{} {target} {flags}",
                if kind == 135 {
                    "solicitation"
                } else {
                    "advertisement"
                }
            ),
        );
        if let [option @ (1 | 2), 1, mac @ ..] = &body[16..] {
            let side = if *option == 1 { "source" } else { "target" };
            put(
                out,
                format_args!("{side} {}", mac_name(mac[..6].try_into().expect("six bytes"))),
            );
        }
        self.check("ICMP", self.bytes, out);
    }

    /// Checks the Internet checksum over `bytes` (header included) and the pseudo-header.
    fn check(&self, name: &str, bytes: &[u8], out: &mut Described) {
        if self.fragment || self.place == Place::Quoted {
            return;
        }
        let pseudo = self.addresses + u32::from(self.proto) + bytes.len() as u32;
        let sum = sum16(bytes) + if self.proto == 1 { 0 } else { pseudo };
        if fold(sum) != 0xffff {
            out.faults.push(format!("{name} checksum"));
        }
    }
}

fn sum16(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum()
}

fn fold(mut sum: u32) -> u32 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn put(out: &mut Described, text: std::fmt::Arguments<'_>) {
    write!(out.line, "{text} ").expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{A, NODE_B};
    use crate::packet::{icmp_error, ping, sctp, tcp, udp};

    #[test]
    fn frames_read_as_they_were_made() {
        let syn = tcp("10.244.1.10:40000", "10.244.1.11:80", "S", 100, 0, 0);
        let query = udp("[fd00::1]:4000", "[fd00::2]:53", 10);
        for (sent, line) in [
            (
                A.sends(&syn),
                "a > gw 10.244.1.10 > 10.244.1.11 ttl 64 df tcp 40000 > 80 S seq 100 ack 0 data 0",
            ),
            (
                A.sends(&query),
                "a > gw fd00::1 > fd00::2 ttl 64 udp 4000 > 53 data 10",
            ),
            (
                A.sends(&sctp("1.1.1.1:1", "2.2.2.2:2", 1, 3)),
                "a > gw 1.1.1.1 > 2.2.2.2 ttl 64 df sctp 1 > 2 chunk 1 data 8",
            ),
            (
                A.sends(&ping("1.1.1.1", "2.2.2.2", 7, 3, 5)),
                "a > gw 1.1.1.1 > 2.2.2.2 ttl 64 df echo-request 7 3 data 5",
            ),
            (
                A.sends(&icmp_error("3.3.3.3", "10.244.1.10", 11, 0, 0, &syn, 28)),
                "a > gw 3.3.3.3 > 10.244.1.10 ttl 64 df icmp 11/0 0 [ 10.244.1.10 > 10.244.1.11 ttl 1 df tcp 40000 > 80 ]",
            ),
            (
                NODE_B.sends_vxlan(&ping("fd00::1", "fd00::2", 7, 3, 5)),
                "node-b > node-a 192.0.2.12 > 192.0.2.11 ttl 64 df udp 50000 > 4789 no-checksum vxlan 4096 | \
                 vtep6-b > vtep6-a fd00::1 > fd00::2 ttl 64 echo-request 7 3 data 5",
            ),
        ] {
            let described = describe(&sent.frame);
            assert_eq!(described.line, line);
            assert_eq!(described.faults, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn one_wrong_bit_is_a_fault() {
        for packet in [
            tcp("1.1.1.1:1", "2.2.2.2:2", "A", 1, 1, 10),
            udp("[fd00::1]:1", "[fd00::2]:2", 10),
            sctp("1.1.1.1:1", "2.2.2.2:2", 0, 8),
            ping("fd00::1", "fd00::2", 1, 1, 10),
        ] {
            let mut frame = A.sends(&packet).frame;
            *frame.last_mut().unwrap() ^= 1;
            assert_eq!(describe(&frame).faults.len(), 1, "{packet:?}");
        }
    }

    #[test]
    fn fragments_read_with_their_place() {
        let pieces = udp("1.1.1.1:1", "2.2.2.2:2", 100).cut(68, 0xab);
        let lines: Vec<_> = pieces
            .iter()
            .map(|piece| describe(&A.sends(piece).frame).line)
            .collect();
        assert_eq!(
            lines,
            [
                "a > gw 1.1.1.1 > 2.2.2.2 ttl 64 fragment ab at 0 more udp 1 > 2 data 40",
                "a > gw 1.1.1.1 > 2.2.2.2 ttl 64 fragment ab at 48 more data 48",
                "a > gw 1.1.1.1 > 2.2.2.2 ttl 64 fragment ab at 96 data 12",
            ]
        );
    }
}
