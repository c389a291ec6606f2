//! Services: DNAT and the way back, hairpin, refusals.

use wire::tcp::TcpFlags;

use crate::cluster::{BOTH, Fam, backend, service};
use crate::lab::{Lab, Options, inner_of_vxlan};
use crate::packet::{Pkt, sctp, syn, syn_ack, tcp, udp};

fn all_protocols(node: u8, number: u8) -> impl FnOnce(&mut contract::proto::State) {
    move |state| {
        for (name, protocol) in [("web:tcp", 6), ("web:udp", 17), ("web:sctp", 132)] {
            state
                .services
                .push(service(name, 10, protocol, 80, &backend(node, number, 8080)));
        }
    }
}

#[test]
fn replies_come_from_the_vip_whatever_the_protocol() {
    for f in BOTH {
        let mut lab = Lab::with(all_protocols(1, 5));
        let (a, vip, b) = (
            f.at(&f.pod(1, 6), 4000),
            f.at(&f.vip(10), 80),
            f.at(&f.pod(1, 5), 8080),
        );
        for (name, make) in [
            ("tcp", syn as fn(&str, &str) -> Pkt),
            ("udp", udp),
            ("sctp", sctp),
        ] {
            let line = lab.send("client", &make(&a, &vip));
            line.tx("web", &make(&a, &b).routed());
            assert_eq!(line.service, Some(format!("default/web:{name}")));
            assert_eq!(
                line.flow,
                Some((true, format!("{name} {a} > {vip}"), format!("{name} {b} > {a}")))
            );
            let line = lab.send("web", &make(&b, &a));
            line.tx("client", &make(&vip, &a).routed());
            assert_eq!(line.service, Some(format!("default/web:{name}")));
        }
        lab.assert_counters(&[("rx", 6), ("tx", 6), ("flows-created", 3)]);
    }
}

#[test]
fn partial_checksums_are_carried_on_and_completed_where_they_must() {
    for f in BOTH {
        for (tx_checksum, node) in [(true, 1), (false, 1), (true, 2)] {
            let mut lab = Lab::with_options(
                &Options {
                    tx_checksum,
                    ..Options::default()
                },
                all_protocols(node, 5),
            );
            let (a, vip, b) = (
                f.at(&f.pod(1, 6), 4000),
                f.at(&f.vip(10), 80),
                f.at(&f.pod(node, 5), 8080),
            );
            for make in [syn as fn(&str, &str) -> Pkt, udp] {
                let line = lab.send_l3("client", &make(&a, &vip).payload(33).l3_partial());
                let expected = make(&a, &b).payload(33).routed();
                if node == 1 {
                    line.tx("web", &expected);
                } else {
                    assert_eq!(Pkt::read(&inner_of_vxlan(&line.out[0].1, 2)), Some(expected));
                }
            }
        }
    }
}

#[test]
fn a_backend_elsewhere_is_reached_and_answers_by_the_tunnel() {
    for f in BOTH {
        let mut lab = Lab::with(all_protocols(2, 9));
        let (a, vip, b) = (
            f.at(&f.pod(1, 6), 4000),
            f.at(&f.vip(10), 80),
            f.at(&f.pod(2, 9), 8080),
        );
        let line = lab.send("client", &syn(&a, &vip));
        assert_eq!(
            Pkt::read(&inner_of_vxlan(&line.out[0].1, 2)),
            Some(syn(&a, &b).routed())
        );
        let reply = lab.vxlan(2, &syn_ack(&b, &a).l3());
        lab.send_l3("uplink", &reply)
            .tx("client", &syn_ack(&vip, &a).routed());
        // The VXLAN source port is the flow's.
        let again = lab.send("client", &tcp(&a, &vip));
        let udp_at = if f == Fam::V4 { 34 } else { 54 };
        assert_eq!(
            again.out[0].1[udp_at..udp_at + 2],
            line.out[0].1[udp_at..udp_at + 2]
        );
    }
}

#[test]
fn a_service_without_endpoints_is_refused() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            state.services.push(service("web:tcp", 10, 6, 80, &[]));
            state.services.push(service("web:udp", 10, 17, 80, &[]));
        });
        let (a, vip) = (f.at(&f.pod(1, 6), 4000), f.at(&f.vip(10), 80));
        let line = lab.send("client", &syn(&a, &vip).seq(7, 0));
        line.dropped("no-endpoints");
        assert_eq!(line.service.as_deref(), Some("default/web:tcp"));
        let reset = tcp(&vip, &a).flags(TcpFlags::RST | TcpFlags::ACK).seq(0, 8);
        let (port, found) = line.packet();
        assert_eq!(
            (port.as_str(), found.src, found.dst, found.l4),
            ("client", reset.src, reset.dst, reset.l4)
        );
        let line = lab.send("client", &udp(&a, &vip));
        line.dropped("no-endpoints");
        let error = line.icmp_error();
        assert_eq!(
            (error.kind, error.code),
            if f == Fam::V4 { (3, 3) } else { (1, 4) }
        );
        assert_eq!(error.about, udp(&a, &vip).l3());
        // A port that the VIP does not have, and an address that no Service has.
        lab.send("client", &syn(&a, &f.at(&f.vip(10), 81)))
            .dropped("no-such-port");
        lab.send("client", &syn(&a, &f.at(&f.vip(11), 80)))
            .dropped_silently("unassigned-service-address");
        lab.assert_counters(&[
            ("rx", 4),
            ("drop-no-endpoints", 2),
            ("drop-no-such-port", 1),
            ("drop-unassigned-service-address", 1),
            ("generated", 3),
        ]);
    }
}

