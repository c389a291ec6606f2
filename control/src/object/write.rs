//! Objects back to the JSON that they were read from, as far as we keep them: reading it again gives an equal object.
//!
//! This is the format of the copy on disk (`source/kubernetes/copy.rs`). Because it is Kubernetes' own, whoever looks into
//! the copy can read it, and `ringway replay --state` takes it as it is.

use std::net::IpAddr;

use serde::ser::{Serialize, SerializeMap, SerializeStruct, Serializer};
use serde_json::{Value, json};

use super::field::{PortOrName, Protocol};
use super::{
    BlockAffinity, EndpointSlice, IpPool, IpReservation, Kind, Labels, Metadata, Namespace, NetworkPolicy,
    Node, Object, Phase, Pod, PolicyPeer, PolicyRule, PortSet, Service, ServiceCidr, ServiceKind, Tunnel,
};

/// An object of any kind, where it is.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "each variant holds the kind of its name")]
pub enum ObjectRef<'a> {
    Node(&'a Node),
    Namespace(&'a Namespace),
    Pod(&'a Pod),
    Service(&'a Service),
    EndpointSlice(&'a EndpointSlice),
    NetworkPolicy(&'a NetworkPolicy),
    ServiceCidr(&'a ServiceCidr),
    IpPool(&'a IpPool),
    IpReservation(&'a IpReservation),
    BlockAffinity(&'a BlockAffinity),
}

impl<'a> From<&'a Object> for ObjectRef<'a> {
    fn from(object: &'a Object) -> Self {
        match object {
            Object::Node(o) => Self::Node(o),
            Object::Namespace(o) => Self::Namespace(o),
            Object::Pod(o) => Self::Pod(o),
            Object::Service(o) => Self::Service(o),
            Object::EndpointSlice(o) => Self::EndpointSlice(o),
            Object::NetworkPolicy(o) => Self::NetworkPolicy(o),
            Object::ServiceCidr(o) => Self::ServiceCidr(o),
            Object::IpPool(o) => Self::IpPool(o),
            Object::IpReservation(o) => Self::IpReservation(o),
            Object::BlockAffinity(o) => Self::BlockAffinity(o),
        }
    }
}

impl Serialize for ObjectRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Node(node) => whole(
                serializer,
                Kind::Node,
                &node.meta,
                &[("spec", node_spec(node)), ("status", node_status(node))],
            ),
            Self::Namespace(namespace) => whole(serializer, Kind::Namespace, &namespace.meta, &[]),
            Self::Pod(pod) => whole(
                serializer,
                Kind::Pod,
                &pod.meta,
                &[("spec", pod_spec(pod)), ("status", pod_status(pod))],
            ),
            Self::Service(service) => whole(
                serializer,
                Kind::Service,
                &service.meta,
                &[("spec", service_spec(service))],
            ),
            Self::EndpointSlice(slice) => slice_of(serializer, slice),
            Self::NetworkPolicy(policy) => whole(
                serializer,
                Kind::NetworkPolicy,
                &policy.meta,
                &[("spec", policy_spec(policy))],
            ),
            Self::ServiceCidr(ranges) => whole(
                serializer,
                Kind::ServiceCidr,
                &ranges.meta,
                &[("spec", json!({"cidrs": ranges.cidrs}))],
            ),
            Self::IpPool(pool) => whole(serializer, Kind::IpPool, &pool.meta, &[("spec", pool_spec(pool))]),
            Self::IpReservation(reservation) => whole(
                serializer,
                Kind::IpReservation,
                &reservation.meta,
                &[("spec", json!({"reservedCIDRs": reservation.cidrs}))],
            ),
            Self::BlockAffinity(affinity) => whole(
                serializer,
                Kind::BlockAffinity,
                &affinity.meta,
                &[("spec", affinity_spec(affinity))],
            ),
        }
    }
}

/// `apiVersion` of a kind as we write it.
fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::Node | Kind::Namespace | Kind::Pod | Kind::Service => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::NetworkPolicy | Kind::ServiceCidr => "networking.k8s.io/v1",
        Kind::IpPool | Kind::IpReservation => "projectcalico.org/v3",
        Kind::BlockAffinity => "crd.projectcalico.org/v1",
    }
}

fn whole<S: Serializer>(
    serializer: S,
    kind: Kind,
    meta: &Metadata,
    parts: &[(&'static str, Value)],
) -> Result<S::Ok, S::Error> {
    let mut object = serializer.serialize_struct("Object", 3 + parts.len())?;
    object.serialize_field("apiVersion", api_version(kind))?;
    object.serialize_field("kind", &kind.to_string())?;
    object.serialize_field("metadata", &Written(meta))?;
    for (name, part) in parts {
        object.serialize_field(name, part)?;
    }
    object.end()
}

/// What is written another way than serde would.
struct Written<T>(T);

impl Serialize for Written<&Metadata> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let meta = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("name", meta.name.name.as_str())?;
        if !meta.name.namespace.is_empty() {
            map.serialize_entry("namespace", meta.name.namespace.as_str())?;
        }
        if !meta.labels.is_empty() {
            map.serialize_entry("labels", &Written(&meta.labels))?;
        }
        if !meta.annotations.is_empty() {
            map.serialize_entry("annotations", &meta.annotations)?;
        }
        if meta.deleting {
            // That it is there says all: when does not matter.
            map.serialize_entry("deletionTimestamp", "1970-01-01T00:00:00Z")?;
        }
        map.end()
    }
}

impl Serialize for Written<&Labels> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }
}

fn node_spec(node: &Node) -> Value {
    json!({"podCIDRs": node.pod_cidrs})
}

/// Annotations come first when they are read again, so the order of the addresses stays.
fn node_status(node: &Node) -> Value {
    let address = |address: &IpAddr| json!({"type": "InternalIP", "address": address});
    json!({"addresses": node.addresses.iter().map(address).collect::<Vec<_>>()})
}

fn pod_spec(pod: &Pod) -> Value {
    let port = |port: &super::NamedPort| json!({"name": port.name.as_str(), "containerPort": port.port, "protocol": port.protocol.to_string()});
    let mut spec = json!({});
    if let Some(node) = &pod.node {
        spec["nodeName"] = json!(node.as_str());
    }
    if pod.host_network {
        spec["hostNetwork"] = json!(true);
    }
    if !pod.named_ports.is_empty() {
        spec["containers"] = json!([{"ports": pod.named_ports.iter().map(port).collect::<Vec<_>>()}]);
    }
    spec
}

fn pod_status(pod: &Pod) -> Value {
    let ips = |addresses: &[IpAddr]| addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>();
    let phase = match pod.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Finished => "Succeeded",
    };
    let mut status = json!({"phase": phase});
    if !pod.addresses.is_empty() {
        status["podIPs"] = json!(ips(&pod.addresses));
    }
    if !pod.host_addresses.is_empty() {
        status["hostIPs"] = json!(ips(&pod.host_addresses));
    }
    if !pod.ready {
        status["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    }
    status
}

fn port_or_name(port: &PortOrName) -> Value {
    match port {
        PortOrName::Number(number) => json!(number),
        PortOrName::Name(name) => json!(name),
    }
}

fn service_spec(service: &Service) -> Value {
    let kind = match service.kind {
        ServiceKind::ClusterIP => "ClusterIP",
        ServiceKind::NodePort => "NodePort",
        ServiceKind::LoadBalancer => "LoadBalancer",
        ServiceKind::ExternalName => "ExternalName",
    };
    let port = |port: &super::ServicePort| json!({"name": port.name, "protocol": port.protocol.to_string(), "port": port.port, "targetPort": port_or_name(&port.target)});
    let mut spec = json!({
        "type": kind,
        "ports": service.ports.iter().map(port).collect::<Vec<_>>(),
    });
    if service.headless {
        spec["clusterIPs"] = json!(["None"]);
    } else if !service.cluster_ips.is_empty() {
        spec["clusterIPs"] = json!(service.cluster_ips);
    }
    if !service.selector.is_empty() {
        spec["selector"] = json!(Written(&service.selector));
    }
    if service.affinity_s > 0 {
        spec["sessionAffinity"] = json!("ClientIP");
        spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": service.affinity_s}});
    }
    if service.publish_not_ready {
        spec["publishNotReadyAddresses"] = json!(true);
    }
    if service.internal_local {
        spec["internalTrafficPolicy"] = json!("Local");
    }
    spec
}

/// Its parts stand at the top, and it is the kind with the most bytes: no tree of values is built for the endpoints.
fn slice_of<S: Serializer>(serializer: S, slice: &EndpointSlice) -> Result<S::Ok, S::Error> {
    struct Endpoints<'a>(&'a EndpointSlice);

    impl Serialize for Endpoints<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            #[derive(serde::Serialize)]
            #[serde(rename_all = "camelCase")]
            struct Endpoint<'a> {
                addresses: [IpAddr; 1],
                conditions: Conditions,
                #[serde(skip_serializing_if = "Option::is_none")]
                node_name: Option<&'a str>,
            }

            #[derive(serde::Serialize)]
            struct Conditions {
                ready: bool,
                serving: bool,
                terminating: bool,
            }

            serializer.collect_seq(self.0.endpoints.iter().map(|endpoint| Endpoint {
                addresses: [endpoint.address],
                conditions: Conditions {
                    ready: endpoint.ready,
                    serving: endpoint.serving,
                    terminating: endpoint.terminating,
                },
                node_name: endpoint.node.as_deref(),
            }))
        }
    }

    let port = |port: &super::EndpointPort| json!({"name": port.name, "protocol": port.protocol.to_string(), "port": port.port});
    let ports: Vec<Value> = slice.ports.iter().map(port).collect();
    let is_v4 = slice
        .endpoints
        .first()
        .is_none_or(|endpoint| endpoint.address.is_ipv4());
    let mut object = serializer.serialize_struct("Object", 6)?;
    object.serialize_field("apiVersion", api_version(Kind::EndpointSlice))?;
    object.serialize_field("kind", "EndpointSlice")?;
    object.serialize_field("metadata", &Written(&slice.meta))?;
    object.serialize_field("addressType", if is_v4 { "IPv4" } else { "IPv6" })?;
    object.serialize_field("endpoints", &Endpoints(slice))?;
    object.serialize_field("ports", &ports)?;
    object.end()
}

