//! Open: plain packets that open flows, a run of them together, so that what each needs of memory is asked for before any waits.
//!
//! Reads Services, routes, policy, one way. Sets both records of each flow, and the headers. Verdicts: tx; drop, where nobody is told
//! why. What takes more than this (an answer, session affinity, a source port, the kernel, a next hop without a MAC) takes the
//! general way, alone and as it was decided.
//!
//! A run is decided first, but for policy, which is asked of all its flows at once; then it is carried out, packet by packet.
//! Decisions depend on the snapshot, on the worker's random numbers in their order, and on there being no entry of the packet's key;
//! so a packet that draws more numbers, or may have the key of a flow before it, ends the run, and a refused one looks for an entry
//! once more. No packet is decided twice, and [`Prospects`] are looked up once for a batch, however many runs it falls into.

use flowtable::{Direction, FlowHash, FlowRef};
use wire::IpProtocol;
use wire::tcp::TcpFlags;

use super::super::decide::{Aim, Exit, Plan, Question, Refusal, aim};
use super::super::refuse::Answer;
use super::super::{Inbound, Pass, rewrite};
use super::lane::{Kind, Lane};
use super::prospects::Prospects;
use super::replay::ADDRESSES;
use super::way::BLOCK_LEN;
use crate::batch::Batch;
use crate::conntrack::ConnState;
use crate::flow::Tuple;
use crate::flow::key::{Family, V4, reversed_addresses, reversed_ports};
use crate::flow::record::{Bits, BytesWord, Layout, PortsWord, SeenWord};
use crate::fragment::complete::complete_tcp_udp;
use crate::io::{Checksum, Frame};
use crate::observe::{Observer, PacketNumber};
use crate::port::PortId;
use crate::snapshot::{self, AdjacencyId, PolicyBatch, RuleId, Shard, Snapshot, VipLookup};

use crate::verdict::{DropReason, Verdict};

/// What was decided of a packet that opens a flow, to be carried out after the packets before it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Decision {
    Open(Opening),
    Refuse(Refusal),
}

/// Which of the two it was.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Opens,
    Refused,
}

/// A flow that was decided and is to be installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    reply_key: [u64; 2],
    reply_hash: FlowHash,
    exit: AdjacencyId,
    stamp: u64,
    shards: [Shard; 3],
    /// Of both directions.
    bits: [u64; 2],
    rule: Option<RuleId>,
    /// What policy is still to be asked.
    asks: u8,
}

impl<'a, O: Observer> Pass<'a, O> {
    /// Gives the batch's frames from number `from` on their verdicts, up to one that is not plain and opening, or whose decision depends on
    /// what becomes of those before it. Returns how many got theirs.
    #[inline(never)]
    pub(in super::super) fn open_run(
        &mut self,
        batch: &mut Batch,
        from: usize,
        prospects: &mut Option<Prospects<'a>>,
    ) -> usize {
        let lanes = &batch.lanes.v4[..batch.frames.len()];
        if !lanes.get(from).is_some_and(Lane::opens) {
            return 0;
        }
        let prospects = prospects.get_or_insert_with(|| Prospects::of(lanes, from, self.snapshot));
        let mut decisions = std::mem::take(self.decisions);
        debug_assert!(decisions.is_empty());
        let (mut keys, mut last) = (Keys::default(), None);
        let mut policy = PolicyBatch::new(self.snapshot);
        for (at, lane) in lanes.iter().enumerate().skip(from) {
            if !lane.opens() || keys.may_have(lane.hash) || policy.room() < ASKS_MAX {
                break;
            }
            match self.decide_opening(lane, prospects.at(at), &mut policy, &mut decisions) {
                Ok(Outcome::Opens) => keys.add(lane.hash),
                Ok(Outcome::Refused) => {}
                Err(plan) => {
                    last = plan;
                    break;
                }
            }
        }
        let end = from + decisions.len();
        let mut has_opened = false;
        let mut said = policy.judge().iter();
        for (at, decision) in (from..).zip(&mut decisions) {
            decision.judge(&mut said, prospects.at(at));
            match decision {
                Decision::Open(opening) => {
                    has_opened = true;
                    self.open_plain(batch, at, opening, prospects);
                }
                Decision::Refuse(refusal) => self.refuse_plain(batch, at, refusal, has_opened, prospects),
            }
        }
        decisions.clear();
        *self.decisions = decisions;
        let Some(plan) = last else {
            return end - from;
        };
        self.carry_out_plain(batch, end, Ok(plan), prospects);
        end + 1 - from
    }

