//! networking.k8s.io/v1 NetworkPolicy, checked as the API server checks it.

use ipnet::IpNet;
use serde::Deserialize;

use super::field::{Cidr, PortNumber, PortOrName, Protocol, null_default};
use super::meta::{Metadata, RawMetadata, Scope};
use super::selector::Selector;

/// networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawPolicy")]
pub struct NetworkPolicy {
    /// Name.
    pub meta: Metadata,
    /// The pods of its namespace that it applies to.
    pub pod_selector: Selector,
    /// Rules for connections to those pods; `None` where the policy says nothing about them.
    pub ingress: Option<Vec<PolicyRule>>,
    /// Rules for connections from those pods; `None` where the policy says nothing about them.
    pub egress: Option<Vec<PolicyRule>>,
}

/// Allows connections with any of the peers on any of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// None: everyone.
    pub peers: Vec<PolicyPeer>,
    /// None: every protocol and port.
    pub ports: Vec<PolicyPort>,
}

/// Whom a rule allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyPeer {
    /// Pods by label.
    Pods {
        /// `None`: all of them.
        pods: Option<Selector>,
        /// `None`: the policy's own namespace.
        namespaces: Option<Selector>,
    },
    /// Addresses, pods' included.
    Block {
        /// The range.
        cidr: IpNet,
        /// Parts of it that do not count.
        except: Vec<IpNet>,
    },
}

/// A protocol and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyPort {
    /// TCP unless said otherwise.
    pub protocol: Protocol,
    /// Which ports of it.
    pub ports: PortSet,
}

/// Destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortSet {
    /// Every port of the protocol.
    All,
    /// First to last, both included.
    Range(u16, u16),
    /// Whatever the destination pod calls by this name.
    Named(String),
}

