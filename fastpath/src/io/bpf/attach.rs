//! Why a program could not be loaded or attached, in words for the person on call.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use super::sys;
use crate::io::afxdp::interface_index;

/// Why an XDP program is not on an interface.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// The interface does not exist in this network namespace.
    #[error("there is no interface {interface} in this network namespace")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// A right is missing.
    #[error("not permitted to {action}: the process needs CAP_BPF and CAP_NET_ADMIN")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
    },
    /// Somebody else's program is there.
    #[error(
        "{interface} has an XDP program already; see `bpftool net`, and `ip link set dev {interface} xdp off` to remove one that was left behind"
    )]
    AlreadyAttached {
        /// The interface.
        interface: String,
    },
    /// The driver cannot run programs; the generic path is not used, for it would see segmented super-packets.
    #[error("the driver of {interface} cannot run XDP programs")]
    NotSupported {
        /// The interface.
        interface: String,
    },
    /// The interface's MTU is too large for the driver.
    #[error("the driver of {interface} runs no XDP program at its MTU; make the MTU smaller")]
    MtuTooLarge {
        /// The interface.
        interface: String,
    },
    /// The interface has too few queues for XDP.
    #[error(
        "{interface} has too few queues for XDP: its own rx queues must not be fewer than its peer's tx queues"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
    },
    /// Anything else.
    #[error("{interface}: {action} failed: {source}")]
    System {
        /// The interface, or where objects are pinned.
        interface: String,
        /// The step that failed.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The committed program could not be loaded.
    #[error("the steering program cannot be loaded: {detail}")]
    Object {
        /// What the loader or the kernel's verifier said.
        detail: String,
    },
    /// What is pinned was made by another version.
    #[error(
        "{path} was made by another version of the program; remove it (`rm -r` of its folder), and start again"
    )]
    OtherVersion {
        /// The pinned object.
        path: String,
    },
}

impl AttachError {
    pub(super) fn system(interface: &str, action: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { action },
            _ => Self::System {
                interface: interface.to_owned(),
                action,
                source,
            },
        }
    }
}

/// Index of an interface.
pub(super) fn index(interface: &str) -> Result<u32, AttachError> {
    interface_index(interface).ok_or_else(|| AttachError::NoSuchInterface {
        interface: interface.to_owned(),
    })
}

/// Attaches `program` to the driver of `interface`.
pub(super) fn attach(program: BorrowedFd<'_>, interface: &str) -> Result<OwnedFd, AttachError> {
    let name = interface.to_owned();
    sys::create_xdp_link(program, index(interface)?).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => AttachError::AlreadyAttached { interface: name },
        Some(libc::EOPNOTSUPP) => AttachError::NotSupported { interface: name },
        Some(libc::ERANGE) => AttachError::MtuTooLarge { interface: name },
        Some(libc::ENOSPC) => AttachError::TooFewQueues { interface: name },
        _ => AttachError::system(interface, "attaching the XDP program", error),
    })
}
