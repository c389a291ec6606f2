//! A node in a test: ring ports, a worker, replayed time, and every verdict and frame.

use std::sync::Arc;

use contract::proto;
use contract::valid::ValidState;
use fastpath::compile;
use fastpath::io::{Memory, RingPort};
use fastpath::observe::{Emission, Fate, Observer, PacketNumber};
use fastpath::port::PortId;
use fastpath::shared::{Shared, SharedConfig};
use fastpath::snapshot::Snapshot;
use fastpath::underlay::Underlay;
use fastpath::verdict::Verdict;
use fastpath::worker::{Worker, WorkerConfig};
use wire::ethernet::{EtherHeader, EtherType};
use wire::{Mac, packet};
use zerocopy::IntoBytes;

use crate::cluster::{self, HOST_MAC, ROUTER_MAC, UPLINK_MAC, node_mac, pod_mac};
use crate::packet::{IcmpError, Pkt};

/// One verdict line, with what left because of it.
#[derive(Clone, Debug)]
pub struct Line {
    pub verdict: String,
    pub reason: String,
    /// `ingress NetworkPolicy/web 0`, `egress … default`.
    pub policy: Option<String>,
    pub service: Option<String>,
    pub flow: Option<(bool, String, String)>,
    /// Port name, bytes, and why.
    pub out: Vec<(String, Vec<u8>, Emission)>,
}

impl Line {
    /// The one frame, as a packet without its link header, and its port.
    pub fn packet(&self) -> (String, Pkt) {
        let [(port, frame, _)] = &self.out[..] else {
            panic!("one frame expected: {self:?}")
        };
        (
            port.clone(),
            Pkt::read(&frame[14..]).unwrap_or_else(|| panic!("a packet expected: {frame:02x?}")),
        )
    }

    /// The one frame as an ICMP error.
    pub fn icmp_error(&self) -> IcmpError {
        let [(_, frame, _)] = &self.out[..] else {
            panic!("one frame expected: {self:?}")
        };
        IcmpError::read(&frame[14..]).unwrap_or_else(|| panic!("an ICMP error expected: {frame:02x?}"))
    }

    #[track_caller]
    pub fn tx(&self, port: &str, expected: &Pkt) {
        assert_eq!(self.verdict, "tx", "{self:?}");
        let (found_port, found) = self.packet();
        assert_eq!((found_port.as_str(), &found), (port, expected));
    }

    #[track_caller]
    pub fn dropped(&self, reason: &str) {
        assert_eq!(
            (self.verdict.as_str(), self.reason.as_str()),
            ("drop", reason),
            "{self:?}"
        );
    }

    #[track_caller]
    pub fn dropped_silently(&self, reason: &str) {
        self.dropped(reason);
        assert!(self.out.is_empty(), "{self:?}");
    }
}

#[derive(Default)]
pub struct Recorder {
    fates: Vec<Option<(Fate, Arc<Snapshot>)>>,
    held: Vec<u64>,
    sent: Vec<(Option<u64>, PortId, Vec<u8>, Emission)>,
}

impl Observer for Recorder {
    fn received(&mut self, packet: PacketNumber, _: PortId, _: &[u8]) {
        assert_eq!(
            packet.0 as usize,
            self.fates.len(),
            "packets are numbered as they come"
        );
        self.fates.push(None);
    }

    fn decided(&mut self, packet: PacketNumber, fate: &Fate, snapshot: &Snapshot) {
        let fate_of = &mut self.fates[packet.0 as usize];
        assert!(
            fate_of.is_none(),
            "a second verdict for packet {}: {fate:?} after {:?}",
            packet.0,
            fate_of.as_ref().map(|f| f.0)
        );
        *fate_of = Some((*fate, Arc::new(snapshot.clone())));
    }

    fn held(&mut self, packet: PacketNumber) {
        self.held.push(packet.0);
    }

    fn sent(&mut self, cause: Option<PacketNumber>, port: PortId, frame: &[u8], emission: Emission) {
        self.sent
            .push((cause.map(|c| c.0), port, frame.to_vec(), emission));
    }

    fn unsent(&mut self, packet: PacketNumber, verdict: Verdict) {
        self.fates[packet.0 as usize].as_mut().unwrap().0.verdict = verdict;
    }
}

pub struct Lab {
    pub state: proto::State,
    pub underlay: Underlay,
    pub worker: Worker<RingPort, Recorder>,
    pub shared: Arc<Shared>,
    pub snapshot: Snapshot,
    pub now_ns: u64,
    pub next: u64,
    chunks: usize,
}

