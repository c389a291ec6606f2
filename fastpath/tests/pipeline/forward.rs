//! Pod to pod, pod to node, pod to elsewhere: routing, antispoofing, TTL.

use fastpath::underlay::{Neighbour, Underlay, UnderlayRoute};

use crate::cluster::{BOTH, Fam, HOST_MAC, ROUTER_MAC, UPLINK_MAC, node_mac, pod_mac};
use crate::lab::{Lab, Options, inner_of_vxlan};
use crate::packet::{Pkt, syn, syn_ack, tcp, udp};

#[test]
fn a_packet_between_pods_of_this_node_is_routed_once() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        let line = lab.send("client", &syn(&a, &b));
        line.tx("web", &syn(&a, &b).routed());
        assert_eq!(
            (&line.out[0].1[..6], &line.out[0].1[6..12]),
            (&pod_mac(5).0[..], &[0xee; 6][..])
        );
        assert_eq!(
            line.flow,
            Some((true, format!("tcp {a} > {b}"), format!("tcp {b} > {a}")))
        );
        lab.send("web", &syn_ack(&b, &a))
            .tx("client", &syn_ack(&b, &a).routed());
        let line = lab.send("client", &tcp(&a, &b));
        line.tx("web", &tcp(&a, &b).routed());
        assert_eq!(line.flow.map(|flow| flow.0), Some(false));
        lab.assert_counters(&[("rx", 3), ("tx", 3), ("flows-created", 1)]);
        assert_eq!(lab.live(), 1);
    }
}

#[test]
fn a_pod_elsewhere_is_reached_by_vxlan_and_answers_by_it() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(2, 9), 80));
        let line = lab.send("client", &syn(&a, &b));
        assert_eq!((line.verdict.as_str(), line.out[0].0.as_str()), ("tx", "uplink"));
        let inner = inner_of_vxlan(&line.out[0].1, 2);
        assert_eq!(Pkt::read(&inner), Some(syn(&a, &b).routed()));
        let reply = lab.vxlan(2, &syn_ack(&b, &a).l3());
        lab.send_l3("uplink", &reply)
            .tx("client", &syn_ack(&b, &a).routed());
        lab.assert_counters(&[("rx", 2), ("tx", 2), ("flows-created", 1)]);
    }
}

#[test]
fn what_goes_beyond_the_cluster_is_masqueraded() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.outside(), 53));
        let line = lab.send("client", &udp(&a, &b));
        let (port, sent) = line.packet();
        assert_eq!(port, "uplink");
        assert_eq!(sent.src.ip().to_string(), f.node(1));
        assert!((45000..=65535).contains(&sent.src.port()), "{}", sent.src);
        let masqueraded = sent.src.to_string();
        assert_eq!(sent, udp(&masqueraded, &b).routed());
        lab.send("uplink", &udp(&b, &masqueraded))
            .tx("client", &udp(&b, &a).routed());
        lab.assert_counters(&[("rx", 2), ("tx", 2), ("flows-created", 1)]);
    }
}

#[test]
fn a_pod_reaches_its_node_unchanged_and_the_node_answers() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.node(1), 22));
        let line = lab.send("client", &syn(&a, &b));
        assert_eq!((line.verdict.as_str(), line.reason.as_str()), ("punt", "to-host"));
        assert_eq!(line.packet(), ("host".into(), syn(&a, &b)));
        lab.send("host", &syn_ack(&b, &a))
            .tx("client", &syn_ack(&b, &a).routed());
        lab.assert_counters(&[("rx", 2), ("punt-to-host", 1), ("tx", 1), ("flows-created", 1)]);
    }
}

#[test]
fn a_plain_block_is_reached_plainly() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(3, 9), 80));
        let line = lab.send("client", &udp(&a, &b));
        line.tx("uplink", &udp(&a, &b).routed());
        assert_eq!(
            (&line.out[0].1[..6], &line.out[0].1[6..12]),
            (&node_mac(3).0[..], &UPLINK_MAC.0[..])
        );
        lab.send("uplink", &udp(&b, &a))
            .tx("client", &udp(&b, &a).routed());
    }
}

/// Forgets the routes to the plain block of node 3.
fn without_route(underlay: &mut Underlay) {
    underlay.routes.retain(|route| !is_block_route(route));
}

fn is_block_route(route: &UnderlayRoute) -> bool {
    let prefix = route.prefix.to_string();
    prefix == "10.244.3.0/24" || prefix == "fd00:3::/64"
}

fn is_default(route: &UnderlayRoute) -> bool {
    route.prefix.prefix_len() == 0
}

fn is_own_link(route: &UnderlayRoute) -> bool {
    !is_default(route) && route.next_hops.iter().all(|hop| hop.gateway.is_none())
}

