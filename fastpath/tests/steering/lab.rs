//! An uplink in a namespace of its own, with the program on it.

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use etherparse::Icmpv4Type;
use fastpath::io::{
    Memory, PacketIo,
    afxdp::{AfxdpOptions, AfxdpPort, Umem},
    bpf::{AddressKinds, Steer, SteerConfig, SteerCounters},
    clock,
};

use crate::packet::{NODE4, PEER4, PEER6, echo, icmp4};
use crate::support::{netns, packet_socket::PacketSocket};

/// How long what must happen may take.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// An uplink with the program on it, a worker's socket, and the network's end of the wire.
pub struct Lab {
    pub steer: Option<Steer>,
    pub port: Option<AfxdpPort>,
    pub umem: Umem,
    pub memory: Memory,
    pub wire: PacketSocket,
    pub bpffs: PathBuf,
}

impl Lab {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        netns::enter_fresh();
        netns::quiet_veth("uplink0", "wire0", 1, 1500);
        netns::run("ip link set uplink0 address 02:00:00:00:00:01");
        netns::run("ip addr add 192.168.7.1/24 dev uplink0");
        netns::run("ip neigh replace 192.168.7.2 lladdr 02:00:00:00:00:02 dev uplink0 nud permanent");
        let memory = Memory::mapped(256, 2048).unwrap();
        let umem = Umem::register(&memory, "lo", 0).unwrap();
        let number = NEXT.fetch_add(1, Relaxed);
        let bpffs = PathBuf::from(format!("/run/rwio-bpf-{}-{number}", std::process::id()));
        let mut lab = Self {
            steer: None,
            port: None,
            umem,
            memory,
            wire: PacketSocket::bind("wire0"),
            bpffs,
        };
        lab.start();
        let steer = lab.steer();
        steer
            .set_config(&SteerConfig {
                fuse: Duration::from_secs(1),
                ..SteerConfig::default()
            })
            .unwrap();
        for (prefix, kinds) in [
            ("192.168.7.1/32", AddressKinds::NODE | AddressKinds::VTEP),
            ("10.244.1.0/26", AddressKinds::POD),
            ("10.96.0.0/16", AddressKinds::SERVICE),
            ("fd07::1/128", AddressKinds::NODE | AddressKinds::VTEP),
            ("fd44::/122", AddressKinds::POD),
        ] {
            steer.add_address(prefix.parse().unwrap(), kinds).unwrap();
        }
        steer.add_node(IpAddr::from(PEER4)).unwrap();
        steer.add_node(IpAddr::from(PEER6)).unwrap();
        steer.add_port(6, 30_080).unwrap();
        lab
    }

    /// What a process does when it starts.
    pub fn start(&mut self) {
        self.steer = Some(Steer::attach("uplink0", &self.bpffs).unwrap());
        self.open_port();
    }

    pub fn open_port(&mut self) {
        let mut port = AfxdpPort::open(&self.umem, "uplink0", 0, AfxdpOptions::default()).unwrap();
        port.rx(&mut self.memory, &mut Vec::new(), 0);
        self.steer().set_socket(0, port.socket()).unwrap();
        self.port = Some(port);
    }

    /// What the kernel does when a process dies.
    pub fn die(&mut self) {
        self.close_port();
        self.steer = None;
    }

    pub fn close_port(&mut self) {
        let mut port = self.port.take().unwrap();
        assert_eq!(port.close(&mut self.memory), 0);
    }

    pub fn steer(&self) -> &Steer {
        self.steer.as_ref().unwrap()
    }

    pub fn beat(&self) {
        self.steer().heartbeats().beat(0, clock::monotonic_ns());
    }

    pub fn counters(&self) -> SteerCounters {
        self.steer().counters().unwrap()
    }

    /// Sends a packet and waits until the program counted it. Returns what moved.
    pub fn verdict(&mut self, packet: &[u8]) -> SteerCounters {
        let before = self.counters();
        self.wire.send(packet);
        let start = Instant::now();
        loop {
            let now = self.counters();
            let moved = SteerCounters {
                passed: now.passed - before.passed,
                redirected: now.redirected - before.redirected,
                dropped_no_worker: now.dropped_no_worker - before.dropped_no_worker,
                dropped_no_socket: now.dropped_no_socket - before.dropped_no_socket,
            };
            if moved != SteerCounters::default() {
                return moved;
            }
            assert!(start.elapsed() < DEADLINE, "the program did not see the packet");
            thread::yield_now();
        }
    }

    /// Sends a packet that must come to our socket, whole.
    pub fn assert_ours(&mut self, what: &str, packet: &[u8]) {
        self.beat();
        assert_eq!(
            self.verdict(packet),
            SteerCounters {
                redirected: 1,
                ..Default::default()
            },
            "{what}"
        );
        let (mut frames, start) = (Vec::new(), Instant::now());
        while self.port.as_mut().unwrap().rx(&mut self.memory, &mut frames, 1) == 0 {
            assert!(start.elapsed() < DEADLINE, "{what} did not arrive");
            thread::yield_now();
        }
        assert_eq!(self.memory.bytes(&frames[0]), packet, "{what}");
        self.memory.release(frames.pop().unwrap());
    }

    /// Sends a packet that must be left to the kernel.
    pub fn assert_kernels(&mut self, what: &str, packet: &[u8]) {
        self.beat();
        assert_eq!(
            self.verdict(packet),
            SteerCounters {
                passed: 1,
                ..Default::default()
            },
            "{what}"
        );
    }

    /// The host answers a ping, so its packets pass both ways.
    pub fn assert_host_answers_ping(&mut self) {
        let request = icmp4(PEER4, NODE4, Icmpv4Type::EchoRequest(echo(77)), b"are you there");
        self.wire.send(&request);
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "no answer");
            // Ethernet, IPv4, then ICMP type 0: the reply.
            if let Some(answer) = self.wire.receive(Duration::from_millis(500))
                && answer[23] == 1
                && answer[34] == 0
            {
                assert_eq!(answer[42..], *b"are you there");
                return;
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.steer = None;
        let _ = Steer::detach("uplink0", &self.bpffs);
        let _ = Command::new("umount").arg(&self.bpffs).status();
        let _ = fs::remove_dir(&self.bpffs);
    }
}
