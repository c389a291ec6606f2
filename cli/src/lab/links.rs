//! Links, addresses, routes and neighbours of one network namespace, over rtnetlink.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use futures::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourFlags, NeighbourState};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::netns;

/// A netlink socket inside one namespace.
pub(crate) struct Links {
    handle: Handle,
}

/// One end of a veth pair.
#[derive(Debug)]
pub(crate) struct VethEnd<'a> {
    /// Interface name.
    pub(crate) name: &'a str,
    /// The namespace it goes to; none: where the pair is made.
    pub(crate) netns: Option<&'a str>,
    /// Ethernet address; none: a random one.
    pub(crate) mac: Option<[u8; 6]>,
    /// Bytes of IP packet.
    pub(crate) mtu: u32,
    /// Receive queues, and as many transmit queues.
    pub(crate) queues: u32,
}

/// Runs `work` inside the namespace `name`, with a netlink socket there.
pub(crate) fn configure<T: Send>(
    name: &str,
    work: impl AsyncFnOnce(&Links) -> Result<T> + Send,
) -> Result<T> {
    netns::within(name, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().context("opening netlink")?;
            let connection = tokio::spawn(connection);
            let result = work(&Links { handle }).await;
            connection.abort();
            result
        })
    })
    .with_context(|| format!("in namespace {name}"))
}

impl Links {
    /// Makes a bridge that forwards at once and floods multicast.
    pub(crate) async fn bridge(&self, name: &str) -> Result<u32> {
        let message = LinkBridge::new(name)
            .append_info_data(InfoBridge::MulticastSnooping(false))
            .append_info_data(InfoBridge::ForwardDelay(0))
            .up()
            .build();
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("making bridge {name}"))?;
        self.index(name).await
    }

    /// Makes a veth pair; both ends are down.
    pub(crate) async fn veth(&self, near: &VethEnd<'_>, far: &VethEnd<'_>) -> Result<()> {
        let (far_message, _far_netns) = far.message()?;
        let (mut message, _near_netns) = near.message()?;
        let info = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_message)))
            .build();
        message.attributes.extend(info.attributes);
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("making the link {} to {}", near.name, far.name))
    }

    /// Makes a VXLAN device that learns nothing: its peers are told with [`Self::fdb`].
    pub(crate) async fn vxlan(&self, device: &Vxlan<'_>) -> Result<u32> {
        let mut builder = LinkVxlan::new(device.name, device.vni)
            .dev(device.uplink)
            .port(device.port)
            .learning(false)
            .address(device.mac.to_vec())
            .mtu(device.mtu)
            .up();
        builder = match device.local {
            IpAddr::V4(local) => builder.local(local),
            IpAddr::V6(local) => builder.local6(local),
        };
        self.handle
            .link()
            .add(builder.build())
            .execute()
            .await
            .with_context(|| format!("making the VXLAN device {}", device.name))?;
        self.index(device.name).await
    }

    /// The index of the interface `name`.
    pub(crate) async fn index(&self, name: &str) -> Result<u32> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let link = found
            .try_next()
            .await
            .with_context(|| format!("looking for {name}"))?;
        Ok(link.with_context(|| format!("no interface {name}"))?.header.index)
    }

    pub(crate) async fn set_up(&self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .context("setting a link up")
    }

    /// Attaches the interface to a bridge and sets it up.
    pub(crate) async fn attach(&self, index: u32, bridge: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).up().build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .context("attaching a link to the bridge")
    }

    /// Adds an address that can be used at once: nothing else has it, so detection of duplicates is left out.
    pub(crate) async fn address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        request
            .execute()
            .await
            .with_context(|| format!("adding address {address}"))
    }

    /// Adds a route; `via` is reached on the interface itself, whatever the addresses there.
    pub(crate) async fn route(&self, to: IpNet, via: Option<IpAddr>, index: u32) -> Result<()> {
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(to.trunc().addr(), to.prefix_len())
            .context("route destination")?
            .output_interface(index);
        if let Some(via) = via {
            builder = builder.gateway(via).context("route gateway")?.onlink();
        }
        let mut message: RouteMessage = builder.build();
        if to.prefix_len() == 0 {
            message
                .attributes
                .retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
        }
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("adding the route to {to}"))
    }

    /// Adds a neighbour that never expires.
    pub(crate) async fn neighbour(&self, index: u32, address: IpAddr, mac: [u8; 6]) -> Result<()> {
        self.handle
            .neighbours()
            .add(index, address)
            .link_layer_address(&mac)
            .state(NeighbourState::Permanent)
            .execute()
            .await
            .with_context(|| format!("adding neighbour {address}"))
    }

    /// Tells a VXLAN device by which node `mac` is reached.
    pub(crate) async fn fdb(&self, index: u32, mac: [u8; 6], node: IpAddr) -> Result<()> {
        self.handle
            .neighbours()
            .add_bridge(index, &mac)
            .destination(node)
            .state(NeighbourState::Permanent)
            .flags(NeighbourFlags::Own)
            .execute()
            .await
            .with_context(|| format!("adding the forwarding entry of {node}"))
    }
}

/// What a VXLAN device is made of.
#[derive(Debug)]
pub(crate) struct Vxlan<'a> {
    pub(crate) name: &'a str,
    pub(crate) vni: u32,
    pub(crate) port: u16,
    /// Index of the interface that carries it.
    pub(crate) uplink: u32,
    pub(crate) local: IpAddr,
    pub(crate) mac: [u8; 6],
    pub(crate) mtu: u32,
}

impl VethEnd<'_> {
    /// The message, and the namespace's file, which must be open until the message is sent.
    fn message(&self) -> Result<(LinkMessage, Option<File>)> {
        let mut builder = LinkMessageBuilder::<LinkUnspec>::new()
            .name(self.name)
            .mtu(self.mtu)
            .append_extra_attribute(LinkAttribute::NumRxQueues(self.queues))
            .append_extra_attribute(LinkAttribute::NumTxQueues(self.queues));
        if let Some(mac) = self.mac {
            builder = builder.address(mac.to_vec());
        }
        let mut file = None;
        if let Some(name) = self.netns {
            let opened =
                File::open(netns::path(name)).with_context(|| format!("opening namespace {name}"))?;
            builder = builder.setns_by_fd(opened.as_raw_fd());
            file = Some(opened);
        }
        Ok((builder.build(), file))
    }
}

/// Writes a value under `/proc/sys/net` of the calling thread's namespace.
pub(crate) fn sysctl(key: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{key}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}
