//! Hit: a packet of a flow that has an entry. Replays the entry; decides again only after a change.
//!
//! Reads one record, the generations, the adjacency. Sets the running words (last seen, packets, bytes, sequence) and, when the
//! packet changes it, the connection's state. Verdicts: those of forward; drop `policy-denied` for a flow that a change has
//! denied, `flow-busy` when another worker holds it for too long.

use flowtable::{Direction, FlowRef, Unreadable, View};
use wire::tcp::TcpFlags;
use wire::{IpProtocol, Packet};

use super::decide::Exit;
use super::forward::Rewrite;
use super::redecide::Redecided;
use super::{Inbound, Pass, Table, sequence_after};
use crate::conntrack::{ConnState, Seen};
use crate::flow::record::{Bits, BytesWord, Layout, PortsWord, SeenWord, created_ms, stamp};
use crate::observe::Observer;
use crate::snapshot::AdjacencyId;
use crate::verdict::DropReason;

type Copy<const K: usize, const W: usize> = flowtable::Snapshot<K, W>;

impl<O: Observer> Pass<'_, O> {
    /// Forwards `inbound` as the entry says, or gives it back: no such entry (any more), so it is a miss.
    #[inline]
    pub(crate) fn hit<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        flow: FlowRef,
    ) -> Result<(), Inbound> {
        let mut copy = match self.read::<L, K, W>(flow) {
            Ok(copy) => copy,
            Err(Unreadable::Gone) => return Err(inbound),
            Err(Unreadable::Busy) => {
                self.drop(inbound, DropReason::FlowBusy, super::NOTHING);
                return Ok(());
            }
        };
        if self.is_due::<L, K, W>(flow, &copy) {
            if self.remove_flow::<L, K, W>(flow) {
                self.counters.flows_expired.add(1);
            }
            return Err(inbound);
        }
        let bits = Bits(copy.state().bits());
        let opening = inbound.place.packet.tcp_flags.is_opening();
        if opening && (bits.has(Bits::DENIED) || bits.state().is_closed()) {
            self.forget::<L, K, W>(flow);
            return Err(inbound);
        }
        if !self.generations.is_current(stamp::<L, K, W>(&copy)) {
            match self.redecide::<L, K, W>(flow, &inbound) {
                Redecided::Same => {}
                Redecided::Anew => match self.read::<L, K, W>(flow) {
                    Ok(now) => copy = now,
                    Err(_) => return Err(inbound),
                },
                Redecided::Gone => return Err(inbound),
                Redecided::Cut(refusal) => {
                    self.cut::<L, K, W>(inbound, flow, &copy, &refusal);
                    return Ok(());
                }
            }
        }
        self.replay::<L, K, W>(inbound, flow, &copy);
        Ok(())
    }

    #[inline]
    fn replay<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        flow: FlowRef,
        copy: &Copy<K, W>,
    ) {
        let bits = Bits(copy.state().bits());
        let ports = PortsWord(copy.word(L::PORTS));
        let fate = self.fate_of_flow::<L, K, W>(flow, false, ports.rule());
        self.count_rule(ports.rule(), false);
        if bits.has(Bits::DENIED) {
            self.touch::<L, K, W>(flow, copy, &inbound);
            return self.drop(inbound, DropReason::PolicyDenied, fate);
        }
        let exit = self.exit_of::<L, K, W>(flow, bits, inbound.hash);
        if let Err(unfit) = self.fits(&inbound.place.packet, exit) {
            return self.refuse(inbound, unfit.reason, unfit.answer, fate);
        }
        self.track::<L, K, W>(flow, bits, copy, &inbound);
        self.touch::<L, K, W>(flow, copy, &inbound);
        let to = self.rewrite_of::<L, K, W>(flow, bits, copy);
        self.forward(inbound, exit, to, fate);
    }

    /// A consistent copy. Another worker that decides it is waited for, briefly.
    #[inline]
    pub(super) fn read<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
    ) -> Result<Copy<K, W>, Unreadable> {
        let table = L::writer(self.flows).table();
        let mut copy = table.read(flow);
        for _ in 0..BUSY_SPINS {
            if copy != Err(Unreadable::Busy) {
                break;
            }
            std::hint::spin_loop();
            copy = table.read(flow);
        }
        copy
    }

    /// The flow's time is up: no packet either way for as long as its state lasts.
    #[inline]
    pub(super) fn is_due<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        copy: &Copy<K, W>,
    ) -> bool {
        let lasts_ms = self.deadlines.of(Bits(copy.state().bits()).state());
        let idle = |word: u64| idle_ms(self.now_ms, SeenWord(word));
        if idle(copy.word(L::SEEN)) < lasts_ms {
            return false;
        }
        let peer = L::writer(self.flows).table().record(flow.peer()).word(L::SEEN);
        idle_ms(self.now_ms, SeenWord(peer)) >= lasts_ms
    }

    /// Last seen, packets, bytes, sequence: plain stores.
    #[inline]
    fn touch<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        copy: &Copy<K, W>,
        inbound: &Inbound,
    ) {
        let packet = &inbound.place.packet;
        let mut bytes = BytesWord(copy.word(L::BYTES)).plus(packet.total_len);
        if packet.proto == IpProtocol::TCP
            && !packet.tcp_flags.has(TcpFlags::RST)
            && let Some((_, after)) = sequence_after(packet, self.l3(inbound))
            && (SeenWord(copy.word(L::SEEN)).packets() == 0 || bytes.ahead(after) > 0)
        {
            bytes = bytes.with_sequence(after);
        }
        let record = L::writer(self.flows).table().record(flow);
        record.store(L::SEEN, SeenWord(copy.word(L::SEEN)).touched(self.now_ms).0);
        record.store(L::BYTES, bytes.0);
    }

    /// Connection tracking: writes only when the packet changes the state.
    #[inline]
    fn track<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        bits: Bits,
        copy: &Copy<K, W>,
        inbound: &Inbound,
    ) {
        let packet = &inbound.place.packet;
        let reply = flow.direction() == Direction::Reply;
        let mut seen = Seen {
            reply,
            flags: packet.tcp_flags,
            age_ms: 0,
            each_way_min: 0,
        };
        let state = bits.state();
        if matches!(state, ConnState::Udp | ConnState::SctpOpening) {
            let view = L::writer(self.flows).table().view();
            let here = SeenWord(copy.word(L::SEEN));
            seen = both_ways::<L, K, W>(view, flow, here, self.now_ms);
        } else if packet.tcp_flags.has(TcpFlags::RST) && !self.reset_is_in_window::<L, K, W>(copy, inbound) {
            seen.flags = TcpFlags(packet.tcp_flags.0 & !TcpFlags::RST.0);
        }
        let next = state.after(&seen);
        let answers = reply && !bits.has(Bits::ANSWERED);
        if next != state || answers {
            self.set_state::<L, K, W>(flow, next, answers);
        }
    }

    #[cold]
    fn set_state<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        state: ConnState,
        answers: bool,
    ) {
        let writer = L::writer(self.flows);
        let answered = if answers { Bits::ANSWERED } else { 0 };
        let mut was_answered = true;
        for record in [flow, flow.peer()] {
            // Gone or being decided: this packet's part in it is lost, the next one's will do.
            let _ = writer.update_state(record, |bits| {
                if record.direction() == Direction::Original {
                    was_answered = Bits(bits).has(Bits::ANSWERED);
                }
                Some(Bits(bits).with_state(state).0 | answered)
            });
        }
        if answers && !was_answered {
            let zone = L::tuple(&writer.table().record(flow.original()).key()).zone;
            self.shared.unanswered().ended(zone, self.flows.v4.is_alone());
        }
    }

    /// RFC 5961 section 3, with what one 24-bit number per direction tells: near the last byte seen from that side.
    fn reset_is_in_window<L: Table<K, W>, const K: usize, const W: usize>(
        &self,
        copy: &Copy<K, W>,
        inbound: &Inbound,
    ) -> bool {
        if SeenWord(copy.word(L::SEEN)).packets() == 0 {
            return true; // nothing known of that side
        }
        sequence_after(&inbound.place.packet, self.l3(inbound)).is_some_and(|(sequence, _)| {
            RESET_WINDOW.contains(&BytesWord(copy.word(L::BYTES)).ahead(sequence))
        })
    }

    /// Where the flow's packets of this direction go.
    #[inline]
    fn exit_of<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        bits: Bits,
        hash: u64,
    ) -> Exit {
        if bits.has(Bits::PUNT) {
            return Exit::Punt;
        }
        Exit::Adjacency(
            bits.adjacency()
                .or_else(|| self.adjacency_now::<L, K, W>(flow, hash)),
        )
    }

    /// None was known when the flow was made: perhaps one is by now.
    #[cold]
    fn adjacency_now<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        hash: u64,
    ) -> Option<AdjacencyId> {
        let dst = L::tuple(&L::writer(self.flows).table().record(flow.peer()).key()).src;
        self.snapshot.underlay_adjacency(dst, super::decide::ecmp(hash))
    }

    /// What the flow's packets of this direction become.
    #[inline]
    pub(super) fn rewrite_of<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        bits: Bits,
        copy: &Copy<K, W>,
    ) -> Rewrite {
        if !bits.has(Bits::REWRITE) {
            return Rewrite::None;
        }
        let ports = PortsWord(copy.word(L::PORTS)).ports();
        if let Some(at) = L::ADDRESSES {
            return Rewrite::V4(copy.word(at), ports);
        }
        let peer = L::tuple(&L::writer(self.flows).table().record(flow.peer()).key());
        Rewrite::to(peer.dst, peer.src, ports.0.get(), ports.1.get())
    }

    /// Removes an entry that another one shall take the place of.
    pub(super) fn forget<L: Table<K, W>, const K: usize, const W: usize>(&mut self, flow: FlowRef) {
        if self.remove_flow::<L, K, W>(flow) {
            self.counters.flows_removed.add(1);
        }
    }

    /// Removes an entry. False when another worker did, or is at it.
    pub(super) fn remove_flow<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
    ) -> bool {
        let writer = L::writer(self.flows);
        let original = writer.table().record(flow.original());
        let (zone, bits) = (L::tuple(&original.key()).zone, Bits(original.state().bits()));
        let removed = writer.remove(flow).is_ok();
        if removed && !bits.has(Bits::ANSWERED) {
            self.shared.unanswered().ended(zone, self.flows.v4.is_alone());
        }
        removed
    }
}

