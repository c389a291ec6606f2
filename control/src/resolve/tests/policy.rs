//! Policies: sets, rules and attachments.

use super::*;

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"
    )
}

fn members(state: &proto::State, id: &str) -> Vec<String> {
    let set = state
        .ip_sets
        .iter()
        .find(|set| set.id == id)
        .unwrap_or_else(|| panic!("no set {id}"));
    let text = |m: &proto::Member| match m.port {
        0 => text_of(m.prefix.as_ref().unwrap()),
        port => format!("{} {}/{port}", text_of(m.prefix.as_ref().unwrap()), m.protocol),
    };
    set.members.iter().map(text).collect()
}

#[test]
fn peers_become_sets_of_addresses() {
    let pods = [
        pod("default/web", "a", "10.244.1.5 fd00:1::5", "app: web", ""),
        pod("default/db", "b", "10.244.2.6", "app: db", ""),
        pod("default/gone", "b", "10.244.2.7", "app: web", ", phase: Failed"),
        pod("prod/web", "b", "10.244.2.8", "app: web", ""),
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: prod, labels: {team: x}}\n".to_owned(),
        "---\napiVersion: v1\nkind: Pod\nmetadata: {name: host, labels: {app: web}}\n\
         spec: {nodeName: b, hostNetwork: true}\nstatus: {podIP: 10.0.0.2}\n"
            .to_owned(),
    ]
    .concat();
    for (peer, id, expected) in [
        (
            "podSelector: {}",
            "pods:default/*",
            vec!["10.244.1.5/32", "10.244.2.6/32", "fd00:1::5/128"],
        ),
        (
            "podSelector: {matchLabels: {app: web}}",
            "pods:default/app=web",
            vec!["10.244.1.5/32", "fd00:1::5/128"],
        ),
        (
            "namespaceSelector: {}",
            "pods:[*]/*",
            vec!["10.244.1.5/32", "10.244.2.6/32", "10.244.2.8/32", "fd00:1::5/128"],
        ),
        (
            "namespaceSelector: {matchLabels: {team: x}}",
            "pods:[team=x]/*",
            vec!["10.244.2.8/32"],
        ),
        (
            "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: default}}, \
             podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [web]}]}",
            "pods:[kubernetes.io/metadata.name=default]/app notin (web)",
            vec!["10.244.2.6/32"],
        ),
        (
            "namespaceSelector: {matchLabels: {team: y}}",
            "pods:[team=y]/*",
            vec![],
        ),
    ] {
        let outcome = resolved(
            &format!("{pods}{}", policy(&format!("ingress: [{{from: [{{{peer}}}]}}]"))),
            "a",
        );
        assert_eq!(members(&outcome.state, id), expected, "{peer}");
        let rule = &outcome.state.policies[0].ingress[0];
        assert_eq!(rule.peers[0].peer, Some(proto::peer::Peer::IpSet(id.to_owned())));
        assert!(!rule.any_peer && rule.any_port && rule.action() == proto::Action::Allow);
    }
}

#[test]
fn attachments_follow_selection_and_direction() {
    let text = [
        pod("default/web", "a", "10.244.1.5", "app: web", ""),
        pod("default/db", "a", "10.244.1.6", "app: db", ""),
        pod("default/far", "b", "10.244.2.6", "app: far", ""),
        policy("podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]"),
        policy("podSelector: {}, policyTypes: [Egress]").replace("name: p", "name: a-first"),
        policy("podSelector: {}, ingress: [{}]").replace("name: p", "name: b-second"),
        policy("podSelector: {matchLabels: {app: far}}").replace("name: p", "name: elsewhere"),
    ]
    .concat();
    let state = resolved(&text, "a").state;
    let attached = |port: usize| {
        let tiers = |attachment: &Option<proto::PolicyAttachment>| {
            let tiers = &attachment.as_ref().unwrap().tiers;
            tiers.iter().flat_map(|t| t.policies.clone()).collect::<Vec<_>>()
        };
        (
            state.ports[port].name.as_str(),
            tiers(&state.ports[port].ingress),
            tiers(&state.ports[port].egress),
        )
    };
    let id = |name: &str| format!("NetworkPolicy/default/{name}");
    assert_eq!(
        attached(1),
        ("pod:default/db", vec![id("b-second")], vec![id("a-first")])
    );
    assert_eq!(
        attached(2),
        (
            "pod:default/web",
            vec![id("b-second"), id("p")],
            vec![id("a-first")]
        )
    );
    assert_eq!(
        state.policies.len(),
        3,
        "a policy that selects no pod here is left out"
    );
    let tier = &state.ports[2].ingress.as_ref().unwrap().tiers[0];
    assert_eq!(
        (tier.name.as_str(), tier.default_action()),
        ("default", proto::Action::Deny)
    );
    assert!(state.policies[1].ingress[0].any_peer && state.policies[1].ingress[0].any_port);
}

#[test]
fn a_named_port_is_the_destinations() {
    let pods = [
        pod("default/web", "a", "10.244.1.5", "app: web", ""),
        pod("default/db", "b", "10.244.2.6", "app: db", ""),
        pod("prod/db", "b", "10.244.2.7", "app: db", ""),
    ]
    .concat();
    for (spec, id, expected) in [
        (
            "ingress: [{ports: [{port: http}]}]",
            "ports:TCP/http:local default/*",
            vec!["10.244.1.5/32 6/8080"],
        ),
        (
            "ingress: [{ports: [{port: http, protocol: UDP}]}]",
            "ports:UDP/http:local default/*",
            vec![],
        ),
        (
            "egress: [{ports: [{port: dns, protocol: UDP}]}]",
            "ports:UDP/dns:*",
            vec![
                "10.244.1.5/32 17/53",
                "10.244.2.6/32 17/53",
                "10.244.2.7/32 17/53",
            ],
        ),
        (
            "egress: [{to: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: http}]}]",
            "ports:TCP/http:default/app=db",
            vec!["10.244.2.6/32 6/8080"],
        ),
        (
            "egress: [{to: [{podSelector: {}}, {ipBlock: {cidr: 0.0.0.0/0}}], ports: [{port: http}]}]",
            "ports:TCP/http:*",
            vec![
                "10.244.1.5/32 6/8080",
                "10.244.2.6/32 6/8080",
                "10.244.2.7/32 6/8080",
            ],
        ),
    ] {
        let state = resolved(&format!("{pods}{}", policy(spec)), "a").state;
        assert_eq!(members(&state, id), expected, "{spec}");
    }
}
