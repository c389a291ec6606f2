//! A worker: one thread's loop over its ports. Packets in, verdicts out; time is an argument.

mod command;
mod run;
mod sweep;

use std::sync::Arc;

use flowtable::{Reader, Share};

pub use command::{Command, Handle};
pub use run::RunConfig;

use crate::answer::icmp_error::IcmpErrors;
use crate::batch::Batch;
use crate::conntrack::Deadlines;
use crate::counters::Counters;
use crate::fragment::FragmentKey;
use crate::fragment::track::{FragmentLimits, Tracker};
use crate::io::bpf::Heartbeats;
use crate::io::{BATCH_MAX, Frame, Memory, PacketIo};
use crate::observe::{Observer, PacketNumber};
use crate::outbox::Outbox;
use crate::port::PortId;
use crate::rng::Rng;
use crate::shared::Shared;
use crate::snapshot::Snapshot;
use crate::stage::{
    Decision, Exhausted, Flows, FragmentNote, FragmentOutcome, Gates, Hold, Parsed, Pass, Reading, Ways,
    ingress,
};
use crate::verdict::DropReason;

/// How a worker is set up.
#[derive(Clone, Copy, Debug)]
pub struct WorkerConfig {
    /// Its seat among the workers, from 0.
    pub seat: usize,
    /// How many workers there are: each sweeps its share of the flow tables.
    pub workers: usize,
    /// Seed of its random choices: backends, source ports.
    pub seed: u64,
    /// What is punted gets the MAC address that the kernel's end of the host port takes. Replay leaves it as it came.
    pub punt_to_host_mac: bool,
}

/// One thread's ports, memory and view of the shared tables.
pub struct Worker<P: PacketIo, O: Observer> {
    config: WorkerConfig,
    shared: Arc<Shared>,
    snapshot: Reader<Snapshot>,
    flows: Flows,
    memory: Memory,
    ports: Vec<Option<P>>,
    /// Numbers of the ports that are there, the order in which they are asked.
    order: Vec<PortId>,
    /// Where the next gathering begins.
    turn: usize,
    outbox: Outbox,
    /// Apart, since it is large.
    batch: Box<Batch>,
    /// What plain frames are read and leave by, made of this version of the snapshot.
    gates: Gates,
    ways: Ways,
    prepared: u64,
    /// What of it gates and ways are made of.
    prepared_links: usize,
    deadlines: Deadlines,
    fragments: Tracker<FragmentOutcome, FragmentNote>,
    first: Option<(FragmentKey, FragmentOutcome)>,
    icmp_errors: IcmpErrors,
    hold: Hold,
    exhausted: Exhausted,
    decisions: Vec<Decision>,
    scratch: Vec<Frame>,
    released: Vec<(Frame, FragmentNote)>,
    rng: Rng,
    counters: Arc<Counters>,
    observer: O,
    received: u64,
    sweeper: sweep::Sweeper,
    commands: crossbeam::channel::Receiver<Command<P>>,
    /// Ports that are being closed, and who waits for them.
    closing: Vec<(P, crossbeam::channel::Sender<P>)>,
    /// Where it says that it lives.
    beats: Vec<Heartbeats>,
    handle: Handle<P>,
    /// Last, so that what holds the seat's tables and snapshots goes before the seat.
    seat: flowtable::Worker,
}

