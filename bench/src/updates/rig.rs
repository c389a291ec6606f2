//! Rig: one worker with its ports. Brings flows up, lets packets through and checks where each of them went.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fastpath::counters::Counters;
use fastpath::io::{BATCH_MAX, Memory, clock};
use fastpath::observe::Unobserved;
use fastpath::port::PortId;
use fastpath::shared::Shared;
use fastpath::snapshot::Snapshot;
use fastpath::worker::{Worker, WorkerConfig};

use super::pool::Pool;
use super::port::{Play, Sent, Turn, UpdatePort};
use super::world::{Map, Pod, Slot, Truth, client_port};
use crate::pipeline::case::node_address;
use crate::pipeline::packet::{Step, Transport};
use crate::random::Random;

/// One worker and what is around it.
pub(super) struct Rig {
    map: Map,
    worker: Worker<UpdatePort, Unobserved>,
    uplink: PortId,
    clients: Vec<PortId>,
    all: Vec<PortId>,
    /// Clients of which flows are established.
    emitting: Vec<PortId>,
    log: Rc<RefCell<Vec<Sent>>>,
    first: u32,
    /// Where each flow goes, from `first` on: the pod's slot, and which of its addresses in the lowest bit.
    homes: Vec<u32>,
    /// Flows that moved and are to be answered from there.
    moved: Vec<Turn>,
    pub(super) seen: Seen,
}

/// What was found when packets were looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) packets: u64,
    /// Datagram flows that moved because their backend was listed no more.
    pub(super) moved: u64,
    /// Packets that the old decision served once more, since the batch had its share of new ones.
    pub(super) late: u64,
    pub(super) misrouted: u64,
    /// The first of these, in words.
    pub(super) example: Option<String>,
}

impl Rig {
    /// A worker in seat `seat` of `workers` over shared tables.
    pub(super) fn new(
        map: Map,
        shared: &Arc<Shared>,
        snapshot: &Snapshot,
        seat: usize,
        workers: usize,
    ) -> Result<Self> {
        let config = WorkerConfig {
            seat,
            workers,
            seed: seat as u64,
            punt_to_host_mac: false,
        };
        let mut memory = Memory::mapped(CHUNKS, 2048)?;
        let pool = Pool::new(&mut memory, POOL_FRAMES);
        let log = Rc::new(RefCell::new(Vec::with_capacity(LOG_FIRST)));
        let mut worker = Worker::new(config, Arc::clone(shared), memory, Unobserved);
        let by_name = |name: &str| -> Result<PortId> {
            let port = snapshot
                .port_by_name(name)
                .with_context(|| format!("no port {name}"))?;
            Ok(port.id)
        };
        let uplink = by_name("uplink")?;
        let burst = (BATCH_MAX / usize::from(map.clients)).max(1);
        let mut all = Vec::new();
        for port in snapshot.ports() {
            let log = (port.id == uplink).then(|| Rc::clone(&log));
            let burst = if port.id == uplink { BATCH_MAX } else { burst };
            worker.add_port(port.id, UpdatePort::new(&pool, burst, log));
            all.push(port.id);
        }
        Ok(Self {
            map,
            worker,
            uplink,
            clients: (0..map.clients)
                .map(|number| by_name(&client_port(number)))
                .collect::<Result<_>>()?,
            all,
            emitting: Vec::new(),
            log,
            first: 0,
            homes: Vec::new(),
            moved: Vec::new(),
            seen: Seen::default(),
        })
    }

    fn port(&mut self, id: PortId) -> &mut UpdatePort {
        self.worker.port_mut(id).expect("the rig's own port").1
    }

    /// The worker's counters, which other threads may read.
    pub(super) fn counters(&self) -> &Arc<Counters> {
        self.worker.counters()
    }

