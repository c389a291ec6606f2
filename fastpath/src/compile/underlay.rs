//! The underlay compiled: links that are ports, adjacencies of next hops, routes with their equal-cost ways.
//!
//! It is rebuilt whole from what the kernel told and compared with what was: adjacencies keep their indexes, and only what
//! leads elsewhere now bumps. Endpoints and Services come and go without touching any of it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{PortKind, Subject};
use ipnet::IpNet;
use wire::addr::Mac;

use super::claim::host;
use super::{CompileError, Work, template};
use crate::port::PortId;
use crate::snapshot::table::{Claims, HopKey, Hops, Leg, OnLink, UnderlayHops};
use crate::snapshot::{Adjacency, AdjacencyId, PeerId, Shard};
use crate::table::hash;
use crate::table::lpm::Prefixes;
use crate::table::trie::Trie;
use crate::underlay::{Link, NextHop, Underlay};

/// Parts that a flow's hash is cut into where there are several ways.
const PARTS: usize = 256;

/// Weights above are as good as this.
const WEIGHT_MAX: u16 = 256;

impl Work {
    /// Compiles the underlay of the snapshot again, and the tunnels that go over it.
    pub(super) fn rebuild_underlay(&mut self) -> Result<(), CompileError> {
        self.describe_ports();
        let underlay = self.snapshot.underlay.clone();
        let links = self.links(&underlay);
        let ids = self.hop_adjacencies(&underlay, &links)?;
        let on_link = on_link(&underlay, &links, &ids);
        let routes = self.routes(&underlay, &links, &ids);
        let after = Hops { routes, ids, on_link };
        let before = std::mem::replace(&mut self.snapshot.hops, Arc::new(after));
        self.bump_changed_routes(&before);
        let peers: Vec<_> = self
            .snapshot
            .peers
            .iter()
            .map(|(id, _)| PeerId(id as u16))
            .collect();
        for peer in peers {
            self.tunnels(peer)?;
        }
        Ok(())
    }

    /// Links that are ports and up.
    fn links(&self, underlay: &Underlay) -> BTreeMap<PortId, Link> {
        let mut links = BTreeMap::new();
        for link in underlay.links.iter().filter(|link| link.up) {
            if let Some(port) = self.snapshot.port_by_name(&link.port)
                && port.kind != PortKind::Pod
            {
                let mut link = link.clone();
                link.mtu = port.mtu;
                links.insert(port.id, link);
            }
        }
        // The kernel is always there, told or not.
        if let Some(port) = self.snapshot.host_port() {
            links.entry(port.id).or_insert_with(|| Link {
                port: port.name.clone(),
                mac: port.own_mac,
                peer_mac: Some(port.peer_mac),
                mtu: port.mtu,
                up: true,
            });
        }
        links
    }

