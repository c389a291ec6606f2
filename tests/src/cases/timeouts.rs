//! How long flows last, in replayed time.

use std::time::Duration;

use super::policy::DENY_ALL_TO_B;
use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B};
use crate::packet::{ping, pong, sctp, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    [both(datagrams), both(connections)]
        .into_iter()
        .flatten()
        .collect()
}

// Policy lets nothing in to b but replies, so that a flow that is forgotten shows.

fn datagrams(f: Family) -> Case {
    let mut case = f.case(
        "timeouts-datagrams",
        "UDP streams last 180 s, ICMP 5 s, SCTP associations 3600 s.",
        DENY_ALL_TO_B,
    );
    let to_a = |l4: &str| format!("gw > a {} > {} ttl 63 {} {l4}", f.b, f.a, f.df);
    let to_b = |l4: &str| format!("gw > b {} > {} ttl 63 {} {l4}", f.a, f.b, f.df);
    // A stream: two packets each way, older than two seconds.
    for round in 0..3 {
        case.send(B.sends(&udp(&at(f.b, 4000), &at(f.a, 53), 10 + round)))
            .tx(A.port, to_a(&format!("udp 4000 > 53 data {}", 10 + round)));
        case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 4000), 10 + round)))
            .tx(B.port, to_b(&format!("udp 53 > 4000 data {}", 10 + round)));
        case.wait(Duration::from_secs(2));
    }
    case.wait(Duration::from_secs(170));
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 4000), 20)))
        .tx(B.port, to_b("udp 53 > 4000 data 20"));
    case.wait(Duration::from_secs(182));
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 4000), 21)))
        .dropped("policy-denied");
    // A query and its reply.
    case.send(B.sends(&udp(&at(f.b, 4001), &at(f.a, 53), 10)))
        .tx(A.port, to_a("udp 4001 > 53 data 10"));
    case.wait(Duration::from_secs(5));
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 4001), 10)))
        .tx(B.port, to_b("udp 53 > 4001 data 10"));
    case.wait(Duration::from_secs(12));
    case.send(A.sends(&udp(&at(f.a, 53), &at(f.b, 4001), 11)))
        .dropped("policy-denied");
    case.send(B.sends(&ping(f.b, f.a, 5, 1, 8)))
        .tx(A.port, to_a("echo-request 5 1 data 8"));
    case.wait(Duration::from_secs(4));
    case.send(A.sends(&pong(f.a, f.b, 5, 1, 8)))
        .tx(B.port, to_b("echo-reply 5 1 data 8"));
    case.wait(Duration::from_secs(7));
    case.send(A.sends(&pong(f.a, f.b, 5, 1, 8))).dropped("no-flow");
    case.send(B.sends(&sctp(&at(f.b, 6000), &at(f.a, 7000), 1, 16)))
        .tx(A.port, to_a("sctp 6000 > 7000 chunk 1 data 20"));
    case.send(A.sends(&sctp(&at(f.a, 7000), &at(f.b, 6000), 2, 16)))
        .tx(B.port, to_b("sctp 7000 > 6000 chunk 2 data 20"));
    case.send(B.sends(&sctp(&at(f.b, 6000), &at(f.a, 7000), 10, 16)))
        .tx(A.port, to_a("sctp 6000 > 7000 chunk 10 data 20"));
    case.send(A.sends(&sctp(&at(f.a, 7000), &at(f.b, 6000), 11, 0)))
        .tx(B.port, to_b("sctp 7000 > 6000 chunk 11 data 4"));
    case.wait(Duration::from_secs(3500));
    case.send(A.sends(&sctp(&at(f.a, 7000), &at(f.b, 6000), 0, 16)))
        .tx(B.port, to_b("sctp 7000 > 6000 chunk 0 data 20"));
    case.wait(Duration::from_secs(3700));
    case.send(A.sends(&sctp(&at(f.a, 7000), &at(f.b, 6000), 0, 16)))
        .dropped("policy-denied");
    case
}

fn connections(f: Family) -> Case {
    let mut case = f.case(
        "timeouts-connections",
        "TCP: SYN 20 s, established 8000 s, half closed 120 s, closed 30 s, reset 10 s.",
        DENY_ALL_TO_B,
    );
    let mut port = 40000_u16;
    let mut connection = |case: &mut Case,
                          steps: &[(char, &str, u32, u32)],
                          wait_s: u64,
                          last: (&str, u32, u32),
                          alive: bool| {
        port += 1;
        let (a, b) = (at(f.a, 80), at(f.b, port));
        for (from, flags, seq, ack) in steps {
            let letters = letters(flags);
            if *from == 'b' {
                case.send(B.sends(&tcp(&b, &a, flags, *seq, *ack, 0))).tx(
                    A.port,
                    format!(
                        "gw > a {} > {} ttl 63 {} tcp {port} > 80 {letters} seq {seq} ack {ack} data 0",
                        f.b, f.a, f.df
                    ),
                );
            } else {
                case.send(A.sends(&tcp(&a, &b, flags, *seq, *ack, 0))).tx(
                    B.port,
                    format!(
                        "gw > b {} > {} ttl 63 {} tcp 80 > {port} {letters} seq {seq} ack {ack} data 0",
                        f.a, f.b, f.df
                    ),
                );
            }
        }
        case.wait(Duration::from_secs(wait_s));
        let (flags, seq, ack) = last;
        let step = case.send(A.sends(&tcp(&a, &b, flags, seq, ack, 0)));
        if alive {
            let letters = letters(flags);
            step.tx(
                B.port,
                format!(
                    "gw > b {} > {} ttl 63 {} tcp 80 > {port} {letters} seq {seq} ack {ack} data 0",
                    f.a, f.b, f.df
                ),
            );
        } else {
            step.dropped("policy-denied");
        }
    };
    let open = [('b', "S", 1, 0), ('a', "SA", 100, 2), ('b', "A", 2, 101)];
    let half = [open.as_slice(), &[('b', "FA", 2, 101), ('a', "A", 101, 3)]].concat();
    let closed = [half.as_slice(), &[('a', "FA", 101, 3), ('b', "A", 3, 102)]].concat();
    let reset = [open.as_slice(), &[('b', "R", 2, 0)]].concat();
    connection(&mut case, &open[..1], 18, ("SA", 100, 2), true);
    connection(&mut case, &open[..1], 22, ("SA", 100, 2), false);
    connection(&mut case, &open, 7900, ("A", 101, 2), true);
    connection(&mut case, &open, 8100, ("A", 101, 2), false);
    connection(&mut case, &half, 115, ("A", 101, 3), true);
    connection(&mut case, &half, 125, ("A", 101, 3), false);
    connection(&mut case, &closed, 28, ("FA", 101, 3), true);
    connection(&mut case, &closed, 33, ("FA", 101, 3), false);
    connection(&mut case, &reset, 13, ("A", 101, 2), false);
    case
}

/// Flags in the order that descriptions print them.
fn letters(flags: &str) -> String {
    "SFRPUA"
        .chars()
        .filter(|letter| flags.contains(*letter))
        .collect()
}
