//! A pod's link, as under Calico: a veth whose pod end has addresses of full length and a gateway that is on no subnet.
//!
//! Offloads are left alone: fastpath's program on the node's end runs in the driver, where the kernel turns segmentation off on
//! the pod's end by itself, and partial checksums are completed on the way out.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteScope};
use rtnetlink::{Error, Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Semaphore;

use super::attachment::{Attachment, GATEWAY_MAC, Key};
use super::failure::{Code, Failure};
use super::namespace::Namespace;
use super::steps::{Step, Steps};

/// Makes and removes links from the node's side.
pub(super) struct Wiring {
    handle: Handle,
    queues: u32,
    /// The kernel changes one thing at a time; more threads would only wait for one another.
    turns: Semaphore,
}

impl Wiring {
    /// In the network namespace that this process is in.
    pub(super) fn open(queues: u32) -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            queues,
            turns: Semaphore::new(THREADS_MAX),
        })
    }

    /// Makes the link of `attachment`, up at both ends.
    pub(super) async fn make(
        &self,
        attachment: &Attachment,
        namespace: &Namespace,
        steps: &dyn Steps,
    ) -> Result<(), Failure> {
        let _turn = self.turns.acquire().await;
        let interface = attachment.interface.as_str();
        if let Some(found) = find(&self.handle, interface).await? {
            if !is_ours(&found) {
                return Err(Failure::new(
                    Code::Exists,
                    "the pod's interface on the node exists already",
                    format!("{interface} was not made by ringway-cni"),
                ));
            }
            // Nobody knows of it any more.
            delete(&self.handle, &found).await?;
        }
        let created = self
            .handle
            .link()
            .add(self.pair(attachment, namespace))
            .execute()
            .await;
        match created {
            Ok(()) => {}
            Err(error) if is(&error, EEXIST) => {
                return Err(Failure::new(
                    Code::Exists,
                    "the interface exists already in the pod",
                    format!("CNI_IFNAME: {} is in {}", attachment.key.ifname, attachment.netns),
                ));
            }
            Err(error) if is(&error, EINVAL) => {
                return Err(Failure::new(
                    Code::Environment,
                    "CNI_NETNS is no network namespace",
                    format!("CNI_NETNS: {}: {error}", attachment.netns),
                ));
            }
            Err(error) => return Err(refused(&format!("making the link {interface}"), &error)),
        }
        steps.reached(Step::LinkMade);
        let inside = attachment.clone();
        namespace
            .within(async move |handle| pod_end(&handle, &inside).await)
            .await?;
        steps.reached(Step::PodReady);

        // A port of fastpath's: the kernel must not speak on it by itself.
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
        if let Err(error) = fs::write(&path, "1") {
            tracing::debug!(path, %error, "the kernel may speak IPv6 on a pod's link");
        }
        let index = self.index(interface).await?;
        let up = LinkUnspec::new_with_index(index)
            .alias(alias(&attachment.key))
            .up()
            .build();
        let up = self.handle.link().change(up).execute().await;
        up.map_err(|error| refused(&format!("setting {interface} up"), &error))
    }

    /// Removes the node's end of a link, and the pod's with it. None is a success, and one that we did not make is left.
    pub(super) async fn remove(&self, interface: &str) -> Result<(), Failure> {
        let _turn = self.turns.acquire().await;
        match find(&self.handle, interface).await? {
            Some(link) if is_ours(&link) => delete(&self.handle, &link).await,
            _ => Ok(()),
        }
    }

    /// Removes the link that ADD of `key` made, if it is there under this name.
    pub(super) async fn remove_stray(&self, interface: &str, key: &Key) -> Result<(), Failure> {
        match find(&self.handle, interface).await? {
            Some(link) if is_ours(&link) && alias_of(&link).is_none_or(|found| *found == alias(key)) => {
                delete(&self.handle, &link).await
            }
            _ => Ok(()),
        }
    }

    /// Names of all links that ringway-cni made.
    pub(super) async fn links(&self) -> Result<Vec<String>, Failure> {
        let mut links = self.handle.link().get().execute();
        let mut names = Vec::new();
        while let Some(link) = links
            .try_next()
            .await
            .map_err(|error| refused("listing links", &error))?
        {
            if is_ours(&link) {
                names.extend(name_of(&link).map(str::to_owned));
            }
        }
        Ok(names)
    }

    /// The node's end.
    pub(super) async fn node_end(&self, interface: &str) -> Result<Option<LinkMessage>, Failure> {
        find(&self.handle, interface).await
    }

    async fn index(&self, interface: &str) -> Result<u32, Failure> {
        index(&self.handle, interface).await
    }

    /// Both ends in one message: there is no moment in which the pod's end is on the node.
    fn pair(&self, attachment: &Attachment, namespace: &Namespace) -> LinkMessage {
        let end = |name: &str, mac: [u8; 6]| {
            LinkMessageBuilder::<LinkUnspec>::new()
                .name(name)
                .mtu(attachment.mtu)
                .address(mac.to_vec())
                .append_extra_attribute(LinkAttribute::NumRxQueues(self.queues))
                .append_extra_attribute(LinkAttribute::NumTxQueues(self.queues))
        };
        let far = end(&attachment.key.ifname, attachment.mac)
            .setns_by_fd(namespace.file().as_raw_fd())
            .build();
        let info = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        let near = end(&attachment.interface, GATEWAY_MAC).link_group(GROUP);
        let mut message = near.build();
        message.attributes.extend(info.attributes);
        message
    }
}

