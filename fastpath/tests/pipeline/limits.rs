//! Time and limits: every timeout at its moment, every table at its limit.

use wire::tcp::TcpFlags;

use crate::cluster::{BOTH, Fam, attach, backend, policy, port_of, service};
use crate::lab::{Lab, Options};
use crate::packet::{Pkt, echo, syn, syn_ack, tcp, udp};

const FIN: TcpFlags = TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0);

/// After `packets` (client first, `true`: from the server), the flow lives for exactly `seconds`.
#[track_caller]
fn lives(f: Fam, packets: &[(bool, f64, &dyn Fn(&str, &str) -> Pkt)], seconds: f64) {
    for (wait, is_new) in [(seconds - 0.001, false), (seconds, true)] {
        let mut lab = Lab::new();
        lab.now_ns = 1_700_000_000_000_000_000;
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        for (reply, pause, make) in packets {
            lab.advance_s(*pause);
            let (port, pkt) = if *reply {
                ("web", make(&b, &a))
            } else {
                ("client", make(&a, &b))
            };
            assert_eq!(lab.send(port, &pkt).verdict, "tx");
        }
        lab.advance_s(wait);
        // Asked by a packet that changes nothing else: the same as the last.
        let (reply, _, make) = packets.last().unwrap();
        let (port, pkt) = if *reply {
            ("web", make(&b, &a))
        } else {
            ("client", make(&a, &b))
        };
        let line = lab.send(port, &pkt);
        assert_eq!(line.flow.map(|flow| flow.0), Some(is_new), "after {wait} s");
    }
}

#[test]
fn tcp_states_last_as_long_as_configured() {
    for f in BOTH {
        let (s, sa, ack): (
            &dyn Fn(&str, &str) -> Pkt,
            &dyn Fn(&str, &str) -> Pkt,
            &dyn Fn(&str, &str) -> Pkt,
        ) = (&syn, &syn_ack, &tcp);
        let fin = |a: &str, b: &str| tcp(a, b).flags(FIN);
        let rst = |a: &str, b: &str| tcp(a, b).flags(TcpFlags::RST);
        let open = [(false, 0.0, s), (true, 1.0, sa), (false, 1.0, ack)];
        lives(f, &open[..1], 20.0);
        lives(f, &open[..2], 60.0);
        lives(f, &open, 8000.0);
        let half = [&open[..], &[(false, 1.0, &fin)]].concat();
        lives(f, &half, 120.0);
        // Traffic of the other half refreshes it.
        lives(f, &[&half[..], &[(true, 100.0, ack)]].concat(), 120.0);
        lives(f, &[&half[..], &[(true, 1.0, &fin)]].concat(), 30.0);
        lives(f, &[&open[..], &[(false, 1.0, &rst)]].concat(), 10.0);
    }
}

#[test]
fn udp_and_icmp_states_last_as_long_as_configured() {
    for f in BOTH {
        let u: &dyn Fn(&str, &str) -> Pkt = &udp;
        lives(f, &[(false, 0.0, u)], 60.0);
        lives(f, &[(false, 0.0, u), (true, 0.1, u)], 10.0);
        lives(f, &[(false, 0.0, u), (true, 0.1, u), (false, 0.1, u)], 60.0);
        lives(
            f,
            &[(false, 0.0, u), (true, 1.0, u), (false, 1.0, u), (true, 0.1, u)],
            180.0,
        );
        let mut lab = Lab::new();
        lab.send("client", &echo(&f.pod(1, 6), &f.pod(1, 5), 7));
        lab.advance_s(5.0);
        let line = lab.send("client", &echo(&f.pod(1, 6), &f.pod(1, 5), 7));
        assert_eq!(line.flow.map(|flow| flow.0), Some(true));
    }
}

#[test]
fn a_reset_outside_the_window_does_not_end_a_connection() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        lab.send("client", &syn(&a, &b).seq(1000, 0));
        lab.send("web", &syn_ack(&b, &a).seq(9000, 1001));
        lab.send("client", &tcp(&a, &b).seq(1001, 9001));
        let blind = tcp(&b, &a).flags(TcpFlags::RST).seq(0x8000_0000, 0);
        lab.send("web", &blind).tx("client", &blind.routed());
        lab.advance_s(100.0);
        assert_eq!(
            lab.send("client", &tcp(&a, &b)).flow.map(|flow| flow.0),
            Some(false)
        );
        lab.send("web", &tcp(&b, &a).flags(TcpFlags::RST).seq(9001, 0));
        lab.advance_s(10.0);
        assert_eq!(
            lab.send("client", &tcp(&a, &b)).flow.map(|flow| flow.0),
            Some(true)
        );
    }
}

