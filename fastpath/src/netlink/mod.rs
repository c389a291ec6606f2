//! The kernel's links, routes and neighbours over rtnetlink: read for the underlay, written for the host port.
//!
//! Blocking, in the config thread alone. Any routing daemon (BIRD, FRR, static routes) thereby steers the underlay.

pub mod host_port;
pub mod mirror;
pub mod reserved_ports;
pub mod socket;
pub mod veth;

pub use mirror::Mirror;
pub use socket::{NetlinkError, Rtnetlink};
