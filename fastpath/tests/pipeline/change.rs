//! Changes under established flows: backends that go, pods that come back, Services that end.

use contract::proto::BackendState;
use wire::tcp::TcpFlags;

use crate::cluster::{BOTH, Fam, backend, pod, port_of, service};
use crate::lab::Lab;
use crate::packet::{syn, syn_ack, tcp, udp};

fn lab_with_backend(protocol: u8) -> Lab {
    Lab::with(move |state| {
        state
            .services
            .push(service("web:x", 10, protocol, 80, &backend(1, 5, 8080)));
    })
}

fn ends(f: Fam) -> (String, String, String, String) {
    (
        f.at(&f.pod(1, 6), 4000),
        f.at(&f.vip(10), 80),
        f.at(&f.pod(1, 5), 8080),
        f.at(&f.pod(1, 7), 8080),
    )
}

#[test]
fn datagrams_leave_a_backend_that_is_gone_and_stay_on_one_that_is_listed() {
    for f in BOTH {
        let mut lab = lab_with_backend(17);
        let (a, vip, b, c) = ends(f);
        lab.send("client", &udp(&a, &vip))
            .tx("web", &udp(&a, &b).routed());
        // Not ready, but listed.
        lab.change(|state| {
            let mut backends = backend(1, 5, 8080);
            backends
                .iter_mut()
                .for_each(|backend| backend.2 = BackendState::NotReady);
            backends.extend(backend(1, 7, 8080));
            state.services[0] = service("web:x", 10, 17, 80, &backends);
        });
        lab.send("client", &udp(&a, &vip))
            .tx("web", &udp(&a, &b).routed());
        // A new flow goes to the ready one.
        let other = f.at(&f.pod(1, 6), 4001);
        lab.send("client", &udp(&other, &vip))
            .tx("other", &udp(&other, &c).routed());
        lab.change(|state| state.services[0] = service("web:x", 10, 17, 80, &backend(1, 7, 8080)));
        // What the old backend still says is its reply; the client's next packet moves.
        lab.send("web", &udp(&b, &a))
            .tx("client", &udp(&vip, &a).routed());
        let line = lab.send("client", &udp(&a, &vip));
        line.tx("other", &udp(&a, &c).routed());
        assert_eq!(line.flow.map(|flow| flow.0), Some(true));
        lab.send("other", &udp(&c, &a))
            .tx("client", &udp(&vip, &a).routed());
    }
}

#[test]
fn connections_stay_on_a_backend_until_its_address_is_withdrawn() {
    for f in BOTH {
        let mut lab = lab_with_backend(6);
        let (a, vip, b, _) = ends(f);
        lab.send("client", &syn(&a, &vip));
        lab.send("web", &syn_ack(&b, &a));
        lab.send("client", &tcp(&a, &vip));
        lab.change(|state| state.services[0] = service("web:x", 10, 6, 80, &backend(1, 7, 8080)));
        lab.send("client", &tcp(&a, &vip))
            .tx("web", &tcp(&a, &b).routed());
        lab.send("web", &tcp(&b, &a))
            .tx("client", &tcp(&vip, &a).routed());
        // The Service itself goes.
        lab.change(|state| state.services.clear());
        lab.send("client", &tcp(&a, &vip))
            .tx("web", &tcp(&a, &b).routed());
        // The pod goes.
        lab.change(|state| state.ports.retain(|port| port.name != "pod:default/web"));
        let line = lab.send("client", &tcp(&a, &vip).seq(50, 60));
        line.dropped("no-route");
        let (port, reset) = line.packet();
        assert_eq!((port.as_str(), reset.src.to_string()), ("client", vip.clone()));
        assert_eq!(reset.l4, tcp(&vip, &a).flags(TcpFlags::RST).seq(60, 0).l4);
        assert_eq!(lab.live(), 0);
    }
}

#[test]
fn a_pod_that_comes_back_elsewhere_gets_no_strangers_connection() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        lab.send("client", &udp(&a, &b)).tx("web", &udp(&a, &b).routed());
        lab.change(|state| state.ports.retain(|port| port.name != "pod:default/web"));
        lab.send("client", &udp(&a, &b)).dropped("no-route");
        lab.change(|state| state.ports.push(pod("web2", 5)));
        let line = lab.send("client", &udp(&a, &b));
        line.tx("web2", &udp(&a, &b).routed());
        assert_eq!(line.flow.map(|flow| flow.0), Some(true));
    }
}

#[test]
fn re_decisions_of_one_batch_are_bounded() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            state.limits = Some(contract::proto::Limits {
                redecisions_per_batch: 3,
                ..Default::default()
            });
        });
        let pairs: Vec<_> = (0..10)
            .map(|n| (f.at(&f.pod(1, 6), 4000 + n), f.at(&f.pod(1, 5), 80)))
            .collect();
        for (a, b) in &pairs {
            lab.send("client", &udp(a, b));
        }
        lab.change(|state| {
            state.policies.push(crate::cluster::policy("web", &[], &[]));
            port_of(state, "web").ingress = crate::cluster::attach(&["web"]);
        });
        let mut denied = vec![];
        for _ in 0..4 {
            let numbers: Vec<_> = pairs
                .iter()
                .map(|(a, b)| {
                    let frame = lab.frame("client", &udp(a, b).l3());
                    lab.feed("client", &frame)
                })
                .collect();
            lab.poll();
            denied.push(
                numbers
                    .into_iter()
                    .filter(|n| lab.line(*n).verdict == "drop")
                    .count(),
            );
        }
        assert_eq!(denied, [3, 6, 9, 10]);
    }
}

#[test]
fn masquerade_keeps_its_port_over_a_change() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.outside(), 53));
        let (_, first) = lab.send("client", &udp(&a, &b)).packet();
        lab.change(|state| {
            state.policies.push(crate::cluster::policy(
                "client",
                &[],
                &[crate::cluster::allow(&[], None)],
            ));
            port_of(state, "client").egress = crate::cluster::attach(&["client"]);
        });
        let line = lab.send("client", &udp(&a, &b));
        assert_eq!(line.packet().1.src, first.src);
        assert_eq!(line.policy.as_deref(), Some("egress networkpolicy/client 0"));
        assert_eq!(lab.worker.counters().redecisions.get(), 1);
    }
}
