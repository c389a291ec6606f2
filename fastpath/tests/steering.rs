//! What the program on an uplink takes, what it leaves to the kernel, and how it outlives the process.
#![allow(clippy::unwrap_used, clippy::needless_for_each, reason = "a test")]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "small numbers")]

mod support;

use std::{
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpFragOffset, IpNumber, Ipv4Header, Ipv6FlowLabel,
    Ipv6FragmentHeader, Ipv6Header, PacketBuilder, icmpv4, icmpv6,
};
use fastpath::io::{
    Memory, PacketIo,
    afxdp::{AfxdpOptions, AfxdpPort, Umem},
    bpf::{AddressKinds, PodProgram, Steer, SteerConfig, SteerCounters},
    clock,
};
use support::{netns, packet_socket::PacketSocket, root_or_skip};

const DEADLINE: Duration = Duration::from_secs(10);
const NODE4: [u8; 4] = [192, 168, 7, 1];
const PEER4: [u8; 4] = [192, 168, 7, 2];
const STRANGER4: [u8; 4] = [192, 168, 7, 99];
const POD4: [u8; 4] = [10, 244, 1, 5];
const VIP4: [u8; 4] = [10, 96, 0, 10];
const NODE6: [u8; 16] = [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const PEER6: [u8; 16] = [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
const POD6: [u8; 16] = [0xfd, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An uplink with the program on it, a worker's socket, and the network's end of the wire.
struct Lab {
    steer: Option<Steer>,
    port: Option<AfxdpPort>,
    umem: Umem,
    memory: Memory,
    wire: PacketSocket,
    bpffs: PathBuf,
}

impl Lab {
    fn new() -> Self {
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
    fn start(&mut self) {
        self.steer = Some(Steer::attach("uplink0", &self.bpffs).unwrap());
        self.open_port();
    }

    fn open_port(&mut self) {
        let mut port = AfxdpPort::open(&self.umem, "uplink0", 0, AfxdpOptions::default()).unwrap();
        port.rx(&mut self.memory, &mut Vec::new(), 0);
        self.steer().set_socket(0, port.socket()).unwrap();
        self.port = Some(port);
    }

    /// What the kernel does when a process dies.
    fn die(&mut self) {
        self.close_port();
        self.steer = None;
    }

    fn close_port(&mut self) {
        let mut port = self.port.take().unwrap();
        assert_eq!(port.close(&mut self.memory), 0);
    }

    fn steer(&self) -> &Steer {
        self.steer.as_ref().unwrap()
    }

    fn beat(&self) {
        self.steer().heartbeats().beat(0, clock::monotonic_ns());
    }

    fn counters(&self) -> SteerCounters {
        self.steer().counters().unwrap()
    }

    /// Sends a packet and waits until the program counted it. Returns what moved.
    fn verdict(&mut self, packet: &[u8]) -> SteerCounters {
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
    fn assert_ours(&mut self, what: &str, packet: &[u8]) {
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
    fn assert_kernels(&mut self, what: &str, packet: &[u8]) {
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
    fn assert_host_answers_ping(&mut self) {
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

fn echo(id: u16) -> IcmpEchoHeader {
    IcmpEchoHeader { id, seq: 1 }
}

fn tcp4(from: [u8; 4], to: [u8; 4], source: u16, destination: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv4(from, to, 64);
    builder
        .tcp(source, destination, 1, 1000)
        .write(&mut packet, b"hello")
        .unwrap();
    packet
}

fn tcp6(from: [u8; 16], to: [u8; 16], source: u16, destination: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv6(from, to, 64);
    builder
        .tcp(source, destination, 1, 1000)
        .write(&mut packet, b"hello")
        .unwrap();
    packet
}

fn udp4(from: [u8; 4], to: [u8; 4], source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv4(from, to, 64);
    builder
        .udp(source, destination)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

fn udp6(from: [u8; 16], to: [u8; 16], source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv6(from, to, 64);
    builder
        .udp(source, destination)
        .write(&mut packet, payload)
        .unwrap();
    packet
}

fn icmp4(from: [u8; 4], to: [u8; 4], kind: Icmpv4Type, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv4(from, to, 64);
    builder.icmpv4(kind).write(&mut packet, payload).unwrap();
    packet
}

fn icmp6(from: [u8; 16], to: [u8; 16], kind: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ethernet2(PEER_MAC, NODE_MAC).ipv6(from, to, 64);
    builder.icmpv6(kind).write(&mut packet, payload).unwrap();
    packet
}

/// An error that quotes the start of `about`, an Ethernet frame.
fn unreachable4(from: [u8; 4], to: [u8; 4], about: &[u8]) -> Vec<u8> {
    let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
    icmp4(from, to, kind, &about[14..14 + 28])
}

fn unreachable6(to: [u8; 16], about: &[u8]) -> Vec<u8> {
    let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
    icmp6(PEER6, to, kind, &about[14..14 + 48])
}

fn ip4(from: [u8; 4], to: [u8; 4], protocol: IpNumber, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4Header::new(payload.len() as u16, 64, protocol, from, to).unwrap();
    ethernet(0x0800, |packet| {
        header.write(packet).unwrap();
        packet.extend(payload);
    })
}

fn ethernet(kind: u16, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = [NODE_MAC, PEER_MAC].concat();
    packet.extend(kind.to_be_bytes());
    write(&mut packet);
    packet.resize(packet.len().max(60), 0);
    packet
}

fn vxlan(vni: u32) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0];
    payload.extend((vni << 8).to_be_bytes());
    payload.extend(tcp4(POD4, POD4, 1, 2));
    payload
}

/// A UDP datagram to `to`'s SNAT range in two IPv4 fragments of one id.
fn fragments4(to: [u8; 4], port: u16, id: u16) -> [Vec<u8>; 2] {
    let whole = &udp4(STRANGER4, to, 53, port, &[7; 64])[34..];
    [(0, true), (40, false)].map(|(start, more)| {
        let part = if more { &whole[..40] } else { &whole[start..] };
        let mut header = Ipv4Header::new(part.len() as u16, 64, IpNumber::UDP, STRANGER4, to).unwrap();
        header.identification = id;
        header.more_fragments = more;
        header.dont_fragment = false;
        header.fragment_offset = IpFragOffset::try_new(start as u16 / 8).unwrap();
        header.header_checksum = header.calc_header_checksum();
        ethernet(0x0800, |packet| {
            header.write_raw(packet).unwrap();
            packet.extend(part);
        })
    })
}

fn fragments6(port: u16, id: u32) -> [Vec<u8>; 2] {
    let whole = &udp6(PEER6, NODE6, 53, port, &[7; 64])[54..];
    [(0, true), (40, false)].map(|(start, more)| {
        let part = if more { &whole[..40] } else { &whole[start..] };
        let offset = IpFragOffset::try_new(start as u16 / 8).unwrap();
        let fragment = Ipv6FragmentHeader::new(IpNumber::UDP, offset, more, id);
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: part.len() as u16 + 8,
            next_header: IpNumber::IPV6_FRAGMENTATION_HEADER,
            hop_limit: 64,
            source: PEER6,
            destination: NODE6,
        };
        ethernet(0x86dd, |packet| {
            header.write(packet).unwrap();
            fragment.write(packet).unwrap();
            packet.extend(part);
        })
    })
}

#[test]
fn pods_and_services_are_ours_and_the_host_is_the_kernels() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    lab.assert_ours("TCP to a pod", &tcp4(STRANGER4, POD4, 5, 22));
    lab.assert_ours("a service", &tcp4(STRANGER4, VIP4, 5, 80));
    lab.assert_ours("UDP to a pod over IPv6", &udp6(PEER6, POD6, 5, 53, b"x"));
    lab.assert_ours(
        "ping of a pod",
        &icmp4(STRANGER4, POD4, Icmpv4Type::EchoRequest(echo(1)), b""),
    );
    lab.assert_ours("a later fragment to a pod", &fragments4(POD4, 53, 9)[1]);
    lab.assert_kernels(
        "an address beside the block",
        &tcp4(STRANGER4, [10, 244, 1, 64], 5, 80),
    );
    lab.assert_kernels("SSH to the node", &tcp4(STRANGER4, NODE4, 5, 22));
    lab.assert_kernels("SSH to the node over IPv6", &tcp6(PEER6, NODE6, 5, 22));
    lab.assert_kernels("kubelet", &tcp4(STRANGER4, NODE4, 50_000, 10_250));
    let arp = ethernet(0x0806, |packet| packet.resize(42, 0));
    lab.assert_kernels("ARP", &arp);
    let solicitation = icmp6(PEER6, POD6, Icmpv6Type::NeighborSolicitation, &[0; 16]);
    lab.assert_kernels("neighbour solicitation for a pod", &solicitation);
    let tagged = ethernet(0x8100, |packet| {
        packet.extend([0, 5]);
        packet.extend(&tcp4(STRANGER4, POD4, 5, 80)[12..]);
    });
    lab.assert_kernels("a VLAN's packet", &tagged);
    lab.assert_kernels("another EtherType", &ethernet(0x88cc, |_| {}));
    lab.assert_host_answers_ping();
}

#[test]
fn only_our_own_tunnels_are_ours() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    lab.assert_ours("VXLAN of a node", &udp4(PEER4, NODE4, 50_000, 4789, &vxlan(4096)));
    lab.assert_ours(
        "VXLAN of a node over IPv6",
        &udp6(PEER6, NODE6, 50_000, 4789, &vxlan(4096)),
    );
    lab.assert_kernels(
        "VXLAN of a stranger",
        &udp4(STRANGER4, NODE4, 50_000, 4789, &vxlan(4096)),
    );
    lab.assert_kernels("another VNI", &udp4(PEER4, NODE4, 50_000, 4789, &vxlan(7)));
    lab.assert_kernels(
        "a runt of a tunnel packet",
        &udp4(PEER4, NODE4, 50_000, 4789, &[8, 0, 0]),
    );
    let inner = &tcp4(POD4, POD4, 1, 2)[14..];
    lab.assert_ours("IPIP of a node", &ip4(PEER4, NODE4, IpNumber::IPV4, inner));
    lab.assert_kernels(
        "IPIP of a stranger",
        &ip4(STRANGER4, NODE4, IpNumber::IPV4, inner),
    );
    assert!(lab.steer().remove_node(IpAddr::from(PEER4)).unwrap());
    lab.assert_kernels(
        "VXLAN of a node that left",
        &udp4(PEER4, NODE4, 50_000, 4789, &vxlan(4096)),
    );
}

#[test]
fn translated_flows_come_back_to_us() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    lab.assert_ours("TCP to a SNAT port", &tcp4(STRANGER4, NODE4, 443, 45_000));
    lab.assert_ours(
        "UDP to the last SNAT port",
        &udp4(STRANGER4, NODE4, 53, 65_535, b"x"),
    );
    lab.assert_ours("TCP to a SNAT port over IPv6", &tcp6(PEER6, NODE6, 443, 50_000));
    lab.assert_kernels("the port below the range", &tcp4(STRANGER4, NODE4, 443, 44_999));
    lab.assert_ours("a NodePort", &tcp4(STRANGER4, NODE4, 5, 30_080));
    lab.assert_kernels(
        "the NodePort's number in UDP",
        &udp4(STRANGER4, NODE4, 5, 30_080, b"x"),
    );
    assert!(lab.steer().remove_port(6, 30_080).unwrap());
    lab.assert_kernels("a NodePort that is gone", &tcp4(STRANGER4, NODE4, 5, 30_080));
    let reply = |id| icmp4(STRANGER4, NODE4, Icmpv4Type::EchoReply(echo(id)), b"");
    lab.assert_ours("an echo reply with our id", &reply(45_001));
    lab.assert_kernels("an echo reply to the host", &reply(77));
    let reply6 = |id| icmp6(PEER6, NODE6, Icmpv6Type::EchoReply(echo(id)), b"");
    lab.assert_ours("an echo reply with our id over IPv6", &reply6(45_001));
    lab.assert_kernels("an echo reply to the host over IPv6", &reply6(77));
}

#[test]
fn errors_follow_the_packet_that_they_quote() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    let about = |packet: &[u8]| unreachable4(STRANGER4, NODE4, packet);
    lab.assert_ours(
        "about a translated flow",
        &about(&tcp4(NODE4, STRANGER4, 45_000, 443)),
    );
    lab.assert_ours(
        "about a NodePort's reply",
        &about(&tcp4(NODE4, STRANGER4, 30_080, 443)),
    );
    lab.assert_ours("about our tunnel", &about(&udp4(NODE4, PEER4, 60_000, 4789, b"")));
    lab.assert_ours(
        "about our IPIP",
        &about(&ip4(NODE4, PEER4, IpNumber::IPV4, &[0; 20])),
    );
    lab.assert_ours(
        "about a pod's packet, to the node",
        &about(&tcp4(POD4, STRANGER4, 5, 443)),
    );
    let ping = |id| icmp4(NODE4, STRANGER4, Icmpv4Type::EchoRequest(echo(id)), b"");
    lab.assert_ours("about a translated ping", &about(&ping(45_000)));
    lab.assert_kernels("about the host's ping", &about(&ping(77)));
    lab.assert_kernels(
        "about the host's TCP",
        &about(&tcp4(NODE4, STRANGER4, 40_000, 443)),
    );
    lab.assert_kernels(
        "about a stranger's packet",
        &about(&tcp4(STRANGER4, PEER4, 45_000, 443)),
    );
    lab.assert_ours(
        "about a pod's packet, to the pod",
        &unreachable4(STRANGER4, POD4, &tcp4(POD4, STRANGER4, 5, 443)),
    );

    lab.assert_ours(
        "about a translated flow, IPv6",
        &unreachable6(NODE6, &tcp6(NODE6, PEER6, 45_000, 443)),
    );
    lab.assert_ours(
        "about our tunnel, IPv6",
        &unreachable6(NODE6, &udp6(NODE6, PEER6, 60_000, 4789, b"")),
    );
    lab.assert_kernels(
        "about the host's TCP, IPv6",
        &unreachable6(NODE6, &tcp6(NODE6, PEER6, 40_000, 443)),
    );
}

#[test]
fn later_fragments_follow_their_first() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    let [first, later] = fragments4(NODE4, 45_000, 1);
    lab.assert_ours("first fragment", &first);
    lab.assert_ours("its later fragment", &later);
    lab.assert_kernels("a later fragment of another id", &fragments4(NODE4, 45_000, 2)[1]);
    let [first, later] = fragments4(NODE4, 5353, 3);
    lab.assert_kernels("first fragment for the host", &first);
    lab.assert_kernels("its later fragment", &later);
    let [first, later] = fragments6(45_000, 70_000);
    lab.assert_ours("first fragment, IPv6", &first);
    lab.assert_ours("its later fragment, IPv6", &later);
    lab.assert_kernels(
        "a later fragment of another id, IPv6",
        &fragments6(45_000, 70_001)[1],
    );
}

/// Passing what is ours would have the kernel reset connections, and carry packets past policy.
#[test]
fn what_is_ours_is_dropped_while_no_worker_beats() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    let ours = tcp4(STRANGER4, NODE4, 443, 45_000);
    lab.assert_ours("with a worker", &ours);

    lab.steer()
        .heartbeats()
        .beat(0, clock::monotonic_ns() - 1_100_000_000);
    assert_eq!(
        lab.verdict(&ours),
        SteerCounters {
            dropped_no_worker: 1,
            ..Default::default()
        }
    );
    lab.assert_host_answers_ping();
    lab.assert_ours("with a worker again", &ours);

    // Each worker for itself: queue 0 is worker 0's, whoever else lives.
    lab.steer()
        .set_config(&SteerConfig {
            workers: 2,
            ..SteerConfig::default()
        })
        .unwrap();
    lab.steer().heartbeats().beat(0, 0);
    lab.steer().heartbeats().beat(1, clock::monotonic_ns());
    assert_eq!(
        lab.verdict(&ours),
        SteerCounters {
            dropped_no_worker: 1,
            ..Default::default()
        }
    );

    lab.close_port();
    lab.beat();
    assert_eq!(
        lab.verdict(&ours),
        SteerCounters {
            dropped_no_socket: 1,
            ..Default::default()
        }
    );
}

#[test]
fn a_restarted_process_adopts_the_program_with_its_maps() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    let ours = tcp4(STRANGER4, POD4, 5, 80);
    lab.assert_ours("before", &ours);
    let before = lab.counters();
    let program = || {
        let output = Command::new("ip")
            .args(["-d", "link", "show", "uplink0"])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split("prog/xdp id ")
            .nth(1)
            .map(|rest| rest.split_whitespace().next().unwrap().to_owned())
    };
    let old_program = program().expect("a program");

    lab.die();
    assert_eq!(
        program().as_ref(),
        Some(&old_program),
        "the program outlives the process"
    );
    lab.wire.send(&ours);
    lab.assert_host_answers_ping();

    lab.start();
    assert_ne!(
        program().expect("a program"),
        old_program,
        "the new process brought its own"
    );
    let dropped = lab.counters();
    assert_eq!(
        dropped.dropped_no_socket + dropped.dropped_no_worker,
        before.dropped_no_socket + before.dropped_no_worker + 1,
        "dropped while nobody was there, and counted on"
    );
    lab.assert_ours("after, by the addresses of the life before", &ours);
    let mut addresses: Vec<_> = lab
        .steer()
        .addresses()
        .unwrap()
        .into_iter()
        .map(|(net, _)| net.to_string())
        .collect();
    addresses.sort();
    assert_eq!(
        addresses,
        [
            "10.244.1.0/26",
            "10.96.0.0/16",
            "192.168.7.1/32",
            "fd07::1/128",
            "fd44::/122"
        ]
    );
    assert_eq!(
        lab.steer().nodes().unwrap(),
        [IpAddr::from(PEER4), IpAddr::from(PEER6)]
    );
    assert_eq!(lab.steer().ports().unwrap(), [(6, 30_080)]);
    assert!(
        lab.steer()
            .remove_address("10.244.1.0/26".parse().unwrap())
            .unwrap()
    );
    lab.assert_kernels("an address that is no longer ours", &ours);

    lab.die();
    assert!(Steer::detach("uplink0", &lab.bpffs).unwrap());
    assert_eq!(program(), None, "uninstalled");
    assert!(!Steer::detach("uplink0", &lab.bpffs).unwrap());
}

