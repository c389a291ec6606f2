//! Two nodes whose IPv4 pods talk in IPIP, IPv6 pods in VXLAN beside it: the kernel under test has no device for the other end.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use tests::interop::capture::{self, Capture};
use tests::interop::exchange::{PATIENCE, ping, tcp, udp};
use tests::interop::{add_state, exec, text};
use tests::live::lab::count;
use tests::live::{Lab, wait};

const CLIENT: &str = "default/client";
const FAR: &str = "default/api-1";
/// Bytes of a transfer that is captured.
const CAPTURED: usize = 100_000;
/// Up to what fits a pod's link, and beyond: those are fragments in the tunnel.
const SIZES: [usize; 6] = [1, 1372, 1402, 1403, 2000, 3000];

/// A pod of node-a, one of node-b, and each node's tunnel address.
struct Family {
    client: &'static str,
    far: &'static str,
    tunnel_a: &'static str,
    tunnel_b: &'static str,
}

const FAMILIES: [Family; 2] = [
    Family {
        client: "10.244.1.10",
        far: "10.244.2.10",
        tunnel_a: "10.244.1.1",
        tunnel_b: "10.244.2.1",
    },
    Family {
        client: "fd00:10:244:1::10",
        far: "fd00:10:244:2::10",
        tunnel_a: "fd00:10:244:1::1",
        tunnel_b: "fd00:10:244:2::1",
    },
];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn is(address: IpAddr, expected: &str) {
    assert_eq!(address, expected.parse::<IpAddr>().expect("an address"));
}

/// The example with pools of `mode` (Calico's `ipipMode` and `vxlanMode`), and what `prepare` changes in its nodes.
fn up(test: &str, mode: &str, prepare: impl Fn(String) -> String) -> Option<Lab> {
    Lab::up_with(test, &[], |state| {
        add_state(state, "ipip-pool.yaml");
        edit(&state.join("ipip-pool.yaml"), |text| text.replace("Always", mode));
        edit(&state.join("00-nodes.yaml"), |text| {
            prepare(text.replace("IPv4VXLANTunnelAddr", "IPv4IPIPTunnelAddr"))
        });
    })
}

fn edit(file: &Path, change: impl Fn(String) -> String) {
    let text = fs::read_to_string(file).expect("the lab's copy");
    fs::write(file, change(text)).expect("the lab's copy");
}

/// Everything between the two nodes, `len` bytes each way over TCP.
fn exchange(lab: &Lab, len: usize) {
    for family in &FAMILIES {
        ping(lab, CLIENT, family.far, 56);
        ping(lab, FAR, family.client, 1300);
        is(tcp(lab, CLIENT, FAR, at(family.far, 9001), len), family.client);
        is(tcp(lab, FAR, CLIENT, at(family.client, 9001), len), family.far);
        is(udp(lab, CLIENT, FAR, at(family.far, 9002), &SIZES), family.client);
        is(udp(lab, FAR, CLIENT, at(family.client, 9002), &SIZES), family.far);
    }
}

/// The hosts and the other node's pods, and a tunnel address as destination.
fn hosts(lab: &Lab, len: usize) {
    for family in &FAMILIES {
        // A host's socket takes the node's own address; in the tunnel it has the tunnel's.
        ping(lab, "node-b", family.client, 56);
        is(
            tcp(lab, "node-b", CLIENT, at(family.client, 9005), len),
            family.tunnel_b,
        );
        is(
            // What fits the pod's link: the kernel learns the path's MTU elsewhere.
            udp(lab, "node-b", CLIENT, at(family.client, 9006), &SIZES[..2]),
            family.tunnel_b,
        );
        // Policy admits the tunnel address of node-a, to this port alone.
        is(
            tcp(lab, "node-a", FAR, at(family.far, 8080), len),
            family.tunnel_a,
        );
        ping(lab, CLIENT, family.tunnel_b, 56);
        is(
            tcp(lab, CLIENT, "node-b", at(family.tunnel_b, 9007), len),
            family.client,
        );
    }
}

/// What policy refuses is refused on the other side of the tunnel too, and named.
fn refused(lab: &Lab) {
    let before = count(&lab.status("node-b"), "drops", "policy-denied");
    for family in &FAMILIES {
        // `prober` may reach pods at 8000-8999; `api-from-clients` does not name it.
        let to = at(family.far, 8080).to_string();
        let (address, port) = to.rsplit_once(':').expect("an address and a port");
        let script = format!(
            "import socket; socket.create_connection(('{}', {port}), 1)",
            address.trim_matches(['[', ']'])
        );
        let output = exec(lab, "ops/prober", "python3", &["-c", &script]);
        assert!(text(&output).contains("TimeoutError"), "{}", text(&output));
    }
    let after = count(&lab.status("node-b"), "drops", "policy-denied");
    assert!(after >= before + 2, "{before} refusals, then {after}");
    let drops = lab.ask("node-b", "drops").expect("fastpath answers").to_string();
    assert!(drops.contains("api-from-clients"), "{drops}");
}

