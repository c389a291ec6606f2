//! Snat: installs a flow, and finds a source port for those that need one.
//!
//! Reads the plan. Sets the two records. The reply key's insertion decides whether a port is free, so one port serves many
//! destinations and two workers never choose the same. Verdicts for the caller: drop `snat-exhausted`, `table-full`.

use std::net::IpAddr;

use flowtable::{Direction, FlowRef, Refused, Sweep};

use super::decide::{Exit, Plan, Snat};
use super::{Inbound, Pass, Table, sequence_after};
use crate::conntrack::ConnState;
use crate::flow::Tuple;
use crate::flow::record::{Bits, BytesWord, SeenWord};
use crate::observe::Observer;
use crate::verdict::DropReason;

/// What came of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Installed {
    /// The flow is in, rewritten to this tuple.
    Here(FlowRef, Tuple),
    /// Another worker was faster, or an earlier packet of this batch.
    Already(FlowRef),
    /// No.
    Refused(DropReason),
}

/// Destinations towards which no source port was free a moment ago: a search that fails looks at every port of the range, so
/// it is not made again for [`EXHAUSTED_MS`], or one pod that took them all would keep the worker searching.
#[derive(Debug, Default)]
pub(crate) struct Exhausted {
    at_ms: u32,
    destinations: [Option<(IpAddr, IpAddr, u16, u8)>; 8],
    next: usize,
}

impl Exhausted {
    fn contains(&self, now_ms: u32, to: &Tuple) -> bool {
        self.is_recent(now_ms) && self.destinations.contains(&Some(Self::key(to)))
    }

    fn insert(&mut self, now_ms: u32, to: &Tuple) {
        if !self.is_recent(now_ms) {
            *self = Self {
                at_ms: now_ms,
                ..Self::default()
            };
        }
        self.destinations[self.next % self.destinations.len()] = Some(Self::key(to));
        self.next += 1;
    }

    fn is_recent(&self, now_ms: u32) -> bool {
        now_ms.wrapping_sub(self.at_ms) < EXHAUSTED_MS
    }

    fn key(to: &Tuple) -> (IpAddr, IpAddr, u16, u8) {
        (
            to.src,
            to.dst,
            if to.kind.is_echo() { 0 } else { to.dport },
            to.proto.0,
        )
    }
}

impl<O: Observer> Pass<'_, O> {
    /// Installs the flow of `inbound`, whose tuple is `from`, by `plan`.
    pub(super) fn install<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: &Inbound,
        from: &Tuple,
        plan: &Plan,
    ) -> Installed {
        let capacity = L::writer(self.flows).table().limit();
        if !self.shared.unanswered().may_open(from.zone, capacity) {
            return Installed::Refused(DropReason::TableFull);
        }
        let mut to = plan.to;
        let (first, last) = self.snapshot.this_node().snat_ports;
        let has_ports = to.proto.has_ports() || to.kind.is_echo();
        if let Some(Snat {
            address,
            keep_any_port,
        }) = plan.snat
        {
            to.src = address;
            if !has_ports {
                return self
                    .install_as::<L, K, W>(inbound, from, &to, plan)
                    .unwrap_or(EXHAUSTED);
            }
            let may_keep = keep_any_port || (first..=last).contains(&from.sport);
            if may_keep && let Some(installed) = self.install_as::<L, K, W>(inbound, from, &to, plan) {
                return installed;
            }
        } else {
            // Only another flow with the same reply (by another VIP of one backend) makes this fail.
            if let Some(installed) = self.install_as::<L, K, W>(inbound, from, &to, plan) {
                return installed;
            }
            if !has_ports {
                return EXHAUSTED;
            }
        }
        if self.exhausted.contains(self.now_ms, &to) {
            return EXHAUSTED;
        }
        let count = u32::from(last - first) + 1;
        let start = self.rng.below(count);
        for step in 0..count {
            let offset = start + step;
            let port = first + (if offset >= count { offset - count } else { offset }) as u16;
            to.sport = port;
            if to.kind.is_echo() {
                to.dport = port;
            }
            if let Some(installed) = self.install_as::<L, K, W>(inbound, from, &to, plan) {
                return installed;
            }
        }
        self.exhausted.insert(self.now_ms, &to);
        EXHAUSTED
    }

    /// Installs with exactly this rewrite. `None`: its replies could not be told from another flow's.
    fn install_as<L: Table<K, W>, const K: usize, const W: usize>(
        &mut self,
        inbound: &Inbound,
        from: &Tuple,
        to: &Tuple,
        plan: &Plan,
    ) -> Option<Installed> {
        let reply = to.reversed(plan.reply_zone);
        let (key, reply_key) = (L::key(from), L::key(&reply));
        for attempt in 0.. {
            let entry = self.entry(inbound, from, to, plan);
            let inserted =
                L::writer(self.flows).insert(&key, &reply_key, |both| entry.write::<L, K, W>(both));
            match inserted {
                Ok(flow) => {
                    self.counters.flows_created.add(1);
                    self.shared
                        .unanswered()
                        .opened(from.zone, self.flows.v4.is_alone());
                    return Some(Installed::Here(flow, *to));
                }
                Err(Refused::Exists(flow)) => return Some(Installed::Already(flow)),
                Err(Refused::ReplyTaken(other)) => {
                    // One whose time is up gives way.
                    if attempt == 0 && self.expire_if_due::<L, K, W>(other) {
                        continue;
                    }
                    return None;
                }
                Err(Refused::Full) => {
                    if attempt == 0 && self.make_room::<L, K, W>() {
                        continue;
                    }
                    return Some(Installed::Refused(DropReason::TableFull));
                }
            }
        }
        None
    }

    fn expire_if_due<L: Table<K, W>, const K: usize, const W: usize>(&mut self, flow: FlowRef) -> bool {
        let Ok(copy) = self.read::<L, K, W>(flow) else {
            return false;
        };
        if !self.is_due::<L, K, W>(flow, &copy) || !self.remove_flow::<L, K, W>(flow) {
            return false;
        }
        self.counters.flows_expired.add(1);
        true
    }

    /// Of a full table: what nobody answered and which backend a client had go first, what is established stays.
    #[cold]
    fn make_room<L: Table<K, W>, const K: usize, const W: usize>(&mut self) -> bool {
        let (deadlines, now_ms, unanswered) = (self.deadlines, self.now_ms, self.shared.unanswered());
        let is_alone = self.flows.v4.is_alone();
        let (mut expired, mut evicted, mut forgotten) = (0, 0, 0_i64);
        let mut judge = |connection: &flowtable::Connection<'_, K, W>| {
            let bits = Bits(connection.state().bits());
            let idle =
                |direction| super::hit::idle_ms(now_ms, SeenWord(connection.record(direction).word(L::SEEN)));
            let idle = idle(Direction::Original).min(idle(Direction::Reply));
            let end = || {
                if !bits.has(Bits::ANSWERED) {
                    let zone = L::tuple(&connection.record(Direction::Original).key()).zone;
                    unanswered.ended(zone, is_alone);
                }
                Sweep::Remove
            };
            let is_room_made = evicted > 0 || forgotten > 0;
            if bits.has(Bits::AFFINITY) {
                if is_room_made {
                    return Sweep::Keep;
                }
                forgotten += 1;
                Sweep::Remove
            } else if idle >= deadlines.of(bits.state()) {
                expired += 1;
                end()
            } else if !bits.has(Bits::ANSWERED) && !is_room_made {
                evicted += 1;
                end()
            } else {
                Sweep::Keep
            }
        };
        let writer = L::writer(self.flows);
        let mut swept = writer.sweep(MAKE_ROOM_SLOTS, &mut judge);
        if swept.removed == 0 && swept.wrapped {
            // It came to the end of the share before it had looked at as many as it may.
            swept = writer.sweep(MAKE_ROOM_SLOTS, &mut judge);
        }
        self.counters.flows_expired.add(expired);
        self.counters.flows_evicted.add(evicted);
        self.shared.count_affinities(-forgotten);
        swept.removed > 0
    }

    fn entry<'p>(&self, inbound: &Inbound, from: &Tuple, to: &Tuple, plan: &'p Plan) -> Entry<'p> {
        let packet = &inbound.place.packet;
        let sequence = if packet.proto == wire::IpProtocol::TCP {
            sequence_after(packet, self.l3(inbound)).map_or(0, |(_, after)| after)
        } else {
            0
        };
        Entry {
            plan,
            from: *from,
            to: *to,
            stamp: self.generations.stamp(plan.shards).0,
            state: ConnState::first(packet.proto, packet.tcp_flags),
            now_ms: self.now_ms,
            seen: SeenWord::new(self.now_ms, 1).0,
            bytes: BytesWord::new(packet.total_len.into(), sequence).0,
        }
    }
}

