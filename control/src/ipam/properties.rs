//! Nodes that allocate, release, repair and crash at any await, in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use proptest::prelude::*;

use super::affinity::Affinity;
use super::block::Block;
use super::repair::GRACE_S;
use super::store::{MemoryStore, Store};
use super::*;
use crate::object::Object;

type Node = Arc<Allocator<Arc<MemoryStore>, ()>>;
type Work = Pin<Box<dyn Future<Output = Outcome>>>;

enum Outcome {
    Added(Result<Vec<IpAddr>, AllocateError>),
    Removed(Result<(), AllocateError>),
    Repaired(Box<Repair>, Result<Repaired, AllocateError>),
}

struct Running {
    node: usize,
    /// Of an ADD or DEL.
    pod: Option<usize>,
    work: Work,
}

#[derive(Clone, Debug)]
enum Step {
    Add(usize),
    Del(usize),
    Repair(usize),
    Crash(usize),
    /// Lets one of those that run go on.
    Poll(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..PODS).prop_map(Step::Add),
        2 => (0..PODS).prop_map(Step::Del),
        1 => (0..NODES).prop_map(Step::Repair),
        1 => (0..NODES).prop_map(Step::Crash),
        12 => any::<usize>().prop_map(Step::Poll),
        1 => (1..100_u64).prop_map(Step::Wait),
    ]
}

const NODES: usize = 3;
/// Pod `p` is bound to node `p % NODES`.
const PODS: usize = 18;

fn name(node: usize) -> String {
    format!("n{node}")
}

struct World {
    store: Arc<MemoryStore>,
    nodes: Vec<Node>,
    repairs: Vec<Option<Box<Repair>>>,
    running: Vec<Running>,
    /// What pods have, as their ADD was told.
    has: BTreeMap<usize, Vec<IpAddr>>,
    /// Each ADD has a sandbox of its own.
    sandboxes: BTreeMap<usize, usize>,
    objects: Objects,
    now: u64,
    is_strict: bool,
}

impl World {
    fn new(pools: &[(&str, u8)], is_strict: bool) -> Self {
        let mut objects = Objects::default();
        for node in 0..NODES {
            let text = format!("{{metadata: {{name: {}}}}}", name(node));
            objects.insert(Object::Node(serde_saphyr::from_str(&text).unwrap()));
        }
        for (index, (cidr, block_size)) in pools.iter().enumerate() {
            let text = format!(
                "{{metadata: {{name: p{index}}}, spec: {{cidr: '{cidr}', blockSize: {block_size}}}}}"
            );
            objects.insert(Object::IpPool(serde_saphyr::from_str(&text).unwrap()));
        }
        let store = Arc::new(MemoryStore::default());
        if is_strict {
            let text = r#"{"metadata": {"name": "default"}, "spec": {"strictAffinity": true}}"#;
            let config: config::IpamConfig = serde_json::from_str(text).unwrap();
            finish(store.create(&config)).unwrap();
        }
        let nodes = (0..NODES).map(|node| started(&store, node)).collect();
        Self {
            store,
            nodes,
            repairs: (0..NODES).map(|_| Some(Box::default())).collect(),
            running: Vec::new(),
            has: BTreeMap::new(),
            sandboxes: BTreeMap::new(),
            objects,
            now: 1000,
            is_strict,
        }
    }

    fn handle(&self, pod: usize) -> String {
        format!("net.{pod}.{}", self.sandboxes.get(&pod).copied().unwrap_or(0))
    }

    /// Pods as the API server has them: those whose ADD came to its end.
    fn with_pods(&self) -> Objects {
        let mut objects = self.objects.clone();
        let template = "{metadata: {name: p}, spec: {nodeName: n}}";
        let template: Pod = serde_saphyr::from_str(template).unwrap();
        for (pod, addresses) in &self.has {
            let mut object = template.clone();
            object.meta.name = ObjectName::new("default", format!("p{pod}"));
            object.node = Some(name(pod % NODES).as_str().into());
            object.addresses = addresses.as_slice().into();
            objects.insert(Object::Pod(object));
        }
        objects
    }

