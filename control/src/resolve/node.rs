//! Nodes: addresses, MTU and tunnel ends.

use std::cell::LazyCell;
use std::net::IpAddr;

use contract::proto;
use ipnet::IpNet;

use crate::ipam;
use crate::object::{Node, Tunnel};

use super::cluster::Cluster;
use super::pool::{Pools, encap};
use super::{Mode, Options, encode, naming};

/// A node as the network sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Name.
    pub name: String,
    /// At least one; the first of each family is the main one.
    pub addresses: Vec<IpAddr>,
    /// Subnets of the main addresses, where annotations tell them.
    pub subnets: Vec<IpNet>,
    /// Ranges that its pods get their addresses from: blocks of block IPAM, else `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// See [`naming::uplink_mac`].
    pub uplink_mac: [u8; 6],
    /// Bytes of IP packet: the annotation, else [`Options::uplink_mtu`] for the node itself, else 1500.
    pub uplink_mtu: u32,
    /// What its pods' interfaces get: the uplink's less the largest encapsulation in use.
    pub pod_mtu: u32,
    /// Its end of each tunnel kind and family in use.
    pub tunnels: Vec<TunnelView>,
}

/// One end of the tunnels of one kind and family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelView {
    /// VXLAN or IPIP.
    pub tunnel: Tunnel,
    /// Family of what is inside, and of the outside, too.
    pub is_v4: bool,
    /// Address inside the pod network.
    pub address: Option<IpAddr>,
    /// VXLAN only.
    pub mac: Option<[u8; 6]>,
    /// The node's address that carries it.
    pub outer: IpAddr,
}

impl NodeView {
    /// The first address of a family.
    pub fn main_address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().find(|a| a.is_ipv4() == v4).copied()
    }

    /// Its end of a kind of tunnel, where it has one.
    pub fn tunnel(&self, tunnel: Tunnel, v4: bool) -> Option<&TunnelView> {
        self.tunnels
            .iter()
            .find(|end| end.tunnel == tunnel && end.is_v4 == v4)
    }

    pub(super) fn tunnel_ends(&self) -> Vec<proto::TunnelEnd> {
        let end = |view: &TunnelView| proto::TunnelEnd {
            encap: encap(view.tunnel).into(),
            address: view.address.map(encode::address).unwrap_or_default(),
            mac: view.mac.map(|mac| mac.to_vec()).unwrap_or_default(),
            // Written out always: without `address` it is what tells the family.
            outer_address: encode::address(view.outer),
        };
        self.tunnels.iter().map(end).collect()
    }
}

/// What a tunnel adds to a packet, in bytes. VXLAN over IPv6 carries VXLAN's 16 and 14 of Ethernet under 40.
fn overhead(tunnel: Tunnel, v4: bool) -> u32 {
    match (tunnel, v4) {
        (Tunnel::None, _) => 0,
        (Tunnel::Vxlan, true) => 50,
        (Tunnel::Vxlan, false) => 70,
        (Tunnel::Ipip, _) => 20,
    }
}

/// Every node that has an address. The tunnel address is the annotation's, else (but in [`Mode::Replay`])
/// [`ipam::tunnel_address`], which every node computes alike.
pub(super) fn views(
    cluster: &Cluster<'_>,
    pools: &Pools,
    options: &Options,
    own: &str,
    warnings: &mut Vec<String>,
) -> Vec<NodeView> {
    let objects = cluster.objects;
    let used = pools.tunnels();
    let overhead_max = used
        .iter()
        .map(|(tunnel, v4)| overhead(*tunnel, *v4))
        .max()
        .unwrap_or(0);
    // Annotations spare it.
    let claimed = LazyCell::new(|| ipam::claimed(objects));
    let mut views = Vec::new();
    for node in objects.nodes.values() {
        let name = &node.meta.name.name;
        if node.addresses.is_empty() {
            warnings.push(format!(
                "Node {name}: it has no address, so nothing is routed to it"
            ));
            continue;
        }
        let mut tunnels = Vec::new();
        for &(tunnel, is_v4) in &used {
            let Some(outer) = node.main_address(is_v4) else {
                continue;
            };
            let annotated = match (tunnel, is_v4) {
                (Tunnel::Ipip, _) => node.ipip_v4,
                (_, true) => node.vxlan_v4,
                (_, false) => node.vxlan_v6,
            };
            let address = annotated.or_else(|| match options.mode {
                Mode::Replay => None,
                // Nobody but the block's allocator knows what is free in it; it writes the annotation.
                _ if cluster.has_blocks(node) => None,
                Mode::Live | Mode::Cluster => ipam::tunnel_address(&claimed, node, is_v4),
            });
            let mac = (tunnel == Tunnel::Vxlan).then(|| naming::vxlan_mac(node, is_v4));
            tunnels.push(TunnelView {
                tunnel,
                is_v4,
                address,
                mac,
                outer,
            });
        }
        let from_kernel = options.uplink_mtu.filter(|_| name == own);
        let uplink_mtu = node.uplink_mtu.or(from_kernel).unwrap_or(1500);
        views.push(NodeView {
            name: name.to_string(),
            addresses: node.addresses.clone(),
            subnets: node.subnets.clone(),
            pod_cidrs: cluster.ranges(node).to_vec(),
            uplink_mac: naming::uplink_mac(node),
            uplink_mtu,
            pod_mtu: uplink_mtu.saturating_sub(overhead_max),
            tunnels,
        });
    }
    views
}

/// The node itself, for the state.
pub(super) fn own(node: &Node, view: &NodeView) -> proto::Node {
    proto::Node {
        name: view.name.clone(),
        addresses: encode::addresses(&view.addresses),
        uplink_mac: view.uplink_mac.to_vec(),
        // 0 leaves it to the kernel, which may change it while we run.
        uplink_mtu: node.uplink_mtu.unwrap_or(0),
        own_blocks: view.pod_cidrs.iter().copied().map(encode::prefix).collect(),
        tunnel_ends: view.tunnel_ends(),
        vxlan_vni: 4096,
        vxlan_port: 4789,
        snat_port_first: 45_000,
        snat_port_last: 65_535,
    }
}
