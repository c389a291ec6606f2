//! The generations that flow entries are stamped with, in shards: which one stands for what, and which a change bumps.
//!
//! The array has three regions, so that a change of one kind never touches flows by another: endpoints here, routes, and the
//! addresses of others that a flow goes to or comes from. Within a region two things may share a shard; that costs a decision
//! made again, never a wrong one. Addresses are what changes all the time in a large cluster, so they have by far the most.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::PeerId;
use crate::port::PortId;
use crate::table::hash;

/// Number of a generation that flow entries are stamped with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(pub u32);

/// Shards of endpoints and routes, the first ones; a power of two, and the array stays in L1.
pub const PLACE_SHARDS: usize = 1024;
/// Shards of addresses, behind those; a power of two.
pub const ADDRESS_SHARDS: usize = 1 << 18;

const ENDPOINT: u32 = 0;
const ENDPOINT_LEN: u32 = 512;
const ROUTE: u32 = ENDPOINT + ENDPOINT_LEN;
const ROUTE_LEN: u32 = 512;
const _: () = assert!((ROUTE + ROUTE_LEN) as usize == PLACE_SHARDS);

impl Shard {
    /// Destinations on this node that no pod has, and those that no route leads to.
    pub const NOWHERE: Self = Self(ROUTE);

    /// A port: what policy says about the endpoint behind it, and that it is there.
    pub const fn endpoint(port: PortId) -> Self {
        Self(ENDPOINT + port.0 as u32 % ENDPOINT_LEN)
    }

    /// What depends on an address and is no route: whether it is a VIP, a Service's backend, a member of a set that policy names.
    /// For addresses of no port here; what is behind a port has its [endpoint](Self::endpoint)'s.
    pub fn address(address: IpAddr) -> Self {
        // The top of the hash: tables use the bottom.
        let place = hash::address(address) >> (64 - ADDRESS_SHARDS.trailing_zeros());
        Self((PLACE_SHARDS as u64 + place) as u32)
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
        Self(ROUTE + 1 + (hash % u64::from(ROUTE_LEN - 1)) as u32)
    }
}

/// A set of shards: those that a change bumps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bumps {
    places: [u64; PLACE_SHARDS / 64],
    addresses: BTreeSet<Shard>,
}

impl Bumps {
    /// None.
    pub const fn none() -> Self {
        Self {
            places: [0; PLACE_SHARDS / 64],
            addresses: BTreeSet::new(),
        }
    }

    /// So many that every flow depends on one: all endpoints and routes.
    pub const fn all() -> Self {
        Self {
            places: [u64::MAX; PLACE_SHARDS / 64],
            addresses: BTreeSet::new(),
        }
    }

    /// Adds one.
    pub fn add(&mut self, shard: Shard) {
        let at = shard.0 as usize;
        match self.places.get_mut(at / 64) {
            Some(word) => *word |= 1 << (at % 64),
            None => drop(self.addresses.insert(shard)),
        }
    }

    /// Adds those of [`Bumps::all`].
    pub(crate) fn add_all(&mut self) {
        self.merge(&Self::all());
    }

    /// Is it one of them?
    pub fn contains(&self, shard: Shard) -> bool {
        let at = shard.0 as usize;
        match self.places.get(at / 64) {
            Some(word) => word & 1 << (at % 64) != 0,
            None => self.addresses.contains(&shard),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        let places: usize = self.places.iter().map(|word| word.count_ones() as usize).sum();
        places + self.addresses.len()
    }

    /// None at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Shard> {
        (0..PLACE_SHARDS as u32)
            .map(Shard)
            .filter(|shard| self.contains(*shard))
            .chain(self.addresses.iter().copied())
    }

    /// Adds those of another set.
    pub fn merge(&mut self, other: &Self) {
        self.places
            .iter_mut()
            .zip(other.places)
            .for_each(|(word, other)| *word |= other);
        self.addresses.extend(&other.addresses);
    }
}
