//! CHECK: an attachment as it is against what ADD made of it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Error, Handle, RouteMessageBuilder};
use serde_json::Value;

use super::attachment::{Attachment, GATEWAY_V4, GATEWAY_V6, mac_text};
use super::failure::{Code, Failure};
use super::{result, wiring};
use crate::resolve::pod_port_name;

/// The pod's end, as found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_up: bool,
    pub(super) mac: Vec<u8>,
    pub(super) mtu: u32,
    /// Index of the other end.
    pub(super) peer: Option<u32>,
    pub(super) addresses: Vec<IpAddr>,
    /// Next hops of the routes to everything on it.
    pub(super) gateways: Vec<IpAddr>,
}

/// Looks at the interface `ifname` of the namespace that `handle` is in.
pub(super) async fn look(handle: &Handle, ifname: &str) -> Result<Option<Found>, Failure> {
    let Some(link) = wiring::find(handle, ifname).await? else {
        return Ok(None);
    };
    let index = link.header.index;
    let mut found = of_link(&link);
    let failed = |error: Error| {
        Failure::new(
            Code::Kernel,
            "the kernel refuses",
            format!("looking at the pod: {error}"),
        )
    };
    let mut addresses = handle.address().get().set_link_index_filter(index).execute();
    while let Some(message) = addresses.try_next().await.map_err(failed)? {
        found
            .addresses
            .extend(message.attributes.iter().find_map(|one| match one {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            }));
    }
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for family in [v4, v6] {
        let mut routes = handle.route().get(family).execute();
        while let Some(route) = routes.try_next().await.map_err(failed)? {
            let on_link = route.attributes.contains(&RouteAttribute::Oif(index));
            if route.header.destination_prefix_length != 0 || !on_link {
                continue;
            }
            found
                .gateways
                .extend(route.attributes.iter().find_map(|one| match one {
                    RouteAttribute::Gateway(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
                    RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
                    _ => None,
                }));
        }
    }
    Ok(Some(found))
}

/// A link, without addresses and routes.
pub(super) fn of_link(link: &LinkMessage) -> Found {
    let mut found = Found {
        is_up: link.header.flags.contains(LinkFlags::Up),
        ..Found::default()
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => found.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Link(peer) => found.peer = Some(*peer),
            _ => {}
        }
    }
    found
}

/// What of the attachment is not as it should be, one sentence each.
pub(super) fn differences(
    attachment: &Attachment,
    previous: &Value,
    netns: &str,
    inside: Option<&Found>,
    outside: Option<&LinkMessage>,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let ifname = &attachment.key.ifname;
    match result::claims(previous, ifname, netns) {
        None => wrong.push(format!("prevResult has no interface {ifname} in {netns}")),
        Some((mac, addresses)) => {
            if mac != mac_text(attachment.mac) {
                wrong.push(format!(
                    "prevResult: MAC {mac}, ADD gave {}",
                    mac_text(attachment.mac)
                ));
            }
            for address in &attachment.addresses {
                let length = if address.is_ipv4() { 32 } else { 128 };
                if !addresses.contains(&format!("{address}/{length}")) {
                    wrong.push(format!("prevResult lacks {address}, which ADD gave"));
                }
            }
        }
    }
    match outside {
        None => wrong.push(format!("{} is not on the node", attachment.interface)),
        Some(link) if !link.header.flags.contains(LinkFlags::Up) => {
            wrong.push(format!("{} is down", attachment.interface));
        }
        Some(_) => {}
    }
    let Some(inside) = inside else {
        wrong.push(format!("{ifname} is not in {netns}"));
        return wrong;
    };
    if !inside.is_up {
        wrong.push(format!("{ifname} is down"));
    }
    if inside.mac != attachment.mac {
        let mac = <[u8; 6]>::try_from(inside.mac.as_slice())
            .map(mac_text)
            .unwrap_or_default();
        wrong.push(format!(
            "{ifname} has MAC {mac}, expected {}",
            mac_text(attachment.mac)
        ));
    }
    if inside.mtu > attachment.mtu {
        // A plugin after us may have made it smaller.
        wrong.push(format!(
            "{ifname} has MTU {}, expected {}",
            inside.mtu, attachment.mtu
        ));
    }
    if outside.is_some_and(|link| inside.peer != Some(link.header.index)) {
        wrong.push(format!(
            "{ifname} is not the other end of {}",
            attachment.interface
        ));
    }
    for address in &attachment.addresses {
        if !inside.addresses.contains(address) {
            wrong.push(format!("{ifname} lacks {address}"));
        }
        let gateway = if address.is_ipv4() {
            IpAddr::V4(GATEWAY_V4)
        } else {
            IpAddr::V6(GATEWAY_V6)
        };
        if !inside.gateways.contains(&gateway) {
            wrong.push(format!("the route to everything by {gateway} is missing"));
        }
    }
    wrong
}

/// Why the port of `attachment` is not live, asked of fastpath itself. Blocking.
pub(super) fn port_trouble(socket: &Path, attachment: &Attachment) -> Option<String> {
    let name = pod_port_name(&attachment.pod());
    let status = match ask_status(socket) {
        Ok(status) => status,
        Err(error) => {
            return Some(format!(
                "fastpath does not answer on {}: {error}",
                socket.display()
            ));
        }
    };
    let ports = status["status"]["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let Some(port) = ports.iter().find(|port| port["name"] == name.as_str()) else {
        return Some(format!("fastpath has no port {name}"));
    };
    if port["live"] != true {
        let message = port["message"].as_str().unwrap_or_default();
        return Some(format!("port {name} is not live: {message}"));
    }
    let has = |address: &IpAddr| {
        let told = port["addresses"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        told.iter().any(|one| one == address.to_string().as_str())
    };
    let missing = attachment.addresses.iter().find(|address| !has(address))?;
    Some(format!("port {name} of fastpath lacks {missing}"))
}

/// `ringway status`, as the socket tells it.
fn ask_status(socket: &Path) -> std::io::Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(STATUS_PATIENCE))?;
    stream.write_all(b"{\"ask\":\"status\"}\n")?;
    let mut line = String::new();
    BufReader::new(stream.take(STATUS_LEN_MAX)).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

const STATUS_PATIENCE: Duration = Duration::from_secs(5);
/// Far beyond the rows of all ports that there may be, bytes.
const STATUS_LEN_MAX: u64 = 16 << 20;