pub struct Options {
    pub connections: u32,
    pub tx_ring: usize,
    pub tx_checksum: bool,
    /// Workers of the node; the lab is the first of them.
    pub workers: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 1000,
            tx_ring: 64,
            tx_checksum: true,
            workers: 1,
        }
    }
}

pub fn compiled(state: &proto::State, underlay: &Underlay) -> Snapshot {
    let valid = ValidState::try_from(state.clone()).expect("a valid state");
    compile::compile(&valid, underlay)
        .expect("a state that compiles")
        .snapshot
}

impl Lab {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut proto::State)) -> Self {
        Self::with_options(&Options::default(), change)
    }

    pub fn with_options(options: &Options, change: impl FnOnce(&mut proto::State)) -> Self {
        Self::build(options, change, |_| {})
    }

    pub fn build(
        options: &Options,
        change: impl FnOnce(&mut proto::State),
        routes: impl FnOnce(&mut Underlay),
    ) -> Self {
        let (mut state, mut underlay) = (cluster::cluster(), cluster::underlay());
        change(&mut state);
        routes(&mut underlay);
        let snapshot = compiled(&state, &underlay);
        let config = SharedConfig {
            seats: options.workers,
            connections_v4: options.connections,
            connections_v6: options.connections,
            seed: 7,
        };
        let shared = Shared::new(&config, Arc::new(snapshot.clone())).unwrap();
        Self::seated(0, options, shared, snapshot, state, underlay)
    }

    /// One worker of a node.
    pub fn seated(
        seat: usize,
        options: &Options,
        shared: Arc<Shared>,
        snapshot: Snapshot,
        state: proto::State,
        underlay: Underlay,
    ) -> Self {
        let config = WorkerConfig {
            seat,
            workers: options.workers,
            seed: 0,
            punt_to_host_mac: false,
        };
        let chunks = 512;
        let mut worker = Worker::new(
            config,
            Arc::clone(&shared),
            Memory::heap(chunks, 2048),
            Recorder::default(),
        );
        for port in snapshot.ports() {
            let ring = RingPort::new(options.tx_ring);
            let mut capabilities = fastpath::io::PacketIo::capabilities(&ring);
            capabilities.tx_checksum = options.tx_checksum;
            worker.add_port(port.id, ring.with_capabilities(capabilities));
        }
        Self {
            state,
            underlay,
            worker,
            shared,
            snapshot,
            now_ns: 1_700_000_000_000_000_000,
            next: 0,
            chunks,
        }
    }

    /// Another process takes over the flow tables, and compiles the same state from nothing but `numbers`.
    pub fn restart(self, numbers: &compile::Numbers) -> Self {
        let Self {
            state,
            underlay,
            worker,
            shared,
            now_ns,
            chunks,
            ..
        } = self;
        drop(worker);
        let valid = ValidState::try_from(state.clone()).expect("a valid state");
        let snapshot = compile::compile_numbered(&valid, &underlay, numbers)
            .expect("a state that compiles")
            .snapshot;
        let (v4, v6) = (Arc::clone(shared.v4()), Arc::clone(shared.v6()));
        let shared = Shared::over(
            v4,
            v6,
            Arc::clone(shared.quiescence()),
            Arc::new(snapshot.clone()),
        );
        shared.generations().bump_all();
        let config = WorkerConfig {
            seat: 0,
            workers: 1,
            seed: 1,
            punt_to_host_mac: false,
        };
        let memory = Memory::heap(chunks, 2048);
        let mut worker = Worker::new(config, Arc::clone(&shared), memory, Recorder::default());
        for port in snapshot.ports() {
            worker.add_port(port.id, RingPort::new(64));
        }
        Self {
            state,
            underlay,
            worker,
            shared,
            snapshot,
            now_ns,
            next: 0,
            chunks,
        }
    }

    /// Applies a change of the desired state to the running node.
    pub fn change(&mut self, change: impl FnOnce(&mut proto::State)) {
        change(&mut self.state);
        self.state.version += 1;
        let valid = ValidState::try_from(self.state.clone()).expect("a valid state");
        let compiled = compile::replace(&self.snapshot, &valid).expect("a state that compiles");
        self.publish(compiled.snapshot, &compiled.bumps);
    }

    pub fn change_underlay(&mut self, change: impl FnOnce(&mut Underlay)) {
        change(&mut self.underlay);
        let compiled = compile::apply_underlay(&self.snapshot, &self.underlay).expect("it compiles");
        self.publish(compiled.snapshot, &compiled.bumps);
    }

    fn publish(&mut self, snapshot: Snapshot, bumps: &fastpath::snapshot::Bumps) {
        self.take(snapshot);
        let version = self.shared.publish(Arc::new(self.snapshot.clone()));
        assert!(
            !self.shared.outdate(version, bumps),
            "the worker has not seen it yet"
        );
        self.worker.poll(self.now_ns);
        assert!(self.shared.outdate(version, bumps));
    }

    /// Gives the worker the ports of a snapshot that is to be published.
    pub fn take(&mut self, snapshot: Snapshot) {
        let known: Vec<_> = self.snapshot.ports().map(|port| port.id).collect();
        self.snapshot = snapshot;
        for port in self.snapshot.ports() {
            if !known.contains(&port.id) {
                self.worker.add_port(port.id, RingPort::new(64));
            }
        }
    }

    pub fn advance_s(&mut self, seconds: f64) {
        self.now_ns += (seconds * 1e9) as u64;
    }

    pub fn port(&self, name: &str) -> PortId {
        let full = if name.starts_with("uplink") || name == "host" {
            name.to_owned()
        } else {
            format!("pod:default/{name}")
        };
        self.snapshot
            .port_by_name(&full)
            .unwrap_or_else(|| panic!("no port {full}"))
            .id
    }

    fn name(&self, port: PortId) -> String {
        let name = &*self.snapshot.port(port).unwrap().name;
        name.strip_prefix("pod:default/").unwrap_or(name).to_owned()
    }

    /// An Ethernet frame as who is behind `port` sends it.
    pub fn frame(&self, port: &str, l3: &[u8]) -> Vec<u8> {
        let ether_type = if l3[0] >> 4 == 4 {
            EtherType::IPV4
        } else {
            EtherType::IPV6
        };
        let id = self.port(port);
        let known = self.snapshot.port(id).unwrap();
        let src = match port {
            "uplink" => ROUTER_MAC,
            _ => known.peer_mac,
        };
        [EtherHeader::new(known.own_mac, src, ether_type).as_bytes(), l3].concat()
    }

    pub fn send(&mut self, port: &str, pkt: &Pkt) -> Line {
        self.send_l3(port, &pkt.l3())
    }

    pub fn send_l3(&mut self, port: &str, l3: &[u8]) -> Line {
        let frame = self.frame(port, l3);
        self.send_frame(port, &frame)
    }

    /// Sends one frame and gives its verdict line.
    pub fn send_frame(&mut self, port: &str, frame: &[u8]) -> Line {
        let number = self.feed(port, frame);
        self.poll();
        self.line(number)
    }

    /// Puts a frame on a port's wire.
    pub fn feed(&mut self, port: &str, frame: &[u8]) -> u64 {
        let port = self.port(port);
        let (memory, ring) = self.worker.port_mut(port).unwrap();
        assert!(ring.feed_copy(memory, frame, 0));
        self.next += 1;
        self.next - 1
    }

    pub fn poll(&mut self) {
        self.worker.poll(self.now_ns);
        self.drain();
    }

    /// Empties the TX rings; checks the books.
    fn drain(&mut self) {
        for port in self.snapshot.ports().map(|port| port.id).collect::<Vec<_>>() {
            let Some((memory, ring)) = self.worker.port_mut(port) else {
                continue;
            };
            while ring.take_sent_bytes(memory).is_some() {}
        }
        let conservation = self.worker.counters().conservation();
        assert!(conservation.ok(), "{conservation:?}");
        let waiting = self.worker.held();
        assert!(
            self.worker.memory().free_chunks() + waiting >= self.chunks,
            "chunks leaked"
        );
    }

    pub fn is_held(&mut self, number: u64) -> bool {
        self.worker.observer_mut().held.contains(&number)
    }

    pub fn line(&mut self, number: u64) -> Line {
        let observer = self.worker.observer_mut();
        let (fate, snapshot) = observer.fates[number as usize]
            .clone()
            .unwrap_or_else(|| panic!("packet {number} has no verdict"));
        let sent: Vec<_> = observer
            .sent
            .iter()
            .filter(|sent| sent.0 == Some(number))
            .cloned()
            .collect();
        let out = sent
            .into_iter()
            .map(|(_, port, bytes, why)| (self.name(port), bytes, why))
            .collect();
        let (verdict, reason) = match fate.verdict {
            Verdict::Tx(_) => ("tx", ""),
            Verdict::Punt(reason) => ("punt", reason.name()),
            Verdict::Drop(reason) => ("drop", reason.name()),
        };
        Line {
            verdict: verdict.into(),
            reason: reason.into(),
            policy: fate
                .rule
                .and_then(|rule| snapshot.rule_origin(rule))
                .map(|origin| {
                    let rule = origin.rule.map_or("default".into(), |rule| rule.to_string());
                    format!(
                        "{:?} {}/{} {rule}",
                        origin.direction, origin.policy.kind, origin.policy.name
                    )
                    .to_lowercase()
                }),
            service: fate
                .service
                .and_then(|id| snapshot.service(id))
                .map(|service| service.name.to_string()),
            flow: fate
                .flow
                .map(|flow| (flow.new, flow.orig.to_string(), flow.reply.to_string())),
            out,
        }
    }

    /// Every counter not named must be zero.
    #[track_caller]
    pub fn assert_counters(&self, expected: &[(&str, u64)]) {
        let mut expected: Vec<_> = expected
            .iter()
            .map(|(name, n)| ((*name).to_owned(), *n))
            .collect();
        let mut found = self.worker.counters().moved();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    pub fn live(&self) -> u32 {
        self.shared.v4().live() + self.shared.v6().live()
    }

    /// A VXLAN packet from another node, as it comes in on the uplink; outside and inside of one family.
    pub fn vxlan(&self, node: u8, inner: &[u8]) -> Vec<u8> {
        let family = if inner[0] >> 4 == 4 {
            cluster::Fam::V4
        } else {
            cluster::Fam::V6
        };
        self.vxlan_from(&family.node(node), 4096, inner)
    }

    pub fn vxlan_from(&self, from: &str, vni: u32, inner: &[u8]) -> Vec<u8> {
        let ether_type = if inner[0] >> 4 == 4 {
            EtherType::IPV4
        } else {
            EtherType::IPV6
        };
        let (vni, len, ports) = (
            vni.try_into().unwrap(),
            inner.len() as u16 + 14,
            (50_000.into(), 4789.into()),
        );
        let link = EtherHeader::new(Mac([0x66, 0, 0, 0, 0, 1]), Mac([0x66, 0, 0, 0, 0, 2]), ether_type);
        let outer = match from.parse().unwrap() {
            std::net::IpAddr::V4(from) => {
                let outer = wire::vxlan::OuterV4::new(from, [192, 168, 0, 1].into(), ports.1, vni, 64);
                outer.stamp(len, ports.0, 0).unwrap().as_bytes().to_vec()
            }
            std::net::IpAddr::V6(from) => {
                let to = cluster::Fam::V6.node(1).parse().unwrap();
                let mut outer = wire::vxlan::OuterV6::new(from, to, ports.1, vni, 64)
                    .stamp(len, ports.0, 0)
                    .unwrap();
                outer.set_checksum(wire::checksum::Sum::of(link.as_bytes()) + wire::checksum::Sum::of(inner));
                outer.as_bytes().to_vec()
            }
        };
        [&outer, link.as_bytes(), inner].concat()
    }
}