impl<P: PacketIo, O: Observer> Worker<P, O> {
    /// A worker in its seat, with its frame memory and no ports yet.
    ///
    /// # Panics
    /// If the seat is taken or there is none such.
    pub fn new(config: WorkerConfig, shared: Arc<Shared>, memory: Memory, observer: O) -> Self {
        let seat = shared
            .quiescence()
            .register(config.seat)
            .expect("the worker's seat is free");
        let snapshot = shared.snapshot().reader(&seat);
        let share = Share {
            index: config.seat as u32,
            of: config.workers as u32,
        };
        let flows = if config.workers == 1 {
            Flows {
                v4: shared.v4().sole_writer(&seat),
                v6: shared.v6().sole_writer(&seat),
            }
        } else {
            Flows {
                v4: shared.v4().writer(&seat, share),
                v6: shared.v6().writer(&seat, share),
            }
        };
        let limits = *snapshot.snapshot().limits();
        let timeouts = *snapshot.snapshot().timeouts();
        let fragment_limits = FragmentLimits {
            datagrams_max: limits.fragments.max(2),
            datagrams_per_source_max: limits.fragments_per_source.max(1),
            timeout_ns: u64::from(timeouts.fragment) * 1_000_000_000,
            ..FragmentLimits::default()
        };
        let counters = Arc::new(Counters::new(
            limits.ports as usize,
            RULES_COUNTED_MAX.min(limits.rules as usize),
        ));
        let (handle, commands) = Handle::new(Arc::clone(&counters));
        Self {
            fragments: Tracker::new(fragment_limits, config.seed),
            rng: Rng::new(config.seed, config.seat as u64),
            config,
            shared,
            snapshot,
            flows,
            memory,
            ports: Vec::new(),
            order: Vec::new(),
            turn: 0,
            outbox: Outbox::new(O::ACTIVE),
            batch: Box::new(Batch::new()),
            gates: Gates::default(),
            ways: Ways::default(),
            prepared: 0,
            prepared_links: 0,
            deadlines: Deadlines::new(&timeouts),
            first: None,
            icmp_errors: IcmpErrors::default(),
            hold: Hold::default(),
            exhausted: Exhausted::default(),
            decisions: Vec::with_capacity(BATCH_MAX),
            scratch: Vec::with_capacity(SCRATCH_FIRST),
            released: Vec::with_capacity(SCRATCH_FIRST),
            counters,
            observer,
            received: 0,
            sweeper: sweep::Sweeper::default(),
            commands,
            closing: Vec::new(),
            beats: Vec::new(),
            handle,
            seat,
        }
    }

    /// How other threads reach this worker.
    pub fn handle(&self) -> Handle<P> {
        self.handle.clone()
    }

    /// Makes at most so many ICMP errors a second on average, a tenth of it at once.
    ///
    /// # Panics
    /// When that is less than one at once.
    pub fn limit_icmp_errors(&mut self, per_second: u32) {
        self.icmp_errors = IcmpErrors::new(per_second, per_second / 10);
    }

    /// Every packet takes the general way from now on: what tests hold the short one against.
    #[doc(hidden)]
    pub fn take_general_way_only(&mut self) {
        self.gates.close();
    }

    /// Its counters.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Who watches it.
    pub fn observer_mut(&mut self) -> &mut O {
        &mut self.observer
    }

    /// Who watched it, when it has done its work.
    pub fn into_observer(self) -> O {
        self.observer
    }

    /// Its frame memory, and one of its ports: to feed and drain ports that live in this process.
    pub fn port_mut(&mut self, port: PortId) -> Option<(&mut Memory, &mut P)> {
        Some((&mut self.memory, self.ports.get_mut(port.index())?.as_mut()?))
    }