    /// An adjacency for every router, every neighbour, the unknown on each link, and the kernel.
    fn hop_adjacencies(
        &mut self,
        underlay: &Underlay,
        links: &BTreeMap<PortId, Link>,
    ) -> Result<BTreeMap<(PortId, HopKey), AdjacencyId>, CompileError> {
        let mut wanted: BTreeMap<(PortId, HopKey), Adjacency> = BTreeMap::new();
        let by_name: BTreeMap<&str, PortId> = links.iter().map(|(id, link)| (&*link.port, *id)).collect();
        let ethernet = |port: PortId, to: Option<Mac>| {
            let link = &links[&port];
            template::ethernet(port, to.unwrap_or(Mac::ZERO), link.mac, link.mtu, to.is_some())
        };
        for (port, link) in links {
            if Some(*port) == self.snapshot.host {
                let kernel = self
                    .snapshot
                    .port(*port)
                    .map(|port| port.peer_mac)
                    .or(link.peer_mac);
                wanted.insert(
                    (*port, HopKey::Kernel),
                    ethernet(*port, Some(kernel.unwrap_or(Mac::ZERO))),
                );
            } else {
                wanted.insert((*port, HopKey::Unknown), ethernet(*port, None));
            }
        }
        for hop in underlay.routes.iter().flat_map(|route| &route.next_hops) {
            if let (Some(port), Some(gateway)) = (by_name.get(&*hop.port), hop.gateway)
                && Some(*port) != self.snapshot.host
            {
                wanted
                    .entry((*port, HopKey::Address(gateway)))
                    .or_insert_with(|| ethernet(*port, None));
            }
        }
        for neighbour in &underlay.neighbours {
            if let Some(port) = by_name.get(&*neighbour.port)
                && Some(*port) != self.snapshot.host
            {
                wanted.insert(
                    (*port, HopKey::Address(neighbour.address)),
                    ethernet(*port, Some(neighbour.mac)),
                );
            }
        }
        let before = self.snapshot.hops.clone();
        for (key, id) in before.ids.iter().filter(|(key, _)| !wanted.contains_key(key)) {
            debug_assert!(
                self.snapshot.adjacencies.get(u32::from(id.0)).is_some(),
                "{key:?} had an adjacency"
            );
            self.snapshot.adjacencies.remove(u32::from(id.0));
        }
        let mut ids = BTreeMap::new();
        for (key, adjacency) in wanted {
            let id = match before.ids.get(&key) {
                Some(id) => {
                    self.set_adjacency(*id, adjacency);
                    *id
                }
                None => self.new_adjacency(&Subject::new("Underlay", "", &links[&key.0].port), adjacency)?,
            };
            if key.1 == HopKey::Kernel
                && let Some(port) = self.snapshot.ports.get_mut(u32::from(key.0.0))
            {
                port.adjacency = Some(id);
            }
            ids.insert(key, id);
        }
        Ok(ids)
    }

    fn routes(
        &self,
        underlay: &Underlay,
        links: &BTreeMap<PortId, Link>,
        ids: &BTreeMap<(PortId, HopKey), AdjacencyId>,
    ) -> Prefixes<UnderlayHops> {
        let by_name: BTreeMap<&str, PortId> = links.iter().map(|(id, link)| (&*link.port, *id)).collect();
        // The lowest metric that has a way on links which are up; equal metrics share their ways.
        let mut best: BTreeMap<IpNet, (u32, Vec<&NextHop>)> = BTreeMap::new();
        for route in &underlay.routes {
            let usable: Vec<_> = route
                .next_hops
                .iter()
                .filter(|hop| by_name.contains_key(&*hop.port))
                .collect();
            if usable.is_empty() && !route.next_hops.is_empty() {
                continue;
            }
            match best.get_mut(&route.prefix.trunc()) {
                Some((metric, hops)) if *metric == route.metric => hops.extend(usable),
                Some((metric, _)) if *metric < route.metric => {}
                _ => {
                    best.insert(route.prefix.trunc(), (route.metric, usable));
                }
            }
        }
        let mut routes = Prefixes::default();
        for (prefix, (_, mut hops)) in best {
            // The order in which they were told says nothing.
            hops.sort_unstable();
            hops.dedup();
            hops.truncate(PARTS);
            let legs = hops.iter().map(|hop| {
                let port = by_name[&*hop.port];
                let key = match hop.gateway {
                    _ if Some(port) == self.snapshot.host => HopKey::Kernel,
                    Some(gateway) => HopKey::Address(gateway),
                    None => HopKey::Unknown,
                };
                Leg {
                    port,
                    adjacency: ids[&(port, key)],
                    on_link: key == HopKey::Unknown,
                    mtu: links[&port].mtu,
                }
            });
            let hops = UnderlayHops {
                legs: legs.collect(),
                parts: parts(&hops).into(),
                shard: Shard::underlay(prefix),
                is_default: prefix.prefix_len() == 0,
            };
            routes.insert(prefix, hops);
        }
        routes
    }

