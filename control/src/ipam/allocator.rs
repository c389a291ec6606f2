//! Addresses out of blocks. A node gives from its own blocks, takes another when they are full, and borrows from others' when
//! no block is left.
//!
//! What is true of an address stands in its block's object and nowhere else: it is a pod's from the write on that says so. So
//! a crash at any point leaves either nothing or an address with its handle, which the next call with that handle gets
//! again, and which [`super::repair`] frees when its pod is gone.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;

use ipnet::IpNet;
use tokio::sync::Mutex;

use super::block::{Attributes, Block, Seconds};
use super::config::Config;
use super::store::{Store, StoreError};
use super::surroundings::{PoolView, Request, RequestError, Surroundings};

/// Asks whether traffic still goes on with an address.
pub trait LiveFlows: Send + Sync {
    /// Whether some live flow has `address`. An error is a reason for not giving anything now.
    fn has(&self, address: IpAddr) -> impl Future<Output = Result<bool, String>> + Send;
}

/// Nobody's traffic: where there is no dataplane.
impl LiveFlows for () {
    async fn has(&self, _: IpAddr) -> Result<bool, String> {
        Ok(false)
    }
}

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// What is asked for makes no sense here.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// All addresses are given.
    #[error("{}", full(self))]
    Full {
        /// The node.
        node: String,
        /// `IPPool v4 (10.244.0.0/24)`.
        pools: Vec<String>,
        /// Free, but given back a moment ago.
        resting: usize,
        /// Free, but some live flow has them.
        in_use: usize,
        /// `strictAffinity` or `maxBlocksPerHost`, where they are in the way.
        limits: Vec<String>,
    },
    /// An address that was asked for cannot be had.
    #[error("{address} cannot be given: {why}")]
    Address {
        /// Asked for.
        address: IpAddr,
        /// For people.
        why: String,
    },
    /// Others were always faster.
    #[error("{0} was changed by others each time; try again")]
    Busy(String),
    /// The store says no.
    #[error("IPAM objects: {0}")]
    Store(#[from] StoreError),
    /// Whether an address is in use is not known.
    #[error("whether an address is still in use cannot be asked: {0}")]
    Flows(String),
}

impl AllocateError {
    /// Whether the same question may be answered otherwise in a moment, without anybody's doing.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Busy(_) | Self::Flows(_) | Self::Store(StoreError::Unavailable(_)) => true,
            Self::Full { resting, in_use, .. } => resting + in_use > 0,
            _ => false,
        }
    }
}

fn full(error: &AllocateError) -> String {
    let AllocateError::Full {
        node,
        pools,
        resting,
        in_use,
        limits,
    } = error
    else {
        return String::new();
    };
    let mut parts = vec![format!(
        "no address is left for node {node} in {}",
        pools.join(", ")
    )];
    if *resting > 0 {
        parts.push(format!("{resting} were given back a moment ago and rest"));
    }
    if *in_use > 0 {
        parts.push(format!("{in_use} are free but still in use by live flows"));
    }
    parts.extend(limits.iter().cloned());
    parts.push(
        "add an IPPool, or remove pods (addresses of pods that are gone come back by themselves)".to_owned(),
    );
    parts.join("; ")
}

/// One node's allocator.
#[derive(Debug)]
pub struct Allocator<S, F> {
    pub(super) node: String,
    pub(super) store: S,
    flows: F,
    /// Seconds that an address rests between two pods.
    rest_s: u64,
    /// Our blocks as they were read last; none before they were read at all. A write says which version it is about, so
    /// that an old one is found out.
    pub(super) own: Mutex<Option<Own>>,
}

pub(super) type Own = BTreeMap<IpNet, Block>;

/// What stood in the way.
#[derive(Default)]
struct Tally {
    resting: usize,
    in_use: usize,
    limits: Vec<String>,
}

impl<S: Store, F: LiveFlows> Allocator<S, F> {
    /// Of `node`. An address rests for [`REST_S`] unless told otherwise.
    pub fn new(node: impl Into<String>, store: S, flows: F) -> Self {
        Self {
            node: node.into(),
            store,
            flows,
            rest_s: REST_S,
            own: Mutex::new(None),
        }
    }

    /// Lets addresses rest for as long.
    #[must_use]
    pub fn with_rest(mut self, rest_s: u64) -> Self {
        self.rest_s = rest_s;
        self
    }

    pub(super) fn rest_s(&self) -> u64 {
        self.rest_s
    }

