//! Every table has a limit, and what happens there.

use std::time::Duration;

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B, C};
use crate::packet::{tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    [
        both(flows_of_one_port),
        both(full_table),
        both(held_fragments),
        both(errors),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn to_b(f: Family, from: &str, l4: &str) -> String {
    format!("gw > b {from} > {} ttl 63 {} {l4}", f.b, f.df)
}

fn flows_of_one_port(f: Family) -> Case {
    let mut case = f.case(
        "limits-one-port",
        "A pod whose flows nobody answers gets a quarter of the table; others still open theirs, and answered ones go on.",
        "",
    );
    case.options = vec!["--max-flows".to_owned(), "128".to_owned()];
    case.send(A.sends(&udp(&at(f.a, 3000), &at(f.b, 53), 1)))
        .tx(B.port, to_b(f, f.a, "udp 3000 > 53 data 1"));
    case.send(B.sends(&udp(&at(f.b, 53), &at(f.a, 3000), 1))).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} udp 53 > 3000 data 1", f.b, f.a, f.df),
    );
    for port in 4000..4040_u16 {
        let step = case.send(A.sends(&udp(&at(f.a, port), &at(f.b, 99), 10)));
        if port < 4032 {
            step.tx(B.port, to_b(f, f.a, &format!("udp {port} > 99 data 10")));
        } else {
            step.dropped("table-full");
        }
    }
    case.send(C.sends(&udp(&at(f.c, 4000), &at(f.b, 99), 10)))
        .tx(B.port, to_b(f, f.c, "udp 4000 > 99 data 10"));
    case.send(A.sends(&udp(&at(f.a, 3000), &at(f.b, 53), 2)))
        .tx(B.port, to_b(f, f.a, "udp 3000 > 53 data 2"));
    // An answer makes room for one more.
    case.send(B.sends(&udp(&at(f.b, 99), &at(f.a, 4000), 10))).tx(
        A.port,
        format!("gw > a {} > {} ttl 63 {} udp 99 > 4000 data 10", f.b, f.a, f.df),
    );
    case.send(A.sends(&udp(&at(f.a, 5000), &at(f.b, 99), 10)))
        .tx(B.port, to_b(f, f.a, "udp 5000 > 99 data 10"));
    case.send(A.sends(&udp(&at(f.a, 5001), &at(f.b, 99), 10)))
        .dropped("table-full");
    // So does time.
    case.wait(Duration::from_secs(70));
    case.send(A.sends(&udp(&at(f.a, 5002), &at(f.b, 99), 10)))
        .tx(B.port, to_b(f, f.a, "udp 5002 > 99 data 10"));
    case
}

fn full_table(f: Family) -> Case {
    let mut case = f.case(
        "limits-full-table",
        "A table full of established connections keeps them and refuses new ones, until one ends.",
        "",
    );
    case.options = vec!["--max-flows".to_owned(), "16".to_owned()];
    let to_a = |l4: &str| format!("gw > a {} > {} ttl 63 {} {l4}", f.b, f.a, f.df);
    for port in 4000..4016_u16 {
        let (a, b) = (at(f.a, port), at(f.b, 80));
        case.send(A.sends(&tcp(&a, &b, "S", 1, 0, 0))).tx(
            B.port,
            to_b(f, f.a, &format!("tcp {port} > 80 S seq 1 ack 0 data 0")),
        );
        case.send(B.sends(&tcp(&b, &a, "SA", 9, 2, 0)))
            .tx(A.port, to_a(&format!("tcp 80 > {port} SA seq 9 ack 2 data 0")));
        case.send(A.sends(&tcp(&a, &b, "A", 2, 10, 0))).tx(
            B.port,
            to_b(f, f.a, &format!("tcp {port} > 80 A seq 2 ack 10 data 0")),
        );
    }
    case.send(A.sends(&tcp(&at(f.a, 5000), &at(f.b, 80), "S", 1, 0, 0)))
        .dropped("table-full");
    case.send(C.sends(&udp(&at(f.c, 5000), &at(f.b, 80), 10)))
        .dropped("table-full");
    case.send(B.sends(&tcp(&at(f.b, 80), &at(f.a, 4003), "PA", 10, 2, 100)))
        .tx(A.port, to_a("tcp 80 > 4003 PA seq 10 ack 2 data 100"));
    case.send(A.sends(&tcp(&at(f.a, 4005), &at(f.b, 80), "R", 2, 0, 0)))
        .tx(B.port, to_b(f, f.a, "tcp 4005 > 80 R seq 2 ack 0 data 0"));
    case.wait(Duration::from_secs(12));
    case.send(A.sends(&tcp(&at(f.a, 5000), &at(f.b, 80), "S", 1, 0, 0)))
        .tx(B.port, to_b(f, f.a, "tcp 5000 > 80 S seq 1 ack 0 data 0"));
    case
}

fn held_fragments(f: Family) -> Case {
    let mut case = f.case(
        "limits-held-fragments",
        "One pod's fragments that wait for a first leave room for others'.",
        "",
    );
    let last = |from: &str, id| udp(&at(from, 4000), &at(f.b, 53), 1300).cut(1280, id)[1].clone();
    for id in 0..66 {
        let step = case.send(A.sends(&last(f.a, id)));
        step.dropped(if id < 64 {
            "fragment-timeout"
        } else {
            "fragment-quota"
        });
    }
    let pieces = udp(&at(f.c, 4000), &at(f.b, 53), 1300).cut(1280, 500);
    for piece in pieces.iter().rev() {
        let (offset, more) = piece.fragment.expect("cut");
        let len = piece.payload.len();
        let tail = if more {
            format!("more udp 4000 > 53 data {}", len - 8)
        } else {
            format!("data {len}")
        };
        case.send(C.sends(piece)).tx(
            B.port,
            format!("gw > b {} > {} ttl 63 fragment 1f4 at {offset} {tail}", f.c, f.b),
        );
    }
    case
}

fn errors(f: Family) -> Case {
    let mut case = f.case(
        "limits-icmp-errors",
        "ICMP errors are limited: a burst of 100, then 1000 a second.",
        "",
    );
    let (kind, tos) = if f.is_v4() {
        ("icmp 11/0 0", "tos 0xc0")
    } else {
        ("icmp 3/0 0", "")
    };
    let packet = udp(&at(f.a, 33000), &at(f.b, 33434), 20).ttl(1);
    let told = format!(
        "gw > a {} > {} ttl 64 {tos} {kind} [ {} > {} ttl 1 {} udp 33000 > 33434 ]",
        f.node_a, f.a, f.a, f.b, f.df
    );
    for index in 0..110 {
        let step = case.send_at_once(A.sends(&packet)).dropped("ttl-exceeded");
        if index < 100 {
            step.answer(A.port, &*told);
        }
    }
    case.wait(Duration::from_millis(1));
    case.send_at_once(A.sends(&packet))
        .dropped("ttl-exceeded")
        .answer(A.port, &*told);
    case.send_at_once(A.sends(&packet)).dropped("ttl-exceeded");
    case
}
