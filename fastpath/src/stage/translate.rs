//! Translate: ICMP errors about flows of ours, RFC 5508. The outer header and the embedded packet are put into the terms of
//! the flow's other side; allowed because the flow is.
//!
//! Reads the embedded packet, and the record of the direction against it. Sets addresses, the embedded headers, all checksums.
//! Verdicts: those of forward; drop `no-flow`, `policy-denied`, `malformed`; punt `to-host` for errors about what is the
//! kernel's.

use flowtable::FlowRef;
use wire::checksum::{Delta, Sum};
use wire::icmp;
use wire::packet::{Family, parse_embedded};

use super::decide::{Exit, Question};
use super::forward::Rewrite;
use super::rewrite;
use super::{Inbound, NOTHING, Pass, Table};
use crate::flow::key::tuple_of_packet;
use crate::flow::record::{Bits, PortsWord};
use crate::flow::{Ingress, Tuple, Zone};
use crate::observe::Observer;
use crate::snapshot::RouteTarget;
use crate::verdict::{DropReason, PuntReason};

impl<O: Observer> Pass<'_, O> {
    /// Forwards an ICMP error to the sender of the packet that it is about. `outer` is its own tuple.
    pub(super) fn translate<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        outer: &Tuple,
    ) {
        let packet = inbound.place.packet;
        let l3 = self.l3(&inbound);
        let message = l3
            .get(..l3.len().min(packet.total_len as usize))
            .unwrap_or_default();
        let embedded = packet.embedded_offset().and_then(|at| message.get(at..));
        let Some((bytes, Ok(about))) = embedded.map(|bytes| (bytes, parse_embedded(bytes))) else {
            return self.drop(inbound, DropReason::Malformed, NOTHING);
        };
        let sent = tuple_of_packet(bytes, &about, outer.zone);
        let is_about_ours =
            about.family == packet.family && !about.is_later_fragment() && sent.src == outer.dst;
        let flow = if is_about_ours {
            self.flow_against::<L, K, W>(&sent)
        } else {
            None
        };
        let Some(flow) = flow else {
            return self.about_no_flow(inbound, outer);
        };
        let Ok(copy) = self.read::<L, K, W>(flow) else {
            return self.drop(inbound, DropReason::FlowBusy, NOTHING);
        };
        let bits = Bits(copy.state().bits());
        let rule = PortsWord(copy.word(L::PORTS)).rule();
        let fate = self.fate_of_flow::<L, K, W>(flow, false, rule);
        if bits.has(Bits::DENIED) {
            return self.drop(inbound, DropReason::PolicyDenied, fate);
        }
        let exit = if bits.has(Bits::PUNT) {
            Exit::Punt
        } else {
            Exit::Adjacency(bits.adjacency())
        };
        if let Err(unfit) = self.fits(&packet, exit) {
            return self.refuse(inbound, unfit.reason, unfit.answer, fate);
        }
        let mut inbound = inbound;
        if bits.has(Bits::REWRITE) {
            // What packets of this direction become, so what the sender of the other direction knows.
            let known = L::tuple(&L::writer(self.flows).table().record(flow.peer()).key());
            self.rewrite_error(&mut inbound, &sent, &known, outer);
        }
        self.forward(inbound, exit, Rewrite::None, fate);
    }

    /// The record of the packets that come back against `sent`, which left us towards where the error comes from.
    fn flow_against<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        sent: &Tuple,
    ) -> Option<FlowRef> {
        let expected = match sent.zone.ingress() {
            // A pod speaks about its own flows only.
            Ingress::Port(port) if self.is_pod_port(port) => sent.zone,
            _ => match self.snapshot.route(sent.dst).target {
                RouteTarget::RemotePod {
                    peer,
                    tunnel: Some(_),
                } => Zone::of(Ingress::Tunnel(peer)),
                RouteTarget::ThisNode => self.host_zone().unwrap_or(sent.zone),
                RouteTarget::LocalPod(_) => sent.zone,
                _ => Zone::UPLINK,
            },
        };
        let table = L::writer(self.flows).table().clone();
        let flow = [sent.zone, expected].into_iter().find_map(|zone| {
            let key = L::key(&sent.reversed(zone));
            table.lookup(&key, table.hash(&key))
        })?;
        let copy = self.read::<L, K, W>(flow).ok()?;
        (!self.is_due::<L, K, W>(flow, &copy)).then_some(flow)
    }

    fn about_no_flow(&mut self, inbound: Inbound, outer: &Tuple) {
        let from_outside = matches!(outer.zone.ingress(), Ingress::Uplink | Ingress::Tunnel(_));
        if from_outside && self.snapshot.route(outer.dst).target == RouteTarget::ThisNode {
            return self.punt(inbound, PuntReason::ToHost, NOTHING);
        }
        // The kernel refuses what a pod of another node sent to it, past us.
        let question = Question {
            tuple: *outer,
            opening: false,
            hash: inbound.hash,
            established: None,
            affine: None,
        };
        if let Some(adjacency) = self.answer_of_this_node(&question) {
            let exit = Exit::Adjacency(Some(adjacency));
            match self.fits(&inbound.place.packet, exit) {
                Ok(()) => self.forward(inbound, exit, Rewrite::None, NOTHING),
                Err(unfit) => self.refuse(inbound, unfit.reason, unfit.answer, NOTHING),
            }
        } else {
            self.drop(inbound, DropReason::NoFlow, NOTHING);
        }
    }

    /// `sent` is the embedded packet as it left us, `known` as its sender had sent it.
    fn rewrite_error(&mut self, inbound: &mut Inbound, sent: &Tuple, known: &Tuple, outer: &Tuple) {
        let Inbound { frame, place, .. } = inbound;
        let packet = &mut place.packet;
        let l3 = Self::l3_mut(self.memory, frame, place.l3);
        let message = usize::from(packet.l4_offset);
        let Some(embedded) = l3.get_mut(message + icmp::HEADER_LEN..) else {
            return;
        };
        let changing = embedded.len().min(EMBEDDED_HEADERS_MAX);
        let before = Sum::of(&embedded[..changing]);
        if let Ok(mut about) = parse_embedded(embedded) {
            // A partial checksum inside was never completed: the error's maker saw it whole.
            let _ = apply(
                Rewrite::to(known.src, known.dst, known.sport, known.dport),
                &mut about,
                embedded,
            );
        }
        let delta = Delta::between(before, Sum::of(&embedded[..changing]));
        if let Some(checksum) = packet.l4_checksum_mut(l3) {
            delta.apply(checksum);
        }
        // The error's source is a router on the way, or the flow's other end, which the sender knows by another address.
        let src = if outer.src == sent.dst {
            known.dst
        } else {
            outer.src
        };
        let _ = apply(Rewrite::to(src, known.src, 0, 0), packet, l3);
    }
}

fn apply(to: Rewrite, packet: &mut wire::Packet, l3: &mut [u8]) -> rewrite::After {
    match to {
        Rewrite::V4(addresses, ports) if packet.family == Family::V4 => {
            rewrite::rewrite_v4(packet, l3, false, addresses, ports)
        }
        Rewrite::V6(addresses, ports) if packet.family == Family::V6 => {
            rewrite::rewrite_v6(packet, l3, false, addresses, ports)
        }
        _ => rewrite::After::Done,
    }
}

/// Longest IPv4 header and TCP header up to its checksum, or IPv6 with some extensions: what a rewrite may touch.
const EMBEDDED_HEADERS_MAX: usize = 256;