#[test]
fn a_closed_connections_ports_open_another_at_once() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        lab.send("client", &syn(&a, &b));
        lab.send("web", &syn_ack(&b, &a));
        lab.send("client", &tcp(&a, &b).flags(FIN));
        lab.send("web", &tcp(&b, &a).flags(FIN));
        assert_eq!(
            lab.send("client", &syn(&a, &b)).flow.map(|flow| flow.0),
            Some(true)
        );
        assert_eq!(lab.live(), 1);
    }
}

#[test]
fn a_full_table_keeps_what_was_answered_and_lets_the_unanswered_go() {
    for f in BOTH {
        let mut lab = Lab::with_options(
            &Options {
                connections: 4,
                ..Options::default()
            },
            |_| {},
        );
        let b = f.at(&f.pod(1, 5), 80);
        let a = |n: u16| f.at(&f.pod(1, 6), 4000 + n);
        for n in 0..4 {
            lab.send("client", &udp(&a(n), &b));
            if n < 3 {
                lab.send("web", &udp(&b, &a(n)));
            }
        }
        // The unanswered fourth goes.
        assert_eq!(lab.send("client", &udp(&a(4), &b)).verdict, "tx");
        lab.send("web", &udp(&b, &a(4)))
            .tx("client", &udp(&b, &a(4)).routed());
        lab.send("client", &udp(&a(5), &b)).dropped_silently("table-full");
        for n in [0, 1, 2, 4] {
            assert_eq!(
                lab.send("client", &udp(&a(n), &b)).flow.map(|flow| flow.0),
                Some(false)
            );
        }
        lab.advance_s(60.0);
        assert_eq!(lab.send("client", &udp(&a(5), &b)).verdict, "tx");
    }
}

/// Clients from outside may be as many as they like, and each leaves an entry for hours.
#[test]
fn a_full_table_forgets_affinity_before_it_refuses_flows() {
    for f in BOTH {
        let options = Options {
            connections: 16,
            ..Options::default()
        };
        let mut lab = Lab::with_options(&options, |state| {
            let mut sticky = service("web:tcp", 10, 6, 80, &backend(1, 5, 8080));
            sticky.affinity_s = 10_800;
            state.services.push(sticky);
        });
        let vip = f.at(&f.vip(10), 80);
        for client in 0..30 {
            let src = f.at(&f.outside().replace('9', &format!("{}", 20 + client)), 1000);
            lab.send("uplink", &syn(&src, &vip));
            // The flows go, the affinities stay.
            lab.advance_s(20.0);
            lab.worker.expire_all(lab.now_ns);
        }
        assert_eq!((lab.live(), lab.shared.flows_live()), (15, 0));
        let b = f.at(&f.pod(1, 5), 80);
        for n in 0..20 {
            let a = f.at(&f.pod(1, 6), 4000 + n);
            let line = lab.send("client", &udp(&a, &b));
            if n < 16 {
                assert_eq!(line.verdict, "tx", "{n}");
                lab.send("web", &udp(&b, &a));
                assert_eq!(lab.shared.flows_live(), u64::from(n) + 1);
            } else {
                line.dropped_silently("table-full");
            }
        }
    }
}

#[test]
fn expired_flows_leave_the_table_without_a_packet() {
    for f in BOTH {
        let mut lab = Lab::new();
        for n in 0..100 {
            lab.send(
                "client",
                &udp(&f.at(&f.pod(1, 6), 4000 + n), &f.at(&f.pod(1, 5), 80)),
            );
        }
        assert_eq!(lab.live(), 100);
        lab.advance_s(60.0);
        for _ in 0..500 {
            lab.advance_s(0.005);
            lab.poll();
        }
        assert_eq!(lab.live(), 0);
        lab.assert_counters(&[
            ("rx", 100),
            ("tx", 100),
            ("flows-created", 100),
            ("flows-expired", 100),
        ]);
    }
}

