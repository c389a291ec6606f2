//! `ringway replay`: verdict lines, exact to the byte, and the frames that they name.

mod replay_support;

use replay_support::*;
use serde_json::json;

#[test]
fn a_connection_through_a_service_is_told_whole() {
    let case = Case::new();
    let replayed = case.replay_packets(&[
        (
            "pod:default/client",
            s(1),
            tcp([CLIENT, GATEWAY], "10.244.1.6:4000", "10.96.0.10:80", Tcp::Syn),
        ),
        (
            "pod:default/web",
            s(2),
            tcp([WEB, GATEWAY], "10.244.1.5:8080", "10.244.1.6:4000", Tcp::SynAck),
        ),
    ]);
    let policy = "\"policy\":{\"group\":\"networking.k8s.io\",\"kind\":\"NetworkPolicy\",\"namespace\":\"default\",\
                  \"name\":\"web\",\"direction\":\"ingress\",\"rule\":0}";
    let flow = "\"orig\":\"tcp 10.244.1.6:4000 > 10.96.0.10:80\",\"reply\":\"tcp 10.244.1.5:8080 > 10.244.1.6:4000\"";
    let expected = format!(
        "{{\"n\":1,\"ts\":{},\"port\":\"pod:default/client\",\"verdict\":\"tx\",\
         \"out\":[{{\"port\":\"pod:default/web\",\"frame\":1}}],{policy},\"service\":\"default/api:http\",\
         \"flow\":{{\"new\":true,{flow}}}}}\n\
         {{\"n\":2,\"ts\":{},\"port\":\"pod:default/web\",\"verdict\":\"tx\",\
         \"out\":[{{\"port\":\"pod:default/client\",\"frame\":2}}],{policy},\"service\":\"default/api:http\",\
         \"flow\":{{\"new\":false,{flow}}}}}\n",
        s(1),
        s(2)
    );
    assert_eq!(replayed.text, expected);

    let [(to, at, syn), (back, _, answer)] = replayed.frames.as_slice() else {
        panic!("two frames, not {}", replayed.frames.len());
    };
    assert_eq!(
        (to.as_str(), *at, back.as_str()),
        ("pod:default/web", s(1), "pod:default/client")
    );
    assert_eq!(addresses(syn), ("10.244.1.6".to_owned(), "10.244.1.5".to_owned()));
    assert_eq!(
        addresses(answer),
        ("10.96.0.10".to_owned(), "10.244.1.6".to_owned())
    );
    assert_eq!(syn[..12], [WEB, GATEWAY].concat());
    assert_eq!(
        interfaces(&case.path("out.pcapng")),
        [
            "uplink",
            "host",
            "pod:default/client",
            "pod:default/lonely",
            "pod:default/web"
        ]
    );
}

#[test]
fn the_same_in_ipv6() {
    let case = Case::new();
    let replayed = case.replay_packets(&[
        (
            "pod:default/client",
            s(1),
            tcp(
                [CLIENT, GATEWAY],
                "[fd00:244:1::6]:4000",
                "[fd00:96::10]:80",
                Tcp::Syn,
            ),
        ),
        (
            "pod:default/web",
            s(2),
            tcp(
                [WEB, GATEWAY],
                "[fd00:244:1::5]:8080",
                "[fd00:244:1::6]:4000",
                Tcp::SynAck,
            ),
        ),
    ]);
    assert_eq!(replayed.verdicts(), ["tx", "tx"], "{}", replayed.text);
    for (line, new) in replayed.lines.iter().zip([true, false]) {
        assert_eq!(line["service"], "default/api:http");
        assert_eq!(
            line["flow"],
            json!({
                "new": new,
                "orig": "tcp [fd00:244:1::6]:4000 > [fd00:96::10]:80",
                "reply": "tcp [fd00:244:1::5]:8080 > [fd00:244:1::6]:4000"
            })
        );
    }
    assert_eq!(
        addresses(&replayed.frames[1].2),
        ("fd00:96::10".to_owned(), "fd00:244:1::6".to_owned())
    );
}

#[test]
fn a_default_deny_names_its_policy() {
    let case = Case::new();
    let replayed = case.replay_packets(&[
        (
            "pod:default/lonely",
            s(1),
            tcp([LONELY, GATEWAY], "10.244.1.7:4000", "10.244.1.5:8080", Tcp::Syn),
        ),
        (
            "pod:default/lonely",
            s(2),
            tcp(
                [LONELY, GATEWAY],
                "[fd00:244:1::7]:4000",
                "[fd00:96::10]:80",
                Tcp::Syn,
            ),
        ),
    ]);
    assert_eq!(
        replayed.verdicts(),
        ["drop policy-denied"; 2],
        "{}",
        replayed.text
    );
    for line in &replayed.lines {
        let expected = json!({
            "group": "networking.k8s.io", "kind": "NetworkPolicy", "namespace": "default", "name": "web",
            "direction": "ingress", "default": true
        });
        assert_eq!(line["policy"], expected);
        assert_eq!(line.get("out"), None);
    }
    assert!(replayed.frames.is_empty());
}

