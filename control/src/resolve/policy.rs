//! Policies to rules over IP sets, and which of them each local pod is judged by.

use std::collections::{BTreeMap, BTreeSet};

use contract::proto;
use contract::proto::ip_set::Kind as SetKind;
use ipnet::IpNet;

use crate::object::{NetworkPolicy, ObjectName, PolicyPeer, PolicyPort, PolicyRule, PortSet, Selector};

use super::cluster::{Cluster, LivePod};
use super::encode;

/// The outcome.
pub(super) struct Policies<'a> {
    pub(super) rules: Vec<proto::Policy>,
    pub(super) ip_sets: Vec<proto::IpSet>,
    pub(super) attachments: BTreeMap<&'a ObjectName, Attachments>,
}

/// What one pod is judged by.
#[derive(Clone, Debug, Default)]
pub(super) struct Attachments {
    pub(super) ingress: proto::PolicyAttachment,
    pub(super) egress: proto::PolicyAttachment,
}

/// The policies that select a pod of this node, the sets that they need and the pods' attachments.
pub(super) fn policies<'a>(cluster: &Cluster<'a>, node: &str) -> Policies<'a> {
    let mut sets = Sets {
        cluster,
        node,
        by_id: BTreeMap::new(),
    };
    let mut policies = Vec::new();
    let mut attachments: BTreeMap<&ObjectName, Attachments> = BTreeMap::new();
    // Few pods are local, however many there are elsewhere.
    let mut local: BTreeMap<&str, Vec<&LivePod<'_>>> = BTreeMap::new();
    for pod in cluster.local_pods(node) {
        local.entry(&pod.name().namespace).or_default().push(pod);
    }
    // In name order, and so are the policies of each attachment.
    for (name, policy) in &cluster.objects.network_policies {
        let pods = local.get(name.namespace.as_str()).into_iter().flatten();
        let selected: Vec<_> = pods
            .filter(|pod| policy.pod_selector.matches(&pod.pod.meta.labels))
            .collect();
        if selected.is_empty() {
            continue;
        }
        let id = format!("NetworkPolicy/{name}");
        for pod in &selected {
            let entry = attachments.entry(pod.name()).or_default();
            if policy.ingress.is_some() {
                attach(&mut entry.ingress, &id);
            }
            if policy.egress.is_some() {
                attach(&mut entry.egress, &id);
            }
        }
        let rules = |rules: &Option<Vec<PolicyRule>>, direction, sets: &mut Sets<'_, '_>| {
            let rules = rules.iter().flatten().zip(0..);
            rules
                .map(|(rule, index)| sets.rule(policy, rule, index, direction))
                .collect()
        };
        policies.push(proto::Policy {
            id,
            origin: Some(encode::origin("networking.k8s.io", "NetworkPolicy", name)),
            ingress: rules(&policy.ingress, Direction::Ingress, &mut sets),
            egress: rules(&policy.egress, Direction::Egress, &mut sets),
        });
    }
    Policies {
        rules: policies,
        ip_sets: sets.by_id.into_values().collect(),
        attachments,
    }
}

