//! What a cluster needs of address translation, by real sockets: to the outside, to oneself by a Service, beside the host.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tests::interop::capture::{self, Capture};
use tests::interop::exchange::{PATIENCE, pattern, ping, tcp, udp, udp_learning};
use tests::interop::{annotate_nodes, exec, text};
use tests::live::Lab;

const CLIENT: &str = "default/client";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn ip(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

#[test]
fn the_host_and_a_pod_ping_one_target_with_one_identifier_at_once() {
    let Some(lab) = Lab::up("pings") else {
        return;
    };
    // `-e` sets the identifier: behind the masquerade both would look alike.
    let arguments = |to| ["-n", "-c", "20", "-i", "0.1", "-W", "5", "-e", "4711", to];
    for to in ["203.0.113.10", "2001:db8:113::10"] {
        let arguments = arguments(to);
        let outputs = thread::scope(|scope| {
            let pings = ["node-a", CLIENT].map(|from| {
                let lab = &lab;
                scope.spawn(move || (from, exec(lab, from, "ping", &arguments)))
            });
            pings.map(|ping| ping.join().expect("ping runs"))
        });
        for (from, output) in outputs {
            let said = text(&output);
            assert!(
                said.contains("20 received") && !said.contains("DUP"),
                "{from} pings {to}: {said}"
            );
        }
    }
    lab.assert_conservation();
}

#[test]
fn datagrams_larger_than_the_link_go_to_the_outside_and_back() {
    let Some(lab) = Lab::up("large") else {
        return;
    };
    let sizes = [1, 1402, 1403, 1472, 1473, 3000, 8000];
    let seen = udp_learning(&lab, CLIENT, "outside", at("203.0.113.10", 9201), &sizes);
    assert_eq!(seen, ip("192.0.2.11"), "masqueraded");
    let seen = udp_learning(&lab, CLIENT, "outside", at("2001:db8:113::10", 9201), &sizes);
    assert_eq!(seen, ip("2001:db8:2::11"), "masqueraded");
    let seen = tcp(&lab, CLIENT, "outside", at("203.0.113.10", 9202), 4 << 20);
    assert_eq!(seen, ip("192.0.2.11"));
    let seen = tcp(&lab, CLIENT, "outside", at("2001:db8:113::10", 9202), 4 << 20);
    assert_eq!(seen, ip("2001:db8:2::11"));
    ping(&lab, CLIENT, "203.0.113.10", 2900);
    ping(&lab, CLIENT, "2001:db8:113::10", 2900);
    lab.assert_conservation();
}

/// Serves one connection on each listener that gets one: the bytes come back as they were sent, and who sent them.
fn serve(listener: &TcpListener, until: &AtomicBool) -> Option<IpAddr> {
    listener.set_nonblocking(true).expect("nonblocking");
    let mut peer = None;
    // Relaxed: nothing else hangs on it.
    while !until.load(Ordering::Relaxed) {
        if let Ok((mut stream, from)) = listener.accept() {
            stream.set_nonblocking(false).expect("blocking");
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).expect("the client's bytes");
            stream.write_all(&bytes).expect("bytes back");
            peer = Some(from.ip().to_canonical());
        }
        thread::sleep(Duration::from_millis(1));
    }
    peer
}

#[test]
fn a_pod_reaches_itself_and_others_by_its_own_service() {
    let Some(lab) = Lab::up("hairpin") else {
        return;
    };
    for (vip, node, pods) in [
        (
            "10.96.0.10",
            "192.0.2.11",
            ["10.244.1.11", "10.244.2.10", "10.244.2.11"],
        ),
        (
            "fd00:10:96::10",
            "2001:db8:2::11",
            ["fd00:10:244:1::11", "fd00:10:244:2::10", "fd00:10:244:2::11"],
        ),
    ] {
        let servers = ["default/api-0", "default/api-1", "default/api-2"];
        let listeners = [0, 1, 2].map(|index| {
            lab.within(servers[index], || TcpListener::bind(at(pods[index], 8080)))
                .expect("a listener")
        });
        let done = AtomicBool::new(false);
        let (done, sent) = (&done, pattern(200_000, 7));
        let seen = thread::scope(|scope| {
            let serving = [0, 1, 2].map(|index| {
                let listener = &listeners[index];
                scope.spawn(move || serve(listener, done))
            });
            // Enough that each of the three is chosen: (2/3)^60 is none in ten thousand million.
            for _ in 0..60 {
                let echoed = lab.within("default/api-0", || -> std::io::Result<Vec<u8>> {
                    let mut stream = TcpStream::connect_timeout(&at(vip, 80), PATIENCE)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.write_all(&sent)?;
                    stream.shutdown(Shutdown::Write)?;
                    let mut echoed = Vec::new();
                    stream.read_to_end(&mut echoed)?;
                    Ok(echoed)
                });
                assert!(echoed.expect("a backend") == sent, "by {vip}");
            }
            done.store(true, Ordering::Relaxed);
            serving.map(|serving| serving.join().expect("a server"))
        });
        // Itself it sees as the node: else it would answer itself directly, with its own address.
        assert_eq!(seen, [Some(ip(node)), Some(ip(pods[0])), Some(ip(pods[0]))]);
    }
    lab.assert_conservation();
}

