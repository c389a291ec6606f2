//! Service.

use std::net::IpAddr;

use serde::Deserialize;

use super::field::{PortNumber, PortOrName, Protocol, null_default, string_map};
use super::labels::Labels;
use super::meta::{Metadata, RawMetadata, Scope};

/// core/v1 Service, as far as its cluster IPs go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawService")]
pub struct Service {
    /// Name and labels.
    pub meta: Metadata,
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    pub kind: ServiceKind,
    /// Cluster IPs, at most one per family; none when headless or not allocated yet.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// Ports, at least one unless headless or an external name.
    pub ports: Vec<ServicePort>,
    /// Labels of the pods behind it; empty selects nothing.
    pub selector: Labels,
    /// `ClientIP` session affinity in seconds, 0 for none.
    pub affinity_s: u32,
    /// Pods that are not ready count as ready.
    pub publish_not_ready: bool,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
}

/// `spec.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum ServiceKind {
    /// Reached by its cluster IPs alone.
    #[default]
    #[serde(alias = "")]
    ClusterIP,
    /// On every node's addresses, too.
    NodePort,
    /// By a load balancer's addresses, too.
    LoadBalancer,
    /// A name in the DNS, no addresses.
    ExternalName,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where it has none.
    pub name: String,
    /// TCP unless said otherwise.
    pub protocol: Protocol,
    /// Port on the cluster IPs.
    pub port: u16,
    /// Port on the pods; the same as `port` unless said otherwise.
    pub target: PortOrName,
}

impl Service {
    /// Whether another proxy is in charge of it.
    pub fn proxied_elsewhere(&self) -> bool {
        self.meta
            .labels
            .contains_key("service.kubernetes.io/service-proxy-name")
    }
}

