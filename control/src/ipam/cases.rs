//! The allocator, case by case.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::block::Block;
use super::config::IpamConfig;
use super::repair::GRACE_S;
use super::store::{MemoryStore, Store};
use super::*;
use crate::object::Tunnel;
use crate::object::document::{Entry, read};

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: a, labels: {zone: east}}
---
apiVersion: v1
kind: Node
metadata: {name: b, labels: {zone: west}}
";

fn objects(text: &str) -> Objects {
    let mut errors = Vec::new();
    let mut objects = Objects::default();
    for entry in read(
        &Arc::new(PathBuf::from("test.yaml")),
        &format!("{NODES}{text}"),
        &mut errors,
    ) {
        match entry {
            Entry::Object(_, object) => drop(objects.insert(*object)),
            Entry::Unknown(kind) => panic!("{kind}"),
        }
    }
    assert!(errors.is_empty(), "{errors:?}");
    objects
}

fn pool(name: &str, cidr: &str, more: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {{name: {name}}}\nspec: {{cidr: '{cidr}', {more}}}\n"
    )
}

fn pod(name: &str, annotations: &str, address: &str) -> String {
    let ips = if address.is_empty() {
        String::new()
    } else {
        format!("{{ip: '{address}'}}")
    };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{nodeName: a}}\nstatus: {{podIPs: [{ips}]}}\n"
    )
}

/// Addresses that live flows have.
#[derive(Clone, Default)]
struct Busy(Arc<Mutex<BTreeSet<IpAddr>>>);

impl LiveFlows for Busy {
    async fn has(&self, address: IpAddr) -> Result<bool, String> {
        Ok(self.0.lock().unwrap().contains(&address))
    }
}

struct Case {
    store: Arc<MemoryStore>,
    busy: Busy,
    objects: Objects,
    allocators: Vec<(String, Allocator<Arc<MemoryStore>, Busy>)>,
    now: u64,
}

impl Case {
    fn new(text: &str) -> Self {
        Self {
            store: Arc::default(),
            busy: Busy::default(),
            objects: objects(text),
            allocators: Vec::new(),
            now: 1000,
        }
    }

    /// Ends a node's process and starts it anew.
    fn restart(&mut self, node: &str) {
        self.allocators.retain(|(name, _)| name != node);
    }

    fn on(&mut self, node: &str) -> &Allocator<Arc<MemoryStore>, Busy> {
        let found = self.allocators.iter().position(|(name, _)| name == node);
        let at = found.unwrap_or_else(|| {
            let allocator = Allocator::new(node, Arc::clone(&self.store), self.busy.clone());
            self.allocators.push((node.to_owned(), allocator));
            self.allocators.len() - 1
        });
        &self.allocators[at].1
    }

    async fn try_add(&mut self, node: &str, pod: &str) -> Result<Vec<String>, AllocateError> {
        let around = Surroundings::of(&self.objects, node);
        let name = ObjectName::new("default", pod);
        let families = around.families();
        let request = Request::of_pod(&self.objects, &name, node, format!("net.{pod}"), families)?;
        let now = self.now;
        let given = self.on(node).allocate(&request, &around, now).await?;
        Ok(given.iter().map(ToString::to_string).collect())
    }

    async fn add(&mut self, node: &str, pod: &str) -> Vec<String> {
        self.try_add(node, pod).await.unwrap()
    }

    async fn fails(&mut self, node: &str, pod: &str) -> String {
        self.try_add(node, pod).await.unwrap_err().to_string()
    }

    async fn del(&mut self, node: &str, pod: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let now = self.now;
        self.on(node)
            .release(&format!("net.{pod}"), &addresses, now)
            .await
            .unwrap();
    }

