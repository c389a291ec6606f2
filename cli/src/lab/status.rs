//! `ringway lab status`: nodes, pods and daemons, for a person or as JSON.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::daemon::Files;
use super::plan::{Dataplane, Plan};
use super::{netns, record};

#[derive(Debug, Serialize)]
struct Status {
    name: String,
    nodes: Vec<NodeStatus>,
    daemons: Vec<DaemonStatus>,
    /// Every namespace is there and every daemon runs.
    ok: bool,
}

#[derive(Debug, Serialize)]
struct NodeStatus {
    name: String,
    dataplane: Dataplane,
    netns: String,
    addresses: Vec<String>,
    directory: String,
    pods: Vec<PodStatus>,
}

#[derive(Debug, Serialize)]
struct PodStatus {
    namespace: String,
    name: String,
    netns: String,
    interface: String,
    addresses: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DaemonStatus {
    name: String,
    pid: i32,
    running: bool,
}

/// Prints the state of a lab. The exit code is 1 where something of it is missing.
pub(crate) fn show(lab: &str, json: bool) -> Result<ExitCode> {
    let plan = record::plan(lab)?;
    let status = gather(&plan);
    if json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print(&status);
    }
    Ok(if status.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn gather(plan: &Plan) -> Status {
    let daemons: Vec<DaemonStatus> = record::processes(&plan.name)
        .into_iter()
        .map(|process| DaemonStatus {
            running: process.is_running(),
            pid: process.pid,
            name: process.name,
        })
        .collect();
    let ok = daemons.len() >= 2 * plan.ringway_nodes().count()
        && daemons.iter().all(|daemon| daemon.running)
        && plan.namespaces().iter().all(|name| netns::exists(name));
    let nodes = plan.nodes.iter().map(|node| NodeStatus {
        name: node.name.clone(),
        dataplane: node.dataplane,
        netns: plan.node_netns(node),
        addresses: node
            .addresses
            .iter()
            .map(|address| address.addr().to_string())
            .collect(),
        directory: Files::of(plan, node).directory.display().to_string(),
        pods: node
            .pods
            .iter()
            .map(|pod| PodStatus {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                netns: plan.pod_netns(pod),
                interface: pod.interface.clone(),
                addresses: pod.addresses.iter().map(ToString::to_string).collect(),
            })
            .collect(),
    });
    Status {
        name: plan.name.clone(),

        nodes: nodes.collect(),
        daemons,
        ok,
    }
}

fn print(status: &Status) {
    let state = if status.ok { "up" } else { "BROKEN" };
    println!("lab {}: {state}, {} nodes", status.name, status.nodes.len());
    for node in &status.nodes {
        let dataplane = match node.dataplane {
            Dataplane::Ringway => "Ringway",
            Dataplane::Kernel => "the kernel",
        };
        println!(
            "  {:<24} {}  (forwarded by {dataplane})",
            node.name,
            node.addresses.join("  ")
        );
        for pod in &node.pods {
            let name = format!("{}/{}", pod.namespace, pod.name);
            println!("    {name:<22} {}  ({})", pod.addresses.join("  "), pod.interface);
        }
    }
    for daemon in &status.daemons {
        let state = if daemon.running { "running" } else { "NOT RUNNING" };
        println!("  {:<36} pid {:<8} {state}", daemon.name, daemon.pid);
    }
}
