//! The stages, in the order in which a packet meets them, and what they share for one pass over a batch.
//!
//! ```text
//! plain ─────────────────► lookup ─┬─ steady: replay ───────────────────────────────────────────────► outbox
//!   └─ no: ingress ─► [decap] ─┘   ├─ hit ─────────────────────────► forward (rewrite ─► [encap]) ─┘
//!                                  └─ miss ─► classify (decide, snat) ─┘        └─► refuse (an answer)
//! ```
//!
//! Nearly all packets take the upper line, which does nothing that the others could not ([`plain`]).

mod affinity;
mod answer;
mod classify;
mod decap;
pub(crate) mod decide;
pub mod encap;
mod forward;
mod fragments;
mod hit;
mod hold;
pub mod ingress;
mod lookup;
mod plain;
mod redecide;
mod refuse;
pub mod rewrite;
mod snat;
mod translate;

use flowtable::{FlowRef, View, Writer};
use wire::Packet;

use crate::answer::icmp_error::IcmpErrors;
use crate::conntrack::Deadlines;
use crate::counters::Counters;
use crate::flow::Tuple;
use crate::flow::key::{Family, V4, V6, tuple_of_packet};
use crate::flow::record::Layout;
use crate::fragment::FragmentKey;
use crate::fragment::track::Tracker;
use crate::generations::Generations;
use crate::io::{Frame, Memory};
use crate::observe::{Fate, FlowView, Observer, PacketNumber};
use crate::outbox::{Kind, Outbox};
use crate::port::PortId;
use crate::recent::RecentDrop;
use crate::rng::Rng;
use crate::shared::Shared;
use crate::snapshot::{RuleId, Snapshot, VipLookup};
use crate::verdict::{DropReason, PuntReason, Verdict};

#[cfg(test)]
pub(crate) use classify::source_is_right;
pub(crate) use fragments::{FragmentNote, FragmentOutcome};
pub(crate) use hit::idle_ms;
pub(crate) use hold::Hold;
pub(crate) use ingress::{Parsed, Place};
pub(crate) use plain::{Decision, Gates, Lanes, Reading, Ways};
pub(crate) use snat::Exhausted;

/// The flow tables of one worker: its way to change them.
#[derive(Debug)]
pub(crate) struct Flows {
    pub(crate) v4: Writer<2, 8>,
    pub(crate) v6: Writer<5, 12>,
}

/// A family with its table: what stages that touch records are generic over.
pub(crate) trait Table<const K: usize, const W: usize>: Layout + Family<Key = [u64; K]> {
    /// The writer of this family.
    fn writer(flows: &mut Flows) -> &mut Writer<K, W>;
}

impl Table<2, 8> for V4 {
    #[inline]
    fn writer(flows: &mut Flows) -> &mut Writer<2, 8> {
        &mut flows.v4
    }
}

impl Table<5, 12> for V6 {
    #[inline]
    fn writer(flows: &mut Flows) -> &mut Writer<5, 12> {
        &mut flows.v6
    }
}

/// One packet in hand: every function that takes it ends in a verdict, or holds it.
#[derive(Debug)]
#[must_use]
pub(crate) struct Inbound {
    pub frame: Frame,
    pub number: PacketNumber,
    /// The port it was received on.
    pub port: PortId,
    pub place: Place,
    /// Hash of its key (of its addresses, for later fragments).
    pub hash: u64,
}