    /// Opens the flow of frame number `at`, and forwards it.
    #[inline]
    fn open_plain(&mut self, batch: &mut Batch, at: usize, opening: &Opening, prospects: &Prospects<'_>) {
        let number = PacketNumber(self.first_number + at as u64);
        let opened = self.open(&mut batch.frames[at], &batch.lanes.v4[at], opening);
        let Some((flow, port, sent)) = opened else {
            let plan = opening.plan(&batch.lanes.v4[at]);
            return self.carry_out_plain(batch, at, Ok(plan), prospects);
        };
        if O::ACTIVE {
            let fate = self.fate_of_flow::<V4, 2, 8>(flow, true, opening.rule);
            self.decided(number, fate, Verdict::Tx(port));
        }
        self.counters.opened.add(1);
        self.outbox.forward(port, sent, O::ACTIVE.then_some(number));
    }

    /// Drops frame number `at`, or answers it; forwards it if a flow was opened before it that it belongs to.
    #[inline]
    fn refuse_plain(
        &mut self,
        batch: &mut Batch,
        at: usize,
        refusal: &Refusal,
        has_opened: bool,
        prospects: &Prospects<'_>,
    ) {
        let lane = &batch.lanes.v4[at];
        let is_answered = refusal.answer != Answer::None;
        if is_answered || has_opened && self.v4.lookup(&lane.key, lane.hash).is_some() {
            return self.carry_out_plain(batch, at, Err(*refusal), prospects);
        }
        let number = PacketNumber(self.first_number + at as u64);
        self.count_rule(refusal.rule, true);
        self.remember_drop(batch.ports[at], refusal.reason, refusal.rule, |_| {
            V4::tuple(&lane.key)
        });
        let frame = batch.frames[at].take();
        self.drop_frame(frame, number, refusal.reason, refusal.fate());
    }

    /// Gives frame number `at`, of which this was decided, its verdict the general way.
    #[inline(never)]
    fn carry_out_plain(
        &mut self,
        batch: &mut Batch,
        at: usize,
        decided: Result<Plan, Refusal>,
        prospects: &Prospects<'_>,
    ) {
        let number = PacketNumber(self.first_number + at as u64);
        let (frame, port, lane) = (batch.frames[at].take(), batch.ports[at], &batch.lanes.v4[at]);
        let Some((frame, place)) = self.admit_plain(frame, number, port) else {
            return;
        };
        let mut inbound = Inbound {
            frame,
            number,
            port,
            place,
            hash: lane.hash.value(),
        };
        // Asked now: a packet since the decision may have made the entry.
        if let Some(flow) = self.v4.lookup(&lane.key, lane.hash) {
            match self.hit::<V4, 2, 8>(inbound, flow) {
                Ok(()) => return,
                Err(missed) => inbound = missed,
            }
        }
        let vip = prospects.at(at).unwrap_or(VipLookup::NotService);
        self.carry_out::<V4, 2, 8>(inbound, &V4::tuple(&lane.key), vip, decided);
    }

