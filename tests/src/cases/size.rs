//! Packets larger than the way they go.

use super::{Family, V4, at, both};
use crate::case::Case;
use crate::cluster::A;
use crate::packet::{tcp, udp};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = both(too_big);
    cases.push(fragmented());
    cases
}

fn too_big(f: Family) -> Case {
    let mut case = f.case(
        "size-too-big",
        "What does not fit the tunnel and may not be cut is answered with the tunnel's MTU.",
        "",
    );
    let headers = if f.is_v4() { 28 } else { 48 };
    let (kind, tos) = if f.is_v4() {
        ("icmp 3/4", "tos 0xc0")
    } else {
        ("icmp 2/0", "")
    };
    let mtu = f.vxlan_mtu;
    let of = |len: usize| udp(&at(f.a, 4000), &at(f.d, 53), len - headers);
    case.send(A.sends(&of(mtu))).tx(
        "uplink",
        format!(
            "{} {} > {} ttl 63 {} udp 4000 > 53 data {}",
            f.vxlan_to("b", "node-b"),
            f.a,
            f.d,
            f.df,
            mtu - headers
        ),
    );
    let told = |l4: &str| {
        format!(
            "gw > a {} > {} ttl 64 {tos} {kind} {mtu} [ {} > {} ttl 64 {} {l4} ]",
            f.node_a, f.a, f.a, f.d, f.df
        )
    };
    case.send(A.sends(&of(mtu + 1)))
        .dropped("too-big")
        .answer(A.port, told("udp 4000 > 53"));
    case.send(A.sends(&of(1500)))
        .dropped("too-big")
        .answer(A.port, told("udp 4000 > 53"));
    // A large first packet of a new flow.
    let segment = tcp(&at(f.a, 40000), &at(f.d, 80), "A", 1000, 1, 1460);
    case.send(A.sends(&segment))
        .dropped("too-big")
        .answer(A.port, told("tcp 40000 > 80 A seq 1000 ack 1"));
    case
}

fn fragmented() -> Case {
    let mut case = V4.case(
        "size-fragmented",
        "What does not fit the tunnel and may be cut is cut before it is encapsulated.",
        "",
    );
    let outer = V4.vxlan_to("b", "node-b");
    let inner = |tail: &str| format!("{outer} {} > {} ttl 63 {tail}", V4.a, V4.d);
    let packet = udp(&at(V4.a, 4000), &at(V4.d, 53), 1472).may_fragment();
    for _ in 0..2 {
        case.send(A.sends(&packet))
            .tx("uplink", inner("fragment 1234 at 0 more udp 4000 > 53 data 1416"))
            .tx("uplink", inner("fragment 1234 at 1424 data 56"));
    }
    // A fragment that is cut again keeps its place; the last one of both says whether more follow.
    for piece in udp(&at(V4.a, 4001), &at(V4.d, 53), 2900).cut(1500, 0x77) {
        let step = case.send(A.sends(&piece));
        let (offset, more) = piece.fragment.expect("cut");
        let rest = piece.payload.len();
        if rest <= 1430 {
            step.tx("uplink", inner(&format!("fragment 77 at {offset} data {rest}")));
        } else {
            let head = if offset == 0 {
                "udp 4001 > 53 data 1416"
            } else {
                "data 1424"
            };
            let more = if more { "more" } else { "" };
            step.tx("uplink", inner(&format!("fragment 77 at {offset} more {head}")))
                .tx(
                    "uplink",
                    inner(&format!(
                        "fragment 77 at {} {more} data {}",
                        offset + 1424,
                        rest - 1424
                    )),
                );
        }
    }
    case
}
