//! What a lab consists of: computed once from the cluster's objects, written down before anything is made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Addresses of hosts beyond the underlay, all held by the lab's `outside` namespace.
pub(crate) const OUTSIDE: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 66)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 0x66)),
];

/// MAC of the underlay's gateway: the next hop for anything that is no node's address.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x02, 0xfe, 0, 0, 0, 1];

/// The node's end of every pod link.
pub(crate) const POD_GATEWAY_MAC: [u8; 6] = [0xee; 6];

/// The pods' default gateway in either family, as under Calico.
pub(crate) const POD_GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The link-local address that [`POD_GATEWAY_MAC`] gives by EUI-64.
pub(crate) const POD_GATEWAY_V6: IpAddr =
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee));

/// What forwards packets on the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dataplane {
    /// `ringway-fastpath`, fed by `ringway-control`
    Ringway,
    /// The kernel: routes, a VXLAN device, nftables for services. No policy
    Kernel,
}

/// A whole lab.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) name: String,
    /// The files and directories with the cluster's objects.
    pub(crate) state: Vec<PathBuf>,
    /// Receive and transmit queues of every link.
    pub(crate) queues: u32,
    /// Workers of each fastpath.
    pub(crate) workers: u32,
    pub(crate) nodes: Vec<Node>,
    /// Addresses of the underlay's gateway, one for each subnet of the nodes.
    pub(crate) gateways: Vec<IpNet>,
    pub(crate) services: Vec<Service>,
}

/// A node and the pods on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) dataplane: Dataplane,
    /// Addresses with the length of their subnet; the first of a family is the main one.
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
    pub(crate) pod_blocks: Vec<IpNet>,
    /// The VXLAN MAC for IPv4 and for IPv6.
    pub(crate) vxlan_macs: [[u8; 6]; 2],
    /// What the node's own packets into a tunnel have as source, for IPv4 and for IPv6.
    pub(crate) tunnel_addresses: [Option<IpAddr>; 2],
    pub(crate) pods: Vec<Pod>,
}

/// A pod with a network of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Its link's name on the node.
    pub(crate) interface: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
}

/// A service port, for the kernel's dataplane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Service {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
    pub(crate) backends: Vec<(IpAddr, u16)>,
}

impl Plan {
    /// The nodes that run Ringway.
    pub(crate) fn ringway_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes
            .iter()
            .filter(|node| node.dataplane == Dataplane::Ringway)
    }

    /// The namespace of the bridge between the nodes.
    pub(crate) fn underlay_netns(&self) -> String {
        format!("ringway-{}.underlay", self.name)
    }

    /// The namespace of the hosts outside the cluster.
    pub(crate) fn outside_netns(&self) -> String {
        format!("ringway-{}.outside", self.name)
    }

    pub(crate) fn node_netns(&self, node: &Node) -> String {
        format!("ringway-{}.node.{}", self.name, node.name)
    }

    pub(crate) fn pod_netns(&self, pod: &Pod) -> String {
        format!("ringway-{}.pod.{}.{}", self.name, pod.namespace, pod.name)
    }

    /// Every namespace of the lab.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let mut names = vec![self.underlay_netns(), self.outside_netns()];
        for node in &self.nodes {
            names.push(self.node_netns(node));
            names.extend(node.pods.iter().map(|pod| self.pod_netns(pod)));
        }
        names
    }

    /// The namespace that a person calls `target`: a node, `<namespace>/<pod>`, `outside` or `underlay`.
    pub(crate) fn find(&self, target: &str) -> Option<String> {
        if let Some((namespace, name)) = target.split_once('/') {
            let mut pods = self.nodes.iter().flat_map(|node| &node.pods);
            let pod = pods.find(|pod| pod.namespace == namespace && pod.name == name)?;
            return Some(self.pod_netns(pod));
        }
        match self.nodes.iter().find(|node| node.name == target) {
            Some(node) => Some(self.node_netns(node)),
            None if target == "outside" => Some(self.outside_netns()),
            None if target == "underlay" => Some(self.underlay_netns()),
            None => None,
        }
    }
}

impl Node {
    /// The node's main address of a family.
    pub(crate) fn main_address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .map(IpNet::addr)
            .find(|address| address.is_ipv4() == v4)
    }

    /// The gateway in one of this node's subnets.
    pub(crate) fn gateway(&self, gateways: &[IpNet], v4: bool) -> Option<IpAddr> {
        let main = self.main_address(v4)?;
        gateways
            .iter()
            .find(|gateway| gateway.contains(&main))
            .map(IpNet::addr)
    }
}

/// A gateway in each subnet of `nodes`: the first address that no node has.
pub(crate) fn gateways(nodes: &[Node]) -> Vec<IpNet> {
    let taken: Vec<IpAddr> = nodes
        .iter()
        .flat_map(|node| &node.addresses)
        .map(IpNet::addr)
        .collect();
    let mut subnets: Vec<IpNet> = nodes
        .iter()
        .flat_map(|node| &node.addresses)
        .map(IpNet::trunc)
        .collect();
    subnets.sort_unstable();
    subnets.dedup();
    let free = |subnet: &IpNet| {
        let mut hosts = subnet.hosts().filter(|host| *host != subnet.network());
        let address = hosts.find(|host| !taken.contains(host))?;
        IpNet::new(address, subnet.prefix_len()).ok()
    };
    subnets.iter().filter_map(free).collect()
}

/// Everything of a family.
pub(crate) fn anywhere(v4: bool) -> IpNet {
    if v4 {
        IpNet::V4(Ipv4Net::default())
    } else {
        IpNet::V6(Ipv6Net::default())
    }
}

/// Where a lab's record, sockets, logs and configuration are.
pub(crate) fn directory(lab: &str) -> PathBuf {
    Path::new("/run/ringway-lab").join(lab)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, addresses: &[&str]) -> Node {
        Node {
            name: name.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            pod_blocks: Vec::new(),
            vxlan_macs: [[0; 6]; 2],
            dataplane: Dataplane::Ringway,
            tunnel_addresses: [None; 2],
            pods: Vec::new(),
        }
    }

    #[test]
    fn each_subnet_has_a_gateway_that_is_no_nodes_address() {
        let nodes = [
            node("a", &["192.0.2.1/24", "2001:db8:2::1/64"]),
            node("b", &["192.0.2.12/24", "2001:db8:2::12/64"]),
            node("c", &["198.51.100.9/24"]),
        ];
        let gateways = gateways(&nodes);
        let expected = ["192.0.2.2/24", "198.51.100.1/24", "2001:db8:2::2/64"];
        assert_eq!(
            gateways,
            expected.map(|gateway| gateway.parse::<IpNet>().unwrap())
        );
        assert_eq!(
            nodes[2].gateway(&gateways, true),
            Some("198.51.100.1".parse().unwrap())
        );
        assert_eq!(nodes[2].gateway(&gateways, false), None);
    }
}