#[test]
fn a_segment_from_the_middle_is_reset_and_never_balanced() {
    for f in BOTH {
        let mut lab = Lab::with(all_protocols(1, 5));
        let (a, vip) = (f.at(&f.pod(1, 6), 4000), f.at(&f.vip(10), 80));
        let line = lab.send("client", &tcp(&a, &vip).seq(5, 6));
        line.dropped("no-flow");
        let (_, reset) = line.packet();
        assert_eq!(reset.l4, tcp(&vip, &a).flags(TcpFlags::RST).seq(6, 0).l4);
        assert_eq!(lab.live(), 0);
    }
}

#[test]
fn a_pod_reaches_itself_through_its_vip() {
    for f in BOTH {
        let mut lab = Lab::with(all_protocols(1, 6));
        let (a, vip, b) = (
            f.at(&f.pod(1, 6), 4000),
            f.at(&f.vip(10), 80),
            f.at(&f.pod(1, 6), 8080),
        );
        let line = lab.send("client", &syn(&a, &vip));
        let (port, seen) = line.packet();
        assert_eq!(
            (port.as_str(), seen.src.ip().to_string(), seen.dst.to_string()),
            ("client", f.node(1), b.clone())
        );
        let masqueraded = seen.src.to_string();
        lab.send("client", &syn_ack(&b, &masqueraded))
            .tx("client", &syn_ack(&vip, &a).routed());
    }
}

#[test]
fn two_vips_with_one_backend_and_one_client_port_never_collide() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            state
                .services
                .push(service("one:tcp", 10, 6, 80, &backend(1, 5, 8080)));
            state
                .services
                .push(service("two:tcp", 11, 6, 80, &backend(1, 5, 8080)));
        });
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 8080));
        let vips = [f.at(&f.vip(10), 80), f.at(&f.vip(11), 80)];
        lab.send("client", &syn(&a, &vips[0]))
            .tx("web", &syn(&a, &b).routed());
        let (_, second) = lab.send("client", &syn(&a, &vips[1])).packet();
        assert_eq!(second.src.ip().to_string(), f.pod(1, 6));
        assert_ne!(second.src.to_string(), a);
        let other = second.src.to_string();
        lab.send("web", &syn_ack(&b, &a))
            .tx("client", &syn_ack(&vips[0], &a).routed());
        lab.send("web", &syn_ack(&b, &other))
            .tx("client", &syn_ack(&vips[1], &a).routed());
    }
}

#[test]
fn the_node_itself_reaches_a_vip() {
    for f in BOTH {
        let mut lab = Lab::with(all_protocols(1, 5));
        let (a, vip, b) = (
            f.at(&f.node(1), 4000),
            f.at(&f.vip(10), 80),
            f.at(&f.pod(1, 5), 8080),
        );
        lab.send("host", &syn(&a, &vip)).tx("web", &syn(&a, &b).routed());
        lab.send("web", &syn_ack(&b, &a))
            .tx("host", &syn_ack(&vip, &a).routed());
    }
}

#[test]
fn a_client_with_affinity_comes_back_to_its_backend_until_its_time_is_up() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            let backends: Vec<_> = (5..8).flat_map(|number| backend(1, number, 8080)).collect();
            let mut sticky = service("web:tcp", 10, 6, 80, &backends);
            sticky.affinity_s = 100;
            state.services.push(sticky);
        });
        let vip = f.at(&f.vip(10), 80);
        let backend_of = |lab: &mut Lab, src: String, port: u16| {
            let frame = lab.frame("uplink", &syn(&f.at(&src, port), &vip).l3());
            lab.send_frame("uplink", &frame).packet().0
        };
        let mut seen = std::collections::BTreeSet::new();
        for client in 0..12 {
            let src = f.outside().replace('9', &format!("{}", 20 + client));
            let first = backend_of(&mut lab, src.clone(), 1000);
            for port in 1001..1004 {
                lab.advance_s(60.0);
                assert_eq!(
                    backend_of(&mut lab, src.clone(), port),
                    first,
                    "each new connection starts the time anew"
                );
            }
            seen.insert(first);
        }
        assert_eq!(seen.len(), 3, "clients spread: {seen:?}");
        assert!(
            lab.shared.flows_live() < u64::from(lab.live()),
            "affinities are no flows"
        );
        // A backend that is not ready any more gets nobody, whatever the affinity.
        let src = f.outside().replace('9', "20");
        let first = backend_of(&mut lab, src.clone(), 2000);
        let gone = match first.as_str() {
            "web" => 5,
            "client" => 6,
            _ => 7,
        };
        lab.change(|state| {
            state.services[0]
                .backends
                .retain(|backend| *backend.address.last().unwrap() != gone);
        });
        let second = backend_of(&mut lab, src.clone(), 2001);
        assert_ne!(second, first);
        assert_eq!(backend_of(&mut lab, src, 2002), second);
        lab.advance_s(200.0);
        for _ in 0..1000 {
            lab.advance_s(0.005);
            lab.poll();
        }
        assert_eq!(lab.live(), 0, "affinity expires");
    }
}
