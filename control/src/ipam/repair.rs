//! Addresses and blocks whose holders are gone come back, by nobody's call: a node that died between two steps, a pod whose
//! DEL never came, a node that left the cluster.
//!
//! Whose pod an address is stands beside it, with the node that gave it; that node alone frees it. What a node that left had
//! is freed by the first node of the cluster by name. All writes say what they read, so it does no harm when two do it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::affinity::{Affinity, State};
use super::allocator::{AllocateError, Allocator, LiveFlows};
use super::block::{Attributes, Block, Seconds};
use super::store::{Store, StoreError};
use crate::object::{ObjectName, Objects};

/// What was seen to be gone, and since when. One per node, for as long as it runs.
#[derive(Debug, Default)]
pub struct Repair {
    gone: BTreeMap<(IpAddr, Option<String>), Seconds>,
    nodes_gone: BTreeMap<String, Seconds>,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Addresses that came back.
    pub addresses: Vec<IpAddr>,
    /// Blocks that have their holder no more.
    pub blocks: Vec<IpNet>,
}

impl Repair {
    /// Looks at everything once. `is_held` tells the addresses of pods' interfaces on this node, whatever objects say.
    ///
    /// What has been gone for [`GRACE_S`] in every pass since comes back. Without our own Node the objects are no good, and
    /// nothing is done.
    ///
    /// # Errors
    /// The store's; the next pass goes on.
    pub async fn pass<S: Store, F: LiveFlows>(
        &mut self,
        allocator: &Allocator<S, F>,
        objects: &Objects,
        is_held: &(dyn Fn(IpAddr) -> bool + Sync),
        now: Seconds,
    ) -> Result<Repaired, AllocateError> {
        let mut repaired = Repaired::default();
        let Some(first) = objects.nodes.keys().next() else {
            return Ok(repaired);
        };
        if objects.node(&allocator.node).is_none() {
            return Ok(repaired);
        }
        let is_caretaker = first.name == *allocator.node;
        let blocks: Vec<Block> = allocator.store.list().await?;
        let mut gone = BTreeMap::new();
        for block in &blocks {
            for (address, attributes) in block.given() {
                let by = attributes.get("node").unwrap_or_default();
                let is_ours =
                    by == allocator.node || (is_caretaker && !by.is_empty() && objects.node(by).is_none());
                if !is_ours || is_alive(objects, address, attributes) || is_held(address) {
                    continue;
                }
                let key = (address, attributes.handle_id.clone());
                let since = self.gone.get(&key).copied().unwrap_or(now);
                if now.saturating_sub(since) >= GRACE_S
                    && allocator.free(block, address, attributes, now).await?
                {
                    tracing::warn!(%address, handle = ?attributes.handle_id, "an address came back: its pod is gone");
                    repaired.addresses.push(address);
                } else {
                    gone.insert(key, since);
                }
            }
        }
        self.gone = gone;
        if is_caretaker {
            self.sweep(allocator, objects, now, &mut repaired).await?;
        }
        allocator.give_up_spare(now, &mut repaired).await?;
        Ok(repaired)
    }

    /// Blocks of nodes that left.
    async fn sweep<S: Store, F: LiveFlows>(
        &mut self,
        allocator: &Allocator<S, F>,
        objects: &Objects,
        now: Seconds,
        repaired: &mut Repaired,
    ) -> Result<(), AllocateError> {
        let affinities: Vec<Affinity> = allocator.store.list().await?;
        let of_host = affinities.iter().filter(|affinity| affinity.is_host());
        let lost: Vec<&Affinity> = of_host
            .filter(|affinity| objects.node(affinity.node()).is_none())
            .collect();
        self.nodes_gone
            .retain(|node, _| lost.iter().any(|affinity| affinity.node() == node));
        for affinity in lost {
            let since = *self.nodes_gone.entry(affinity.node().to_owned()).or_insert(now);
            if now.saturating_sub(since) >= GRACE_S
                && allocator.give_up(affinity.cidr(), affinity.node()).await?
            {
                repaired.blocks.push(affinity.cidr());
            }
        }
        Ok(())
    }
}

