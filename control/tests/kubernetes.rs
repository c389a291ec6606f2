//! The source `kubernetes` against an API server in this process; `cluster/suite.rs` runs against a real one, too.

#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]
#![allow(missing_docs, reason = "helpers of tests")]

mod api_server;
mod cluster;
#[path = "kubernetes/daemon.rs"]
mod daemon;
mod process;
#[path = "kubernetes/real.rs"]
mod real;
#[path = "kubernetes/tls.rs"]
mod tls;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api_server::ApiServer;
use cluster::follower::{Follower, access, config};
use cluster::{Cluster, namespace, node, pod, policy, pool, service, slice, suite};
use control::source::Source as _;
use control::source::kubernetes::copy;
use serde_json::json;

/// A server with two nodes and a pod on each.
async fn set_up() -> (ApiServer, Cluster) {
    let server = ApiServer::start().await;
    let cluster = Cluster::at(&server.url());
    suite::fill(&cluster).await;
    (server, cluster)
}

async fn follow(server: &ApiServer) -> Follower {
    Follower::start(config(access(&[server.url()]), None))
        .await
        .unwrap()
}

fn ports(follower: &Follower) -> Vec<String> {
    follower
        .state()
        .unwrap()
        .ports
        .into_iter()
        .map(|port| port.name)
        .collect()
}

#[tokio::test]
async fn every_kind_reaches_the_state() {
    let (server, cluster) = set_up().await;
    suite::every_kind(&cluster, config(access(&[server.url()]), None)).await;
    assert_eq!(server.asked("pods").lists, 1, "everything else came by watch");
}

#[tokio::test]
async fn our_own_node_may_be_deleted_and_come_back() {
    let (server, cluster) = set_up().await;
    suite::own_node(&cluster, config(access(&[server.url()]), None)).await;
}

#[tokio::test]
async fn a_list_comes_in_pages() {
    let (server, cluster) = set_up().await;
    for index in 0..25 {
        cluster
            .create(pod(
                "default",
                &format!("p{index:02}"),
                "b",
                &format!("10.244.2.{}", 100 + index),
            ))
            .await;
    }
    server.faults(|faults| faults.page_max = Some(10));
    let follower = follow(&server).await;
    assert_eq!(follower.objects.pods.len(), 27);
    let asked = server.asked("pods");
    assert_eq!((asked.lists, asked.pages), (1, 2));

    // A list that takes too long begins anew, and then comes in one piece.
    server.faults(|faults| faults.pages_gone = 1);
    let follower = follow(&server).await;
    assert_eq!(follower.objects.pods.len(), 27);
    let again = server.asked("pods");
    assert_eq!((again.lists, again.pages), (asked.lists + 2, asked.pages + 1));
}

#[tokio::test]
async fn bookmarks_spare_a_list_after_changes_were_forgotten() {
    let (server, cluster) = set_up().await;
    let mut follower = follow(&server).await;
    // Changes of another kind move the version on.
    for index in 0..5 {
        cluster.create(namespace(&format!("n{index}"), "g")).await;
    }
    follower
        .until("namespaces", |f| {
            f.objects.namespaces.len() == 5 + suite::NAMESPACES
        })
        .await;
    let versions_seen = server.asked("services");
    cluster.create(service("default", "x", "10.96.0.50")).await;
    follower
        .until("the service", |f| f.objects.services.len() == 1)
        .await;
    assert_eq!(
        server.asked("services"),
        versions_seen,
        "the watch is still the first one"
    );
}

#[tokio::test]
async fn what_is_gone_is_listed_again() {
    let (mut server, cluster) = set_up().await;
    let mut follower = follow(&server).await;
    follower.for_a_while(Duration::from_millis(100)).await;
    let before = server.asked("pods");
    server.stop().await;
    server.forget();
    server.start_again().await;
    cluster.create(pod("default", "new", "a", "10.244.1.9")).await;
    follower
        .until_state("the new pod", |state| state.ports.len() == 4)
        .await;
    assert!(server.asked("pods").lists > before.lists);
    follower
        .until("no problem is left", |f| f.problems().is_empty())
        .await;
}

