//! A process that takes over the flow tables of another one.

use contract::proto::Limits;
use fastpath::compile::Numbers;

use crate::cluster::{BOTH, Fam, backend, pod, service};
use crate::lab::Lab;
use crate::packet::{syn, syn_ack, tcp, udp};

/// Two pods of this node whose numbers are not what a fresh process would give.
fn lab_after_churn(change: impl FnOnce(&mut contract::proto::State)) -> Lab {
    let mut lab = Lab::with(change);
    let is_one_of_both = |name: &str| matches!(name, "pod:default/client" | "pod:default/other");
    lab.change(|state| state.ports.retain(|port| !is_one_of_both(&port.name)));
    lab.change(|state| state.ports.push(pod("other", 7)));
    lab.change(|state| state.ports.push(pod("client", 6)));
    // As control sends them to a process that knows none.
    lab.state.ports.sort_by(|a, b| a.name.cmp(&b.name));
    lab
}

#[test]
fn connections_are_found_again_whatever_pods_came_and_went_before() {
    for f in BOTH {
        let mut lab = lab_after_churn(|state| {
            let backends = [backend(1, 5, 8080)].concat();
            state.services.push(service("web:x", 10, 6, 80, &backends));
        });
        let (a, vip, b) = (
            f.at(&f.pod(1, 6), 4000),
            f.at(&f.vip(10), 80),
            f.at(&f.pod(1, 5), 8080),
        );
        lab.send("client", &syn(&a, &vip));
        lab.send("web", &syn_ack(&b, &a));
        lab.send("client", &tcp(&a, &vip));
        let (out, far) = (f.at(&f.pod(1, 7), 5000), f.at(&f.outside(), 443));
        let (_, masqueraded) = lab.send("other", &syn(&out, &far)).packet();
        let back = f.at(&f.node(1), masqueraded.src.port());
        lab.send("uplink", &syn_ack(&far, &back));
        // From a node by its tunnel.
        let (theirs, ours) = (f.at(&f.pod(2, 9), 6000), f.at(&f.pod(1, 6), 8081));
        let from_node_2 = lab.vxlan(2, &syn(&theirs, &ours).l3());
        lab.send_l3("uplink", &from_node_2);
        lab.send("client", &syn_ack(&ours, &theirs));

        let numbers = Numbers::of(&lab.snapshot);
        let fresh = crate::lab::compiled(&lab.state, &lab.underlay);
        assert_ne!(numbers, Numbers::of(&fresh), "or this test shows nothing");
        let mut lab = lab.restart(&numbers);
        assert_eq!(numbers, Numbers::of(&lab.snapshot));

        let went_on = |line: &crate::lab::Line| line.flow.as_ref().is_some_and(|flow| !flow.0);
        let line = lab.send("client", &tcp(&a, &vip));
        line.tx("web", &tcp(&a, &b).routed());
        assert!(went_on(&line));
        lab.send("web", &tcp(&b, &a))
            .tx("client", &tcp(&vip, &a).routed());
        let line = lab.send("other", &tcp(&out, &far));
        assert!(went_on(&line));
        assert_eq!(line.packet().1.src, masqueraded.src, "the port is kept");
        lab.send("uplink", &tcp(&far, &back))
            .tx("other", &tcp(&far, &out).routed());
        let from_node_2 = lab.vxlan(2, &tcp(&theirs, &ours).l3());
        let line = lab.send_l3("uplink", &from_node_2);
        line.tx("client", &tcp(&theirs, &ours).routed());
        assert!(went_on(&line));
    }
}

/// Its adjacencies have other numbers here: none of its decisions may serve, not even once.
#[test]
fn nothing_goes_by_a_decision_of_the_process_before() {
    let f = Fam::V4;
    let mut lab = lab_after_churn(|state| {
        state.limits = Some(Limits {
            redecisions_per_batch: 1,
            ..Limits::default()
        });
    });
    let pairs: Vec<_> = (0..10)
        .map(|n| (f.at(&f.pod(1, 6), 4000 + n), f.at(&f.pod(1, 7), 80)))
        .collect();
    for (a, b) in &pairs {
        lab.send("client", &udp(a, b));
    }
    let numbers = Numbers::of(&lab.snapshot);
    let mut lab = lab.restart(&numbers);
    let numbers: Vec<_> = pairs
        .iter()
        .map(|(a, b)| {
            let frame = lab.frame("client", &udp(a, b).l3());
            lab.feed("client", &frame)
        })
        .collect();
    lab.poll();
    for (number, (a, b)) in numbers.into_iter().zip(&pairs) {
        lab.line(number).tx("other", &udp(a, b).routed());
    }
    assert_eq!(lab.worker.counters().redecisions.get(), 10);
    assert_eq!(lab.worker.counters().redecisions_put_off.get(), 0);
}
