//! Packet header views, checksums and address newtypes of Ringway.
//!
//! A view is a `#[repr(C)]` struct of byte-aligned fields laid over the packet (zerocopy), so reading costs a
//! load and writing a store. Parsing is the only check and never panics, whatever the bytes; what comes after
//! a parse is in bounds by construction. [`packet`] is the one-pass parser that workers run for each frame,
//! the other modules are one format each. Nothing here allocates or keeps state.

// Lints of libraries alone: helpers of integration tests may unwrap and be public.
#![warn(clippy::unwrap_used, unreachable_pub)]
#![cfg_attr(not(test), no_std)]

pub mod addr;
pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipip;
pub mod ipv4;
pub mod ipv6;
pub mod nd;
pub mod packet;
pub mod proto;
pub mod reply;
pub mod sctp;
pub mod tcp;
pub mod udp;
pub mod vxlan;

pub use addr::{Mac, Port, Vni};
pub use packet::Packet;
pub use proto::IpProtocol;
/// Integers in network byte order without alignment, as every view's fields are.
pub use zerocopy::network_endian::{U16, U32};