#[tokio::test]
async fn a_storm_of_gone_ends_and_costs_no_more_than_its_pauses_allow() {
    let (mut server, cluster) = set_up().await;
    let mut follower = follow(&server).await;
    let before = server.asked("pods");
    server.stop().await;
    server.faults(|faults| faults.watches_gone = 40);
    server.start_again().await;
    cluster.create(pod("default", "new", "a", "10.244.1.9")).await;
    cluster.delete("/api/v1/namespaces/default/pods/web").await;
    follower
        .until("the storm's end", |f| {
            ports(f) == ["host", "pod:default/new", "uplink"] && f.problems().is_empty()
        })
        .await;
    let lists = server.asked("pods").lists - before.lists;
    assert!((1..=40).contains(&lists), "{lists} lists");
}

#[tokio::test]
async fn slow_and_cut_answers_arrive_in_the_end() {
    let (server, cluster) = set_up().await;
    server.faults(|faults| {
        faults.slow = Some((7, Duration::from_micros(200)));
        faults.cut = 12;
    });
    let mut follower = follow(&server).await;
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
    cluster.create(pod("default", "new", "a", "10.244.1.9")).await;
    follower
        .until_state("the new pod", |state| state.ports.len() == 4)
        .await;
}

#[tokio::test]
async fn forwarding_goes_on_while_no_server_answers() {
    let (mut server, cluster) = set_up().await;
    let mut follower = follow(&server).await;
    let state = follower.state().unwrap();
    for round in 0..3_u8 {
        server.stop().await;
        follower
            .until("the server is missed", |f| {
                f.problems().contains("no answer from an API server")
            })
            .await;
        let changes = follower.changes;
        follower.for_a_while(Duration::from_millis(300)).await;
        assert_eq!(follower.changes, changes, "nothing changes meanwhile");
        assert_eq!(follower.state().unwrap().ports.len(), 3 + usize::from(round));
        assert_eq!(follower.state().unwrap().remote_nodes, state.remote_nodes);
        server.start_again().await;
        cluster
            .create(pod(
                "default",
                &format!("new{round}"),
                "a",
                &format!("10.244.1.{}", 20 + round),
            ))
            .await;
        follower
            .until_state("the new pod", |state| state.ports.len() == 4 + usize::from(round))
            .await;
        follower
            .until("no problem is left", |f| f.problems().is_empty())
            .await;
    }
}

#[tokio::test]
async fn an_empty_list_is_believed_when_it_is_confirmed_later() {
    let (mut server, cluster) = set_up().await;
    cluster.create(service("default", "api", "10.96.0.10")).await;
    let mut follower = follow(&server).await;
    assert_eq!(follower.state().unwrap().services.len(), 1);
    server.stop().await;
    server.forget();
    server.faults(|faults| {
        faults.hidden.insert("services".to_owned());
    });
    server.start_again().await;
    follower
        .until("doubt", |f| f.problems().contains("lists no Service at all"))
        .await;
    let asked = server.asked("services").lists;
    while server.asked("services").lists < asked + 3 {
        follower.for_a_while(Duration::from_millis(10)).await;
    }
    assert_eq!(
        follower.state().unwrap().services.len(),
        1,
        "the same version again confirms nothing"
    );

    // It was a mistake of the server's.
    server.faults(|faults| faults.hidden.clear());
    follower.until("no doubt", |f| f.problems().is_empty()).await;
    assert_eq!(follower.state().unwrap().services.len(), 1);

    // And now it is none, and a later version says so.
    server.stop().await;
    server.forget();
    server.faults(|faults| {
        faults.hidden.insert("services".to_owned());
    });
    server.start_again().await;
    follower
        .until("doubt", |f| f.problems().contains("lists no Service at all"))
        .await;
    server.advance();
    follower
        .until_state("the end of the Service", |state| state.services.is_empty())
        .await;
    follower.until("no doubt", |f| f.problems().is_empty()).await;
}