#[test]
fn offloads_of_pods_are_on_and_do_not_matter() {
    let Some(lab) = Lab::up("offloads") else {
        return;
    };
    for (pod, near, far) in [
        ("default/api-0", "10.244.1.11", "10.244.2.10"),
        ("default/api-0", "fd00:10:244:1::11", "fd00:10:244:2::10"),
    ] {
        let features = lab.run(pod, "ethtool -k eth0");
        assert!(features.contains("tx-checksumming: on"), "{features}");
        let api = lab.run("default/api-1", "ethtool -k eth0");
        assert!(api.contains("tx-checksumming: on"), "{api}");
        // On the node, across nodes both ways, and outside.
        tcp(&lab, CLIENT, pod, at(near, 9301), 8 << 20);
        tcp(&lab, CLIENT, "default/api-1", at(far, 9302), 8 << 20);
        tcp(
            &lab,
            "default/api-1",
            CLIENT,
            at(
                if near.contains(':') {
                    "fd00:10:244:1::10"
                } else {
                    "10.244.1.10"
                },
                9303,
            ),
            8 << 20,
        );
    }
    lab.assert_conservation();
}

#[test]
fn an_underlay_of_9000_carries_pods_of_8930() {
    let jumbo =
        |state: &std::path::Path| annotate_nodes(state, |_| "ringway.io/uplink-mtu: \"9000\"".to_owned());
    let Some(lab) = Lab::up_with("jumbo", &[], jumbo) else {
        return;
    };
    let link = lab.run(CLIENT, "ip -o link show eth0");
    assert!(link.contains(" mtu 8930 "), "{link}");
    // Frames of AF_XDP do not pass the taps of their own interface: node-b's port of the bridge.
    let capture = Capture::start(&lab, "underlay", "node2");
    for (client, server) in [
        ("10.244.1.10", "10.244.2.10"),
        ("fd00:10:244:1::10", "fd00:10:244:2::10"),
    ] {
        ping(&lab, CLIENT, server, 8800);
        tcp(&lab, CLIENT, "default/api-1", at(server, 9401), 8 << 20);
        tcp(&lab, "default/api-1", CLIENT, at(client, 9402), 8 << 20);
        udp(
            &lab,
            CLIENT,
            "default/api-1",
            at(server, 9403),
            &[1400, 8000, 8880, 9500, 20000],
        );
    }
    lab.assert_conservation();
    let Some(capture) = capture else { return };
    let file = capture.finish();
    let large = capture::fields(&file, "vxlan && frame.len > 8900", &["frame.number"]);
    assert!(large.len() > 100, "{} large frames", large.len());
}

#[test]
fn the_outside_can_answer_a_masqueraded_pod_for_as_long_as_it_asks() {
    let Some(lab) = Lab::up("ports") else {
        return;
    };
    // Many sockets of two pods towards one address and port: every one has its own port in front.
    let server = lab
        .within("outside", || UdpSocket::bind("203.0.113.10:9501"))
        .expect("a socket");
    server.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut peers = std::collections::BTreeSet::new();
    for pod in [CLIENT, "default/api-0"] {
        for source in 0..50_u16 {
            // The same source ports in both pods.
            let socket = lab
                .within(pod, || UdpSocket::bind(("0.0.0.0", 20_000 + source)))
                .expect("a socket");
            socket.connect("203.0.113.10:9501").expect("a route");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let asked = format!("{pod} {source}");
            socket.send(asked.as_bytes()).expect("sent");
            let mut buffer = [0; 64];
            let (len, peer) = server.recv_from(&mut buffer).expect("a datagram");
            assert_eq!(&buffer[..len], asked.as_bytes());
            assert_eq!(peer.ip(), ip("192.0.2.11"));
            assert!(peers.insert(peer), "{peer} twice");
            server.send_to(&buffer[..len], peer).expect("sent");
            let len = socket.recv(&mut buffer).expect("the answer");
            assert_eq!(&buffer[..len], asked.as_bytes());
        }
    }
    lab.assert_conservation();
}