    /// Adds to `decisions` what becomes of the flow that a packet opens, the bucket of its replies on its way, once `policy` has
    /// judged it. Else a plan that is not for the short way, or nothing where the general one is to be asked; no later packet may
    /// be decided before either is carried out.
    #[inline]
    fn decide_opening(
        &mut self,
        lane: &Lane,
        prospect: Result<VipLookup<'_>, DropReason>,
        policy: &mut PolicyBatch<'a>,
        decisions: &mut Vec<Decision>,
    ) -> Result<Outcome, Option<Plan>> {
        if self.v4.lookup(&lane.key, lane.hash).is_some() {
            return Err(None);
        }
        let vip = match prospect {
            Ok(vip) => vip,
            Err(reason) => {
                decisions.push(Decision::Refuse(Refusal::new(reason, Answer::None)));
                return Ok(Outcome::Refused);
            }
        };
        // Read where it was put together: a copy made right away would wait for its parts to be stored.
        let mut question = Question {
            tuple: V4::tuple(&lane.key),
            opening: true,
            hash: lane.hash.value(),
            established: None,
            affine: None,
        };
        let from = &question.tuple;
        if self.expected_zone(from).is_some() || self.is_for_the_kernel_alone(from, vip) {
            return Err(None);
        }
        let is_affine = matches!(vip, VipLookup::Service(service) if service.affinity_s > 0);
        if is_affine {
            question.affine = self.affine_backend::<V4, 2, 8>(&question.tuple, vip);
        }
        let aim = match aim(&question, vip, self.snapshot, self.rng) {
            Ok(aim) => aim,
            Err(refusal) => {
                decisions.push(Decision::Refuse(refusal));
                return Ok(Outcome::Refused);
            }
        };
        let from = &question.tuple;
        let Plan {
            to,
            snat: None,
            exit: Exit::Adjacency(Some(exit)),
            back: Exit::Adjacency(back),
            reply_zone,
            rule: _,
            shards,
        } = aim.plan
        else {
            return judged_alone(aim, from, self.snapshot, decisions);
        };
        if is_affine {
            return judged_alone(aim, from, self.snapshot, decisions);
        }
        let (rule, asks) = match aim.ask(from, policy) {
            Ok(asked) => asked,
            Err(refusal) => {
                decisions.push(Decision::Refuse(refusal));
                return Ok(Outcome::Refused);
            }
        };
        let reply_key = V4::key(&to.reversed(reply_zone));
        let state = match lane.mark.kind {
            Kind::Udp => ConnState::first(IpProtocol::UDP, TcpFlags::NONE),
            Kind::Tcp | Kind::Syn => ConnState::first(IpProtocol::TCP, TcpFlags::SYN),
        };
        let flags = if from.same_headers(&to) { 0 } else { Bits::REWRITE };
        let created = self.now_ms;
        decisions.push(Decision::Open(Opening {
            reply_key,
            reply_hash: self.v4.begin(&reply_key),
            exit,
            stamp: self.generations.stamp(shards).0,
            shards,
            bits: [
                Bits::new(Some(exit), created as u16, state, flags).0,
                Bits::new(back, (created >> 16) as u16, state, flags).0,
            ],
            rule,
            asks,
        }));
        Ok(Outcome::Opens)
    }

    /// Installs a flow and rewrites its packet; its frame is ready to leave by the port returned. `None`, and nothing changed but
    /// that a partial checksum may have been completed, when that can't be.
    #[inline]
    fn open(
        &mut self,
        frame: &mut Frame,
        lane: &Lane,
        opening: &Opening,
    ) -> Option<(FlowRef, PortId, Frame)> {
        let mark = lane.mark;
        let way = self.ways.way(opening.exit, self.snapshot, self.outbox);
        let (l3, total_len) = (usize::from(mark.l3), usize::from(mark.total_len));
        if mark.total_len > way.mtu {
            return None;
        }
        // Completed before it is rewritten is as good as after.
        if frame.checksum != Checksum::Full
            && way.completes
            && !complete_tcp_udp(self.memory, frame, mark.proto(), l3 + total_len)
        {
            return None;
        }
        let partial = frame.checksum != Checksum::Full;
        let (before, packet) = self.memory.around_mut::<BLOCK_LEN, 40>(frame, l3)?;

        let zone = crate::flow::key::zone_of(&lane.key);
        let unanswered = self.shared.unanswered();
        if !unanswered.may_open(zone, self.flows.v4.table().limit()) {
            return None;
        }
        let sequence = match mark.kind {
            Kind::Udp => 0,
            // The SYN counts as one.
            Kind::Tcp | Kind::Syn => mark.sequence.wrapping_add(1),
        };
        let (addresses, ports) = (
            reversed_addresses(&opening.reply_key),
            PortsWord::new(reversed_ports(&opening.reply_key), opening.rule),
        );
        let seen = [SeenWord::new(self.now_ms, 1), SeenWord::new(self.now_ms, 0)];
        let bytes = BytesWord::new(mark.total_len.into(), sequence);
        let installed = self.flows.v4.insert_missed(
            [&lane.key, &opening.reply_key],
            [lane.hash, opening.reply_hash],
            |both| {
                let back = PortsWord::new(reversed_ports(&lane.key), opening.rule);
                let back = (reversed_addresses(&lane.key), back);
                for (direction, (addresses, ports)) in [
                    (Direction::Original, (addresses, ports)),
                    (Direction::Reply, back),
                ] {
                    both.set_word(direction, ADDRESSES, addresses);
                    both.set_word(direction, V4::PORTS, ports.0);
                    both.set_word(direction, V4::STAMP, opening.stamp);
                    both.set_word(direction, V4::SEEN, seen[direction as usize].0);
                    both.set_bits(direction, opening.bits[direction as usize]);
                }
                both.set_word(Direction::Original, V4::BYTES, bytes.0);
            },
        );
        let flow = installed.ok()?;
        self.counters.flows_created.add(1);
        unanswered.opened(zone, self.flows.v4.is_alone());

        if Bits(opening.bits[0]).has(Bits::REWRITE) {
            rewrite::replay_v4(packet, lane.key, mark.is_udp(), partial, addresses, ports.wire());
        } else {
            rewrite::replay_ttl(packet);
        }
        way.write::<V4, 2, 8>(before, packet, mark, lane.hash.value());
        let (port, sent) = (way.port, way.leave::<V4, 2, 8>(frame, mark));
        self.count_rule(opening.rule, true);
        Some((flow, port, sent))
    }
}

