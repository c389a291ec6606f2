//! Classify: a packet without an entry. Who may have sent it, where it goes, and the entry for those that follow.
//!
//! Reads the snapshot and, for ICMP errors and replies by another way, the flow table. Sets both records of a new flow.
//! Verdicts: drop `spoofed-source`, `tunnel-spoofed`, those of decide and snat; punt `to-host`; then those of forward.

use std::net::IpAddr;

use flowtable::FlowRef;

use super::decide::{Plan, Question, Refusal, answer_of_this_node, decide};
use super::forward::Rewrite;
use super::hit::is_opening;
use super::ingress::is_source_of;
use super::snat::Installed;
use super::{Inbound, NOTHING, Pass, Table};
use crate::flow::key::tuple_of_packet;
use crate::flow::{Ingress, Tuple, Zone};
use crate::observe::{Fate, Observer};
use crate::port::PortId;
use crate::snapshot::{AdjacencyId, PortKind, RouteTarget, Snapshot, VipLookup};
use crate::verdict::{DropReason, PuntReason};

impl<O: Observer> Pass<'_, O> {
    /// Decides a packet that no entry was found for.
    #[cold]
    pub(crate) fn classify<L: Table<K, W>, const K: usize, const W: usize>(&mut self, inbound: Inbound) {
        let packet = inbound.place.packet;
        let zone = inbound.place.zone;
        let from = tuple_of_packet(self.l3(&inbound), &packet, zone);
        if let Err(reason) = self.source_is_right(zone.ingress(), from.src) {
            return self.drop(inbound, reason, NOTHING);
        }
        if packet.is_icmp_error() {
            return self.translate::<L, K, W>(inbound, &from);
        }
        let Some(inbound) = self.came_another_way::<L, K, W>(inbound, &from) else {
            return;
        };
        let vip = self.snapshot.vip(from.dst, from.proto.0, from.dport);
        if self.is_for_the_kernel_alone(&from, vip) {
            return self.punt(inbound, PuntReason::ToHost, NOTHING);
        }
        let question = Question {
            tuple: from,
            opening: is_opening(&packet),
            hash: inbound.hash,
            established: None,
            affine: self.affine_backend::<L, K, W>(&from, vip),
        };
        if packet.is_echo_reply() && self.answer_of_this_node(&question).is_none() {
            return self.drop(inbound, DropReason::NoFlow, NOTHING);
        }
        let decided = decide(&question, vip, self.snapshot, self.rng);
        self.carry_out::<L, K, W>(inbound, &from, vip, decided);
    }

    /// Gives a packet without an entry the verdict that was decided for its flow, whose tuple is `from`.
    #[inline]
    pub(super) fn carry_out<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        from: &Tuple,
        vip: VipLookup<'_>,
        decided: Result<Plan, Refusal>,
    ) {
        let plan = match decided {
            Ok(plan) => plan,
            Err(refusal) => {
                self.count_rule(refusal.rule, true);
                let fate = refusal.fate();
                return self.refuse(inbound, refusal.reason, refusal.answer, fate);
            }
        };
        if let Err(unfit) = self.fits(&inbound.place.packet, plan.exit) {
            return self.refuse(inbound, unfit.reason, unfit.answer, NOTHING);
        }
        let (flow, to) = match self.install::<L, K, W>(&inbound, from, &plan) {
            Installed::Here(flow, to) => (flow, to),
            Installed::Already(flow) => return self.hit_or_drop::<L, K, W>(inbound, flow),
            Installed::Refused(reason) => {
                let fate = Fate {
                    rule: plan.rule,
                    ..NOTHING
                };
                return self.drop(inbound, reason, fate);
            }
        };
        self.count_rule(plan.rule, true);
        self.note_affinity::<L, K, W>(from, &to, vip);
        let fate = self.fate_of_flow::<L, K, W>(flow, true, plan.rule);
        let rewrite = rewrite_to(from, &to);
        self.forward(inbound, plan.exit, rewrite, fate);
    }

    /// The way of an answer to a pod of another node that asked this node's own address, see [`answer_of_this_node`].
    pub(super) fn answer_of_this_node(&self, question: &Question) -> Option<AdjacencyId> {
        let route = self.snapshot.route(question.tuple.dst);
        answer_of_this_node(question, &question.tuple, &route, self.snapshot)
    }

    /// An entry that was there a moment ago, or nothing we can do for this packet.
    fn hit_or_drop<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        flow: FlowRef,
    ) {
        if let Err(inbound) = self.hit::<L, K, W>(inbound, flow) {
            self.drop(inbound, DropReason::FlowBusy, NOTHING);
        }
    }

    /// May this source come in here?
    pub(super) fn source_is_right(&self, ingress: Ingress, src: IpAddr) -> Result<(), DropReason> {
        source_is_right(self.snapshot, ingress, src)
    }

    /// A packet from outside may belong to a flow whose replies were expected by another way (plain instead of by tunnel).
    fn came_another_way<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        from: &Tuple,
    ) -> Option<Inbound> {
        let Some(expected) = self.expected_zone(from) else {
            return Some(inbound);
        };
        let key = L::key(&Tuple {
            zone: expected,
            ..*from
        });
        let table = L::writer(self.flows).table();
        let Some(flow) = table.lookup(&key, table.hash(&key)) else {
            return Some(inbound);
        };
        self.hit::<L, K, W>(inbound, flow).err()
    }

    /// The zone by which packets from this source would come by our own route to it, where it differs.
    pub(super) fn expected_zone(&self, from: &Tuple) -> Option<Zone> {
        if !matches!(from.zone.ingress(), Ingress::Uplink | Ingress::Tunnel(_)) {
            return None;
        }
        let expected = match self.snapshot.route(from.src).target {
            RouteTarget::RemotePod {
                peer,
                tunnel: Some(_),
            } => Zone::of(Ingress::Tunnel(peer)),
            _ => Zone::UPLINK,
        };
        (expected != from.zone).then_some(expected)
    }

    /// Plain from outside to an address of this node, and no Service of ours: the kernel's, without an entry.
    pub(super) fn is_for_the_kernel_alone(&self, from: &Tuple, vip: VipLookup<'_>) -> bool {
        from.zone.ingress() == Ingress::Uplink
            && matches!(vip, VipLookup::NotService)
            && self.snapshot.route(from.dst).target == RouteTarget::ThisNode
    }

    /// The zone of what comes by the host port.
    pub(super) fn host_zone(&self) -> Option<Zone> {
        self.snapshot
            .host_port()
            .map(|port| Zone::of(Ingress::Port(port.id)))
    }

    /// Is this the port of a pod?
    pub(super) fn is_pod_port(&self, port: PortId) -> bool {
        self.snapshot
            .port(port)
            .is_some_and(|port| port.kind == PortKind::Pod)
    }
}