/// Whether the holder of an address is there, as far as objects tell. Of what is not ours to judge, it is.
fn is_alive(objects: &Objects, address: IpAddr, attributes: &Attributes) -> bool {
    if let (Some(namespace), Some(pod)) = (attributes.get("namespace"), attributes.get("pod")) {
        let pod = objects.pods.get(&ObjectName::new(namespace, pod));
        let has_it = |addresses: &[IpAddr]| addresses.is_empty() || addresses.contains(&address);
        return pod.is_some_and(|pod| !pod.is_finished() && has_it(&pod.addresses));
    }
    match (attributes.get("type"), attributes.get("node")) {
        (Some(kind), Some(node)) if kind.ends_with("TunnelAddress") => objects.node(node).is_some(),
        _ => true,
    }
}

impl<S: Store, F: LiveFlows> Allocator<S, F> {
    /// Takes an address back from whom it was seen with.
    async fn free(
        &self,
        block: &Block,
        address: IpAddr,
        attributes: &Attributes,
        now: Seconds,
    ) -> Result<bool, AllocateError> {
        // Not while an ADD is at it.
        let mut own = self.own.lock().await;
        let done = self
            .take_from_other(block.clone(), address, now, &|there| there == attributes)
            .await?;
        let own = self.read(&mut own).await?;
        if own.contains_key(&block.cidr()) {
            self.read_again(own, block.cidr()).await?;
        }
        Ok(done)
    }

    /// Gives up empty blocks but one of each family: what they had rests no more, and the next pods find room in the one.
    async fn give_up_spare(&self, now: Seconds, repaired: &mut Repaired) -> Result<(), AllocateError> {
        let mut own = self.own.lock().await;
        let own = self.read(&mut own).await?;
        let is_spare =
            |block: &&Block| block.is_empty() && block.free(now, self.rest_s()).all(|(_, rested)| rested);
        for v4 in [true, false] {
            let of_family = |block: &&Block| block.cidr().addr().is_ipv4() == v4;
            let empty: Vec<IpNet> = own
                .values()
                .filter(of_family)
                .filter(is_spare)
                .map(Block::cidr)
                .collect();
            for cidr in empty.into_iter().skip(1) {
                // Before, so that nothing is given of it whatever becomes of the rest.
                own.remove(&cidr);
                if self.give_up(cidr, &self.node).await? {
                    repaired.blocks.push(cidr);
                } else {
                    self.read_again(own, cidr).await?;
                }
            }
        }
        Ok(())
    }

    /// What is wrong between affinities and blocks, one sentence each; nothing is what there should be.
    ///
    /// # Errors
    /// The store's.
    pub async fn audit(&self) -> Result<Vec<String>, StoreError> {
        let blocks: Vec<Block> = self.store.list().await?;
        let affinities: Vec<Affinity> = self.store.list().await?;
        let mut found = Vec::new();
        for affinity in affinities
            .iter()
            .filter(|one| one.state() == State::Confirmed && one.is_host())
        {
            let block = blocks.iter().find(|block| block.cidr() == affinity.cidr());
            if !block.is_some_and(|block| block.is_of(affinity.node())) {
                found.push(format!(
                    "{} is confirmed for node {}, whose it is not",
                    affinity.cidr(),
                    affinity.node()
                ));
            }
        }
        for (index, block) in blocks.iter().enumerate() {
            let before = blocks.iter().take(index);
            let overlapping = before
                .filter(|other| other.cidr().contains(&block.cidr()) || block.cidr().contains(&other.cidr()));
            found.extend(
                overlapping.map(|other| format!("blocks {} and {} overlap", other.cidr(), block.cidr())),
            );
        }
        Ok(found)
    }
}

/// Seconds that a holder has to be gone before what it had is freed: a pod's object may come later than its ADD, and the API
/// server may be behind.
pub const GRACE_S: u64 = 60;
