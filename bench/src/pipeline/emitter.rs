//! Emitter: the head of each frame, written afresh from its flow's number as a NIC would write it.
//!
//! A template made by [`Traffic`] gives everything that the flows share; ports, addresses, the number in the data and the
//! checksums are put in, in a few instructions, so that no table of frames disturbs the caches.

use super::attack::Flaw;
use super::case::{Case, FIRST_REMOTE, node_address, node_mac, pod_mac, vtep_mac};
use super::lean::Lean;
use super::packet::{ChecksumFill, Family, Step, VXLAN_LEN, fold, halves, sum};
use super::side::{End, Side, end};
use super::sizes::Sizes;
use super::traffic::{Traffic, Turn, tunnel_port};

/// Writes the frames of one step in one direction, of all lengths.
#[derive(Clone, Debug)]
pub(crate) struct Emitters {
    sizes: Sizes,
    /// One for each length.
    of: Vec<Emitter>,
}

impl Emitters {
    /// For the packets of `step` (VXLAN before them, where the case has that).
    pub(crate) fn new(traffic: &Traffic, step: Step, reply: bool) -> Self {
        let of_length = |kind| {
            let mut flows = 0..;
            let flow = flows.find(|flow| traffic.sizes.kind(*flow) == kind);
            Emitter::new(traffic, step, reply, flow.expect("each length occurs"))
        };
        Self {
            sizes: traffic.sizes,
            of: (0..traffic.sizes.lengths().len()).map(of_length).collect(),
        }
    }

    /// Which length `turn` has, and who writes that.
    #[inline]
    pub(crate) fn of(&self, turn: Turn) -> (usize, &Emitter) {
        let kind = self.sizes.kind(turn.flow);
        (kind, &self.of[kind])
    }
}

/// Writes the frames of one length.
#[derive(Clone, Debug)]
pub(crate) struct Emitter {
    case: Case,
    reply: bool,
    client: Side,
    peer: Side,
    /// Who writes plain heads, which nearly all are.
    lean: Option<Lean>,
    head: [u8; HEAD_MAX],
    head_len: usize,
    frame_len: usize,
    /// Where the inner Ethernet header begins: 0, or behind VXLAN's.
    link: usize,
    /// Where the addresses are, of IPv6 their last four bytes.
    src_at: usize,
    dst_at: usize,
    l4: usize,
    checksum_at: usize,
    /// IPv4 has a checksum of its own.
    has_ip_checksum: bool,
    is_partial: bool,
    flaw: Flaw,
    /// Sums of what the template has besides the fields that are put in.
    outer_sum: u32,
    ip_sum: u32,
    l4_sum: u32,
}

impl Emitter {
    /// For frames as long as those of flow `flow`.
    fn new(traffic: &Traffic, step: Step, reply: bool, flow: u32) -> Self {
        let (case, transport) = (traffic.case, traffic.transport);
        let turn = Turn { flow, ..Turn::FIRST };
        // What is wrong with a packet comes last of all.
        let right = Traffic {
            flaw: Flaw::None,
            ..*traffic
        };
        let whole = right.arriving(step, reply, turn);
        let link = traffic.link(reply, false);
        let head_len = link + traffic.headers_len() + 4;
        let mut head = [0; HEAD_MAX];
        head[..head_len].copy_from_slice(&whole[..head_len]);
        let ip = link + 14;
        let l4 = ip + traffic.family.header_len();
        let (src_at, dst_at) = match traffic.family {
            Family::V4 => (l4 - 8, l4 - 4),
            Family::V6 => (l4 - 20, l4 - 4),
        };
        let checksum_at = l4 + transport.checksum_at();
        // Fields that are put in count as zero.
        let clear = |head: &mut [u8], from: usize, len: usize| head[from..from + len].fill(0);
        clear(&mut head, src_at, 4);
        clear(&mut head, dst_at, 4);
        clear(&mut head, l4, 4);
        clear(&mut head, checksum_at, 2);
        clear(&mut head, head_len - 4, 4);
        let (has_ip_checksum, addresses) = match traffic.family {
            Family::V4 => (true, ip + 12..l4),
            Family::V6 => (false, ip + 8..l4),
        };
        if has_ip_checksum {
            clear(&mut head, ip + 10, 2);
        }
        let mut outer_sum = 0;
        if link > 0 {
            clear(&mut head, 14 + 10, 10);
            clear(&mut head, 34, 2);
            outer_sum = sum(&head[14..34]);
        }
        let l4_len = (whole.len() - l4) as u32;
        let pseudo_sum = sum(&head[addresses]) + u32::from(transport.number()) + l4_len;
        let is_partial = traffic.checksum == ChecksumFill::Partial && !(reply && case.is_remote());
        let is_lean = traffic.family == Family::V4 && !is_partial && traffic.flaw == Flaw::None;
        let lean = is_lean
            .then(|| Lean::new(case, transport, reply, &head[..head_len], whole.len() - l4))
            .flatten();
        Self {
            case,
            reply,
            lean,
            client: Side::of(|turn| case.source(turn.flow, turn.client)),
            peer: Side::of(|turn| {
                if reply {
                    case.server(turn.flow, turn.server)
                } else {
                    case.destination(turn.flow)
                }
            }),
            frame_len: whole.len(),
            link,
            src_at,
            dst_at,
            l4,
            checksum_at,
            has_ip_checksum,
            is_partial,
            flaw: traffic.flaw,
            outer_sum,
            ip_sum: sum(&head[ip..ip + 20]),
            l4_sum: if is_partial {
                pseudo_sum
            } else {
                pseudo_sum + sum(&head[l4..head_len])
            },
            head,
            head_len,
        }
    }

