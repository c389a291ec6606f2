//! Redecide: an entry whose stamp differs is decided again, both directions, by whichever packet comes first.
//!
//! Reads the entry's tuples and the snapshot. Sets the decided words and bits, under the table's exclusion; NAT that is still
//! valid stays. A flow that policy now denies stays as a denied entry, so that neither end can open it anew from the middle, and
//! a later change may admit it again. At most a configured number per batch; beyond it the old decision serves once more.
//! Verdicts for the caller: those of decide, and drop `no-route` with resets for TCP whose backend was withdrawn.

use flowtable::{Both, Decision, Direction, FlowRef};
use wire::{IpProtocol, Port};

use super::classify::source_is_right;
use super::decide::{Plan, Question, Refusal, decide};
use super::refuse::Answer;
use super::snat::write_plan;
use super::{Inbound, Pass, Table};
use crate::answer::{Link, reset};
use crate::flow::Tuple;
use crate::flow::record::{Bits, Layout};
use crate::generations::Stamp;
use crate::observe::{Fate, Observer};
use crate::snapshot::RuleId;
use crate::verdict::DropReason;

/// What a re-decision came to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Redecided {
    /// Nothing was decided: the batch had its share, or another worker is at it.
    Same,
    /// The entry says something new; read it again.
    Anew,
    /// The entry is gone: classify the packet.
    Gone,
    /// The flow has no way any more; its entry is gone.
    Cut(Refusal),
}

impl<O: Observer> Pass<'_, O> {
    /// Decides `flow` again.
    #[cold]
    pub(super) fn redecide<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        flow: FlowRef,
        inbound: &Inbound,
    ) -> Redecided {
        let stamp = Stamp(L::writer(self.flows).table().record(flow).word(L::STAMP));
        let is_foreign = self.generations.is_foreign(stamp);
        if self.redecisions_left == 0 && !is_foreign {
            self.counters.redecisions_put_off.add(1);
            return Redecided::Same;
        }
        self.redecisions_left = self.redecisions_left.saturating_sub(1);
        self.counters.redecisions.add(1);
        let (snapshot, shared, hash) = (self.snapshot, self.shared, inbound.hash);
        let rng = &mut *self.rng;
        let reply_packet = flow.direction() == Direction::Reply;
        let mut outcome = Redecided::Same;
        let mut unanswered = None;
        let done = L::writer(self.flows).redecide(flow, |both| {
            let from = L::tuple(&both.key(Direction::Original));
            if !Bits(both.bits(Direction::Original)).has(Bits::ANSWERED) {
                unanswered = Some(from.zone);
            }
            let reply = L::tuple(&both.key(Direction::Reply));
            let to = reply.reversed(from.zone);
            let to = Tuple {
                kind: from.kind,
                ..to
            };
            let question = Question {
                tuple: from,
                opening: true,
                hash,
                established: Some(to),
                affine: None,
            };
            // Its port or node may be another one's by now, which must not go on with the connections of the former.
            if source_is_right(snapshot, from.zone.ingress(), from.src).is_err() {
                outcome = Redecided::Gone;
                return Decision::Remove;
            }
            let vip = snapshot.vip(from.dst, from.proto.0, from.dport);
            let decided = decide(&question, vip, snapshot, rng);
            let stamp = |shards| shared.generations().stamp(shards).0;
            let (decision, what) = match decided {
                Ok(plan) if is_same_flow(&plan, &to, &reply) => {
                    keep::<L, K, W>(both, &from, &to, &plan, stamp(plan.shards));
                    (Decision::Keep, Redecided::Anew)
                }
                // Its replies come from elsewhere now: another entry, made by this packet or by the next the other way.
                Ok(_) if reply_packet && !is_foreign => (Decision::Keep, Redecided::Same),
                Ok(_) => (Decision::Remove, Redecided::Gone),
                Err(refusal) if refusal.reason == DropReason::PolicyDenied => {
                    deny::<L, K, W>(both, refusal.rule, stamp(refusal.shards));
                    (Decision::Keep, Redecided::Anew)
                }
                // The backend of a datagram flow is gone: the next packet to the Service chooses another.
                Err(refusal) if refusal.reason == DropReason::NoFlow && reply_packet && !is_foreign => {
                    (Decision::Keep, Redecided::Same)
                }
                Err(refusal) if refusal.reason == DropReason::NoFlow => {
                    let _ = refusal;
                    (Decision::Remove, Redecided::Gone)
                }
                Err(refusal) => (Decision::Remove, Redecided::Cut(refusal)),
            };
            outcome = what;
            decision
        });
        match done {
            Ok(Decision::Remove) => {
                self.counters.flows_removed.add(1);
                if let Some(zone) = unanswered {
                    self.shared.unanswered().ended(zone, self.flows.v4.is_alone());
                }
            }
            Ok(Decision::Keep) => {}
            // The old decision serves once more, unless it is another process's.
            Err(_) if is_foreign => return Redecided::Gone,
            Err(_) => return Redecided::Same,
        }
        outcome
    }

    /// The end of a flow that has no way any more: TCP is told at both ends, others at this one.
    pub(super) fn cut<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: Inbound,
        flow: FlowRef,
        copy: &flowtable::Snapshot<K, W>,
        refusal: &Refusal,
    ) {
        let fate = self.fate_of_flow::<L, K, W>(flow, false, refusal.rule);
        let fate = Fate {
            service: refusal.service.or(fate.service),
            ..fate
        };
        let packet = inbound.place.packet;
        if packet.proto != IpProtocol::TCP {
            return self.refuse(inbound, refusal.reason, refusal.answer, fate);
        }
        let bits = Bits(copy.state().bits());
        if let (Some(other), false) = (bits.adjacency(), bits.has(Bits::PUNT)) {
            let peer = L::tuple(&L::writer(self.flows).table().record(flow.peer()).key());
            // What the other end knows the connection by: the reverse of what it sends.
            let (from, to) = (
                (peer.dst, Port::new(peer.dport)),
                (peer.src, Port::new(peer.sport)),
            );
            if let Some(made) = reset::onward(&NO_LINK, &packet, self.l3(&inbound), from, to) {
                self.generate_reset(&made, packet.family, other, inbound.number, inbound.hash);
            }
        }
        self.refuse(inbound, refusal.reason, Answer::Reset, fate);
    }
}

