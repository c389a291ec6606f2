//! All queues of one interface that one worker serves, as one port.
//!
//! Worker w of W serves the queues i with i mod W = w, so that no queue is left unbound whatever the number of workers.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{AfxdpPort, Mode, Statistics};
use crate::io::{Capabilities, Frame, Memory, PacketIo};

/// One worker's queues of an interface.
pub struct QueueGroup {
    queues: Vec<AfxdpPort>,
    /// Readable while any queue but the first is; none where there is but one.
    ///
    /// The first is waited for by itself, since frames are sent by it: the kernel walks to every epoll that a socket is in
    /// for each frame that leaves, which cost 6 % of a worker's time on veth.
    others: Option<OwnedFd>,
    /// The queue whose turn it is to be received from first.
    turn: usize,
}

impl QueueGroup {
    /// Of at least one queue. They are of one interface, so what one can do all can.
    ///
    /// # Errors
    /// The kernel's, when the process has no descriptors left.
    ///
    /// # Panics
    /// Without a queue.
    pub fn new(queues: Vec<AfxdpPort>) -> io::Result<Self> {
        assert!(!queues.is_empty(), "a port has at least one queue");
        let others = match &queues[1..] {
            [] => None,
            others => Some(epoll_of(others)?),
        };
        Ok(Self {
            queues,
            others,
            turn: 0,
        })
    }

    /// The queues.
    pub fn queues(&self) -> &[AfxdpPort] {
        &self.queues
    }

    /// What the kernel lost on all of them.
    pub fn statistics(&self) -> Vec<Statistics> {
        self.queues.iter().map(AfxdpPort::statistics).collect()
    }

    /// The mode of each.
    pub fn modes(&self) -> Vec<Mode> {
        self.queues.iter().map(AfxdpPort::mode).collect()
    }
}

impl PacketIo for QueueGroup {
    fn rx(&mut self, memory: &mut Memory, into: &mut Vec<Frame>, room: usize) -> usize {
        let mut received = 0;
        for step in 0..self.queues.len() {
            let at = (self.turn + step) % self.queues.len();
            received += self.queues[at].rx(memory, into, room - received);
            if received == room {
                break;
            }
        }
        self.turn = (self.turn + 1) % self.queues.len();
        received
    }

    /// By the worker's first queue: one flow's packets keep their order.
    fn tx(&mut self, memory: &mut Memory, frames: &mut Vec<Frame>) -> usize {
        self.queues[0].tx(memory, frames)
    }

    fn capabilities(&self) -> Capabilities {
        self.queues[0].capabilities()
    }

    fn has_input(&mut self) -> bool {
        self.queues.iter_mut().any(PacketIo::has_input)
    }

    fn close(&mut self, memory: &mut Memory) -> usize {
        self.queues.iter_mut().map(|queue| queue.close(memory)).sum()
    }

    fn wait_fds(&self) -> impl Iterator<Item = RawFd> {
        let others = self.others.as_ref().map(AsRawFd::as_raw_fd);
        self.queues[0].wait_fds().chain(others)
    }
}

/// A descriptor that is readable while one of `queues` is.
fn epoll_of(queues: &[AfxdpPort]) -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else knows it.
    let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
    for queue in queues {
        let mut event = libc::epoll_event {
            events: libc::EPOLLIN as u32,
            u64: 0,
        };
        let socket = queue.socket().as_raw_fd();
        // SAFETY: both descriptors are open, `event` lives through the call; the kernel copies it. A socket leaves the
        // set by itself when it is closed.
        let added =
            unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket, &raw mut event) };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(epoll)
}
