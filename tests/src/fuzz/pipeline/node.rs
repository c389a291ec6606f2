//! The node under test, and its books: what came, what became of it, what left.

use std::sync::Arc;

use contract::proto;
use contract::valid::{ValidDelta, ValidState};
use fastpath::compile::{self, Compiled};
use fastpath::io::{Memory, PacketIo, RingPort};
use fastpath::observe::{Emission, Fate, Observer, PacketNumber};
use fastpath::port::PortId;
use fastpath::shared::{Shared, SharedConfig};
use fastpath::snapshot::Snapshot;
use fastpath::underlay::Underlay;
use fastpath::verdict::Verdict;
use fastpath::worker::{Worker, WorkerConfig};

use super::change::Toggles;
use super::{cluster, oracle};

/// A packet that was received.
pub(super) struct Received {
    pub(super) port: PortId,
    pub(super) bytes: Vec<u8>,
    verdict: Option<Verdict>,
    held: bool,
    /// Frames that stand for it: forwarded, punted.
    left: u32,
}

/// A frame that left.
pub(super) struct Sent {
    pub(super) cause: Option<u64>,
    pub(super) port: PortId,
    pub(super) bytes: Vec<u8>,
    pub(super) why: Emission,
}

/// Writes down what the worker says of each packet.
#[derive(Default)]
pub(super) struct Books {
    pub(super) received: Vec<Received>,
    /// What left in this poll.
    sent: Vec<Sent>,
    sent_total: u64,
}

impl Observer for Books {
    fn received(&mut self, packet: PacketNumber, port: PortId, frame: &[u8]) {
        assert_eq!(packet.0, self.received.len() as u64, "numbered as they come");
        self.received.push(Received {
            port,
            bytes: frame.to_vec(),
            verdict: None,
            held: false,
            left: 0,
        });
    }

    fn decided(&mut self, packet: PacketNumber, fate: &Fate, _: &Snapshot) {
        let of = &mut self.received[packet.0 as usize];
        assert_eq!(of.verdict, None, "a second verdict, {:?}", fate.verdict);
        of.verdict = Some(fate.verdict);
    }

    fn held(&mut self, packet: PacketNumber) {
        let of = &mut self.received[packet.0 as usize];
        assert_eq!(of.verdict, None, "held after its verdict");
        of.held = true;
    }

    fn sent(&mut self, cause: Option<PacketNumber>, port: PortId, frame: &[u8], why: Emission) {
        self.sent_total += 1;
        if let (Emission::Forwarded | Emission::Punted, Some(cause)) = (why, cause) {
            self.received[cause.0 as usize].left += 1;
        }
        self.sent.push(Sent {
            cause: cause.map(|cause| cause.0),
            port,
            bytes: frame.to_vec(),
            why,
        });
    }

    fn unsent(&mut self, packet: PacketNumber, verdict: Verdict) {
        let of = &mut self.received[packet.0 as usize];
        assert!(
            matches!(of.verdict, Some(Verdict::Tx(_) | Verdict::Punt(_))),
            "{:?}",
            of.verdict
        );
        of.verdict = Some(verdict);
    }
}

/// A node with its one worker.
pub(super) struct Node {
    state: proto::State,
    toggles: Toggles,
    pub(super) snapshot: Snapshot,
    shared: Arc<Shared>,
    worker: Worker<RingPort, Books>,
    ports: Vec<PortId>,
    tx_ring: usize,
    tx_checksum: bool,
    now_ns: u64,
    /// Fed, not yet received.
    waiting: usize,
    /// What left, as it left: replies, errors and repetitions are made of it.
    pub(super) emitted: Vec<(PortId, Vec<u8>)>,
}

