//! Lean: the heads of right IPv4 packets, in the fewest instructions that write them afresh, so that the floor is low.

use std::net::SocketAddrV4;

use super::case::{CLIENT_PORTS, Case};
use super::packet::{Transport, VXLAN_LEN};
use super::traffic::Turn;

/// A template, and what is put into it for each packet: addresses, ports, the flow's number, checksums.
#[derive(Clone, Debug)]
pub(crate) struct Lean {
    transport: Transport,
    reply: bool,
    /// The inner Ethernet header is behind VXLAN's.
    is_tunnel: bool,
    steps: Steps,
    head: [u8; HEAD_MAX],
    /// Sums of what the template has besides the fields that are put in, in memory order.
    ip_sum: u64,
    l4_sum: u64,
}

impl Lean {
    /// From a template of which the fields that are put in are zero; `l4_len` bytes are behind its IP header. `None` where
    /// neighbours go to different Services, which is no matter of steps.
    pub(crate) fn new(
        case: Case,
        transport: Transport,
        reply: bool,
        template: &[u8],
        l4_len: usize,
    ) -> Option<Self> {
        if case == Case::NewFlows {
            return None;
        }
        let headers_len = 34 + transport.header_len() + 4;
        let link = template.len().checked_sub(headers_len)?;
        let mut head = [0; HEAD_MAX];
        head[..template.len()].copy_from_slice(template);
        let (ip, l4) = (link + 14, link + 34);
        let pseudo = [[0, transport.number()], (l4_len as u16).to_be_bytes()];
        Some(Self {
            transport,
            reply,
            is_tunnel: link == VXLAN_LEN,
            steps: Steps::of(|turn| {
                let client = case.source(turn.flow, turn.client);
                if reply {
                    (case.server(turn.flow, turn.server), client)
                } else {
                    (client, case.destination(turn.flow))
                }
            }),
            ip_sum: sum(&head[ip..l4]),
            l4_sum: sum(&head[l4..template.len()]) + sum(pseudo.as_flattened()),
            head,
        })
    }

    /// Writes the head of `turn`'s frame but for a reply's link headers; false, and nothing written, when the frame is too short for
    /// that.
    #[inline]
    pub(crate) fn write(&self, turn: Turn, bytes: &mut [u8]) -> bool {
        if self.is_tunnel {
            let Some(bytes) = bytes.first_chunk_mut::<HEAD_MAX>() else {
                return false;
            };
            *bytes = self.head;
            self.put_fields(turn, &mut bytes[VXLAN_LEN..]);
        } else {
            let (Some(to), Some(head)) = (bytes.first_chunk_mut::<64>(), self.head.first_chunk()) else {
                return false;
            };
            *to = *head;
            self.put_fields(turn, to);
        }
        true
    }

    #[inline]
    fn put_fields(&self, turn: Turn, inner: &mut [u8]) {
        let Some(inner) = inner.first_chunk_mut::<INNER_LEN>() else {
            unreachable!("both templates are longer");
        };
        let (addresses, ports) = self.steps.at(turn);
        // From here on as they lie in memory.
        let (addresses, ports, flow) = (addresses.to_be(), ports.to_be(), turn.flow.to_be());
        let address_sum = (addresses >> 32) + (addresses & 0xffff_ffff);
        let l4_sum = !fold(self.l4_sum + address_sum + u64::from(ports) + u64::from(flow));
        put::<24, 2>(inner, (!fold(self.ip_sum + address_sum)).to_ne_bytes());
        put::<26, 8>(inner, addresses.to_ne_bytes());
        put::<34, 4>(inner, ports.to_ne_bytes());
        match self.transport {
            Transport::Tcp => {
                put::<50, 2>(inner, l4_sum.to_ne_bytes());
                put::<54, 4>(inner, flow.to_ne_bytes());
            }
            Transport::Udp => {
                put::<40, 2>(inner, l4_sum.to_ne_bytes());
                put::<42, 4>(inner, flow.to_ne_bytes());
            }
        }
        if !self.reply {
            // The source's MAC address ends as its IP address; the rest is every pod's.
            let [a, b, c, d, ..] = addresses.to_ne_bytes();
            put::<8, 4>(inner, [a, b, c, d]);
        }
    }
}

/// Source and destination of a packet, addresses (32 bits each) and ports (16 bits each), the source in the upper halves.
type Sides = (u64, u32);

/// The sides of every turn's packet, as steps: computed in a few instructions. One word for both addresses and one for both
/// ports, since no field steps beyond its own end.
#[derive(Clone, Copy, Debug)]
struct Steps {
    first: Sides,
    /// Addresses alone.
    per_client: u64,
    per_server: u64,
    /// Flows of one group differ in the client's port.
    per_flow: u32,
    per_group: Sides,
}

impl Steps {
    /// From what `of` gives for the first flow and for those that differ from it in one thing.
    fn of(of: impl Fn(Turn) -> (SocketAddrV4, SocketAddrV4)) -> Self {
        let first = Turn::FIRST;
        let base = sides(of(first));
        let step = |turn: Turn| {
            let (addresses, ports) = sides(of(turn));
            (addresses - base.0, ports - base.1)
        };
        let (per_client, none) = step(Turn { client: 1, ..first });
        assert_eq!(none, 0, "clients differ in their address");
        let (per_server, none) = step(Turn { server: 1, ..first });
        assert_eq!(none, 0, "servers differ in their address");
        let (none, per_flow) = step(Turn { flow: 1, ..first });
        assert_eq!(none, 0, "a client's flows differ in its port");
        let per_group = step(Turn {
            flow: CLIENT_PORTS,
            ..first
        });
        Self {
            first: base,
            per_client,
            per_server,
            per_flow,
            per_group,
        }
    }

    #[inline]
    fn at(&self, turn: Turn) -> Sides {
        let (low, group) = (turn.flow % CLIENT_PORTS, turn.flow / CLIENT_PORTS);
        let addresses = self.first.0
            + self.per_client * u64::from(turn.client)
            + self.per_server * u64::from(turn.server)
            + self.per_group.0 * u64::from(group);
        let ports = self.first.1 + self.per_flow * low + self.per_group.1 * group;
        (addresses, ports)
    }
}

fn sides((src, dst): (SocketAddrV4, SocketAddrV4)) -> Sides {
    let halves = |of: SocketAddrV4| (u64::from(of.ip().to_bits()), u32::from(of.port()));
    let ((src, sport), (dst, dport)) = (halves(src), halves(dst));
    (src << 32 | dst, sport << 16 | dport)
}

/// Puts a field at `AT`.
#[inline]
fn put<const AT: usize, const N: usize>(head: &mut [u8; INNER_LEN], field: [u8; N]) {
    const { assert!(AT + N <= INNER_LEN) };
    head[AT..AT + N].copy_from_slice(&field);
}

/// The ones' complement sum of some words, as 16 bits.
#[inline]
fn fold(sum: u64) -> u16 {
    // A half added to the other, the carry coming round from below.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// A sum of words as they lie in memory.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2);
    words
        .map(|pair| u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum()
}

/// Ethernet, IPv4, TCP, and the flow's number.
const INNER_LEN: usize = 14 + 20 + 20 + 4;
const HEAD_MAX: usize = (VXLAN_LEN + INNER_LEN).next_multiple_of(16);
