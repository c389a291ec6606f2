//! Services and their backends.

use super::*;
use contract::proto::BackendState;

fn backends(service: &proto::Service) -> Vec<String> {
    let text = |b: &proto::Backend| {
        let prefix = proto::Prefix {
            address: b.address.clone(),
            length: 0,
        };
        let state = match b.state() {
            BackendState::Ready => "ready",
            BackendState::ServingTerminating => "terminating",
            BackendState::NotReady => "not ready",
            BackendState::Unspecified => "?",
        };
        let local = if b.local { " local" } else { "" };
        format!(
            "{}:{} {state}{local}",
            text_of(&prefix).trim_end_matches("/0"),
            b.port
        )
    };
    service.backends.iter().map(text).collect()
}

#[test]
fn a_service_without_slices_uses_its_selector() {
    let pods = [
        pod("default/a1", "a", "10.244.1.5 fd00:1::5", "app: web", ""),
        pod(
            "default/b1",
            "b",
            "10.244.2.6",
            "app: web",
            ", conditions: [{type: Ready, status: 'False'}]",
        ),
        pod("default/b2", "b", "10.244.2.7", "app: other", ""),
    ]
    .concat();
    let web =
        "selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}, {name: plain, port: 81}]";
    let state = resolved(&format!("{pods}{}", service(web)), "a").state;
    let ids: Vec<&str> = state.services.iter().map(|s| s.id.as_str()).collect();
    assert_eq!(ids, ["default/api:http", "default/api:plain"]);
    assert_eq!(
        backends(&state.services[0]),
        [
            "10.244.1.5:8080 ready local",
            "10.244.2.6:8080 not ready",
            "fd00:1::5:8080 ready local"
        ]
    );
    assert_eq!(backends(&state.services[1])[1], "10.244.2.6:81 not ready");

    let published = format!(
        "{pods}{}",
        service(&format!("publishNotReadyAddresses: true, {web}"))
    );
    assert_eq!(
        backends(&resolved(&published, "a").state.services[0])[1],
        "10.244.2.6:8080 ready"
    );
    let none = format!(
        "{pods}{}",
        service("selector: {}, ports: [{port: 80}], sessionAffinity: ClientIP")
    );
    let state = resolved(&none, "a").state;
    assert_eq!(state.services[0].id, "default/api:80");
    assert_eq!(state.services[0].affinity_s, 10_800);
    assert!(
        state.services[0].backends.is_empty(),
        "an empty selector selects nothing"
    );
}

#[test]
fn a_service_named_by_a_slice_uses_slices_alone() {
    let slice = |name: &str, rest: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: {name}, \
             labels: {{kubernetes.io/service-name: api}}}}\naddressType: IPv4\n{rest}\n"
        )
    };
    let base = format!(
        "{}{}",
        pod("default/a1", "a", "10.244.1.5", "app: web", ""),
        service("selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]")
    );
    let empty = resolved(&format!("{base}{}", slice("s1", "endpoints: []")), "a").state;
    assert!(empty.services[0].backends.is_empty());

    let slices = [
        slice(
            "s1",
            "ports: [{name: http, port: 9000}, {name: other, port: 9001}, {name: http, port: 9002, protocol: UDP}]\n\
             endpoints:\n- {addresses: [10.244.1.5]}\n- {addresses: [10.244.2.9], nodeName: a, conditions: {ready: false}}\n\
             - {addresses: [10.244.2.8], nodeName: b, conditions: {ready: false, serving: true, terminating: true}}",
        ),
        slice("s2", "ports: [{name: http, port: 9000}]\nendpoints: [{addresses: [10.244.2.9]}]"),
    ]
    .concat();
    let state = resolved(&format!("{base}{slices}"), "a").state;
    assert_eq!(
        backends(&state.services[0]),
        [
            "10.244.1.5:9000 ready local",
            "10.244.2.8:9000 terminating",
            "10.244.2.9:9000 ready local"
        ]
    );
}

#[test]
fn services_of_others_are_left_alone() {
    let others = [
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: h}\nspec: {clusterIP: None, ports: [{port: 80}]}\n",
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: e}\nspec: {type: ExternalName, externalName: x}\n",
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: l, labels: {service.kubernetes.io/service-proxy-name: x}}\n\
         spec: {clusterIP: 10.96.0.11, ports: [{port: 80}]}\n",
        "---\napiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: k}\nspec: {cidrs: [10.96.0.0/16]}\n",
    ]
    .concat();
    let state = resolved(&others, "a").state;
    assert!(state.services.is_empty());
    assert_eq!(
        state.service_ranges.iter().map(text_of).collect::<Vec<_>>(),
        ["10.96.0.0/16"]
    );
}