/// What a new connection's records say.
struct Entry<'p> {
    plan: &'p Plan,
    from: Tuple,
    to: Tuple,
    stamp: u64,
    state: ConnState,
    now_ms: u32,
    seen: u64,
    bytes: u64,
}

impl Entry<'_> {
    fn write<L: Table<K, W>, const K: usize, const W: usize>(&self, both: &mut flowtable::Both<'_, K, W>) {
        write_plan::<L, K, W>(
            both,
            &self.from,
            &self.to,
            self.plan,
            self.stamp,
            self.state,
            self.now_ms,
            0,
        );
        both.set_word(Direction::Original, L::SEEN, self.seen);
        both.set_word(Direction::Original, L::BYTES, self.bytes);
        both.set_word(Direction::Reply, L::SEEN, SeenWord::new(self.now_ms, 0).0);
    }
}

/// Writes the decided words and the bits of both directions.
#[expect(clippy::too_many_arguments, reason = "two records' worth of facts")]
pub(super) fn write_plan<L: Table<K, W>, const K: usize, const W: usize>(
    both: &mut flowtable::Both<'_, K, W>,
    from: &Tuple,
    to: &Tuple,
    plan: &Plan,
    stamp: u64,
    state: ConnState,
    created_ms: u32,
    flags: u64,
) {
    let back_to = from.reversed(plan.reply_zone);
    let rewrite = if from.same_headers(to) { 0 } else { Bits::REWRITE };
    for (direction, becomes, exit, half) in [
        (Direction::Original, to, plan.exit, created_ms as u16),
        (Direction::Reply, &back_to, plan.back, (created_ms >> 16) as u16),
    ] {
        L::write_rewrite(both, direction, becomes, plan.rule);
        both.set_word(direction, L::STAMP, stamp);
        let (adjacency, punt) = match exit {
            Exit::Adjacency(adjacency) => (adjacency, 0),
            Exit::Punt => (None, Bits::PUNT),
        };
        both.set_bits(
            direction,
            Bits::new(adjacency, half, state, rewrite | punt | flags).0,
        );
    }
}

const EXHAUSTED: Installed = Installed::Refused(DropReason::SnatExhausted);
/// How long a search that failed is remembered: twenty searches a second cost a few per cent of a worker.
const EXHAUSTED_MS: u32 = 50;
/// Slots that a full table is searched for one that may go.
const MAKE_ROOM_SLOTS: u32 = 256;
