//! The kernel's own dataplane on the lab's nodes: routes, a VXLAN device per family, nftables for services and
//! masquerade. It is what Ringway is compared with; it knows no policy.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;

use super::links::{Links, Vxlan, configure};
use super::netns;
use super::network::ETH0;
use super::plan::{Dataplane, Node, POD_GATEWAY_V4, Plan, Service};

/// As Calico's and Ringway's.
const VNI: u32 = 4096;
const VXLAN_PORT: u16 = 4789;

/// Lets the kernel forward on the nodes that it is to.
pub(crate) fn start(plan: &Plan) -> Result<()> {
    for node in plan
        .nodes
        .iter()
        .filter(|node| node.dataplane == Dataplane::Kernel)
    {
        let netns = plan.node_netns(node);
        configure(&netns, async |links| {
            pods(links, node).await?;
            for v4 in [true, false] {
                tunnel(links, plan, node, v4).await?;
            }
            Ok(())
        })?;
        let rules = rules(plan, node);
        netns::within(&netns, || nft(&rules)).with_context(|| format!("in namespace {netns}"))?;
    }
    Ok(())
}

async fn pods(links: &Links, node: &Node) -> Result<()> {
    for pod in &node.pods {
        let link = links.index(&pod.interface).await?;
        links.address(link, IpNet::from(POD_GATEWAY_V4)).await?;
        for address in &pod.addresses {
            links.route(IpNet::from(*address), None, link).await?;
            links.neighbour(link, *address, pod.mac).await?;
        }
    }
    Ok(())
}

/// A VXLAN device, and for each other node its blocks, its MAC and its address.
async fn tunnel(links: &Links, plan: &Plan, node: &Node, v4: bool) -> Result<()> {
    let Some(local) = node.main_address(v4) else {
        return Ok(());
    };
    let (name, overhead, family) = if v4 {
        ("vxlan.v4", 50, 0)
    } else {
        ("vxlan.v6", 70, 1)
    };
    let device = links
        .vxlan(&Vxlan {
            name,
            vni: VNI,
            port: VXLAN_PORT,
            uplink: links.index(ETH0).await?,
            local,
            mac: node.vxlan_macs[family],
            mtu: node.mtu.saturating_sub(overhead),
        })
        .await?;
    if let Some(address) = node.tunnel_addresses[family] {
        links.address(device, IpNet::from(address)).await?;
    }
    for other in plan.nodes.iter().filter(|other| other.name != node.name) {
        let Some(remote) = other.main_address(v4) else {
            continue;
        };
        let mac = other.vxlan_macs[family];
        links.fdb(device, mac, remote).await?;
        for block in other
            .pod_blocks
            .iter()
            .filter(|block| block.addr().is_ipv4() == v4)
        {
            // The next hop is a name for the other end: any address of its block serves.
            let next_hop = block.hosts().next().context("a pod block has addresses")?;
            links.neighbour(device, next_hop, mac).await?;
            links.route(*block, Some(next_hop), device).await?;
        }
    }
    Ok(())
}

/// Services by DNAT to a random backend; masquerade for what leaves the cluster and for a pod that reaches itself.
fn rules(plan: &Plan, node: &Node) -> String {
    let mut rules = String::new();
    for (family, v4) in [("ip", true), ("ip6", false)] {
        let services: Vec<String> = plan
            .services
            .iter()
            .flat_map(|service| translations(service, family, v4))
            .collect();
        let services = services.join("\n    ");
        let cluster: Vec<String> = plan
            .nodes
            .iter()
            .flat_map(|node| {
                node.pod_blocks
                    .iter()
                    .map(IpNet::trunc)
                    .chain(node.addresses.iter().map(host))
            })
            .filter(|prefix| prefix.addr().is_ipv4() == v4)
            .map(|prefix| prefix.to_string())
            .collect();
        let own: Vec<&IpNet> = node
            .pod_blocks
            .iter()
            .filter(|block| block.addr().is_ipv4() == v4)
            .collect();
        let mut sources = String::new();
        for block in own {
            let _ = writeln!(
                sources,
                "    {family} saddr {} {family} daddr != {{ {} }} masquerade",
                block.trunc(),
                cluster.join(", ")
            );
        }
        for address in node
            .pods
            .iter()
            .flat_map(|pod| &pod.addresses)
            .filter(|a| a.is_ipv4() == v4)
        {
            let _ = writeln!(
                sources,
                "    {family} saddr {address} {family} daddr {address} masquerade"
            );
        }
        let _ = write!(
            rules,
            "table {family} ringway-lab {{\n  \
             chain services {{\n    {services}\n  }}\n  \
             chain prerouting {{\n    type nat hook prerouting priority dstnat;\n    jump services\n  }}\n  \
             chain output {{\n    type nat hook output priority -100;\n    jump services\n  }}\n  \
             chain postrouting {{\n    type nat hook postrouting priority srcnat;\n{sources}  }}\n}}\n"
        );
    }
    rules
}

fn host(address: &IpNet) -> IpNet {
    IpNet::from(address.addr())
}

/// A rule for each address of the service in a family.
fn translations(service: &Service, family: &str, v4: bool) -> Vec<String> {
    let protocol = match service.protocol {
        6 => "tcp",
        17 => "udp",
        132 => "sctp",
        _ => return Vec::new(),
    };
    let backends: Vec<&(IpAddr, u16)> = service
        .backends
        .iter()
        .filter(|(address, _)| address.is_ipv4() == v4)
        .collect();
    let map: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(number, (address, port))| format!("{number} : {address} . {port}"))
        .collect();
    let verdict = if backends.is_empty() {
        "drop".to_owned()
    } else {
        format!(
            "dnat to numgen random mod {} map {{ {} }}",
            backends.len(),
            map.join(", ")
        )
    };
    let addresses = service.addresses.iter().filter(|address| address.is_ipv4() == v4);
    addresses
        .map(|address| {
            format!(
                "{family} daddr {address} {protocol} dport {} {verdict}",
                service.port
            )
        })
        .collect()
}

fn nft(rules: &str) -> Result<()> {
    let mut child = match Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    {
        Err(error) => return Err(error).context("starting nft (Debian package nftables)"),
        Ok(child) => child,
    };
    child
        .stdin
        .take()
        .context("nft's input")?
        .write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "nft refused the rules: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