#[test]
fn a_plain_block_without_a_route_is_reached_by_its_node_on_the_link() {
    for f in BOTH {
        // No route at all, or the default one.
        for has_default in [false, true] {
            let mut lab = Lab::build(&Options::default(), |_| {}, without_route);
            if !has_default {
                lab.change_underlay(|underlay| underlay.routes.retain(|route| !is_default(route)));
            }
            let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(3, 9), 80));
            let line = lab.send("client", &udp(&a, &b));
            line.tx("uplink", &udp(&a, &b).routed());
            assert_eq!(line.out[0].1[..6], node_mac(3).0);
            lab.send("uplink", &udp(&b, &a))
                .tx("client", &udp(&b, &a).routed());
            // What begins at the other end is answered there too.
            let (a, b) = (f.at(&f.pod(1, 6), 80), f.at(&f.pod(3, 9), 4000));
            lab.send("uplink", &udp(&b, &a))
                .tx("client", &udp(&b, &a).routed());
            let line = lab.send("client", &udp(&a, &b));
            line.tx("uplink", &udp(&a, &b).routed());
            assert_eq!(line.out[0].1[..6], node_mac(3).0);
            lab.assert_counters(&[("rx", 4), ("tx", 4), ("flows-created", 2)]);
        }
    }
}

#[test]
fn a_route_to_a_plain_block_wins_over_its_node_and_moves_what_is_established() {
    for f in BOTH {
        let mut lab = Lab::build(&Options::default(), |_| {}, without_route);
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(3, 9), 80));
        let leaves_to = |lab: &mut Lab, mac: [u8; 6]| {
            let line = lab.send("client", &udp(&a, &b));
            line.tx("uplink", &udp(&a, &b).routed());
            assert_eq!(line.out[0].1[..6], mac);
        };
        leaves_to(&mut lab, node_mac(3).0);
        // A routing daemon learns the block by another node.
        lab.change_underlay(|underlay| {
            for f in BOTH {
                let mut route = underlay
                    .routes
                    .iter()
                    .find(|route| is_default(route))
                    .cloned()
                    .unwrap();
                route.prefix = if f == Fam::V4 {
                    "10.244.0.0/16"
                } else {
                    "fd00:3::/64"
                }
                .parse()
                .unwrap();
                route.next_hops[0].gateway = f.node(2).parse().ok();
                underlay.routes.push(route);
            }
        });
        leaves_to(&mut lab, node_mac(2).0);
        lab.change_underlay(|underlay| {
            underlay.routes.retain(|route| {
                !matches!(route.prefix.to_string().as_str(), "10.244.0.0/16" | "fd00:3::/64")
            });
        });
        leaves_to(&mut lab, node_mac(3).0);
        // Its node moves behind the router: the default route is all there is.
        lab.change_underlay(|underlay| underlay.routes.retain(|route| !is_own_link(route)));
        leaves_to(&mut lab, ROUTER_MAC.0);
        lab.assert_counters(&[("rx", 4), ("tx", 4), ("flows-created", 1), ("redecisions", 3)]);
    }
}

#[test]
fn a_packet_to_a_plain_block_waits_for_its_nodes_mac() {
    for f in BOTH {
        let forget = |underlay: &mut Underlay| {
            let three = f.node(3).parse::<std::net::IpAddr>().unwrap();
            underlay.neighbours.retain(|neighbour| neighbour.address != three);
        };
        let mut lab = Lab::build(
            &Options::default(),
            |_| {},
            |underlay| {
                without_route(underlay);
                forget(underlay);
            },
        );
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(3, 9), 80));
        let frame = lab.frame("client", &udp(&a, &b).l3());
        let number = lab.feed("client", &frame);
        lab.poll();
        assert!(lab.is_held(number));
        lab.change_underlay(|underlay| {
            underlay.neighbours.push(Neighbour {
                port: "uplink".into(),
                address: f.node(3).parse().unwrap(),
                mac: node_mac(3),
            });
        });
        let line = lab.line(number);
        line.tx("uplink", &udp(&a, &b).routed());
        assert_eq!(line.out[0].1[..6], node_mac(3).0);
        lab.assert_counters(&[("rx", 1), ("tx", 1), ("flows-created", 1)]);
    }
}

#[test]
fn ttl_runs_out_with_an_answer_from_the_node() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        let line = lab.send("client", &udp(&a, &b).ttl(1));
        line.dropped("ttl-exceeded");
        let error = line.icmp_error();
        assert_eq!(
            (error.src.to_string(), error.dst.to_string()),
            (f.node(1), f.pod(1, 6))
        );
        assert_eq!(error.about, udp(&a, &b).ttl(1).l3());
        assert_eq!(line.out[0].0, "client");
        lab.assert_counters(&[("rx", 1), ("drop-ttl-exceeded", 1), ("generated", 1)]);
    }
}

const _: wire::Mac = HOST_MAC;