/// What the stages share while one batch passes.
pub(crate) struct Pass<'a, O: Observer> {
    pub snapshot: &'a Snapshot,
    pub shared: &'a Shared,
    /// The tables and the generations, as steady flows are replayed from.
    pub v4: View<'a, 2, 8>,
    pub v6: View<'a, 5, 12>,
    pub generations: Generations<'a>,
    pub ways: &'a mut Ways,
    pub flows: &'a mut Flows,
    pub memory: &'a mut Memory,
    pub outbox: &'a mut Outbox,
    pub counters: &'a Counters,
    pub observer: &'a mut O,
    pub rng: &'a mut Rng,
    pub fragments: &'a mut Tracker<FragmentOutcome, FragmentNote>,
    /// The first fragment in hand, and what became of it.
    pub first: &'a mut Option<(FragmentKey, FragmentOutcome)>,
    pub icmp_errors: &'a mut IcmpErrors,
    pub hold: &'a mut Hold,
    pub exhausted: &'a mut Exhausted,
    /// What was decided of packets that open flows, between two steps.
    pub decisions: &'a mut Vec<Decision>,
    /// Frames between two steps: fragments of one packet, those released by a first fragment.
    pub scratch: &'a mut Vec<Frame>,
    pub released: &'a mut Vec<(Frame, FragmentNote)>,
    pub deadlines: &'a Deadlines,
    pub now_ns: u64,
    /// The same in wrapping milliseconds.
    pub now_ms: u32,
    /// Re-decisions that this batch may still make.
    pub redecisions_left: u32,
    /// Drops that this batch may still note for people.
    pub remembered_left: u32,
    /// The host port wants its own MAC as destination of what is punted.
    pub punt_to_host_mac: bool,
    /// Number of the batch's first packet.
    pub first_number: u64,
}

