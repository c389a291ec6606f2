//! The few facts of the desired state that concern the kernel: what it must route to us, and what XDP must divert to us.
//!
//! Kept beside the snapshot, in the objects' own terms, and changed object by object.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{
    Block, Change, Encap, Family, Node, PortKind, RemoteNode, Service, ValidDelta, ValidState,
};
use ipnet::IpNet;

use crate::netlink::host_port::HostRoute;

/// What the kernel's side is derived from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    node: Option<Node>,
    pods: BTreeMap<Arc<str>, Vec<IpAddr>>,
    remote_nodes: BTreeMap<Arc<str>, RemoteNode>,
    blocks: BTreeMap<IpNet, Block>,
    services: BTreeMap<Arc<str>, Vec<IpAddr>>,
    service_ranges: Vec<IpNet>,
    /// Something in here is not as it was when the kernel was told last. Most changes of a cluster (backends, members of sets)
    /// touch nothing of it, and then nothing that grows with the cluster is looked at.
    changed: bool,
}

/// What XDP on the uplinks must know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Steering {
    /// Pod blocks and pod addresses of this node.
    pub(super) pods: BTreeSet<IpNet>,
    /// Service ranges and VIPs outside them.
    pub(super) services: BTreeSet<IpNet>,
    /// Addresses of this node, where masqueraded flows are answered.
    pub(super) node: BTreeSet<IpAddr>,
    /// Addresses of this node that tunnels come to.
    pub(super) vteps: BTreeSet<IpAddr>,
    /// Addresses of other nodes.
    pub(super) peers: BTreeSet<IpAddr>,
}

impl Facts {
    /// Of a whole state.
    pub(super) fn of(state: &ValidState) -> Self {
        let mut facts = Self {
            node: Some(state.node.clone()),
            changed: true,
            ..Self::default()
        };
        state.ports.iter().for_each(|port| facts.port(port));
        state.remote_nodes.iter().for_each(|node| facts.remote_node(node));
        state
            .blocks
            .iter()
            .for_each(|block| drop(facts.blocks.insert(block.prefix, block.clone())));
        state.services.iter().for_each(|service| facts.service(service));
        facts.service_ranges.clone_from(&state.service_ranges);
        facts
    }

    /// After `delta`.
    pub(super) fn apply(&mut self, delta: &ValidDelta) {
        for change in &delta.changes {
            match change {
                Change::Service(service) => {
                    self.service(service);
                    continue;
                }
                Change::Pool(_)
                | Change::PoolRemoved(_)
                | Change::IpSet(_)
                | Change::IpSetDelta(_)
                | Change::IpSetRemoved(_)
                | Change::Policy(_)
                | Change::PolicyRemoved(_)
                | Change::Timeouts(_)
                | Change::Limits(_) => continue,
                Change::Node(node) => self.node = Some(node.clone()),
                Change::Port(port) => self.port(port),
                Change::PortRemoved(name) => drop(self.pods.remove(name)),
                Change::RemoteNode(node) => self.remote_node(node),
                Change::RemoteNodeRemoved(name) => drop(self.remote_nodes.remove(name)),
                Change::Block(block) => drop(self.blocks.insert(block.prefix, block.clone())),
                Change::BlockRemoved(prefix) => drop(self.blocks.remove(prefix)),
                Change::ServiceRemoved(id) => drop(self.services.remove(id)),
                Change::ServiceRanges(ranges) => self.service_ranges.clone_from(ranges),
            }
            self.changed = true;
        }
    }

    /// The kernel did not take all of it: it is to be told again after the next change of any kind.
    pub(super) fn touch(&mut self) {
        self.changed = true;
    }

    /// Has something changed since the last call?
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// This node, once a state said it.
    pub(super) fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Our tunnel addresses: the kernel needs them as its own.
    pub(super) fn tunnel_addresses(&self) -> BTreeSet<IpAddr> {
        self.node
            .iter()
            .flat_map(|node| &node.tunnel_ends)
            .filter_map(|end| end.address)
            .collect()
    }

    /// What the kernel must route into the host port, and with which source.
    pub(super) fn host_routes(&self) -> BTreeSet<HostRoute> {
        let Some(node) = &self.node else {
            return BTreeSet::new();
        };
        let own = node.own_blocks.iter().map(|&prefix| (prefix, Encap::None));
        let remote = self.blocks.values().map(|block| (block.prefix, block.encap));
        let services = self
            .service_prefixes()
            .into_iter()
            .map(|prefix| (prefix, Encap::None));
        let pods = self
            .pods_outside_blocks(node)
            .into_iter()
            .map(|prefix| (prefix, Encap::None));
        own.chain(remote)
            .chain(pods)
            .chain(services)
            .filter_map(|(prefix, encap)| {
                let family = Family::of(&prefix.network());
                let tunnel = node
                    .tunnel_ends
                    .iter()
                    .find(|end| end.encap == encap && end.family == family);
                let source = tunnel
                    .and_then(|end| end.address)
                    .or_else(|| node.main_address(family));
                // A node without an address of the family has no way to speak it.
                Some(HostRoute {
                    prefix,
                    source: Some(source?),
                })
            })
            .collect()
    }

    /// What XDP must divert.
    pub(super) fn steering(&self) -> Steering {
        let Some(node) = &self.node else {
            return Steering::default();
        };
        let mut vteps = BTreeSet::new();
        for end in &node.tunnel_ends {
            vteps.extend(end.outer_address.or_else(|| node.main_address(end.family)));
        }
        let pods = node
            .own_blocks
            .iter()
            .copied()
            .chain(self.pods_outside_blocks(node))
            .collect();
        Steering {
            pods,
            services: self.service_prefixes(),
            node: node.addresses.iter().copied().collect(),
            vteps,
            peers: self
                .remote_nodes
                .values()
                .flat_map(|peer| &peer.addresses)
                .copied()
                .collect(),
        }
    }

    /// Addresses of the underlay that we send to ourselves, beyond what routes name: tunnel ends and plain peers.
    pub(super) fn peer_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.remote_nodes
            .values()
            .flat_map(|peer| peer.addresses.iter().copied())
    }

    fn port(&mut self, port: &contract::valid::Port) {
        if port.kind == PortKind::Pod {
            self.pods.insert(Arc::clone(&port.name), port.addresses.clone());
        }
    }

    fn remote_node(&mut self, node: &RemoteNode) {
        self.remote_nodes.insert(Arc::clone(&node.name), node.clone());
    }

    fn service(&mut self, service: &Service) {
        if self.services.get(&service.id) != Some(&service.cluster_ips) {
            self.services
                .insert(Arc::clone(&service.id), service.cluster_ips.clone());
            self.changed = true;
        }
    }

    /// Service ranges, and VIPs that lie outside every range.
    fn service_prefixes(&self) -> BTreeSet<IpNet> {
        let outside = |address: &&IpAddr| !self.service_ranges.iter().any(|range| range.contains(*address));
        let vips = self
            .services
            .values()
            .flatten()
            .filter(outside)
            .map(|&address| IpNet::from(address));
        self.service_ranges.iter().copied().chain(vips).collect()
    }

    fn pods_outside_blocks(&self, node: &Node) -> BTreeSet<IpNet> {
        let outside = |address: &&IpAddr| !node.own_blocks.iter().any(|block| block.contains(*address));
        self.pods
            .values()
            .flatten()
            .filter(outside)
            .map(|&address| IpNet::from(address))
            .collect()
    }
}