/// As on a wire: what the kernel sends is segmented and summed before it is captured.
fn without_offloads(lab: &Lab) {
    for place in ["node-a", "node-b", "outside"] {
        lab.run(place, "ethtool -K eth0 tx off gso off tso off gro off");
    }
}

fn frames(file: &Path, filter: &str) -> usize {
    capture::fields(file, filter, &["frame.number"]).len()
}

#[test]
fn pods_of_two_nodes_talk_in_ipip() {
    let Some(lab) = up("ipip", "Always", |nodes| nodes) else {
        return;
    };
    without_offloads(&lab);
    exchange(&lab, 2 << 20);
    // Less under the capture's eyes: tcpdump must not lose a packet on a busy machine.
    let capture = Capture::start(&lab, "underlay", "node2");
    exchange(&lab, CAPTURED);
    hosts(&lab, CAPTURED);
    refused(&lab);
    lab.assert_conservation();

    let Some(capture) = capture else { return };
    let file = capture.finish();
    capture::assert_clean(&file);
    for (from, to) in [("192.0.2.11", "192.0.2.12"), ("192.0.2.12", "192.0.2.11")] {
        // The outer header says protocol 4, and Calico's kind of header: no options, not to be fragmented.
        let tunnelled = format!("ip.proto == 4 && ip.src == {from} && ip.dst == {to}");
        assert!(frames(&file, &tunnelled) > 100, "{tunnelled}");
    }
    assert!(
        frames(
            &file,
            "ip.proto == 4 && ip.src == 10.244.2.1 && ip.dst == 10.244.1.10"
        ) > 10
    );
    assert!(
        frames(&file, "ip.proto == 4 && ip.flags.mf == 1") > 0,
        "fragments inside"
    );
    // All of a pool goes in its tunnel: nothing plain, no IPv4 in VXLAN, no IPv6 in IPIP.
    assert_eq!(frames(&file, "ip.addr == 10.244.0.0/16 && !(ip.proto == 4)"), 0);
    assert_eq!(frames(&file, "vxlan && ip.addr == 10.244.0.0/16"), 0);
    assert_eq!(frames(&file, "ip.proto == 41 || (ip.proto == 4 && ipv6)"), 0);
    assert_eq!(frames(&file, "ipv6.addr == fd00:10:244::/48 && !vxlan"), 0);
}

#[test]
fn ipip_that_is_not_a_nodes_own_is_refused_or_the_kernels() {
    let Some(lab) = up("ipip-spoof", "Always", |nodes| nodes) else {
        return;
    };
    ping(&lab, CLIENT, "10.244.2.10", 56);
    let spoofed = |node: &str| count(&lab.status(node), "drops", "tunnel-spoofed");
    let before = spoofed("node-a");
    // node-b speaks for a pod of node-a, for the outside, and for nobody's pod.
    for source in ["10.244.1.11", "203.0.113.9", "10.244.9.9"] {
        send_ipip(&lab, "node-b", "192.0.2.11", source, "10.244.1.10");
    }
    wait::until("node-a to have refused three", PATIENCE, || {
        spoofed("node-a") == before + 3
    });
    // A stranger's IPIP is the kernel's, which has no such device: our counters do not move.
    let before = lab.status("node-a")["conservation"]["drop"].clone();
    send_ipip(&lab, "outside", "192.0.2.11", "10.244.2.10", "10.244.1.10");
    wait::until("node-a's kernel to refuse the stranger's", PATIENCE, || {
        let seen = lab.run("node-a", "nstat -asz IpInUnknownProtos IcmpOutDestUnreachs");
        send_ipip(&lab, "outside", "192.0.2.11", "10.244.2.10", "10.244.1.10");
        seen.lines().any(|line| {
            line.split_whitespace()
                .nth(1)
                .is_some_and(|n| n.parse::<u64>().is_ok_and(|n| n > 0))
        })
    });
    assert_eq!(lab.status("node-a")["conservation"]["drop"], before);
    // A pod makes no tunnel of its own.
    let spoofed_by_pod = spoofed("node-a");
    send_ipip(&lab, CLIENT, "192.0.2.12", "10.244.1.10", "10.244.2.10");
    wait::until("node-a to have refused the pod's", PATIENCE, || {
        spoofed("node-a") == spoofed_by_pod + 1
    });
    lab.assert_conservation();
}