#[tokio::test]
async fn the_last_object_of_a_kind_may_be_deleted() {
    let (server, cluster) = set_up().await;
    cluster.create(service("default", "api", "10.96.0.10")).await;
    let mut follower = follow(&server).await;
    cluster.delete("/api/v1/namespaces/default/services/api").await;
    follower
        .until_state("the end of the Service", |state| state.services.is_empty())
        .await;
    assert_eq!(server.asked("services").lists, 1);
}

#[tokio::test]
async fn a_refused_kind_is_named_with_the_rule_to_add() {
    let (server, _cluster) = set_up().await;
    for (code, expected) in [
        (
            403,
            "networkpolicies.networking.k8s.io (user \"test\" cannot list resource \"networkpolicies\"); add to our ClusterRole: \
             - {apiGroups: [\"networking.k8s.io\"], resources: [networkpolicies], verbs: [get, list, watch]}",
        ),
        (
            401,
            "401 Unauthorized: the API server does not accept our credentials",
        ),
    ] {
        server.faults(|faults| {
            faults.refusals.insert("networkpolicies".to_owned(), code);
        });
        let error = Follower::start(config(access(&[server.url()]), None))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(expected), "{error}");
    }

    // Later on it is no reason to stop: what is known of the kind stays.
    server.faults(|faults| faults.refusals.clear());
    let mut follower = follow(&server).await;
    server.faults(|faults| {
        faults.refusals.insert("pods".to_owned(), 403);
        faults.watches_gone = 0;
    });
    server.forget();
    let mut server = server;
    server.stop().await;
    server.start_again().await;
    follower
        .until("refused", |f| f.problems().contains("resources: [pods]"))
        .await;
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
    server.faults(|faults| faults.refusals.clear());
    follower.until("all is well", |f| f.problems().is_empty()).await;
}

#[tokio::test]
async fn a_busy_server_is_asked_again_later() {
    let (server, _cluster) = set_up().await;
    server.faults(|faults| {
        faults.refusals.insert("pods".to_owned(), 429);
        faults.refusals.insert("nodes".to_owned(), 500);
    });
    let is_mended = AtomicBool::new(false);
    let begun = async {
        let follower = Follower::start(config(access(&[server.url()]), None))
            .await
            .unwrap();
        assert!(is_mended.load(Ordering::Relaxed), "nothing to begin with before");
        follower
    };
    let mend = async {
        while server.asked("pods").lists + server.asked("services").lists < 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        is_mended.store(true, Ordering::Relaxed);
        server.faults(|faults| faults.refusals.clear());
    };
    let (mut follower, ()) = tokio::join!(begun, mend);
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
    follower.until("all is well", |f| f.problems().is_empty()).await;
}

#[tokio::test]
async fn a_missing_definition_is_no_trouble_until_there_were_pools() {
    let (mut server, cluster) = set_up().await;
    server.faults(|faults| {
        faults
            .unknown
            .extend(["ippools".to_owned(), "servicecidrs".to_owned()]);
    });
    let mut follower = follow(&server).await;
    assert!(follower.problems().is_empty() && follower.source.condition().is_current);
    server.faults(|faults| faults.unknown.clear());
    cluster.create(pool("v4", "10.244.0.0/16", "Never")).await;
    follower
        .until("the pool", |f| f.objects.ip_pools.len() == 1)
        .await;
    assert!(
        follower
            .state()
            .unwrap()
            .blocks
            .iter()
            .all(|block| block.encap() == contract::proto::Encap::None)
    );

    // Deleting the definition deletes all pools at once: that is not taken over.
    server.stop().await;
    server.faults(|faults| {
        faults.unknown.insert("ippools".to_owned());
    });
    server.start_again().await;
    follower
        .until("told", |f| {
            f.problems().contains("kubectl apply -f deploy/crds/ippools.yaml")
        })
        .await;
    assert_eq!(follower.objects.ip_pools.len(), 1);
}