#[test]
fn what_is_for_the_node_is_punted_unchanged() {
    let case = Case::new();
    let v4 = udp([NODE_B, NODE_A], "192.0.2.12:5000", "192.0.2.11:22", b"x");
    let v6 = udp([NODE_B, NODE_A], "[2001:db8::12]:5000", "[2001:db8::11]:22", b"x");
    let replayed = case.replay_packets(&[("uplink", s(1), v4.clone()), ("uplink", s(2), v6.clone())]);
    assert_eq!(replayed.verdicts(), ["punt to-host"; 2], "{}", replayed.text);
    assert_eq!(replayed.lines[0]["out"], json!([{"port": "host", "frame": 1}]));
    assert_eq!(
        replayed.frames,
        [("host".to_owned(), s(1), v4), ("host".to_owned(), s(2), v6)]
    );
    assert_eq!(replayed.report["punts"], json!({"to-host": 2}));
}

#[test]
fn an_answer_is_what_the_question_became() {
    let case = Case::new();
    let arp = {
        let mut frame = [[0xff; 6], CLIENT].concat();
        frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend(CLIENT);
        frame.extend([10, 244, 1, 6]);
        frame.extend([0; 6]);
        frame.extend([169, 254, 1, 1]);
        frame
    };
    let replayed = case.replay_packets(&[("pod:default/client", s(1), arp)]);
    assert_eq!(
        replayed.text,
        format!(
            "{{\"n\":1,\"ts\":{},\"port\":\"pod:default/client\",\"verdict\":\"tx\",\
             \"out\":[{{\"port\":\"pod:default/client\",\"frame\":1}}]}}\n",
            s(1)
        )
    );
    assert_eq!(
        replayed.frames[0].2[20..28],
        [0, 2, 0xee, 0xee, 0xee, 0xee, 0xee, 0xee]
    );
    assert_eq!(replayed.report["conservation"]["generated"], 0);
}

#[test]
fn a_refusal_is_a_drop_whose_answer_is_generated() {
    let case = Case::new();
    let mut v4 = udp([CLIENT, GATEWAY], "10.244.1.6:4000", "10.244.1.7:9", b"x");
    (v4[22], v4[24]) = (1, v4[24] + 63); // TTL 1, and the header's checksum with it
    let mut v6 = udp(
        [CLIENT, GATEWAY],
        "[fd00:244:1::6]:4000",
        "[fd00:244:1::7]:9",
        b"x",
    );
    v6[21] = 1;
    let replayed = case.replay_packets(&[("pod:default/client", s(1), v4), ("pod:default/client", s(2), v6)]);
    assert_eq!(replayed.verdicts(), ["drop ttl-exceeded"; 2], "{}", replayed.text);
    for (line, frame) in replayed.lines.iter().zip(1..) {
        assert_eq!(
            line["out"],
            json!([{"port": "pod:default/client", "frame": frame}])
        );
    }
    assert_eq!(replayed.report["conservation"]["generated"], 2);
    assert_eq!(addresses(&replayed.frames[0].2).0, "192.0.2.11");
    assert_eq!(addresses(&replayed.frames[1].2).0, "2001:db8::11");
}

#[test]
fn pings_show_their_identifier() {
    let case = Case::new();
    let replayed = case.replay_packets(&[
        (
            "pod:default/client",
            s(1),
            ping([CLIENT, GATEWAY], "10.244.1.6", "10.244.1.7", 7),
        ),
        (
            "pod:default/client",
            s(2),
            ping([CLIENT, GATEWAY], "fd00:244:1::6", "fd00:244:1::7", 8),
        ),
    ]);
    assert_eq!(replayed.verdicts(), ["tx"; 2], "{}", replayed.text);
    assert_eq!(
        replayed.lines[0]["flow"]["orig"],
        "icmp 10.244.1.6 > 10.244.1.7 id 7"
    );
    assert_eq!(
        replayed.lines[0]["flow"]["reply"],
        "icmp 10.244.1.7 > 10.244.1.6 id 7"
    );
    assert_eq!(
        replayed.lines[1]["flow"]["orig"],
        "icmp fd00:244:1::6 > fd00:244:1::7 id 8"
    );
}

#[test]
fn the_underlay_is_the_nodes_and_a_gateway() {
    let case = Case::new();
    let replayed = case.replay_packets(&[
        (
            "pod:default/client",
            s(1),
            udp([CLIENT, GATEWAY], "10.244.1.6:4000", "10.244.2.9:9", b"x"),
        ),
        (
            "pod:default/client",
            s(2),
            udp(
                [CLIENT, GATEWAY],
                "[fd00:244:1::6]:4000",
                "[fd00:244:2::9]:9",
                b"x",
            ),
        ),
        (
            "pod:default/client",
            s(3),
            udp([CLIENT, GATEWAY], "10.244.1.6:4000", "198.51.100.1:9", b"x"),
        ),
        (
            "pod:default/client",
            s(4),
            udp(
                [CLIENT, GATEWAY],
                "[fd00:244:1::6]:4000",
                "[2001:db8:9::1]:9",
                b"x",
            ),
        ),
    ]);
    assert_eq!(replayed.verdicts(), ["tx"; 4], "{}", replayed.text);
    let gateway = [0x02, 0xfe, 0, 0, 0, 1];
    for ((port, _, frame), (mac, src, dst)) in replayed.frames.iter().zip([
        (NODE_B, "192.0.2.11", "192.0.2.12"),
        (NODE_B, "2001:db8::11", "2001:db8::12"),
        (gateway, "192.0.2.11", "198.51.100.1"),
        (gateway, "2001:db8::11", "2001:db8:9::1"),
    ]) {
        assert_eq!(port, "uplink");
        assert_eq!(frame[..12], [mac, NODE_A].concat());
        assert_eq!(addresses(frame), (src.to_owned(), dst.to_owned()));
    }
}

