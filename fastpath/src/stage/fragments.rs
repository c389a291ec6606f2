//! Fragments: later ones have no ports; they take the way of their first.
//!
//! Reads what became of the first fragment, here or on the board that all workers share. Sets addresses alone. Verdicts: those of forward, the refusal of the first; held
//! while the first has not come, then drop `fragment-timeout`; drop `fragment-quota`.

use std::net::IpAddr;

use wire::Port;
use wire::packet::Packet;

use super::decide::Exit;
use super::forward::Rewrite;
use super::{Inbound, NOTHING, Pass, Place};
use crate::flow::Zone;
use crate::fragment::FragmentKey;
use crate::fragment::board::OUTCOME_WORDS;
use crate::fragment::track::Later;
use crate::io::Frame;
use crate::observe::{Fate, FlowView, Observer, PacketNumber};
use crate::port::PortId;
use crate::snapshot::{AdjacencyId, RuleId};
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
    Dropped(DropReason, Fate),
    /// The kernel's.
    Punted(PuntReason, Fate),
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
        if let Some(outcome) = self.posted_outcome(&key) {
            // Newer than what is known here, if that differs: the identification was used again.
            if !self.fragments.is_decided(&key, self.now_ns) {
                self.settle(&key, outcome);
            }
            return self.follow(frame, note, outcome);
        }
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
        *self.first = key.map(|key| (key, FragmentOutcome::Dropped(DropReason::Malformed, NOTHING)));
    }

    /// The packet has gone its way: those that waited follow it.
    #[cold]
    pub(crate) fn end_first_fragment(&mut self) {
        let Some((key, outcome)) = self.first.take() else {
            return;
        };
        if let Some(board) = self.shared.first_fragments() {
            board.post(&key, outcome.words(), self.now_ns);
        }
        self.settle(&key, outcome);
    }

    /// Remembers an outcome; those that waited for it follow it.
    fn settle(&mut self, key: &FragmentKey, outcome: FragmentOutcome) {
        let mut released = std::mem::take(self.released);
        self.fragments.first(key, outcome, self.now_ns, &mut released);
        for (frame, note) in released.drain(..) {
            self.follow(frame, note, outcome);
        }
        *self.released = released;
    }

    /// What some worker's first fragment of this datagram came to.
    fn posted_outcome(&self, key: &FragmentKey) -> Option<FragmentOutcome> {
        let words = self.shared.first_fragments()?.find(key, self.now_ns)?;
        FragmentOutcome::from_words(words)
    }

    /// Fragments that wait here follow their first where another worker has seen it meanwhile.
    pub(crate) fn look_for_first_fragments(&mut self) {
        let Some(board) = self.shared.first_fragments() else {
            return;
        };
        if self.fragments.held() == 0 {
            return;
        }
        let posted = board.posted();
        for _ in 0..LOOKED_FOR_PER_BATCH_MAX {
            let Some(key) = self.fragments.next_waiting(posted) else {
                return;
            };
            if let Some(outcome) = self.posted_outcome(&key) {
                self.settle(&key, outcome);
            }
        }
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
            FragmentOutcome::Dropped(reason, fate) => self.drop(inbound, reason, as_later(fate)),
            FragmentOutcome::Punted(reason, fate) => self.punt(inbound, reason, as_later(fate)),
            FragmentOutcome::Forwarded { exit, to, hash, fate } => {
                inbound.hash = hash;
                let fate = as_later(fate);
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

/// What decided the first fragment decides the others, which open no flow.
fn as_later(first: Fate) -> Fate {
    Fate {
        flow: first.flow.map(|flow| FlowView { new: false, ..flow }),
        ..first
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

impl FragmentOutcome {
    /// As plain words, for other workers. Service and flow are left out: they are for who watches a single worker.
    fn words(&self) -> [u64; OUTCOME_WORDS] {
        let word = u64::from_ne_bytes;
        match *self {
            Self::Dropped(reason, fate) => [
                word([DROPPED, reason as u8, 0, 0, 0, 0, 0, 0]),
                rule_word(fate),
                0,
                0,
                0,
                0,
                0,
                0,
            ],
            Self::Punted(reason, fate) => [
                word([PUNTED, reason as u8, 0, 0, 0, 0, 0, 0]),
                rule_word(fate),
                0,
                0,
                0,
                0,
                0,
                0,
            ],
            Self::Forwarded { exit, to, hash, fate } => {
                let (exit, [id_low, id_high]) = match exit {
                    Exit::Punt => (EXIT_PUNT, [0; 2]),
                    Exit::Adjacency(None) => (EXIT_NONE, [0; 2]),
                    Exit::Adjacency(Some(id)) => (EXIT_ADJACENCY, id.0.to_ne_bytes()),
                };
                let (family, [a, b, c, d], (sport, dport)) = match to {
                    Rewrite::None => (0, [0; 4], (Port::ZERO, Port::ZERO)),
                    Rewrite::V4(addresses, ports) => (4, [addresses, 0, 0, 0], ports),
                    Rewrite::V6((src, dst), ports) => {
                        let ([a, b], [c, d]) = (halves(src), halves(dst));
                        (6, [a, b, c, d], ports)
                    }
                };
                let kinds = word([FORWARDED, 0, exit, family, id_low, id_high, 0, 0]);
                let ports = u64::from(sport.get()) << 16 | u64::from(dport.get());
                [kinds, rule_word(fate), ports, hash, a, b, c, d]
            }
        }
    }

    /// What [`words`](Self::words) gave.
    fn from_words(words: [u64; OUTCOME_WORDS]) -> Option<Self> {
        let [kinds, rule, ports, hash, a, b, c, d] = words;
        let [kind, reason, exit, family, id_low, id_high, ..] = kinds.to_ne_bytes();
        let (sport, dport) = (Port::new((ports >> 16) as u16), Port::new(ports as u16));
        let fate = Fate {
            rule: rule.checked_sub(1).map(|rule| RuleId(rule as u32)),
            ..NOTHING
        };
        Some(match kind {
            DROPPED => Self::Dropped(*DropReason::ALL.get(usize::from(reason))?, fate),
            PUNTED => Self::Punted(*PuntReason::ALL.get(usize::from(reason))?, fate),
            FORWARDED => Self::Forwarded {
                exit: match exit {
                    EXIT_PUNT => Exit::Punt,
                    EXIT_NONE => Exit::Adjacency(None),
                    EXIT_ADJACENCY => {
                        Exit::Adjacency(Some(AdjacencyId(u16::from_ne_bytes([id_low, id_high]))))
                    }
                    _ => return None,
                },
                to: match family {
                    0 => Rewrite::None,
                    4 => Rewrite::V4(a, (sport, dport)),
                    6 => Rewrite::V6((whole([a, b]), whole([c, d])), (sport, dport)),
                    _ => return None,
                },
                hash,
                fate,
            },
            _ => return None,
        })
    }
}

/// The rule that decided, in a word; 0 is none.
fn rule_word(fate: Fate) -> u64 {
    fate.rule.map_or(0, |rule| u64::from(rule.0) + 1)
}

fn halves(address: [u8; 16]) -> [u64; 2] {
    let address = u128::from_ne_bytes(address);
    [address as u64, (address >> 64) as u64]
}

fn whole([low, high]: [u64; 2]) -> [u8; 16] {
    (u128::from(low) | u128::from(high) << 64).to_ne_bytes()
}

/// Kinds of outcome, in their words. 0 is none.
const DROPPED: u8 = 1;
const PUNTED: u8 = 2;
const FORWARDED: u8 = 3;
/// Kinds of exit.
const EXIT_PUNT: u8 = 1;
const EXIT_NONE: u8 = 2;
const EXIT_ADJACENCY: u8 = 3;

/// Datagrams that wait looked for on the board per batch, where something was posted.
const LOOKED_FOR_PER_BATCH_MAX: usize = 64;
/// Fragments and remembered outcomes given up per batch.
const EXPIRE_PER_BATCH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Verdict;

    #[test]
    fn an_outcome_survives_as_words() {
        let ports = (Port::new(40_000), Port::new(53));
        let mut fate = Fate::bare(Verdict::Drop(DropReason::Malformed));
        let mut outcomes = vec![
            FragmentOutcome::Dropped(
                DropReason::PolicyDenied,
                Fate {
                    rule: Some(RuleId(7)),
                    ..fate
                },
            ),
            FragmentOutcome::Punted(PuntReason::ToHost, fate),
        ];
        for rule in [None, Some(RuleId(0)), Some(RuleId((1 << 24) - 1))] {
            fate.rule = rule;
            for exit in [
                Exit::Punt,
                Exit::Adjacency(None),
                Exit::Adjacency(Some(AdjacencyId(0x0102))),
            ] {
                for to in [
                    Rewrite::None,
                    Rewrite::V4(0x0102_0304_0506_0708, ports),
                    Rewrite::V6(([1; 16], std::array::from_fn(|at| at as u8)), ports),
                ] {
                    let hash = 0xfedc_ba98_7654_3210;
                    outcomes.push(FragmentOutcome::Forwarded { exit, to, hash, fate });
                }
            }
        }
        for outcome in outcomes {
            let again = FragmentOutcome::from_words(outcome.words());
            assert_eq!(format!("{again:?}"), format!("{:?}", Some(outcome)));
        }
        assert!(FragmentOutcome::from_words([0; OUTCOME_WORDS]).is_none());
    }
}