#[test]
fn pins_of_an_interface_that_is_gone_do_not_hinder_the_next_of_its_name() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    lab.die();
    netns::run("ip link del uplink0");
    netns::quiet_veth("uplink0", "wire0", 1, 1500);
    lab.wire = PacketSocket::bind("wire0");
    lab.start();
    lab.assert_ours("on the new interface", &tcp4(STRANGER4, POD4, 5, 80));
}

/// A pod whose node's dataplane died must not get past policy by way of the kernel.
#[test]
fn a_pods_pinned_program_drops_while_nobody_runs_and_is_adopted() {
    if !root_or_skip() {
        return;
    }
    let mut lab = Lab::new();
    netns::quiet_veth("pod0", "podwire0", 1, 1500);
    let (kernel, pod) = (PacketSocket::bind("pod0"), PacketSocket::bind("podwire0"));
    let packet = tcp4(POD4, STRANGER4, 5, 80);

    drop(PodProgram::attach_pinned("pod0", 1, &lab.bpffs).unwrap());
    pod.send(&packet);
    let start = Instant::now();
    while netns::driver_counter("pod0", "rx_queue_0_xdp_drops") == 0 {
        assert!(start.elapsed() < DEADLINE, "not dropped");
    }
    assert_eq!(
        kernel.receive(Duration::ZERO),
        None,
        "the kernel saw a pod's packet"
    );

    let program = PodProgram::attach_pinned("pod0", 1, &lab.bpffs).unwrap();
    let mut port = AfxdpPort::open(&lab.umem, "pod0", 0, AfxdpOptions::default()).unwrap();
    let mut frames = Vec::new();
    port.rx(&mut lab.memory, &mut frames, 0);
    program.set_socket(0, port.socket()).unwrap();
    pod.send(&packet);
    while port.rx(&mut lab.memory, &mut frames, 1) == 0 {
        assert!(start.elapsed() < DEADLINE, "not received");
    }
    lab.memory.release(frames.pop().unwrap());
    assert_eq!(port.close(&mut lab.memory), 0);
    program.remove().unwrap();
    pod.send(&packet);
    assert_eq!(kernel.receive(DEADLINE), Some(packet), "taken off");
    assert!(!PodProgram::detach("pod0", &lab.bpffs).unwrap());
}

