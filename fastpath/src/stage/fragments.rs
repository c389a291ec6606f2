//! Fragments: later ones have no ports; they take the way of their first.
//!
//! Reads what became of the first fragment. Sets addresses alone. Verdicts: those of forward, the refusal of the first; held
//! while the first has not come, then drop `fragment-timeout`; drop `fragment-quota`.

use std::net::IpAddr;

use wire::packet::Packet;

use super::decide::Exit;
use super::forward::Rewrite;
use super::{Inbound, NOTHING, Pass, Place};
use crate::flow::Zone;
use crate::fragment::FragmentKey;
use crate::fragment::track::Later;
use crate::io::Frame;
use crate::observe::{Fate, Observer, PacketNumber};
use crate::port::PortId;
use crate::verdict::{DropReason, PuntReason};

/// What became of a first fragment: what the others follow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FragmentOutcome {
    /// It left so.
    Forwarded {
        exit: Exit,
        to: Rewrite,
        hash: u64,
        fate: Fate,
    },
    /// It was dropped.
    Dropped(DropReason),
    /// The kernel's.
    Punted(PuntReason),
}

/// What is kept of a fragment that waits, beside its frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FragmentNote {
    pub number: PacketNumber,
    pub port: PortId,
    pub place: Place,
}

impl<O: Observer> Pass<'_, O> {
    /// A fragment that is not the first.
    pub(crate) fn later_fragment(&mut self, inbound: Inbound) {
        let Inbound {
            frame,
            number,
            port,
            place,
            ..
        } = inbound;
        let l3 = &self.memory.bytes(&frame)[usize::from(place.l3)..];
        let Some(key) = key_of(&place.packet, l3, place.zone) else {
            return self.drop_frame(frame, number, DropReason::Malformed, NOTHING);
        };
        if let Err(reason) = self.source_is_right(place.zone.ingress(), place.packet.src(l3)) {
            return self.drop_frame(frame, number, reason, NOTHING);
        }
        let note = FragmentNote { number, port, place };
        match self.fragments.later(&key, frame, note, self.now_ns) {
            Later::Follow(outcome, frame, note) => self.follow(frame, note, outcome),
            Later::Held => {
                if O::ACTIVE {
                    self.observer.held(number);
                }
            }
            Later::Refused(frame, note) => {
                self.drop_frame(frame, note.number, DropReason::FragmentQuota, NOTHING);
            }
        }
    }

    /// A packet whose way the later fragments of its datagram take: notes their key before the packet goes its way.
    #[cold]
    pub(crate) fn begin_first_fragment(&mut self, inbound: &Inbound) {
        let place = inbound.place;
        let key = key_of(&place.packet, self.l3(inbound), place.zone);
        *self.first = key.map(|key| (key, FragmentOutcome::Dropped(DropReason::Malformed)));
    }

    /// The packet has gone its way: those that waited follow it.
    #[cold]
    pub(crate) fn end_first_fragment(&mut self) {
        let Some((key, outcome)) = self.first.take() else {
            return;
        };
        let mut released = std::mem::take(self.released);
        self.fragments.first(&key, outcome, self.now_ns, &mut released);
        for (frame, note) in released.drain(..) {
            self.follow(frame, note, outcome);
        }
        *self.released = released;
    }

    /// What happens to the packet in hand happens to the later fragments of its datagram.
    #[inline]
    pub(super) fn note_outcome(&mut self, outcome: impl FnOnce() -> FragmentOutcome) {
        if let Some((_, noted)) = self.first {
            *noted = outcome();
        }
    }

    fn follow(&mut self, frame: Frame, note: FragmentNote, outcome: FragmentOutcome) {
        let FragmentNote { number, port, place } = note;
        let mut inbound = Inbound {
            frame,
            number,
            port,
            place,
            hash: 0,
        };
        match outcome {
            FragmentOutcome::Dropped(reason) => self.drop(inbound, reason, NOTHING),
            FragmentOutcome::Punted(reason) => self.punt(inbound, reason, NOTHING),
            FragmentOutcome::Forwarded {
                exit,
                to,
                hash,
                mut fate,
            } => {
                inbound.hash = hash;
                if let Some(flow) = &mut fate.flow {
                    flow.new = false;
                }
                match self.fits(&place.packet, exit) {
                    Ok(()) => self.forward(inbound, exit, to, fate),
                    Err(unfit) => self.refuse(inbound, unfit.reason, unfit.answer, fate),
                }
            }
        }
    }

    /// Gives up fragments whose first did not come.
    pub(crate) fn expire_fragments(&mut self) {
        if self
            .fragments
            .next_deadline_ns()
            .is_none_or(|due| due > self.now_ns)
        {
            return;
        }
        let mut expired = std::mem::take(self.released);
        self.fragments
            .expire(self.now_ns, EXPIRE_PER_BATCH_MAX, &mut expired);
        for (frame, note) in expired.drain(..) {
            self.drop_frame(frame, note.number, DropReason::FragmentTimeout, NOTHING);
        }
        *self.released = expired;
    }
}

/// What the fragments of `packet`'s datagram share.
fn key_of(packet: &Packet, l3: &[u8], zone: Zone) -> Option<FragmentKey> {
    let id = packet.fragment?.id;
    Some(match (packet.src(l3), packet.dst(l3)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => FragmentKey::v4(src, dst, id as u16, packet.proto, zone.bits()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => FragmentKey::v6(src, dst, id, zone.bits()),
        _ => return None,
    })
}

/// Fragments and remembered outcomes given up per batch.
const EXPIRE_PER_BATCH_MAX: usize = 64;
