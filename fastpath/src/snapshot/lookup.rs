//! What workers ask a snapshot. Nothing here allocates, but for [`Snapshot::next_hops`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{AddressPort, Encap, Limits, Timeouts};
use flowtable::prefetch;

use super::rule_index::RuleIndex;
use super::table::{Claim, OnLink, UnderlayHops, tunnel_place};
use super::{
    Adjacency, AdjacencyId, PeerId, PoolFlags, Port, PortKind, Route, RouteTarget, RuleId, RuleOrigin,
    Service, ServiceId, Shard, Snapshot, ThisNode, VipLookup,
};
use crate::port::PortId;

impl Snapshot {
    /// The version of the desired state that this is.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Equal to that of a snapshot which is in use: ports, adjacencies, nodes and what this node is are the same in both. So
    /// what a worker made of them it need not make again for each change of a Service or a policy.
    pub(crate) fn links(&self) -> usize {
        Arc::as_ptr(&self.links).addr()
    }

    /// This node.
    pub fn this_node(&self) -> &ThisNode {
        &self.this
    }

    /// The main address of this node in a family.
    pub fn node_address(&self, is_v4: bool) -> Option<IpAddr> {
        self.this
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == is_v4)
    }

    /// The next hops on uplinks that the kernel should keep resolved: routers of routes, and other nodes on the link.
    /// Allocates: for the config thread.
    pub fn next_hops(&self) -> BTreeSet<(Arc<str>, IpAddr)> {
        let uplink = |port: &str| {
            self.port_by_name(port)
                .is_some_and(|port| port.kind == PortKind::Uplink)
        };
        let routers = self.underlay.routes.iter().flat_map(|route| &route.next_hops);
        let mut next_hops: BTreeSet<_> = routers
            .filter(|hop| uplink(&hop.port))
            .filter_map(|hop| Some((hop.port.clone(), hop.gateway?)))
            .collect();
        for (_, peer) in self.peers.iter() {
            let outer = peer.source.tunnel_ends.iter().filter_map(|end| end.outer_address);
            for address in peer.source.addresses.iter().copied().chain(outer) {
                let Some(hops) = self.hops.routes.lookup(address) else {
                    continue;
                };
                let ports = hops
                    .legs
                    .iter()
                    .filter(|leg| leg.on_link)
                    .filter_map(|leg| self.port(leg.port));
                next_hops.extend(ports.map(|port| (port.name.clone(), address)));
            }
        }
        next_hops
    }

    /// Connection timeouts.
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Upper bounds.
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A port.
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&Port> {
        self.ports.get(u32::from(port.0))
    }

    /// All ports, by index.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.ports.iter().map(|(_, port)| port)
    }

    /// The port of a name.
    pub fn port_by_name(&self, name: &str) -> Option<&Port> {
        self.port(self.port_names.get_name(name)?.id)
    }

    /// The host port.
    pub fn host_port(&self) -> Option<&Port> {
        self.port(self.host?)
    }

    /// How to send to the pod behind a port.
    #[inline]
    pub fn pod_adjacency(&self, port: PortId) -> Option<AdjacencyId> {
        self.port(port)?.adjacency
    }

    /// How to send to this node's kernel.
    #[inline]
    pub fn host_adjacency(&self) -> Option<AdjacencyId> {
        self.pod_adjacency(self.host?)
    }

    /// An adjacency; [`Adjacency::GONE`] when the index is of none (a flow that was not decided again yet).
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> &Adjacency {
        self.adjacencies.get(u32::from(id.0)).unwrap_or(&Adjacency::GONE)
    }

    /// Where a destination lies.
    pub fn route(&self, destination: IpAddr) -> Route {
        let Some(claims) = self.claims.lookup(destination) else {
            let hops = self.hops.routes.lookup(destination);
            let reachable = hops.is_some_and(|hops| !hops.legs.is_empty());
            let target = if reachable {
                RouteTarget::Underlay
            } else {
                RouteTarget::Unreachable
            };
            return Route {
                target,
                shard: hops.map_or(Shard::NOWHERE, |hops| hops.shard),
            };
        };
        let target = match claims.winner {
            Claim::LocalPod(port) => RouteTarget::LocalPod(port),
            Claim::ThisNode => RouteTarget::ThisNode,
            Claim::OwnBlock => RouteTarget::Unreachable,
            Claim::PeerNode(peer) => RouteTarget::PeerNode(peer),
            Claim::PeerTunnel(peer, encap) | Claim::PeerBlock(peer, encap) => {
                match tunnel_place(encap, destination.is_ipv4()) {
                    None => RouteTarget::RemotePod { peer, tunnel: None },
                    Some(place) => match self
                        .peers
                        .get(u32::from(peer.0))
                        .and_then(|peer| peer.tunnels[place])
                    {
                        Some(tunnel) => RouteTarget::RemotePod {
                            peer,
                            tunnel: Some(tunnel),
                        },
                        // Never plain where a tunnel is demanded.
                        None => RouteTarget::Unreachable,
                    },
                }
            }
        };
        Route {
            target,
            shard: claims.winner.shard(),
        }
    }

    /// What the pool of pod addresses says in which an address lies, if it lies in one.
    pub fn pool(&self, address: IpAddr) -> Option<PoolFlags> {
        self.pools.lookup(address).map(|pool| pool.flags)
    }

    /// How to reach an address by the underlay. Equal-cost ways are chosen by `hash`; when one goes, only its flows move.
    /// `None`: no route.
    ///
    /// A pod without a tunnel whose block has no route of its own (none, or the default one, whose router knows no pods) is
    /// reached by its node where that is on a link of ours.
    pub fn underlay_adjacency(&self, destination: IpAddr, hash: u32) -> Option<AdjacencyId> {
        let hops = self.hops.routes.lookup(destination);
        if hops.is_none_or(|hops| hops.is_default)
            && let Some(peer) = self.plain_block_of(destination)
            && let Some(node) = self.on_link_peer(peer, destination.is_ipv4(), hash)
        {
            return Some(node);
        }
        self.hops.adjacency(hops?, destination, hash)
    }

    /// The other node in whose block without a tunnel an address lies.
    fn plain_block_of(&self, address: IpAddr) -> Option<PeerId> {
        match self.claims.lookup(address)?.winner {
            Claim::PeerBlock(peer, Encap::None) => Some(peer),
            _ => None,
        }
    }

    /// How to reach a node's own address of a family where that node is on a link of ours, no router between.
    pub fn on_link_peer(&self, peer: PeerId, is_v4: bool, hash: u32) -> Option<AdjacencyId> {
        let peer = self.peers.get(u32::from(peer.0))?;
        let addresses = peer.source.addresses.iter().copied();
        let mut addresses = addresses.filter(|address| address.is_ipv4() == is_v4);
        addresses.find_map(|address| {
            let hops = self.hops.routes.lookup(address)?;
            let on_link = !hops.legs.is_empty() && hops.legs.iter().all(|leg| leg.on_link);
            on_link
                .then(|| self.hops.adjacency(hops, address, hash))
                .flatten()
        })
    }

    /// The largest IP packet that may go to `destination` by `route`, bytes. `None`: there is no way.
    pub fn forwarding_mtu(&self, route: &Route, destination: IpAddr, hash: u32) -> Option<u16> {
        let adjacency = match route.target {
            RouteTarget::LocalPod(port) => self.pod_adjacency(port)?,
            RouteTarget::ThisNode => self.host_adjacency()?,
            RouteTarget::RemotePod {
                tunnel: Some(tunnel), ..
            } => tunnel,
            RouteTarget::RemotePod { tunnel: None, .. }
            | RouteTarget::PeerNode(_)
            | RouteTarget::Underlay => self.underlay_adjacency(destination, hash)?,
            RouteTarget::Unreachable => return None,
        };
        Some(self.adjacency(adjacency).mtu)
    }

    /// The other node that has this address itself, as the outer source of a tunnel packet.
    pub fn peer_by_outer(&self, outer: IpAddr) -> Option<PeerId> {
        match self.claims.lookup(outer)?.winner {
            Claim::PeerNode(peer) => Some(peer),
            _ => None,
        }
    }

    /// May this inner source come by a tunnel from that node: is it in its blocks by longest match, or its tunnel address?
    pub fn peer_owns(&self, peer: PeerId, inner_source: IpAddr) -> bool {
        match self.claims.lookup(inner_source).map(|claims| claims.winner) {
            Some(Claim::PeerBlock(owner, _) | Claim::PeerTunnel(owner, _)) => owner == peer,
            _ => false,
        }
    }

    /// The name of another node.
    pub fn peer_name(&self, peer: PeerId) -> Option<&str> {
        Some(&self.peers.get(u32::from(peer.0))?.source.name)
    }

    /// Is this an address of a node, this one or another?
    pub fn is_node_address(&self, address: IpAddr) -> bool {
        self.claims
            .lookup(address)
            .is_some_and(|claims| matches!(claims.winner, Claim::ThisNode | Claim::PeerNode(_)))
    }

    /// What an address is to the Services; `port` in host order.
    pub fn vip(&self, address: IpAddr, protocol: u8, port: u16) -> VipLookup<'_> {
        let place = AddressPort {
            address,
            protocol,
            port,
        };
        let winner = self.vips.winner(&place);
        match winner.and_then(|service| self.service(service)) {
            Some(service) => VipLookup::Service(service),
            None => self.no_service(address),
        }
    }

    /// [`vip`](Self::vip) of up to `N` places, of which the first `places.len()` count; what the choice of a backend reads is on
    /// its way then.
    pub fn vip_each<const N: usize>(&self, places: &[AddressPort]) -> [VipLookup<'_>; N] {
        let mut found = [VipLookup::NotService; N];
        let winners = self.vips.winner_each::<N>(places);
        let winners = &winners[..places.len().min(N)];
        for service in winners.iter().flatten() {
            self.services.prefetch(service.0);
        }
        for ((found, winner), place) in found.iter_mut().zip(winners).zip(places) {
            *found = match winner.and_then(|service| self.service(service)) {
                Some(service) => {
                    prefetch(service);
                    VipLookup::Service(service)
                }
                None => self.no_service(place.address),
            };
        }
        found
    }

    /// What an address is to the Services at a port where none of them is.
    fn no_service(&self, address: IpAddr) -> VipLookup<'_> {
        if self.vip_addresses.contains(&address) {
            VipLookup::NoSuchPort
        } else if self.service_ranges.lookup(address).is_some() {
            VipLookup::Unassigned
        } else {
            VipLookup::NotService
        }
    }

    /// A Service port.
    pub fn service(&self, service: ServiceId) -> Option<&Service> {
        self.services.get(service.0).map(|record| &*record.service)
    }

    /// All Service ports, by index.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().map(|(_, record)| &*record.service)
    }

    /// Every rule and default deny, by index.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, RuleOrigin)> {
        let ids = self.rules.iter().map(|(id, _)| RuleId(id));
        ids.filter_map(|id| Some((id, self.rule_origin(id)?)))
    }

    /// What a rule index stands for; `None` when it is of no rule any more.
    pub fn rule_origin(&self, rule: RuleId) -> Option<RuleOrigin> {
        let record = self.rules.get(rule.0)?;
        Some(RuleOrigin {
            policy: record.origin.clone(),
            direction: record.direction,
            rule: record.rule,
        })
    }

    /// Bytes of the indexes that find the rules of large policies.
    pub fn policy_index_bytes(&self) -> usize {
        let rules = self
            .policies
            .iter()
            .flat_map(|(_, policy)| [&policy.ingress, &policy.egress]);
        let indexes = rules.filter_map(|rules| rules.index.as_ref());
        indexes.map(RuleIndex::bytes).sum()
    }

    /// One past the highest rule index: the length of an array of counters.
    pub const fn rules_len(&self) -> usize {
        self.rules.end() as usize
    }
}

impl super::table::Hops {
    /// The adjacency that a route gives to a destination.
    pub(crate) fn adjacency(
        &self,
        hops: &UnderlayHops,
        destination: IpAddr,
        hash: u32,
    ) -> Option<AdjacencyId> {
        // The top of the hash: its bottom chooses other things.
        let leg = match &*hops.parts {
            [] => hops.legs.first()?,
            parts => hops.legs.get(usize::from(
                parts[((u64::from(hash) * parts.len() as u64) >> 32) as usize],
            ))?,
        };
        if leg.on_link
            && let Some(known) = self.on_link.get(&OnLink(leg.port, destination))
        {
            return Some(*known);
        }
        Some(leg.adjacency)
    }
}
