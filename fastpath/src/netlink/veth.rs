//! Making veth pairs.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::mirror;
use super::socket::{NetlinkError, Rtnetlink};

/// Why a veth pair is not there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VethError {
    /// The kernel's answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The interface is not there after it was made.
    #[error("interface {0} is missing; was it removed by another program?")]
    Missing(String),
}

/// Makes the pair `first` and `second` with `queues` RX and TX queues each, or takes the one that is there, and brings both
/// up with `mtu` bytes of IP packet. Returns their indexes.
pub fn ensure(first: &str, second: &str, queues: u32, mtu: u32) -> Result<[u32; 2], VethError> {
    let mut netlink = Rtnetlink::open()?;
    match netlink.request(
        RouteNetlinkMessage::NewLink(pair(first, second, queues, mtu)),
        NLM_F_CREATE | NLM_F_EXCL,
        || format!("make the veth pair {first} and {second}"),
    ) {
        Ok(()) => {}
        Err(e) if e.errno() == Some(libc::EEXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let links = mirror::links(&mut netlink)?;
    let index = |name: &str| {
        let found = links.iter().find(|link| link.name == name);
        found
            .map(|link| link.index)
            .ok_or_else(|| VethError::Missing(name.to_owned()))
    };
    let indexes = [index(first)?, index(second)?];
    for index in indexes {
        set_up(&mut netlink, index, mtu)?;
    }
    Ok(indexes)
}

/// Removes the interface, and with it its pair.
pub fn remove(index: u32, name: &str) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    Rtnetlink::open()?.request(RouteNetlinkMessage::DelLink(message), 0, || {
        format!("remove {name}")
    })
}

fn pair(first: &str, second: &str, queues: u32, mtu: u32) -> LinkMessage {
    let end = |name: &str| {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::NumTxQueues(queues));
        message.attributes.push(LinkAttribute::NumRxQueues(queues));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message
    };
    let mut message = end(first);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(second)))),
    ]));
    message
}

fn set_up(netlink: &mut Rtnetlink, index: u32, mtu: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::Mtu(mtu));
    netlink.request(RouteNetlinkMessage::SetLink(message), 0, || {
        format!("bring interface {index} up with MTU {mtu}")
    })
}
