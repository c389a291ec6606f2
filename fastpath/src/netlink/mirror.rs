//! The kernel's view of the underlay, kept equal to the kernel by events and made into an [`Underlay`].
//!
//! An event only says which table changed; that table is then read whole. A burst of a thousand routes thereby costs one
//! read, and an overflow of the event socket costs no more than any other change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, State};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHopFlags, RouteType,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use wire::addr::Mac;

use super::socket::{Events, NetlinkError, Rtnetlink};
use crate::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};

/// What the kernel says of one of its interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its index in this namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC, zero for links that have none.
    pub mac: Mac,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Administratively up, and the carrier is there.
    pub up: bool,
    /// RX and TX queues, the smaller count.
    pub queues: u32,
}

/// Which interfaces are our ports.
#[derive(Clone, Debug, Default)]
pub struct PortInterfaces {
    /// Kernel interface names of `uplink`, `uplink1`, ... in that order.
    pub uplinks: Vec<String>,
    /// Our end of the host port's veth, and the kernel's end.
    pub host: Option<(String, String)>,
}

/// The mirror.
pub struct Mirror {
    netlink: Rtnetlink,
    ports: PortInterfaces,
    links: BTreeMap<u32, LinkFacts>,
    routes: Vec<UnderlayRoute>,
    neighbours: BTreeSet<(u32, IpAddr, Mac)>,
    managed: BTreeSet<(u32, IpAddr)>,
    /// Rules and VRFs that are not followed, for `status` and the log.
    pub refused: Vec<String>,
}

impl Mirror {
    /// Reads everything once.
    pub fn open(ports: PortInterfaces) -> Result<Self, NetlinkError> {
        let mut mirror = Self {
            netlink: Rtnetlink::open()?,
            ports,
            links: BTreeMap::new(),
            routes: Vec::new(),
            neighbours: BTreeSet::new(),
            managed: BTreeSet::new(),
            refused: Vec::new(),
        };
        mirror.refresh(Events::ALL)?;
        Ok(mirror)
    }

    /// Reads again what `events` says has changed.
    pub fn refresh(&mut self, events: Events) -> Result<(), NetlinkError> {
        if events.links {
            self.read_links()?;
        }
        // A link that goes down takes its routes along without an event for each.
        if events.routes || events.links || events.addresses {
            self.read_routes()?;
            self.read_rules()?;
        }
        if events.neighbours || events.links {
            self.read_neighbours()?;
        }
        Ok(())
    }

    /// The underlay as the compiler reads it.
    pub fn underlay(&self) -> Underlay {
        let mut links: Vec<Link> = Vec::new();
        for (position, name) in self.ports.uplinks.iter().enumerate() {
            if let Some(facts) = self.link(name) {
                links.push(Link {
                    port: uplink_port(position),
                    mac: facts.mac,
                    peer_mac: None,
                    mtu: facts.mtu.min(u32::from(u16::MAX)) as u16,
                    up: facts.up,
                });
            }
        }
        if let Some((ours, kernels)) = &self.ports.host
            && let (Some(ours), Some(kernels)) = (self.link(ours), self.link(kernels))
        {
            links.push(Link {
                port: "host".into(),
                mac: ours.mac,
                peer_mac: Some(kernels.mac),
                mtu: ours.mtu.min(u32::from(u16::MAX)) as u16,
                up: ours.up && kernels.up,
            });
        }
        let neighbours = self
            .neighbours
            .iter()
            .filter_map(|&(index, address, mac)| {
                Some(Neighbour {
                    port: self.uplink_of(index)?,
                    address,
                    mac,
                })
            })
            .collect();
        Underlay {
            links,
            routes: self.routes.clone(),
            neighbours,
        }
    }

    /// The interface of that name.
    pub fn link(&self, name: &str) -> Option<&LinkFacts> {
        self.links.values().find(|l| l.name == name)
    }

