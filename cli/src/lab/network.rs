//! The lab's wires: namespaces, the underlay's bridge, nodes, pods and the hosts outside.

use anyhow::{Context as _, Result};
use ipnet::IpNet;

use super::links::{Links, VethEnd, configure, sysctl};
use super::netns;
use super::plan::{
    Dataplane, GATEWAY_MAC, Node, OUTSIDE, POD_GATEWAY_MAC, POD_GATEWAY_V4, POD_GATEWAY_V6, Plan, Pod,
    anywhere,
};
use super::record::Record;

/// Name of the bridge in the underlay's namespace.
const BRIDGE: &str = "br0";
/// Name of the uplink of a node and of the only link of a pod.
pub(crate) const ETH0: &str = "eth0";

/// Makes every namespace, link, address and route.
pub(crate) fn build(record: &mut Record) -> Result<()> {
    for name in record.plan.namespaces() {
        record.netns(&name)?;
        prepare(&name)?;
    }
    let plan = &record.plan;
    configure(&plan.underlay_netns(), async |links| underlay(links, plan).await)?;
    configure(&plan.outside_netns(), async |links| outside(links, plan).await)?;
    for node in &plan.nodes {
        configure(&plan.node_netns(node), async |links| {
            node_links(links, plan, node).await
        })?;
        for pod in &node.pods {
            configure(&plan.pod_netns(pod), async |links| pod_links(links, pod).await)?;
        }
    }
    Ok(())
}

/// Settings before any link is there, and loopback up.
fn prepare(name: &str) -> Result<()> {
    netns::within(name, || {
        for family in ["all", "default"] {
            // Nothing else is on these links: addresses count at once, and no router advertises.
            sysctl(&format!("ipv6/conf/{family}/accept_dad"), "0")?;
            sysctl(&format!("ipv6/conf/{family}/accept_ra"), "0")?;
            sysctl(&format!("ipv4/conf/{family}/rp_filter"), "0")?;
        }
        Ok(())
    })
    .with_context(|| format!("in namespace {name}"))?;
    configure(name, async |links| links.set_up(links.index("lo").await?).await)
}

/// A bridge with a port for each node and for the outside.
async fn underlay(links: &Links, plan: &Plan) -> Result<()> {
    let bridge = links.bridge(BRIDGE).await?;
    let outside = plan.outside_netns();
    let mtu = plan.nodes.iter().map(|node| node.mtu).max().unwrap_or(1500);
    let mut far_ends = vec![(outside, GATEWAY_MAC, mtu)];
    far_ends.extend(
        plan.nodes
            .iter()
            .map(|node| (plan.node_netns(node), node.mac, node.mtu)),
    );
    for (number, (netns, mac, mtu)) in far_ends.iter().enumerate() {
        let name = if number == 0 {
            "outside".to_owned()
        } else {
            format!("node{number}")
        };
        let near = VethEnd {
            name: &name,
            netns: None,
            mac: None,
            mtu: *mtu,
            queues: plan.queues,
        };
        let far = VethEnd {
            name: ETH0,
            netns: Some(netns),
            mac: Some(*mac),
            mtu: *mtu,
            queues: plan.queues,
        };
        links.veth(&near, &far).await?;
        links.attach(links.index(&name).await?, bridge).await?;
    }
    Ok(())
}

/// The gateway of every subnet, which is also every host beyond. It knows no route to pods or services.
async fn outside(links: &Links, plan: &Plan) -> Result<()> {
    forward_between_links()?;
    let loopback = links.index("lo").await?;
    for address in OUTSIDE {
        links.address(loopback, IpNet::from(address)).await?;
    }
    let uplink = links.index(ETH0).await?;
    links.set_up(uplink).await?;
    for gateway in &plan.gateways {
        links.address(uplink, *gateway).await?;
    }
    Ok(())
}

async fn node_links(links: &Links, plan: &Plan, node: &Node) -> Result<()> {
    forward_between_links()?;
    let uplink = links.index(ETH0).await?;
    links.set_up(uplink).await?;
    for address in &node.addresses {
        links.address(uplink, *address).await?;
    }
    for v4 in [true, false] {
        if let Some(gateway) = node.gateway(&plan.gateways, v4) {
            links.route(anywhere(v4), Some(gateway), uplink).await?;
        }
    }
    for pod in &node.pods {
        let netns = plan.pod_netns(pod);
        let near = VethEnd {
            name: &pod.interface,
            netns: None,
            mac: Some(POD_GATEWAY_MAC),
            mtu: pod.mtu,
            queues: plan.queues,
        };
        let far = VethEnd {
            name: ETH0,
            netns: Some(&netns),
            mac: Some(pod.mac),
            mtu: pod.mtu,
            queues: plan.queues,
        };
        links
            .veth(&near, &far)
            .await
            .with_context(|| format!("pod {}/{}", pod.namespace, pod.name))?;
        if node.dataplane == Dataplane::Ringway {
            // This end is a port of fastpath's: the kernel must not speak on it by itself.
            sysctl(&format!("ipv6/conf/{}/disable_ipv6", pod.interface), "1")?;
        }
        links.set_up(links.index(&pod.interface).await?).await?;
    }
    Ok(())
}

/// A pod's network as under Calico: addresses of full length and a gateway that is on no subnet.
async fn pod_links(links: &Links, pod: &Pod) -> Result<()> {
    let link = links.index(ETH0).await?;
    links.set_up(link).await?;
    for address in &pod.addresses {
        links.address(link, IpNet::from(*address)).await?;
    }
    for (v4, gateway) in [(true, POD_GATEWAY_V4), (false, POD_GATEWAY_V6)] {
        if pod.addresses.iter().any(|address| address.is_ipv4() == v4) {
            links.route(anywhere(v4), Some(gateway), link).await?;
        }
    }
    Ok(())
}

/// As on every Kubernetes node.
fn forward_between_links() -> Result<()> {
    sysctl("ipv4/ip_forward", "1")?;
    sysctl("ipv6/conf/all/forwarding", "1")
}
