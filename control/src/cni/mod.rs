//! Pods' network interfaces for container runtimes, by the Container Network Interface specification 1.1.0.
//!
//! ```text
//! runtime ──env, stdin──► ringway-cni ──socket──► server ─► operation ─┬─► desk    addresses, journal, overlay (daemon's loop)
//!                         (plugin)     (protocol)   one task each      ├─► wiring  veth, addresses, routes (kernel)
//!                                                                      └─◄ dataplane  what fastpath has in force
//! ```
//!
//! `ringway-cni` uses [`plugin`] and what it needs alone: no tokio, no netlink. Everything else runs in `ringway-control`.
//!
//! What holds at every moment, so that a crash between any two steps is healed by the next ADD, DEL or GC:
//! - An attachment is on disk ([`journal`]) before anything of it is made, and until everything of it is gone.
//! - An address is taken exactly while an attachment on disk has it.
//! - Each step of making and undoing may be done again.

pub mod address;
pub mod attachment;
pub mod check;
pub mod configuration;
pub mod dataplane;
pub mod desk;
pub mod environment;
pub mod failure;
pub mod install;
pub mod journal;
pub mod namespace;
mod operation;
pub mod overlay;
pub mod plugin;
pub mod protocol;
mod reserve;
pub mod result;
pub mod server;
pub mod steps;
mod wiring;

use std::path::PathBuf;

pub use desk::Desk;
pub use steps::{Step, Steps};

/// What the CNI server is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The socket that `ringway-cni` asks on; attachments are kept in its directory.
    pub socket: PathBuf,
    /// Fastpath's status socket, for CHECK.
    pub fastpath_status_socket: PathBuf,
    /// Receive and transmit queues of a pod's link: as many as fastpath may have workers.
    pub queues: u32,
    /// Where the plugin and its configuration are put once calls are served, if anywhere.
    pub installation: Option<install::Installation>,
}
