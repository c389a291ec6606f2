//! A worker's memory as the kernel knows it, kept by a socket of its own.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{
    BindError, Mode,
    socket::{self, QueueName, RingSlots},
};
use crate::io::Memory;

/// A worker's [`Memory`], registered for copy-mode ports.
///
/// Ports share it through the *anchor*: a socket on a queue that outlives every port. Sharing through a port's own socket
/// would end when that port's interface goes. Drop it only after its ports, and the memory last.
#[derive(Debug)]
pub struct Umem {
    anchor: OwnedFd,
    chunks: usize,
    chunk_len: usize,
    tx_metadata: bool,
}

impl Umem {
    /// Registers `memory`, anchored to `queue` of `interface`: `lo` (which has one queue) for one worker, else the host port or
    /// another veth with a queue for each worker. No packet is received or sent through the anchor.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn register(memory: &Memory, interface: &str, queue: u16) -> Result<Self, BindError> {
        assert!(
            matches!(memory.chunk_len(), 2048 | 4096),
            "AF_XDP takes chunks of 2048 or 4096 bytes"
        );
        let name = QueueName::new(interface, queue)?;
        let anchor = socket::open()?;
        let tx_metadata = socket::register(anchor.as_fd(), memory, &name)?;
        let slots = RingSlots {
            fill: 2,
            completion: 2,
            rx: 2,
            tx: 2,
        };
        // The kernel wants the rings; nobody looks at them.
        drop(socket::make_rings(anchor.as_fd(), slots, &name)?);
        socket::bind(anchor.as_fd(), &name, Mode::Copy, None)?;
        Ok(Self {
            anchor,
            chunks: memory.chunks(),
            chunk_len: memory.chunk_len(),
            tx_metadata,
        })
    }

    /// The kernel completes checksums for frames with metadata.
    pub fn tx_metadata(&self) -> bool {
        self.tx_metadata
    }

    pub(super) fn anchor(&self) -> BorrowedFd<'_> {
        self.anchor.as_fd()
    }

    pub(super) fn chunks(&self) -> usize {
        self.chunks
    }

    pub(super) fn chunk_len(&self) -> usize {
        self.chunk_len
    }
}