    /// Brings these flows up, so many at a time as a port may leave unanswered, and gets ready to receive them in random order,
    /// each once a round.
    pub(super) fn establish(&mut self, flows: std::ops::Range<u32>, seed: u64) -> Result<()> {
        self.first = flows.start;
        self.homes = vec![u32::MAX; flows.len()];
        let mut next = flows.start;
        while next < flows.end {
            let last = flows.end.min(next.saturating_add(ESTABLISHED_TOGETHER));
            let mut turns: Vec<Turn> = (next..last).map(|flow| Turn::of(self.map, flow)).collect();
            self.play_at_clients(Step::Open, &turns);
            self.run_dry()?;
            for sent in self.take_log() {
                let pod = Pod::at(Ipv4Addr::from_bits(sent.inner)).context("a pod's address")?;
                turns[(sent.flow - next) as usize].pod = Some(pod);
                self.homes[(sent.flow - self.first) as usize] = home(pod);
            }
            self.answer(&turns)?;
            self.play_at_clients(Step::Data, &turns);
            self.run_dry()?;
            self.take_log();
            next = last;
        }
        ensure!(
            self.homes.iter().all(|home| *home != u32::MAX),
            "not every flow was opened"
        );
        let mut order: Vec<u32> = flows.collect();
        Random::new(seed).shuffle(&mut order);
        for number in 0..self.map.clients {
            let of_client = order.iter().filter(|flow| self.map.client(**flow) == number);
            let turns: Vec<Turn> = of_client.map(|flow| Turn::of(self.map, *flow)).collect();
            if !turns.is_empty() {
                let id = self.clients[usize::from(number)];
                self.port(id).play_data(number, turns);
                self.emitting.push(id);
            }
        }
        Ok(())
    }

    fn play_at_clients(&mut self, step: Step, turns: &[Turn]) {
        let map = self.map;
        for number in 0..map.clients {
            let mine = |turn: &&Turn| map.client(turn.flow) == number;
            let turns = turns.iter().filter(mine);
            let turns = turns.map(|turn| Turn { pod: None, ..*turn }).collect();
            let id = self.clients[usize::from(number)];
            self.port(id).play_once(map, step, turns);
        }
    }

    /// Two answers each from where the flows went: what makes a stream of datagrams one.
    fn answer(&mut self, turns: &[Turn]) -> Result<()> {
        let (map, uplink) = (self.map, self.uplink);
        for step in [Step::Answer, Step::Data] {
            self.port(uplink).play_once(map, step, turns.to_vec());
            self.run_dry()?;
        }
        self.port(uplink).swap_play(None);
        Ok(())
    }

    /// Polls until nothing comes any more; every packet has to be forwarded.
    fn run_dry(&mut self) -> Result<()> {
        while self.worker.poll(clock::monotonic_ns()) > 0 {}
        self.books()
    }

    fn take_log(&mut self) -> Vec<Sent> {
        self.log.take()
    }

    /// Lets about `packets` through and notes in `batches` the ticks of each batch. Returns packets and ticks.
    pub(super) fn slice(&mut self, packets: u64, batches: &mut Vec<u32>) -> (u64, u64) {
        let each = packets.div_ceil(self.emitting.len() as u64);
        for at in 0..self.emitting.len() {
            let id = self.emitting[at];
            self.port(id).let_in(each);
        }
        let packets = each * self.emitting.len() as u64;
        let start = clock::tsc();
        let (mut done, mut before) = (0, start);
        while done < packets {
            done += self.worker.poll(clock::monotonic_ns()) as u64;
            let now = clock::tsc();
            batches.push(u32::try_from(now - before).unwrap_or(u32::MAX));
            before = now;
        }
        (packets, before - start)
    }

    /// Looks at every packet that left since the last call: it has to have gone to a backend that was listed in the version
    /// that was [settled](Truth::settled) before them, `since`, or in a later one; and on with the flow's own while it may.
    /// `put_off` packets of old decisions are allowed.
    pub(super) fn check(&mut self, truth: &Truth, since: u64, put_off: u64) -> Result<()> {
        let mut log = self.log.take();
        let late_before = self.seen.late;
        for sent in &log {
            self.seen.packets += 1;
            let what = self.judge(sent, truth, since);
            match what {
                Went::Right => {}
                Went::Late => self.seen.late += 1,
                Went::Wrong(why) => {
                    self.seen.misrouted += 1;
                    self.seen
                        .example
                        .get_or_insert_with(|| format!("{why}: {sent:?}, since version {since}"));
                }
            }
        }
        let late = self.seen.late - late_before;
        if late > put_off {
            self.seen.misrouted += late - put_off;
            self.seen.example.get_or_insert_with(|| {
                format!("{late} packets to backends listed no more, {put_off} decisions put off")
            });
        }
        log.clear();
        self.log.replace(log);
        self.books()?;
        self.answer_moved()
    }

