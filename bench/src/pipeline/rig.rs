//! Rig: one worker with its wire ports; brings flows up, lets packets through, checks the books.

use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use fastpath::io::{BATCH_MAX, Frame, Memory, PacketIo, clock};
use fastpath::observe::Unobserved;
use fastpath::port::PortId;
use fastpath::shared::Shared;
use fastpath::snapshot::Snapshot;
use fastpath::worker::{Worker, WorkerConfig};

use super::attack::{Attack, Flaw};
use super::case::Case;
use super::cluster::pod_port;
use super::emitter::Emitters;
use super::expect;
use super::packet::Step;
use super::port::{Play, Pool, WirePort};
use super::traffic::{Traffic, Turn};

/// What a rig is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) traffic: Traffic,
    /// Client pods.
    pub(crate) clients: u16,
    pub(crate) workers: usize,
    /// The bench's clock moves on by so much per packet; 0: it is the machine's.
    pub(crate) ns_per_packet: u64,
    /// It starts at the machine's time; otherwise always at the same.
    pub(crate) starts_now: bool,
}

/// One worker and what is around it.
pub(crate) struct Rig {
    setup: Setup,
    worker: Worker<WirePort, Unobserved>,
    uplink: PortId,
    clients: Vec<PortId>,
    /// Local servers, where the case has them.
    servers: Vec<PortId>,
    all: Vec<PortId>,
    /// What the measured phase emits from, and the step.
    emitting: Vec<PortId>,
    floor_frames: Vec<Frame>,
    floor_turn: usize,
    /// Frames that the floor sent.
    floor_sent: u64,
    now_ns: u64,
    attack: Option<Attack>,
    /// Packets that the pipeline got to drop.
    to_drop: u64,
}

impl Rig {
    /// A worker in seat `seat` over shared tables.
    pub(crate) fn new(setup: Setup, shared: &Arc<Shared>, snapshot: &Snapshot, seat: usize) -> Result<Self> {
        let config = WorkerConfig {
            seat,
            workers: setup.workers,
            seed: seat as u64,
            punt_to_host_mac: false,
        };
        let mut memory = Memory::mapped(CHUNKS, 2048)?;
        let pool = Pool::new(&mut memory, POOL_FRAMES, setup.traffic.sizes.lengths());
        let mut worker = Worker::new(config, Arc::clone(shared), memory, Unobserved);
        let burst = (BATCH_MAX / usize::from(setup.clients)).max(1);
        let mut all = Vec::new();
        for port in snapshot.ports() {
            let burst = if port.name.starts_with("pod:") && !setup.traffic.case.measures_replies() {
                burst
            } else {
                BATCH_MAX
            };
            worker.add_port(port.id, WirePort::new(&pool, burst));
            all.push(port.id);
        }
        let by_name = |name: &str| -> Result<PortId> {
            let port = snapshot
                .port_by_name(name)
                .with_context(|| format!("no port {name}"))?;
            Ok(port.id)
        };
        let pods = |role: &str, count: u16| -> Result<Vec<PortId>> {
            (0..count)
                .map(|number| by_name(&pod_port(role, number)))
                .collect()
        };
        Ok(Self {
            uplink: by_name("uplink")?,
            clients: pods("client", setup.clients)?,
            servers: if setup.traffic.case.is_remote() {
                Vec::new()
            } else {
                pods("server", setup.traffic.case.servers())?
            },
            all,
            emitting: Vec::new(),
            floor_frames: Vec::with_capacity(BATCH_MAX),
            floor_turn: 0,
            floor_sent: 0,
            now_ns: if setup.starts_now {
                clock::monotonic_ns()
            } else {
                START_NS
            },
            attack: None,
            to_drop: 0,
            setup,
            worker,
        })
    }

    fn port(&mut self, id: PortId) -> &mut WirePort {
        self.worker.port_mut(id).expect("the rig's own port").1
    }

    /// Sets what all ports receive: `turns`, of one step and direction, each at the port that it belongs to.
    pub(crate) fn play(&mut self, step: Step, reply: bool, turns: &[Turn]) {
        let traffic = self.setup.traffic;
        let case = traffic.case;
        let emitters = Emitters::new(&traffic, step, reply);
        let senders: Vec<PortId> = match (reply, case.is_remote()) {
            (false, _) => self.clients.clone(),
            (true, true) => vec![self.uplink],
            (true, false) => self.servers.clone(),
        };
        self.emitting.clear();
        for id in self.all.clone() {
            self.port(id).play(None);
        }
        for (number, id) in senders.iter().enumerate() {
            let mine = |turn: &&Turn| match (reply, case.is_remote()) {
                (false, _) => usize::from(turn.client) == number,
                (true, true) => true,
                (true, false) => usize::from(turn.server) == number,
            };
            let order: Rc<[Turn]> = if senders.len() == 1 {
                turns.into()
            } else {
                turns.iter().filter(mine).copied().collect()
            };
            if !order.is_empty() {
                self.port(*id).play(Some(Play::new(emitters.clone(), order)));
                self.emitting.push(*id);
            }
        }
    }

