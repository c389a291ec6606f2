//! The host port: a veth whose one end is the kernel's way to pods and Services, and whose other end is our AF_XDP port.
//!
//! The kernel routes pod blocks and service ranges into its end by a next hop that the packet path answers for
//! (169.254.1.1, `fe80::ecee:eeff:feee:eeee`), with the node's own address as source, or its tunnel address where the
//! block is reached by a tunnel.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{NetlinkError, Rtnetlink};
use super::veth::{self, VethError};

/// The next hop of every link that we answer for, IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same, IPv6: the link-local address of MAC `ee:ee:ee:ee:ee:ee`.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);

/// Marks our routes, so that `uninstall` and a later process know them: "rw" in ASCII, low byte.
const ROUTE_PROTOCOL: u8 = 0x77;

/// A route of the kernel into the host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Source address of what the host sends there.
    pub source: Option<IpAddr>,
}

/// What went wrong with the host port.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostPortError {
    /// The kernel's answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A sysctl could not be written.
    #[error("{path}: {source}; ringway-fastpath needs /proc/sys writable in its network namespace")]
    Sysctl {
        /// The file.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The pair can't be made.
    #[error(transparent)]
    Veth(#[from] VethError),
}

/// The host port's two ends and what was installed for it.
pub struct HostPort {
    netlink: Rtnetlink,
    kernel_end: String,
    our_end: String,
    kernel_index: u32,
    routes: BTreeSet<HostRoute>,
    addresses: BTreeSet<IpAddr>,
}

impl HostPort {
    /// Makes the veth pair, or takes the one that an earlier process left, and brings both ends up.
    ///
    /// `queues`: RX and TX queues of each end. `mtu`: bytes of IP packet.
    pub fn open(kernel_end: &str, our_end: &str, queues: u32, mtu: u32) -> Result<Self, HostPortError> {
        let [kernel_index, _] = veth::ensure(kernel_end, our_end, queues, mtu)?;
        // A packet with the node's own source comes back from us (hairpin, VIPs): not a martian here.
        for (key, value) in [("accept_local", "1"), ("rp_filter", "0"), ("send_redirects", "0")] {
            write_sysctl(&format!("/proc/sys/net/ipv4/conf/{kernel_end}/{key}"), value)?;
        }
        for end in [kernel_end, our_end] {
            for (key, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
                // Absent where the kernel has IPv6 switched off.
                let path = format!("/proc/sys/net/ipv6/conf/{end}/{key}");
                if fs::exists(&path).unwrap_or(false) {
                    write_sysctl(&path, value)?;
                }
            }
        }
        // Our end is a wire to user space: the kernel must not speak on it.
        let quiet = format!("/proc/sys/net/ipv6/conf/{our_end}/disable_ipv6");
        if fs::exists(&quiet).unwrap_or(false) {
            write_sysctl(&quiet, "1")?;
        }
        Ok(Self {
            netlink: Rtnetlink::open()?,
            kernel_end: kernel_end.to_owned(),
            our_end: our_end.to_owned(),
            kernel_index,
            routes: BTreeSet::new(),
            addresses: BTreeSet::new(),
        })
    }

    /// Names of the kernel's end and ours.
    pub fn ends(&self) -> (&str, &str) {
        (&self.kernel_end, &self.our_end)
    }

    /// Installs exactly these addresses (tunnel addresses, on the kernel's end) and routes; removes those of an earlier
    /// call that are no longer wanted. Goes on after a refusal, so that one bad route costs no other; returns the refusals.
    pub fn reconcile(
        &mut self,
        addresses: &BTreeSet<IpAddr>,
        routes: &BTreeSet<HostRoute>,
    ) -> Vec<NetlinkError> {
        let mut refused = Vec::new();
        for &address in addresses.difference(&self.addresses.clone()) {
            match self.add_address(address) {
                Ok(()) => drop(self.addresses.insert(address)),
                Err(e) => refused.push(e),
            }
        }
        for route in self.routes.clone().difference(routes) {
            match self.remove_route(*route) {
                Ok(()) => drop(self.routes.remove(route)),
                // Gone already, with its link or by hand.
                Err(e) if e.errno() == Some(libc::ESRCH) => drop(self.routes.remove(route)),
                Err(e) => refused.push(e),
            }
        }
        for &route in routes.difference(&self.routes.clone()) {
            match self.add_route(route) {
                Ok(()) => drop(self.routes.insert(route)),
                Err(e) => refused.push(e),
            }
        }
        for address in self.addresses.clone().difference(addresses) {
            match self.remove_address(*address) {
                Ok(()) => drop(self.addresses.remove(address)),
                Err(e) if e.errno() == Some(libc::EADDRNOTAVAIL) => drop(self.addresses.remove(address)),
                Err(e) => refused.push(e),
            }
        }
        refused
    }

    /// Removes the pair, and with it every route and address on it.
    pub fn remove(self) -> Result<(), HostPortError> {
        Ok(veth::remove(self.kernel_index, &self.kernel_end)?)
    }

    fn add_address(&mut self, address: IpAddr) -> Result<(), NetlinkError> {
        let message = self.address_message(address);
        self.netlink.request(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("add tunnel address {address}"),
        )
    }

    fn remove_address(&mut self, address: IpAddr) -> Result<(), NetlinkError> {
        let message = self.address_message(address);
        self.netlink
            .request(RouteNetlinkMessage::DelAddress(message), 0, || {
                format!("remove tunnel address {address}")
            })
    }

    fn address_message(&self, address: IpAddr) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = self.kernel_index;
        message.header.family = family(address);
        message.header.prefix_len = if address.is_ipv4() { 32 } else { 128 };
        message.header.scope = AddressScope::Universe;
        message.header.flags = AddressHeaderFlags::Nodad;
        if address.is_ipv4() {
            message.attributes.push(AddressAttribute::Local(address));
        }
        message.attributes.push(AddressAttribute::Address(address));
        message
    }

    fn add_route(&mut self, route: HostRoute) -> Result<(), NetlinkError> {
        let message = self.route_message(route);
        self.netlink.request(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || match route.source {
                Some(source) => format!("route {} into the host port with source {source}", route.prefix),
                None => format!("route {} into the host port", route.prefix),
            },
        )
    }

    fn remove_route(&mut self, route: HostRoute) -> Result<(), NetlinkError> {
        let message = self.route_message(route);
        self.netlink
            .request(RouteNetlinkMessage::DelRoute(message), 0, || {
                format!("remove the route {} into the host port", route.prefix)
            })
    }

    fn route_message(&self, route: HostRoute) -> RouteMessage {
        let mut message = RouteMessage::default();
        let address = route.prefix.network();
        message.header.address_family = family(address);
        message.header.destination_prefix_length = route.prefix.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        // The next hop is nobody's subnet.
        message.header.flags = RouteFlags::Onlink;
        message
            .attributes
            .push(RouteAttribute::Destination(address.into()));
        let gateway = match address {
            IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
            IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
        };
        message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        message.attributes.push(RouteAttribute::Oif(self.kernel_index));
        if let Some(source) = route.source {
            message.attributes.push(RouteAttribute::PrefSource(source.into()));
        }
        message
    }
}

fn write_sysctl(path: &str, value: &str) -> Result<(), HostPortError> {
    fs::write(path, value).map_err(|source| HostPortError::Sysctl {
        path: path.to_owned(),
        source,
    })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
