//! One rtnetlink socket: requests with an acknowledgement, dumps, and multicast events.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What went wrong on an rtnetlink socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetlinkError {
    /// The socket itself.
    #[error("netlink {what}: {source}")]
    Socket {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a request.
    #[error("the kernel refused to {what}: {source}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its error number.
        #[source]
        source: io::Error,
    },
    /// A dump was interrupted by changes more often than is plausible.
    #[error("the kernel's {what} changed during each of {tries} dumps")]
    Unsettled {
        /// Which table.
        what: &'static str,
        /// How often it was tried.
        tries: u32,
    },
}

impl NetlinkError {
    /// The kernel's error number, when it refused something.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Socket { source, .. } | Self::Refused { source, .. } => source.raw_os_error(),
            Self::Unsettled { .. } => None,
        }
    }
}

/// What a wait for events found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one fact per kernel table")]
pub struct Events {
    /// Links came, went or changed.
    pub links: bool,
    /// Addresses did.
    pub addresses: bool,
    /// Routes or rules did.
    pub routes: bool,
    /// Neighbours did.
    pub neighbours: bool,
    /// The kernel dropped events: everything must be read again.
    pub overflow: bool,
}

impl Events {
    /// Everything must be read.
    pub const ALL: Self = Self {
        links: true,
        addresses: true,
        routes: true,
        neighbours: true,
        overflow: false,
    };

    /// Did anything happen?
    pub fn any(self) -> bool {
        self.links || self.addresses || self.routes || self.neighbours || self.overflow
    }
}

/// A blocking rtnetlink socket for requests.
pub struct Rtnetlink {
    socket: Socket,
    sequence: u32,
}

const DUMP_TRIES_MAX: u32 = 8;

impl Rtnetlink {
    /// A socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(failed("connect"))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `message` and waits for the kernel's acknowledgement. `flags` beyond REQUEST and ACK, such as CREATE.
    pub fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            for reply in self.receive()? {
                let NetlinkPayload::Error(error) = reply.payload else {
                    continue;
                };
                return match error.code {
                    None => Ok(()),
                    Some(_) => Err(NetlinkError::Refused {
                        what: what(),
                        source: error.to_io(),
                    }),
                };
            }
        }
    }

    /// Reads a whole table. Dumps that the kernel marks as interrupted are made again.
    pub fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        what: &'static str,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 0..DUMP_TRIES_MAX {
            if let Some(rows) = self.dump_once(message.clone(), what)? {
                return Ok(rows);
            }
        }
        Err(NetlinkError::Unsettled {
            what,
            tries: DUMP_TRIES_MAX,
        })
    }

    fn dump_once(
        &mut self,
        message: RouteNetlinkMessage,
        what: &'static str,
    ) -> Result<Option<Vec<RouteNetlinkMessage>>, NetlinkError> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut rows = Vec::new();
        let mut interrupted = false;
        loop {
            for reply in self.receive()? {
                interrupted |= reply.header.flags & netlink_packet_core::NLM_F_DUMP_INTR != 0;
                match reply.payload {
                    NetlinkPayload::InnerMessage(row) => rows.push(row),
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(rows)),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(NetlinkError::Refused {
                            what: format!("list {what}"),
                            source: error.to_io(),
                        });
                    }
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.header.length as usize];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(failed("send"))?;
        Ok(())
    }

    /// The messages of the next datagram that answers the last request.
    fn receive(&mut self) -> Result<Vec<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
        let (bytes, _) = self.socket.recv_from_full().map_err(failed("receive"))?;
        Ok(messages(&bytes)
            .filter(|m| m.header.sequence_number == self.sequence)
            .collect())
    }
}

/// A socket that only listens to changes.
pub struct EventSocket {
    socket: Socket,
}

/// Bytes that the kernel may queue for us before it drops events: enough for a routing daemon's burst.
const EVENT_BUFFER_BYTES: i32 = 8 << 20;

impl EventSocket {
    /// Joins the groups of links, addresses, routes, rules and neighbours, in the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed("socket"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        // Best effort: without CAP_NET_ADMIN the kernel caps it, and an overflow means a resync, not a loss.
        let _ = socket.set_rx_buf_sz(EVENT_BUFFER_BYTES);
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ] {
            socket.add_membership(group).map_err(failed("join group"))?;
        }
        socket
            .set_non_blocking(true)
            .map_err(failed("set non-blocking"))?;
        Ok(Self { socket })
    }

    /// Takes every event that waits, without blocking.
    pub fn drain(&mut self) -> Result<Events, NetlinkError> {
        let mut events = Events::default();
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, _)) => messages(&bytes).for_each(|m| events.note(&m.payload)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(events),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {
                    events = Events {
                        overflow: true,
                        ..Events::ALL
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(NetlinkError::Socket {
                        what: "receive events",
                        source,
                    });
                }
            }
        }
    }
}

impl AsFd for EventSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Events {
    fn note(&mut self, payload: &NetlinkPayload<RouteNetlinkMessage>) {
        use RouteNetlinkMessage as M;
        match payload {
            NetlinkPayload::InnerMessage(M::NewLink(_) | M::DelLink(_)) => self.links = true,
            NetlinkPayload::InnerMessage(M::NewAddress(_) | M::DelAddress(_)) => self.addresses = true,
            NetlinkPayload::InnerMessage(M::NewRoute(_) | M::DelRoute(_) | M::NewRule(_) | M::DelRule(_)) => {
                self.routes = true;
            }
            NetlinkPayload::InnerMessage(M::NewNeighbour(_) | M::DelNeighbour(_)) => self.neighbours = true,
            NetlinkPayload::Overrun(_) => {
                *self = Self {
                    overflow: true,
                    ..Self::ALL
                }
            }
            _ => {}
        }
    }
}

/// The messages in one datagram; what this crate's types cannot hold is left out.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> + '_ {
    std::iter::from_fn(move || {
        loop {
            let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
            let len = u32::from_ne_bytes(header) as usize;
            let message = bytes.get(..len).filter(|m| m.len() >= 16)?;
            bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
            if let Ok(parsed) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) {
                return Some(parsed);
            }
        }
    })
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> NetlinkError {
    move |source| NetlinkError::Socket { what, source }
}