    fn is_busy(&self, pod: usize) -> bool {
        self.running.iter().any(|running| running.pod == Some(pod))
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Add(pod) if !self.has.contains_key(&pod) && !self.is_busy(pod) => {
                *self.sandboxes.entry(pod).or_default() += 1;
                let node = pod % NODES;
                let around = Surroundings::of(&self.objects, &name(node));
                let (families, handle) = (around.families(), self.handle(pod));
                let pod_name = ObjectName::new("default", format!("p{pod}"));
                let request =
                    Request::of_pod(&self.objects, &pod_name, &name(node), handle, families).unwrap();
                let (allocator, now) = (Arc::clone(&self.nodes[node]), self.now);
                self.run(node, Some(pod), async move {
                    Outcome::Added(allocator.allocate(&request, &around, now).await)
                });
            }
            Step::Del(pod) if self.has.contains_key(&pod) && !self.is_busy(pod) => {
                let addresses = self.has.remove(&pod).unwrap();
                let (handle, now) = (self.handle(pod), self.now);
                let allocator = Arc::clone(&self.nodes[pod % NODES]);
                self.run(pod % NODES, Some(pod), async move {
                    Outcome::Removed(allocator.release(&handle, &addresses, now).await)
                });
            }
            Step::Repair(node) => {
                let Some(mut repair) = self.repairs[node].take() else {
                    return;
                };
                let (allocator, now, objects) = (Arc::clone(&self.nodes[node]), self.now, self.with_pods());
                self.run(node, None, async move {
                    let done = repair.pass(&allocator, &objects, &|_| false, now).await;
                    Outcome::Repaired(repair, done)
                });
            }
            Step::Crash(node) => {
                self.running.retain(|running| running.node != node);
                self.nodes[node] = started(&self.store, node);
                self.repairs[node] = Some(Box::default());
            }
            Step::Poll(pick) if !self.running.is_empty() => {
                let at = pick % self.running.len();
                let mut context = Context::from_waker(std::task::Waker::noop());
                if let Poll::Ready(outcome) = self.running[at].work.as_mut().poll(&mut context) {
                    let running = self.running.remove(at);
                    self.done(&running, outcome);
                }
            }
            // An ADD lasts no longer than a grace: runtimes give up before.
            Step::Wait(seconds) if self.running.is_empty() => self.now += seconds,
            _ => {}
        }
    }

    fn run(&mut self, node: usize, pod: Option<usize>, work: impl Future<Output = Outcome> + 'static) {
        let work = Box::pin(work);
        self.running.push(Running { node, pod, work });
    }

    fn done(&mut self, running: &Running, outcome: Outcome) {
        match outcome {
            Outcome::Added(Ok(addresses)) => {
                let pod = running.pod.unwrap();
                let taken: BTreeSet<IpAddr> = self.has.values().flatten().copied().collect();
                for address in &addresses {
                    assert!(!taken.contains(address), "{address} was given twice");
                    let in_pool = |pool: &crate::object::IpPool| {
                        pool.cidr.contains(address) && *address != pool.cidr.network()
                    };
                    assert!(
                        self.objects.ip_pools.values().any(in_pool),
                        "{address} is in no pool"
                    );
                }
                let v4 = addresses.iter().filter(|address| address.is_ipv4()).count();
                assert_eq!((v4, addresses.len()), (1, 2), "one of each family");
                self.has.insert(pod, addresses);
            }
            Outcome::Added(Err(AllocateError::Full { .. })) => {}
            Outcome::Added(Err(error)) => panic!("{error}"),
            Outcome::Removed(done) => done.unwrap(),
            Outcome::Repaired(repair, done) => {
                done.unwrap();
                self.repairs[running.node] = Some(repair);
            }
        }
    }

    /// What the store says of every address that a pod has.
    fn check(&self) {
        let blocks: Vec<Block> = finish(self.store.list()).unwrap();
        for (pod, addresses) in &self.has {
            for address in addresses {
                let block = blocks.iter().find(|block| block.cidr().contains(address));
                let block = block.unwrap_or_else(|| panic!("the block of {address} is gone"));
                let holder = block
                    .holder(*address)
                    .unwrap_or_else(|| panic!("{address} was freed under its pod"));
                assert_eq!(holder.handle_id.as_deref(), Some(self.handle(*pod).as_str()));
                if self.is_strict {
                    assert!(block.is_of(&name(pod % NODES)), "{address} is borrowed");
                }
            }
        }
    }

    /// Lets all that runs come to its end, in turns: one may wait for another.
    fn drain(&mut self) {
        for turn in 0..1_000_000 {
            if self.running.is_empty() {
                return;
            }
            self.take(&Step::Poll(turn));
        }
        panic!("something waits for ever");
    }

    /// Everybody comes to rest, then everything that no pod has is free.
    fn settle(&mut self) {
        self.drain();
        self.check();
        for _ in 0..3 {
            for node in 0..NODES {
                self.take(&Step::Repair(node));
                self.drain();
            }
            self.now += GRACE_S;
        }
        self.check();
        let blocks: Vec<Block> = finish(self.store.list()).unwrap();
        let given: BTreeSet<IpAddr> = blocks
            .iter()
            .flat_map(Block::given)
            .map(|(address, _)| address)
            .collect();
        let live: BTreeSet<IpAddr> = self.has.values().flatten().copied().collect();
        assert_eq!(given, live, "addresses have leaked");
        let wrong = finish(self.nodes[0].audit()).unwrap();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}

fn started(store: &Arc<MemoryStore>, node: usize) -> Node {
    Arc::new(Allocator::new(name(node), Arc::clone(store), ()).with_rest(5))
}

/// Runs work that waits for nobody.
fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut context = Context::from_waker(std::task::Waker::noop());
    for _ in 0..100_000 {
        if let Poll::Ready(done) = work.as_mut().poll(&mut context) {
            return done;
        }
    }
    panic!("it waits for ever");
}

proptest! {

    #[test]
    fn no_address_is_given_twice_and_none_is_lost(steps in prop::collection::vec(step(), 0..400), is_strict: bool) {
        // Room for the pods of each node, not for all at once.
        let mut world = World::new(&[("10.0.0.0/28", 30), ("fd00::/124", 126)], is_strict);
        for step in &steps {
            let before = world.running.len();
            world.take(step);
            // Something came to its end, or to a sudden one.
            if world.running.len() < before {
                world.check();
            }
        }
        world.settle();
    }

    #[test]
    fn of_two_nodes_that_claim_one_block_one_takes_another(polls in prop::collection::vec(any::<bool>(), 0..60)) {
        let mut world = World::new(&[("10.0.0.0/30", 31), ("fd00::/126", 127)], true);
        world.take(&Step::Add(0));
        world.take(&Step::Add(1));
        for first in polls {
            world.take(&Step::Poll(usize::from(first)));
        }
        world.drain();
        world.check();
        prop_assert_eq!(world.has.len(), 2);
        let affinities: Vec<Affinity> = finish(world.store.list()).unwrap();
        let cidrs: BTreeSet<IpNet> = affinities.iter().map(Affinity::cidr).collect();
        prop_assert_eq!((affinities.len(), cidrs.len()), (4, 4));
    }
}