#[tokio::test]
async fn an_object_that_makes_no_sense_is_refused_by_name_alone() {
    let (server, cluster) = set_up().await;
    let everyone = json!({"podSelector": {}});
    cluster.create(policy("default", "good", "web", &everyone)).await;
    let bad = json!({"ipBlock": {"cidr": "10.0.0.0/99"}});
    cluster.create(policy("default", "bad", "web", &bad)).await;
    let mut follower = follow(&server).await;
    assert_eq!(follower.state().unwrap().policies.len(), 1);
    assert!(
        follower
            .problems()
            .contains("NetworkPolicy default/bad is refused"),
        "{}",
        follower.problems()
    );
    assert!(
        follower.problems().contains("10.0.0.0/99"),
        "{}",
        follower.problems()
    );

    // The good one turns bad: the good one stays.
    let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    cluster
        .patch(
            &format!("{path}/good"),
            json!({"spec": {"policyTypes": ["Sideways"]}}),
        )
        .await;
    follower
        .until("refused", |f| f.problems().contains("default/good is refused"))
        .await;
    assert_eq!(follower.state().unwrap().policies.len(), 1);
    cluster
        .patch(
            &format!("{path}/good"),
            json!({"spec": {"policyTypes": ["Ingress", "Egress"]}}),
        )
        .await;
    cluster.delete(&format!("{path}/bad")).await;
    follower.until("all is well", |f| f.problems().is_empty()).await;
    let attached = follower.state().unwrap().ports[1].egress.clone().unwrap();
    assert_eq!(attached.tiers.len(), 1);
}

#[tokio::test]
async fn an_address_goes_from_a_pod_that_ends_to_a_new_one() {
    let (server, cluster) = set_up().await;
    let mut follower = follow(&server).await;
    let ends = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    cluster.patch("/api/v1/namespaces/default/pods/web", ends).await;
    cluster.create(pod("default", "z", "a", "10.244.1.5")).await;
    follower
        .until_state("the address moves", |state| {
            state.ports.iter().any(|port| port.name == "pod:default/z") && state.ports.len() == 3
        })
        .await;
}

#[tokio::test]
async fn a_copy_brings_up_a_node_while_no_server_answers() {
    let (mut server, cluster) = set_up().await;
    suite::fill_more(&cluster).await;
    let directory = tempfile::tempdir().unwrap();
    let config = || config(access(&[server.url()]), Some(directory.path()));
    let mut follower = Follower::start(config()).await.unwrap();
    follower.until_state("all of it", suite::is_more).await;
    let state = follower.state().unwrap();
    let Follower {
        mut source, objects, ..
    } = follower;
    source.stop(&objects).await;
    drop(source);
    let kept = copy::load(&copy::path(directory.path(), "a"), "a")
        .unwrap()
        .unwrap();
    assert_eq!(kept, objects);

    // The node restarts, its only Service is deleted meanwhile, and there is no server.
    let begin = config();
    cluster.delete("/api/v1/namespaces/team/services/api").await;
    server.stop().await;
    let mut follower = Follower::start(begin).await.unwrap();
    assert_eq!(follower.state().unwrap(), state);
    assert!(!follower.source.condition().is_current);
    follower
        .until("the server is missed", |f| {
            f.problems().contains("no answer from an API server")
        })
        .await;
    assert_eq!(follower.state().unwrap(), state);

    // It is back. That no Service is left is believed when it is confirmed, and nothing else changes.
    server.start_again().await;
    follower
        .until("doubt", |f| f.problems().contains("lists no Service at all"))
        .await;
    server.advance();
    follower
        .until_state("the Service's end", |state| state.services.is_empty())
        .await;
    follower
        .until("all is well", |f| {
            f.problems().is_empty() && f.source.condition().is_current
        })
        .await;
    assert_eq!(follower.state().unwrap().ip_sets, state.ip_sets);
}

