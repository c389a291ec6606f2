//! A cluster's API as a person has it, whichever server is behind: objects written, altered and deleted.

pub mod follower;
pub mod real;
pub mod suite;

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};

/// An API server that tests write to.
pub struct Cluster {
    client: Client,
}

impl Cluster {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// One that needs no credentials.
    pub fn at(url: &str) -> Self {
        let config = kube::Config::new(url.parse().unwrap());
        Self::new(Client::try_from(config).unwrap())
    }

    async fn send(&self, method: &str, path: &str, body: &Value) -> Result<Value, kube::Error> {
        let kind = if method == "PATCH" {
            "application/merge-patch+json"
        } else {
            "application/json"
        };
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind);
        self.client
            .request(request.body(body.to_string().into_bytes()).unwrap())
            .await
    }

    /// Creates an object, and gives it the status that it has in `object`.
    pub async fn create(&self, object: Value) {
        let (collection, name) = place(&object);
        self.send("POST", &collection, &object)
            .await
            .unwrap_or_else(|error| panic!("{object}: {error}"));
        if let Some(status) = object.get("status") {
            self.patch(&format!("{collection}/{name}/status"), json!({"status": status}))
                .await;
        }
    }

    /// Merges into an object, or into its status.
    pub async fn patch(&self, path: &str, patch: Value) {
        self.send("PATCH", path, &patch)
            .await
            .unwrap_or_else(|error| panic!("{path} {patch}: {error}"));
    }

    /// Deletes an object at once.
    pub async fn delete(&self, path: &str) {
        let now = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0});
        self.send("DELETE", path, &now)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Whether something is there.
    pub async fn has(&self, path: &str) -> bool {
        self.send("GET", path, &Value::Null).await.is_ok()
    }
}

/// Where an object is created, and its name.
fn place(object: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let root = if version.contains('/') {
        format!("/apis/{version}")
    } else {
        format!("/api/{version}")
    };
    let plural = match text(&object["kind"]).as_str() {
        "NetworkPolicy" => "networkpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let name = text(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => (format!("{root}/namespaces/{namespace}/{plural}"), name),
        None => (format!("{root}/{plural}"), name),
    }
}

pub fn node(name: &str, address: &str, range: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"podCIDR": range, "podCIDRs": [range]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

pub fn namespace(name: &str, group: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"group": group}}})
}

pub fn pod(namespace: &str, name: &str, node: &str, address: &str) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "none", "ports": [{"name": "http", "containerPort": 8080}]}]},
    });
    if !address.is_empty() {
        pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    }
    pod
}

pub fn service(namespace: &str, name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
        "spec": {"clusterIP": address, "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    })
}

pub fn slice(namespace: &str, service: &str, addresses: &[&str]) -> Value {
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address]}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

pub fn policy(namespace: &str, name: &str, app: &str, from: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": ["Ingress"], "ingress": [{"from": [from]}]},
    })
}

pub fn pool(name: &str, range: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": range, "vxlanMode": mode, "natOutgoing": false},
    })
}

/// For anything to happen on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);