    async fn set_config(&self, spec: &str) {
        let text = format!(r#"{{"metadata": {{"name": "default"}}, "spec": {{{spec}}}}}"#);
        let config: IpamConfig = serde_json::from_str(&text).unwrap();
        self.store.create(&config).await.unwrap();
    }

    async fn blocks(&self) -> Vec<String> {
        let blocks: Vec<Block> = self.store.list().await.unwrap();
        let text = |block: &Block| format!("{} {}", block.cidr(), block.node().unwrap_or("-"));
        blocks.iter().map(text).collect()
    }
}

#[tokio::test]
async fn a_node_gives_from_its_block_then_takes_another_then_borrows() {
    let mut case = Case::new(&pool("v4", "10.0.0.0/29", "blockSize: 31"));
    let mut given = Vec::new();
    for index in 0..5 {
        given.extend(case.add("a", &format!("p{index}")).await);
    }
    let last = case.add("b", "q").await;
    given.extend(last.clone());
    given.sort();
    // Neither the network's address nor broadcast.
    assert_eq!(
        given,
        [
            "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"
        ]
    );
    let error = case.fails("b", "r").await;
    assert_eq!(
        error,
        "no address is left for node b in IPPool v4 (10.0.0.0/29); add an IPPool, or remove pods (addresses of pods that \
         are gone come back by themselves)"
    );
    assert_eq!(case.on("a").audit().await.unwrap(), [""; 0]);
    // A borrowed address comes back to its block.
    let (other, blocks) = (last[0].clone(), case.blocks().await);
    assert!(blocks.iter().any(|block| block.ends_with(" a")), "{blocks:?}");
    case.del("b", "q", &[&other]).await;
    case.now += 30;
    assert_eq!(case.add("a", "again").await, [other]);
}

#[tokio::test]
async fn both_families_or_none() {
    let text = pool("v4", "10.0.0.0/24", "") + &pool("v6", "fd00::/127", "blockSize: 127");
    let mut case = Case::new(&text);
    assert_eq!(case.add("a", "p").await.len(), 2);
    assert_eq!(case.add("a", "q").await.len(), 2);
    let error = case.fails("a", "r").await;
    assert!(error.contains("IPPool v6 (fd00::/127)"), "{error}");
    let blocks: Vec<Block> = case.store.list().await.unwrap();
    let given = blocks.iter().flat_map(Block::given).count();
    assert_eq!(given, 4, "what the failed one had is free again");
}

#[tokio::test]
async fn the_same_handle_has_the_same_address() {
    let mut case = Case::new(&pool("v4", "10.0.0.0/24", ""));
    let first = case.add("a", "p").await;
    assert_eq!(case.add("a", "p").await, first);
    case.restart("a");
    assert_eq!(case.add("a", "p").await, first);
    case.del("a", "p", &[]).await;
    case.del("a", "p", &[&first[0]]).await;
    assert_ne!(case.add("a", "p").await, first, "it rests");
}

#[tokio::test]
async fn an_address_rests_and_waits_for_its_flows() {
    let mut case = Case::new(&pool("v4", "10.0.0.4/31", "blockSize: 31"));
    let first = case.add("a", "p").await;
    case.add("a", "q").await;
    case.del("a", "p", &[]).await;
    let error = case.try_add("a", "r").await.unwrap_err();
    assert!(
        error.is_passing()
            && error
                .to_string()
                .contains("1 were given back a moment ago and rest"),
        "{error}"
    );
    case.now += 30;
    case.busy.0.lock().unwrap().insert(first[0].parse().unwrap());
    let error = case.try_add("a", "r").await.unwrap_err();
    assert!(
        error.is_passing()
            && error
                .to_string()
                .contains("1 are free but still in use by live flows"),
        "{error}"
    );
    case.busy.0.lock().unwrap().clear();
    assert_eq!(case.add("a", "r").await, first);
}

#[tokio::test]
async fn pools_choose_nodes_and_may_be_disabled() {
    let east = pool("east", "10.1.0.0/24", "nodeSelector: \"zone == 'east'\"");
    let mut case = Case::new(&format!("{east}{}", pool("off", "10.2.0.0/24", "disabled: true")));
    assert!(case.add("a", "p").await[0].starts_with("10.1.0."));
    let around = Surroundings::of(&case.objects, "b");
    assert_eq!(around.families(), Families { v4: false, v6: false });
    let name = ObjectName::new("default", "q");
    let families = Families { v4: true, v6: false };
    let request = Request::of_pod(&case.objects, &name, "b", "h", families).unwrap();
    let error = case
        .on("b")
        .allocate(&request, &around, 0)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "no IPPool of IPv4 gives an address to node b: east has nodeSelector zone == 'east', which does not select the \
         node; off is disabled"
    );
    // What was given of a pool stays when it is disabled.
    let p = case.add("a", "p").await;
    case.objects = objects(&pool("east", "10.1.0.0/24", "disabled: true"));
    let around = Surroundings::of(&case.objects, "a");
    let again = Request::of_pod(
        &case.objects,
        &ObjectName::new("default", "p"),
        "a",
        "net.p",
        families,
    )
    .unwrap();
    assert_eq!(
        case.on("a").allocate(&again, &around, 0).await.unwrap()[0].to_string(),
        p[0]
    );
    assert!(!around.families().v4);
}