/// One UDP datagram from `source` to `pod`, in IPIP from the address of `place` to `node`.
fn send_ipip(lab: &Lab, place: &str, node: &str, source: &str, pod: &str) {
    // The kernel fills in the outer header's checksum, length and source.
    let script = format!(
        "import socket, struct\n\
         a = socket.inet_aton\n\
         inner = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 36, 7, 0, 64, 17, 0, a('{source}'), a('{pod}'))\n\
         words = struct.unpack('!10H', inner)\n\
         total = sum(words); total = (total & 0xffff) + (total >> 16); total = (total & 0xffff) + (total >> 16)\n\
         inner = inner[:10] + struct.pack('!H', ~total & 0xffff) + inner[12:]\n\
         inner += struct.pack('!HHHH', 4000, 53, 16, 0) + b'a stranger'[:8]\n\
         raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 4)\n\
         raw.sendto(inner, ('{node}', 0))\n"
    );
    let output = exec(lab, place, "python3", &["-c", &script]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn cross_subnet_is_ipip_beyond_the_router_and_only_there() {
    let moved = |nodes: String| {
        nodes
            .replace("192.0.2.12", "198.51.100.12")
            .replace("2001:db8:2::12", "2001:db8:3::12")
    };
    let Some(lab) = up("ipip-cross", "CrossSubnet", moved) else {
        return;
    };
    a_router_between(&lab);
    without_offloads(&lab);
    for (from, to) in [("node-a", "198.51.100.12"), ("node-a", "2001:db8:3::12")] {
        ping(&lab, from, to, 56);
    }
    exchange(&lab, 1 << 20);
    let capture = Capture::start(&lab, "underlay", "node2");
    exchange(&lab, CAPTURED);
    for family in &FAMILIES {
        ping(&lab, "node-b", family.client, 56);
        is(
            tcp(&lab, "node-a", FAR, at(family.far, 8080), CAPTURED),
            family.tunnel_a,
        );
    }
    lab.assert_conservation();

    let Some(capture) = capture else { return };
    let file = capture.finish();
    capture::assert_clean(&file);
    // The router took one hop: its neighbour's MAC is the gateway's, on both sides.
    for (from, to, mac) in [
        ("192.0.2.11", "198.51.100.12", "eth.src"),
        ("198.51.100.12", "192.0.2.11", "eth.dst"),
    ] {
        let tunnelled =
            format!("ip.proto == 4 && ip.src == {from} && ip.dst == {to} && {mac} == 02:fe:00:00:00:01");
        assert!(frames(&file, &tunnelled) > 100, "{tunnelled}");
    }
    assert_eq!(frames(&file, "ip.addr == 10.244.0.0/16 && !(ip.proto == 4)"), 0);
    assert_eq!(frames(&file, "ipv6.addr == fd00:10:244::/48 && !vxlan"), 0);
}

#[test]
fn cross_subnet_is_plain_on_one_subnet() {
    let Some(lab) = up("ipip-flat", "CrossSubnet", |nodes| nodes) else {
        return;
    };
    // No routing daemon: the kernels know no way to a pod of the other node but the default route.
    without_offloads(&lab);
    exchange(&lab, 1 << 20);
    let capture = Capture::start(&lab, "underlay", "node2");
    exchange(&lab, CAPTURED);
    lab.assert_conservation();
    let Some(capture) = capture else { return };
    let file = capture.finish();
    capture::assert_clean(&file);
    assert_eq!(frames(&file, "ip.proto == 4 || vxlan"), 0);
    assert!(frames(&file, "ip.src == 10.244.1.10 && ip.dst == 10.244.2.10") > 100);
    assert!(
        frames(
            &file,
            "ipv6.src == fd00:10:244:1::10 && ipv6.dst == fd00:10:244:2::10"
        ) > 100
    );
}

/// Puts node-b on a link of its own, with the lab's `outside` as a router between the two.
fn a_router_between(lab: &Lab) {
    let outside = lab.netns("outside");
    for line in [
        "ip link add br1 type bridge",
        "ip link set br1 up",
        "ip link set node2 master br1",
        &format!("ip link add outside1 type veth peer name eth1 netns {outside}"),
        "ip link set outside1 master br1",
        "ip link set outside1 up",
    ] {
        lab.run("underlay", line);
    }
    for line in [
        "ip address del 198.51.100.1/24 dev eth0",
        "ip address del 2001:db8:3::1/64 dev eth0",
        "ip link set eth1 address 02:fe:00:00:00:01",
        "ip link set eth1 up",
        "ip address add 198.51.100.1/24 dev eth1",
        "ip address add 2001:db8:3::1/64 dev eth1 nodad",
    ] {
        lab.run("outside", line);
    }
    lab.run("outside", "ethtool -K eth1 tx off gso off tso off gro off");
}
