//! Too big, fragments, ICMP errors about translated flows.

use wire::ipv4::Ipv4Header;

use crate::cluster::{BOTH, Fam, backend, service};
use crate::lab::{Lab, inner_of_vxlan};
use crate::packet::{IcmpError, Pkt, echo, syn, udp};

/// A too-big (v4: fragmentation needed) from `src` to `dst` about `about`.
fn too_big(f: Fam, src: &str, dst: &str, mtu: u32, about: &[u8]) -> IcmpError {
    let (kind, code) = if f == Fam::V4 { (3, 4) } else { (2, 0) };
    IcmpError {
        kind,
        code,
        rest: mtu,
        src: src.parse().unwrap(),
        dst: dst.parse().unwrap(),
        about: about.to_vec(),
    }
}

#[test]
fn too_big_is_answered_with_the_mtu_of_the_way() {
    for f in BOTH {
        let mut lab = Lab::new();
        let a = f.at(&f.pod(1, 6), 4000);
        let overhead = if f == Fam::V4 { 50 } else { 70 };
        for (to, mtu) in [
            (f.pod(2, 9), 1500 - overhead),
            (f.pod(1, 5), 1450),
            (f.pod(3, 9), 1500),
        ] {
            let header = if f == Fam::V4 { 28 } else { 48 };
            let fits = udp(&a, &f.at(&to, 80)).payload(mtu as usize - header);
            assert_eq!(lab.send("client", &fits).verdict, "tx");
            let big = udp(&a, &f.at(&to, 80)).payload(mtu as usize - header + 1);
            let line = lab.send("client", &big);
            line.dropped("too-big");
            let error = line.icmp_error();
            let quoted = error.about.len();
            assert_eq!(
                error,
                too_big(f, &f.node(1), &f.pod(1, 6), mtu, &big.l3()[..quoted])
            );
        }
    }
}

/// Found by the `pipeline` fuzz target: an error of 1280 bytes into a tunnel that carries 1230.
#[test]
fn an_error_fits_the_tunnel_that_it_goes_back_by() {
    let f = Fam::V6;
    let mut lab = Lab::new();
    lab.change_underlay(|underlay| underlay.links[0].mtu = 1300);
    let big = udp(&f.at(&f.pod(2, 9), 80), &f.at(&f.pod(1, 6), 4000)).payload(1403);
    let line = lab.send_l3("uplink", &lab.vxlan(2, &big.l3()));
    line.dropped("too-big");
    let [(port, frame, _)] = &line.out[..] else {
        panic!("one answer expected: {line:?}")
    };
    assert_eq!((port.as_str(), frame.len()), ("uplink", 14 + 1300));
    let error = IcmpError::read(&inner_of_vxlan(frame, 2)).unwrap();
    let about = &big.l3()[..1300 - 70 - 48];
    assert_eq!(error, too_big(f, &f.tunnel(1), &f.pod(2, 9), 1450, about));
}

#[test]
fn ipv4_that_may_be_cut_is_cut_before_encapsulation() {
    let f = Fam::V4;
    let mut lab = Lab::new();
    let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(2, 9), 80));
    let big = udp(&a, &b).may_fragment().id(77).payload(3000);
    let line = lab.send("client", &big);
    assert_eq!((line.verdict.as_str(), line.out.len()), ("tx", 3));
    let mut payload = vec![];
    for (_, frame, _) in &line.out {
        let inner = inner_of_vxlan(frame, 2);
        assert!(inner.len() <= 1450 && wire::ipv4::checksum_is_valid(&inner[..20]));
        let header = Ipv4Header::parse(&inner).unwrap();
        assert_eq!((header.header.ttl, header.header.id.get()), (63, 77));
        assert_eq!(usize::from(header.header.fragment_offset()), payload.len());
        payload.extend_from_slice(header.payload);
    }
    assert_eq!(payload, big.l3()[20..]);
    lab.assert_counters(&[("rx", 1), ("tx", 1), ("split", 2), ("flows-created", 1)]);
}

/// An IPv4 packet cut at `at` bytes of its payload, or an IPv6 one with fragment headers.
fn cut(f: Fam, pkt: &Pkt, at: usize) -> [Vec<u8>; 2] {
    cut_as(f, pkt, at, 99)
}