fn policy_spec(policy: &NetworkPolicy) -> Value {
    let rules = |rules: &Option<Vec<PolicyRule>>, peers: &str| {
        let rule = |rule: &PolicyRule| {
            json!({
                peers: rule.peers.iter().map(policy_peer).collect::<Vec<_>>(),
                "ports": rule.ports.iter().map(|port| policy_port(port.protocol, &port.ports)).collect::<Vec<_>>(),
            })
        };
        rules.iter().flatten().map(rule).collect::<Vec<_>>()
    };
    let mut types = Vec::new();
    types.extend(policy.ingress.is_some().then_some("Ingress"));
    types.extend(policy.egress.is_some().then_some("Egress"));
    json!({
        "podSelector": policy.pod_selector,
        "policyTypes": types,
        "ingress": rules(&policy.ingress, "from"),
        "egress": rules(&policy.egress, "to"),
    })
}

fn policy_peer(peer: &PolicyPeer) -> Value {
    match peer {
        PolicyPeer::Block { cidr, except } => json!({"ipBlock": {"cidr": cidr, "except": except}}),
        PolicyPeer::Pods { pods, namespaces } => {
            // An absent selector and an empty one say different things.
            let mut peer = json!({});
            if let Some(pods) = pods {
                peer["podSelector"] = json!(pods);
            }
            if let Some(namespaces) = namespaces {
                peer["namespaceSelector"] = json!(namespaces);
            }
            peer
        }
    }
}