    /// Addresses for `request`, IPv4 first. All or none; with a handle that has some, those.
    ///
    /// # Errors
    /// See [`AllocateError`]; what was given before the error is given back.
    pub async fn allocate(
        &self,
        request: &Request,
        around: &Surroundings,
        now: Seconds,
    ) -> Result<Vec<IpAddr>, AllocateError> {
        if !request.families.v4 && !request.families.v6 && request.addresses.is_empty() {
            // No pool gives anything to the node: the error says why.
            let v4 = around.pools.is_empty() || around.pools.iter().any(PoolView::is_v4);
            around.eligible(request, v4, &self.node)?;
        }
        let mut own = self.own.lock().await;
        let own = self.read(&mut own).await?;
        let mut given: Vec<IpAddr> = Vec::new();
        for v4 in [true, false] {
            let exact = request.addresses.iter().find(|address| address.is_ipv4() == v4);
            let wanted = if v4 {
                request.families.v4
            } else {
                request.families.v6
            };
            let outcome = match exact {
                Some(address) => self.give_exact(own, request, around, *address).await,
                None if wanted => self.give_any(own, request, around, v4, now).await,
                None => continue,
            };
            match outcome {
                Ok(address) => given.push(address),
                Err(error) => {
                    if let Err(undoing) = self.take_back(own, &request.handle, &given, now).await {
                        // It has its handle: the next try or the repair finds it.
                        tracing::warn!(handle = request.handle, %undoing, "an address of a failed request stays given for now");
                    }
                    return Err(error);
                }
            }
        }
        Ok(given)
    }

    /// Gives back all of a handle: in our blocks, and `addresses` wherever they are. Twice is no error.
    ///
    /// # Errors
    /// [`AllocateError::Store`], [`AllocateError::Busy`]: call again.
    pub async fn release(
        &self,
        handle: &str,
        addresses: &[IpAddr],
        now: Seconds,
    ) -> Result<(), AllocateError> {
        let mut own = self.own.lock().await;
        let own = self.read(&mut own).await?;
        let ours = own.values().flat_map(|block| block.of_handle(handle));
        let all: Vec<IpAddr> = addresses.iter().copied().chain(ours).collect();
        self.take_back(own, handle, &all, now).await
    }

    /// Our blocks, in order.
    ///
    /// # Errors
    /// [`AllocateError::Store`].
    pub async fn blocks(&self) -> Result<Vec<Block>, AllocateError> {
        let mut own = self.own.lock().await;
        Ok(self.read(&mut own).await?.values().cloned().collect())
    }

    async fn give_any(
        &self,
        own: &mut Own,
        request: &Request,
        around: &Surroundings,
        v4: bool,
        now: Seconds,
    ) -> Result<IpAddr, AllocateError> {
        // A try before this one came so far.
        let mut before = own.values().flat_map(|block| block.of_handle(&request.handle));
        if let Some(address) = before.find(|address| address.is_ipv4() == v4) {
            return Ok(address);
        }
        drop(before);
        let pools = around.eligible(request, v4, &self.node)?;
        let mut tally = Tally::default();
        for pool in &pools {
            let blocks: Vec<IpNet> = own
                .keys()
                .copied()
                .filter(|cidr| pool.cidr.contains(cidr))
                .collect();
            for cidr in blocks {
                if let Some(address) = self
                    .give_from_own(own, cidr, request, around, now, &mut tally)
                    .await?
                {
                    return Ok(address);
                }
            }
        }
        let config = Config::read(&self.store).await?;
        for pool in &pools {
            if config.blocks_max.is_some_and(|max| own.len() >= max) {
                tally.limits.push(format!(
                    "IPAMConfig default allows {} blocks per node (maxBlocksPerHost)",
                    own.len()
                ));
                break;
            }
            // Each block that is taken has an address to give, but somebody may borrow it at once.
            while let Some(cidr) = self.claim(own, pool, around).await? {
                if let Some(address) = self
                    .give_from_own(own, cidr, request, around, now, &mut tally)
                    .await?
                {
                    return Ok(address);
                }
                if config.blocks_max.is_some_and(|max| own.len() >= max) {
                    break;
                }
            }
        }
        if config.strict_affinity {
            tally.limits.push(
                "IPAMConfig default forbids borrowing from other nodes' blocks (strictAffinity)".to_owned(),
            );
        } else if let Some(address) = self.borrow(own, &pools, request, around, now, &mut tally).await? {
            return Ok(address);
        }
        Err(AllocateError::Full {
            node: self.node.clone(),
            pools: pools
                .iter()
                .map(|pool| format!("IPPool {} ({})", pool.name, pool.cidr))
                .collect(),
            resting: tally.resting,
            in_use: tally.in_use,
            limits: tally.limits,
        })
    }

