//! `ringway replay`: the report's numbers, repeats, replayed time and determinism.

mod replay_support;

use std::time::Instant;

use replay_support::*;
use serde_json::json;

#[test]
fn the_report_counts_everything() {
    let case = Case::new();
    let allowed = tcp([CLIENT, GATEWAY], "10.244.1.6:4000", "10.244.1.5:8080", Tcp::Syn);
    let denied = tcp([LONELY, GATEWAY], "10.244.1.7:4000", "10.244.1.5:8080", Tcp::Syn);
    let host = udp([NODE_B, NODE_A], "192.0.2.12:5000", "192.0.2.11:22", b"x");
    let lens = [&allowed, &denied, &host].map(|frame| frame.len() as u64);
    let replayed = case.replay_packets(&[
        ("pod:default/client", s(1), allowed.clone()),
        ("pod:default/client", s(2), allowed),
        ("pod:default/lonely", s(3), denied),
        ("uplink", s(4), host),
    ]);
    let report = &replayed.report;
    assert_eq!((&report["node"], &report["seed"]), (&json!("node-a"), &json!(0)));
    assert_eq!(
        report["conservation"],
        json!({
            "rx": 4, "tx": 2, "punt": 1, "drop": 1, "held": 0, "generated": 0, "split": 0, "frames_out": 3, "ok": true
        })
    );
    assert_eq!(report["drops"], json!({"policy-denied": 1}));
    assert_eq!(report["punts"], json!({"to-host": 1}));
    let none = json!({"packets": 0, "bytes": 0});
    let some = |packets: u64, bytes: u64| json!({"packets": packets, "bytes": bytes});
    assert_eq!(
        report["ports"],
        json!({
            "uplink": {"in": some(1, lens[2]), "out": none},
            "host": {"in": none, "out": some(1, lens[2])},
            "pod:default/client": {"in": some(2, 2 * lens[0]), "out": none},
            "pod:default/lonely": {"in": some(1, lens[1]), "out": none},
            "pod:default/web": {"in": none, "out": some(2, 2 * lens[0])},
        })
    );
    assert_eq!(
        report["flows"],
        json!({"created": 1, "expired": 0, "removed": 0, "live": 1})
    );
    assert!(report["ns_per_packet"].as_f64().unwrap() > 0.0);
    assert!(report["cycles_per_packet"].as_f64().unwrap() > 0.0);
    assert_eq!(report["unknown_kinds"], json!({}));
}

#[test]
fn an_empty_capture_replays_to_nothing() {
    let case = Case::new();
    let input = case.pcap("empty.pcap", 1, &[]);
    let replayed = case.replay(&[&format!("{input}:uplink")], &[]);
    assert_eq!((replayed.text.as_str(), replayed.frames.len()), ("", 0));
    assert_eq!(replayed.report["ns_per_packet"], json!(null));
    assert_eq!(replayed.report["conservation"]["ok"], true);
}

#[test]
fn repeats_run_on() {
    let case = Case::new();
    let packet = |port: u16| {
        udp(
            [CLIENT, GATEWAY],
            &format!("10.244.1.6:{port}"),
            "10.244.1.7:9",
            b"x",
        )
    };
    let input = case.pcapng(
        "in.pcapng",
        &[
            ("pod:default/client", s(1), packet(1)),
            ("pod:default/client", s(3), packet(2)),
        ],
    );
    let replayed = case.replay(&[&input], &["--repeat", "3"]);
    let seen: Vec<_> = replayed
        .lines
        .iter()
        .map(|line| {
            let frame = line["out"][0]["frame"].as_u64().unwrap();
            (
                line["n"].as_u64().unwrap(),
                line["ts"].as_u64().unwrap(),
                frame,
                line["flow"]["new"].as_bool().unwrap(),
            )
        })
        .collect();
    // Later by the input's 2 s plus 1 µs each time.
    let expected = [
        (1, s(1), 1, true),
        (2, s(3), 2, true),
        (3, s(3) + 1_000, 3, false),
        (4, s(5) + 1_000, 4, false),
        (5, s(5) + 2_000, 5, false),
        (6, s(7) + 2_000, 6, false),
    ];
    assert_eq!(seen, expected);
    let stamps: Vec<_> = replayed.frames.iter().map(|(_, at, _)| *at).collect();
    assert_eq!(stamps, expected.map(|(_, ts, ..)| ts));
    assert_eq!(replayed.report["conservation"]["rx"], 6);
}