    fn judge(&mut self, sent: &Sent, truth: &Truth, since: u64) -> Went {
        let map = self.map;
        let Some(at) = (sent.flow.checked_sub(self.first)).filter(|at| (*at as usize) < self.homes.len())
        else {
            return Went::Wrong("a flow that nobody sent");
        };
        let Some(pod) = Pod::at(Ipv4Addr::from_bits(sent.inner)) else {
            return Went::Wrong("no pod's address");
        };
        let service = map.service(sent.flow);
        if pod.slot.service() != service {
            return Went::Wrong("another Service's backend");
        }
        if Ipv4Addr::from_bits(sent.outer) != node_address(pod.node()) {
            return Went::Wrong("another node than the pod's");
        }
        let ports = u32::from(map.source_port(sent.flow)) << 16 | u32::from(super::world::BACKEND_PORT);
        if sent.ports != ports {
            return Went::Wrong("other ports");
        }
        let own = &mut self.homes[at as usize];
        let stays = *own == home(pod);
        if map.transport(service) == Transport::Tcp {
            // Never another backend in the middle of a connection.
            return if stays {
                Went::Right
            } else {
                Went::Wrong("a connection moved")
            };
        }
        let listed = truth.was_listed(pod, since);
        if stays {
            return if listed { Went::Right } else { Went::Late };
        }
        let former = Pod {
            slot: Slot(*own / 2),
            second: *own % 2 == 1,
        };
        *own = home(pod);
        if !listed {
            return Went::Wrong("moved to what is not listed");
        }
        if truth.is_listed(former) {
            return Went::Wrong("moved away from a backend that is listed");
        }
        self.seen.moved += 1;
        self.moved.push(Turn {
            pod: Some(pod),
            ..Turn::of(map, sent.flow)
        });
        Went::Right
    }

    /// Datagrams that go elsewhere are answered from there, as the others were.
    fn answer_moved(&mut self) -> Result<()> {
        if self.moved.is_empty() {
            return Ok(());
        }
        let turns = std::mem::take(&mut self.moved);
        let (emitting, mut plays): (Vec<PortId>, Vec<Option<Play>>) = (self.emitting.clone(), Vec::new());
        for id in &emitting {
            plays.push(self.port(*id).swap_play(None));
        }
        self.answer(&turns)?;
        for (id, play) in emitting.into_iter().zip(plays) {
            self.port(id).swap_play(play);
        }
        Ok(())
    }

    /// Every packet received was sent on, every frame sent stems from one, and both identities hold.
    fn books(&mut self) -> Result<()> {
        let counters = Arc::clone(self.worker.counters());
        let conservation = counters.conservation();
        ensure!(conservation.ok(), "conservation: {conservation:?}");
        ensure!(
            conservation.tx == conservation.rx && conservation.frames_out == conservation.tx,
            "not every packet was forwarded: {:?}",
            counters.moved()
        );
        let mut sent = 0;
        for at in 0..self.all.len() {
            let id = self.all[at];
            sent += self.port(id).sent;
        }
        ensure!(
            sent == conservation.frames_out,
            "the ports saw {sent} frames, {} were sent",
            conservation.frames_out
        );
        Ok(())
    }
}

enum Went {
    Right,
    Late,
    Wrong(&'static str),
}

fn home(pod: Pod) -> u32 {
    pod.slot.0 * 2 + u32::from(pod.second)
}

/// Frames that go round, as in `core`.
const POOL_FRAMES: usize = 256;
const CHUNKS: usize = 4096;
const LOG_FIRST: usize = 1 << 14;
const ESTABLISHED_TOGETHER: u32 = 1024;