    async fn give_from_own(
        &self,
        own: &mut Own,
        cidr: IpNet,
        request: &Request,
        around: &Surroundings,
        now: Seconds,
        tally: &mut Tally,
    ) -> Result<Option<IpAddr>, AllocateError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(block) = own.get(&cidr) else {
                return Ok(None);
            };
            let mut seen = Tally::default();
            let Some(address) = self.pick(block, around, now, &mut seen).await? else {
                tally.resting += seen.resting;
                tally.in_use += seen.in_use;
                return Ok(None);
            };
            let mut changed = block.clone();
            assert!(
                changed.give(address, &request.attributes),
                "it was picked because it is free"
            );
            match self.store.update(&changed).await {
                Ok(block) => {
                    own.insert(cidr, block);
                    return Ok(Some(address));
                }
                Err(StoreError::Conflict { .. }) => {
                    self.read_again(own, cidr).await?;
                    // Our own write may be the one that got in the way: sent, and its answer lost.
                    let block = own.get(&cidr);
                    let ours = block.and_then(|block| block.of_handle(&request.handle).next());
                    if ours.is_some() {
                        return Ok(ours);
                    }
                }
                Err(error) => {
                    // Perhaps it was done.
                    own.remove(&cidr);
                    self.read_again(own, cidr).await?;
                    return Err(error.into());
                }
            }
        }
        Err(AllocateError::Busy(format!("block {cidr}")))
    }

    async fn borrow(
        &self,
        own: &mut Own,
        pools: &[&PoolView],
        request: &Request,
        around: &Surroundings,
        now: Seconds,
        tally: &mut Tally,
    ) -> Result<Option<IpAddr>, AllocateError> {
        let is_virtual = |block: &Block| block.has_holder() && block.node().is_none();
        let in_pools = |block: &Block| pools.iter().any(|pool| pool.cidr.contains(&block.cidr()));
        let mut blocks: Vec<Block> = self.store.list().await?;
        blocks.retain(|block| !own.contains_key(&block.cidr()) && !is_virtual(block) && in_pools(block));
        let mut before = blocks.iter().flat_map(|block| block.of_handle(&request.handle));
        if let Some(address) = before.next() {
            return Ok(Some(address));
        }
        drop(before);
        for mut block in blocks {
            for _ in 0..ATTEMPTS_MAX {
                let Some(address) = self.pick(&block, around, now, tally).await? else {
                    break;
                };
                assert!(
                    block.give(address, &request.attributes),
                    "it was picked because it is free"
                );
                match self.store.update(&block).await {
                    Ok(_) => return Ok(Some(address)),
                    Err(StoreError::Conflict { .. }) => {
                        let name = super::block::object_name(block.cidr());
                        let Some(newer) = self.store.get::<Block>(&name).await? else {
                            break;
                        };
                        block = newer;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(None)
    }

    /// The address that has been free for longest and may be given.
    async fn pick(
        &self,
        block: &Block,
        around: &Surroundings,
        now: Seconds,
        tally: &mut Tally,
    ) -> Result<Option<IpAddr>, AllocateError> {
        for (address, has_rested) in block.free(now, self.rest_s) {
            if around.is_reserved(address) || around.is_taken(address) {
                continue;
            }
            if !has_rested {
                tally.resting += 1;
            } else if self.flows.has(address).await.map_err(AllocateError::Flows)? {
                tally.in_use += 1;
            } else {
                return Ok(Some(address));
            }
        }
        Ok(None)
    }

    async fn give_exact(
        &self,
        own: &mut Own,
        request: &Request,
        around: &Surroundings,
        address: IpAddr,
    ) -> Result<IpAddr, AllocateError> {
        let refused = |why: String| AllocateError::Address { address, why };
        let pool = around
            .pool_of(address)
            .ok_or_else(|| refused("it is in no IPPool".to_owned()))?;
        if let Some(why) = pool.refusal(request.purpose) {
            return Err(refused(format!("IPPool {} {why}", pool.name)));
        }
        if around.is_reserved(address) {
            return Err(refused("it is reserved".to_owned()));
        }
        for _ in 0..ATTEMPTS_MAX {
            let Some(mut block) = self.block_of(address, around).await? else {
                let cidr =
                    IpNet::new(address, pool.block_size).map_or(IpNet::from(address), |net| net.trunc());
                self.claim_range(own, cidr).await?;
                continue;
            };
            if block.holder(address) == Some(&request.attributes) {
                return Ok(address);
            }
            if let Some(other) = block.holder(address) {
                return Err(refused(format!("it is given to {}", told(other))));
            }
            let is_ours = block.is_of(&self.node);
            if !is_ours && Config::read(&self.store).await?.strict_affinity {
                let why = format!(
                    "its block {} is another node's, and strictAffinity is set",
                    block.cidr()
                );
                return Err(refused(why));
            }
            if self.flows.has(address).await.map_err(AllocateError::Flows)? {
                return Err(AllocateError::Flows(format!(
                    "{address} is in use by a live flow; try again"
                )));
            }
            assert!(block.give(address, &request.attributes), "nobody holds it");
            match self.store.update(&block).await {
                Ok(block) => {
                    if is_ours {
                        own.insert(block.cidr(), block);
                    }
                    return Ok(address);
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AllocateError::Busy(format!("the block of {address}")))
    }

    /// The block that has `address`, read anew.
    async fn block_of(&self, address: IpAddr, around: &Surroundings) -> Result<Option<Block>, StoreError> {
        if let Some(pool) = around.pool_of(address)
            && let Ok(cidr) = IpNet::new(address, pool.block_size)
            && let Some(block) = self.store.get(&super::block::object_name(cidr.trunc())).await?
        {
            return Ok(Some(block));
        }
        let all: Vec<Block> = self.store.list().await?;
        Ok(all.into_iter().find(|block| block.cidr().contains(&address)))
    }

    async fn take_back(
        &self,
        own: &mut Own,
        handle: &str,
        addresses: &[IpAddr],
        now: Seconds,
    ) -> Result<(), AllocateError> {
        let is_it = |attributes: &Attributes| attributes.handle_id.as_deref() == Some(handle);
        let mut elsewhere: Option<Vec<Block>> = None;
        for address in addresses {
            let ours = own.keys().copied().find(|cidr| cidr.contains(address));
            if let Some(cidr) = ours {
                self.take_from_own(own, cidr, *address, now, &is_it).await?;
            }
            if !own.keys().any(|cidr| cidr.contains(address)) {
                let all = match elsewhere.take() {
                    Some(all) => all,
                    None => self.store.list().await?,
                };
                if let Some(block) = all.iter().find(|block| block.cidr().contains(address)) {
                    self.take_from_other(block.clone(), *address, now, &is_it).await?;
                }
                elsewhere = Some(all);
            }
        }
        Ok(())
    }

    async fn take_from_own(
        &self,
        own: &mut Own,
        cidr: IpNet,
        address: IpAddr,
        now: Seconds,
        is_it: &(dyn Fn(&Attributes) -> bool + Sync),
    ) -> Result<(), AllocateError> {
        for _ in 0..ATTEMPTS_MAX {
            let Some(mut block) = own.get(&cidr).cloned() else {
                return Ok(());
            };
            if !block.take_back(address, now, is_it) {
                return Ok(());
            }
            match self.store.update(&block).await {
                Ok(block) => {
                    own.insert(cidr, block);
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => self.read_again(own, cidr).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(AllocateError::Busy(format!("block {cidr}")))
    }

    /// Takes an address back from a block that is not ours. A block that nobody has goes with its last address.
    pub(super) async fn take_from_other(
        &self,
        mut block: Block,
        address: IpAddr,
        now: Seconds,
        is_it: &(dyn Fn(&Attributes) -> bool + Sync),
    ) -> Result<bool, AllocateError> {
        let name = super::block::object_name(block.cidr());
        for _ in 0..ATTEMPTS_MAX {
            if !block.take_back(address, now, is_it) {
                return Ok(false);
            }
            let done = if block.is_empty() && !block.has_holder() {
                self.store.delete(&block).await
            } else {
                self.store.update(&block).await.map(|_| ())
            };
            match done {
                Ok(()) => return Ok(true),
                Err(StoreError::Conflict { .. }) => match self.store.get(&name).await? {
                    Some(newer) => block = newer,
                    None => return Ok(false),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Err(AllocateError::Busy(format!("block {}", block.cidr())))
    }
}

/// Who has an address, for people.
fn told(attributes: &Attributes) -> String {
    match (
        attributes.get("namespace"),
        attributes.get("pod"),
        attributes.get("node"),
    ) {
        (Some(namespace), Some(pod), _) => format!("pod {namespace}/{pod}"),
        (_, _, Some(node)) => format!("node {node}"),
        _ => format!("handle {}", attributes.handle_id.as_deref().unwrap_or("(none)")),
    }
}

/// Seconds that an address rests between two pods: longer than what others keep of the one before (ARP, DNS, connections).
pub const REST_S: u64 = 30;
/// Each one lost means that somebody else made progress.
const ATTEMPTS_MAX: usize = 64;
