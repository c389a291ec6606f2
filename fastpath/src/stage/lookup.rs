//! Lookup: each packet of the batch, in the order received, to its entry or to classification.
//!
//! Reads the batch's keys and the records that probably have them, which are on their way.
//! Sets nothing. Verdicts: those of ingress, told here so that all come in order; drop `spoofed-source`, `tunnel-spoofed` for plain
//! packets that have no entry, as classification gives it to others.

use flowtable::FlowRef;
use wire::packet::Family;

use super::plain::{Ip, Lane};
use super::{Inbound, NOTHING, Parsed, Pass, Place, Table, ingress};
use crate::batch::{Batch, Lookup};
use crate::flow::key::{V4, V6};
use crate::io::Frame;
use crate::observe::{Observer, PacketNumber};
use crate::port::PortId;
use crate::verdict::DropReason;

impl<O: Observer> Pass<'_, O> {
    /// Gives every frame of the batch its verdict: runs of steady packets together, of opening ones too, each other packet by itself.
    pub(crate) fn decide_all(&mut self, batch: &mut Batch) {
        let mut next = Next::default();
        let mut prospects = None;
        while next.frame < batch.frames.len() {
            if batch.lanes.may_be_steady(next.frame) {
                let replayed = self.replay_runs(batch, next.frame);
                self.counters.replayed.add(replayed as u64);
                next.frame += replayed;
            }
            let opened = self.open_run(batch, next.frame, &mut prospects);
            next.frame += opened;
            if opened == 0 && next.frame < batch.frames.len() {
                self.decide(batch, &mut next);
            }
        }
        batch.forget_frames();
    }

    /// Forwards frames of the batch from number `from` on, up to one that is not plain or whose flow is not steady. Returns how
    /// many.
    #[inline]
    fn replay_runs(&mut self, batch: &mut Batch, from: usize) -> usize {
        let mut next = from + self.replay_run::<V4, 2, 8>(batch, from);
        while batch.lanes.is_plain_v6(next) {
            let replayed = self.replay_run::<V6, 5, 12>(batch, next);
            next += replayed;
            if replayed == 0 {
                break;
            }
            next += self.replay_run::<V4, 2, 8>(batch, next);
        }
        next - from
    }

    /// Gives the next frame its verdict, the general way.
    #[inline(never)]
    fn decide(&mut self, batch: &mut Batch, next: &mut Next) {
        let at = next.frame;
        next.frame += 1;
        let (frame, port) = (batch.frames[at].take(), batch.ports[at]);
        let number = PacketNumber(self.first_number + at as u64);
        let lane = &batch.lanes.v4[at];
        if lane.is_plain() {
            return self.not_steady::<V4, 2, 8>(frame, number, port, lane);
        }
        if batch.lanes.is_plain_v6(at) {
            return self.not_steady::<V6, 5, 12>(frame, number, port, &batch.lanes.v6[at]);
        }
        let parsed = batch.parsed[next.parsed];
        next.parsed += 1;
        match (parsed, parsed.flow_family()) {
            (Parsed::Ip(place), Some(Family::V4)) => {
                let lookup = batch.v4.lookup(next.v4);
                next.v4 += 1;
                self.packet::<V4, 2, 8>(frame, number, port, place, &lookup);
            }
            (Parsed::Ip(place), Some(Family::V6)) => {
                let lookup = batch.v6.lookup(next.v6);
                next.v6 += 1;
                self.packet::<V6, 5, 12>(frame, number, port, place, &lookup);
            }
            (Parsed::Ip(place), None) => {
                self.later_fragment(Inbound {
                    frame,
                    number,
                    port,
                    place,
                    hash: 0,
                });
            }
            (Parsed::Drop(reason), _) => self.drop_frame(frame, number, reason, NOTHING),
            (Parsed::Punt(reason), _) => self.punt_unparsed(frame, number, reason),
            (other, _) => self.question(frame, number, port, other),
        }
    }

    /// A plain packet that the short way does not serve takes the general way from its start, but for one that has no entry and comes from
    /// who may not send it: its key is all that this needs.
    fn not_steady<L: Ip<K, W>, const K: usize, const W: usize>(
        &mut self,
        frame: Frame,
        number: PacketNumber,
        port: PortId,
        lane: &Lane<K>,
    ) {
        let Lookup { key, hash } = lane.lookup();
        // Asked now: an earlier packet of the batch may have made the entry, or the candidate may have another key.
        let found = L::view(&self.v4, &self.v6).lookup(key, hash);
        if found.is_none() {
            let from = L::tuple(key);
            if let Err(reason) = self.source_is_right(from.zone.ingress(), from.src) {
                self.remember_drop(port, reason, None, |_| from);
                return self.drop_frame(frame, number, reason, NOTHING);
            }
        }
        if let Some((frame, place)) = self.admit_plain(frame, number, port) {
            let inbound = Inbound {
                frame,
                number,
                port,
                place,
                hash: hash.value(),
            };
            self.found_or_not::<L, K, W>(inbound, found);
        }
    }

    /// Reads a plain packet as the general way does. `None`: it has got its verdict.
    pub(super) fn admit_plain(
        &mut self,
        mut frame: Frame,
        number: PacketNumber,
        port: PortId,
    ) -> Option<(Frame, Place)> {
        let Some(at) = self.snapshot.port(port) else {
            self.drop_frame(frame, number, DropReason::PortGone, NOTHING);
            return None;
        };
        match ingress::admit(self.memory, &mut frame, at, self.snapshot) {
            Parsed::Ip(place) => Some((frame, place)),
            other => {
                debug_assert!(false, "a plain packet is one to be forwarded, not {other:?}");
                self.drop_frame(frame, number, DropReason::Malformed, NOTHING);
                None
            }
        }
    }

    /// ARP, neighbour discovery, echo to the gateway.
    fn question(&mut self, frame: Frame, number: PacketNumber, port: PortId, parsed: Parsed) {
        let Some(port) = self.snapshot.port(port) else {
            return self.drop_frame(frame, number, DropReason::PortGone, NOTHING);
        };
        match parsed {
            Parsed::Neighbour(place) => self.answer_neighbour(frame, number, port, &place),
            Parsed::EchoToGateway(place) => {
                self.answer_echo(
                    Inbound {
                        frame,
                        number,
                        port: port.id,
                        place,
                        hash: 0,
                    },
                    port,
                );
            }
            _ => self.answer_arp(frame, number, port),
        }
    }

    fn packet<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        frame: Frame,
        number: PacketNumber,
        port: PortId,
        place: Place,
        lookup: &Lookup<'_, K>,
    ) {
        let inbound = Inbound {
            frame,
            number,
            port,
            place,
            hash: lookup.hash.value(),
        };
        let is_first_fragment = place.packet.fragment.is_some();
        if is_first_fragment {
            self.begin_first_fragment(&inbound);
        }
        // Asked now: an earlier packet of the batch may have made the entry, or the candidate may have another key.
        let found = L::writer(self.flows).table().lookup(lookup.key, lookup.hash);
        self.found_or_not::<L, K, W>(inbound, found);
        if is_first_fragment {
            self.end_first_fragment();
        }
    }

    /// To its entry, or to classification.
    #[inline]
    fn found_or_not<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        found: Option<FlowRef>,
    ) {
        let missed = match found {
            Some(flow) => self.hit::<L, K, W>(inbound, flow),
            None => Err(inbound),
        };
        if let Err(inbound) = missed {
            self.classify::<L, K, W>(inbound);
        }
    }
}

/// Which of the batch's frames, of its parsed packets and of its keys comes next.
#[derive(Debug, Default)]
struct Next {
    frame: usize,
    parsed: usize,
    v4: usize,
    v6: usize,
}
