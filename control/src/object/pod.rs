//! Pod and Namespace: who has which address, labels and named ports.

use std::net::IpAddr;

use serde::Deserialize;

use super::field::{Address, PortNumber, Protocol, null_default};
use super::meta::{Metadata, RawMetadata, Scope};
use super::text::Text;

/// core/v1 Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawNamespace")]
pub struct Namespace {
    /// Name and labels.
    pub meta: Metadata,
}

/// core/v1 Pod, as far as the network cares.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPod")]
pub struct Pod {
    /// Name, labels, annotations.
    pub meta: Metadata,
    /// Node that it is bound to.
    pub node: Option<Text>,
    /// Whether it lives in its node's network namespace.
    pub host_network: bool,
    /// Container ports that have a name.
    pub named_ports: Box<[NamedPort]>,
    /// `status.podIPs`, else `status.podIP`.
    pub addresses: Box<[IpAddr]>,
    /// `status.hostIPs`, else `status.hostIP`.
    pub host_addresses: Box<[IpAddr]>,
    /// How far it is.
    pub phase: Phase,
    /// The Ready condition; absent means ready.
    pub ready: bool,
    /// The pod's MAC address where `ringway.io/mac` names one.
    pub mac: Option<[u8; 6]>,
}

/// `status.phase`, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It may have no address yet.
    Pending,
    /// Running, unknown or absent.
    Running,
    /// Succeeded or Failed: it has no network any more.
    Finished,
}

impl Pod {
    /// Whether its containers are done for good; then no one reaches it and it selects nothing.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedPort {
    /// Unique within a pod.
    pub name: Text,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
    /// The container's port.
    pub port: u16,
}

#[derive(Deserialize)]
struct RawNamespace {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
}

impl TryFrom<RawNamespace> for Namespace {
    type Error = String;

    fn try_from(raw: RawNamespace) -> Result<Self, String> {
        let mut meta = raw.metadata.check(Scope::Cluster)?;
        // The API server sets this label on every namespace.
        meta.labels = meta.labels.with(NAME_LABEL, &meta.name.name);
        Ok(Self { meta })
    }
}

/// The label that every namespace has: its name.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    #[serde(deserialize_with = "null_default")]
    metadata: RawMetadata,
    #[serde(deserialize_with = "null_default")]
    spec: RawSpec,
    #[serde(deserialize_with = "null_default")]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    node_name: Option<String>,
    #[serde(deserialize_with = "null_default")]
    host_network: bool,
    #[serde(deserialize_with = "null_default")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "null_default")]
    init_containers: Vec<RawContainer>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawContainer {
    restart_policy: Option<String>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<RawContainerPort>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawContainerPort {
    name: Option<String>,
    container_port: PortNumber,
    #[serde(default, deserialize_with = "null_default")]
    protocol: Protocol,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<OptionalAddress>,
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pod_ips: Vec<RawIp>,
    #[serde(rename = "hostIP")]
    host_ip: Option<OptionalAddress>,
    #[serde(rename = "hostIPs", deserialize_with = "null_default")]
    host_ips: Vec<RawIp>,
    #[serde(deserialize_with = "null_default")]
    conditions: Vec<RawCondition>,
}

#[derive(Deserialize)]
struct RawIp {
    ip: Address,
}

#[derive(Deserialize)]
struct RawCondition {
    r#type: String,
    status: String,
}

/// An address, or the empty string for none.
struct OptionalAddress(Option<IpAddr>);

impl<'de> Deserialize<'de> for OptionalAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self(None));
        }
        let address = Address::deserialize(serde::de::value::StringDeserializer::new(text))?;
        Ok(Self(Some(address.0)))
    }
}

fn addresses(many: &[RawIp], one: Option<OptionalAddress>) -> Box<[IpAddr]> {
    if many.is_empty() {
        one.and_then(|a| a.0).into_iter().collect()
    } else {
        many.iter().map(|ip| ip.ip.0).collect()
    }
}

impl TryFrom<RawPod> for Pod {
    type Error = String;

    fn try_from(raw: RawPod) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Namespaced)?;
        let mac = match meta.annotations.get("ringway.io/mac") {
            Some(text) => {
                Some(super::node::parse_mac(text).map_err(|e| format!("annotation ringway.io/mac: {e}"))?)
            }
            None => None,
        };
        // An init container that restarts always is a sidecar and serves as long as the pod does.
        let sidecars = raw
            .spec
            .init_containers
            .iter()
            .filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let named_ports = raw
            .spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| &container.ports);
        let named_ports = named_ports
            .filter_map(|port| {
                let name = port.name.clone().filter(|name| !name.is_empty())?;
                Some(NamedPort {
                    name: Text::shared(&name),
                    protocol: port.protocol,
                    port: port.container_port.0,
                })
            })
            .collect();
        let addresses_of_pod = addresses(&raw.status.pod_ips, raw.status.pod_ip);
        if let Some(twice) = addresses_of_pod
            .iter()
            .enumerate()
            .find(|(i, a)| addresses_of_pod.iter().take(*i).any(|b| b == *a))
        {
            return Err(format!("status.podIPs has {} twice", twice.1));
        }
        Ok(Self {
            meta,
            node: raw
                .spec
                .node_name
                .filter(|name| !name.is_empty())
                .map(|name| Text::shared(&name)),
            host_network: raw.spec.host_network,
            named_ports,
            addresses: addresses_of_pod,
            host_addresses: addresses(&raw.status.host_ips, raw.status.host_ip),
            phase: match raw.status.phase.as_deref() {
                Some("Pending") => Phase::Pending,
                Some("Succeeded" | "Failed") => Phase::Finished,
                _ => Phase::Running,
            },
            ready: raw
                .status
                .conditions
                .iter()
                .find(|c| c.r#type == "Ready")
                .is_none_or(|c| c.status == "True"),
            mac,
        })
    }
}
