//! Refuse: the verdict of a packet that is told why it goes no further.
//!
//! Reads the packet as its sender sent it. Makes an ICMP error or a reset and sends it back by the way the packet came: to a
//! pod or the kernel on its port, into the tunnel, or by the underlay. Verdict: drop, with the caller's reason; the answer is
//! generated. No buffer, no way back, nothing to be answered: then the drop alone.

use std::net::IpAddr;

use wire::packet::{Family, parse_l3};
use wire::{IpProtocol, Mac, Packet};

use super::{Inbound, Pass, encap};
use crate::answer::Link;
use crate::answer::icmp_error::Problem;
use crate::answer::reset::{self, Reset};
use crate::flow::Ingress;
use crate::observe::{Fate, Observer, PacketNumber};
use crate::outbox::Kind;
use crate::snapshot::{AdjacencyEncap, AdjacencyId, PortKind, RouteTarget, Snapshot};
use crate::verdict::DropReason;

/// What the sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing.
    None,
    /// Nobody serves this: a reset for TCP, else port unreachable.
    Reject,
    /// A reset; nothing for other protocols.
    Reset,
    /// No route.
    NoRoute,
    /// TTL or hop limit ran out.
    TimeExceeded,
    /// Too big; this would fit.
    TooBig(u16),
}

impl<O: Observer> Pass<'_, O> {
    /// Drops the packet and tells its sender.
    pub(crate) fn refuse(&mut self, inbound: Inbound, reason: DropReason, answer: Answer, fate: Fate) {
        self.answer_to(&inbound, answer);
        self.drop(inbound, reason, fate);
    }

    /// Sends the answer to who sent `inbound`.
    pub(crate) fn answer_to(&mut self, inbound: &Inbound, answer: Answer) {
        let packet = inbound.place.packet;
        let l3 = &self.memory.bytes(&inbound.frame)[usize::from(inbound.place.l3)..];
        let src = packet.src(l3);
        let Some(back) = self.way_back(inbound.place.zone.ingress(), src, inbound.hash) else {
            return;
        };
        let problem = match answer {
            Answer::Reset | Answer::Reject if packet.proto == IpProtocol::TCP => None,
            Answer::None | Answer::Reset => return,
            Answer::Reject => Some(Problem::PortUnreachable),
            Answer::NoRoute => Some(Problem::NetworkUnreachable),
            Answer::TimeExceeded => Some(Problem::TimeExceeded),
            Answer::TooBig(mtu) => Some(Problem::TooBig { mtu }),
        };
        match problem {
            None => {
                if let Some(made) = reset::answer(&NO_LINK, &packet, l3) {
                    self.generate_reset(&made, packet.family, back, inbound.number, inbound.hash);
                }
            }
            Some(problem) => {
                let own = own_address(back, src.is_ipv4(), self.snapshot);
                // The error has to fit the way back, which a tunnel over a small link makes narrower than 1280 bytes.
                let room = usize::from(self.snapshot.adjacency(back).mtu)
                    .saturating_sub(ERROR_HEADERS_LEN)
                    .max(QUOTED_LEN_MIN);
                let l3 = l3.get(..room).unwrap_or(l3);
                let made = self
                    .icmp_errors
                    .answer(self.now_ns, &NO_LINK, own, &packet, l3, problem);
                if let Ok(made) = made {
                    self.generate(made.l3(), back, inbound.number, inbound.hash);
                }
            }
        }
    }

    /// Sends an IP packet of our own by `adjacency`.
    pub(crate) fn generate(&mut self, l3: &[u8], adjacency: AdjacencyId, cause: PacketNumber, hash: u64) {
        self.generate_as(l3, parse_l3(l3).ok(), adjacency, cause, hash);
    }

    /// Sends a reset of this family by `adjacency`. What it is needs no parsing.
    pub(crate) fn generate_reset(
        &mut self,
        made: &Reset,
        family: Family,
        adjacency: AdjacencyId,
        cause: PacketNumber,
        hash: u64,
    ) {
        let packet = reset::packet(made, family);
        debug_assert_eq!(packet, parse_l3(made.l3()).ok());
        self.generate_as(made.l3(), packet, adjacency, cause, hash);
    }

    /// Sends an IP packet of our own, which is `packet`, by `adjacency`.
    fn generate_as(
        &mut self,
        l3: &[u8],
        packet: Option<Packet>,
        adjacency: AdjacencyId,
        cause: PacketNumber,
        hash: u64,
    ) {
        let adjacency = self.snapshot.adjacency(adjacency);
        let sent = adjacency.resolved
            && match (packet, self.memory.allocate_copy(l3)) {
                (Some(packet), Some(mut frame)) => {
                    if encap::encap(self.memory, &mut frame, 0, &packet, adjacency, hash, false) {
                        match self
                            .outbox
                            .push(adjacency.port, frame, Some(cause), Kind::Generated)
                        {
                            Ok(()) => true,
                            Err(frame) => {
                                self.memory.release(frame);
                                false
                            }
                        }
                    } else {
                        self.memory.release(frame);
                        false
                    }
                }
                (_, Some(frame)) => {
                    self.memory.release(frame);
                    false
                }
                (_, None) => false,
            };
        if !sent {
            self.counters.generated_lost.add(1);
        }
    }

    /// How to reach who sent a packet, by the way that it came.
    pub(crate) fn way_back(&self, ingress: Ingress, src: IpAddr, hash: u64) -> Option<AdjacencyId> {
        let snapshot = self.snapshot;
        match ingress {
            Ingress::Port(port) => match snapshot.port(port)?.kind {
                PortKind::Pod => snapshot.pod_adjacency(port),
                _ => snapshot.host_adjacency(),
            },
            Ingress::Tunnel(_) | Ingress::Uplink => match snapshot.route(src).target {
                RouteTarget::RemotePod {
                    tunnel: Some(tunnel), ..
                } => Some(tunnel),
                _ => snapshot.underlay_adjacency(src, super::decide::ecmp(hash)),
            },
        }
    }
}

/// The address that we answer from: the node's main one, or into a tunnel the one that its other end takes from us.
fn own_address(back: AdjacencyId, is_v4: bool, snapshot: &Snapshot) -> Option<IpAddr> {
    let node = snapshot.this_node();
    let tunnel = match snapshot.adjacency(back).encap {
        AdjacencyEncap::Ethernet => None,
        AdjacencyEncap::Vxlan4 | AdjacencyEncap::Vxlan6 if is_v4 => node.vxlan_address_v4,
        AdjacencyEncap::Vxlan4 | AdjacencyEncap::Vxlan6 => node.vxlan_address_v6,
        AdjacencyEncap::Ipip => node.ipip_address_v4,
    };
    tunnel.or_else(|| node_address(is_v4, snapshot))
}

/// This node's main address of a family.
pub(super) fn node_address(is_v4: bool, snapshot: &Snapshot) -> Option<IpAddr> {
    snapshot
        .this_node()
        .addresses
        .iter()
        .copied()
        .find(|address| address.is_ipv4() == is_v4)
}

/// Headers before what an ICMPv6 error quotes; an IPv4 one has 20 bytes less.
const ERROR_HEADERS_LEN: usize = 48;
/// All headers that one who gets an error needs, whatever the link.
const QUOTED_LEN_MIN: usize = 128;
/// The link header of answers is the adjacency's; what this one writes is cut off.
const NO_LINK: Link = Link {
    own_mac: Mac::ZERO,
    peer_mac: Mac::ZERO,
    vlan: None,
};
