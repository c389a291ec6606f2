//! The cluster as policies and Services see it: pods that have a network, with their addresses, and namespaces' labels.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Bound;

use ipnet::IpNet;

use crate::ipam::Assignments;
use crate::object::{Kind, Labels, NAME_LABEL, Node, ObjectName, Objects, Phase, Pod, Selector};

use super::{Mode, ResolveError, Subject};

/// A pod that runs or is about to.
#[derive(Clone, Debug)]
pub(super) struct LivePod<'a> {
    pub(super) pod: &'a Pod,
    /// The pod's own, or its node's where it lives in the node's network.
    pub(super) addresses: Cow<'a, [IpAddr]>,
}

impl<'a> LivePod<'a> {
    pub(super) fn name(&self) -> &'a ObjectName {
        &self.pod.meta.name
    }

    pub(super) fn is_on(&self, node: &str) -> bool {
        self.pod.node.as_deref() == Some(node)
    }
}

/// Everything that selectors range over.
pub(super) struct Cluster<'a> {
    pub(super) objects: &'a Objects,
    /// Pods that are not finished and have an address, hostNetwork ones too.
    pub(super) pods: BTreeMap<&'a ObjectName, LivePod<'a>>,
    namespaces: BTreeMap<&'a str, Labels>,
    /// Confirmed blocks of block IPAM, by node.
    blocks: BTreeMap<&'a str, Vec<IpNet>>,
}

impl<'a> Cluster<'a> {
    /// Gathers pods with their addresses.
    pub(super) fn new(
        objects: &'a Objects,
        assignments: &'a Assignments,
        mode: Mode,
        warnings: &mut Vec<String>,
    ) -> Result<Self, ResolveError> {
        let mut pods = BTreeMap::new();
        let mut owners: BTreeMap<IpAddr, &ObjectName> = BTreeMap::new();
        for (name, pod) in &objects.pods {
            if pod.is_finished() {
                continue;
            }
            let subject = || Subject::new(objects, Kind::Pod, name);
            let node = pod.node.as_deref().and_then(|node| objects.node(node));
            if let (Some(node), None) = (&pod.node, node) {
                warnings.push(format!(
                    "{}: there is no Node {node:?}; nothing is routed to this pod",
                    subject()
                ));
            }
            if pod.node.is_none() && !pod.addresses.is_empty() {
                warnings.push(format!(
                    "{}: it has no spec.nodeName; nothing is routed to this pod",
                    subject()
                ));
            }
            let addresses = if !pod.addresses.is_empty() {
                Cow::Borrowed(&*pod.addresses)
            } else if !pod.host_network {
                assignments.addresses(name).into()
            } else if !pod.host_addresses.is_empty() {
                Cow::Borrowed(&*pod.host_addresses)
            } else {
                let mains = node.map(|n| [n.main_address(true), n.main_address(false)]);
                mains.into_iter().flatten().flatten().collect()
            };
            if addresses.is_empty() {
                // In a cluster every pod starts without one.
                if mode == Mode::Cluster {
                    continue;
                }
                if mode == Mode::Replay && !(pod.phase == Phase::Pending && pod.node.is_none()) {
                    return Err(ResolveError::NoPodAddress { pod: subject() });
                }
                warnings.push(format!("{}: it has no address yet", subject()));
                continue;
            }
            if !pod.host_network {
                let shared = addresses.iter().find_map(|a| Some((*a, *owners.get(a)?)));
                if let Some((address, other)) = shared {
                    let error = ResolveError::SharedAddress {
                        address,
                        pod: subject(),
                        other: Box::new(Subject::new(objects, Kind::Pod, other)),
                    };
                    if !mode.is_lenient() {
                        return Err(error);
                    }
                    // The address went from a pod that ends to a new one, most likely.
                    let newer_stays = objects.pods.get(other).is_some_and(|other| other.meta.deleting);
                    let loser = if newer_stays { other } else { name };
                    warnings.push(format!("{error}; {loser} is left out"));
                    if !newer_stays {
                        continue;
                    }
                    pods.remove(other);
                    owners.retain(|_, owner| *owner != other);
                }
                owners.extend(addresses.iter().map(|address| (*address, name)));
            }
            pods.insert(name, LivePod { pod, addresses });
        }
        let mut namespaces: BTreeMap<&str, Labels> = objects
            .namespaces
            .values()
            .map(|n| (n.meta.name.name.as_str(), n.meta.labels.clone()))
            .collect();
        for name in objects.pods.keys() {
            let namespace = name.namespace.as_str();
            namespaces
                .entry(namespace)
                .or_insert_with(|| Labels::default().with(NAME_LABEL, namespace));
        }
        let mut blocks: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
        for affinity in objects.block_affinities.values().filter(|one| one.is_confirmed) {
            blocks.entry(&affinity.node).or_default().push(affinity.cidr);
        }
        for blocks in blocks.values_mut() {
            blocks.sort();
            blocks.dedup();
        }
        Ok(Self {
            objects,
            pods,
            namespaces,
            blocks,
        })
    }

    /// The ranges that a node's pods have their addresses from: its blocks, or, where it has none, its `spec.podCIDRs`.
    ///
    /// Where blocks are handed out, the ranges that Kubernetes gives to nodes on its own account mean nothing.
    pub(super) fn ranges<'s>(&'s self, node: &'s Node) -> &'s [IpNet] {
        match self.blocks.get(node.meta.name.name.as_str()) {
            Some(blocks) => blocks,
            None => &node.pod_cidrs,
        }
    }

    /// Whether a node's ranges are blocks, whose addresses only their owner hands out.
    pub(super) fn has_blocks(&self, node: &Node) -> bool {
        self.blocks.contains_key(node.meta.name.name.as_str())
    }

    /// Live pods of one namespace, in name order.
    pub(super) fn pods_in<'s>(&'s self, namespace: &str) -> impl Iterator<Item = &'s LivePod<'a>> {
        let first = ObjectName::new(namespace, "");
        let namespace = namespace.to_owned();
        self.pods
            .range::<ObjectName, _>((Bound::Included(&first), Bound::Unbounded))
            .take_while(move |(name, _)| name.namespace == namespace)
            .map(|(_, pod)| pod)
    }

    /// Live pods that have a network of their own and ports on this node.
    pub(super) fn local_pods<'s>(&'s self, node: &'s str) -> impl Iterator<Item = &'s LivePod<'a>> {
        self.pods
            .values()
            .filter(move |pod| !pod.pod.host_network && pod.is_on(node))
    }

    /// Pods with a network of their own that `pods` selects (all of them without one) in `namespace`.
    pub(super) fn select_in<'s>(
        &'s self,
        namespace: &str,
        pods: Option<&'s Selector>,
    ) -> impl Iterator<Item = &'s LivePod<'a>> {
        self.pods_in(namespace)
            .filter(move |pod| !pod.pod.host_network && pods.is_none_or(|s| s.matches(&pod.pod.meta.labels)))
    }

    /// Names of the namespaces that a selector selects.
    pub(super) fn select_namespaces<'s>(&'s self, selector: &'s Selector) -> impl Iterator<Item = &'s str> {
        self.namespaces
            .iter()
            .filter(|(_, labels)| selector.matches(labels))
            .map(|(name, _)| *name)
    }
}