/// The committed object is what its source says, where the compiler that made it is at hand.
#[test]
fn the_committed_program_is_built_from_its_source() {
    let version = Command::new("clang").arg("--version").output();
    let version = version
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    if !version.contains("version 14.") {
        println!("SKIPPED: needs clang 14, the committed object's compiler");
        return;
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bpf");
    let output = tempfile::tempdir().unwrap();
    let built = output.path().join("steer.bpf.o");
    let status = Command::new("clang")
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror"])
        .arg(format!("-I/usr/include/{}-linux-gnu", std::env::consts::ARCH))
        .args(["-c", "steer.bpf.c", "-o"])
        .arg(&built)
        .current_dir(&folder)
        .status()
        .unwrap();
    assert!(status.success());
    let (built, committed) = (
        fs::read(built).unwrap(),
        fs::read(folder.join("steer.bpf.o")).unwrap(),
    );
    for section in ["xdp.frags", ".maps", ".relxdp.frags"] {
        let ours =
            elf_section(&committed, section).unwrap_or_else(|| panic!("{section} in the committed object"));
        let same = elf_section(&built, section).is_some_and(|theirs| theirs.len() == ours.len());
        assert!(
            same,
            "{section} differs: run `make` in fastpath/bpf and commit the object"
        );
    }
    assert_eq!(
        elf_section(&built, "xdp.frags"),
        elf_section(&committed, "xdp.frags"),
        "instructions differ: run `make` in fastpath/bpf and commit the object"
    );
}

/// The bytes of a section of a 64-bit little-endian ELF file.
fn elf_section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let word = |at: usize, len: usize| {
        file[at..at + len]
            .iter()
            .rev()
            .fold(0_usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (table, entry_len, entries, names) = (word(40, 8), word(58, 2), word(60, 2), word(62, 2));
    let section = |index: usize| {
        let entry = table + index * entry_len;
        (word(entry, 4), word(entry + 24, 8), word(entry + 32, 8))
    };
    let (_, names, _) = section(names);
    (0..entries).map(section).find_map(|(name_at, start, len)| {
        let found = file[names + name_at..].split(|byte| *byte == 0).next()?;
        (found == name.as_bytes()).then(|| &file[start..start + len])
    })
}
