//! The generations that flow entries are stamped with, in shards: which one stands for what, and which a change bumps.
//!
//! The array has three regions, so that a change of one kind never touches flows by another: endpoints' policy, Services and
//! VIPs, routes. Within a region two things may share a shard; that costs a decision made again, never a wrong one.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{PeerId, ServiceId};
use crate::port::PortId;
use crate::table::hash;

/// Index into the small array of generations that flow entries are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u16);

/// How many generation shards there are; a power of two, and the array stays in L1.
pub const SHARDS: usize = 1024;

const POLICY: u16 = 0;
const POLICY_LEN: u16 = 512;
const SERVICE: u16 = POLICY + POLICY_LEN;
const SERVICE_LEN: u16 = 256;
const ROUTE: u16 = SERVICE + SERVICE_LEN;
const ROUTE_LEN: u16 = 256;
const _: () = assert!((ROUTE + ROUTE_LEN) as usize == SHARDS);

impl Shard {
    /// Destinations on this node that no pod has, and those that no route leads to.
    pub const NOWHERE: Self = Self(ROUTE);

    /// What policy says about an endpoint.
    pub const fn policy(port: PortId) -> Self {
        Self(POLICY + port.0 % POLICY_LEN)
    }

    /// A Service port.
    pub fn service(service: ServiceId) -> Self {
        Self(SERVICE + (hash::words(1, u64::from(service.0)) % u64::from(SERVICE_LEN)) as u16)
    }

    /// Whether an address is a VIP, and of what: for flows that found no Service there.
    pub fn vip(address: IpAddr) -> Self {
        Self(SERVICE + (hash::address(address) % u64::from(SERVICE_LEN)) as u16)
    }

    /// Destinations behind a local port.
    pub(crate) fn local(port: PortId) -> Self {
        Self::route(hash::words(2, u64::from(port.0)))
    }

    /// Destinations behind another node.
    pub(crate) fn peer(peer: PeerId) -> Self {
        Self::route(hash::words(3, u64::from(peer.0)))
    }

    /// Destinations that an underlay route leads to.
    pub(crate) fn underlay(prefix: IpNet) -> Self {
        Self::route(hash::words(
            hash::address(prefix.addr()),
            u64::from(prefix.prefix_len()),
        ))
    }

    fn route(hash: u64) -> Self {
        Self(ROUTE + 1 + (hash % u64::from(ROUTE_LEN - 1)) as u16)
    }
}

/// A set of shards: those that a change bumps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bumps([u64; SHARDS / 64]);

impl Bumps {
    /// None.
    pub const fn none() -> Self {
        Self([0; SHARDS / 64])
    }

    /// All of them.
    pub const fn all() -> Self {
        Self([u64::MAX; SHARDS / 64])
    }

    /// Adds one.
    pub fn add(&mut self, shard: Shard) {
        self.0[usize::from(shard.0) / 64] |= 1 << (shard.0 % 64);
    }

    /// Adds every shard of Services and VIPs.
    pub(crate) fn add_services(&mut self) {
        (SERVICE..SERVICE + SERVICE_LEN).for_each(|shard| self.add(Shard(shard)));
    }

    /// Adds every shard of routes.
    pub(crate) fn add_routes(&mut self) {
        (ROUTE..ROUTE + ROUTE_LEN).for_each(|shard| self.add(Shard(shard)));
    }

    /// Is it one of them?
    pub fn contains(&self, shard: Shard) -> bool {
        self.0[usize::from(shard.0) / 64] & 1 << (shard.0 % 64) != 0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Shard> {
        (0..SHARDS as u16)
            .map(Shard)
            .filter(|shard| self.contains(*shard))
    }

    /// Adds those of another set.
    pub fn merge(&mut self, other: &Self) {
        self.0
            .iter_mut()
            .zip(other.0)
            .for_each(|(word, other)| *word |= other);
    }
}