impl<O: Observer> Pass<'_, O> {
    /// The verdict of a packet that goes nowhere.
    pub(crate) fn drop(&mut self, inbound: Inbound, reason: DropReason, fate: Fate) {
        self.remember_drop(inbound.port, reason, fate.rule, |pass| {
            tuple_of_packet(pass.l3(&inbound), &inbound.place.packet, inbound.place.zone)
        });
        self.drop_frame(inbound.frame, inbound.number, reason, fate);
    }

    /// Notes a drop for the person on call: a few of each batch, so that a flood of them costs little.
    #[inline]
    fn remember_drop(
        &mut self,
        port: PortId,
        reason: DropReason,
        rule: Option<RuleId>,
        tuple: impl FnOnce(&Self) -> Tuple,
    ) {
        if self.remembered_left == 0 {
            return;
        }
        self.remembered_left -= 1;
        let (at_ns, tuple) = (self.now_ns, tuple(self));
        self.counters.recent.record(&RecentDrop {
            at_ns,
            port,
            reason,
            rule,
            tuple,
        });
    }

    pub(crate) fn drop_frame(&mut self, frame: Frame, number: PacketNumber, reason: DropReason, fate: Fate) {
        let verdict = Verdict::Drop(reason);
        self.note_outcome(|| FragmentOutcome::Dropped(reason, fate));
        self.counters.verdict(verdict);
        self.memory.release(frame);
        self.decided(number, fate, verdict);
    }

    /// To this node's kernel, as it is.
    pub(crate) fn punt(&mut self, inbound: Inbound, reason: PuntReason, fate: Fate) {
        self.note_outcome(|| FragmentOutcome::Punted(reason, fate));
        let Inbound {
            mut frame,
            number,
            place,
            ..
        } = inbound;
        let came_by_tunnel = matches!(place.zone.ingress(), crate::flow::Ingress::Tunnel(_));
        if (came_by_tunnel || self.punt_to_host_mac)
            && !self.readdress_to_host(&mut frame, &place, came_by_tunnel)
        {
            return self.drop_frame(frame, number, DropReason::PortGone, fate);
        }
        self.punt_frame(frame, number, reason, fate);
    }

    /// To this node's kernel, before it was known to be an IP packet of ours.
    pub(crate) fn punt_unparsed(&mut self, mut frame: Frame, number: PacketNumber, reason: PuntReason) {
        if self.punt_to_host_mac
            && reason == PuntReason::ToHost
            && let Some(id) = self.snapshot.host_adjacency()
        {
            let macs = &self.snapshot.adjacency(id).header[..12];
            if let Some(place) = self.memory.bytes_mut(&mut frame).get_mut(..12) {
                place.copy_from_slice(macs);
            }
        }
        self.punt_frame(frame, number, reason, NOTHING);
    }

    fn punt_frame(&mut self, frame: Frame, number: PacketNumber, reason: PuntReason, fate: Fate) {
        let pushed = match self.snapshot.host_port() {
            Some(port) => self
                .outbox
                .push(port.id, frame, Some(number), Kind::Punted(reason)),
            None => Err(frame),
        };
        match pushed {
            Ok(()) => self.decided(number, fate, Verdict::Punt(reason)),
            Err(frame) => self.drop_frame(frame, number, DropReason::PortGone, fate),
        }
    }

    /// Gives a frame the Ethernet header that the kernel's end of the host port takes.
    fn readdress_to_host(&mut self, frame: &mut Frame, place: &Place, came_by_tunnel: bool) -> bool {
        let Some(adjacency) = self
            .snapshot
            .host_adjacency()
            .map(|id| self.snapshot.adjacency(id))
        else {
            return false;
        };
        if came_by_tunnel {
            return encap::encap(
                self.memory,
                frame,
                usize::from(place.l3),
                &place.packet,
                adjacency,
                0,
                true,
            );
        }
        let macs = adjacency.header.get(..12).unwrap_or_default();
        if let Some(place) = self.memory.bytes_mut(frame).get_mut(..macs.len()) {
            place.copy_from_slice(macs);
        }
        true
    }

    /// Tells the observer.
    #[inline]
    pub(crate) fn decided(&mut self, number: PacketNumber, fate: Fate, verdict: Verdict) {
        if O::ACTIVE {
            self.observer
                .decided(number, &Fate { verdict, ..fate }, self.snapshot);
        }
    }

    /// The fate of a packet of a flow; gathered only when someone watches.
    #[inline]
    pub(crate) fn fate_of_flow<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        new: bool,
        rule: Option<RuleId>,
    ) -> Fate {
        let mut fate = NOTHING;
        fate.rule = rule;
        if O::ACTIVE {
            let table = L::writer(self.flows).table();
            let orig = L::tuple(&table.record(flow.original()).key());
            let reply = L::tuple(&table.record(flow.original().peer()).key());
            if let VipLookup::Service(service) = self.snapshot.vip(orig.dst, orig.proto.0, orig.dport) {
                fate.service = Some(service.id);
            }
            fate.flow = Some(FlowView { new, orig, reply });
        }
        fate
    }

    /// One more packet that `rule` decided.
    #[inline]
    pub(crate) fn count_rule(&self, rule: Option<RuleId>, first: bool) {
        if let Some(rule) = rule.and_then(|rule| self.counters.rule(rule)) {
            rule.packets.add(1);
            if first {
                rule.decisions.add(1);
            }
        }
    }

    /// The bytes of a packet in hand from its IP header on.
    #[inline]
    pub(crate) fn l3<'m>(&'m self, inbound: &Inbound) -> &'m [u8] {
        &self.memory.bytes(&inbound.frame)[usize::from(inbound.place.l3)..]
    }

    /// The same, with the packet, to be changed.
    #[inline]
    pub(crate) fn l3_mut<'m>(memory: &'m mut Memory, frame: &'m mut Frame, l3: u16) -> &'m mut [u8] {
        &mut memory.bytes_mut(frame)[usize::from(l3)..]
    }
}

/// The fate of a packet of which nothing is known yet; the verdict is set when it is told.
pub(crate) const NOTHING: Fate = Fate::bare(Verdict::Drop(DropReason::Malformed));

/// The TCP header's sequence number after this segment.
pub(crate) fn sequence_after(packet: &Packet, l3: &[u8]) -> Option<(u32, u32)> {
    use wire::tcp::{TcpFlags, TcpHeader};
    let header = TcpHeader::prefix(l3.get(usize::from(packet.l4_offset)..)?)?;
    let data = packet.l4_len().saturating_sub(header.header_len() as u32);
    let control =
        u32::from(packet.tcp_flags.has(TcpFlags::SYN)) + u32::from(packet.tcp_flags.has(TcpFlags::FIN));
    let start = header.seq.get();
    Some((start, start.wrapping_add(data).wrapping_add(control)))
}