#[tokio::test]
async fn a_broken_copy_is_of_no_use_and_no_harm() {
    let (server, _cluster) = set_up().await;
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(copy::path(directory.path(), "a"), "{}").unwrap();
    let follower = Follower::start(config(access(&[server.url()]), Some(directory.path())))
        .await
        .unwrap();
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
}

/// The slice by which a cluster tells where its API servers are.
fn api_servers(servers: &[&ApiServer]) -> serde_json::Value {
    let mut slice = slice("default", "kubernetes", &["127.0.0.1"]);
    let ports: Vec<_> = servers
        .iter()
        .map(|server| json!({"name": "https", "port": server.address().port(), "protocol": "TCP"}))
        .collect();
    slice["ports"] = json!(ports);
    slice
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_does_not_answer() {
    let (mut first, cluster) = set_up().await;
    let (second, other) = set_up().await;
    let mut follower = Follower::start(config(access(&[first.url(), second.url()]), None))
        .await
        .unwrap();
    assert_eq!(follower.source.condition().api_server, Some(first.url()));
    cluster.create(pod("default", "x", "a", "10.244.1.7")).await;
    follower.until_state("x", |state| state.ports.len() == 4).await;
    first.stop().await;
    second.advance();
    other.create(pod("default", "x", "a", "10.244.1.7")).await;
    other.create(pod("default", "y", "a", "10.244.1.8")).await;
    follower.until_state("y", |state| state.ports.len() == 5).await;
    assert_eq!(follower.source.condition().api_server, Some(second.url()));
}

#[tokio::test]
async fn a_cold_node_finds_the_server_at_the_address_kept_on_disk() {
    let (server, cluster) = set_up().await;
    // The way by which it is reached at first: it will be gone, as a Service's address is on a cold node.
    let mut door = suite::Door::open(server.address()).await;
    cluster.create(api_servers(&[&server])).await;
    let directory = tempfile::tempdir().unwrap();
    let config = || config(access(&[door.url()]), Some(directory.path()));
    let mut follower = Follower::start(config()).await.unwrap();
    let kept = directory.path().join("api-servers-a.json");
    while !kept.exists() {
        follower.for_a_while(Duration::from_millis(10)).await;
    }
    let text = std::fs::read_to_string(&kept).unwrap();
    assert!(text.contains(&server.address().to_string()), "{text}");
    let Follower {
        mut source, objects, ..
    } = follower;
    source.stop(&objects).await;
    drop(source);

    let begin = config();
    door.close().await;
    // The copy would be in force at once, and say nothing of who is asked.
    std::fs::remove_file(copy::path(directory.path(), "a")).unwrap();
    let follower = Follower::start(begin).await.unwrap();
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
    assert_eq!(follower.source.condition().api_server, Some(server.url()));
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_given_up() {
    let silent = ApiServer::start().await;
    silent.faults(|faults| faults.is_silent = true);
    let (server, _cluster) = set_up().await;
    let follower = Follower::start(config(access(&[silent.url(), server.url()]), None))
        .await
        .unwrap();
    assert_eq!(ports(&follower), ["host", "pod:default/web", "uplink"]);
}

#[tokio::test]
async fn a_node_that_is_not_there_yet_is_waited_for() {
    let server = ApiServer::start().await;
    let cluster = Cluster::at(&server.url());
    let mut follower = follow(&server).await;
    assert!(follower.state().is_none());
    cluster.create(node("a", "10.0.0.1", "10.244.1.0/24")).await;
    follower
        .until_state("the node", |state| state.ports.len() == 2)
        .await;
}