#[test]
fn a_full_tx_ring_is_a_drop_not_a_tx() {
    for f in BOTH {
        let mut lab = Lab::with_options(
            &Options {
                tx_ring: 2,
                ..Options::default()
            },
            |_| {},
        );
        let pkt = udp(&f.at(&f.pod(1, 6), 4000), &f.at(&f.pod(1, 5), 80));
        let frame = lab.frame("client", &pkt.l3());
        let numbers: Vec<_> = (0..3).map(|_| lab.feed("client", &frame)).collect();
        lab.poll();
        let verdicts: Vec<_> = numbers.iter().map(|n| lab.line(*n).verdict).collect();
        assert_eq!(verdicts, ["tx", "tx", "drop"]);
        lab.line(numbers[2]).dropped_silently("tx-ring-full");
        lab.assert_counters(&[
            ("rx", 3),
            ("tx", 2),
            ("drop-tx-ring-full", 1),
            ("flows-created", 1),
        ]);
    }
}

#[test]
fn packets_wait_for_their_next_hop_four_of_them_for_a_second() {
    for f in BOTH {
        for resolves in [true, false] {
            let unknown = f.node(3);
            let mut lab = Lab::build(
                &Options::default(),
                |_| {},
                |underlay| {
                    underlay
                        .neighbours
                        .retain(|neighbour| neighbour.address.to_string() != unknown);
                },
            );
            let pkt = |n| udp(&f.at(&f.pod(1, 6), 4000 + n), &f.at(&f.pod(3, 9), 80));
            let numbers: Vec<_> = (0..5)
                .map(|n| {
                    let frame = lab.frame("client", &pkt(n).l3());
                    lab.feed("client", &frame)
                })
                .collect();
            lab.poll();
            assert!((0..4).all(|n| lab.is_held(numbers[n])));
            assert_eq!(lab.worker.counters().held.get(), 4);
            lab.line(numbers[4]).dropped_silently("neighbour-unresolved");
            if resolves {
                let known = crate::cluster::underlay();
                lab.change_underlay(|underlay| underlay.neighbours = known.neighbours);
                lab.poll();
                for n in 0..4 {
                    lab.line(numbers[n]).tx("uplink", &pkt(n as u16).routed());
                }
            } else {
                lab.advance_s(0.999);
                lab.poll();
                assert_eq!(lab.worker.held(), 4);
                lab.advance_s(0.001);
                lab.poll();
                lab.line(numbers[0]).dropped_silently("neighbour-unresolved");
                assert_eq!(lab.worker.held(), 0);
            }
        }
    }
}

#[test]
fn rules_are_counted_by_flow_and_by_packet() {
    let f = Fam::V4;
    let mut lab = Lab::with(|state| {
        state
            .policies
            .push(policy("web", &[crate::cluster::allow(&[], Some((6, 80)))], &[]));
        port_of(state, "web").ingress = attach(&["web"]);
    });
    let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
    lab.send("client", &syn(&a, &b));
    lab.send("web", &syn_ack(&b, &a));
    lab.send("client", &tcp(&a, &b));
    let counted: Vec<_> = (0..8)
        .filter_map(|rule| lab.worker.counters().rule(fastpath::snapshot::RuleId(rule)))
        .map(|rule| (rule.decisions.get(), rule.packets.get()))
        .filter(|counts| *counts != (0, 0))
        .collect();
    assert_eq!(counted, [(1, 3)]);
}

#[test]
fn a_pod_that_opens_flows_to_nowhere_leaves_room_for_the_others() {
    for f in BOTH {
        let mut lab = Lab::with_options(
            &Options {
                connections: 200,
                ..Options::default()
            },
            |_| {},
        );
        let b = f.at(&f.pod(1, 5), 80);
        let verdicts: Vec<_> = (0..100)
            .map(|n| lab.send("client", &syn(&f.at(&f.pod(1, 6), 4000 + n), &b)).reason)
            .collect();
        assert_eq!(
            verdicts.iter().filter(|reason| *reason == "table-full").count(),
            50
        );
        // Others open theirs, and an answer gives one back.
        assert_eq!(
            lab.send("other", &syn(&f.at(&f.pod(1, 7), 4000), &b)).verdict,
            "tx"
        );
        lab.send("web", &syn_ack(&b, &f.at(&f.pod(1, 6), 4000)));
        assert_eq!(
            lab.send("client", &syn(&f.at(&f.pod(1, 6), 5000), &b)).verdict,
            "tx"
        );
        assert_eq!(
            lab.send("client", &syn(&f.at(&f.pod(1, 6), 5001), &b)).reason,
            "table-full"
        );
        // So does time.
        lab.advance_s(20.0);
        for _ in 0..1000 {
            lab.advance_s(0.005);
            lab.poll();
        }
        assert_eq!(
            lab.send("client", &syn(&f.at(&f.pod(1, 6), 5001), &b)).verdict,
            "tx"
        );
    }
}
