//! Pings that the gateway answers.

use super::{Family, both};
use crate::case::Case;
use crate::cluster::A;
use crate::packet::ping;

pub(super) fn cases() -> Vec<Case> {
    both(gateway)
}

fn gateway(f: Family) -> Case {
    let mut case = f.case(
        "echo-gateway",
        "The gateway address answers pings of any length, and nothing else.",
        "",
    );
    let gateway = if f.is_v4() {
        "169.254.1.1"
    } else {
        "fe80::ecee:eeff:feee:eeee"
    };
    for (seq, len) in [(1, 56), (2, 0), (3, 1400)] {
        case.send(A.sends(&ping(f.a, gateway, 9, seq, len))).tx(
            A.port,
            format!(
                "gw > a {gateway} > {} ttl 64 {} echo-reply 9 {seq} data {len}",
                f.a, f.df
            ),
        );
    }
    // The TTL need not last beyond the first hop.
    case.send(A.sends(&ping(f.a, gateway, 9, 4, 8).ttl(1))).tx(
        A.port,
        format!("gw > a {gateway} > {} ttl 64 {} echo-reply 9 4 data 8", f.a, f.df),
    );
    case.send(A.sends(&ping(f.b, gateway, 9, 5, 8)))
        .dropped("spoofed-source");
    case
}
