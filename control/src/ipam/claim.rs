//! Blocks change hands in steps, each of which is one write that of two nodes only one can do:
//!
//! ```text
//! claim      affinity pending ─► block created with our name (of two nodes one creates it) ─► affinity confirmed
//! give up    affinity pendingDeletion ─► block deleted, or left without a holder ─► affinity deleted
//! ```
//!
//! Who has a block stands in the block. A node that ended between two steps goes on from there when it reads its affinities.

use std::collections::BTreeMap;

use ipnet::IpNet;
use sha1::{Digest as _, Sha1};

use super::affinity::{Affinity, State};
use super::allocator::{AllocateError, Allocator, LiveFlows, Own};
use super::block::{Block, at, number, object_name};
use super::store::{Store, StoreError, Stored as _};
use super::surroundings::{PoolView, Surroundings};

impl<S: Store, F: LiveFlows> Allocator<S, F> {
    /// Our blocks; reads them the first time, and brings to its end what an earlier process began.
    pub(super) async fn read<'o>(&self, own: &'o mut Option<Own>) -> Result<&'o mut Own, AllocateError> {
        if own.is_none() {
            let mut blocks = BTreeMap::new();
            let affinities: Vec<Affinity> = self.store.list().await?;
            for affinity in affinities
                .iter()
                .filter(|one| one.node() == self.node && one.is_host())
            {
                let block: Option<Block> = self.store.get(&object_name(affinity.cidr())).await?;
                let is_ours = block.as_ref().is_some_and(|block| block.is_of(&self.node));
                match (affinity.state(), block) {
                    (State::PendingDeletion, _) => {
                        if !self.give_up(affinity.cidr(), &self.node).await? {
                            self.read_again(&mut blocks, affinity.cidr()).await?;
                        }
                    }
                    (State::Confirmed, Some(block)) if is_ours => {
                        blocks.insert(affinity.cidr(), block);
                    }
                    (State::Pending, None) => self.forget(affinity).await?,
                    // A claim that came half way, or a block that somebody took away by hand.
                    _ => {
                        self.claim_range(&mut blocks, affinity.cidr()).await?;
                    }
                }
            }
            *own = Some(blocks);
        }
        Ok(own.as_mut().expect("it was just read"))
    }

    /// Somebody changed a block of ours.
    pub(super) async fn read_again(&self, own: &mut Own, cidr: IpNet) -> Result<(), StoreError> {
        let block: Option<Block> = self.store.get(&object_name(cidr)).await?;
        if let Some(block) = block.filter(|block| block.is_of(&self.node)) {
            own.insert(cidr, block);
            return Ok(());
        }
        tracing::warn!(block = %cidr, "a block of ours has gone to somebody else");
        own.remove(&cidr);
        // Nothing may be routed to us by it.
        let name = Affinity::name(cidr, &self.node);
        if let Some(affinity) = self.store.get::<Affinity>(&name).await? {
            self.forget(&affinity).await?;
        }
        Ok(())
    }

    /// Takes a block of `pool` that nobody has and that has an address to give. None: there is none.
    pub(super) async fn claim(
        &self,
        own: &mut Own,
        pool: &PoolView,
        around: &Surroundings,
    ) -> Result<Option<IpNet>, AllocateError> {
        let mut blocks: Vec<Block> = self.store.list().await?;
        blocks.retain(|block| pool.cidr.contains(&block.cidr()) || block.cidr().contains(&pool.cidr));
        let has_something = |block: &Block| {
            let mut free = block.free(0, 0);
            free.any(|(address, _)| !around.is_reserved(address) && !around.is_taken(address))
        };
        // Ours by the object though we did not know, or without a holder since its node went.
        let known = |block: &&Block| own.contains_key(&block.cidr());
        let loose = blocks.iter().filter(|block| !known(block));
        let loose = loose.filter(|block| block.is_of(&self.node) || !block.has_holder());
        let loose: Vec<IpNet> = loose
            .filter(|block| has_something(block))
            .map(Block::cidr)
            .collect();
        for cidr in loose {
            if self.claim_range(own, cidr).await? {
                return Ok(Some(cidr));
            }
        }
        let candidates = Candidates::of(pool, &self.node, blocks.iter().map(Block::cidr));
        let mut empty_handed = 0;
        for cidr in candidates {
            if !has_something(&Block::new(cidr, &self.node)) {
                // All of it is reserved or taken.
                empty_handed += 1;
                if empty_handed == RESERVED_BLOCKS_MAX {
                    break;
                }
                continue;
            }
            if self.claim_range(own, cidr).await? {
                return Ok(Some(cidr));
            }
        }
        Ok(None)
    }

    /// Claims a block. `false`: somebody else has it.
    pub(super) async fn claim_range(&self, own: &mut Own, cidr: IpNet) -> Result<bool, AllocateError> {
        let mut affinity = self.pending(cidr).await?;
        let block = loop {
            match self.store.create(&Block::new(cidr, &self.node)).await {
                Ok(block) => break Some(block),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            match self.store.get::<Block>(&object_name(cidr)).await? {
                Some(block) if block.is_of(&self.node) => break Some(block),
                Some(block) if block.has_holder() => break None,
                Some(mut loose) => {
                    loose.set_node(Some(&self.node));
                    match self.store.update(&loose).await {
                        Ok(block) => break Some(block),
                        Err(StoreError::Conflict { .. }) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // It went away in between.
                None => {}
            }
        };
        let Some(block) = block else {
            self.forget(&affinity).await?;
            return Ok(false);
        };
        while affinity.state() != State::Confirmed {
            match self
                .store
                .update(&affinity.clone().with_state(State::Confirmed))
                .await
            {
                Ok(confirmed) => affinity = confirmed,
                Err(StoreError::Conflict { .. }) => affinity = self.pending(cidr).await?,
                Err(error) => return Err(error.into()),
            }
        }
        tracing::info!(block = %cidr, node = self.node, "block claimed");
        own.insert(cidr, block);
        Ok(true)
    }

    /// Our affinity for a block, made if there is none.
    async fn pending(&self, cidr: IpNet) -> Result<Affinity, StoreError> {
        let new = Affinity::pending(cidr, &self.node);
        loop {
            match self.store.create(&new).await {
                Err(StoreError::Conflict { .. }) => {}
                done => return done,
            }
            if let Some(there) = self.store.get::<Affinity>(&new.meta().name).await? {
                return Ok(there);
            }
        }
    }

    /// Removes an affinity; one that has changed is somebody's work.
    async fn forget(&self, affinity: &Affinity) -> Result<(), StoreError> {
        match self.store.delete(affinity).await {
            Err(StoreError::Conflict { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A block of `node` is its no more. `false`: it changed meanwhile, and stays.
    ///
    /// One of ours is given up only while it is empty; one of a node that is gone stays without a holder until its last
    /// address is back.
    pub(super) async fn give_up(&self, cidr: IpNet, node: &str) -> Result<bool, AllocateError> {
        let name = Affinity::name(cidr, node);
        let Some(affinity) = self.store.get::<Affinity>(&name).await? else {
            return Ok(false);
        };
        let leaving = match self
            .store
            .update(&affinity.with_state(State::PendingDeletion))
            .await
        {
            Err(StoreError::Conflict { .. }) => return Ok(false),
            done => done?,
        };
        let block: Option<Block> = self.store.get(&object_name(cidr)).await?;
        let done = match block {
            Some(block) if block.is_of(node) && block.is_empty() => self.store.delete(&block).await,
            Some(block) if block.is_of(node) && node == self.node => {
                // Somebody borrows of it.
                let kept = self.store.update(&leaving.with_state(State::Confirmed)).await;
                return match kept {
                    Ok(_) | Err(StoreError::Conflict { .. }) => Ok(false),
                    Err(error) => Err(error.into()),
                };
            }
            Some(mut block) if block.is_of(node) => {
                block.set_node(None);
                self.store.update(&block).await.map(|_| ())
            }
            _ => Ok(()),
        };
        match done {
            // The next pass looks again.
            Err(StoreError::Conflict { .. }) => return Ok(false),
            done => done?,
        }
        self.forget(&leaving).await?;
        tracing::info!(block = %cidr, node, "block given up");
        Ok(true)
    }
}

/// Blocks of a pool that overlap no block there is. Each node begins elsewhere, so that nodes that start together do not all
/// want the same one.
struct Candidates {
    first: std::net::IpAddr,
    block_size: u8,
    host_bits: u8,
    count: u128,
    start: u128,
    tried: u128,
    /// First and last address of blocks there are, in order.
    there: Vec<(u128, u128)>,
}

impl Candidates {
    fn of(pool: &PoolView, node: &str, there: impl Iterator<Item = IpNet>) -> Self {
        let block_size = pool.block_size.max(pool.cidr.prefix_len());
        let mut there: Vec<(u128, u128)> = there
            .map(|cidr| (number(cidr.network()), number(cidr.broadcast())))
            .collect();
        there.sort_unstable();
        let bits = block_size - pool.cidr.prefix_len();
        let count = 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX);
        let hash = Sha1::digest(node);
        let hash = hash
            .iter()
            .take(16)
            .fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
        Self {
            first: pool.cidr.network(),
            block_size,
            host_bits: pool.cidr.max_prefix_len() - block_size,
            count,
            start: hash % count,
            tried: 0,
            there,
        }
    }
}

impl Iterator for Candidates {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        while self.tried < self.count {
            let until_end = self.count - self.start;
            let index = if self.tried < until_end {
                self.start + self.tried
            } else {
                self.tried - until_end
            };
            let network = number(self.first) + (index << self.host_bits);
            let last = network + ((1_u128 << self.host_bits) - 1);
            // The first one that ends at or behind our beginning.
            let at_or_behind = self.there.partition_point(|(_, end)| *end < network);
            match self.there.get(at_or_behind) {
                Some((first, end)) if *first <= last => {
                    // On behind it, but not beyond the pool's end, where the other half begins.
                    let blocks = ((*end - network) >> self.host_bits) + 1;
                    let left = self.count - index;
                    self.tried += blocks.min(left);
                }
                _ => {
                    self.tried += 1;
                    let address = at(self.first, index << self.host_bits);
                    return IpNet::new(address, self.block_size).ok();
                }
            }
        }
        None
    }
}

/// Blocks all of whose addresses are reserved that are passed over in one search: whoever reserves more means the pool.
const RESERVED_BLOCKS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::{Object, Objects};

    fn pool(cidr: &str, block_size: u8) -> Surroundings {
        let mut objects = Objects::default();
        let text = format!("{{metadata: {{name: p}}, spec: {{cidr: '{cidr}', blockSize: {block_size}}}}}");
        objects.insert(Object::IpPool(serde_saphyr::from_str(&text).unwrap()));
        Surroundings::of(&objects, "a")
    }

    #[test]
    fn candidates_are_all_blocks_that_overlap_none() {
        let around = pool("10.0.0.0/24", 26);
        let there = ["10.0.0.64/27", "9.0.0.0/8", "10.0.0.192/26"];
        for node in ["a", "b", "c", "d"] {
            let there = there.iter().map(|text| text.parse().unwrap());
            let mut all: Vec<String> = Candidates::of(&around.pools[0], node, there)
                .map(|cidr| cidr.to_string())
                .collect();
            all.sort();
            assert_eq!(all, ["10.0.0.0/26", "10.0.0.128/26"], "{node}");
        }
        let larger = ["10.0.0.0/16".parse().unwrap()];
        assert_eq!(
            Candidates::of(&around.pools[0], "a", larger.into_iter()).next(),
            None
        );
    }

    #[test]
    fn a_vast_pool_is_not_walked() {
        let around = pool("::/0", 128);
        let first = Candidates::of(&around.pools[0], "a", std::iter::empty())
            .next()
            .unwrap();
        let second = Candidates::of(&around.pools[0], "a", [first].into_iter())
            .next()
            .unwrap();
        assert_ne!(first, second);
        let top = pool("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120", 122);
        assert_eq!(Candidates::of(&top.pools[0], "z", std::iter::empty()).count(), 4);
        let everything = pool("0.0.0.0/0", 26);
        assert!(
            Candidates::of(&everything.pools[0], "a", std::iter::empty())
                .next()
                .is_some()
        );
    }
}