#[test]
fn fragments_wait_for_their_first_and_their_lines_come_in_order() {
    let case = Case::new();
    let macs = [CLIENT, GATEWAY];
    let v4 = fragments_v4(macs, "10.244.1.6:4000", "10.244.1.7:9", 77, &[7; 100], 48);
    let v6 = fragments_v6(
        macs,
        "[fd00:244:1::6]:4000",
        "[fd00:244:1::7]:9",
        78,
        &[7; 100],
        48,
    );
    for parts in [v4, v6] {
        let [first, second, third] = parts.as_slice() else {
            panic!("three parts, not {}", parts.len());
        };
        let replayed = case.replay_packets(&[
            ("pod:default/client", s(1), third.clone()),
            (
                "pod:default/client",
                s(2),
                ping(macs, "10.244.1.6", "10.244.1.7", 7),
            ),
            ("pod:default/client", s(3), second.clone()),
            ("pod:default/client", s(4), first.clone()),
        ]);
        assert_eq!(replayed.verdicts(), ["tx"; 4], "{}", replayed.text);
        let frames: Vec<_> = replayed
            .lines
            .iter()
            .map(|line| line["out"][0]["frame"].as_u64().unwrap())
            .collect();
        // The ping leaves at once; then the first fragment, then those that waited, as they came.
        assert_eq!(frames, [3, 1, 4, 2]);
        let stamps: Vec<_> = replayed.frames.iter().map(|(_, at, _)| *at).collect();
        assert_eq!(stamps, [s(2), s(4), s(4), s(4)]);
        let n: Vec<_> = replayed
            .lines
            .iter()
            .map(|line| line["n"].as_u64().unwrap())
            .collect();
        assert_eq!(n, [1, 2, 3, 4]);
        assert_eq!(replayed.report["conservation"]["held"], 0);
        assert_eq!(replayed.report["conservation"]["ok"], true);
    }
}

#[test]
fn a_fragment_whose_first_never_comes_times_out_in_replayed_time() {
    let case = Case::new();
    let macs = [CLIENT, GATEWAY];
    let parts = fragments_v4(macs, "10.244.1.6:4000", "10.244.1.7:9", 77, &[7; 100], 48);
    // At 30 s it is given up: the first one comes too late for the second, in time for the third.
    let late = case.replay_packets(&[
        ("pod:default/client", s(1), parts[1].clone()),
        ("pod:default/client", s(31), parts[0].clone()),
        ("pod:default/client", s(32), parts[2].clone()),
    ]);
    assert_eq!(
        late.verdicts(),
        ["drop fragment-timeout", "tx", "tx"],
        "{}",
        late.text
    );
    let early = case.replay_packets(&[
        ("pod:default/client", s(1), parts[1].clone()),
        ("pod:default/client", s(31) - 1, parts[0].clone()),
    ]);
    assert_eq!(early.verdicts(), ["tx", "tx"], "{}", early.text);
    // At the end of the input the clock runs on.
    let end = case.replay_packets(&[("pod:default/client", s(1), parts[1].clone())]);
    assert_eq!(end.verdicts(), ["drop fragment-timeout"]);
    assert_eq!(end.report["conservation"]["held"], 0);
    assert_eq!(end.report["drops"], json!({"fragment-timeout": 1}));
}

#[test]
fn any_bytes_have_a_verdict() {
    let case = Case::new();
    let mut packets: Vec<(&str, u64, Vec<u8>)> = Vec::new();
    let whole = tcp([CLIENT, GATEWAY], "10.244.1.6:4000", "10.96.0.10:80", Tcp::Syn);
    for (at, len) in (0..=whole.len()).enumerate() {
        packets.push(("pod:default/client", s(1) + at as u64, whole[..len].to_vec()));
        packets.push(("uplink", s(1) + at as u64, whole[..len].to_vec()));
        packets.push(("host", s(1) + at as u64, vec![at as u8; len]));
    }
    packets.push(("pod:default/client", s(2), [whole, vec![0; 200_000]].concat()));
    let replayed = case.replay_packets(&packets);
    assert_eq!(replayed.lines.len(), packets.len());
    assert_eq!(replayed.report["conservation"]["ok"], true);
    assert_eq!(replayed.report["conservation"]["rx"], packets.len());
}