/// May this source come in here?
pub(crate) fn source_is_right(snapshot: &Snapshot, ingress: Ingress, src: IpAddr) -> Result<(), DropReason> {
    let right = match ingress {
        Ingress::Port(port) => match snapshot.port(port) {
            Some(port) if port.kind == PortKind::Pod => is_source_of(src, port),
            // The kernel speaks for itself and for what is behind it, not for pods.
            _ => !matches!(
                snapshot.route(src).target,
                RouteTarget::LocalPod(_) | RouteTarget::RemotePod { .. }
            ),
        },
        Ingress::Tunnel(peer) => {
            return if snapshot.peer_owns(peer, src) {
                Ok(())
            } else {
                Err(DropReason::TunnelSpoofed)
            };
        }
        Ingress::Uplink => {
            match snapshot.route(src).target {
                RouteTarget::LocalPod(_) | RouteTarget::ThisNode => false,
                // The pool's demand of this very node: with CrossSubnet a tunnel for some, none for the others.
                RouteTarget::RemotePod { tunnel, .. } => tunnel.is_none(),
                RouteTarget::PeerNode(_) => true,
                RouteTarget::Underlay | RouteTarget::Unreachable => {
                    !snapshot.pool(src).is_some_and(|pool| pool.demands_tunnel)
                }
            }
        }
    };
    if right {
        Ok(())
    } else {
        Err(DropReason::SpoofedSource)
    }
}

/// What turns the headers of `from` into those of `to`.
pub(super) fn rewrite_to(from: &Tuple, to: &Tuple) -> Rewrite {
    if from.same_headers(to) {
        Rewrite::None
    } else {
        Rewrite::to(to.src, to.dst, to.sport, to.dport)
    }
}
