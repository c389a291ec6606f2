//! `AF_XDP` sockets: one per queue of an interface, all of a worker's over one memory.
//!
//! [`Umem`] registers a worker's [`Memory`](super::Memory) with the kernel, [`AfxdpPort`] is a queue as a port. Sources: the
//! kernel's `Documentation/networking/af_xdp.rst`, `xsk-tx-metadata.rst` and `net/xdp/xsk.c`; `docs/afxdp.md` has what we measured.

mod error;
mod group;
mod lent;
mod port;
mod ring;
mod socket;
mod umem;

pub use error::BindError;
pub use group::QueueGroup;
pub use port::{AfxdpOptions, AfxdpPort, Liveness};
pub(super) use socket::interface_index;
#[cfg(feature = "xsk-rs")]
pub(super) use socket::interface_mtu;
pub use socket::{Mode, Statistics, statistics};
pub use umem::Umem;
