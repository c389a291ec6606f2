//! From the cluster's objects to a lab's plan, by the same code that control runs.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use control::object::Tunnel;
use control::resolve::{Mode, NodeView, Options, PodView, Resolved, resolve};
use control::source::directory;
use ipnet::IpNet;

use super::plan::{Dataplane, Node, Plan, Pod, Service, gateways};
use crate::BadInput;

/// Length of a node's subnet where no annotation tells it.
const SUBNET_V4: u8 = 24;
const SUBNET_V6: u8 = 64;

/// What a person may choose about a lab.
#[derive(Debug)]
pub(crate) struct Choices {
    pub(crate) name: String,
    pub(crate) dataplane: Dataplane,
    /// Nodes that the kernel forwards on, whatever the others do.
    pub(crate) kernel_nodes: Vec<String>,
    pub(crate) queues: u32,
    pub(crate) workers: u32,
}

/// Reads the objects of `state` and plans a lab of all their nodes. Gives sentences about what was left out, too.
pub(crate) fn plan(state: &[PathBuf], choices: Choices) -> Result<(Plan, Vec<String>)> {
    let objects = directory::load(state).map_err(|errors| {
        let lines: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        BadInput(lines.join("\n"))
    })?;
    let first = objects.nodes.keys().next().ok_or_else(|| {
        let read: Vec<String> = state.iter().map(|path| path.display().to_string()).collect();
        BadInput(format!(
            "{}: no Node in the state, expected one at least",
            read.join(", ")
        ))
    })?;
    let options = Options {
        mode: Mode::Live,
        ..Options::default()
    };
    let mut resolved =
        resolve(&objects, &first.name, &options).map_err(|error| BadInput(error.to_string()))?;
    let known = |name: &String| resolved.nodes.iter().any(|view| view.name == *name);
    if let Some(unknown) = choices.kernel_nodes.iter().find(|name| !known(name)) {
        return Err(BadInput(format!("--kernel-node {unknown}: there is no such Node")).into());
    }
    let dataplane = |name: &String| {
        if choices.kernel_nodes.contains(name) {
            Dataplane::Kernel
        } else {
            choices.dataplane
        }
    };
    let nodes = resolved
        .nodes
        .iter()
        .map(|view| node(view, dataplane(&view.name), &resolved.pods))
        .collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        name: choices.name,
        state: state
            .iter()
            .map(|path| {
                path.canonicalize()
                    .with_context(|| format!("reading {}", path.display()))
            })
            .collect::<Result<_>>()?,

        queues: choices.queues,
        workers: choices.workers,
        gateways: gateways(&nodes),
        nodes,
        services: services(&resolved)?,
    };
    Ok((plan, std::mem::take(&mut resolved.warnings)))
}

fn node(view: &NodeView, dataplane: Dataplane, pods: &[PodView]) -> Result<Node> {
    let mac = |v4| {
        view.tunnel(Tunnel::Vxlan, v4)
            .and_then(|end| end.mac)
            .unwrap_or_default()
    };
    let pods = pods
        .iter()
        .filter(|pod| pod.node.as_deref() == Some(&view.name) && !pod.host_network);
    Ok(Node {
        name: view.name.clone(),
        dataplane,
        addresses: view
            .addresses
            .iter()
            .map(|address| in_subnet(*address, &view.subnets))
            .collect::<Result<_>>()?,
        mac: view.uplink_mac,
        mtu: view.uplink_mtu,
        pod_blocks: view.pod_cidrs.clone(),
        vxlan_macs: [mac(true), mac(false)],
        tunnel_addresses: [true, false].map(|v4| view.tunnel(Tunnel::Vxlan, v4)?.address),
        pods: pods
            .map(|pod| Pod {
                namespace: pod.name.namespace.to_string(),
                name: pod.name.name.to_string(),
                interface: pod.interface.clone(),
                addresses: pod.addresses.clone(),
                mac: pod.mac,
                mtu: pod.mtu,
            })
            .collect(),
    })
}

/// The address with the length of its subnet.
fn in_subnet(address: IpAddr, subnets: &[IpNet]) -> Result<IpNet> {
    let default = if address.is_ipv4() { SUBNET_V4 } else { SUBNET_V6 };
    let told = subnets.iter().find(|subnet| subnet.contains(&address));
    Ok(IpNet::new(address, told.map_or(default, IpNet::prefix_len))?)
}

fn services(resolved: &Resolved) -> Result<Vec<Service>> {
    let convert = |service: &contract::proto::Service| -> Result<Service> {
        let backends = service.backends.iter().map(|backend| {
            Ok((
                address(&backend.address)?,
                u16::try_from(backend.port).context("backend port")?,
            ))
        });
        Ok(Service {
            addresses: service
                .cluster_ips
                .iter()
                .map(|bytes| address(bytes))
                .collect::<Result<_>>()?,
            protocol: u8::try_from(service.protocol).context("protocol")?,
            port: u16::try_from(service.port).context("service port")?,
            backends: backends.collect::<Result<_>>()?,
        })
    };
    resolved.state.services.iter().map(convert).collect()
}

/// An address of the contract: 4 or 16 bytes.
fn address(bytes: &[u8]) -> Result<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    Ok(<[u8; 16]>::try_from(bytes)
        .context("an address has 4 or 16 bytes")?
        .into())
}
