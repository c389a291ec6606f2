//! Who may send what: pods, the uplink, tunnels.

use wire::Mac;
use wire::ethernet::{EtherHeader, EtherType};
use zerocopy::IntoBytes;

use crate::cluster::{BOTH, Fam, pod, pod_mac};
use crate::lab::Lab;
use crate::packet::{L4, Pkt, echo, echo_reply, syn, tcp, udp};

#[test]
fn a_pod_sends_from_its_own_addresses_and_mac_alone() {
    for f in BOTH {
        let mut lab = Lab::new();
        let to = f.at(&f.pod(1, 5), 80);
        for src in [
            f.pod(1, 5),
            f.pod(1, 200),
            f.pod(2, 9),
            f.node(1),
            f.outside(),
            f.vip(1),
        ] {
            lab.send("client", &syn(&f.at(&src, 4000), &to))
                .dropped_silently("spoofed-source");
        }
        let mut frame = lab.frame("client", &syn(&f.at(&f.pod(1, 6), 4000), &to).l3());
        frame[6..12].copy_from_slice(&pod_mac(5).0);
        lab.send_frame("client", &frame).dropped_silently("spoofed-mac");
        frame[6..12].copy_from_slice(&pod_mac(6).0);
        frame[..6].copy_from_slice(&pod_mac(5).0);
        lab.send_frame("client", &frame).dropped_silently("not-for-us");
        lab.assert_counters(&[
            ("rx", 8),
            ("drop-spoofed-source", 6),
            ("drop-spoofed-mac", 1),
            ("drop-not-for-us", 1),
        ]);
    }
}

#[test]
fn another_pods_tuple_does_not_ride_on_its_flow() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        lab.send("client", &syn(&a, &b)).tx("web", &syn(&a, &b).routed());
        lab.send("other", &syn(&a, &b)).dropped_silently("spoofed-source");
        lab.send("uplink", &syn(&a, &b))
            .dropped_silently("spoofed-source");
        lab.send("host", &syn(&a, &b)).dropped_silently("spoofed-source");
    }
}

/// A tag is another network's, which is not our port's; with id 0 it is a priority alone.
#[test]
fn a_tagged_frame_is_not_of_this_network() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        let plain = lab.frame("client", &syn(&a, &b).l3());
        let tagged = |tag: [u8; 2]| [&plain[..12], &[0x81, 0], &tag, &plain[12..]].concat();
        lab.send_frame("client", &tagged([0, 42]))
            .dropped_silently("not-for-us");
        lab.send_frame("client", &tagged([0xa0, 0]))
            .tx("web", &syn(&a, &b).routed());
        lab.assert_counters(&[("rx", 2), ("tx", 1), ("flows-created", 1), ("drop-not-for-us", 1)]);
    }
}

/// Ports are numbered anew: what a pod that is gone left behind is not its successor's.
#[test]
fn a_pod_does_not_inherit_the_connections_of_one_that_had_its_port() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.outside(), 80));
        lab.send("client", &syn(&a, &b)).packet();
        let port = lab.port("client");
        lab.change(|state| state.ports.retain(|port| port.name != "pod:default/client"));
        lab.change(|state| state.ports.push(pod("thief", 8)));
        assert_eq!(lab.port("thief"), port, "the number is used again");
        lab.send("thief", &tcp(&a, &b)).dropped_silently("spoofed-source");
        assert_eq!(lab.live(), 0);
    }
}

#[test]
fn tunnel_packets_crafted_by_a_pod_are_dropped() {
    let f = Fam::V4;
    let mut lab = Lab::new();
    let from = f.pod(1, 6);
    lab.send("client", &udp(&f.at(&from, 4000), &f.at(&f.node(2), 4789)))
        .dropped_silently("tunnel-spoofed");
    let ipip = |src: &str, dst: &str, proto| Pkt {
        l4: L4::Other(proto),
        ..udp(src, dst)
    };
    lab.send("client", &ipip(&from, &f.node(2), 4))
        .dropped_silently("tunnel-spoofed");
    lab.send("client", &ipip(&from, &f.node(2), 41))
        .dropped_silently("tunnel-spoofed");
}

