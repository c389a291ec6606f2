//! Replay: a plain packet of a steady flow is counted, rewritten and queued, by what its record says.
//!
//! Reads one record, the generations, one way. Sets the running words, the headers. Verdict: tx. Whatever would come to another
//! one, or change the connection's state, is given back before anything has been touched.

use flowtable::{Direction, FlowRef, State};

use super::super::Pass;
use super::super::hit::{both_ways, idle_ms};
use super::ip::Ip;
use super::lane::{Kind, Lane};
use crate::batch::Batch;
use crate::conntrack::{ConnState, Deadlines};
use crate::flow::key::V4;
use crate::flow::record::{Bits, BytesWord, Layout, PortsWord, SeenWord};
use crate::fragment::complete::complete_tcp_udp;
use crate::generations::Stamp;
use crate::io::{Checksum, Frame};
use crate::observe::{Observer, PacketNumber};
use crate::verdict::Verdict;

impl<O: Observer> Pass<'_, O> {
    /// Forwards frames of the batch from number `from` on, up to one that is not plain or whose flow is not steady. Returns how
    /// many.
    #[inline(never)]
    pub(in super::super) fn replay_run<L: Ip<K, W>, const K: usize, const W: usize>(
        &mut self,
        batch: &mut Batch,
        from: usize,
    ) -> usize {
        let steady = Steady::new(self.deadlines);
        let frames = &mut batch.frames[from..];
        let lanes = &L::lanes(&batch.lanes)[from..][..frames.len()];
        let first = self.first_number + from as u64;
        for (at, (frame, lane)) in frames.iter_mut().zip(lanes).enumerate() {
            let number = PacketNumber(first + at as u64);
            if self
                .replay_plain::<L, K, W>(frame, lane, &steady, number)
                .is_none()
            {
                return at;
            }
        }
        lanes.len()
    }

    /// Counts, rewrites and queues a plain packet as its flow's entry says. `None`, and nothing changed but that a
    /// partial checksum may have been completed, when the flow is not steady.
    #[inline]
    fn replay_plain<L: Ip<K, W>, const K: usize, const W: usize>(
        &mut self,
        frame: &mut Frame,
        lane: &Lane<K>,
        steady: &Steady,
        number: PacketNumber,
    ) -> Option<()> {
        let (flow, mark) = (lane.candidate?, lane.mark);
        // Where there is no word of addresses, another one is in its place, and not looked at.
        let addresses = const {
            match L::ADDRESSES {
                Some(at) => at,
                None => L::PORTS,
            }
        };
        let words = [addresses, L::PORTS, L::STAMP, L::SEEN, L::BYTES];
        let (state, [addresses, ports, stamp, seen, bytes]) =
            L::view(&self.v4, &self.v6).peek(flow, &lane.key, words)?;
        let (bits, seen, ports) = (Bits(state.bits()), SeenWord(seen), PortsWord(ports));
        let is_steady = steady.is_steady(state, seen, mark.kind, self.now_ms)
            || mark.is_udp() && self.is_steady_udp::<L, K, W>(flow, state, seen);
        if !is_steady || !self.generations.is_current(Stamp(stamp)) {
            return None;
        }
        let way = self.ways.way(bits.leaves_by(), self.snapshot, self.outbox);
        let (l3, total_len) = (usize::from(mark.l3), usize::from(mark.total_len));
        if mark.total_len > way.mtu {
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
        let (before, packet) = L::around(self.memory, frame, l3)?;

        let mut counted = BytesWord(bytes).plus(mark.total_len.into());
        if !mark.is_udp() && (seen.packets() == 0 || counted.ahead(mark.sequence) > 0) {
            counted = counted.with_sequence(mark.sequence);
        }
        let view = L::view(&self.v4, &self.v6);
        let record = view.record(flow);
        record.store(L::SEEN, seen.touched(self.now_ms).0);
        record.store(L::BYTES, counted.0);

        if bits.has(Bits::REWRITE) {
            let addresses = L::addresses(view, flow, addresses);
            L::rewrite(packet, &lane.key, mark.is_udp(), partial, addresses, ports.wire());
        } else {
            L::hop(packet);
        }
        way.write::<L, K, W>(before, packet, mark, lane.hash.value());
        let (port, sent) = (way.port, way.leave::<L, K, W>(frame, mark));
        self.count_rule(ports.rule(), false);
        if O::ACTIVE {
            let fate = self.fate_of_flow::<L, K, W>(flow, false, ports.rule());
            self.decided(number, fate, Verdict::Tx(port));
        }
        self.outbox.forward(port, sent, O::ACTIVE.then_some(number));
        Some(())
    }

    /// A flow of UDP that is no stream yet, and does not become one by a packet now: answered, or this is not the answer.
    #[inline(never)]
    fn is_steady_udp<L: Ip<K, W>, const K: usize, const W: usize>(
        &self,
        flow: FlowRef,
        state: State,
        seen: SeenWord,
    ) -> bool {
        let view = *L::view(&self.v4, &self.v6);
        let answered = Bits::steady(ConnState::Udp);
        let is_question = flow.direction() == Direction::Original;
        (state.is_stable_with(Bits::STEADY, answered)
            || is_question && state.is_stable_with(Bits::STEADY, answered & !Bits::ANSWERED))
            && ConnState::Udp.after(&both_ways::<L, K, W>(view, flow, seen, self.now_ms)) == ConnState::Udp
            && idle_ms(self.now_ms, seen) < self.deadlines.of(ConnState::Udp)
    }
}

/// What a flow has to be so that a packet leaves its state as it is, by the packet's [`Kind`].
struct Steady([Lasting; 4]);

#[derive(Clone, Copy)]
struct Lasting {
    /// Of the state word: established, forwarded, answered.
    bits: u64,
    /// How long it lasts without a packet, to be compared with a signed age; negative when not at all.
    lasts_ms: i32,
}

impl Steady {
    fn new(deadlines: &Deadlines) -> Self {
        let lasting = |state| Lasting {
            bits: Bits::steady(state),
            lasts_ms: match deadlines.of(state) {
                0 => i32::MIN,
                ms => i32::try_from(ms).unwrap_or(i32::MAX),
            },
        };
        let never = Lasting {
            bits: 0,
            lasts_ms: i32::MIN,
        };
        let (tcp, udp) = (lasting(ConnState::TcpEstablished), lasting(ConnState::UdpStream));
        Self([tcp, udp, never, never])
    }

    /// The flow is established, forwarded and alive.
    #[inline]
    fn is_steady(&self, state: State, seen: SeenWord, kind: Kind, now_ms: u32) -> bool {
        let lasting = self.0[kind as usize];
        // Negative: another worker saw it later than our batch began.
        let idle_ms = now_ms.wrapping_sub(seen.last_seen_ms()).cast_signed();
        state.is_stable_with(Bits::STEADY, lasting.bits) && idle_ms < lasting.lasts_ms
    }
}

/// Where an IPv4 record keeps its new addresses.
pub(super) const ADDRESSES: usize = match V4::ADDRESSES {
    Some(at) => at,
    None => panic!("records of IPv4 have them"),
};