impl Node {
    pub(super) fn new(options: u8) -> Self {
        let toggles = Toggles::default();
        let (state, underlay) = toggles.cluster(1);
        let valid = ValidState::try_from(state.clone()).expect("a valid state");
        let snapshot = compile::compile(&valid, &underlay).expect("it compiles").snapshot;
        let small = |bit: u8, small: u32, large: u32| if options & bit == 0 { large } else { small };
        let connections = small(8, 8, 512);
        let config = SharedConfig {
            seats: 1,
            connections_v4: connections,
            connections_v6: connections,
            seed: 7,
        };
        let shared = Shared::new(&config, Arc::new(snapshot.clone())).expect("tables");
        let config = WorkerConfig {
            seat: 0,
            workers: 1,
            seed: u64::from(options),
            punt_to_host_mac: false,
        };
        let memory = Memory::heap(small(4, 24, 256) as usize, 2048);
        let worker = Worker::new(config, Arc::clone(&shared), memory, Books::default());
        let mut node = Self {
            state,
            toggles,
            snapshot,
            shared,
            worker,
            ports: Vec::new(),
            tx_ring: small(2, 3, 256) as usize,
            tx_checksum: options & 1 == 0,
            now_ns: 1_700_000_000_000_000_000,
            waiting: 0,
            emitted: Vec::new(),
        };
        node.follow_ports();
        node
    }

    /// Opens the ports that the snapshot has, closes those that it has no more.
    fn follow_ports(&mut self) {
        let wanted: Vec<_> = self.snapshot.ports().map(|port| port.id).collect();
        for gone in self.ports.extract_if(.., |port| !wanted.contains(port)) {
            let (memory, ring) = self.worker.port_mut(gone).expect("it was added");
            assert_eq!(ring.close(memory), 0, "a ring gives up everything at once");
            self.worker.remove_port(gone);
        }
        for port in wanted {
            if !self.ports.contains(&port) {
                let ring = RingPort::new(self.tx_ring);
                let mut capabilities = ring.capabilities();
                capabilities.tx_checksum = self.tx_checksum;
                self.worker.add_port(port, ring.with_capabilities(capabilities));
                self.ports.push(port);
            }
        }
    }

    /// The port of this name, while there is one.
    pub(super) fn port(&self, name: &str) -> Option<PortId> {
        self.snapshot.port_by_name(name).map(|port| port.id)
    }

    pub(super) fn received(&mut self) -> &[Received] {
        &self.worker.observer_mut().received
    }

    /// Puts a frame on a port's wire. Without memory for it, the wire loses it.
    pub(super) fn feed(&mut self, port: PortId, frame: &[u8]) {
        if frame.is_empty() || self.waiting == fastpath::io::BATCH_MAX {
            return;
        }
        if let Some((memory, ring)) = self.worker.port_mut(port)
            && ring.feed_copy(memory, frame, 0)
        {
            self.waiting += 1;
        }
    }

    pub(super) fn advance(&mut self, ns: u64) {
        self.now_ns += ns;
    }

    /// One batch: all that was fed. Checks all that left, and the books.
    pub(super) fn poll(&mut self) {
        let received = self.worker.poll(self.now_ns);
        assert_eq!(received, self.waiting, "a batch has room for all");
        self.waiting = 0;
        for port in &self.ports {
            if let Some((memory, ring)) = self.worker.port_mut(*port) {
                while let Some(frame) = ring.take_sent() {
                    memory.release(frame);
                }
            }
        }
        let sent = std::mem::take(&mut self.worker.observer_mut().sent);
        oracle::check(&self.snapshot, &self.worker.observer_mut().received, &sent);
        for sent in sent {
            assert!(self.ports.contains(&sent.port), "no such port: {:?}", sent.port);
            if self.emitted.len() < EMITTED_MAX {
                self.emitted.push((sent.port, sent.bytes));
            }
        }
        self.check_books();
    }