#[test]
fn servers_of_dhcp_and_routers_are_no_pods() {
    let mut lab = Lab::new();
    for (f, ports) in [(Fam::V4, (67, 68)), (Fam::V6, (547, 546))] {
        let pkt = udp(&f.at(&f.pod(1, 6), ports.0), &f.at(&f.pod(1, 5), ports.1));
        lab.send("client", &pkt).dropped_silently("forbidden-from-pod");
    }
    let advertisement = Pkt {
        l4: L4::Other(58),
        payload: vec![134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ..udp("fe80::1", "ff02::1")
    };
    lab.send("client", &advertisement)
        .dropped_silently("forbidden-from-pod");
}

#[test]
fn the_uplink_brings_neither_our_addresses_nor_tunnelled_pods_plainly() {
    for f in BOTH {
        let mut lab = Lab::new();
        let to = f.at(&f.pod(1, 5), 80);
        for src in [f.pod(1, 6), f.node(1), f.tunnel(1), f.pod(2, 9)] {
            lab.send("uplink", &udp(&f.at(&src, 4000), &to))
                .dropped_silently("spoofed-source");
        }
        for src in [f.pod(3, 9), f.node(2), f.outside()] {
            lab.send("uplink", &udp(&f.at(&src, 4000), &to))
                .tx("web", &udp(&f.at(&src, 4000), &to).routed());
        }
    }
}

#[test]
fn a_tunnel_brings_what_its_node_owns() {
    for f in BOTH {
        let mut lab = Lab::new();
        let to = f.at(&f.pod(1, 5), 80);
        for src in [f.pod(3, 9), f.pod(1, 6), f.outside(), f.tunnel(3), f.node(1)] {
            let l3 = lab.vxlan(2, &udp(&f.at(&src, 4000), &to).l3());
            lab.send_l3("uplink", &l3).dropped_silently("tunnel-spoofed");
        }
        for src in [f.pod(2, 9), f.tunnel(2)] {
            let pkt = udp(&f.at(&src, 4000), &to);
            let l3 = lab.vxlan(2, &pkt.l3());
            lab.send_l3("uplink", &l3).tx("web", &pkt.clone().routed());
            // The same packet, by another node's tunnel.
            let l3 = lab.vxlan(3, &pkt.l3());
            lab.send_l3("uplink", &l3).dropped_silently("tunnel-spoofed");
        }
    }
}

#[test]
fn tunnels_of_strangers_and_other_networks_are_the_kernels() {
    for f in BOTH {
        let mut lab = Lab::new();
        let inner = udp(&f.at(&f.pod(2, 9), 4000), &f.at(&f.pod(1, 5), 80)).l3();
        for l3 in [
            lab.vxlan_from(&f.node(77), 4096, &inner),
            lab.vxlan_from(&f.node(2), 5000, &inner),
        ] {
            let frame = lab.frame("uplink", &l3);
            let line = lab.send_frame("uplink", &frame);
            assert_eq!((line.verdict.as_str(), line.reason.as_str()), ("punt", "to-host"));
            assert_eq!((line.out[0].0.as_str(), &line.out[0].1), ("host", &frame));
        }
    }
}

#[test]
fn neighbours_multicast_and_strangers_macs_on_the_uplink() {
    let f = Fam::V4;
    let mut lab = Lab::new();
    let arp = [
        EtherHeader::new(Mac::BROADCAST, Mac([2, 0, 0, 0, 0, 9]), EtherType::ARP).as_bytes(),
        &[0; 46],
    ]
    .concat();
    let line = lab.send_frame("uplink", &arp);
    assert_eq!(
        (line.verdict.as_str(), line.reason.as_str(), &line.out[0].1),
        ("punt", "neighbour-protocol", &arp)
    );
    let line = lab.send("uplink", &udp(&f.at(&f.outside(), 5353), "224.0.0.251:5353"));
    assert_eq!(
        (line.verdict.as_str(), line.reason.as_str()),
        ("punt", "multicast")
    );
    let mut frame = lab.frame(
        "uplink",
        &udp(&f.at(&f.outside(), 1), &f.at(&f.pod(1, 5), 2)).l3(),
    );
    frame[5] ^= 1;
    lab.send_frame("uplink", &frame).dropped_silently("not-for-us");
}

#[test]
fn the_gateway_answers_arp_neighbour_solicitations_and_echo() {
    let mut lab = Lab::new();
    let request = [
        &[0, 1, 8, 0, 6, 4, 0, 1][..],
        &pod_mac(6).0,
        &[10, 244, 1, 6],
        &[0; 6],
        &[169, 254, 1, 1],
    ]
    .concat();
    let frame = [
        EtherHeader::new(Mac::BROADCAST, pod_mac(6), EtherType::ARP).as_bytes(),
        &request,
    ]
    .concat();
    let line = lab.send_frame("client", &frame);
    assert_eq!((line.verdict.as_str(), line.out[0].0.as_str()), ("tx", "client"));
    assert_eq!(
        &line.out[0].1[..28],
        &[
            &pod_mac(6).0[..],
            &[0xee; 6],
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
            &[0xee; 6]
        ]
        .concat()
    );
    let ping = echo("10.244.1.6", "169.254.1.1", 7);
    lab.send("client", &ping)
        .tx("client", &echo_reply("169.254.1.1", "10.244.1.6", 7));
    let ping = echo("fd00:1::6", "fe80::ecee:eeff:feee:eeee", 7);
    lab.send("client", &ping)
        .tx("client", &echo_reply("fe80::ecee:eeff:feee:eeee", "fd00:1::6", 7));
    lab.assert_counters(&[("rx", 3), ("tx", 3)]);
}

#[test]
fn an_echo_from_the_other_end_is_no_reply_to_ours() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.pod(1, 6), f.pod(1, 5));
        lab.send("client", &echo(&a, &b, 9))
            .tx("web", &echo(&a, &b, 9).routed());
        lab.send("web", &echo_reply(&b, &a, 9))
            .tx("client", &echo_reply(&b, &a, 9).routed());
        let line = lab.send("web", &echo(&b, &a, 9));
        assert_eq!(line.flow.map(|flow| flow.0), Some(true), "another flow");
        lab.send("web", &echo_reply(&b, &a, 10))
            .dropped_silently("no-flow");
    }
}

/// Found by the `pipeline` fuzz target: the answer is as long as the question, which its link need not carry.
#[test]
fn an_echo_to_the_gateway_that_does_not_fit_the_link_is_not_answered() {
    let mut lab = Lab::new();
    let ping = echo("10.244.1.6", "169.254.1.1", 7);
    assert_eq!(lab.send("client", &ping.clone().payload(1450 - 28)).verdict, "tx");
    lab.send("client", &ping.payload(1450 - 27))
        .dropped_silently("too-big");
}
