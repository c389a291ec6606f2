//! Masquerade: ports, clashes, exhaustion.

use std::collections::BTreeSet;

use crate::cluster::{BOTH, Fam};
use crate::lab::Lab;
use crate::packet::{Pkt, echo, echo_reply, syn, udp};

fn few_ports(first: u32, last: u32) -> impl FnOnce(&mut contract::proto::State) {
    move |state| {
        let node = state.node.as_mut().unwrap();
        (node.snat_port_first, node.snat_port_last) = (first, last);
    }
}

#[test]
fn the_original_port_is_kept_when_it_is_ours_and_free() {
    for f in BOTH {
        let mut lab = Lab::new();
        let b = f.at(&f.outside(), 53);
        let (_, sent) = lab.send("client", &udp(&f.at(&f.pod(1, 6), 50000), &b)).packet();
        assert_eq!(sent.src.to_string(), f.at(&f.node(1), 50000));
        // Another pod with the same port to the same place gets another one; to another place the same.
        let (_, clash) = lab.send("other", &udp(&f.at(&f.pod(1, 7), 50000), &b)).packet();
        assert_ne!(clash.src.port(), 50000);
        let (_, free) = lab
            .send("other", &udp(&f.at(&f.pod(1, 7), 50000), &f.at(&f.outside(), 54)))
            .packet();
        assert_eq!(free.src.port(), 50000);
    }
}

#[test]
fn ports_run_out_towards_one_destination_alone() {
    for f in BOTH {
        let mut lab = Lab::with(few_ports(50000, 50003));
        let b = f.at(&f.outside(), 53);
        let mut ports = BTreeSet::new();
        for port in 4000..4004 {
            let (_, sent) = lab.send("client", &udp(&f.at(&f.pod(1, 6), port), &b)).packet();
            assert!(ports.insert(sent.src.port()), "a port given twice");
        }
        assert_eq!(ports, (50000..=50003).collect());
        for _ in 0..2 {
            lab.send("client", &udp(&f.at(&f.pod(1, 6), 4004), &b))
                .dropped_silently("snat-exhausted");
        }
        assert_eq!(
            lab.send("client", &udp(&f.at(&f.pod(1, 6), 4004), &f.at(&f.outside(), 54)))
                .verdict,
            "tx"
        );
        // A flow whose time is up gives its port back.
        lab.advance_s(61.0);
        assert_eq!(
            lab.send("client", &udp(&f.at(&f.pod(1, 6), 4004), &b)).verdict,
            "tx"
        );
    }
}

/// Or a pod that holds them all would cost a search of the whole range for each of its packets.
#[test]
fn a_search_that_failed_is_not_made_again_at_once() {
    for f in BOTH {
        let mut lab = Lab::with(few_ports(50000, 50003));
        let b = f.at(&f.outside(), 53);
        for port in 4000..4004 {
            assert_eq!(
                lab.send("client", &udp(&f.at(&f.pod(1, 6), port), &b)).verdict,
                "tx"
            );
            lab.advance_s(1.0);
        }
        let late = udp(&f.at(&f.pod(1, 6), 4004), &b);
        lab.advance_s(55.99);
        lab.send("client", &late).dropped_silently("snat-exhausted");
        // The first flow's time is up by now, and its port free: found by the next search.
        lab.advance_s(0.03);
        lab.send("client", &late).dropped_silently("snat-exhausted");
        lab.advance_s(0.02);
        assert_eq!(lab.send("client", &late).verdict, "tx");
    }
}

#[test]
fn echo_identifiers_are_translated() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.pod(1, 6), f.outside());
        let (_, sent) = lab.send("client", &echo(&a, &b, 7)).packet();
        assert_eq!(sent.src.ip().to_string(), f.node(1));
        let id = sent.src.port();
        assert!(id >= 45000);
        lab.send("uplink", &echo_reply(&b, &f.node(1), id))
            .tx("client", &echo_reply(&b, &a, 7).routed());
    }
}

#[test]
fn nodes_and_pools_see_the_pods_own_address() {
    for f in BOTH {
        let mut lab = Lab::new();
        for to in [f.node(2), f.pod(3, 9)] {
            let pkt = udp(&f.at(&f.pod(1, 6), 4000), &f.at(&to, 80));
            lab.send("client", &pkt).tx("uplink", &pkt.clone().routed());
        }
    }
}

#[test]
fn a_protocol_without_ports_is_masqueraded_by_address() {
    let f = Fam::V4;
    let mut lab = Lab::new();
    let gre = |src: &str, dst: &str| Pkt {
        l4: crate::packet::L4::Other(47),
        ..udp(src, dst)
    };
    lab.send("client", &gre(&f.pod(1, 6), &f.outside()))
        .tx("uplink", &gre(&f.node(1), &f.outside()).routed());
    lab.send("other", &gre(&f.pod(1, 7), &f.outside()))
        .dropped_silently("snat-exhausted");
}

#[test]
fn the_same_input_gives_the_same_output() {
    let run = || {
        let mut lab = Lab::new();
        let mut ports = Vec::new();
        for port in 0..50 {
            let (_, sent) = lab
                .send(
                    "client",
                    &syn(&format!("10.244.1.6:{}", 4000 + port), "203.0.113.9:80"),
                )
                .packet();
            ports.push(sent.src.port());
        }
        ports
    };
    assert_eq!(run(), run());
}
