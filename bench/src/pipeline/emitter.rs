//! Emitter: the head of each frame, written afresh from its flow's number as a NIC would write it.
//!
//! A template made by [`packet`](super::packet) gives everything that the flows share; ports, addresses, the number in the
//! data and the checksums are put in, in a few instructions, so that no table of frames disturbs the caches.

use super::case::{Case, FIRST_REMOTE, GATEWAY_MAC, node_address, node_mac, pod_mac, vtep_mac};
use super::packet::{Content, Step, Transport, Tunnel, VXLAN_LEN, frame, vxlan};
use super::side::{End, Side, end};

/// One packet to be sent: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) flow: u32,
    pub(crate) client: u16,
    /// Which server answers: known once the first packet has come out.
    pub(crate) server: u16,
}

/// Writes the frames of one step in one direction.
#[derive(Clone, Debug)]
pub(crate) struct Emitter {
    case: Case,
    transport: Transport,
    reply: bool,
    client: Side,
    peer: Side,
    head: [u8; HEAD_MAX],
    head_len: usize,
    frame_len: usize,
    /// Where the inner Ethernet header begins: 0, or behind VXLAN's.
    link: usize,
    /// Sums of what the template has besides the fields that are put in.
    outer_sum: u32,
    ip_sum: u32,
    l4_sum: u32,
}

impl Emitter {
    /// For the packets of `step` in a frame of `frame_len` bytes (VXLAN before it, where the case has that).
    pub(crate) fn new(case: Case, transport: Transport, step: Step, reply: bool, frame_len: usize) -> Self {
        let tunnel = reply && case.has_tunnel();
        let turn = Turn {
            flow: 0,
            client: 0,
            server: 0,
        };
        let whole = whole_frame(case, transport, step, reply, frame_len, turn);
        let link = if tunnel { VXLAN_LEN } else { 0 };
        let head_len = link + 14 + 20 + transport.header_len() + 4;
        let mut head = [0; HEAD_MAX];
        head[..head_len].copy_from_slice(&whole[..head_len]);
        let (ip, l4) = (link + 14, link + 34);
        // Fields that are put in count as zero.
        let clear = |head: &mut [u8], from: usize, len: usize| head[from..from + len].fill(0);
        clear(&mut head, ip + 10, 10);
        clear(&mut head, l4, 4);
        clear(&mut head, l4 + transport.checksum_at(), 2);
        clear(&mut head, head_len - 4, 4);
        let mut outer_sum = 0;
        if tunnel {
            clear(&mut head, 14 + 10, 10);
            clear(&mut head, 34, 2);
            outer_sum = sum(&head[14..34]);
        }
        let l4_len = frame_len - 34;
        let l4_sum = sum(&head[l4..head_len]) + u32::from(head[ip + 9]) + l4_len as u32;
        Self {
            case,
            transport,
            reply,
            client: Side::of(|turn| case.source(turn.flow, turn.client)),
            peer: Side::of(|turn| {
                if reply {
                    case.server(turn.flow, turn.server)
                } else {
                    case.destination(turn.flow)
                }
            }),
            head,
            head_len,
            frame_len: whole.len(),
            link,
            outer_sum,
            ip_sum: sum(&head[ip..ip + 20]),
            l4_sum,
        }
    }

    /// Bytes of each frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// Writes the head of `turn`'s frame; what follows in `bytes` is zeros already.
    #[inline]
    pub(crate) fn write(&self, turn: Turn, bytes: &mut [u8]) {
        self.copy_head(bytes);
        let bytes = &mut bytes[..self.head_len];
        let (client, peer) = if self.case == Case::NewFlows {
            self.ends_of_new_flow(turn)
        } else {
            (self.client.end(turn), self.peer.end(turn))
        };
        let (src, dst) = if self.reply {
            (peer, client)
        } else {
            (client, peer)
        };
        let addresses = (u64::from(src.0) << 32) | u64::from(dst.0);
        let ports = (u32::from(src.1) << 16) | u32::from(dst.1);
        let ip = self.link + 14;
        let address_sum = halves((addresses >> 32) as u32) + halves(addresses as u32);
        put(bytes, ip + 12, &addresses.to_be_bytes());
        put(bytes, ip + 10, &(!fold(self.ip_sum + address_sum)).to_be_bytes());
        let l4 = ip + 20;
        put(bytes, l4, &ports.to_be_bytes());
        let l4_sum = fold(self.l4_sum + address_sum + halves(ports) + halves(turn.flow));
        put(bytes, l4 + self.transport.checksum_at(), &(!l4_sum).to_be_bytes());
        put(bytes, self.head_len - 4, &turn.flow.to_be_bytes());
        if self.reply {
            self.write_reply_links(turn, bytes);
        } else {
            // The rest of the MAC address is every pod's.
            put(bytes, 8, &client.0.to_be_bytes());
        }
    }