#[test]
fn flows_expire_in_replayed_time() {
    let case = Case::new();
    let syn = tcp([CLIENT, GATEWAY], "10.244.1.6:4000", "10.244.1.5:8080", Tcp::Syn);
    let other = udp([CLIENT, GATEWAY], "[fd00:244:1::6]:1", "[fd00:244:1::7]:9", b"x");
    let news = |seconds: u64, ns: u64| {
        let replayed = case.replay_packets(&[
            ("pod:default/client", s(1), syn.clone()),
            ("pod:default/client", s(1 + seconds) + ns, syn.clone()),
        ]);
        let news: Vec<_> = replayed
            .lines
            .iter()
            .map(|line| line["flow"]["new"].as_bool().unwrap())
            .collect();
        (news, replayed.report["flows"].clone())
    };
    // A SYN waits 20 s for its answer.
    let (seen, flows) = news(19, 999_000_000);
    assert_eq!(seen, [true, false]);
    assert_eq!(
        flows,
        json!({"created": 1, "expired": 0, "removed": 0, "live": 1})
    );
    let (seen, flows) = news(20, 0);
    assert_eq!(seen, [true, true]);
    assert_eq!(
        flows,
        json!({"created": 2, "expired": 1, "removed": 0, "live": 1})
    );
    // Longer than 32 bits of milliseconds can tell.
    let (seen, flows) = news(40 * 86_400, 0);
    assert_eq!(seen, [true, true]);
    assert_eq!(
        flows,
        json!({"created": 2, "expired": 1, "removed": 0, "live": 1})
    );
    // Also for those of which no packet comes any more.
    let replayed = case.replay_packets(&[
        ("pod:default/client", s(1), syn),
        ("pod:default/client", s(100), other),
    ]);
    assert_eq!(
        replayed.report["flows"],
        json!({"created": 2, "expired": 1, "removed": 0, "live": 1})
    );
}

#[test]
fn the_table_holds_as_many_flows_as_asked() {
    let case = Case::new();
    let packets: Vec<_> = (1..=40_u16)
        .map(|port| {
            let syn = tcp(
                [CLIENT, GATEWAY],
                &format!("10.244.1.6:{port}"),
                "10.244.1.5:8080",
                Tcp::Syn,
            );
            ("pod:default/client", s(1) + u64::from(port), syn)
        })
        .collect();
    let input = case.pcapng("in.pcapng", &packets);
    let replayed = case.replay(&[&input], &["--max-flows", "8"]);
    assert!(
        replayed.report["flows"]["live"].as_u64().unwrap() <= 8,
        "{}",
        replayed.report
    );
    assert_eq!(replayed.report["conservation"]["ok"], true);
}

#[test]
fn the_same_input_state_and_seed_give_the_same_bytes() {
    let case = Case::new();
    let mut packets = Vec::new();
    for port in 1..200_u16 {
        let at = s(1) + u64::from(port) * 1_000;
        packets.push((
            "pod:default/client",
            at,
            tcp(
                [CLIENT, GATEWAY],
                &format!("10.244.1.6:{port}"),
                "10.96.0.10:80",
                Tcp::Syn,
            ),
        ));
        // Masqueraded: a source port is chosen.
        packets.push((
            "pod:default/lonely",
            at,
            udp(
                [LONELY, GATEWAY],
                &format!("10.244.1.7:{port}"),
                "198.51.100.1:53",
                b"x",
            ),
        ));
        packets.push((
            "pod:default/lonely",
            at,
            udp(
                [LONELY, GATEWAY],
                &format!("[fd00:244:1::7]:{port}"),
                "[2001:db8:9::1]:53",
                b"x",
            ),
        ));
    }
    let input = case.pcapng("in.pcapng", &packets);
    let first = case.replay(&[&input], &["--seed", "7"]);
    let second = case.replay(&[&input], &["--seed", "7"]);
    assert_eq!(first.text, second.text);
    assert_eq!(first.out, second.out);
    let other = case.replay(&[&input], &["--seed", "8"]);
    assert_ne!(first.out, other.out, "another seed chooses other source ports");
    let untimed = |mut report: serde_json::Value| {
        for time in ["ns_per_packet", "cycles_per_packet"] {
            report[time] = json!(null);
        }
        report
    };
    assert_eq!(untimed(first.report), untimed(second.report));
}

#[test]
fn pace_follows_the_wall() {
    let case = Case::new();
    let packet = |port: u16| {
        udp(
            [CLIENT, GATEWAY],
            &format!("10.244.1.6:{port}"),
            "10.244.1.7:9",
            b"x",
        )
    };
    let input = case.pcapng(
        "in.pcapng",
        &[
            ("pod:default/client", s(1), packet(1)),
            ("pod:default/client", s(5), packet(2)),
        ],
    );
    let started = Instant::now();
    let paced = case.replay(&[&input], &["--pace", "x8"]);
    assert!(started.elapsed().as_millis() >= 500, "{:?}", started.elapsed());
    assert_eq!(paced.text, case.replay(&[&input], &["--pace", "asap"]).text);
}