    fn check_books(&mut self) {
        let conservation = self.worker.counters().conservation();
        assert!(conservation.ok(), "{conservation:?}");
        let held = self.worker.held();
        let used = self.worker.memory().chunks() - self.worker.memory().free_chunks();
        if self.worker.next_deadline_ns().is_none() {
            assert_eq!((held, used), (0, 0), "nothing waits, so every chunk is free");
        } else {
            assert!(used >= held, "{used} chunks for {held} packets");
        }
        let books = self.worker.observer_mut();
        let mut undecided = 0;
        for (number, packet) in books.received.iter().enumerate() {
            if packet.verdict.is_none() {
                assert!(packet.held, "packet {number} has no verdict and is not held");
                undecided += 1;
            }
        }
        assert_eq!(undecided, held, "what has no verdict is held");
        assert_eq!(conservation.rx, books.received.len() as u64);
        assert_eq!(conservation.frames_out, books.sent_total);
    }

    /// Changes one thing of the desired state or the underlay, as the daemon would: a delta, a whole state, or a route.
    pub(super) fn change(&mut self, what: u8) {
        // Frames on the wire of a port that goes are lost with it.
        if self.waiting > 0 {
            self.poll();
        }
        self.toggles.flip(what);
        let (state, underlay) = self.toggles.cluster(self.state.version + 1);
        let compiled = if state_differs(&self.state, &state) {
            let compiled = if what & 0x80 == 0 {
                let delta = control::diff::delta(&self.state, &state);
                compile::apply(
                    &self.snapshot,
                    &ValidDelta::try_from(delta).expect("a valid delta"),
                )
            } else {
                compile::replace(
                    &self.snapshot,
                    &ValidState::try_from(state.clone()).expect("a valid state"),
                )
            };
            self.state = state;
            compiled.expect("the change compiles")
        } else {
            compile::apply_underlay(&self.snapshot, &underlay).expect("the underlay compiles")
        };
        self.publish(compiled);
    }

    fn publish(&mut self, compiled: Compiled) {
        self.snapshot = compiled.snapshot;
        self.follow_ports();
        let version = self.shared.publish(Arc::new(self.snapshot.clone()));
        self.poll();
        assert!(
            self.shared.outdate(version, &compiled.bumps),
            "the worker has passed a batch boundary"
        );
    }

    /// Lets the clock run until nothing is held, then until no flow lives; closes the books.
    pub(super) fn finish(mut self) {
        self.poll();
        for round in 0.. {
            assert!(round < 4096, "something waits for ever");
            let Some(due) = self.worker.next_deadline_ns() else {
                break;
            };
            self.now_ns = due.max(self.now_ns + 1);
            self.poll();
        }
        let mut rounds = 0;
        while self.shared.v4().live() + self.shared.v6().live() > 0 {
            rounds += 1;
            assert!(rounds < 64, "a flow lives for ever");
            self.advance(LONGEST_TIMEOUT_NS);
            self.poll();
        }
        let (mut tx, mut punt) = (0, 0);
        for (number, packet) in self.received().iter().enumerate() {
            let left = match packet.verdict {
                Some(Verdict::Tx(_)) => {
                    tx += 1;
                    1
                }
                Some(Verdict::Punt(_)) => {
                    punt += 1;
                    1
                }
                Some(Verdict::Drop(_)) => 0,
                None => panic!("packet {number} has no verdict at the end"),
            };
            assert_eq!(
                packet.left, left,
                "frames of packet {number}, {:?}",
                packet.verdict
            );
        }
        let conservation = self.worker.counters().conservation();
        assert_eq!((conservation.tx, conservation.punt), (tx, punt));
    }
}

fn state_differs(a: &proto::State, b: &proto::State) -> bool {
    let version = b.version;
    proto::State { version, ..a.clone() } != *b
}

/// The underlay of the cluster, as it is at first.
pub(super) fn underlay() -> Underlay {
    cluster::underlay()
}

const EMITTED_MAX: usize = 256;
/// Longer than any of the default timeouts.
const LONGEST_TIMEOUT_NS: u64 = 9_000_000_000_000;
