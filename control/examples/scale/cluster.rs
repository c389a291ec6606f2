//! A cluster of the size that the control plane has to hold, object by object as an API server would send them.

use control::object::{Kind, Object, Objects};
use serde_json::{Value, json};

/// How many of each.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub pods: usize,
    pub services: usize,
    pub endpoints_per_service: usize,
    pub policies: usize,
    pub namespaces: usize,
    /// Pods of the node that is resolved for, [`LOCAL`].
    pub local_pods: usize,
}

/// 5,000 nodes, 150,000 pods, 10,000 services with 250,000 endpoints, 10,000 policies, 110 local pods.
pub const WHOLE: Size = Size {
    nodes: 5000,
    pods: 150_000,
    services: 10_000,
    endpoints_per_service: 25,
    policies: 10_000,
    namespaces: 500,
    local_pods: 110,
};

/// The node to resolve for.
pub const LOCAL: &str = "node-00000";

impl Size {
    /// A part of it: every count but that of local pods divided by `n`.
    pub fn divided_by(self, n: usize) -> Self {
        Self {
            nodes: self.nodes / n,
            pods: self.pods / n,
            services: self.services / n,
            policies: self.policies / n,
            namespaces: (self.namespaces / n).max(1),
            ..self
        }
    }

    fn node_of_pod(&self, pod: usize) -> usize {
        match pod.checked_sub(self.local_pods) {
            None => 0,
            Some(remote) => 1 + remote % (self.nodes - 1),
        }
    }

    /// Position among the pods of its node.
    fn slot_of_pod(&self, pod: usize) -> usize {
        match pod.checked_sub(self.local_pods) {
            None => pod,
            Some(remote) => remote / (self.nodes - 1),
        }
    }

    fn address_of_pod(&self, pod: usize) -> String {
        let (node, slot) = (self.node_of_pod(pod), 10 + self.slot_of_pod(pod));
        format!("10.{}.{}.{slot}", 64 + node / 256, node % 256)
    }

    fn namespace(&self, index: usize) -> String {
        format!("team-{:03}", index % self.namespaces)
    }

    /// One pod as the API server would send it.
    pub fn pod(&self, pod: usize, ready: bool) -> Value {
        // Pods of one workload follow one another within a namespace: a hundred apps of three pods each.
        let app = (pod / self.namespaces) % 100;
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("app-{app:02}-5d9c7b7f4-{pod:06}"), "namespace": self.namespace(pod),
                "labels": {
                    "app": format!("app-{app:02}"), "tier": (["web", "api", "db"][app % 3]),
                    "pod-template-hash": "5d9c7b7f4", "app.kubernetes.io/managed-by": "helm",
                },
                "annotations": {"prometheus.io/scrape": "true"},
            },
            "spec": {
                "nodeName": format!("node-{:05}", self.node_of_pod(pod)),
                "containers": [{"name": "main", "ports": [{"name": "http", "containerPort": 8080}]}],
            },
            "status": {
                "phase": "Running", "podIP": self.address_of_pod(pod),
                "podIPs": [{"ip": self.address_of_pod(pod)}], "hostIP": node_address(self.node_of_pod(pod)),
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}],
            },
        })
    }

    /// The slice of one service, its first endpoint ready or not.
    pub fn slice(&self, service: usize, first_ready: bool) -> Value {
        let endpoint = |index: usize| {
            let pod = (service * self.endpoints_per_service + index * 7) % self.pods;
            json!({
                "addresses": [self.address_of_pod(pod)],
                "conditions": {"ready": index > 0 || first_ready, "serving": true, "terminating": false},
                "nodeName": format!("node-{:05}", self.node_of_pod(pod)), "zone": "zone-1",
            })
        };
        let endpoints: Vec<Value> = (0..self.endpoints_per_service).map(endpoint).collect();
        let name = format!("svc-{service:05}");
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "name": format!("{name}-x7k2p"), "namespace": self.namespace(service),
                "labels": {"kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"},
            },
            "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        })
    }

    /// As the API server would send it.
    pub fn service(&self, service: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("svc-{service:05}"), "namespace": self.namespace(service), "labels": {"app": "x"}},
            "spec": {
                "clusterIP": format!("10.32.{}.{}", service / 250, 1 + service % 250),
                "selector": {"app": format!("app-{:02}", service % 100)},
                "ports": [{"name": "http", "port": 80, "targetPort": "http"}],
            },
        })
    }

    /// A policy: an app of its namespace hears from another one, from one elsewhere, and from a range.
    pub fn policy(&self, policy: usize, port: u16) -> Value {
        let app = policy / self.namespaces * 5 % 100;
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": format!("allow-{policy:05}"), "namespace": self.namespace(policy)},
            "spec": {
                "podSelector": {"matchLabels": {"app": format!("app-{app:02}")}},
                "policyTypes": ["Ingress"],
                "ingress": [{
                    "from": [
                        {"podSelector": {"matchLabels": {"app": format!("app-{:02}", (app + 1) % 100)}}},
                        {"namespaceSelector": {"matchLabels": {"group": format!("g{}", policy % 10)}},
                         "podSelector": {"matchLabels": {"tier": "web"}}},
                        {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.7/32"]}},
                    ],
                    "ports": [{"port": port}, {"port": "http"}],
                }],
            },
        })
    }

    /// As the API server would send it.
    pub fn node(node: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": format!("node-{node:05}"),
                "labels": {"kubernetes.io/hostname": format!("node-{node:05}"), "topology.kubernetes.io/zone": "zone-1"},
                "annotations": {"projectcalico.org/IPv4Address": format!("{}/16", node_address(node)),
                                "projectcalico.org/IPv4VXLANTunnelAddr": format!("10.{}.{}.1", 64 + node / 256, node % 256)},
            },
            "spec": {"podCIDRs": [format!("10.{}.{}.0/24", 64 + node / 256, node % 256)]},
            "status": {"addresses": [{"type": "InternalIP", "address": node_address(node)}]},
        })
    }

    /// As the API server would send it.
    pub fn namespace_object(&self, namespace: usize) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": self.namespace(namespace), "labels": {"group": format!("g{}", namespace % 10)}},
        })
    }

    /// All of it, read one after another; no document outlives its object.
    pub fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        let mut add = |value: Value| assert!(!objects.insert(object(&value)), "a name twice");
        (0..self.namespaces).for_each(|n| add(self.namespace_object(n)));
        (0..self.nodes).for_each(|n| add(Self::node(n)));
        (0..self.pods).for_each(|n| add(self.pod(n, true)));
        (0..self.services).for_each(|n| add(self.service(n)));
        (0..self.services).for_each(|n| add(self.slice(n, true)));
        (0..self.policies).for_each(|n| add(self.policy(n, 9000)));
        objects
    }
}

fn node_address(node: usize) -> String {
    format!("172.16.{}.{}", node / 250, 1 + node % 250)
}

/// What a document says.
pub fn object(value: &Value) -> Object {
    let text = |key: &str| value[key].as_str().unwrap_or_default();
    let kind = Kind::parse(text("apiVersion"), text("kind")).expect("a kind that we read");
    // From text, as it comes over the network: a value tree would be shared with nobody.
    let bytes = value.to_string();
    kind.read(&mut serde_json::Deserializer::from_str(&bytes))
        .unwrap_or_else(|error| panic!("{error}: {bytes}"))
}
