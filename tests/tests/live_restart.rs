//! `ringway-fastpath` killed under traffic, and what goes on without it.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use tests::live::daemon::{kill_hard, wait_ready};
use tests::live::lab::{Lab, PATIENCE, count};
use tests::live::traffic::{Ping, Resets, UdpStream, connect, say, tcp_echo, udp_echo};
use tests::live::wait;

/// Targets outside the cluster that `prober-egress` excepts, one of each family.
const FORBIDDEN: [&str; 2] = ["203.0.113.66:9009", "[2001:db8:113::66]:9009"];
/// Where `client` listens to see whether anything comes.
const POD: [&str; 2] = ["10.244.1.10:7007", "[fd00:10:244:1::10]:7007"];

/// A socket in `place` that hears without waiting.
fn socket(lab: &Lab, place: &str, address: &str) -> UdpSocket {
    let socket = lab
        .within(place, || UdpSocket::bind(address))
        .unwrap_or_else(|error| panic!("{place} {address}: {error}"));
    socket.set_nonblocking(true).unwrap();
    socket
}

/// The kernel of node-a is given a way to the pod, neighbour and all; the underlay sends it what is for the pod.
fn kernel_way_to_pod(lab: &Lab) {
    let device = lab.interface("default/client");
    // Fastpath keeps the kernel's IPv6 off pods' links; with it, nothing but the uplink's program is in the way.
    lab.run(
        "node-a",
        &format!("sysctl -qw net.ipv6.conf.{device}.disable_ipv6=0"),
    );
    for (address, block, node) in [
        ("10.244.1.10", "10.244.1.0/24", "192.0.2.11"),
        ("fd00:10:244:1::10", "fd00:10:244:1::/64", "2001:db8:2::11"),
    ] {
        lab.run("outside", &format!("ip route add {block} via {node}"));
        lab.run("node-a", &format!("ip route add {address} dev {device}"));
        let neighbour =
            format!("ip neigh replace {address} lladdr 02:01:0a:f4:01:0a dev {device} nud permanent");
        lab.run("node-a", &neighbour);
    }
}

/// The host is not cut off, established connections go on without a reset, and nobody gets past policy meanwhile.
#[test]
fn fastpath_is_killed_and_connections_go_on() {
    let Some(lab) = Lab::up("kill") else { return };
    tcp_echo(&lab, "outside", "203.0.113.10:9000");
    tcp_echo(&lab, "outside", "[2001:db8:113::10]:9000");
    for (pod, v4, v6) in [
        ("default/api-0", "10.244.1.11", "fd00:10:244:1::11"),
        ("default/api-1", "10.244.2.10", "fd00:10:244:2::10"),
        ("default/api-2", "10.244.2.11", "fd00:10:244:2::11"),
    ] {
        tcp_echo(&lab, pod, &format!("{v4}:8080"));
        tcp_echo(&lab, pod, &format!("[{v6}]:8080"));
    }
    let excepted = FORBIDDEN.map(|address| socket(&lab, "outside", address));
    let resets = [
        Resets::watch(&lab, "default/client"),
        Resets::watch(&lab, "outside"),
    ];

    // Masqueraded ones, and ones through the Service, both families; enough of these to meet every backend.
    let mut targets = vec!["203.0.113.10:9000", "[2001:db8:113::10]:9000"];
    targets.extend([["10.96.0.10:80", "[fd00:10:96::10]:80"]; 6].concat());
    let streams: Vec<_> = targets
        .iter()
        .map(|target| connect(&lab, "default/client", target))
        .collect();
    streams.iter().for_each(|stream| say(stream, 1).unwrap());
    // The host's own, so many that a kernel that gave them ports of masquerade would give one to some.
    let host_streams: Vec<_> = ["203.0.113.10:9000", "[2001:db8:113::10]:9000"]
        .repeat(12)
        .into_iter()
        .map(|target| connect(&lab, "node-a", target))
        .collect();
    let ping = Ping::start(&lab, "node-a", "192.0.2.1");
    let ping_v6 = Ping::start(&lab, "node-a", "2001:db8:2::1");
    wait::until("the host's first echoes", PATIENCE, || {
        ping.answered() > 10 && ping_v6.answered() > 10
    });

    let killed = kill_hard(
        "node-a/ringway-fastpath",
        lab.first_pid("node-a/ringway-fastpath"),
    );
    let before = (ping.answered(), ping_v6.answered());
    // What a pod sends now goes nowhere, though the node's kernel forwards and knows a way.
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        assert_eq!(
            lab.run("node-a", &format!("sysctl -n {key}")).trim(),
            "1",
            "{key}"
        );
    }
    // The pod needs not ask for its gateway, which nobody answers now: what it sends leaves it.
    for gateway in ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"] {
        let neighbour = format!("ip neigh replace {gateway} lladdr ee:ee:ee:ee:ee:ee dev eth0 nud permanent");
        lab.run("ops/prober", &neighbour);
    }
    let probers = ["0.0.0.0:0", "[::]:0"].map(|any| socket(&lab, "ops/prober", any));
    // And what comes for a pod by a way that the kernel would take to it: nothing arrives.
    kernel_way_to_pod(&lab);
    let strangers = ["203.0.113.10:0", "[2001:db8:113::10]:0"].map(|own| socket(&lab, "outside", own));
    let pods = POD.map(|address| socket(&lab, "default/client", address));
    // Longer than the fuse, by the host's own echoes.
    wait::until("two seconds of the host's echoes", PATIENCE, || {
        for (prober, to) in probers.iter().zip(FORBIDDEN) {
            prober.send_to(b"through?", to).unwrap();
        }
        for (stranger, to) in strangers.iter().zip(POD) {
            stranger.send_to(b"through?", to).unwrap();
        }
        ping.answered() > before.0 + 40 && ping_v6.answered() > before.1 + 40
    });
    let silent = |sockets: &[UdpSocket; 2], what: &str| {
        for socket in sockets {
            let heard = socket.recv_from(&mut [0; 64]);
            assert!(
                heard.is_err(),
                "{what}: {:?} heard {heard:?}",
                socket.local_addr()
            );
        }
    };
    silent(&excepted, "a pod got past policy");
    silent(&pods, "the kernel forwarded to a pod");
    for stream in &host_streams {
        say(stream, 1).unwrap_or_else(|e| panic!("{:?} of the host: {e}", stream.local_addr()));
    }
    // While it is down, everybody talks into the void: what they say must be heard in the end.
    for stream in &streams {
        std::io::Write::write_all(&mut &*stream, &2_u64.to_be_bytes()).unwrap();
    }
    for address in ["10.244.1.10", "fd00:10:244:1::10"] {
        let device = lab.interface("default/client");
        lab.run("node-a", &format!("ip route del {address} dev {device}"));
        lab.run("node-a", &format!("ip neigh del {address} dev {device}"));
    }
    let device = lab.interface("default/client");
    lab.run(
        "node-a",
        &format!("sysctl -qw net.ipv6.conf.{device}.disable_ipv6=1"),
    );

    let restarted = Instant::now();
    let _successor = killed.start_again(&lab);
    wait_ready(&lab, "node-a");
    println!("ready again {:?} after the start", restarted.elapsed());
    let status = lab.status("node-a");
    for (at, family, connections) in [(0, "v4", 7), (1, "v6", 7)] {
        let table = &status["flow_tables"][at];
        assert_eq!(table["family"], family);
        assert!(table["adopted"].as_u64() >= Some(connections), "{table}");
    }
    assert!(
        count(&status, "steering", "dropped-no-worker") > 0,
        "{}",
        status["steering"]
    );
    for (stream, target) in streams.iter().zip(&targets) {
        let mut answer = [0; 8];
        std::io::Read::read_exact(&mut &*stream, &mut answer).unwrap_or_else(|e| panic!("{target}: {e}"));
        assert_eq!(answer, 2_u64.to_be_bytes(), "{target}");
        say(stream, 3).unwrap_or_else(|e| panic!("{target}: {e}"));
    }
    println!(
        "every connection goes on {:?} after the start",
        restarted.elapsed()
    );
    // Replies of the excepted target never came, and policy is in force again.
    for (sent, (prober, to)) in (1..).zip(probers.iter().zip(FORBIDDEN)) {
        prober.send_to(b"through?", to).unwrap();
        wait::until("the policy's drop", PATIENCE, || {
            count(&lab.status("node-a"), "drops", "policy-denied") >= sent
        });
    }
    silent(&excepted, "a pod got past policy");
    assert_eq!(ping.stop(), [0; 0], "the host lost echoes");
    assert_eq!(ping_v6.stop(), [0; 0], "the host lost echoes");
    for resets in resets {
        assert_eq!(resets.seen(), [""; 0]);
    }
    drop(streams);
    lab.assert_conservation();
}