    /// Bumps what `before` led elsewhere.
    fn bump_changed_routes(&mut self, before: &Hops) {
        let after = self.snapshot.hops.clone();
        let mut changed = Vec::new();
        before
            .routes
            .each(|prefix, hops| match after.routes.exact(prefix) {
                Some(now) if now == hops => {}
                _ => changed.push((prefix, hops.shard)),
            });
        after.routes.each(|prefix, _| {
            if before.routes.exact(prefix).is_none() {
                // Its destinations took the next shorter route until now.
                let shard = before
                    .routes
                    .covering(prefix)
                    .map_or(Shard::NOWHERE, |(_, hops)| hops.shard);
                changed.push((prefix, shard));
            }
        });
        let neighbours = before.on_link.iter().map(|(key, id)| (key, id, &after.on_link));
        for (key, id, other) in
            neighbours.chain(after.on_link.iter().map(|(key, id)| (key, id, &before.on_link)))
        {
            if other.get(key) == Some(id) {
                continue;
            }
            let OnLink(_, address) = *key;
            let shard = before
                .routes
                .lookup(address)
                .map_or(Shard::NOWHERE, |hops| hops.shard);
            changed.push((host(address), shard));
        }
        for (prefix, shard) in changed {
            self.bumps.add(shard);
            self.bump_plain(prefix);
        }
    }

    /// Bumps the nodes and plain blocks whose addresses meet `prefix`.
    fn bump_plain(&mut self, prefix: IpNet) {
        let claims = &self.snapshot.claims;
        let bumps = &mut self.bumps;
        // A node may share an address with another that has it; its plain blocks are reached there all the same.
        let mut bump = |claims: &Claims| {
            let rest = claims.rest.iter().flat_map(|rest| rest.iter());
            for peer in [&claims.winner]
                .into_iter()
                .chain(rest)
                .filter_map(|claim| claim.plain_peer())
            {
                bumps.add(Shard::peer(peer));
            }
        };
        claims.within(prefix, |_, claims| bump(claims));
        let mut around = claims.covering(prefix);
        while let Some((wider, claims_of)) = around {
            bump(claims_of);
            around = wider.supernet().and_then(|wider| claims.covering(wider));
        }
    }
}

fn on_link(
    underlay: &Underlay,
    links: &BTreeMap<PortId, Link>,
    ids: &BTreeMap<(PortId, HopKey), AdjacencyId>,
) -> Trie<OnLink, AdjacencyId> {
    let by_name: BTreeMap<&str, PortId> = links.iter().map(|(id, link)| (&*link.port, *id)).collect();
    let mut on_link = Trie::default();
    for neighbour in &underlay.neighbours {
        if let Some(port) = by_name.get(&*neighbour.port)
            && let Some(id) = ids.get(&(*port, HopKey::Address(neighbour.address)))
        {
            on_link.insert(OnLink(*port, neighbour.address), *id);
        }
    }
    on_link
}

/// Which way each part of the hash takes: the one that scores highest for it, with as many tries as it has weight
/// (rendezvous hashing). So a way that goes moves its own parts only, and one that comes takes its share of all others.
fn parts(hops: &[&NextHop]) -> Vec<u8> {
    if hops.len() < 2 {
        return Vec::new();
    }
    let identities: Vec<u64> = hops.iter().map(|hop| identity(hop)).collect();
    let score = |part: usize, leg: usize| {
        let tries = u64::from(hops[leg].weight.clamp(1, WEIGHT_MAX));
        (0..tries)
            .map(|n| hash::scattered(identities[leg] ^ n << 32 ^ part as u64))
            .max()
            .unwrap_or(0)
    };
    let best = |part| {
        (0..hops.len())
            .max_by_key(|leg| (score(part, *leg), *leg))
            .unwrap_or(0)
    };
    (0..PARTS).map(|part| best(part) as u8).collect()
}

/// What a way is, whatever its weight.
fn identity(hop: &NextHop) -> u64 {
    let gateway = hop.gateway.unwrap_or(IpAddr::from([0, 0, 0, 0]));
    hash::words(hash::name(&hop.port), hash::address(gateway))
}
