//! Nodes that run Ringway and one that does not: the kernel's VXLAN device is the other end of the tunnel.

use std::net::{IpAddr, SocketAddr};

use tests::interop::capture::{self, Capture};
use tests::interop::exchange::{PATIENCE, ping, tcp, udp};
use tests::interop::{add_state, exec, text};
use tests::live::{Lab, wait};

/// A node's tunnel address, a pod of it, of one family.
struct End {
    tunnel: &'static str,
    pod: &'static str,
}

/// `default/client` on node-a, and `default/far` on the kernel's node, in both families.
const ENDS: [[End; 2]; 2] = [
    [
        End {
            tunnel: "10.244.1.1",
            pod: "10.244.1.10",
        },
        End {
            tunnel: "10.244.3.1",
            pod: "10.244.3.10",
        },
    ],
    [
        End {
            tunnel: "fd00:10:244:1::1",
            pod: "fd00:10:244:1::10",
        },
        End {
            tunnel: "fd00:10:244:3::1",
            pod: "fd00:10:244:3::10",
        },
    ],
];

const CLIENT: &str = "default/client";
const FAR: &str = "default/far";
/// Up to what fits a pod's link, and beyond: those are fragments in the tunnel.
const SIZES: [usize; 6] = [1, 1372, 1402, 1403, 2000, 3000];

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn is(address: IpAddr, expected: &str) {
    assert_eq!(address, expected.parse::<IpAddr>().expect("an address"));
}

/// The example's two nodes, and one that the kernel forwards on.
fn up(test: &str) -> Option<Lab> {
    Lab::up_with(test, &["--kernel-node", "node-k"], |state| {
        add_state(state, "kernel-node.yaml");
    })
}

/// Everything between a node of ours and one of the kernel's, `len` bytes each way over TCP.
fn exchange(lab: &Lab, len: usize) {
    for [ours, theirs] in ENDS {
        ping(lab, CLIENT, theirs.pod, 56);
        ping(lab, FAR, ours.pod, 1300);
        is(tcp(lab, CLIENT, FAR, at(theirs.pod, 9001), len), ours.pod);
        is(tcp(lab, FAR, CLIENT, at(ours.pod, 9001), len), theirs.pod);
        is(udp(lab, CLIENT, FAR, at(theirs.pod, 9002), &SIZES), ours.pod);
        is(udp(lab, FAR, CLIENT, at(ours.pod, 9002), &SIZES), theirs.pod);
        // The kernel's node itself, by its tunnel address. Its device may take more than our pods' links, which it is told.
        ping(lab, "node-k", ours.pod, 56);
        learns_mtu(lab, "node-k", ours.pod);
        is(tcp(lab, "node-k", CLIENT, at(ours.pod, 9003), len), theirs.tunnel);
        is(
            udp(lab, "node-k", CLIENT, at(ours.pod, 9004), &SIZES),
            theirs.tunnel,
        );
        // And our node's host, by ours.
        ping(lab, "node-a", theirs.pod, 56);
        is(tcp(lab, "node-a", FAR, at(theirs.pod, 9003), len), ours.tunnel);
        // A pod to the tunnel address of the kernel's node.
        ping(lab, CLIENT, theirs.tunnel, 56);
        is(tcp(lab, CLIENT, "node-k", at(theirs.tunnel, 9005), len), ours.pod);
    }
}

/// A packet larger than the pod's link, not to be fragmented, is answered through the tunnel; the kernel then knows.
fn learns_mtu(lab: &Lab, from: &str, to: &str) {
    let headers = if to.contains(':') { 48 } else { 28 };
    let size = (1431 - headers).to_string();
    wait::until("the path's MTU to be known", PATIENCE, || {
        let output = exec(
            lab,
            from,
            "ping",
            &["-n", "-c", "1", "-W", "1", "-M", "do", "-s", &size, to],
        );
        let said = text(&output);
        ["mtu = 1430", "mtu=1430", "mtu: 1430"]
            .iter()
            .any(|mtu| said.contains(mtu))
    });
}

#[test]
fn a_kernel_vxlan_device_with_static_entries_is_the_other_end() {
    let Some(lab) = up("kernel-static") else {
        return;
    };
    exchange(&lab, 4 << 20);
    lab.assert_conservation();
}

