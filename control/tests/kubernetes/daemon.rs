//! `ringway-control` as a process that follows an API server.

use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Duration;

use serde_json::json;
use tokio::task::block_in_place;

use super::cluster::follower::kubeconfig;
use super::cluster::{Cluster, pod};
use super::process::{Control, Fastpath, status};
use super::{ApiServer, api_servers, set_up};

/// Waits until the status says so.
async fn until_status(directory: &tempfile::TempDir, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
    let patience = std::time::Instant::now() + super::cluster::PATIENCE;
    loop {
        let told = status(directory.path());
        if is_so(&told) {
            return;
        }
        assert!(std::time::Instant::now() < patience, "{what}: never; {told:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn has_problem(told: &serde_json::Value, text: &str) -> bool {
    told["problems"]
        .as_array()
        .unwrap()
        .iter()
        .any(|problem| problem.as_str().unwrap().contains(text))
}

struct Node {
    directory: tempfile::TempDir,
    listener: UnixListener,
    kubeconfig: String,
}

impl Node {
    fn new(server: &ApiServer) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("fastpath.sock")).unwrap();
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig(&server.url())).unwrap();
        Self {
            kubeconfig: path.to_str().unwrap().to_owned(),
            directory,
            listener,
        }
    }

    fn start(&self) -> Control {
        Control::start(self.directory.path(), &["--kubeconfig", &self.kubeconfig])
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_restarts_without_a_server_and_goes_on_when_it_is_back() {
    let (mut server, cluster) = set_up().await;
    let node = Node::new(&server);
    let control = node.start();
    let mut fastpath = block_in_place(|| Fastpath::accept(&node.listener));
    assert_eq!(
        block_in_place(|| fastpath.next()),
        ["host", "pod:default/web", "uplink"]
    );
    cluster.create(pod("default", "new", "a", "10.244.1.9")).await;
    let expected = ["host", "pod:default/new", "pod:default/web", "uplink"];
    assert_eq!(block_in_place(|| fastpath.next()), expected);
    let url = server.url();
    until_status(&node.directory, "all is well", |told| {
        told["problems"] == json!([])
            && told["source"]["api_server"] == url
            && told["source"]["is_current"] == true
    })
    .await;

    server.stop().await;
    let line = block_in_place(|| control.wait_for_log("no answer from an API server"));
    assert!(
        line.contains("the last state stays in force") && line.contains("WARN"),
        "{line}"
    );
    until_status(&node.directory, "the server is missed", |told| {
        has_problem(told, "no answer from an API server")
    })
    .await;
    assert_eq!(block_in_place(|| control.terminate()).code(), Some(0));

    // The machine restarts: another fastpath, another control, no server.
    drop(fastpath);
    let control = node.start();
    let mut fastpath = block_in_place(|| Fastpath::accept(&node.listener));
    assert_eq!(block_in_place(|| fastpath.next()), expected);
    until_status(&node.directory, "it tells that this is old", |told| {
        told["source"]["is_current"] == false && has_problem(told, "no answer from an API server")
    })
    .await;

    server.start_again().await;
    cluster.delete("/api/v1/namespaces/default/pods/web").await;
    assert_eq!(
        block_in_place(|| fastpath.next()),
        ["host", "pod:default/new", "uplink"]
    );
    until_status(&node.directory, "all is well", |told| {
        told["problems"] == json!([])
    })
    .await;
    assert_eq!(block_in_place(|| control.terminate()).code(), Some(0));
    assert!(!node.directory.path().join("status.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_before_there_is_a_state_is_told_by_the_status() {
    let server = ApiServer::start().await;
    let node = Node::new(&server);
    let _control = node.start();
    until_socket(&node).await;
    until_status(&node.directory, "the node is missed", |told| {
        has_problem(told, "there is no Node \"a\"")
    })
    .await;
    super::suite::fill(&Cluster::at(&server.url())).await;
    let mut fastpath = block_in_place(|| Fastpath::accept(&node.listener));
    while !block_in_place(|| fastpath.next()).contains(&"pod:default/web".to_owned()) {}
    until_status(&node.directory, "all is well", |told| {
        told["problems"] == json!([])
    })
    .await;
}

async fn until_socket(node: &Node) {
    while !node.directory.path().join("status.sock").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_person_can_mend_is_one_line_and_exit_code_2() {
    let (server, cluster) = set_up().await;
    cluster.create(api_servers(&[&server])).await;
    server.faults(|faults| {
        faults.refusals.insert("endpointslices".to_owned(), 403);
    });
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good", &kubeconfig(&server.url()));
    let broken = file("broken", "apiVersion: [\n");
    let homeless = file("homeless", "apiVersion: v1\nkind: Config\ncurrent-context: c\n");
    let proxied = file(
        "proxied",
        &kubeconfig("https://10.0.0.1:6443").replace("server:", "proxy-url: 'http://x:1', server:"),
    );
    let keyless = file(
        "keyless",
        &kubeconfig("https://10.0.0.1:6443").replace(
            "token: secret",
            "client-certificate: /no/such.crt, client-key: /no/such.key",
        ),
    );
    for (arguments, expected) in [
        (
            vec!["--kubeconfig", "/no/such/file"],
            "--kubeconfig /no/such/file: No such file",
        ),
        (
            vec!["--kubeconfig", &broken],
            "broken: failed to parse kubeconfig YAML",
        ),
        (
            vec!["--kubeconfig", &homeless],
            "homeless: failed to load current context: c",
        ),
        (
            vec!["--kubeconfig", &proxied],
            "proxied: it has a proxy-url, which is not supported",
        ),
        (vec!["--kubeconfig", &keyless], "/no/such.crt"),
        (
            vec!["--kubeconfig", &good, "--api-server", "10.0.0.1"],
            "expected https://HOST:PORT",
        ),
        (vec!["--kubeconfig", &good, "--state", "x"], "--state"),
        (vec![], "no --state and no --kubeconfig is given"),
        (
            vec!["--kubeconfig", &good],
            "403 Forbidden: we may not list and watch endpointslices.discovery.k8s.io (user \"test\" cannot list resource \
             \"endpointslices\"); add to our ClusterRole: - {apiGroups: [\"discovery.k8s.io\"], resources: [endpointslices], \
             verbs: [get, list, watch]} (deploy/rbac.yaml has all rules)",
        ),
    ] {
        let run = || {
            Command::new(env!("CARGO_BIN_EXE_ringway-control"))
                .args(["--node", "a", "--uplink", "lo"])
                .args(&arguments)
                .env("RINGWAY_LOG", "off")
                .output()
                .unwrap()
        };
        let output = block_in_place(run);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.contains(expected) && text.lines().count() == 1,
            "{arguments:?}: {text}; expected {expected}"
        );
    }
}