/// What one more packet of a flow without control bits contributes, with what both records say; `here` is the word of its
/// direction before it.
#[inline]
pub(super) fn both_ways<L: Layout, const K: usize, const W: usize>(
    view: View<'_, K, W>,
    flow: FlowRef,
    here: SeenWord,
    now_ms: u32,
) -> Seen {
    let there = SeenWord(view.record(flow.peer()).word(L::SEEN));
    let (original, reply) = (view.record(flow.original()), view.record(flow.original().peer()));
    Seen {
        reply: flow.direction() == Direction::Reply,
        flags: TcpFlags::NONE,
        age_ms: now_ms.wrapping_sub(created_ms(original, reply)),
        each_way_min: here.packets().saturating_add(1).min(there.packets()),
    }
}

/// Milliseconds since, 0 for what another worker saw "later" than our batch began.
#[inline]
pub(crate) fn idle_ms(now_ms: u32, seen: SeenWord) -> u32 {
    let idle = now_ms.wrapping_sub(seen.last_seen_ms());
    if idle.cast_signed() < 0 { 0 } else { idle }
}

/// True for packets that may open a connection.
pub(super) fn is_opening(packet: &Packet) -> bool {
    if packet.proto == IpProtocol::TCP {
        packet.tcp_flags.is_opening()
    } else {
        !packet.is_echo_reply()
    }
}

/// About a microsecond: longer than any decision takes.
const BUSY_SPINS: u32 = 200;
/// Steps of 256 bytes behind and ahead of the last byte seen: 1 MiB of data under way, 64 KiB not seen.
const RESET_WINDOW: std::ops::RangeInclusive<i32> = -4096..=256;