#[derive(Deserialize)]
struct RawService {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    #[serde(rename = "type", deserialize_with = "null_default")]
    kind: ServiceKind,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<ClusterIp>,
    #[serde(rename = "clusterIPs", deserialize_with = "null_default")]
    cluster_ips: Vec<ClusterIp>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<ServicePort>,
    #[serde(deserialize_with = "string_map")]
    selector: super::meta::Annotations,
    #[serde(deserialize_with = "null_default")]
    session_affinity: Affinity,
    #[serde(deserialize_with = "null_default")]
    session_affinity_config: RawAffinityConfig,
    #[serde(deserialize_with = "null_default")]
    publish_not_ready_addresses: bool,
    #[serde(deserialize_with = "null_default")]
    internal_traffic_policy: TrafficPolicy,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClusterIp {
    Headless,
    Unallocated,
    Address(IpAddr),
}

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "None" => Ok(Self::Headless),
            "" => Ok(Self::Unallocated),
            text => text.parse().map(Self::Address).map_err(|_| {
                serde::de::Error::custom(format!(
                    "cluster IP is {text:?}, expected an address, \"None\" or \"\""
                ))
            }),
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Affinity {
    #[default]
    #[serde(alias = "")]
    None,
    ClientIP,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum TrafficPolicy {
    #[default]
    #[serde(alias = "")]
    Cluster,
    Local,
}

#[derive(Default, Deserialize)]
struct RawAffinityConfig {
    #[serde(default, rename = "clientIP", deserialize_with = "null_default")]
    client_ip: RawClientIp,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClientIp {
    timeout_seconds: Option<u32>,
}

impl<'de> Deserialize<'de> for ServicePort {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Raw {
            #[serde(default, deserialize_with = "null_default")]
            name: String,
            #[serde(default, deserialize_with = "null_default")]
            protocol: Protocol,
            port: PortNumber,
            target_port: Option<Target>,
        }
        let Raw {
            name,
            protocol,
            port: PortNumber(port),
            target_port,
        } = Raw::deserialize(deserializer)?;
        let target = match target_port {
            Some(Target(Some(target))) => target,
            _ => PortOrName::Number(port),
        };
        Ok(Self {
            name,
            protocol,
            port,
            target,
        })
    }
}

/// A target port; Kubernetes takes 0 and the empty string for none.
struct Target(Option<PortOrName>);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl serde::de::Visitor<'_> for Either {
            type Value = Target;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port number or a port name")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Target, E> {
                if number == 0 {
                    return Ok(Target(None));
                }
                let number = serde::de::value::I64Deserializer::new(number);
                PortOrName::deserialize(number).map(|port| Target(Some(port)))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Target, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Target, E> {
                if name.is_empty() {
                    return Ok(Target(None));
                }
                let name = serde::de::value::StrDeserializer::new(name);
                PortOrName::deserialize(name).map(|port| Target(Some(port)))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl TryFrom<RawService> for Service {
    type Error = String;

    fn try_from(raw: RawService) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Namespaced)?;
        let spec = raw.spec;
        let written = if spec.cluster_ips.is_empty() {
            spec.cluster_ip.into_iter().collect()
        } else {
            spec.cluster_ips
        };
        let headless = written.contains(&ClusterIp::Headless);
        let cluster_ips: Vec<IpAddr> = written
            .iter()
            .filter_map(|ip| match ip {
                ClusterIp::Address(address) => Some(*address),
                _ => None,
            })
            .collect();
        if let [first, second, ..] = cluster_ips.as_slice()
            && (cluster_ips.len() > 2 || first.is_ipv4() == second.is_ipv4())
        {
            return Err(
                "spec.clusterIPs has two addresses of one family, expected at most one of each".to_owned(),
            );
        }
        for (index, port) in spec.ports.iter().enumerate() {
            if port.name.is_empty() && spec.ports.len() > 1 {
                return Err(format!(
                    "spec.ports[{index}] has no name, expected one on each of several ports"
                ));
            }
            for other in spec.ports.iter().take(index) {
                if !port.name.is_empty() && port.name == other.name {
                    return Err(format!(
                        "spec.ports[{index}] has name {:?}, which another port has already",
                        port.name
                    ));
                }
                if (port.protocol, port.port) == (other.protocol, other.port) {
                    return Err(format!(
                        "spec.ports[{index}] is {}/{}, which is there already",
                        port.protocol, port.port
                    ));
                }
            }
        }
        if spec.ports.is_empty() && !headless && spec.kind != ServiceKind::ExternalName {
            return Err("spec.ports is empty, expected at least one port".to_owned());
        }
        let affinity_s = match spec.session_affinity {
            Affinity::None => 0,
            Affinity::ClientIP => spec
                .session_affinity_config
                .client_ip
                .timeout_seconds
                .unwrap_or(10_800),
        };
        if spec.session_affinity == Affinity::ClientIP && !(1..=86_400).contains(&affinity_s) {
            return Err(format!(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds is {affinity_s}, expected 1 to 86400"
            ));
        }
        Ok(Self {
            meta,
            kind: spec.kind,
            cluster_ips,
            headless,
            ports: spec.ports,
            selector: spec.selector.into_iter().collect(),
            affinity_s,
            publish_not_ready: spec.publish_not_ready_addresses,
            internal_local: spec.internal_traffic_policy == TrafficPolicy::Local,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &str) -> Result<Service, String> {
        serde_saphyr::from_str(&format!("{{metadata: {{name: s}}, spec: {{{spec}}}}}"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_target_port_defaults_to_the_port() {
        let read = service("clusterIP: 10.96.0.1, ports: [{port: 80}]").unwrap();
        assert_eq!(read.ports[0].target, PortOrName::Number(80));
        let read = service("clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: 0}]").unwrap();
        assert_eq!(read.ports[0].target, PortOrName::Number(80));
        let read = service("clusterIP: 10.96.0.1, ports: [{port: 80, targetPort: http}]").unwrap();
        assert_eq!(read.ports[0].target, PortOrName::Name("http".into()));
        assert!(!read.headless);
        assert!(service("clusterIP: None").unwrap().headless);
    }

    #[test]
    fn bad_services_are_refused() {
        for (spec, expected) in [
            ("clusterIP: 10.96.0.1", "at least one port"),
            ("clusterIP: 10.96.0, ports: [{port: 80}]", "expected an address"),
            (
                "clusterIPs: [10.96.0.1, 10.96.0.2], ports: [{port: 80}]",
                "one family",
            ),
            (
                "clusterIP: 10.96.0.1, ports: [{port: 80}, {port: 81, name: b}]",
                "has no name",
            ),
            (
                "clusterIP: 10.96.0.1, ports: [{port: 80, name: a}, {port: 81, name: a}]",
                "already",
            ),
            (
                "clusterIP: 10.96.0.1, ports: [{port: 80, name: a}, {port: 80, name: b}]",
                "TCP/80",
            ),
            (
                "clusterIP: 10.96.0.1, ports: [{port: 80}], sessionAffinity: ClientIP, \
                 sessionAffinityConfig: {clientIP: {timeoutSeconds: 90000}}",
                "1 to 86400",
            ),
            (
                "clusterIP: 10.96.0.1, ports: [{port: 80}], sessionAffinity: Cookie",
                "Cookie",
            ),
            (
                "clusterIP: 10.96.0.1, ports: [{port: 80, protocol: ICMP}]",
                "TCP, UDP or SCTP",
            ),
        ] {
            let error = service(spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
