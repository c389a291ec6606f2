//! Ports of the node: uplink, host and one for each local pod.

use std::collections::BTreeMap;
use std::net::IpAddr;

use contract::proto;

use crate::ipam::Assignments;
use crate::object::ObjectName;

use super::cluster::Cluster;
use super::node::NodeView;
use super::policy::Attachments;
use super::{Mode, Options, encode, naming};

/// A pod as a lab builds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Namespace and name.
    pub name: ObjectName,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// Its own, or its node's where it lives in the node's network; at least one.
    pub addresses: Vec<IpAddr>,
    /// Whether it lives in its node's network: then it has no port, and what follows has no meaning.
    pub host_network: bool,
    /// Kernel name of the node-side interface.
    pub interface: String,
    /// The pod's own MAC.
    pub mac: [u8; 6],
    /// Of the pod's interface, bytes of IP packet.
    pub mtu: u32,
    /// Whether the addresses were handed out rather than written in the object.
    pub assigned: bool,
}

/// `pod:<namespace>/<name>`.
pub fn pod_port_name(pod: &ObjectName) -> String {
    format!("pod:{}/{}", pod.namespace, pod.name)
}

/// In the order of their names, which is the order of the state.
pub(super) fn ports(
    cluster: &Cluster<'_>,
    own: &NodeView,
    attachments: &BTreeMap<&ObjectName, Attachments>,
    options: &Options,
) -> Vec<proto::Port> {
    let plain = |name: &str, kind: proto::PortKind, interface: &str| proto::Port {
        name: name.to_owned(),
        kind: kind.into(),
        interface: interface.to_owned(),
        ..proto::Port::default()
    };
    let mut ports = vec![plain("host", proto::PortKind::Host, &options.host_interface)];
    // A pod's interface has room for every tunnel. A replay has no interface: there a destination on the node itself
    // has the uplink's MTU, and only a tunnel takes from it.
    let mtu = match options.mode {
        Mode::Replay => own.uplink_mtu,
        Mode::Live | Mode::Cluster => own.pod_mtu,
    };
    for pod in cluster.local_pods(&own.name) {
        let attachments = attachments.get(pod.name()).cloned().unwrap_or_default();
        ports.push(proto::Port {
            name: pod_port_name(pod.name()),
            kind: proto::PortKind::Pod.into(),
            interface: naming::interface(pod.name()),
            mac: naming::pod_mac(pod.pod, &pod.addresses).to_vec(),
            addresses: encode::addresses(&pod.addresses),
            mtu,
            ingress: Some(attachments.ingress),
            egress: Some(attachments.egress),
        });
    }
    ports.push(plain(
        "uplink",
        proto::PortKind::Uplink,
        &options.uplink_interface,
    ));
    ports
}

pub(super) fn views(cluster: &Cluster<'_>, nodes: &[NodeView], assignments: &Assignments) -> Vec<PodView> {
    let mtus: BTreeMap<&str, u32> = nodes
        .iter()
        .map(|node| (node.name.as_str(), node.pod_mtu))
        .collect();
    let view = |pod: &super::cluster::LivePod<'_>| {
        let mtu = pod.pod.node.as_deref().and_then(|node| mtus.get(node));
        PodView {
            name: pod.name().clone(),
            node: pod.pod.node.as_ref().map(ToString::to_string),
            addresses: pod.addresses.to_vec(),
            host_network: pod.pod.host_network,
            interface: naming::interface(pod.name()),
            mac: naming::pod_mac(pod.pod, &pod.addresses),
            mtu: mtu.copied().unwrap_or(1500),
            assigned: !assignments.addresses(pod.name()).is_empty(),
        }
    };
    cluster.pods.values().map(view).collect()
}
