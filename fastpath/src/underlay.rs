//! What the node's kernel knows of the world outside the cluster: links, routes and neighbours of the underlay.
//!
//! Live it is mirrored over netlink; replay makes a static one. Together with the desired state it is all that
//! [`crate::compile`] reads.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use wire::addr::Mac;

/// The underlay as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Underlay {
    /// Uplinks, by port name.
    pub links: Vec<Link>,
    /// Routes, any order; the longest prefix wins, then the lowest metric.
    pub routes: Vec<UnderlayRoute>,
    /// Neighbours that are resolved, on uplinks.
    pub neighbours: Vec<Neighbour>,
}

/// An uplink, or the host port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Port name: `uplink`, `uplink1`, ..., `host`.
    pub port: Arc<str>,
    /// Our MAC on it (for the host port: the one of our end).
    pub mac: Mac,
    /// MAC of the other side, host port only: the kernel's end.
    pub peer_mac: Option<Mac>,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Up and running.
    pub up: bool,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderlayRoute {
    /// Destination.
    pub prefix: IpNet,
    /// Lower wins among equal prefixes.
    pub metric: u32,
    /// One, or several for ECMP; none: unreachable or blackhole.
    pub next_hops: Vec<NextHop>,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHop {
    /// Port it leaves by: an uplink, or `host` for a device that is not our port.
    pub port: Arc<str>,
    /// Router, or `None` when the destination itself is on the link.
    pub gateway: Option<IpAddr>,
    /// ECMP weight, at least 1.
    pub weight: u16,
}

/// A resolved neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The uplink it is on.
    pub port: Arc<str>,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC.
    pub mac: Mac,
}
