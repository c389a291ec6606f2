//! A few flows through every case: verdicts and bytes, no timing.

use clap::ValueEnum;

use super::*;

fn args(case: Case, l4: Transport) -> Args {
    Args {
        case,
        flows: 200,
        frame: FrameLen::Bytes(64),
        dist: Distribution::Uniform,
        l4,
        family: Family::V4,
        checksum: ChecksumFill::Full,
        attack: None,
        ports: 1,
        services: 10_000,
        rules: 1000,
        workers: 1,
        seconds: 1e-6,
        packets: None,
        form: Form { seed: 3, json: true },
    }
}

fn moved(line: &Line, name: &str) -> u64 {
    line.notes
        .moved
        .iter()
        .filter(|(n, _)| n == name)
        .map(|(_, count)| count)
        .sum()
}

/// Every packet is forwarded (else `run` fails), the sampled ones byte for byte as expected, over as many flows as asked.
#[test]
fn every_case_forwards_every_packet_as_it_should() {
    // New flows expire by the clock: how many fit the small table of a test depends on how fast the machine is.
    for case in Case::value_variants()
        .iter()
        .filter(|case| **case != Case::NewFlows)
    {
        for l4 in [Transport::Tcp, Transport::Udp] {
            let line = run(&args(*case, l4)).unwrap_or_else(|error| panic!("{case:?} {l4:?}: {error:#}"));
            if *case == Case::IoFloor {
                assert_eq!(line.notes.packets, 0);
                continue;
            }
            assert_eq!(line.notes.verified, 2 * VERIFIED, "{case:?}");
            assert_eq!(moved(&line, "tx"), line.notes.packets);
            let created = moved(&line, "flows-created");
            assert_eq!(created, 200, "{case:?}: established packets open nothing");
        }
    }
}

/// As many as asked for, and a check of the books after them.
#[test]
fn a_number_of_packets_is_sent_and_no_more() {
    for case in Case::value_variants() {
        let args = args(*case, Transport::Tcp);
        let sent = send(&args, 1000).unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
        assert_eq!(sent.packets, 1000);
    }
}

/// The same with the other version of IP, with all lengths, and with checksums that someone has to complete.
#[test]
fn ipv6_the_mix_and_partial_checksums_arrive_as_they_should() {
    let cases = [
        Case::Forward,
        Case::Policy,
        Case::Service,
        Case::ServiceVxlan,
        Case::ServiceVxlanReturn,
    ];
    let kinds = [
        (Transport::Udp, Family::V4, ChecksumFill::Partial),
        (Transport::Udp, Family::V6, ChecksumFill::Full),
        (Transport::Tcp, Family::V6, ChecksumFill::Partial),
    ];
    for (case, (l4, family, checksum)) in cases.into_iter().flat_map(|case| kinds.map(|kind| (case, kind))) {
        let line = run(&Args {
            family,
            checksum,
            frame: FrameLen::Imix,
            ..args(case, l4)
        })
        .unwrap_or_else(|error| panic!("{case:?} {l4:?} {family:?} {checksum:?}: {error:#}"));
        assert_eq!(line.notes.verified, 2 * VERIFIED, "{case:?}");
        assert_eq!(moved(&line, "flows-created"), 200);
    }
}

#[test]
fn ports_workers_sizes_and_zipf_forward_too() {
    for case in [Case::Policy, Case::ServiceVxlan, Case::ServiceVxlanReturn] {
        let line = run(&Args {
            ports: 7,
            workers: 2,
            frame: FrameLen::Bytes(1500),
            dist: Distribution::Zipf,
            ..args(case, Transport::Tcp)
        })
        .unwrap_or_else(|error| panic!("{case:?}: {error:#}"));
        assert!(line.notes.verified >= 4 * VERIFIED);
        assert_eq!(moved(&line, "flows-created"), 200);
    }
}

/// What is to be dropped is, for its own reason, and nothing else; no attack opens a flow or ends one.
#[test]
fn attacks_are_repelled_and_established_flows_go_on() {
    for attack in Attack::value_variants() {
        let case = match attack {
            Attack::Denied => Case::Policy,
            _ => Case::ServiceVxlan,
        };
        let args = Args {
            attack: Some(*attack),
            ports: 3,
            frame: FrameLen::Bytes(66),
            ..args(case, Transport::Tcp)
        };
        args.refuse().unwrap();
        let line = run(&args).unwrap_or_else(|error| panic!("{attack:?}: {error:#}"));
        assert!(line.notes.verified >= 2 * VERIFIED, "{attack:?}");
        assert_eq!(
            moved(&line, "flows-created"),
            200,
            "{attack:?} takes established flows"
        );
        let dropped = attack.dropped().map(|reason| format!("drop-{}", reason.name()));
        for (name, count) in &line.notes.moved {
            let is_expected = Some(name) == dropped.as_ref();
            assert!(
                !name.starts_with("drop-") || is_expected && *count > 0,
                "{attack:?}: {name}"
            );
        }
        assert_eq!(moved(&line, "flows-removed"), 0, "{attack:?}");
    }
}

/// The check has teeth: a frame that differs in any byte is refused.
#[test]
fn a_wrong_byte_is_found() {
    let turn = Turn {
        flow: 5,
        client: 0,
        server: 2,
    };
    let traffic = args(Case::ServiceVxlan, Transport::Tcp).traffic();
    let right = traffic.leaving(Step::Data, false, turn, 0xc123);
    let check = |sent: &[u8]| expect::check(&traffic, Step::Data, false, turn, sent);
    check(&right).unwrap();
    for at in 0..right.len() {
        let mut wrong = right.clone();
        wrong[at] ^= 0x40;
        // The tunnel's source port is the sender's choice, of the dynamic ones.
        assert!(check(&wrong).is_err() || (34..36).contains(&at), "byte {at}");
    }
}

#[test]
fn what_cannot_be_run_is_refused_by_name() {
    let base = args(Case::Forward, Transport::Tcp);
    for (wrong, named) in [
        (
            Args {
                frame: FrameLen::Bytes(20),
                ..base.clone()
            },
            "--frame 20",
        ),
        (
            Args {
                ports: 0,
                ..base.clone()
            },
            "--ports 0",
        ),
        (
            Args {
                workers: 0,
                ..base.clone()
            },
            "--workers 0",
        ),
        (
            Args {
                services: 9,
                ..base.clone()
            },
            "--services 9",
        ),
        (
            Args {
                rules: 65_537,
                ..base.clone()
            },
            "--rules 65537",
        ),
        (
            Args {
                services: 10,
                flows: 200_000,
                ..args(Case::NewFlows, Transport::Tcp)
            },
            "--flows 200000",
        ),
        (
            Args {
                flows: 0,
                ..base.clone()
            },
            "--flows 0",
        ),
        (
            Args {
                seconds: -1.0,
                ..base.clone()
            },
            "--seconds -1",
        ),
        (
            Args {
                attack: Some(Attack::Denied),
                ..base.clone()
            },
            "--attack denied",
        ),
        (
            Args {
                family: Family::V6,
                ..base.clone()
            },
            "--frame 64",
        ),
    ] {
        let refused = wrong.refuse().unwrap_err().to_string();
        assert!(refused.starts_with(named), "{refused}");
    }
    base.refuse().unwrap();
}
