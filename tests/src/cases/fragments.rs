//! Packets that come in fragments.

use std::time::Duration;

use super::{Family, at, both};
use crate::case::Case;
use crate::cluster::{A, B};
use crate::packet::{IpPacket, ping, tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    [
        both(in_order),
        both(first_comes_last),
        both(first_never_comes),
        both(attacks),
        both(denied),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What leaves to pod b for a fragment of a datagram from a.
fn to_b(f: Family, piece: &IpPacket, l4: &str) -> String {
    let (offset, more) = piece.fragment.expect("a fragment");
    let more = if more { "more" } else { "" };
    let (header, len) = if offset == 0 {
        (l4, piece.payload.len() - 8)
    } else {
        ("", piece.payload.len())
    };
    format!(
        "gw > b {} > {} ttl 63 fragment {:x} at {offset} {more} {header} data {len}",
        f.a, f.b, piece.id
    )
}

fn in_order(f: Family) -> Case {
    let mut case = f.case(
        "fragments-in-order",
        "Fragments follow their first and leave as they came.",
        "",
    );
    for (id, packet, l4) in [
        (0x11, udp(&at(f.a, 4000), &at(f.b, 53), 3000), "udp 4000 > 53"),
        (0x12, ping(f.a, f.b, 5, 6, 3000), "echo-request 5 6"),
    ] {
        for piece in packet.cut(1280, id) {
            case.send(A.sends(&piece)).tx(B.port, to_b(f, &piece, l4));
        }
    }
    case
}

fn first_comes_last(f: Family) -> Case {
    let mut case = f.case(
        "fragments-any-order",
        "Fragments that overtake their first wait for it and leave in the order they came.",
        "",
    );
    let pieces = udp(&at(f.a, 4000), &at(f.b, 53), 3000).cut(1280, 0x21);
    for piece in [&pieces[2], &pieces[1], &pieces[0]] {
        case.send(A.sends(piece))
            .tx(B.port, to_b(f, piece, "udp 4000 > 53"));
    }
    // The same identification of another datagram, later: the outcome is known already.
    for piece in [&pieces[1], &pieces[0], &pieces[2]] {
        case.send(A.sends(piece))
            .tx(B.port, to_b(f, piece, "udp 4000 > 53"));
    }
    case
}

fn first_never_comes(f: Family) -> Case {
    let mut case = f.case(
        "fragments-timeout",
        "Fragments whose first does not come are given up after 30 s.",
        "",
    );
    let pieces = udp(&at(f.a, 4000), &at(f.b, 53), 3000).cut(1280, 0x31);
    case.send(A.sends(&pieces[1])).dropped("fragment-timeout");
    case.wait(Duration::from_secs(31));
    // Too late for the one before, in time for the ones behind it.
    case.send(A.sends(&pieces[0]))
        .tx(B.port, to_b(f, &pieces[0], "udp 4000 > 53"));
    case.send(A.sends(&pieces[2]))
        .tx(B.port, to_b(f, &pieces[2], "udp 4000 > 53"));
    let lost = udp(&at(f.a, 4000), &at(f.b, 53), 3000).cut(1280, 0x32);
    case.send(A.sends(&lost[2])).dropped("fragment-timeout");
    case
}

fn attacks(f: Family) -> Case {
    let mut case = f.case(
        "fragments-attacks",
        "Fragments that no honest sender makes are malformed, and one source holds only so many.",
        "",
    );
    let pieces =
        |id| tcp(&at(f.a, 40000), &at(f.b, 80), "S", 1, 0, 100).cut(if f.is_v4() { 68 } else { 96 }, id);
    let mut overlap = pieces(0x41)[1].clone();
    overlap.fragment = Some((8, true));
    case.send(A.sends(&overlap)).dropped("malformed");
    let mut cut_header = pieces(0x42)[0].clone();
    cut_header.payload.truncate(8);
    case.send(A.sends(&cut_header)).dropped("malformed");
    let mut uneven = pieces(0x43)[1].clone();
    uneven.payload.truncate(13);
    case.send(A.sends(&uneven)).dropped("malformed");
    let mut beyond = pieces(0x44)[1].clone();
    beyond.fragment = Some((65_528, false));
    case.send(A.sends(&beyond)).dropped("malformed");
    case
}

fn denied(f: Family) -> Case {
    let mut case = f.case(
        "fragments-denied",
        "Fragments of what policy denies are dropped with it.",
        super::policy::DENY_ALL_TO_B,
    );
    let pieces = udp(&at(f.a, 4000), &at(f.b, 53), 3000).cut(1280, 0x51);
    for piece in [&pieces[1], &pieces[0], &pieces[2]] {
        case.send(A.sends(piece))
            .dropped("policy-denied")
            .by("NetworkPolicy default/deny-all ingress default");
    }
    case
}