    /// Asks the kernel to keep exactly these neighbours resolved (`NTF_EXT_MANAGED`), each on the uplink of that port
    /// name. Those that are no longer wanted are left to the kernel's garbage collection. Goes on after a refusal, so that one
    /// address costs no other; returns the refusals, which are asked for again next time.
    pub fn manage(&mut self, wanted: impl IntoIterator<Item = (Arc<str>, IpAddr)>) -> Vec<NetlinkError> {
        let wanted: BTreeSet<(u32, IpAddr)> = wanted
            .into_iter()
            .filter_map(|(port, address)| {
                let facts = self.link(self.interface_of(&port)?)?;
                facts.up.then_some((facts.index, address))
            })
            .collect();
        let managed = std::mem::take(&mut self.managed);
        for &(index, address) in managed.difference(&wanted) {
            // The link may be gone, and its neighbours with it.
            let _ = self.set_managed(index, address, false);
        }
        let mut refused = Vec::new();
        for (index, address) in wanted {
            if !managed.contains(&(index, address))
                && let Err(error) = self.set_managed(index, address, true)
            {
                refused.push(error);
            } else {
                self.managed.insert((index, address));
            }
        }
        refused
    }

    fn set_managed(&mut self, index: u32, address: IpAddr, managed: bool) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.kind = RouteType::Unicast;
        message.header.state = if managed {
            NeighbourState::None
        } else {
            NeighbourState::Stale
        };
        message
            .attributes
            .push(NeighbourAttribute::Destination(address.into()));
        if managed {
            message
                .attributes
                .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        } else if let Some(&(_, _, mac)) = self
            .neighbours
            .iter()
            .find(|(i, a, _)| (*i, *a) == (index, address))
        {
            message
                .attributes
                .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        } else {
            return Ok(());
        }
        self.netlink.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            || format!("keep neighbour {address} resolved on interface {index}"),
        )
    }

    fn read_links(&mut self) -> Result<(), NetlinkError> {
        self.links = links(&mut self.netlink)?
            .into_iter()
            .map(|facts| (facts.index, facts))
            .collect();
        Ok(())
    }

    fn read_routes(&mut self) -> Result<(), NetlinkError> {
        self.routes.clear();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let rows = self
                .netlink
                .dump(&RouteNetlinkMessage::GetRoute(request), "routes")?;
            for row in rows {
                let RouteNetlinkMessage::NewRoute(message) = row else {
                    continue;
                };
                if let Some(route) = self.route(&message) {
                    self.add_route(route);
                }
            }
        }
        Ok(())
    }

    /// The kernel lists an IPv6 multipath route as several routes of one prefix and metric: they become one here.
    fn add_route(&mut self, route: UnderlayRoute) {
        if route.prefix.addr().is_ipv6()
            && let Some(same) = self
                .routes
                .iter_mut()
                .find(|r| (r.prefix, r.metric) == (route.prefix, route.metric))
        {
            same.next_hops.extend(route.next_hops);
            return;
        }
        self.routes.push(route);
    }

    /// A route of the main table that leads somewhere (or says that nothing does); the host port's own are left out,
    /// since they lead to us.
    fn route(&self, message: &RouteMessage) -> Option<UnderlayRoute> {
        let table = message.attributes.iter().find_map(|a| match a {
            RouteAttribute::Table(table) => Some(*table),
            _ => None,
        });
        if table.unwrap_or(u32::from(message.header.table)) != u32::from(RouteHeader::RT_TABLE_MAIN) {
            return None;
        }
        let mut destination = match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut metric = 0;
        let mut hop = Hop::default();
        let mut next_hops = Vec::new();
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Priority(priority) => metric = *priority,
                RouteAttribute::MultiPath(hops) => {
                    for leg in hops {
                        if leg
                            .flags
                            .intersects(RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown)
                        {
                            continue;
                        }
                        let mut hop = Hop {
                            interface: Some(leg.interface_index),
                            gateway: None,
                        };
                        leg.attributes.iter().for_each(|a| hop.note(a));
                        next_hops.extend(self.next_hop(&hop, u16::from(leg.hops) + 1));
                    }
                }
                other => hop.note(other),
            }
        }
        match message.header.kind {
            RouteType::Unicast => {
                next_hops.extend(self.next_hop(&hop, 1));
                if next_hops.is_empty() {
                    return None;
                }
            }
            RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => next_hops.clear(),
            _ => return None,
        }
        let prefix = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
        Some(UnderlayRoute {
            prefix,
            metric,
            next_hops,
        })
    }

    fn next_hop(&self, hop: &Hop, weight: u16) -> Option<NextHop> {
        let facts = self.links.get(&hop.interface?)?;
        if !facts.up || self.is_host_port(&facts.name) {
            return None;
        }
        let port = self.uplink_of(facts.index).unwrap_or_else(|| "host".into());
        Some(NextHop {
            port,
            gateway: hop.gateway,
            weight,
        })
    }

    fn read_rules(&mut self) -> Result<(), NetlinkError> {
        self.refused.clear();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RuleMessage::default();
            request.header.family = family;
            for row in self
                .netlink
                .dump(&RouteNetlinkMessage::GetRule(request), "rules")?
            {
                let RouteNetlinkMessage::NewRule(rule) = row else {
                    continue;
                };
                let table = rule.attributes.iter().find_map(|a| match a {
                    RuleAttribute::Table(table) => Some(*table),
                    _ => None,
                });
                // local, main and default are what every kernel starts with.
                let table = table.unwrap_or(u32::from(rule.header.table));
                if !matches!(table, 253..=255) {
                    self.refused
                        .push(format!("{family:?} rule to table {table} is not followed"));
                }
            }
        }
        Ok(())
    }

    fn read_neighbours(&mut self) -> Result<(), NetlinkError> {
        let rows = self.netlink.dump(
            &RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
            "neighbours",
        )?;
        self.neighbours.clear();
        for row in rows {
            let RouteNetlinkMessage::NewNeighbour(message) = row else {
                continue;
            };
            if let Some((address, mac)) = neighbour(&message)
                && self.uplink_of(message.header.ifindex).is_some()
            {
                self.neighbours.insert((message.header.ifindex, address, mac));
            }
        }
        Ok(())
    }

    fn uplink_of(&self, index: u32) -> Option<Arc<str>> {
        let name = &self.links.get(&index)?.name;
        self.ports.uplinks.iter().position(|u| u == name).map(uplink_port)
    }

    fn interface_of(&self, port: &str) -> Option<&str> {
        (0..self.ports.uplinks.len())
            .find(|&position| &*uplink_port(position) == port)
            .map(|position| self.ports.uplinks[position].as_str())
    }

    fn is_host_port(&self, name: &str) -> bool {
        self.ports
            .host
            .as_ref()
            .is_some_and(|(ours, kernels)| ours == name || kernels == name)
    }
}