fn policy_port(protocol: Protocol, ports: &PortSet) -> Value {
    let protocol = protocol.to_string();
    match ports {
        PortSet::All => json!({"protocol": protocol}),
        PortSet::Range(first, last) if first == last => json!({"protocol": protocol, "port": first}),
        PortSet::Range(first, last) => json!({"protocol": protocol, "port": first, "endPort": last}),
        PortSet::Named(name) => json!({"protocol": protocol, "port": name}),
    }
}

fn pool_spec(pool: &IpPool) -> Value {
    let mode = if pool.cross_subnet {
        "CrossSubnet"
    } else {
        "Always"
    };
    let of = |tunnel| if pool.tunnel == tunnel { mode } else { "Never" };
    json!({
        "cidr": pool.cidr,
        "vxlanMode": of(Tunnel::Vxlan),
        "ipipMode": of(Tunnel::Ipip),
        "natOutgoing": pool.nat_outgoing,
        "blockSize": pool.block_size,
        "disabled": pool.disabled,
        "nodeSelector": pool.node_selector.text(),
        "allowedUses": pool.uses(),
    })
}

fn affinity_spec(affinity: &BlockAffinity) -> Value {
    // What is on its way in or out counts as neither.
    let state = if affinity.is_confirmed {
        "confirmed"
    } else {
        "pending"
    };
    json!({"node": affinity.node.as_str(), "cidr": affinity.cidr, "state": state})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::document::{Entry, read};
    use std::path::PathBuf;
    use std::sync::Arc;

    /// Every field that we keep is there in some object, once away from its default.
    const ALL: &str = r#"
apiVersion: v1
kind: Node
metadata:
  name: a
  labels: {zone: z}
  annotations:
    projectcalico.org/IPv4Address: 10.0.0.2/24
    projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.0
    projectcalico.org/VXLANTunnelMACAddr: "66:00:00:00:00:01"
    ringway.io/uplink-mtu: "9000"
spec: {podCIDRs: [10.244.1.0/24, "fd00:1::/64"]}
status: {addresses: [{type: ExternalIP, address: 192.0.2.1}, {type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: "fd99::1"}]}
---
apiVersion: v1
kind: Node
metadata: {name: b}
---
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {group: g}}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: team, labels: {app: web}, annotations: {ringway.io/mac: "02:00:00:00:00:05", other: x}, deletionTimestamp: "2026-01-01T00:00:00Z"}
spec:
  nodeName: a
  containers: [{ports: [{name: http, containerPort: 8080}, {containerPort: 9}]}, {ports: [{name: dns, containerPort: 53, protocol: UDP}]}]
  initContainers: [{restartPolicy: Always, ports: [{name: side, containerPort: 1}]}]
