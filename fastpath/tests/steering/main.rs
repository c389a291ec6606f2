//! What the program on an uplink takes, what it leaves to the kernel, and how it outlives the process.
#![allow(clippy::unwrap_used, clippy::needless_for_each, reason = "a test")]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "small numbers")]
#![allow(missing_docs, unreachable_pub, reason = "modules of one test binary")]

mod lab;
mod object;
mod packet;
#[path = "../support/mod.rs"]
mod support;

use std::{
    net::IpAddr,
    process::Command,
    time::{Duration, Instant},
};

use etherparse::{Icmpv4Type, Icmpv6Type, IpNumber};
use fastpath::io::{
    PacketIo,
    afxdp::{AfxdpOptions, AfxdpPort},
    bpf::{PodProgram, Steer, SteerConfig, SteerCounters},
    clock,
};

use lab::{DEADLINE, Lab};
use packet::*;
use support::{netns, packet_socket::PacketSocket, root_or_skip};

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