    /// Sets that the ports receive `attack`; [`cease`](Self::cease) ends it.
    pub(crate) fn attack(&mut self, attack: Attack, turns: &[Turn]) {
        self.attack = Some(attack);
        self.setup.traffic.flaw = attack.flaw();
        self.play(attack.step(), false, turns);
    }

    /// Established flows send again, in this order.
    pub(crate) fn cease(&mut self, turns: &[Turn]) {
        self.attack = None;
        self.setup.traffic.flaw = Flaw::None;
        self.play(Step::Data, false, turns);
    }

    /// The ports that the client pods are behind.
    pub(crate) fn clients(&self) -> &[PortId] {
        &self.clients
    }

    /// Flows that were ever opened.
    pub(crate) fn flows_created(&self) -> u64 {
        self.worker.counters().flows_created.get()
    }

    /// Brings `flows` up, in order: the first packet, the answer, one more; so many at a time as one port may leave unanswered.
    /// Returns them with the servers that they got.
    pub(crate) fn establish(&mut self, mut turns: Vec<Turn>) -> Result<Vec<Turn>> {
        let traffic = self.setup.traffic;
        for group in turns.chunks_mut(ESTABLISHED_TOGETHER) {
            self.play(Step::Open, false, group);
            let mut missing = group.len();
            self.once(&mut |sent| {
                let (flow, server) = expect::identify(&traffic, sent, false)?;
                let at = place_of(flow, group)?;
                group[at].server = server;
                missing -= 1;
                Ok(())
            })?;
            ensure!(missing == 0, "{missing} flows were not opened");
            self.play(Step::Answer, true, group);
            self.once(&mut |_| Ok(()))?;
            self.play(Step::Data, false, group);
            self.once(&mut |_| Ok(()))?;
        }
        Ok(turns)
    }

    /// Lets everything that is played in once, and shows each frame that leaves.
    fn once(&mut self, see: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for id in self.emitting.clone() {
            let port = self.port(id);
            let all = port.played();
            port.let_in(all);
        }
        self.look(see)
    }

    /// Lets `frames` more packets in and shows each frame that leaves.
    pub(crate) fn sample(&mut self, frames: u64, see: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.let_in(frames);
        self.look(see)
    }

    fn look(&mut self, see: &mut impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        for id in self.all.clone() {
            self.port(id).captured = Some(Vec::new());
        }
        loop {
            let received = self.poll();
            for at in 0..self.all.len() {
                let id = self.all[at];
                if self.port(id).captured.as_ref().is_none_or(Vec::is_empty) {
                    continue;
                }
                for frame in self.port(id).captured.replace(Vec::new()).unwrap_or_default() {
                    see(&frame)?;
                }
            }
            if received == 0 {
                break;
            }
        }
        for id in self.all.clone() {
            self.port(id).captured = None;
        }
        self.check()
    }

    /// Checks output frames of the measured phase against what they should be; `turns` are all, by flow.
    pub(crate) fn verify(&mut self, frames: u64, step: Step, turns: &[Turn]) -> Result<u64> {
        let traffic = self.setup.traffic;
        let reply = traffic.case.measures_replies();
        let mut seen = 0;
        self.sample(frames, &mut |sent| {
            let (flow, _) = expect::identify(&traffic, sent, reply)?;
            let turn = turns[place_of(flow, turns)?];
            expect::check(&traffic, step, reply, turn, sent)?;
            seen += 1;
            Ok(())
        })?;
        ensure!(
            seen == self.let_in_of(frames),
            "{seen} frames left for {frames} packets"
        );
        Ok(seen)
    }

    /// Lets about `frames` in, equally at each port that emits. Returns how many.
    pub(crate) fn let_in(&mut self, frames: u64) -> u64 {
        let each = frames.div_ceil(self.emitting.len() as u64);
        for at in 0..self.emitting.len() {
            let id = self.emitting[at];
            self.port(id).let_in(each);
        }
        self.let_in_of(frames)
    }

    fn let_in_of(&self, frames: u64) -> u64 {
        let ports = self.emitting.len() as u64;
        frames.div_ceil(ports) * ports
    }

    /// Ticks that the pipeline takes for `frames`, which were [let in](Self::let_in).
    pub(crate) fn time_pipeline(&mut self, frames: u64) -> u64 {
        let start = clock::tsc();
        let mut done = 0;
        while done < frames {
            done += self.poll() as u64;
        }
        let ticks = clock::tsc() - start;
        if self.attack.is_some_and(|attack| attack.dropped().is_some()) {
            self.to_drop += done;
        }
        ticks
    }

    /// One loop of the worker, with the clock reading of a live one.
    #[inline]
    fn poll(&mut self) -> usize {
        if self.setup.ns_per_packet == 0 {
            return self.worker.poll(clock::monotonic_ns());
        }
        let received = self.worker.poll(self.now_ns);
        self.now_ns += self.setup.ns_per_packet * received as u64;
        received
    }