/// Addresses and routes, in the pod.
async fn pod_end(handle: &Handle, attachment: &Attachment) -> Result<(), Failure> {
    let ifname = attachment.key.ifname.as_str();
    let index = index(handle, ifname).await?;
    if attachment.addresses.iter().any(IpAddr::is_ipv6) {
        // Runtimes turn it off in pods at times.
        sysctl(ifname, "disable_ipv6", "0")?;
        // Nothing else is on this link: addresses count at once, and no router advertises.
        sysctl(ifname, "accept_dad", "0")?;
        sysctl(ifname, "accept_ra", "0")?;
    }
    let up = LinkUnspec::new_with_index(index).up().build();
    let up = handle.link().change(up).execute().await;
    up.map_err(|error| refused(&format!("setting {ifname} up in the pod"), &error))?;
    for address in &attachment.addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let mut request = handle.address().add(index, *address, length);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        let added = request.execute().await;
        added.map_err(|error| refused(&format!("adding address {address} in the pod"), &error))?;
    }
    for gateway in attachment.gateways() {
        if gateway.is_ipv4() {
            // On no subnet, so it needs a route of its own. The IPv6 one is link-local.
            route(handle, index, Some((gateway, 32)), None).await?;
        }
        route(handle, index, None, Some(gateway)).await?;
    }
    Ok(())
}

/// A route to `to` (everything of the gateway's family without it) `via` a gateway, or on the link itself.
async fn route(
    handle: &Handle,
    index: u32,
    to: Option<(IpAddr, u8)>,
    via: Option<IpAddr>,
) -> Result<(), Failure> {
    let failed = |error: &dyn std::fmt::Display| {
        let to = to.map_or_else(|| "everything".to_owned(), |(address, _)| address.to_string());
        Failure::new(
            Code::Kernel,
            "the kernel refuses",
            format!("adding the route to {to} in the pod: {error}"),
        )
    };
    let is_v4 = to
        .map(|(address, _)| address)
        .or(via)
        .is_none_or(|address| address.is_ipv4());
    let everything = if is_v4 {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let (address, length) = to.unwrap_or((everything, 0));
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .output_interface(index)
        .destination_prefix(address, length)
        .map_err(|error| failed(&error))?;
    builder = match via {
        Some(via) => builder.gateway(via).map_err(|error| failed(&error))?,
        None => builder.scope(RouteScope::Link),
    };
    let mut message = builder.build();
    if to.is_none() {
        message
            .attributes
            .retain(|attribute| !matches!(attribute, RouteAttribute::Destination(_)));
    }
    handle
        .route()
        .add(message)
        .execute()
        .await
        .map_err(|error| failed(&error))
}

/// `/proc/sys/net` shows the namespace of the thread that opens it.
fn sysctl(ifname: &str, key: &str, value: &str) -> Result<(), Failure> {
    let path = format!("/proc/sys/net/ipv6/conf/{ifname}/{key}");
    fs::write(&path, value).map_err(|error| {
        Failure::new(
            Code::Kernel,
            "the kernel refuses",
            format!("writing {value} to {path} in the pod: {error}"),
        )
    })
}

pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Failure> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    match found.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if is(&error, ENODEV) => Ok(None),
        Err(error) => Err(refused(&format!("looking for {name}"), &error)),
    }
}

pub(super) async fn index(handle: &Handle, name: &str) -> Result<u32, Failure> {
    let link = find(handle, name).await?;
    link.map(|link| link.header.index).ok_or_else(|| {
        Failure::new(
            Code::Kernel,
            "an interface went away",
            format!("{name} is not there any more"),
        )
    })
}

async fn delete(handle: &Handle, link: &LinkMessage) -> Result<(), Failure> {
    match handle.link().del(link.header.index).execute().await {
        Err(error) if !is(&error, ENODEV) => {
            let name = name_of(link).unwrap_or_default();
            Err(refused(&format!("removing {name}"), &error))
        }
        _ => Ok(()),
    }
}

pub(super) fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn alias_of(link: &LinkMessage) -> Option<&String> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias),
        _ => None,
    })
}

/// Links are marked from their first moment on; an alias can only be set later.
fn is_ours(link: &LinkMessage) -> bool {
    link.attributes.contains(&LinkAttribute::Group(GROUP))
}

/// What `ip link` shows of the node's end.
fn alias(key: &Key) -> String {
    let mut alias = format!("{ALIAS}{key}");
    alias.truncate(ALIAS_LEN_MAX);
    alias
}

fn is(error: &Error, errno: i32) -> bool {
    matches!(error, Error::NetlinkError(message) if message.raw_code() == -errno)
}

fn refused(what: &str, error: &Error) -> Failure {
    Failure::new(Code::Kernel, "the kernel refuses", format!("{what}: {error}"))
}

/// Link group of all links that we make, "RWCI".
const GROUP: u32 = 0x5257_4349;
const ALIAS: &str = "ringway-cni: ";
/// As in the kernel: `IFALIASZ` less the final zero.
const ALIAS_LEN_MAX: usize = 255;
const THREADS_MAX: usize = 8;
const EEXIST: i32 = rustix::io::Errno::EXIST.raw_os_error();
const EINVAL: i32 = rustix::io::Errno::INVAL.raw_os_error();
const ENODEV: i32 = rustix::io::Errno::NODEV.raw_os_error();
