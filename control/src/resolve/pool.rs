//! Pools of pod addresses: the cluster's own, and those implied by addresses that no pool covers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;

use contract::proto;
use ipnet::IpNet;

use crate::object::{Kind, ObjectName, Tunnel};

use super::cluster::Cluster;
use super::{Mode, ResolveError, Subject, encode};

/// One pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pool {
    pub(super) tunnel: Tunnel,
    pub(super) cross_subnet: bool,
    pub(super) nat_outgoing: bool,
}

/// What an address outside every pool is treated as.
const IMPLIED: Pool = Pool {
    tunnel: Tunnel::Vxlan,
    cross_subnet: false,
    nat_outgoing: true,
};

/// Pools by prefix; the longest prefix that covers an address decides.
#[derive(Clone, Debug, Default)]
pub(super) struct Pools {
    by_prefix: BTreeMap<IpNet, Pool>,
    /// Prefix lengths in use per family, so that a lookup costs one probe per length.
    lengths: [BTreeSet<u8>; 2],
}

impl Pools {
    fn insert(&mut self, prefix: IpNet, pool: Pool) {
        self.lengths[usize::from(prefix.addr().is_ipv6())].insert(prefix.prefix_len());
        self.by_prefix.insert(prefix, pool);
    }

    /// The pool that covers the whole of `range`.
    pub(super) fn covering(&self, range: IpNet) -> Option<Pool> {
        let lengths = &self.lengths[usize::from(range.addr().is_ipv6())];
        lengths.range(..=range.prefix_len()).rev().find_map(|length| {
            let wider = IpNet::new(range.addr(), *length).ok()?.trunc();
            self.by_prefix.get(&wider).copied()
        })
    }

    /// The pools inside `range` and smaller than it.
    pub(super) fn inside(&self, range: IpNet) -> impl Iterator<Item = (IpNet, Pool)> {
        // In order of address, then length: what lies inside follows the range itself.
        let after = (Bound::Excluded(range), Bound::Unbounded);
        let inside = self
            .by_prefix
            .range(after)
            .take_while(move |(net, _)| range.contains(*net));
        inside.map(|(net, pool)| (*net, *pool))
    }

    /// Tunnel kinds in use, with whether the inside is IPv4.
    pub(super) fn tunnels(&self) -> BTreeSet<(Tunnel, bool)> {
        let used = self
            .by_prefix
            .iter()
            .filter(|(_, pool)| pool.tunnel != Tunnel::None);
        used.map(|(prefix, pool)| (pool.tunnel, prefix.addr().is_ipv4()))
            .collect()
    }

    pub(super) fn encode(&self) -> Vec<proto::Pool> {
        let encode = |(prefix, pool): (&IpNet, &Pool)| proto::Pool {
            prefix: Some(encode::prefix(*prefix)),
            nat_outgoing: pool.nat_outgoing,
            encap: encap(pool.tunnel).into(),
            cross_subnet: pool.cross_subnet,
        };
        self.by_prefix.iter().map(encode).collect()
    }
}

pub(super) fn encap(tunnel: Tunnel) -> proto::Encap {
    match tunnel {
        Tunnel::None => proto::Encap::None,
        Tunnel::Vxlan => proto::Encap::Vxlan,
        Tunnel::Ipip => proto::Encap::Ipip,
    }
}

/// The `IPPools`, then an implied pool for each of the nodes' ranges, and each pod's address, that none covers.
pub(super) fn pools(
    cluster: &Cluster<'_>,
    mode: Mode,
    warnings: &mut Vec<String>,
) -> Result<Pools, ResolveError> {
    let objects = cluster.objects;
    let mut pools = Pools::default();
    let mut owners: BTreeMap<IpNet, &ObjectName> = BTreeMap::new();
    for (name, pool) in &objects.ip_pools {
        if let Some(other) = owners.get(&pool.cidr).copied() {
            let error = ResolveError::SharedRange {
                range: pool.cidr,
                subject: Subject::new(objects, Kind::IpPool, name),
                other: Box::new(Subject::new(objects, Kind::IpPool, other)),
            };
            if !mode.is_lenient() {
                return Err(error);
            }
            warnings.push(format!("{error}; the first one counts"));
            continue;
        }
        owners.insert(pool.cidr, name);
        let settings = Pool {
            tunnel: pool.tunnel,
            cross_subnet: pool.cross_subnet,
            nat_outgoing: pool.nat_outgoing,
        };
        pools.insert(pool.cidr, settings);
    }
    let ranges = objects
        .nodes
        .values()
        .flat_map(|node| cluster.ranges(node).iter().copied());
    let pods = cluster.pods.values().filter(|pod| !pod.pod.host_network);
    // Ranges of nodes first: they cover the addresses of most pods.
    for range in ranges.chain(pods.flat_map(|pod| pod.addresses.iter().map(|a: &IpAddr| IpNet::from(*a)))) {
        if pools.covering(range).is_none() {
            pools.insert(range, IMPLIED);
        }
    }
    Ok(pools)
}