/// `NetworkPolicies` share one tier; what none of them allows is denied.
fn attach(attachment: &mut proto::PolicyAttachment, id: &str) {
    if attachment.tiers.is_empty() {
        attachment.tiers.push(proto::Tier {
            name: "default".to_owned(),
            policies: Vec::new(),
            default_action: proto::Action::Deny.into(),
        });
    }
    if let Some(tier) = attachment.tiers.first_mut() {
        tier.policies.push(id.to_owned());
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// IP sets by id. An id is the canonical text of what it selects, so equal selections share a set and a set keeps
/// its id while its members change.
struct Sets<'c, 'a> {
    cluster: &'c Cluster<'a>,
    node: &'c str,
    by_id: BTreeMap<String, proto::IpSet>,
}

impl Sets<'_, '_> {
    fn rule(
        &mut self,
        policy: &NetworkPolicy,
        rule: &PolicyRule,
        index: u32,
        direction: Direction,
    ) -> proto::Rule {
        let namespace = &policy.meta.name.namespace;
        let peers = rule.peers.iter().map(|peer| self.peer(namespace, peer)).collect();
        let ports = rule
            .ports
            .iter()
            .map(|port| self.port(policy, rule, port, direction))
            .collect();
        proto::Rule {
            index,
            action: proto::Action::Allow.into(),
            any_peer: rule.peers.is_empty(),
            peers,
            any_port: rule.ports.is_empty(),
            ports,
        }
    }

    fn peer(&mut self, namespace: &str, peer: &PolicyPeer) -> proto::Peer {
        let peer = match peer {
            PolicyPeer::Block { cidr, except } => proto::peer::Peer::IpBlock(proto::IpBlock {
                prefix: Some(encode::prefix(*cidr)),
                except: except.iter().copied().map(encode::prefix).collect(),
            }),
            PolicyPeer::Pods { pods, namespaces } => {
                let selection = Selection {
                    namespace,
                    pods: pods.as_ref(),
                    namespaces: namespaces.as_ref(),
                };
                proto::peer::Peer::IpSet(self.addresses(&selection))
            }
        };
        proto::Peer { peer: Some(peer) }
    }

    fn port(
        &mut self,
        policy: &NetworkPolicy,
        rule: &PolicyRule,
        port: &PolicyPort,
        direction: Direction,
    ) -> proto::PortMatch {
        let matched = match &port.ports {
            PortSet::All => None,
            PortSet::Range(first, last) => Some(proto::port_match::Port::Range(proto::PortRange {
                first: u32::from(*first),
                last: u32::from(*last),
            })),
            PortSet::Named(name) => {
                let id = self.named_ports(policy, rule, port, name, direction);
                Some(proto::port_match::Port::NamedSet(id))
            }
        };
        proto::PortMatch {
            protocol: port.protocol.number(),
            port: matched,
        }
    }

    /// The addresses of the pods that a peer selects.
    fn addresses(&mut self, selection: &Selection<'_>) -> String {
        let id = format!("pods:{selection}");
        if !self.by_id.contains_key(&id) {
            let mut members = BTreeSet::new();
            for pod in selection.pods(self.cluster) {
                members.extend(pod.addresses.iter().map(|address| IpNet::from(*address)));
            }
            let member = |net| proto::Member {
                prefix: Some(encode::prefix(net)),
                protocol: 0,
                port: 0,
            };
            self.insert(&id, SetKind::Addresses, members.into_iter().map(member).collect());
        }
        id
    }

    /// Where destination pods have a port of this name. Ingress: the local pods that the policy selects. Egress: the
    /// pods that the rule's peers select, or every pod where a peer is a range or there is none, because a range
    /// covers pods, too.
    fn named_ports(
        &mut self,
        policy: &NetworkPolicy,
        rule: &PolicyRule,
        port: &PolicyPort,
        name: &str,
        direction: Direction,
    ) -> String {
        let namespace = &policy.meta.name.namespace;
        let own = Selection {
            namespace,
            pods: Some(&policy.pod_selector),
            namespaces: None,
        };
        let selections: Option<Vec<Selection<'_>>> = match direction {
            Direction::Ingress => Some(vec![own]),
            Direction::Egress if rule.peers.is_empty() => None,
            Direction::Egress => rule
                .peers
                .iter()
                .map(|peer| Selection::of(namespace, peer))
                .collect(),
        };
        let whom = match &selections {
            None => "*".to_owned(),
            Some(selections) => {
                let texts: BTreeSet<String> = selections.iter().map(ToString::to_string).collect();
                texts.into_iter().collect::<Vec<_>>().join(" or ")
            }
        };
        let here = if direction == Direction::Ingress {
            "local "
        } else {
            ""
        };
        let id = format!("ports:{}/{name}:{here}{whom}", port.protocol);
        if self.by_id.contains_key(&id) {
            return id;
        }
        let mut members = BTreeSet::new();
        let mut add = |pod: &LivePod<'_>| {
            let named = pod
                .pod
                .named_ports
                .iter()
                .filter(|p| p.name == name && p.protocol == port.protocol);
            for named in named {
                members.extend(
                    pod.addresses
                        .iter()
                        .map(|address| (IpNet::from(*address), named.port)),
                );
            }
        };
        match &selections {
            None => self
                .cluster
                .pods
                .values()
                .filter(|pod| !pod.pod.host_network)
                .for_each(&mut add),
            Some(selections) => {
                for selection in selections {
                    let pods = selection.pods(self.cluster).into_iter();
                    pods.filter(|pod| direction == Direction::Egress || pod.is_on(self.node))
                        .for_each(&mut add);
                }
            }
        }
        let member = |(net, number): (IpNet, u16)| proto::Member {
            prefix: Some(encode::prefix(net)),
            protocol: port.protocol.number(),
            port: u32::from(number),
        };
        self.insert(
            &id,
            SetKind::AddressPorts,
            members.into_iter().map(member).collect(),
        );
        id
    }

    fn insert(&mut self, id: &str, kind: SetKind, members: Vec<proto::Member>) {
        self.by_id.insert(
            id.to_owned(),
            proto::IpSet {
                id: id.to_owned(),
                kind: kind.into(),
                members,
            },
        );
    }
}

/// Pods by label: of one namespace, or of those that a selector selects.
struct Selection<'p> {
    namespace: &'p str,
    pods: Option<&'p Selector>,
    namespaces: Option<&'p Selector>,
}

impl<'p> Selection<'p> {
    /// `None` for a range of addresses.
    fn of(namespace: &'p str, peer: &'p PolicyPeer) -> Option<Self> {
        match peer {
            PolicyPeer::Pods { pods, namespaces } => Some(Self {
                namespace,
                pods: pods.as_ref(),
                namespaces: namespaces.as_ref(),
            }),
            PolicyPeer::Block { .. } => None,
        }
    }

    fn pods<'c, 'a>(&self, cluster: &'c Cluster<'a>) -> Vec<&'c LivePod<'a>>
    where
        'p: 'c,
    {
        match self.namespaces {
            None => cluster.select_in(self.namespace, self.pods).collect(),
            Some(namespaces) => cluster
                .select_namespaces(namespaces)
                .flat_map(|namespace| cluster.select_in(namespace, self.pods))
                .collect(),
        }
    }
}

/// `default/app=web`, or `[team=a]/app=web` where namespaces are selected. Neither kind of text can look like the
/// other: names and labels hold no brackets.
impl std::fmt::Display for Selection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespaces {
            None => write!(f, "{}/", self.namespace)?,
            Some(namespaces) => write!(f, "[{namespaces}]/")?,
        }
        match self.pods {
            None => f.write_str("*"),
            Some(pods) => pods.fmt(f),
        }
    }
}
