//! Hold: packets whose next hop has no MAC address yet. At most four per next hop, for at most a second.
//!
//! Reads the adjacency, again at each batch. Verdicts: tx once it is resolved; drop `neighbour-unresolved` when the time is up
//! or there is no place.

use wire::Packet;

use super::{Pass, encap};
use crate::io::Frame;
use crate::observe::{Fate, Observer, PacketNumber};
use crate::outbox::Kind;
use crate::snapshot::{AdjacencyEncap, AdjacencyId};
use crate::verdict::{DropReason, Verdict};

/// The waiting packets of one worker, oldest first.
#[derive(Debug)]
pub(crate) struct Hold {
    waiting: Vec<Waiting>,
}

/// A packet, rewritten, that lacks but its link header. Its IP header is at the front.
#[derive(Debug)]
struct Waiting {
    frame: Frame,
    number: PacketNumber,
    packet: Packet,
    l3: usize,
    adjacency: AdjacencyId,
    hash: u64,
    kind: Kind,
    fate: Fate,
    until_ns: u64,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            waiting: Vec::with_capacity(WAITING_MAX),
        }
    }
}

impl Hold {
    /// Input packets among them: what the counter `held` shows.
    pub(crate) fn packets(&self) -> usize {
        self.waiting.iter().filter(|w| w.kind == Kind::Forwarded).count()
    }

    /// When the oldest is due, if any waits.
    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting.first().map(|waiting| waiting.until_ns)
    }
}

impl<O: Observer> Pass<'_, O> {
    /// Lets a packet wait for `adjacency`.
    #[expect(clippy::too_many_arguments, reason = "all that sending it later needs")]
    pub(super) fn hold(
        &mut self,
        frame: Frame,
        number: PacketNumber,
        packet: Packet,
        l3: usize,
        adjacency: AdjacencyId,
        hash: u64,
        kind: Kind,
        fate: Fate,
    ) {
        let same = self
            .hold
            .waiting
            .iter()
            .filter(|waiting| waiting.adjacency == adjacency)
            .count();
        if same >= PER_NEXT_HOP_MAX || self.hold.waiting.len() >= WAITING_MAX {
            return self.give_up(frame, number, kind, fate);
        }
        if O::ACTIVE && kind == Kind::Forwarded {
            self.observer.held(number);
        }
        self.shared
            .want_neighbour(packet.dst(&self.memory.bytes(&frame)[l3..]));
        let until_ns = self.now_ns + HOLD_NS;
        self.hold.waiting.push(Waiting {
            frame,
            number,
            packet,
            l3,
            adjacency,
            hash,
            kind,
            fate,
            until_ns,
        });
    }

    /// Sends what can be sent by now and drops what has waited long enough.
    pub(crate) fn release_held(&mut self) {
        if self.hold.waiting.is_empty() {
            return;
        }
        let mut at = 0;
        while let Some(waiting) = self.hold.waiting.get(at) {
            let adjacency = self.snapshot.adjacency(self.resolved_since(waiting));
            let due = self.now_ns >= waiting.until_ns;
            if !adjacency.resolved && !due {
                at += 1;
                continue;
            }
            let Waiting {
                mut frame,
                number,
                packet,
                l3,
                hash,
                kind,
                fate,
                ..
            } = self.hold.waiting.remove(at);
            let completes = self
                .outbox
                .capabilities(adjacency.port)
                .is_some_and(|c| c.tx_checksum);
            if !adjacency.resolved {
                self.give_up(frame, number, kind, fate);
            } else if encap::encap(self.memory, &mut frame, l3, &packet, adjacency, hash, completes) {
                match self.outbox.push(adjacency.port, frame, Some(number), kind) {
                    Ok(()) if kind == Kind::Forwarded => {
                        self.decided(number, fate, Verdict::Tx(adjacency.port));
                    }
                    Ok(()) => {}
                    Err(frame) => self.give_up(frame, number, kind, fate),
                }
            } else {
                self.give_up(frame, number, kind, fate);
            }
        }
    }

    /// The adjacency that a waiting packet leaves by now: a destination on the link got one of its own with its MAC.
    fn resolved_since(&self, waiting: &Waiting) -> AdjacencyId {
        let adjacency = self.snapshot.adjacency(waiting.adjacency);
        if adjacency.resolved || adjacency.encap != AdjacencyEncap::Ethernet {
            return waiting.adjacency;
        }
        let destination = waiting
            .packet
            .dst(&self.memory.bytes(&waiting.frame)[waiting.l3..]);
        self.snapshot
            .underlay_adjacency(destination, super::decide::ecmp(waiting.hash))
            .unwrap_or(waiting.adjacency)
    }

    /// Drops an input packet, or a frame that we made of one.
    fn give_up(&mut self, frame: Frame, number: PacketNumber, kind: Kind, fate: Fate) {
        if kind == Kind::Forwarded {
            self.drop_frame(frame, number, DropReason::NeighbourUnresolved, fate);
        } else {
            self.memory.release(frame);
        }
    }
}

/// Frames that wait for one next hop.
const PER_NEXT_HOP_MAX: usize = 4;
/// Frames that wait in all.
const WAITING_MAX: usize = 256;
/// How long.
const HOLD_NS: u64 = 1_000_000_000;
