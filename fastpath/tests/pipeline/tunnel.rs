//! Tunnels: IPIP, ECN, the host's own traffic, replies by another way.

use wire::ipv4::Ipv4Header;

use crate::cluster::{BOTH, Fam, node_mac};
use crate::lab::{Lab, Options, inner_of_vxlan};
use crate::packet::{Pkt, echo_reply, syn, syn_ack, udp};

#[test]
fn ipip_carries_ipv4_there_and_back() {
    let f = Fam::V4;
    let mut lab = Lab::new();
    let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(4, 9), 80));
    let line = lab.send("client", &udp(&a, &b).tos(1));
    let frame = &line.out[0].1;
    assert_eq!(&frame[..6], &node_mac(4).0[..]);
    let outer = Ipv4Header::parse(&frame[14..]).unwrap();
    assert_eq!(
        (outer.header.src().to_string(), outer.header.dst().to_string()),
        (f.node(1), f.node(4))
    );
    assert_eq!((outer.header.proto.0, outer.header.tos), (4, 1));
    assert!(wire::ipv4::checksum_is_valid(&frame[14..34]));
    assert_eq!(Pkt::read(outer.payload), Some(udp(&a, &b).tos(1).routed()));

    let reply = udp(&b, &a);
    let outer = Pkt {
        l4: crate::packet::L4::Other(4),
        payload: reply.l3(),
        ..udp(&f.node(4), &f.node(1))
    };
    lab.send("uplink", &outer).tx("client", &reply.routed());
    let stranger = Pkt {
        src: format!("{}:0", f.node(3)).parse().unwrap(),
        ..outer
    };
    lab.send("uplink", &stranger).dropped_silently("tunnel-spoofed");
}

#[test]
fn congestion_is_told_across_the_tunnel() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(2, 9), 80));
        let line = lab.send("client", &udp(&a, &b).tos(0xb8 | 2));
        let outer = wire::packet::parse_l3(&line.out[0].1[14..]).unwrap();
        assert_eq!(outer.tos, 0xb8 | 2, "ECN and DSCP are copied");
        assert_eq!(
            Pkt::read(&inner_of_vxlan(&line.out[0].1, 2)).map(|p| p.tos),
            Some(0xb8 | 2)
        );

        let reply = udp(&b, &a).tos(2);
        let mut marked = lab.vxlan(2, &reply.l3());
        if f == Fam::V4 {
            Ipv4Header::prefix_mut(&mut marked).unwrap().set_tos(3);
        } else {
            wire::ipv6::Ipv6Header::prefix_mut(&mut marked)
                .unwrap()
                .set_traffic_class(3);
        }
        lab.send_l3("uplink", &marked)
            .tx("client", &reply.tos(3).routed());
    }
}

#[test]
fn what_the_host_sends_into_a_tunnelled_block_has_the_tunnel_address() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (node, b) = (f.at(&f.node(1), 40000), f.at(&f.pod(2, 9), 80));
        let line = lab.send("host", &syn(&node, &b));
        let masqueraded = f.at(&f.tunnel(1), 40000);
        assert_eq!(
            Pkt::read(&inner_of_vxlan(&line.out[0].1, 2)),
            Some(syn(&masqueraded, &b).routed())
        );
        let reply = lab.vxlan(2, &syn_ack(&b, &masqueraded).l3());
        lab.send_l3("uplink", &reply)
            .tx("host", &syn_ack(&b, &node).routed());
        // With the right source already, nothing is rewritten and the kernel gets the reply as it came.
        let tunnel = f.at(&f.tunnel(1), 40001);
        let line = lab.send("host", &syn(&tunnel, &b));
        assert_eq!(
            Pkt::read(&inner_of_vxlan(&line.out[0].1, 2)),
            Some(syn(&tunnel, &b).routed())
        );
        let reply = lab.vxlan(2, &syn_ack(&b, &tunnel).l3());
        lab.send_l3("uplink", &reply)
            .tx("host", &syn_ack(&b, &tunnel).routed());
    }
}

#[test]
fn a_pod_elsewhere_reaches_this_node_and_is_answered_by_the_tunnel() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (b, node) = (f.at(&f.pod(2, 9), 4000), f.at(&f.tunnel(1), 10250));
        let l3 = lab.vxlan(2, &syn(&b, &node).l3());
        let line = lab.send_l3("uplink", &l3);
        assert_eq!((line.verdict.as_str(), line.reason.as_str()), ("punt", "to-host"));
        assert_eq!(line.packet(), ("host".into(), syn(&b, &node)));
        let line = lab.send("host", &syn_ack(&node, &b));
        assert_eq!(
            Pkt::read(&inner_of_vxlan(&line.out[0].1, 2)),
            Some(syn_ack(&node, &b).routed())
        );
    }
}

#[test]
fn a_pod_elsewhere_that_asked_the_nodes_own_address_is_answered_plainly_and_with_it() {
    for f in BOTH {
        let mut lab = Lab::new();
        let plainly = |lab: &mut Lab, packet: &Pkt| {
            let line = lab.send("host", packet);
            line.tx("uplink", &packet.clone().routed());
            assert_eq!(&line.out[0].1[..6], &node_mac(2).0[..], "to the pod's node");
        };
        let (b, node) = (f.at(&f.pod(2, 9), 40000), f.at(&f.node(1), 10250));
        plainly(&mut lab, &syn_ack(&node, &b));
        plainly(&mut lab, &udp(&node, &b));
        let (b, node) = (f.at(&f.pod(2, 9), 0), f.at(&f.node(1), 0));
        plainly(&mut lab, &echo_reply(&node, &b, 7));
        // The node behind a router can't be answered so: the router knows no pods.
        let mut lab = Lab::build(
            &Options::default(),
            |_| {},
            |underlay| {
                underlay
                    .routes
                    .retain(|route| route.next_hops.iter().all(|hop| hop.gateway.is_some()));
            },
        );
        lab.send("host", &echo_reply(&node, &b, 7))
            .dropped_silently("no-flow");
    }
}

#[test]
fn a_reply_that_comes_by_a_tunnel_where_we_need_none_finds_its_flow() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(3, 9), 80));
        lab.send("client", &udp(&a, &b))
            .tx("uplink", &udp(&a, &b).routed());
        let reply = lab.vxlan(3, &udp(&b, &a).l3());
        let line = lab.send_l3("uplink", &reply);
        line.tx("client", &udp(&b, &a).routed());
        assert_eq!(line.flow.map(|flow| flow.0), Some(false));
    }
}
