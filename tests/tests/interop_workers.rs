//! Two workers on two queues: flows and their replies come to either, and to another one when the kernel says so.

use std::net::SocketAddr;

use tests::interop::exchange::{ping, tcp, udp};
use tests::live::Lab;

const CLIENT: &str = "default/client";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

#[test]
fn two_workers_carry_what_one_does() {
    let Some(lab) = Lab::up_with("workers", &["--workers", "2", "--queues", "2"], |_| {}) else {
        return;
    };
    for [client, near, far, outside] in [
        ["10.244.1.10", "10.244.1.11", "10.244.2.10", "203.0.113.10"],
        [
            "fd00:10:244:1::10",
            "fd00:10:244:1::11",
            "fd00:10:244:2::10",
            "2001:db8:113::10",
        ],
    ] {
        for to in [near, far, outside] {
            ping(&lab, CLIENT, to, 1000);
        }
        // Each connection has a port of its own: the kernel spreads them over the queues.
        for number in 0..8 {
            tcp(&lab, CLIENT, "default/api-0", at(near, 9600 + number), 300_000);
            tcp(&lab, CLIENT, "default/api-1", at(far, 9600 + number), 300_000);
            tcp(&lab, "default/api-1", CLIENT, at(client, 9600 + number), 300_000);
            tcp(&lab, CLIENT, "outside", at(outside, 9600 + number), 300_000);
            udp(
                &lab,
                CLIENT,
                "default/api-1",
                at(far, 9700 + number),
                &[1, 1300, 3000],
            );
        }
    }
    for node in ["node-a", "node-b"] {
        let status = lab.status(node);
        let workers = status["workers"].as_array().expect("a table");
        assert_eq!(workers.len(), 2, "{node}");
        for worker in workers {
            assert!(
                worker["rx"].as_u64().is_some_and(|rx| rx > 100),
                "{node}: {status}"
            );
        }
    }
    lab.assert_conservation();
}