    /// Ticks that the same frames take without the pipeline: rx, swap the MAC addresses, tx by the same port; those that the
    /// pipeline is to drop are released instead.
    pub(crate) fn time_floor(&mut self, frames: u64) -> u64 {
        let places = self.places();
        let start = clock::tsc();
        let mut done = 0;
        while done < frames {
            done += self.poll_floor() as u64;
        }
        let ticks = clock::tsc() - start;
        let is_dropped = self.attack.is_some_and(|attack| attack.dropped().is_some());
        if !is_dropped {
            self.floor_sent += done;
        }
        if self.setup.traffic.case == Case::NewFlows {
            // The clock stood still: these flows still have to come.
            for (id, place) in places {
                self.port(id).go_to(place);
            }
        }
        ticks
    }

    /// Where each emitting port is in its order.
    fn places(&mut self) -> Vec<(PortId, usize)> {
        let emitting = self.emitting.clone();
        emitting
            .into_iter()
            .map(|id| (id, self.port(id).place()))
            .collect()
    }

    fn poll_floor(&mut self) -> usize {
        let (mut received, ports) = (0, self.emitting.len());
        let is_dropped = self.attack.is_some_and(|attack| attack.dropped().is_some());
        for step in 0..ports {
            let room = BATCH_MAX - received;
            if room == 0 {
                break;
            }
            let id = self.emitting[(self.floor_turn + step) % ports];
            let (memory, port) = self.worker.port_mut(id).expect("the rig's own port");
            received += port.rx(memory, &mut self.floor_frames, room);
            for frame in &mut self.floor_frames {
                if let Some((dst, rest)) = memory.bytes_mut(frame).split_first_chunk_mut::<6>()
                    && let Some(src) = rest.first_chunk_mut::<6>()
                {
                    std::mem::swap(dst, src);
                }
            }
            if is_dropped {
                self.floor_frames
                    .drain(..)
                    .for_each(|frame| memory.release(frame));
            } else {
                port.tx(memory, &mut self.floor_frames);
            }
        }
        self.floor_turn = (self.floor_turn + 1) % ports;
        received
    }

    /// Every packet received was sent on (but for those of an attack), every frame sent stems from one, and both identities hold.
    pub(crate) fn check(&mut self) -> Result<()> {
        let counters = Arc::clone(self.worker.counters());
        let conservation = counters.conservation();
        let moved = || counters.moved();
        ensure!(conservation.ok(), "conservation: {conservation:?}");
        ensure!(
            conservation.tx + self.to_drop == conservation.rx
                && conservation.frames_out == conservation.tx + conservation.generated,
            "not every packet was forwarded: {:?}",
            moved()
        );
        if let Some(reason) = self.attack.and_then(Attack::dropped) {
            let dropped = counters.dropped(reason);
            ensure!(
                dropped + conservation.held == self.to_drop && dropped == conservation.drop,
                "not every packet was dropped with {reason:?}: {:?}",
                moved()
            );
        }
        ensure!(
            conservation.generated == 0 || self.to_drop > 0,
            "answers to nothing: {:?}",
            moved()
        );
        let created = counters.flows_created.get();
        ensure!(
            self.setup.traffic.case != Case::NewFlows || created == conservation.rx,
            "not every packet opened a flow: {:?}",
            moved()
        );
        let mut sent = 0;
        for at in 0..self.all.len() {
            let id = self.all[at];
            sent += self.port(id).sent;
        }
        let wanted = conservation.frames_out + self.floor_sent;
        ensure!(sent == wanted, "the ports saw {sent} frames, {wanted} were sent");
        Ok(())
    }

    /// Packets that went through the pipeline.
    pub(crate) fn packets(&self) -> u64 {
        self.worker.counters().rx.get()
    }

    /// The worker's counters that are not zero.
    pub(crate) fn moved(&self) -> Vec<(String, u64)> {
        self.worker.counters().moved()
    }
}

/// Where `flow` is among `turns`, which are in order.
fn place_of(flow: u32, turns: &[Turn]) -> Result<usize> {
    // Mostly they are all there.
    let first = turns.first().map_or(0, |turn| turn.flow);
    let guess = flow.wrapping_sub(first) as usize;
    if turns.get(guess).is_some_and(|turn| turn.flow == flow) {
        return Ok(guess);
    }
    turns
        .binary_search_by_key(&flow, |turn| turn.flow)
        .ok()
        .with_context(|| format!("a frame of flow {flow}, which was not sent"))
}

/// Frames that go round: some four batches, so that one being written is not in the first cache, as with a device.
const POOL_FRAMES: usize = 256;
/// And those that wait: fragments, held back.
const CHUNKS: usize = 2048;
/// An hour after boot.
const START_NS: u64 = 3_600_000_000_000;
/// A port may have a quarter of the table's connections unanswered; the smallest table has 4096 and more.
const ESTABLISHED_TOGETHER: usize = 1024;
