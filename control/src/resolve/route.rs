//! Remote nodes, and the ranges of pod addresses behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contract::proto;
use ipnet::IpNet;

use crate::object::{Kind, ObjectName, Tunnel};

use super::cluster::Cluster;
use super::node::NodeView;
use super::pool::{Pool, Pools, encap};
use super::{Mode, ResolveError, Subject, encode};

/// The outcome.
pub(super) struct Routes {
    pub(super) remote_nodes: Vec<proto::RemoteNode>,
    pub(super) blocks: Vec<proto::Block>,
}

/// Blocks of the other nodes: their ranges, and single addresses that lie outside (borrowed ones).
pub(super) fn routes(
    cluster: &Cluster<'_>,
    pools: &Pools,
    nodes: &[NodeView],
    own: &NodeView,
    mode: Mode,
    warnings: &mut Vec<String>,
) -> Result<Routes, ResolveError> {
    let lost = lost_ranges(cluster, &own.name, mode, warnings)?;
    let mut singles: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| !pod.pod.host_network) {
        if let Some(node) = pod.pod.node.as_deref() {
            singles.entry(node).or_default().extend(pod.addresses.iter());
        }
    }
    let mut blocks: BTreeMap<IpNet, proto::Block> = BTreeMap::new();
    let mut remote_nodes = Vec::new();
    for node in nodes.iter().filter(|node| node.name != own.name) {
        remote_nodes.push(proto::RemoteNode {
            name: node.name.clone(),
            addresses: encode::addresses(&node.addresses),
            tunnel_ends: node.tunnel_ends(),
            uplink_mac: node.uplink_mac.to_vec(),
        });
        let mut wanted: BTreeMap<IpNet, Pool> = BTreeMap::new();
        let held = |range: &&IpNet| !lost.contains(&(node.name.as_str(), **range));
        for range in node.pod_cidrs.iter().filter(held) {
            wanted.extend(pools.covering(*range).map(|pool| (*range, pool)));
            // A pool inside the range has its own way.
            wanted.extend(pools.inside(*range));
        }
        let tunnel_addresses = node.tunnels.iter().filter_map(|end| end.address);
        for address in singles
            .remove(node.name.as_str())
            .into_iter()
            .flatten()
            .chain(tunnel_addresses)
        {
            if !node.pod_cidrs.iter().any(|range| range.contains(&address)) {
                let single = IpNet::from(address);
                wanted.extend(pools.covering(single).map(|pool| (single, pool)));
            }
        }
        let mut unreachable = [0_usize; 2];
        for (range, pool) in wanted {
            match way(pool, own, node, range.addr().is_ipv4()) {
                Some(tunnel) => {
                    let block = proto::Block {
                        prefix: Some(encode::prefix(range)),
                        node: node.name.clone(),
                        encap: encap(tunnel).into(),
                    };
                    blocks.insert(range, block);
                }
                None => unreachable[usize::from(range.addr().is_ipv6())] += 1,
            }
        }
        for (count, family) in unreachable.into_iter().zip(["IPv4", "IPv6"]) {
            if count > 0 {
                warnings.push(format!(
                    "Node {}: {count} {family} ranges of its pods cannot be reached: both nodes need an {family} address",
                    node.name
                ));
            }
        }
    }
    Ok(Routes {
        remote_nodes,
        blocks: blocks.into_values().collect(),
    })
}

/// Two nodes must not claim one range: an error, or, where claims may overlap for a moment, our own node has it, else the
/// first by name. Returns the claims that do not count.
fn lost_ranges<'c>(
    cluster: &Cluster<'c>,
    own: &str,
    mode: Mode,
    warnings: &mut Vec<String>,
) -> Result<BTreeSet<(&'c str, IpNet)>, ResolveError> {
    let mut owners: BTreeMap<IpNet, &ObjectName> = BTreeMap::new();
    let mut lost = BTreeSet::new();
    for (name, node) in &cluster.objects.nodes {
        for range in cluster.ranges(node) {
            let Some(other) = owners.insert(*range, name) else {
                continue;
            };
            let subject = |name| Subject::new(cluster.objects, Kind::Node, name);
            let error = ResolveError::SharedRange {
                range: *range,
                subject: subject(name),
                other: Box::new(subject(other)),
            };
            if !mode.is_lenient() {
                return Err(error);
            }
            let (stays, goes) = if name.name == *own {
                (name, other)
            } else {
                (other, name)
            };
            warnings.push(format!("{error}; Node {stays} has it"));
            owners.insert(*range, stays);
            lost.insert((goes.name.as_str(), *range));
        }
    }
    Ok(lost)
}

/// How packets get to a node's pods; `None` where one of the two lacks an address of the family.
fn way(pool: Pool, own: &NodeView, node: &NodeView, v4: bool) -> Option<Tunnel> {
    let (_, theirs) = own.main_address(v4).zip(node.main_address(v4))?;
    // As Calico decides it: the other's address lies in the subnet of ours.
    let neighbours = own.subnets.iter().any(|subnet| subnet.contains(&theirs));
    Some(if pool.cross_subnet && neighbours {
        Tunnel::None
    } else {
        pool.tunnel
    })
}