/// Control is no part of the packets' way: killed and started again, it costs none, and decides nothing anew.
#[test]
fn control_is_killed_and_no_packet_is_lost() {
    let Some(lab) = Lab::up("ctl") else { return };
    udp_echo(&lab, "default/api-1", "10.244.2.10:8081");
    udp_echo(&lab, "default/api-1", "[fd00:10:244:2::10]:8081");
    let pace = Duration::from_millis(5);
    let streams = ["10.244.2.10:8081", "[fd00:10:244:2::10]:8081"]
        .map(|to| UdpStream::start(&lab, "default/client", to, pace));
    let tx = |lab: &Lab| lab.status("node-a")["conservation"]["tx"].as_u64().unwrap();
    let flows = |lab: &Lab| -> Vec<u64> {
        let status = lab.status("node-a");
        let tables = status["flow_tables"].as_array().unwrap();
        tables.iter().map(|t| t["created"].as_u64().unwrap()).collect()
    };
    wait::until("traffic", PATIENCE, || tx(&lab) > 100);
    let created = flows(&lab);
    let killed = kill_hard("node-a/ringway-control", lab.first_pid("node-a/ringway-control"));
    wait::until("fastpath to notice", PATIENCE, || {
        lab.status("node-a")["control_connected"] == false
    });
    let without = tx(&lab);
    wait::until("traffic without control", PATIENCE, || tx(&lab) > without + 200);
    assert!(
        lab.ringway(&[
            "status",
            "--socket",
            lab.file("node-a", "status.sock").to_str().unwrap()
        ])
        .stdout
        .len()
            > 100
    );
    let version = lab.status("node-a")["version"].as_u64().unwrap();
    let successor = killed.start_again(&lab);
    wait::until("the state sent again", PATIENCE, || {
        let status = lab.status("node-a");
        status["control_connected"] == true
            && successor.said().contains("applied version=")
            && status["version"].as_u64().unwrap() >= version
    });
    let with = tx(&lab);
    wait::until("traffic with the new control", PATIENCE, || tx(&lab) > with + 200);
    assert_eq!(flows(&lab), created, "connections were made anew");
    let status = lab.status("node-a");
    let ports = status["ports"].as_array().unwrap();
    assert!(ports.iter().all(|port| port["live"] == true), "{ports:?}");
    for stream in streams {
        let heard = stream.stop();
        println!("{} datagrams, {} echoes", heard.sent.len(), heard.echoes.len());
        assert_eq!(heard.lost(), [0; 0], "of {} datagrams", heard.sent.len());
        assert_eq!(heard.echoes.len(), heard.sent.len(), "an echo came twice");
    }
    lab.assert_conservation();
}