#[derive(Deserialize)]
struct RawPolicy {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    #[serde(default, deserialize_with = "null_default")]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RawSpec {
    #[serde(deserialize_with = "null_default")]
    pod_selector: Selector,
    #[serde(deserialize_with = "null_default")]
    policy_types: Vec<PolicyType>,
    #[serde(deserialize_with = "null_default")]
    ingress: Vec<RawIngress>,
    #[serde(deserialize_with = "null_default")]
    egress: Vec<RawEgress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum PolicyType {
    Ingress,
    Egress,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawIngress {
    #[serde(deserialize_with = "null_default")]
    from: Vec<PolicyPeer>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<PolicyPort>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawEgress {
    #[serde(deserialize_with = "null_default")]
    to: Vec<PolicyPeer>,
    #[serde(deserialize_with = "null_default")]
    ports: Vec<PolicyPort>,
}

impl TryFrom<RawPolicy> for NetworkPolicy {
    type Error = String;

    fn try_from(raw: RawPolicy) -> Result<Self, String> {
        let meta = raw.metadata.check(Scope::Namespaced)?;
        let RawSpec {
            pod_selector,
            policy_types,
            ingress,
            egress,
        } = raw.spec;
        if policy_types.len() > 2 {
            return Err(format!(
                "spec.policyTypes has {} entries, expected at most 2",
                policy_types.len()
            ));
        }
        // Absent types: ingress always, egress where there are rules for it.
        let (is_ingress, is_egress) = if policy_types.is_empty() {
            (true, !egress.is_empty())
        } else {
            (
                policy_types.contains(&PolicyType::Ingress),
                policy_types.contains(&PolicyType::Egress),
            )
        };
        let ingress = ingress.into_iter().map(|rule| PolicyRule {
            peers: rule.from,
            ports: rule.ports,
        });
        let egress = egress.into_iter().map(|rule| PolicyRule {
            peers: rule.to,
            ports: rule.ports,
        });
        Ok(Self {
            meta,
            pod_selector,
            ingress: is_ingress.then(|| ingress.collect()),
            egress: is_egress.then(|| egress.collect()),
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPeer {
    pod_selector: Option<Selector>,
    namespace_selector: Option<Selector>,
    ip_block: Option<RawBlock>,
}

#[derive(Deserialize)]
struct RawBlock {
    cidr: Cidr,
    #[serde(default, deserialize_with = "null_default")]
    except: Vec<Cidr>,
}

impl<'de> Deserialize<'de> for PolicyPeer {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(RawPeer::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<RawPeer> for PolicyPeer {
    type Error = String;

    fn try_from(raw: RawPeer) -> Result<Self, String> {
        let RawPeer {
            pod_selector: pods,
            namespace_selector: namespaces,
            ip_block,
        } = raw;
        let Some(RawBlock {
            cidr: Cidr(cidr),
            except,
        }) = ip_block
        else {
            if pods.is_none() && namespaces.is_none() {
                return Err("a peer is empty, expected podSelector, namespaceSelector or ipBlock".to_owned());
            }
            return Ok(Self::Pods { pods, namespaces });
        };
        if pods.is_some() || namespaces.is_some() {
            return Err("a peer has ipBlock and a selector, expected one of the two".to_owned());
        }
        let except: Vec<IpNet> = except.into_iter().map(|e| e.0).collect();
        match except
            .iter()
            .find(|e| !cidr.contains(*e) || e.prefix_len() == cidr.prefix_len())
        {
            Some(outside) => Err(format!(
                "ipBlock.except has {outside}, expected a range inside cidr {cidr}, not all of it"
            )),
            None => Ok(Self::Block { cidr, except }),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawPort {
    #[serde(default, deserialize_with = "null_default")]
    protocol: Protocol,
    port: Option<PortOrName>,
    end_port: Option<PortNumber>,
}

impl<'de> Deserialize<'de> for PolicyPort {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::try_from(RawPort::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<RawPort> for PolicyPort {
    type Error = String;

    fn try_from(raw: RawPort) -> Result<Self, String> {
        let ports = match (raw.port, raw.end_port) {
            (None, None) => PortSet::All,
            (Some(PortOrName::Number(port)), None) => PortSet::Range(port, port),
            (Some(PortOrName::Name(name)), None) => PortSet::Named(name),
            (Some(PortOrName::Number(first)), Some(PortNumber(last))) if first <= last => {
                PortSet::Range(first, last)
            }
            (Some(PortOrName::Number(first)), Some(PortNumber(last))) => {
                return Err(format!(
                    "endPort is {last}, expected at least port, which is {first}"
                ));
            }
            (_, Some(_)) => {
                return Err("endPort is there without a port number, expected port as a number".to_owned());
            }
        };
        Ok(Self {
            protocol: raw.protocol,
            ports,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(spec: &str) -> Result<NetworkPolicy, String> {
        serde_saphyr::from_str(&format!("{{metadata: {{name: p}}, spec: {{{spec}}}}}"))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn policy_types_default_as_in_kubernetes() {
        for (spec, ingress, egress) in [
            ("podSelector: {}", Some(0), None),
            ("podSelector: {}, egress: []", Some(0), None),
            ("podSelector: {}, egress: [{}]", Some(0), Some(1)),
            ("podSelector: {}, policyTypes: [Egress]", None, Some(0)),
            (
                "podSelector: {}, policyTypes: [Egress], ingress: [{}]",
                None,
                Some(0),
            ),
            (
                "podSelector: {}, policyTypes: [Ingress], egress: [{}]",
                Some(0),
                None,
            ),
            (
                "podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{}]",
                Some(1),
                Some(0),
            ),
        ] {
            let policy = policy(spec).unwrap();
            assert_eq!(policy.ingress.map(|rules| rules.len()), ingress, "{spec}");
            assert_eq!(policy.egress.map(|rules| rules.len()), egress, "{spec}");
        }
    }

    #[test]
    fn an_absent_selector_differs_from_an_empty_one() {
        let peers = |spec: &str| policy(spec).unwrap().ingress.unwrap().remove(0).peers;
        let all = Some(Selector::default());
        assert_eq!(
            peers("ingress: [{from: [{podSelector: {}, namespaceSelector: null}]}]"),
            [PolicyPeer::Pods {
                pods: all.clone(),
                namespaces: None
            }]
        );
        assert_eq!(
            peers("ingress: [{from: [{namespaceSelector: {}}]}]"),
            [PolicyPeer::Pods {
                pods: None,
                namespaces: all
            }]
        );
        assert_eq!(peers("ingress: [{from: []}]"), []);
    }

    #[test]
    fn bad_policies_are_refused() {
        for (spec, expected) in [
            ("ingress: [{from: [{}]}]", "a peer is empty"),
            (
                "ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]",
                "one of the two",
            ),
            (
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}]",
                "a range such as",
            ),
            (
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]",
                "inside cidr 10.0.0.0/8",
            ),
            (
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]",
                "not all of it",
            ),
            (
                "ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]}]",
                "inside cidr",
            ),
            (
                "ingress: [{ports: [{port: 80, endPort: 79}]}]",
                "expected at least port",
            ),
            ("ingress: [{ports: [{endPort: 79}]}]", "without a port number"),
            (
                "ingress: [{ports: [{port: http, endPort: 79}]}]",
                "without a port number",
            ),
            (
                "ingress: [{ports: [{port: 80, protocol: tcp}]}]",
                "TCP, UDP or SCTP",
            ),
            ("policyTypes: [Both]", "Both"),
        ] {
            let error = policy(spec).unwrap_err();
            assert!(error.contains(expected), "{spec}: {error}");
        }
    }
}