/// The inner packet of a VXLAN frame to `node`, whose outer headers are checked.
#[track_caller]
pub fn inner_of_vxlan(frame: &[u8], node: u8) -> Vec<u8> {
    assert_eq!(
        (&frame[..6], &frame[6..12]),
        (&node_mac(node).0[..], &UPLINK_MAC.0[..])
    );
    let outer = packet::parse_l3(&frame[14..]).unwrap();
    let f = if outer.family == packet::Family::V4 {
        cluster::Fam::V4
    } else {
        cluster::Fam::V6
    };
    let (src, dst) = (
        outer.src(&frame[14..]).to_string(),
        outer.dst(&frame[14..]).to_string(),
    );
    assert_eq!((src, dst), (f.node(1), f.node(node)));
    assert_eq!(
        (outer.dport.get(), outer.total_len as usize),
        (4789, frame.len() - 14)
    );
    assert!(outer.l4_checksum_is_valid(&frame[14..]));
    assert!(outer.sport.get() >= 0xc000);
    let (header, inner) =
        wire::vxlan::VxlanHeader::parse(&frame[14 + usize::from(outer.l4_offset) + 8..]).unwrap();
    assert_eq!(header.vni().get(), 4096);
    assert_eq!(
        (&inner[..6], &inner[6..12]),
        (&[0x66, 0, 0, 0, 0, node][..], &[0x66, 0, 0, 0, 0, 1][..])
    );
    inner[14..].to_vec()
}

const _: (Mac, fn(u8) -> Mac) = (HOST_MAC, pod_mac);
