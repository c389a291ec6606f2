//! Replay: a plain packet of a steady flow is counted, rewritten and queued, by what its record says.
//!
//! Reads one record, the generations, one way. Sets the running words, the headers. Verdict: tx. Whatever would come to another
//! one, or change the connection's state, is given back before anything has been touched.

use flowtable::{FlowRef, State};
use wire::IpProtocol;

use super::super::hit::{both_ways, idle_ms};
use super::super::{Pass, rewrite};
use super::head::Mark;
use super::way::BLOCK_LEN;
use crate::batch::{Batch, Lookup};
use crate::conntrack::ConnState;
use crate::flow::key::V4;
use crate::flow::record::{Bits, BytesWord, Layout, PortsWord, SeenWord};
use crate::fragment::complete::complete_tcp_udp;
use crate::generations::Stamp;
use crate::io::{Checksum, Frame};
use crate::observe::{Observer, PacketNumber};
use crate::port::PortId;
use crate::verdict::Verdict;

impl<O: Observer> Pass<'_, O> {
    /// Forwards frames of the batch from number `from` on, the first of which has key number `key`, up to one that is not plain or
    /// whose flow is not steady. Returns how many.
    pub(in super::super) fn replay_run(&mut self, batch: &mut Batch, from: usize, key: usize) -> usize {
        let (frames, keys) = (&mut batch.frames[from..], &batch.v4);
        let marks = &batch.marks[from..][..frames.len()];
        let first = self.first_number + from as u64;
        let mut at = 0;
        while at < frames.len() {
            let (mark, number) = (marks[at], PacketNumber(first + at as u64));
            if !mark.may_be_steady() {
                break;
            }
            let Some((flow, port)) = self.replay_plain(&mut frames[at], mark, &keys.lookup(key + at)) else {
                break;
            };
            if O::ACTIVE {
                let rule = PortsWord(self.v4.record(flow).word(V4::PORTS)).rule();
                let fate = self.fate_of_flow::<V4, 2, 8>(flow, false, rule);
                self.decided(number, fate, Verdict::Tx(port));
            }
            self.outbox.forward(port, frames[at].take(), number);
            at += 1;
        }
        at
    }

    /// Counts and rewrites a plain packet as its flow's entry says; its frame is ready to leave by the port returned. `None`, and
    /// nothing changed, when the flow is not steady.
    #[inline]
    fn replay_plain(
        &mut self,
        frame: &mut Frame,
        mark: Mark,
        lookup: &Lookup<'_, 2>,
    ) -> Option<(FlowRef, PortId)> {
        let flow = lookup.candidate?;
        let words = [ADDRESSES, V4::PORTS, V4::STAMP, V4::SEEN, V4::BYTES];
        let (state, [addresses, ports, stamp, seen, bytes]) = self.v4.peek(flow, lookup.key, words)?;
        let (bits, seen, ports) = (Bits(state.bits()), SeenWord(seen), PortsWord(ports));
        if !self.is_steady(flow, state, seen, mark) || !self.generations.is_current(Stamp(stamp)) {
            return None;
        }
        let way = self.ways.way(bits.adjacency()?, self.snapshot, self.outbox);
        let (l3, total_len) = (usize::from(mark.l3()), usize::from(mark.total_len()));
        if mark.total_len() > way.mtu {
            return None;
        }
        // Completed before it is rewritten is as good as after.
        if frame.checksum != Checksum::Full
            && way.completes
            && !complete_tcp_udp(self.memory, frame, mark.proto(), l3 + total_len)
        {
            return None;
        }
        let partial = frame.checksum != Checksum::Full;
        let (before, packet) = self.memory.around_mut::<BLOCK_LEN, 40>(frame, l3)?;

        let mut counted = BytesWord(bytes).plus(mark.total_len().into());
        if mark.proto() == IpProtocol::TCP {
            let after = sequence_after(packet, mark.total_len());
            if seen.packets() == 0 || counted.ahead(after) > 0 {
                counted = counted.with_sequence(after);
            }
        }
        let record = self.v4.record(flow);
        record.store(V4::SEEN, seen.touched(self.now_ms).0);
        record.store(V4::BYTES, counted.0);

        let l4_checksum = if bits.has(Bits::REWRITE) {
            rewrite::replay_v4(
                packet,
                *lookup.key,
                mark.proto(),
                partial,
                addresses,
                ports.wire(),
            )
        } else {
            rewrite::replay_ttl(packet, mark.proto())
        };
        way.write(before, packet, mark.total_len(), lookup.hash.value(), l4_checksum);
        let (port, header_len) = (way.port, usize::from(way.header_len));
        let framed = frame.reframe(l3, header_len, total_len);
        debug_assert!(framed, "a plain packet is within its frame");
        if let Checksum::Partial { start, .. } = &mut frame.checksum {
            *start = (header_len + 20) as u16;
        }
        self.count_rule(ports.rule(), false);
        Some((flow, port))
    }

    /// The flow is established, forwarded and alive, and the packet, which has no SYN, FIN or RST, leaves its state as it is.
    #[inline]
    fn is_steady(&self, flow: FlowRef, state: State, seen: SeenWord, mark: Mark) -> bool {
        let lasting = match mark.proto() {
            IpProtocol::TCP => ConnState::TcpEstablished,
            _ => ConnState::UdpStream,
        };
        let lives = |lasting| idle_ms(self.now_ms, seen) < self.deadlines.of(lasting);
        if state.is_stable_with(Bits::STEADY, Bits::steady(lasting)) {
            return lives(lasting);
        }
        state.is_stable_with(Bits::STEADY, Bits::steady(ConnState::Udp))
            && ConnState::Udp.after(&both_ways::<V4, 2, 8>(self.v4, flow, seen, self.now_ms))
                == ConnState::Udp
            && lives(ConnState::Udp)
    }
}

/// The sequence number after a segment without SYN and FIN.
#[inline]
pub(super) fn sequence_after(packet: &[u8; 40], total_len: u16) -> u32 {
    let sequence = u32::from_be_bytes([packet[24], packet[25], packet[26], packet[27]]);
    let header_len = u32::from(packet[32] >> 4) * 4;
    sequence.wrapping_add(u32::from(total_len).wrapping_sub(20 + header_len))
}

/// Where an IPv4 record keeps its new addresses.
pub(super) const ADDRESSES: usize = match V4::ADDRESSES {
    Some(at) => at,
    None => panic!("records of IPv4 have them"),
};
