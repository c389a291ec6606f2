//! Open: plain packets that open flows, a run of them together, so that what each needs of memory is asked for before any waits.
//!
//! Reads Services, routes, policy, one way. Sets both records of each flow, and the headers. Verdict: tx. What would come to another
//! one, or takes more than this (session affinity, a source port, the kernel, a next hop without a MAC), is given back before
//! anything has been touched, and takes the general way.

use contract::valid::AddressPort;
use flowtable::{Direction, FlowHash, FlowRef};
use wire::IpProtocol;
use wire::tcp::TcpFlags;

use super::super::classify::source_is_right;
use super::super::decide::{Exit, Plan, Question, decide};
use super::super::{Pass, rewrite};
use super::lane::{Kind, Lane};
use super::replay::ADDRESSES;
use super::way::BLOCK_LEN;
use crate::batch::Batch;
use crate::conntrack::ConnState;
use crate::flow::key::{Family, V4, reversed_addresses, reversed_ports};
use crate::flow::record::{Bits, BytesWord, Layout, PortsWord, SeenWord};
use crate::fragment::complete::complete_tcp_udp;
use crate::io::{BATCH_MAX, Checksum, Frame};
use crate::observe::{Observer, PacketNumber};
use crate::port::PortId;
use crate::snapshot::{AdjacencyId, RuleId, VipLookup};
use crate::verdict::Verdict;

/// A flow that was decided and is to be installed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    reply_key: [u64; 2],
    reply_hash: FlowHash,
    exit: AdjacencyId,
    stamp: u64,
    /// Of both directions.
    bits: [u64; 2],
    rule: Option<RuleId>,
}

impl<O: Observer> Pass<'_, O> {
    /// Opens the flows of the batch's frames from number `from` on, up to one that is not plain and opening. Returns how many got their
    /// verdict.
    #[inline(never)]
    pub(in super::super) fn open_run(&mut self, batch: &mut Batch, from: usize) -> usize {
        let lanes = &batch.lanes[from..batch.frames.len()];
        if !lanes.first().is_some_and(Lane::opens) {
            return 0;
        }
        // Services first: the walks to all of them are under way at once.
        let mut places = [NOWHERE; BATCH_MAX];
        let mut keys = Keys::default();
        let mut len = 0;
        for (at, lane) in lanes.iter().enumerate() {
            if !lane.opens() || !keys.add(lane.hash) {
                break;
            }
            let to = V4::tuple(&lane.key);
            places[at] = AddressPort {
                address: to.dst,
                protocol: to.proto.0,
                port: to.dport,
            };
            len = at + 1;
        }
        let vips = self.snapshot.vip_each::<BATCH_MAX>(&places[..len]);
        let mut openings = std::mem::take(self.openings);
        debug_assert!(openings.is_empty());
        for (at, vip) in vips[..len].iter().enumerate() {
            let Some(opening) = self.decide_opening(&lanes[at], *vip) else {
                break;
            };
            openings.push(opening);
        }
        let opened = openings.len();
        for (at, opening) in openings.drain(..).enumerate() {
            let lane = &lanes[at];
            let number = PacketNumber(self.first_number + (from + at) as u64);
            let frame = &mut batch.frames[from + at];
            let Some((flow, port, sent)) = self.open(frame, lane, &opening) else {
                self.not_steady(frame.take(), number, batch.ports[from + at], &lane.lookup());
                continue;
            };
            if O::ACTIVE {
                let fate = self.fate_of_flow::<V4, 2, 8>(flow, true, opening.rule);
                self.decided(number, fate, Verdict::Tx(port));
            }
            self.counters.opened.add(1);
            self.outbox.forward(port, sent, O::ACTIVE.then_some(number));
        }
        *self.openings = openings;
        opened
    }

    /// What becomes of the flow that a packet opens, the bucket of its replies on its way; `None`: the general way is to say.
    #[inline]
    fn decide_opening(&mut self, lane: &Lane, vip: VipLookup<'_>) -> Option<Opening> {
        let from = V4::tuple(&lane.key);
        let is_affine = matches!(vip, VipLookup::Service(service) if service.affinity_s > 0);
        if is_affine
            || source_is_right(self.snapshot, from.zone.ingress(), from.src).is_err()
            || self.expected_zone(&from).is_some()
            || self.v4.lookup(&lane.key, lane.hash).is_some()
        {
            return None;
        }
        let question = Question {
            tuple: from,
            opening: true,
            hash: lane.hash.value(),
            established: None,
            affine: None,
        };
        let rng = self.rng.clone();
        let Ok(Plan {
            to,
            snat: None,
            exit: Exit::Adjacency(Some(exit)),
            back: Exit::Adjacency(back),
            reply_zone,
            rule,
            shards,
        }) = decide(&question, vip, self.snapshot, self.rng)
        else {
            // As if it had not been asked: the general way asks again.
            *self.rng = rng;
            return None;
        };
        let reply_key = V4::key(&to.reversed(reply_zone));
        let state = match lane.mark.kind {
            Kind::Udp => ConnState::first(IpProtocol::UDP, TcpFlags::NONE),
            Kind::Tcp | Kind::Syn => ConnState::first(IpProtocol::TCP, TcpFlags::SYN),
        };
        let flags = if from.same_headers(&to) { 0 } else { Bits::REWRITE };
        let created = self.now_ms;
        Some(Opening {
            reply_key,
            reply_hash: self.v4.begin(&reply_key),
            exit,
            stamp: self.generations.stamp(shards).0,
            bits: [
                Bits::new(Some(exit), created as u16, state, flags).0,
                Bits::new(back, (created >> 16) as u16, state, flags).0,
            ],
            rule,
        })
    }

    /// Installs a flow and rewrites its packet; its frame is ready to leave by the port returned. `None`, and nothing changed, when
    /// that can't be.
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
        unanswered.opened(zone);

        if Bits(opening.bits[0]).has(Bits::REWRITE) {
            rewrite::replay_v4(packet, lane.key, mark.is_udp(), partial, addresses, ports.wire());
        } else {
            rewrite::replay_ttl(packet);
        }
        way.write(before, packet, mark, lane.hash.value());
        let (port, sent) = (way.port, way.leave(frame, mark));
        self.count_rule(opening.rule, true);
        Some((flow, port, sent))
    }
}

const NOWHERE: AddressPort = AddressPort {
    address: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    protocol: 0,
    port: 0,
};

/// Keys of a run, by a few bits of their hashes: of two packets of one flow the second must meet the entry that the first makes.
#[derive(Default)]
struct Keys([u64; 16]);

impl Keys {
    /// Adds a key; false when it may be there already.
    #[inline]
    fn add(&mut self, hash: FlowHash) -> bool {
        let bits = hash.value() >> 32;
        let (word, bit) = (&mut self.0[(bits >> 6) as usize % 16], 1 << (bits & 63));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}
