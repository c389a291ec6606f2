//! EndpointSlice.

use std::net::IpAddr;

use serde::Deserialize;

use super::field::{PortNumber, Protocol, null_default};
use super::meta::{Metadata, ObjectName, RawMetadata, Scope};
use super::text::Text;

/// discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawSlice")]
pub struct EndpointSlice {
    /// Name and labels.
    pub meta: Metadata,
    /// The Service that it belongs to, by its label.
    pub service: Option<ObjectName>,
    /// Endpoints; none where the slice holds host names.
    pub endpoints: Box<[Endpoint]>,
    /// Ports that every endpoint has.
    pub ports: Vec<EndpointPort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first address: Kubernetes gives no meaning to more.
    pub address: IpAddr,
    /// Conditions as kube-proxy reads them: absent means ready and serving, not terminating.
    pub ready: bool,
    /// See `ready`.
    pub serving: bool,
    /// See `ready`.
    pub terminating: bool,
    /// The node that it lives on.
    pub node: Option<Text>,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// The Service port's name, empty where it has none.
    pub name: String,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
    /// Absent means every port, which no Service port can use.
    pub port: Option<u16>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSlice {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    address_type: AddressType,
    #[serde(default, deserialize_with = "null_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "null_default")]
    ports: Vec<RawEndpointPort>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum AddressType {
    IPv4,
    IPv6,
    #[serde(rename = "FQDN")]
    Fqdn,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default, deserialize_with = "null_default")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "null_default")]
    conditions: RawConditions,
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawConditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawEndpointPort {
    #[serde(default, deserialize_with = "null_default")]
    name: String,
    #[serde(default, deserialize_with = "null_default")]
    protocol: Protocol,
    port: Option<PortNumber>,
}

impl TryFrom<RawSlice> for EndpointSlice {
    type Error = String;

    fn try_from(raw: RawSlice) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Namespaced)?;
        let service = meta
            .labels
            .get("kubernetes.io/service-name")
            .filter(|name| !name.is_empty());
        let service = service.map(|name| ObjectName::new(&meta.name.namespace, name));
        let mut endpoints = Vec::new();
        for (index, endpoint) in raw.endpoints.into_iter().enumerate() {
            let Some(text) = endpoint.addresses.first() else {
                return Err(format!(
                    "endpoints[{index}].addresses is empty, expected an address"
                ));
            };
            let address: Option<IpAddr> = text.parse().ok();
            let address = match raw.address_type {
                AddressType::Fqdn => continue,
                AddressType::IPv4 => address.filter(IpAddr::is_ipv4),
                AddressType::IPv6 => address.filter(IpAddr::is_ipv6),
            };
            let Some(address) = address else {
                return Err(format!(
                    "endpoints[{index}].addresses[0] is {text:?}, expected an {:?} address",
                    raw.address_type
                ));
            };
            let RawConditions {
                ready,
                serving,
                terminating,
            } = endpoint.conditions;
            endpoints.push(Endpoint {
                address,
                ready: ready.unwrap_or(true),
                serving: serving.unwrap_or(true),
                terminating: terminating.unwrap_or(false),
                node: endpoint
                    .node_name
                    .filter(|node| !node.is_empty())
                    .map(|node| Text::shared(&node)),
            });
        }
        let port = |raw: RawEndpointPort| EndpointPort {
            name: raw.name,
            protocol: raw.protocol,
            port: raw.port.map(|port| port.0),
        };
        Ok(Self {
            meta,
            service,
            endpoints: endpoints.into(),
            ports: raw.ports.into_iter().map(port).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_conditions_mean_ready() {
        let slice: EndpointSlice = serde_saphyr::from_str(
            "{metadata: {name: s, labels: {kubernetes.io/service-name: api}}, addressType: IPv4, ports: [{port: 80}], \
             endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2], conditions: {ready: false, terminating: true}}]}",
        )
        .unwrap();
        let states: Vec<_> = slice
            .endpoints
            .iter()
            .map(|e| (e.ready, e.serving, e.terminating))
            .collect();
        assert_eq!(states, [(true, true, false), (false, true, true)]);
        assert_eq!(slice.service, Some(ObjectName::new("default", "api")));
    }
}
