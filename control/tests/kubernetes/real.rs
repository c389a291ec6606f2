//! The same against a real API server, and what only a real one has: rights, TLS, definitions of kinds.

use super::cluster::follower::{Follower, config};
use super::cluster::real::{NODE_AGENT, RealServer, assets};
use super::cluster::{pod, suite};
use std::time::Duration;

use control::source::kubernetes::{Config, KubernetesError};

/// With patience for rights that were given a moment ago.
fn agent(real: &RealServer, directory: Option<&std::path::Path>) -> Config {
    Config {
        denied_patience: Duration::from_secs(10),
        ..config(real.access(NODE_AGENT), directory)
    }
}

/// One server for all of it: starting one takes long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_holds_against_a_real_server() {
    let Some(assets) = assets("all_holds_against_a_real_server") else {
        return;
    };
    let mut real = RealServer::start(&assets).await;
    let cluster = real.cluster().await;

    // No rights, then those of deploy/rbac.yaml.
    let refused = Follower::start(agent(&real, None)).await.err().unwrap();
    assert!(
        matches!(&refused, KubernetesError::Denied(told) if told.contains("resources: [nodes]")),
        "{refused}"
    );
    cluster.apply("rbac.yaml").await;
    cluster.bind("agent").await;

    suite::fill(&cluster).await;
    cluster.apply("crds/ippools.yaml").await;
    while !cluster.has("/apis/crd.projectcalico.org/v1/ippools").await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    suite::every_kind(&cluster, agent(&real, None)).await;

    // It is killed, and comes back.
    let directory = tempfile::tempdir().unwrap();
    let mut follower = Follower::start(agent(&real, Some(directory.path())))
        .await
        .unwrap();
    let state = follower.state().unwrap();
    real.stop_server();
    follower
        .until("the server is missed", |f| {
            f.problems().contains("no answer from an API server")
        })
        .await;
    assert_eq!(follower.state().unwrap(), state);
    real.start_server().await;
    let cluster = real.cluster().await;
    cluster.create(pod("default", "new", "a", "10.244.1.9")).await;
    follower
        .until_state("the new pod", |now| now.ports.len() == state.ports.len() + 1)
        .await;
    follower.until("all is well", |f| f.problems().is_empty()).await;
    cluster.delete("/api/v1/namespaces/default/pods/new").await;
    follower
        .until_state("its end", |now| now.ports.len() == state.ports.len())
        .await;
    drop(follower);

    suite::own_node(&cluster, agent(&real, None)).await;
}