/// Every interface in the namespace of `netlink`.
pub fn links(netlink: &mut Rtnetlink) -> Result<Vec<LinkFacts>, NetlinkError> {
    let rows = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), "links")?;
    Ok(rows
        .iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewLink(message) => Some(link_facts(message)),
            _ => None,
        })
        .collect())
}

/// `uplink`, `uplink1`, ...
pub fn uplink_port(position: usize) -> Arc<str> {
    if position == 0 {
        "uplink".into()
    } else {
        format!("uplink{position}").into()
    }
}

#[derive(Default)]
struct Hop {
    interface: Option<u32>,
    gateway: Option<IpAddr>,
}

impl Hop {
    fn note(&mut self, attribute: &RouteAttribute) {
        match attribute {
            RouteAttribute::Oif(index) => self.interface = Some(*index),
            RouteAttribute::Gateway(address) => self.gateway = ip(address),
            RouteAttribute::Via(via) => {
                self.gateway = match via {
                    netlink_packet_route::route::RouteVia::Inet(a) => Some(IpAddr::V4(*a)),
                    netlink_packet_route::route::RouteVia::Inet6(a) => Some(IpAddr::V6(*a)),
                    _ => None,
                };
            }
            _ => {}
        }
    }
}

fn link_facts(message: &LinkMessage) -> LinkFacts {
    let mut facts = LinkFacts {
        index: message.header.index,
        name: String::new(),
        mac: Mac::default(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        queues: u32::MAX,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => facts.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => facts.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                if let Ok(mac) = <[u8; 6]>::try_from(bytes.as_slice()) {
                    facts.mac = Mac(mac);
                }
            }
            // Interfaces without a notion of carrier say Unknown.
            LinkAttribute::OperState(state) => facts.up &= matches!(state, State::Up | State::Unknown),
            LinkAttribute::NumRxQueues(queues) | LinkAttribute::NumTxQueues(queues) => {
                facts.queues = facts.queues.min(*queues);
            }
            _ => {}
        }
    }
    facts
}

fn neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    use NeighbourState as S;
    let usable = matches!(
        message.header.state,
        S::Reachable | S::Stale | S::Delay | S::Probe | S::Permanent
    );
    let mut address = None;
    let mut mac = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(Mac);
            }
            _ => {}
        }
    }
    usable.then_some((address?, mac?))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
