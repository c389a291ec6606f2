//! The program on a pod's link: every packet goes to the socket of its queue.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use super::{
    attach::{self, AttachError},
    pins::Pins,
    sys::{self, Instruction, Map},
};

/// Redirects every packet of an interface to the socket of its queue, and drops it where there is none: passing it to the kernel
/// would carry it past policy. Detached when dropped, unless it is pinned.
#[derive(Debug)]
pub struct PodProgram {
    sockets: Map,
    queues: u16,
    _link: OwnedFd,
    pins: Option<Pins>,
}

impl PodProgram {
    /// Loads the program and attaches it to `interface`, which has `queues` queues. When the process ends the pod's packets
    /// go to the kernel.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(interface: &str, queues: u16) -> Result<Self, AttachError> {
        Self::load(interface, queues, None)
    }

    /// As [`attach`](Self::attach), pinned below `bpffs`: when the process ends the pod's packets are dropped, and the next
    /// process adopts the place without a gap.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach_pinned(interface: &str, queues: u16, bpffs: &Path) -> Result<Self, AttachError> {
        let pins = Pins::of_pod(interface, bpffs)?;
        Self::load(interface, queues, Some(pins))
    }

    /// Takes a pinned program off `interface`, or forgets that of an interface that is gone. Returns whether there was one.
    ///
    /// # Errors
    /// [`AttachError`] when it cannot be removed.
    pub fn detach(interface: &str, bpffs: &Path) -> Result<bool, AttachError> {
        match Pins::existing_of_pod(interface, bpffs) {
            Some(pins) => pins.remove().map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes the program off, and its pin away: the pod is gone.
    ///
    /// # Errors
    /// [`AttachError`] when the pin cannot be removed.
    pub fn remove(self) -> Result<(), AttachError> {
        self.pins.as_ref().map_or(Ok(()), Pins::remove)
    }

    fn load(interface: &str, queues: u16, pins: Option<Pins>) -> Result<Self, AttachError> {
        let failed = |action| move |error| AttachError::system(interface, action, error);
        let map = sys::create_map(
            sys::MAP_TYPE_XSKMAP,
            4,
            4,
            u32::from(queues).max(1),
            "ringway_pod",
        )
        .map_err(failed("make an XSKMAP"))?;
        let program = sys::load_xdp(&program(map.as_fd()), c"Apache-2.0", "ringway_pod")
            .map_err(failed("load the XDP program"))?;
        let index = attach::index(interface)?;
        let adopted = pins.as_ref().map_or(Ok(None), |pins| pins.link_on(index))?;
        let link = match (adopted, &pins) {
            (Some(link), _) => {
                sys::update_link(link.as_fd(), program.as_fd()).map_err(failed("replace the XDP program"))?;
                link
            }
            (None, Some(pins)) => {
                let link = attach::attach(program.as_fd(), interface)?;
                pins.pin_link(link.as_fd())?;
                link
            }
            (None, None) => attach::attach(program.as_fd(), interface)?,
        };
        Ok(Self {
            sockets: Map::new(map, 4, 4),
            queues,
            _link: link,
            pins,
        })
    }

    /// Gives the packets of `queue` to `socket` from now on.
    ///
    /// # Errors
    /// The kernel's: the socket is bound elsewhere, or gone.
    pub fn set_socket(&self, queue: u16, socket: BorrowedFd<'_>) -> io::Result<()> {
        assert!(queue < self.queues, "queue {queue} of {}", self.queues);
        self.sockets
            .update(&u32::from(queue).to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// Drops the packets of `queue` from now on.
    ///
    /// # Errors
    /// The kernel's.
    pub fn clear_socket(&self, queue: u16) -> io::Result<()> {
        self.sockets.delete(&u32::from(queue).to_ne_bytes()).map(drop)
    }
}

/// `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP);`
fn program(sockets: BorrowedFd<'_>) -> [Instruction; 6] {
    const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const LOAD_IMMEDIATE_64: u8 = 0x18; // BPF_LD | BPF_IMM | BPF_DW, two slots
    const MOVE_IMMEDIATE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const CALL: u8 = 0x85; // BPF_JMP | BPF_CALL
    const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
    const PSEUDO_MAP_FD: u8 = 1;
    const RX_QUEUE_INDEX: i16 = 16; // offset in struct xdp_md
    const XDP_DROP: i32 = 1;
    const REDIRECT_MAP: i32 = 51;
    let instruction = |code, to: u8, from: u8, offset, immediate| Instruction {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    };
    [
        instruction(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        instruction(LOAD_IMMEDIATE_64, 1, PSEUDO_MAP_FD, 0, sockets.as_raw_fd()),
        instruction(0, 0, 0, 0, 0),
        instruction(MOVE_IMMEDIATE, 3, 0, 0, XDP_DROP),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}
