//! Policy: who decided, in both directions, and what established flows may.

use contract::proto;

use crate::cluster::{BOTH, allow, attach, backend, deny, policy, port_of, service};
use crate::lab::Lab;
use crate::packet::{syn, syn_ack, tcp, udp};

fn guarded(state: &mut proto::State) {
    let clients: Vec<_> = BOTH.iter().map(|f| f.pod(1, 6)).collect();
    let banned: Vec<_> = BOTH.iter().map(|f| f.pod(2, 66)).collect();
    state.policies.push(policy(
        "web",
        &[deny(&banned), allow(&clients, Some((6, 80)))],
        &[],
    ));
    port_of(state, "web").ingress = attach(&["web"]);
}

#[test]
fn the_rule_that_allows_or_denies_is_named() {
    for f in BOTH {
        let mut lab = Lab::with(guarded);
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        let line = lab.send("client", &syn(&a, &b));
        line.tx("web", &syn(&a, &b).routed());
        assert_eq!(line.policy.as_deref(), Some("ingress networkpolicy/web 1"));
        // The reply needs no rule of its own, and names the one that let the flow in.
        let line = lab.send("web", &syn_ack(&b, &a));
        line.tx("client", &syn_ack(&b, &a).routed());
        assert_eq!(line.policy.as_deref(), Some("ingress networkpolicy/web 1"));
        // Another port, another pod: nothing allows it.
        let line = lab.send("client", &syn(&a, &f.at(&f.pod(1, 5), 81)));
        line.dropped_silently("policy-denied");
        assert_eq!(line.policy.as_deref(), Some("ingress networkpolicy/web default"));
        assert_eq!(line.flow, None);
        let line = lab.send("other", &syn(&f.at(&f.pod(1, 7), 4000), &b));
        line.dropped_silently("policy-denied");
        let banned = lab.vxlan(2, &syn(&f.at(&f.pod(2, 66), 1), &b).l3());
        let line = lab.send_l3("uplink", &banned);
        line.dropped_silently("policy-denied");
        assert_eq!(line.policy.as_deref(), Some("ingress networkpolicy/web 0"));
        lab.assert_counters(&[
            ("rx", 5),
            ("tx", 2),
            ("drop-policy-denied", 3),
            ("flows-created", 1),
        ]);
    }
}

#[test]
fn egress_is_judged_after_dnat_and_before_ingress() {
    for f in BOTH {
        let mut lab = Lab::with(|state| {
            guarded(state);
            let web: Vec<_> = BOTH.iter().map(|f| f.pod(1, 5)).collect();
            state
                .policies
                .push(policy("client", &[], &[allow(&web, Some((6, 80)))]));
            port_of(state, "client").egress = attach(&["client"]);
            state
                .services
                .push(service("web:http", 10, 6, 8000, &backend(1, 5, 80)));
        });
        let a = f.at(&f.pod(1, 6), 4000);
        let line = lab.send("client", &syn(&a, &f.at(&f.vip(10), 8000)));
        line.tx("web", &syn(&a, &f.at(&f.pod(1, 5), 80)).routed());
        assert_eq!(
            line.policy.as_deref(),
            Some("ingress networkpolicy/web 1"),
            "the ingress rule where both allow"
        );
        let line = lab.send("client", &udp(&a, &f.at(&f.pod(1, 7), 53)));
        line.dropped_silently("policy-denied");
        assert_eq!(
            line.policy.as_deref(),
            Some("egress networkpolicy/client default")
        );
    }
}

#[test]
fn the_node_reaches_its_pods_whatever_policy_says() {
    for f in BOTH {
        let mut lab = Lab::with(guarded);
        let b = f.at(&f.pod(1, 5), 8080);
        let probe = syn(&f.at(&f.node(1), 40000), &b);
        lab.send("host", &probe).tx("web", &probe.clone().routed());
        // Not by its address from elsewhere.
        lab.send("uplink", &probe).dropped_silently("spoofed-source");
        lab.send("uplink", &syn(&f.at(&f.node(2), 40000), &b))
            .dropped_silently("policy-denied");
    }
}

#[test]
fn a_policy_change_cuts_and_admits_established_flows_in_both_directions() {
    for f in BOTH {
        for reply_first in [false, true] {
            let mut lab = Lab::with(|_| {});
            let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
            lab.send("client", &syn(&a, &b));
            lab.send("web", &syn_ack(&b, &a));
            lab.send("client", &tcp(&a, &b));
            lab.change(|state| {
                state.policies.push(policy("web", &[], &[]));
                port_of(state, "web").ingress = attach(&["web"]);
            });
            let ways = [("client", tcp(&a, &b)), ("web", tcp(&b, &a))];
            for at in [usize::from(reply_first), usize::from(!reply_first)] {
                let (port, pkt) = &ways[at];
                let line = lab.send(port, pkt);
                line.dropped_silently("policy-denied");
                assert_eq!(line.policy.as_deref(), Some("ingress networkpolicy/web default"));
            }
            assert_eq!(
                lab.live(),
                1,
                "the entry stays, or the other end would open the flow anew"
            );
            lab.change(|state| {
                state.policies[0] = policy("web", &[allow(&[], None)], &[]);
            });
            for at in [usize::from(reply_first), usize::from(!reply_first)] {
                let (port, pkt) = &ways[at];
                let line = lab.send(port, pkt);
                line.tx(ways[1 - at].0, &pkt.clone().routed());
                assert_eq!(line.policy.as_deref(), Some("ingress networkpolicy/web 0"));
            }
            lab.assert_counters(&[
                ("rx", 7),
                ("tx", 5),
                ("drop-policy-denied", 2),
                ("flows-created", 1),
                ("redecisions", 2),
            ]);
        }
    }
}

#[test]
fn a_syn_on_a_denied_entry_is_judged_afresh() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        lab.send("client", &syn(&a, &b));
        lab.change(|state| {
            state.policies.push(policy("web", &[], &[]));
            port_of(state, "web").ingress = attach(&["web"]);
        });
        lab.send("client", &tcp(&a, &b)).dropped_silently("policy-denied");
        assert_eq!(lab.live(), 1);
        lab.send("client", &syn(&a, &b)).dropped_silently("policy-denied");
        assert_eq!(lab.live(), 0);
    }
}

#[test]
fn a_change_elsewhere_decides_nothing_again() {
    for f in BOTH {
        let mut lab = Lab::new();
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        lab.send("client", &syn(&a, &b));
        lab.change(|state| {
            state.policies.push(policy("other", &[], &[]));
            port_of(state, "other").ingress = attach(&["other"]);
        });
        lab.send("client", &tcp(&a, &b)).tx("web", &tcp(&a, &b).routed());
        lab.assert_counters(&[("rx", 2), ("tx", 2), ("flows-created", 1)]);
    }
}