    /// Bytes of each frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.frame_len
    }

    /// Writes the head of `turn`'s frame; what follows in `bytes` is zeros already.
    #[inline]
    pub(crate) fn write(&self, turn: Turn, bytes: &mut [u8]) {
        match &self.lean {
            Some(lean) if lean.write(turn, bytes) => {
                if self.reply {
                    self.write_reply_links(turn, bytes);
                }
            }
            _ => self.write_any(turn, bytes),
        }
    }

    /// The same for packets of every kind.
    #[inline(never)]
    fn write_any(&self, turn: Turn, bytes: &mut [u8]) {
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
        let address_sum = halves(src.0) + halves(dst.0);
        put(bytes, self.src_at, &src.0.to_be_bytes());
        put(bytes, self.dst_at, &dst.0.to_be_bytes());
        if self.has_ip_checksum {
            put(
                bytes,
                self.link + 24,
                &(!fold(self.ip_sum + address_sum)).to_be_bytes(),
            );
        }
        let ports = (u32::from(src.1) << 16) | u32::from(dst.1);
        put(bytes, self.l4, &ports.to_be_bytes());
        let checksum = if self.is_partial {
            fold(self.l4_sum + address_sum)
        } else {
            !fold(self.l4_sum + address_sum + halves(ports) + halves(turn.flow))
        };
        put(bytes, self.checksum_at, &checksum.to_be_bytes());
        put(bytes, self.head_len - 4, &turn.flow.to_be_bytes());
        if self.reply {
            self.write_reply_links(turn, bytes);
        } else {
            // The rest of the MAC address is every pod's.
            put(bytes, 8, &client.0.to_be_bytes());
            if self.flaw != Flaw::None {
                self.flaw.apply(&mut bytes[14..], turn.flow);
            }
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
        let is_copied = match self.head_len {
            ..=64 => copy::<64>(bytes, &self.head),
            65..=112 => copy::<112>(bytes, &self.head),
            _ => copy::<HEAD_MAX>(bytes, &self.head),
        };
        if !is_copied {
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

/// Copies the first `N` bytes; false when there is no room for so many.
#[inline]
fn copy<const N: usize>(to: &mut [u8], from: &[u8; HEAD_MAX]) -> bool {
    let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) else {
        return false;
    };
    *to = *from;
    true
}

#[inline]
fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// VXLAN, Ethernet, IPv6, TCP, and the flow's number.
const HEAD_MAX: usize = VXLAN_LEN + 14 + 40 + 20 + 4;

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::super::packet::Transport;
    use super::super::sizes::FrameLen;
    use super::*;

    #[test]
    fn emitted_frames_are_those_built_whole() {
        for case in Case::value_variants() {
            for transport in [Transport::Tcp, Transport::Udp] {
                for family in [Family::V4, Family::V6] {
                    for frame in [FrameLen::Bytes(100), FrameLen::Imix] {
                        for checksum in [ChecksumFill::Full, ChecksumFill::Partial] {
                            compare(&Traffic {
                                case: *case,
                                transport,
                                family,
                                sizes: Sizes::of(frame, family),
                                checksum,
                                flaw: Flaw::None,
                            });
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn flaws_are_where_they_should_be_and_nowhere_else() {
        for (flaw, changed) in [
            (Flaw::None, &[][..]),
            (Flaw::ForeignSource, &[26, 27, 28, 29]),
            (Flaw::HeaderChecksum, &[24]),
            (Flaw::MoreFragments, &[19, 20, 24, 25]),
            (Flaw::LaterFragment, &[19, 20, 21, 24, 25]),
        ] {
            let traffic = |flaw| Traffic {
                case: Case::Policy,
                transport: Transport::Tcp,
                family: Family::V4,
                sizes: Sizes::of(FrameLen::Bytes(66), Family::V4),
                checksum: ChecksumFill::Full,
                flaw,
            };
            compare(&traffic(flaw));
            let turn = Turn {
                flow: 77,
                ..Turn::FIRST
            };
            let [right, wrong] =
                [Flaw::None, flaw].map(|flaw| traffic(flaw).arriving(Step::Data, false, turn));
            let differ: Vec<usize> = (0..66).filter(|at| right[*at] != wrong[*at]).collect();
            assert_eq!(differ, changed, "{flaw:?}");
        }
    }

    fn compare(traffic: &Traffic) {
        for (step, reply) in [
            (Step::Open, false),
            (Step::Answer, true),
            (Step::Data, false),
            (Step::Data, true),
        ] {
            let emitters = Emitters::new(traffic, step, reply);
            for flow in [0, 1, 6, 32_767, 32_768, 65_535, 1_000_000, 9_999_999] {
                let turn = Turn {
                    flow,
                    client: flow as u16 % 7,
                    server: flow as u16 % traffic.case.servers(),
                };
                let (_, emitter) = emitters.of(turn);
                let mut bytes = vec![0; emitter.frame_len()];
                emitter.write(turn, &mut bytes);
                let whole = traffic.arriving(step, reply, turn);
                assert_eq!(bytes, whole, "{traffic:?} {step:?} reply {reply} {turn:?}");
            }
        }
    }
}
