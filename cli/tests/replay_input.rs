//! `ringway replay`: what is taken, in which order, and what is refused with one line and code 2.

#![allow(
    clippy::unwrap_used,
    reason = "a test's own hands: what fails here fails the test"
)]

mod replay_support;

use std::fs;

use replay_support::*;

fn hello(port: u16) -> Vec<u8> {
    udp(
        [CLIENT, GATEWAY],
        &format!("10.244.1.6:{port}"),
        "10.244.1.7:9",
        b"x",
    )
}

/// Replays with `arguments` added to those that are needed, and gives the line it ends with.
fn refused(case: &Case, arguments: &[&str]) -> String {
    let before = case.files();
    let output = case.run(arguments);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
    assert_eq!(case.files(), before, "{arguments:?} left a file");
    stderr
}

fn refused_input(case: &Case, input: &str) -> String {
    let line = refused(
        case,
        &[
            "--state",
            "state.yaml",
            "--node",
            "node-a",
            "--out",
            "out.pcapng",
            "--in",
            input,
        ],
    );
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

#[test]
fn a_port_is_the_interfaces_name_or_what_follows_the_colon() {
    let case = Case::new();
    let named = case.pcapng("named.pcapng", &[("pod:default/client", s(1), hello(1))]);
    let classic = case.pcap("classic.pcap", 1, &[(s(2), hello(2))]);
    let suffixed = format!("{classic}:pod:default/client");
    // A name of its own wins over what follows the colon.
    let both = format!("{named}:uplink");
    let replayed = case.replay(&[&named, &suffixed, &both], &[]);
    let ports: Vec<_> = replayed
        .lines
        .iter()
        .map(|line| line["port"].as_str().unwrap())
        .collect();
    assert_eq!(ports, ["pod:default/client"; 3]);
    assert_eq!(replayed.verdicts(), ["tx"; 3], "{}", replayed.text);
}

#[test]
fn a_capture_without_a_port_is_refused() {
    let case = Case::new();
    let classic = case.pcap("classic.pcap", 1, &[(s(1), hello(1))]);
    let line = refused_input(&case, &classic);
    assert!(line.contains("classic.pcap: interface 0 has no name"), "{line}");
}

#[test]
fn a_port_that_the_node_has_not_is_refused_with_those_that_it_has() {
    let case = Case::new();
    let classic = case.pcap("classic.pcap", 1, &[(s(1), hello(1))]);
    for port in ["pod:default/db", "uplink1", "pod:default/nobody"] {
        let line = refused_input(&case, &format!("{classic}:{port}"));
        assert!(line.contains(port), "{line}");
        let known = "uplink, host, pod:default/client, pod:default/lonely, pod:default/web";
        assert!(line.contains(known), "{line}");
    }
}

#[test]
fn packets_are_merged_by_time_then_file_then_place_in_the_file() {
    let case = Case::new();
    let first = case.pcap(
        "1.pcap",
        1,
        &[(s(5), hello(1)), (s(9), hello(2)), (s(9), hello(3))],
    );
    // Not in the order of time itself.
    let second = case.pcap(
        "2.pcap",
        1,
        &[(s(9), hello(4)), (s(5), hello(5)), (s(1), hello(6))],
    );
    let suffix = ":pod:default/client";
    let replayed = case.replay(&[&format!("{first}{suffix}"), &format!("{second}{suffix}")], &[]);
    let seen: Vec<_> = replayed
        .lines
        .iter()
        .map(|line| {
            (
                line["n"].as_u64().unwrap(),
                line["ts"].as_u64().unwrap(),
                line["flow"]["orig"].as_str().unwrap(),
            )
        })
        .collect();
    let expected = [(1, 6), (5, 1), (5, 5), (9, 2), (9, 3), (9, 4)];
    let expected: Vec<_> = expected
        .iter()
        .zip(1..)
        .map(|((second, port), n)| (n, s(*second), format!("udp 10.244.1.6:{port} > 10.244.1.7:9")))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(n, ts, flow)| (*n, *ts, flow.as_str()))
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn what_is_no_whole_ethernet_capture_is_refused() {
    let case = Case::new();
    fs::write(case.path("picture.pcap"), "GIF89a").unwrap();
    let line = refused_input(&case, "picture.pcap:uplink");
    assert!(line.contains("picture.pcap is neither pcap nor pcapng"), "{line}");

    case.pcap("cooked.pcap", 113, &[]);
    let line = refused_input(&case, "cooked.pcap:uplink");
    assert!(
        line.contains("Linux cooked") && line.contains("only Ethernet"),
        "{line}"
    );

    let path = case.pcap(
        "cut.pcap",
        1,
        &[(s(1), hello(1)), (s(2), hello(2)), (s(3), hello(3))],
    );
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let line = refused_input(&case, "cut.pcap:uplink");
    assert!(line.contains("cut.pcap ends in the middle of packet 3"), "{line}");

    let line = refused_input(&case, "absent.pcap:uplink");
    assert!(line.contains("absent.pcap: No such file"), "{line}");
}

#[test]
fn a_wrong_flag_is_refused() {
    let case = Case::new();
    let input = format!(
        "{}:pod:default/client",
        case.pcap("a.pcap", 1, &[(s(1), hello(1))])
    );
    let needed = [
        "--state",
        "state.yaml",
        "--node",
        "node-a",
        "--in",
        &input,
        "--out",
        "out.pcapng",
    ];
    for wrong in [
        ["--pace", "fast"],
        ["--pace", "x0"],
        ["--repeat", "0"],
        ["--repeat", "-1"],
        ["--max-flows", "0"],
        ["--max-flows", "4294967295"],
        ["--seed", "x"],
        ["--no-such", "flag"],
        ["--verdicts", "out.pcapng"],
        ["--verdicts", "no/such/folder/v.jsonl"],
        ["--report", "."],
    ] {
        let mut arguments = needed.to_vec();
        arguments.extend(wrong);
        let line = refused(&case, &arguments);
        assert!(
            line.contains(wrong[0]) || line.contains(wrong[1]) || wrong[1] == ".",
            "{line}"
        );
    }
    for missing in ["--state", "--node", "--in", "--out"] {
        let at = needed.iter().position(|flag| *flag == missing).unwrap();
        let mut arguments = needed.to_vec();
        arguments.drain(at..at + 2);
        assert!(refused(&case, &arguments).contains(missing));
    }
}

#[test]
fn a_wrong_object_is_named_with_file_and_line() {
    let case = Case::new();
    let input = format!("{}:uplink", case.pcap("a.pcap", 1, &[(s(1), hello(1))]));
    let with = |state: &str, node: &str| {
        let arguments = [
            "--state",
            "state.yaml",
            "--state",
            state,
            "--node",
            node,
            "--in",
            &input,
            "--out",
            "out.pcapng",
        ];
        let line = refused(&case, &arguments);
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    let line = with("state.yaml", "node-z");
    assert!(
        line.contains("node-z") && line.contains("node-a, node-b"),
        "{line}"
    );

    fs::write(
        case.path("bad.yaml"),
        "# one\n---\napiVersion: v1\nkind: Pod\nmetadata: {namespace: ns, name: odd}\nstatus: {podIPs: [{ip: here}]}\n",
    )
    .unwrap();
    let line = with("bad.yaml", "node-a");
    assert!(
        line.contains("bad.yaml:6") && line.contains("Pod ns/odd"),
        "{line}"
    );

    fs::write(
        case.path("homeless.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {namespace: ns, name: homeless}\nspec: {nodeName: node-a}\nstatus: {phase: Running}\n",
    )
    .unwrap();
    let line = with("homeless.yaml", "node-a");
    assert!(
        line.contains("homeless.yaml:1") && line.contains("Pod ns/homeless"),
        "{line}"
    );

    let line = with("absent.yaml", "node-a");
    assert!(line.contains("absent.yaml: No such file"), "{line}");
}

#[test]
fn unknown_kinds_are_counted_and_named() {
    let case = Case::with_state(&format!(
        "{STATE}---\napiVersion: example.org/v1\nkind: Gadget\nmetadata: {{name: a}}\n---\n\
         apiVersion: example.org/v1\nkind: Gadget\nmetadata: {{name: b}}\n"
    ));
    let replayed = case.replay_packets(&[("pod:default/client", s(1), hello(1))]);
    assert!(
        replayed.stderr.contains("2 of example.org/v1 Gadget"),
        "{}",
        replayed.stderr
    );
    assert_eq!(replayed.report["unknown_kinds"]["example.org/v1 Gadget"], 2);
}

#[test]
fn outputs_replace_what_was_there_and_devices_stay() {
    let case = Case::new();
    fs::write(case.path("out.pcapng"), "old").unwrap();
    let input = case.pcapng("in.pcapng", &[("pod:default/client", s(1), hello(1))]);
    let replayed = case.replay(&[&input], &[]);
    assert_eq!(replayed.frames.len(), 1);
    let output = case.run(&[
        "--state",
        "state.yaml",
        "--node",
        "node-a",
        "--in",
        &input,
        "--out",
        "/dev/null",
        "--verdicts",
        "/dev/stdout",
    ]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8(output.stdout).unwrap(), replayed.text);
    let expected = [
        "in.pcapng",
        "out.pcapng",
        "report.json",
        "state.yaml",
        "verdicts.jsonl",
    ];
    assert_eq!(case.files(), expected, "and no partial file");
}

#[test]
fn the_help_shows_examples() {
    let output = Case::new().run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "--state",
        "--node",
        "--in",
        "--out",
        "--verdicts",
        "--report",
        "--repeat",
        "--pace",
        "--seed",
        "--max-flows",
    ] {
        assert!(text.contains(flag), "{text}");
    }
    assert!(text.contains("Examples:"), "{text}");
}
