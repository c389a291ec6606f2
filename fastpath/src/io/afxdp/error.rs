//! Why a socket could not be had, in words for the person on call.

use std::io;

/// Why an `AF_XDP` socket could not be bound to a queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The interface does not exist in this network namespace.
    #[error("there is no interface {interface} in this network namespace")]
    NoSuchInterface {
        /// Its name.
        interface: String,
    },
    /// The interface has fewer queues.
    #[error("{interface} has {available} queues, so queue {queue} cannot be bound")]
    NoSuchQueue {
        /// The interface.
        interface: String,
        /// The queue asked for.
        queue: u16,
        /// Its queues.
        available: u16,
    },
    /// The interface is down.
    #[error("{interface} is down; set it up before binding")]
    Down {
        /// The interface.
        interface: String,
    },
    /// Another socket holds the queue.
    #[error("{interface} queue {queue} is in use by another AF_XDP socket (waited {waited_ms} ms)")]
    Busy {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u16,
        /// How long it stayed in use.
        waited_ms: u64,
    },
    /// The driver has no zero-copy mode, or not now.
    #[error("{interface} queue {queue} refused zero-copy mode: {source}")]
    ZeroCopyRefused {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u16,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A right is missing.
    #[error("not permitted to {action}: the process needs {capability}")]
    NotPermitted {
        /// What was tried.
        action: &'static str,
        /// The capability that allows it.
        capability: &'static str,
    },
    /// The memory may not be locked.
    #[error(
        "{bytes} bytes of frame memory may not be locked: give the process CAP_IPC_LOCK, or raise its memlock limit (ulimit -l)"
    )]
    MemoryLock {
        /// Bytes to be registered.
        bytes: u64,
    },
    /// The kernel was built without `AF_XDP`.
    #[error("this kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS)")]
    NoAfXdp,
    /// Anything else.
    #[error("{interface} queue {queue}: {action} failed: {source}")]
    System {
        /// The interface.
        interface: String,
        /// The queue.
        queue: u16,
        /// The step that failed.
        action: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