#[tokio::test]
async fn annotations_choose_pools_and_addresses() {
    let text = pool("one", "10.1.0.0/24", "")
        + &pool("two", "10.2.0.0/24", "")
        + &pool("off", "10.3.0.0/24", "disabled: true")
        + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: default, annotations: {cni.projectcalico.org/ipv4pools: '[\"two\"]'}}\n"
        + "---\napiVersion: projectcalico.org/v3\nkind: IPReservation\nmetadata: {name: r}\nspec: {reservedCIDRs: [10.2.0.9]}\n"
        + &pod(
            "by-pod",
            "cni.projectcalico.org/ipv4pools: '[\"10.1.0.0/24\"]'",
            "",
        )
        + &pod("wrong", "cni.projectcalico.org/ipv4pools: 'one'", "")
        + &pod("unknown", "cni.projectcalico.org/ipv4pools: '[\"three\"]'", "")
        + &pod("disabled", "cni.projectcalico.org/ipv4pools: '[\"off\"]'", "")
        + &pod("exact", "cni.projectcalico.org/ipAddrs: '[\"10.2.0.77\"]'", "")
        + &pod("same", "cni.projectcalico.org/ipAddrs: '[\"10.2.0.77\"]'", "")
        + &pod("reserved", "cni.projectcalico.org/ipAddrs: '[\"10.2.0.9\"]'", "")
        + &pod("outside", "cni.projectcalico.org/ipAddrs: '[\"10.9.0.9\"]'", "")
        + &pod("no-address", "cni.projectcalico.org/ipAddrs: '[\"10.9\"]'", "");
    let mut case = Case::new(&text);
    assert!(case.add("a", "by-namespace").await[0].starts_with("10.2.0."));
    assert!(case.add("a", "by-pod").await[0].starts_with("10.1.0."));
    assert_eq!(case.add("a", "exact").await, ["10.2.0.77"]);
    assert_eq!(case.add("a", "exact").await, ["10.2.0.77"]);
    for (pod, expected) in [
        (
            "wrong",
            "Pod default/wrong: annotation cni.projectcalico.org/ipv4pools is \"one\"",
        ),
        (
            "unknown",
            "there is no IPPool \"three\" of IPv4, expected one of: off, one, two",
        ),
        ("disabled", "IPPool off gives no address to node a: is disabled"),
        (
            "same",
            "10.2.0.77 cannot be given: it is given to pod default/exact",
        ),
        ("reserved", "it is reserved"),
        ("outside", "it is in no IPPool"),
        ("no-address", "expected a JSON list"),
    ] {
        let error = case.fails("a", pod).await;
        assert!(error.contains(expected), "{pod}: {error}");
    }
}

#[tokio::test]
async fn reserved_and_taken_addresses_never_go_out() {
    let text = pool("v4", "10.0.0.0/29", "blockSize: 29")
        + "---\napiVersion: crd.projectcalico.org/v1\nkind: IPReservation\nmetadata: {name: r}\nspec: {reservedCIDRs: [10.0.0.2/31]}\n"
        + "---\napiVersion: v1\nkind: Node\nmetadata: {name: c, annotations: {projectcalico.org/IPv4VXLANTunnelAddr: 10.0.0.4}}\n"
        + &pod("static", "", "10.0.0.5");
    let mut case = Case::new(&text);
    let given = [case.add("a", "p").await, case.add("a", "q").await].concat();
    assert_eq!(given, ["10.0.0.1", "10.0.0.6"]);
    assert!(case.fails("a", "r").await.contains("no address is left"));
}

#[tokio::test]
async fn strict_affinity_and_limits_are_named() {
    let mut case = Case::new(&pool("v4", "10.0.0.0/30", "blockSize: 30"));
    case.set_config("\"strictAffinity\": true").await;
    case.add("a", "p").await;
    let error = case.fails("b", "q").await;
    assert!(
        error.contains("forbids borrowing") && error.contains("strictAffinity"),
        "{error}"
    );

    let mut case = Case::new(&pool("v4", "10.0.0.0/24", "blockSize: 32"));
    case.set_config("\"maxBlocksPerHost\": 2, \"strictAffinity\": true")
        .await;
    case.add("a", "p").await;
    case.add("a", "q").await;
    let error = case.fails("a", "r").await;
    assert!(error.contains("2 blocks per node (maxBlocksPerHost)"), "{error}");
}

#[tokio::test]
async fn a_node_has_tunnel_addresses_of_its_own_blocks() {
    let mut case = Case::new(
        &(pool("v4", "10.0.0.0/24", "vxlanMode: Always") + &pool("v6", "fd00::/64", "vxlanMode: Always")),
    );
    let around = Surroundings::of(&case.objects, "a");
    let v4 = Request::of_tunnel(Tunnel::Vxlan, true, "a", None);
    let given = case.on("a").allocate(&v4, &around, 0).await.unwrap();
    assert_eq!(given.len(), 1);
    let blocks = case.on("a").blocks().await.unwrap();
    assert!(
        blocks[0].is_of("a") && blocks[0].holder(given[0]).unwrap().get("type") == Some("vxlanTunnelAddress")
    );
    // The address that its annotation has, again and again.
    let again = Request::of_tunnel(Tunnel::Vxlan, true, "a", Some(given[0]));
    assert_eq!(case.on("a").allocate(&again, &around, 0).await.unwrap(), given);
    let v6 = Request::of_tunnel(Tunnel::Vxlan, false, "a", None);
    assert!(case.on("a").allocate(&v6, &around, 0).await.unwrap()[0].is_ipv6());
    // It stays while its node does.
    let mut repair = Repair::default();
    for now in [0, 2 * GRACE_S] {
        let objects = case.objects.clone();
        let done = repair
            .pass(case.on("a"), &objects, &|_| false, now)
            .await
            .unwrap();
        assert_eq!(done, Repaired::default());
    }
}