#[test]
fn a_kernel_vxlan_device_in_external_mode_is_the_other_end() {
    // One device for both families has one MAC.
    let one_mac = |state: &std::path::Path| {
        add_state(state, "kernel-node.yaml");
        let path = state.join("kernel-node.yaml");
        let text = std::fs::read_to_string(&path).expect("the copy");
        std::fs::write(&path, text.replace("66:0b:0b:00:03:06", "66:0b:0b:00:03:04")).expect("the copy");
    };
    let Some(lab) = Lab::up_with("kernel-external", &["--kernel-node", "node-k"], one_mac) else {
        return;
    };
    let ip = |arguments: &str| lab.run("node-k", &format!("ip {arguments}"));
    ip("link del vxlan.v4");
    ip("link del vxlan.v6");
    // One device for all: where a packet goes, its VNI and outer address, are the route's.
    ip("link add vx.ext address 66:0b:0b:00:03:04 mtu 1430 type vxlan external dstport 4789");
    ip("link set vx.ext up");
    ip("address add 10.244.3.1/32 dev vx.ext");
    ip("address add fd00:10:244:3::1/128 dev vx.ext");
    for (node, outer4, outer6) in [
        (1, "192.0.2.11", "2001:db8:2::11"),
        (2, "192.0.2.12", "2001:db8:2::12"),
    ] {
        ip(&format!(
            "route add 10.244.{node}.0/24 encap ip id 4096 dst {outer4} via 10.244.{node}.0 dev vx.ext onlink"
        ));
        ip(&format!(
            "route add fd00:10:244:{node}::/64 encap ip6 id 4096 dst {outer6} src 2001:db8:2::13 via fd00:10:244:{node}:: dev vx.ext onlink"
        ));
        let name = if node == 1 { "node-a" } else { "node-b" };
        for (next_hop, mac) in [
            (format!("10.244.{node}.0"), vxlan_mac(name, "")),
            (format!("fd00:10:244:{node}::"), vxlan_mac(name, "-v6")),
        ] {
            ip(&format!(
                "neigh replace {next_hop} lladdr {mac} dev vx.ext nud permanent"
            ));
        }
    }
    exchange(&lab, 1 << 20);
    lab.assert_conservation();
}

/// Our VXLAN MAC as the lab tells the kernel's node; it is what Calico derives from a node's name.
fn vxlan_mac(node: &str, suffix: &str) -> String {
    use tests::cluster::{NODE_A, NODE_B};
    let node = if node == "node-a" { NODE_A } else { NODE_B };
    let mac = if suffix.is_empty() { node.vtep } else { node.vtep6 };
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn tshark_finds_nothing_to_warn_of_in_what_the_two_exchange() {
    let Some(lab) = up("kernel-clean") else {
        return;
    };
    // As on a wire: what the kernel sends is segmented and summed before it is captured.
    for target in ["node-k", FAR, CLIENT] {
        lab.run(target, "ethtool -K eth0 tx off gso off tso off gro off");
    }
    let Some(running) = Capture::start(&lab, "node-k", "eth0") else {
        return;
    };
    exchange(&lab, 100_000);
    let file = running.finish();
    capture::assert_clean(&file);
    let count = |filter: &str| capture::fields(&file, filter, &["frame.number"]).len();
    for (from, to) in [("192.0.2.11", "192.0.2.13"), ("192.0.2.13", "192.0.2.11")] {
        let tunnelled =
            format!("vxlan.vni == 4096 && udp.dstport == 4789 && ip.src == {from} && ip.dst == {to}");
        assert!(count(&tunnelled) > 100, "{tunnelled}");
    }
    for (from, to) in [
        ("2001:db8:2::11", "2001:db8:2::13"),
        ("2001:db8:2::13", "2001:db8:2::11"),
    ] {
        let tunnelled =
            format!("vxlan.vni == 4096 && udp.dstport == 4789 && ipv6.src == {from} && ipv6.dst == {to}");
        assert!(count(&tunnelled) > 100, "{tunnelled}");
    }
    // Nothing of a pod goes past the tunnel, but what it sends to a node's own address.
    assert_eq!(count("!vxlan && ip.src == 10.244.0.0/16"), 0);
    assert_eq!(count("!vxlan && ipv6.src == fd00:10:244::/48"), 0);
    // One flow keeps its outer port: the underlay can spread flows, and keeps each in order.
    let ports = capture::fields(
        &file,
        "vxlan && ip.src == 10.244.1.10 && tcp.dstport == 9001",
        &["udp.srcport"],
    );
    assert!(
        ports.len() > 10 && ports.iter().all(|port| *port == ports[0]),
        "{ports:?}"
    );
    lab.assert_conservation();
}
