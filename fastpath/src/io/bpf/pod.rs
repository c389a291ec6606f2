//! The program on a pod's link: every packet goes to the socket of its queue.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use super::{
    attach::{self, AttachError},
    sys::{self, Instruction, Map},
};

/// Redirects every packet of an interface to the socket of its queue, and drops it where there is none: passing it to the kernel
/// would carry it past policy. Detached when dropped.
#[derive(Debug)]
pub struct PodProgram {
    sockets: Map,
    queues: u16,
    _link: OwnedFd,
}

impl PodProgram {
    /// Loads the program and attaches it to `interface`, which has `queues` queues.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach(interface: &str, queues: u16) -> Result<Self, AttachError> {
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
        let link = attach::attach(program.as_fd(), interface)?;
        Ok(Self {
            sockets: Map::new(map, 4, 4),
            queues,
            _link: link,
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