/// The plan leaves both keys what they are.
fn is_same_flow(plan: &Plan, to: &Tuple, reply: &Tuple) -> bool {
    plan.to.same_headers(to) && plan.reply_zone == reply.zone
}

/// Writes the new decision; what runs on (state, creation, whether it was answered) stays.
fn keep<L: Table<K, W>, const K: usize, const W: usize>(
    both: &mut Both<'_, K, W>,
    from: &Tuple,
    to: &Tuple,
    plan: &Plan,
    stamp: u64,
) {
    let old = [Direction::Original, Direction::Reply].map(|direction| Bits(both.bits(direction)));
    let created = u32::from(old[0].created_half()) | u32::from(old[1].created_half()) << 16;
    write_plan::<L, K, W>(
        both,
        from,
        to,
        plan,
        stamp,
        old[0].state(),
        created,
        old[0].0 & Bits::ANSWERED,
    );
}

/// Marks both directions denied by `rule`.
fn deny<L: Table<K, W>, const K: usize, const W: usize>(
    both: &mut Both<'_, K, W>,
    rule: Option<RuleId>,
    stamp: u64,
) {
    for direction in [Direction::Original, Direction::Reply] {
        both.set_bits(direction, both.bits(direction) | Bits::DENIED);
        both.set_word(direction, L::STAMP, stamp);
        both.set_word(
            direction,
            <L as Layout>::PORTS,
            with_rule(both.word(direction, <L as Layout>::PORTS), rule),
        );
    }
}

fn with_rule(word: u64, rule: Option<RuleId>) -> u64 {
    let rule = rule.map_or(0x00ff_ffff, |rule| rule.0 & 0x00ff_ffff);
    word & !(0x00ff_ffff << 32) | u64::from(rule) << 32
}

const NO_LINK: Link = Link {
    own_mac: wire::Mac::ZERO,
    peer_mac: wire::Mac::ZERO,
    vlan: None,
};