    /// Its frame memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// When something that waits is due, nanoseconds: a held fragment or packet. `None`: nothing waits.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        let times = [self.fragments.next_deadline_ns(), self.hold.next_deadline_ns()];
        times.into_iter().flatten().min()
    }

    /// Packets that wait: fragments before their first, next hops without a MAC.
    pub fn held(&self) -> usize {
        self.fragments.held() + self.hold.packets()
    }

    /// Moves one batch from rx to its verdicts, at `now_ns` of the one clock of all workers. Returns the frames received.
    pub fn poll(&mut self, now_ns: u64) -> usize {
        self.obey();
        self.close_ports();
        // The batch boundary is the quiescent point: nothing found in the previous batch survives to here.
        self.seat.quiescent();
        self.snapshot.refresh(&self.seat);
        if self.prepared != self.snapshot.version() {
            self.outdate_prepared();
        }

        let received = self.gather();
        self.parse();
        let mut pass = self.pass(now_ns);
        pass.0.decide_all(pass.1);
        pass.0.release_held();
        pass.0.look_for_first_fragments();
        pass.0.expire_fragments();
        self.outbox.flush(
            &mut self.ports,
            &mut self.memory,
            &self.counters,
            &mut self.observer,
        );
        self.sweep(now_ns);

        self.account(received);
        self.shared.beat(self.config.seat, now_ns);
        for beats in &self.beats {
            beats.beat(self.config.seat, now_ns);
        }
        received
    }

    /// Takes frames from all ports, beginning with another one each time.
    fn gather(&mut self) -> usize {
        self.batch.clear();
        // `turn` may be past the end after a port has gone; then it is the first one's again.
        let (before, after) = self.order.split_at(self.turn.min(self.order.len()));
        for &port in after.iter().chain(before) {
            let room = self.batch.room();
            if room == 0 {
                break;
            }
            let Some(io) = self.ports[port.index()].as_mut() else {
                continue;
            };
            let count = io.rx(&mut self.memory, &mut self.batch.frames, room);
            self.batch.push_run(port, count);
        }
        self.turn = if after.len() > 1 { self.turn + 1 } else { 0 };
        self.batch.frames.len()
    }

    /// What was made of the snapshot and of the ports is made anew when it is used next.
    #[cold]
    fn outdate_prepared(&mut self) {
        self.prepared = self.snapshot.version();
        let links = self.snapshot.snapshot().links();
        if self.prepared_links != links {
            self.prepared_links = links;
            self.gates.outdate();
            self.ways.outdate();
        }
        self.deadlines = Deadlines::new(self.snapshot.snapshot().timeouts());
    }

    /// Reads every frame and looks its flow up.
    fn parse(&mut self) {
        let snapshot = self.snapshot.snapshot();
        let (v4, v6) = (self.shared.v4().view(), self.shared.v6().view());
        if O::ACTIVE {
            for (at, (frame, port)) in self.batch.frames.iter().zip(&self.batch.ports).enumerate() {
                let bytes = self.memory.to_vec(frame);
                self.observer
                    .received(PacketNumber(self.received + at as u64), *port, &bytes);
            }
        }
        let Batch {
            runs, frames, lanes, ..
        } = &mut *self.batch;
        let reading = Reading {
            memory: &self.memory,
            v4: &v4,
            v6: &v6,
            snapshot,
            counters: &self.counters,
        };
        let mut plain = self.gates.read(runs, frames, &mut lanes.v4, &reading);
        if plain < frames.len() {
            plain += self.gates.read_v6(runs, frames, lanes, &reading);
        }
        let others = if plain < frames.len() {
            0..frames.len()
        } else {
            0..0
        };
        for at in others {
            if self.batch.lanes.is_plain(at) {
                continue;
            }
            let frame = &mut self.batch.frames[at];
            let parsed = match snapshot.port(self.batch.ports[at]) {
                Some(port) => ingress::admit(&mut self.memory, frame, port, snapshot),
                None => Parsed::Drop(DropReason::PortGone),
            };
            let head = self.memory.bytes(&self.batch.frames[at]);
            self.batch.push_parsed(parsed, head, &v4, &v6);
        }
        self.batch.look_up(&v4, &v6);
    }

    /// What the stages share for this batch, and the batch.
    fn pass(&mut self, now_ns: u64) -> (Pass<'_, O>, &mut Batch) {
        let snapshot = self.snapshot.snapshot();
        let first_number = self.received;
        self.received += self.batch.frames.len() as u64;
        let pass = Pass {
            snapshot,
            shared: &self.shared,
            v4: self.shared.v4().view(),
            v6: self.shared.v6().view(),
            generations: self.shared.generations(),
            ways: &mut self.ways,
            flows: &mut self.flows,
            memory: &mut self.memory,
            outbox: &mut self.outbox,
            counters: &self.counters,
            observer: &mut self.observer,
            rng: &mut self.rng,
            fragments: &mut self.fragments,
            first: &mut self.first,
            icmp_errors: &mut self.icmp_errors,
            hold: &mut self.hold,
            exhausted: &mut self.exhausted,
            decisions: &mut self.decisions,
            scratch: &mut self.scratch,
            released: &mut self.released,
            deadlines: &self.deadlines,
            now_ns,
            now_ms: (now_ns / 1_000_000) as u32,
            redecisions_left: snapshot.limits().redecisions_per_batch,
            remembered_left: DROPS_REMEMBERED_MAX,
            punt_to_host_mac: self.config.punt_to_host_mac,
            first_number,
        };
        (pass, &mut self.batch)
    }

    /// Closes the books of this loop.
    fn account(&mut self, received: usize) {
        self.counters.rx.add(received as u64);
        self.counters.held.set(self.held() as u64);
        self.counters.polls.add(1);
        if received == 0 {
            self.counters.polls_empty.add(1);
        }
        debug_assert!(
            self.counters.conservation().ok(),
            "{:?}",
            self.counters.conservation()
        );
    }
}

/// Drops of one batch that are noted singly.
const DROPS_REMEMBERED_MAX: u32 = 4;
/// Rules that are counted singly; beyond it a cluster's rules are counted in their flows alone.
const RULES_COUNTED_MAX: usize = 1 << 20;
/// Frames between two steps: fragments of one packet of 64 KiB in pieces of 1280 bytes, or released by one first fragment.
const SCRATCH_FIRST: usize = 256;