    /// Neighbours go to different Services, which is no matter of steps.
    fn ends_of_new_flow(&self, turn: Turn) -> (End, End) {
        let peer = if self.reply {
            self.case.server(turn.flow, turn.server)
        } else {
            self.case.destination(turn.flow)
        };
        (end(self.case.source(turn.flow, turn.client)), end(peer))
    }

    /// Copies the template, and zeros behind it where a fixed length is quicker.
    #[inline]
    fn copy_head(&self, bytes: &mut [u8]) {
        if self.link == 0
            && let (Some(to), Some(from)) = (bytes.first_chunk_mut::<64>(), self.head.first_chunk())
        {
            *to = *from;
        } else if let Some(to) = bytes.first_chunk_mut() {
            *to = self.head;
        } else {
            bytes[..self.head_len].copy_from_slice(&self.head[..self.head_len]);
        }
    }

    /// The link headers of a reply depend on which server and client it is between.
    #[inline]
    fn write_reply_links(&self, turn: Turn, bytes: &mut [u8]) {
        let node = FIRST_REMOTE + turn.server as u8;
        if self.link > 0 {
            let src = node_address(node).to_bits();
            put(bytes, 14 + 12, &src.to_be_bytes());
            put(
                bytes,
                14 + 10,
                &(!fold(self.outer_sum + halves(src) + halves(node_address(1).to_bits()))).to_be_bytes(),
            );
            put(bytes, 14 + 16, &node_address(1).octets());
            put(bytes, 34, &tunnel_port(turn.flow).to_be_bytes());
            put(bytes, 6, &node_mac(node).0);
            put(bytes, self.link + 6, &vtep_mac(node).0);
        } else if self.case.is_remote() {
            put(bytes, 6, &node_mac(node).0);
        } else {
            put(
                bytes,
                6,
                &pod_mac(*self.case.server(turn.flow, turn.server).ip()).0,
            );
        }
    }
}

/// What the emitter writes, built whole: the template's source, and what tests hold it against.
pub(crate) fn whole_frame(
    case: Case,
    transport: Transport,
    step: Step,
    reply: bool,
    frame_len: usize,
    turn: Turn,
) -> Vec<u8> {
    let client = case.source(turn.flow, turn.client);
    let server = case.server(turn.flow, turn.server);
    let (src, dst) = if reply {
        (server, client)
    } else {
        (client, case.destination(turn.flow))
    };
    let content = Content {
        transport,
        step,
        src,
        dst,
        ttl: 64,
        flow: turn.flow,
        frame_len,
    };
    let node = FIRST_REMOTE + turn.server as u8;
    if !reply {
        return frame(GATEWAY_MAC, pod_mac(*client.ip()), &content);
    }
    if case.has_tunnel() {
        let inner = frame(vtep_mac(1), vtep_mac(node), &content);
        let tunnel = Tunnel {
            to: node_mac(1),
            from: node_mac(node),
            src: node_address(node),
            dst: node_address(1),
            sport: tunnel_port(turn.flow),
        };
        return vxlan(&tunnel, &inner);
    }
    if case.is_remote() {
        return frame(node_mac(1), node_mac(node), &content);
    }
    frame(GATEWAY_MAC, pod_mac(*server.ip()), &content)
}

/// The UDP source port that the other node's hash gave the flow.
fn tunnel_port(flow: u32) -> u16 {
    0xc000 | (flow & 0x3fff) as u16
}

#[inline]
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

#[inline]
fn halves(word: u32) -> u32 {
    (word >> 16) + (word & 0xffff)
}

/// The one's complement sum of a few dozen 16-bit words, as 16 bits.
#[inline]
fn fold(sum: u32) -> u16 {
    halves(halves(sum)) as u16
}

fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum()
}

/// VXLAN, Ethernet, IPv4, TCP, and the flow's number, in whole vectors.
const HEAD_MAX: usize = (VXLAN_LEN + 14 + 20 + 20 + 4_usize).next_multiple_of(16);

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn emitted_frames_are_those_built_whole() {
        for case in Case::value_variants() {
            for transport in [Transport::Tcp, Transport::Udp] {
                for (step, reply) in [
                    (Step::Open, false),
                    (Step::Answer, true),
                    (Step::Data, false),
                    (Step::Data, true),
                ] {
                    let emitter = Emitter::new(*case, transport, step, reply, 100);
                    for flow in [0, 1, 32_767, 32_768, 65_535, 1_000_000, 9_999_999] {
                        let server = flow as u16 % case.servers();
                        let turn = Turn {
                            flow,
                            client: flow as u16 % 7,
                            server,
                        };
                        let whole = whole_frame(*case, transport, step, reply, 100, turn);
                        let mut bytes = vec![0; emitter.frame_len()];
                        emitter.write(turn, &mut bytes);
                        assert_eq!(
                            bytes, whole,
                            "{case:?} {transport:?} {step:?} reply {reply} {turn:?}"
                        );
                    }
                }
            }
        }
    }
}