/// What becomes of a flow that the general way opens, if policy allows it.
#[inline(never)]
fn judged_alone(
    aim: Aim<'_>,
    from: &Tuple,
    snapshot: &Snapshot,
    decisions: &mut Vec<Decision>,
) -> Result<Outcome, Option<Plan>> {
    match aim.judged(from, snapshot) {
        Ok(plan) => Err(Some(plan)),
        Err(refusal) => {
            decisions.push(Decision::Refuse(refusal));
            Ok(Outcome::Refused)
        }
    }
}

impl Decision {
    /// Makes it what policy has it be, whose next answers are to what it was asked.
    #[inline]
    fn judge(
        &mut self,
        said: &mut std::slice::Iter<'_, snapshot::Decision>,
        prospect: Result<VipLookup<'_>, DropReason>,
    ) {
        let Self::Open(opening) = self else {
            return;
        };
        // The source's answer comes first: its rule stands where both deny.
        let mut denied = None;
        for decision in said.take(opening.asks.into()) {
            if !decision.allow && denied.is_none() {
                denied = Some(decision.rule);
            }
            opening.rule = decision.rule.or(opening.rule);
        }
        if let Some(rule) = denied {
            let service = match prospect {
                Ok(VipLookup::Service(service)) => Some(service.id),
                _ => None,
            };
            *self = Self::Refuse(Refusal::denied(rule, service, opening.shards));
        }
    }
}

impl Opening {
    /// The plan that it was made of, for the packet that it was made for.
    #[cold]
    fn plan(&self, lane: &Lane) -> Plan {
        let reply = V4::tuple(&self.reply_key);
        Plan {
            to: reply.reversed(crate::flow::key::zone_of(&lane.key)),
            snat: None,
            exit: Exit::Adjacency(Some(self.exit)),
            back: Exit::Adjacency(Bits(self.bits[1]).adjacency()),
            reply_zone: reply.zone,
            rule: self.rule,
            shards: self.shards,
        }
    }
}

/// Keys of the flows that a run opens, by a few bits of their hashes: the next packet of one must meet the entry that the first makes.
#[derive(Default)]
struct Keys([u64; 16]);

impl Keys {
    #[inline]
    fn place(hash: FlowHash) -> (usize, u64) {
        let bits = hash.value() >> 32;
        ((bits >> 6) as usize % 16, 1 << (bits & 63))
    }

    #[inline]
    fn add(&mut self, hash: FlowHash) {
        let (word, bit) = Self::place(hash);
        self.0[word] |= bit;
    }

    #[inline]
    fn may_have(&self, hash: FlowHash) -> bool {
        let (word, bit) = Self::place(hash);
        self.0[word] & bit != 0
    }
}

/// Questions to policy that one flow makes at most: of its source and of its destination.
const ASKS_MAX: usize = 2;