/// The same with this identification.
pub fn cut_as(f: Fam, pkt: &Pkt, at: usize, id: u16) -> [Vec<u8>; 2] {
    let l3 = pkt.l3();
    let header_len = if f == Fam::V4 { 20 } else { 40 };
    let (header, payload) = l3.split_at(header_len);
    [(0, &payload[..at], true), (at, &payload[at..], false)].map(|(offset, part, more)| match f {
        Fam::V4 => {
            let mut bytes = header.to_vec();
            let fixed = Ipv4Header::prefix_mut(&mut bytes).unwrap();
            fixed.set_total_len((20 + part.len()) as u16);
            fixed.set_fragment(id, if more { 0x2000 } else { 0 } | (offset / 8) as u16);
            [&bytes, part].concat()
        }
        Fam::V6 => {
            let mut bytes = header.to_vec();
            let fixed = wire::ipv6::Ipv6Header::prefix_mut(&mut bytes).unwrap();
            let fragment = wire::ipv6::FragmentHeader::new(fixed.next_header, id.into(), offset as u16, more);
            fixed.next_header = wire::IpProtocol::FRAGMENT;
            fixed.payload_len.set((8 + part.len()) as u16);
            [&bytes, zerocopy::IntoBytes::as_bytes(&fragment), part].concat()
        }
    })
}

#[test]
fn fragments_follow_their_first_through_a_service_in_any_order() {
    for f in BOTH {
        for late_first in [false, true] {
            let mut lab = Lab::with(|state| {
                state
                    .services
                    .push(service("web:udp", 10, 17, 80, &backend(1, 5, 8080)));
            });
            let (a, vip, b) = (
                f.at(&f.pod(1, 6), 4000),
                f.at(&f.vip(10), 80),
                f.at(&f.pod(1, 5), 8080),
            );
            let whole = udp(&a, &vip).payload(1000);
            let sent = cut(f, &whole, 512).map(|l3| lab.frame("client", &l3));
            // The UDP checksum covers both parts, so the rewritten packet's fragments are the fragments of the rewritten packet.
            let expected = cut(f, &udp(&a, &b).payload(1000).routed(), 512);
            let numbers = if late_first {
                let second = lab.feed("client", &sent[1]);
                lab.poll();
                assert!(lab.is_held(second));
                assert_eq!(lab.worker.counters().held.get(), 1);
                let first = lab.feed("client", &sent[0]);
                lab.poll();
                [first, second]
            } else {
                let numbers = sent.each_ref().map(|frame| lab.feed("client", frame));
                lab.poll();
                numbers
            };
            for (number, expected) in numbers.into_iter().zip(expected) {
                let line = lab.line(number);
                assert_eq!(
                    (line.verdict.as_str(), line.out[0].0.as_str()),
                    ("tx", "web"),
                    "{line:?}"
                );
                assert_eq!(line.out[0].1[14..], expected);
            }
            lab.assert_counters(&[("rx", 2), ("tx", 2), ("flows-created", 1)]);
        }
    }
}

#[test]
fn a_fragment_without_its_first_is_given_up_after_30_seconds() {
    for f in BOTH {
        let mut lab = Lab::new();
        let [_, second] = cut(
            f,
            &udp(&f.at(&f.pod(1, 6), 4000), &f.at(&f.pod(1, 5), 80)).payload(1000),
            512,
        );
        let frame = lab.frame("client", &second);
        let number = lab.feed("client", &frame);
        lab.poll();
        lab.advance_s(29.999);
        lab.poll();
        assert_eq!(lab.worker.held(), 1);
        lab.advance_s(0.001);
        lab.poll();
        lab.line(number).dropped_silently("fragment-timeout");
        lab.assert_counters(&[("rx", 1), ("drop-fragment-timeout", 1)]);
    }
}

#[test]
fn fragments_of_what_is_refused_are_refused() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            state.policies.push(crate::cluster::policy("web", &[], &[]));
            crate::cluster::port_of(state, "web").ingress = crate::cluster::attach(&["web"]);
        });
        let parts = cut(
            f,
            &udp(&f.at(&f.pod(1, 6), 4000), &f.at(&f.pod(1, 5), 80)).payload(1000),
            512,
        );
        for l3 in parts {
            lab.send_l3("client", &l3).dropped_silently("policy-denied");
        }
    }
}