status: {phase: Pending, podIPs: [{ip: 10.244.1.5}, {ip: "fd00:1::5"}], hostIP: 10.0.0.2, conditions: [{type: Ready, status: "False"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: agent}
spec: {hostNetwork: true, nodeName: a}
status: {phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: job}
status: {phase: Failed}
---
apiVersion: v1
kind: Service
metadata: {name: api, labels: {service.kubernetes.io/service-proxy-name: x}}
spec:
  type: NodePort
  clusterIPs: [10.96.0.10, "fd96::a"]
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}, {name: dns, port: 53, protocol: UDP, targetPort: 5353}]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  publishNotReadyAddresses: true
  internalTrafficPolicy: Local
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None}
---
apiVersion: v1
kind: Service
metadata: {name: pending}
spec: {ports: [{port: 1}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: example.org}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-1, labels: {kubernetes.io/service-name: api}}
addressType: IPv6
endpoints:
- {addresses: ["fd00:1::5"], conditions: {ready: false, serving: true, terminating: true}, nodeName: a}
- {addresses: ["fd00:1::6"]}
ports: [{name: http, port: 8080}, {name: dns, port: 53, protocol: UDP}, {protocol: SCTP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: names}
addressType: FQDN
endpoints: [{addresses: [example.org]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {matchLabels: {app: web}, matchExpressions: [{key: tier, operator: NotIn, values: [db, x]}, {key: e, operator: Exists}, {key: n, operator: DoesNotExist}, {key: i, operator: In, values: [a, b]}]}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{podSelector: {}}, {namespaceSelector: {matchLabels: {group: g}}}, {podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}, {ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{port: 80}, {port: 80, endPort: 90, protocol: UDP}, {port: http}, {protocol: SCTP}]
  - {}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: out}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: "fd00::/8"}}]}]}
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/12, "fd96::/108"]}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: v4}
spec: {cidr: 10.244.0.0/16, vxlanMode: CrossSubnet, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: ipip}
spec: {cidr: 10.245.0.0/16, ipipMode: Always}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: plain}
spec: {cidr: 10.246.0.0/16, blockSize: 28, disabled: true, nodeSelector: "zone == 'a'", allowedUses: [Tunnel]}
---
apiVersion: projectcalico.org/v3
kind: IPReservation
metadata: {name: gateways}
spec: {reservedCIDRs: [10.246.0.0/30, "fd00::/126"]}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: a-10-246-0-0-28}
spec: {node: a, cidr: 10.246.0.0/28, state: confirmed, type: host, deleted: "false"}
---
apiVersion: crd.projectcalico.org/v1
kind: BlockAffinity
metadata: {name: b-10-246-0-16-28}
spec: {node: b, cidr: 10.246.0.16/28, state: pending}
"#;

    fn entries(file: &str, text: &str) -> Vec<Object> {
        let mut errors = Vec::new();
        let entries = read(&Arc::new(PathBuf::from(file)), text, &mut errors);
        assert!(errors.is_empty(), "{errors:?}\n{text}");
        let object = |entry| match entry {
            Entry::Object(_, object) => *object,
            Entry::Unknown(kind) => panic!("{kind} was not read"),
        };
        entries.into_iter().map(object).collect()
    }

    #[test]
    fn what_is_written_is_read_again_as_it_was() {
        let objects = entries("all.yaml", ALL);
        assert_eq!(objects.len(), 21);
        for object in objects {
            let text = serde_json::to_string(&ObjectRef::from(&object)).unwrap();
            assert_eq!(entries("copy.json", &text), [object], "{text}");
        }
    }
}