#[tokio::test]
async fn what_pods_leave_behind_comes_back_and_nothing_else() {
    let text = pool("v4", "10.0.0.0/24", "");
    let mut case = Case::new(&text);
    let lives = case.add("a", "lives").await;
    let moved = case.add("a", "moved").await;
    let gone = case.add("a", "gone").await;
    let held = case.add("a", "held").await;
    case.objects = objects(&format!(
        "{text}{}{}",
        pod("lives", "", &lives[0]),
        pod("moved", "", "10.0.9.9")
    ));
    let (objects, held): (_, IpAddr) = (case.objects.clone(), held[0].parse().unwrap());
    let is_held = |address| address == held;
    let mut repair = Repair::default();
    let pass = repair.pass(case.on("a"), &objects, &is_held, 5000).await.unwrap();
    assert_eq!(pass, Repaired::default(), "within the grace nothing is");
    // A pod that is seen in between begins anew.
    let pass = repair
        .pass(case.on("a"), &objects, &is_held, 5000 + GRACE_S - 1)
        .await
        .unwrap();
    assert_eq!(pass, Repaired::default());
    let pass = repair
        .pass(case.on("a"), &objects, &is_held, 5000 + GRACE_S)
        .await
        .unwrap();
    let mut expected: Vec<IpAddr> = [&moved[0], &gone[0]].map(|text| text.parse().unwrap()).into();
    expected.sort();
    let mut freed = pass.addresses;
    freed.sort();
    assert_eq!(freed, expected);
    // Objects without our Node say nothing.
    let mut blind = objects.clone();
    blind.pods.clear();
    blind.nodes.remove(&ObjectName::new("", "a"));
    let mut repair = Repair::default();
    for now in [0, 2 * GRACE_S] {
        let pass = repair.pass(case.on("a"), &blind, &|_| false, now).await.unwrap();
        assert_eq!(pass, Repaired::default());
    }
}

#[tokio::test]
async fn blocks_of_a_node_that_left_go_to_others() {
    let text = pool("v4", "10.0.0.0/30", "blockSize: 31");
    let mut case = Case::new(&text);
    let b = case.add("b", "p").await;
    let a = case.add("a", "mine").await;
    case.objects = objects(&format!("{text}{}", pod("mine", "", &a[0])));
    case.objects.nodes.remove(&ObjectName::new("", "b"));
    let objects = case.objects.clone();
    let mut repair = Repair::default();
    let mut blocks = 0;
    for now in [5000, 5000 + GRACE_S, 5000 + 2 * GRACE_S] {
        let done = repair
            .pass(case.on("a"), &objects, &|_| false, now)
            .await
            .unwrap();
        blocks += done.blocks.len();
    }
    assert!(blocks >= 1);
    case.now = 9000;
    assert_eq!(case.add("a", "next").await, b);
    assert_eq!(case.on("a").audit().await.unwrap(), [""; 0]);
    // The node comes back and finds out.
    let late = case.fails("b", "late").await;
    assert!(
        late.contains("no IPPool of IPv4 gives an address to node b"),
        "{late}"
    );
    case.objects.nodes = self::objects("").nodes;
    let error = case.fails("b", "late").await;
    assert!(error.contains("no address is left"), "{error}");
}

#[tokio::test]
async fn spare_blocks_are_given_up_once_they_have_rested() {
    let text = pool("v4", "10.0.0.0/28", "blockSize: 31");
    let mut case = Case::new(&text);
    for pod in ["p", "q", "r"] {
        case.add("a", pod).await;
    }
    let before = case.blocks().await.len();
    assert!(before >= 2);
    for pod in ["p", "q", "r"] {
        case.del("a", pod, &[]).await;
    }
    let (objects, now) = (case.objects.clone(), case.now);
    let mut repair = Repair::default();
    let done = repair
        .pass(case.on("a"), &objects, &|_| false, now + 1)
        .await
        .unwrap();
    assert_eq!(done, Repaired::default(), "it rests");
    let done = repair
        .pass(case.on("a"), &objects, &|_| false, now + 60)
        .await
        .unwrap();
    assert_eq!(done.blocks.len(), before - 1);
    assert_eq!(case.blocks().await.len(), 1);
    assert_eq!(case.on("a").audit().await.unwrap(), [""; 0]);
}
