//! Replay: a plain packet of a steady flow is counted, rewritten and queued, by what its record says.
//!
//! Reads one record, the generations, one way. Sets the running words, the headers. Verdict: tx. Whatever would come to another
//! one, or change the connection's state, is given back before anything has been touched.

use flowtable::{FlowHash, FlowRef};
use wire::IpProtocol;
use wire::tcp::TcpFlags;

use super::super::hit::{both_ways, idle_ms};
use super::super::{Pass, rewrite};
use super::head::Mark;
use super::way::BLOCK_LEN;
use crate::conntrack::ConnState;
use crate::flow::key::V4;
use crate::flow::record::{Bits, BytesWord, Layout, PortsWord, SeenWord};
use crate::fragment::complete::complete_tcp_udp;
use crate::generations::Stamp;
use crate::io::{Checksum, Frame};
use crate::observe::{Observer, PacketNumber};
use crate::verdict::Verdict;

impl<O: Observer> Pass<'_, O> {
    /// Forwards a plain packet as its flow's entry says; gives back the frame of one whose flow is not steady.
    #[inline]
    pub(in super::super) fn replay_plain(
        &mut self,
        mut frame: Frame,
        number: PacketNumber,
        mark: Mark,
        key: [u64; 2],
        hash: FlowHash,
        flow: FlowRef,
    ) -> Result<(), Frame> {
        let words = [ADDRESSES, V4::PORTS, V4::STAMP, V4::SEEN, V4::BYTES];
        let Some((state, [addresses, ports, stamp, seen, bytes])) = self.v4.peek(flow, words) else {
            return Err(frame);
        };
        let (bits, seen, ports) = (Bits(state.bits()), SeenWord(seen), PortsWord(ports));
        if !self.is_steady(flow, bits, seen, mark) || !self.generations.is_current(Stamp(stamp)) {
            return Err(frame);
        }
        let Some(adjacency) = bits.adjacency() else {
            return Err(frame);
        };
        let way = self.ways.way(adjacency, self.snapshot, self.outbox);
        if mark.total_len > way.mtu {
            return Err(frame);
        }
        let l3 = usize::from(mark.l3);
        if frame.checksum != Checksum::Full && way.completes {
            let end = l3 + usize::from(mark.total_len);
            // Completed before it is rewritten is as good as after.
            if !complete_tcp_udp(self.memory, &mut frame, mark.proto, end) {
                return Err(frame);
            }
        }
        let partial = frame.checksum != Checksum::Full;
        let Some((before, packet)) = self.memory.around_mut::<BLOCK_LEN>(&mut frame, l3) else {
            return Err(frame);
        };
        let Some(packet) = packet.first_chunk_mut::<40>() else {
            return Err(frame);
        };

        let mut counted = BytesWord(bytes).plus(mark.total_len.into());
        if mark.proto == IpProtocol::TCP {
            let after = sequence_after(packet, mark.total_len);
            if seen.packets() == 0 || counted.ahead(after) > 0 {
                counted = counted.with_sequence(after);
            }
        }
        let record = self.v4.record(flow);
        record.store(V4::SEEN, seen.touched(self.now_ms).0);
        record.store(V4::BYTES, counted.0);

        let to = bits.has(Bits::REWRITE).then(|| (addresses, ports.wire()));
        let l4_checksum = rewrite::replay_v4(packet, key, mark.proto, partial, to);
        way.write(before, packet, mark.total_len, hash.value(), l4_checksum);
        let (port, header_len) = (way.port, usize::from(way.header_len));
        let framed = frame.reframe(l3, header_len, mark.total_len.into());
        debug_assert!(framed, "a plain packet is within its frame");
        if let Checksum::Partial { start, .. } = &mut frame.checksum {
            *start = (header_len + 20) as u16;
        }

        self.count_rule(ports.rule(), false);
        let fate = self.fate_of_flow::<V4, 2, 8>(flow, false, ports.rule());
        self.outbox.forward(port, frame, number);
        self.decided(number, fate, Verdict::Tx(port));
        Ok(())
    }

    /// The flow is established, forwarded and alive, and the packet leaves its state as it is.
    #[inline]
    fn is_steady(&self, flow: FlowRef, bits: Bits, seen: SeenWord, mark: Mark) -> bool {
        let state = bits.state();
        let stays = match state {
            ConnState::TcpEstablished => mark.flags.0 & CHANGING == 0,
            ConnState::UdpStream => true,
            ConnState::Udp => state.after(&both_ways::<V4, 2, 8>(self.v4, flow, seen, self.now_ms)) == state,
            _ => false,
        };
        stays && bits.is_forwarded_both_ways() && idle_ms(self.now_ms, seen) < self.deadlines.of(state)
    }
}

/// The sequence number after a segment without SYN and FIN.
#[inline]
fn sequence_after(packet: &[u8; 40], total_len: u16) -> u32 {
    let [a, b, c, d] = [packet[24], packet[25], packet[26], packet[27]];
    let header_len = u32::from(packet[32] >> 4) * 4;
    let data = u32::from(total_len).saturating_sub(20 + header_len);
    u32::from_be_bytes([a, b, c, d]).wrapping_add(data)
}

/// Flags of segments that may change a connection's state.
const CHANGING: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
/// Where an IPv4 record keeps its new addresses.
const ADDRESSES: usize = match V4::ADDRESSES {
    Some(at) => at,
    None => panic!("records of IPv4 have them"),
};