#[test]
fn an_error_about_a_translated_packet_reaches_the_client_in_its_own_terms() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            state
                .services
                .push(service("web:udp", 10, 17, 80, &backend(3, 9, 8080)));
        });
        let (a, vip) = (f.at(&f.pod(1, 6), 4000), f.at(&f.vip(10), 80));
        let sent = udp(&a, &vip).payload(100);
        let (_, out) = lab.send("client", &sent).packet();
        // A router on the way says that it is too big.
        let error = too_big(f, &f.outside(), &f.pod(1, 6), 1400, &out.l3());
        let line = lab.send_l3("uplink", &error.l3());
        assert_eq!(
            (line.verdict.as_str(), line.out[0].0.as_str()),
            ("tx", "client"),
            "{line:?}"
        );
        let found = line.icmp_error();
        let expected = sent.clone().routed();
        assert_eq!(
            found,
            too_big(f, &f.outside(), &f.pod(1, 6), 1400, &expected.l3())
        );
        // The backend itself: nobody listens. The client knows it by the VIP.
        let (kind, code) = if f == Fam::V4 { (3, 3) } else { (1, 4) };
        let error = IcmpError {
            kind,
            code,
            rest: 0,
            ..too_big(f, &f.pod(3, 9), &f.pod(1, 6), 0, &out.l3())
        };
        let found = lab.send_l3("uplink", &error.l3()).icmp_error();
        assert_eq!(
            found,
            IcmpError {
                src: f.vip(10).parse().unwrap(),
                about: expected.l3(),
                ..error
            }
        );
    }
}

#[test]
fn an_error_about_a_masqueraded_packet_reaches_the_pod() {
    for f in BOTH {
        let mut lab = Lab::new();
        for sent in [
            syn(&f.at(&f.pod(1, 6), 4000), &f.at(&f.outside(), 80)),
            echo(&f.pod(1, 6), &f.outside(), 7),
        ] {
            let (_, out) = lab.send("client", &sent).packet();
            let error = too_big(f, &f.node(254), &f.node(1), 1300, &out.l3());
            let line = lab.send_l3("uplink", &error.l3());
            assert_eq!(
                (line.verdict.as_str(), line.out[0].0.as_str()),
                ("tx", "client"),
                "{line:?}"
            );
            assert_eq!(
                line.icmp_error(),
                too_big(f, &f.node(254), &f.pod(1, 6), 1300, &sent.clone().routed().l3())
            );
        }
    }
}

#[test]
fn a_pods_error_about_what_a_service_sent_it_comes_from_the_vip() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            state
                .services
                .push(service("web:udp", 10, 17, 80, &backend(1, 5, 8080)));
        });
        let (a, vip) = (f.at(&f.pod(1, 6), 4000), f.at(&f.vip(10), 80));
        let sent = udp(&a, &vip);
        let (_, out) = lab.send("client", &sent).packet();
        let (kind, code) = if f == Fam::V4 { (3, 3) } else { (1, 4) };
        let error = IcmpError {
            kind,
            code,
            rest: 0,
            ..too_big(f, &f.pod(1, 5), &f.pod(1, 6), 0, &out.l3())
        };
        let line = lab.send_l3("web", &error.l3());
        assert_eq!(
            line.icmp_error(),
            IcmpError {
                src: f.vip(10).parse().unwrap(),
                about: sent.routed().l3(),
                ..error.clone()
            }
        );
        // Another pod can't speak about that flow, nor can a pod about what was never sent.
        let forged = IcmpError {
            src: f.pod(1, 7).parse().unwrap(),
            ..error
        };
        lab.send_l3("other", &forged.l3()).dropped_silently("no-flow");
    }
}

#[test]
fn errors_about_what_is_the_kernels_go_to_it() {
    for f in BOTH {
        let mut lab = Lab::new();
        let about = udp(&f.at(&f.node(1), 1000), &f.at(&f.outside(), 53)).l3();
        let line = lab.send_l3("uplink", &too_big(f, &f.node(254), &f.node(1), 1300, &about).l3());
        assert_eq!((line.verdict.as_str(), line.reason.as_str()), ("punt", "to-host"));
        let never_sent = udp(&f.at(&f.pod(1, 5), 1000), &f.at(&f.outside(), 53)).l3();
        let error = too_big(f, &f.node(254), &f.pod(1, 5), 1300, &never_sent);
        lab.send_l3("uplink", &error.l3()).dropped_silently("no-flow");
    }
}
