//! `ringway-fastpath` killed under traffic, and what goes on without it.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use tests::live::daemon::{kill_hard, wait_ready};
use tests::live::lab::{Lab, PATIENCE, count};
use tests::live::traffic::{Ping, Resets, UdpStream, connect, say, tcp_echo, udp_echo};
use tests::live::wait;

/// A target outside the cluster that `prober-egress` excepts.
const FORBIDDEN: &str = "203.0.113.66:9009";

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
    let excepted = lab.within("outside", || UdpSocket::bind(FORBIDDEN)).unwrap();
    excepted.set_nonblocking(true).unwrap();
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
    assert_eq!(lab.run("node-a", "sysctl -n net.ipv4.ip_forward").trim(), "1");
    let prober = lab.within("ops/prober", || UdpSocket::bind("0.0.0.0:0")).unwrap();
    // And what comes for a pod by a way that the kernel would take to it: nothing answers.
    lab.run("outside", "ip route add 10.244.1.0/24 via 192.0.2.11");
    lab.run(
        "node-a",
        &format!(
            "ip route add 10.244.1.10/32 dev {}",
            lab.interface("default/client")
        ),
    );
    let stranger = lab
        .within("outside", || UdpSocket::bind("203.0.113.10:0"))
        .unwrap();
    let pod = lab
        .within("default/client", || UdpSocket::bind("0.0.0.0:7007"))
        .unwrap();
    pod.set_nonblocking(true).unwrap();
    // Longer than the fuse, by the host's own echoes.
    wait::until("two seconds of the host's echoes", PATIENCE, || {
        prober.send_to(b"through?", FORBIDDEN).unwrap();
        stranger.send_to(b"through?", "10.244.1.10:7007").unwrap();
        ping.answered() > before.0 + 40 && ping_v6.answered() > before.1 + 40
    });
    assert!(excepted.recv(&mut [0; 64]).is_err(), "a pod got past policy");
    assert!(pod.recv(&mut [0; 64]).is_err(), "the kernel forwarded to a pod");
    for stream in &host_streams {
        say(stream, 1).unwrap_or_else(|e| panic!("{:?} of the host: {e}", stream.local_addr()));
    }
    // While it is down, everybody talks into the void: what they say must be heard in the end.
    for stream in &streams {
        std::io::Write::write_all(&mut &*stream, &2_u64.to_be_bytes()).unwrap();
    }
    lab.run(
        "node-a",
        &format!(
            "ip route del 10.244.1.10/32 dev {}",
            lab.interface("default/client")
        ),
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
    prober.send_to(b"through?", FORBIDDEN).unwrap();
    wait::until("the policy's drop", PATIENCE, || {
        count(&lab.status("node-a"), "drops", "policy-denied") > 0
    });
    assert!(excepted.recv(&mut [0; 64]).is_err(), "a pod got past policy");
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
