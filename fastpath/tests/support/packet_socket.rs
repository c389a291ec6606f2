//! The wire's end of an interface: an `AF_PACKET` socket.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

/// Sends and receives whole Ethernet frames on an interface.
#[derive(Clone)]
pub struct PacketSocket {
    fd: Arc<OwnedFd>,
}

impl PacketSocket {
    pub fn bind(interface: &str) -> Self {
        let name = CString::new(interface).expect("no nul");
        // SAFETY: `name` is nul-terminated and lives through the call.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert_ne!(index, 0, "no interface {interface}");
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain system call without pointers.
        let fd = unsafe {
            libc::socket(
                libc::AF_PACKET,
                libc::SOCK_RAW | libc::SOCK_CLOEXEC,
                protocol.into(),
            )
        };
        assert!(fd >= 0, "{}", io::Error::last_os_error());
        // SAFETY: `fd` was just made and nobody else knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: integers only, for which all zeroes is a value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = index.cast_signed();
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is `len` bytes that live through the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) };
        assert_eq!(bound, 0, "{}", io::Error::last_os_error());
        let size = 32_i32 << 20;
        // SAFETY: `size` is four readable bytes.
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                (&raw const size).cast(),
                4,
            )
        };
        Self { fd: Arc::new(fd) }
    }

    pub fn send(&self, frame: &[u8]) {
        assert!(self.try_send(frame), "{}", io::Error::last_os_error());
    }

    /// `false` when the interface is down or gone.
    pub fn try_send(&self, frame: &[u8]) -> bool {
        // SAFETY: `frame` is readable for its length.
        let sent = unsafe { libc::send(self.fd.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        sent == frame.len().cast_signed()
    }

    /// The next frame that came in, `None` after `timeout`.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 70_000];
        loop {
            let mut polled = libc::pollfd {
                fd: self.fd.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            // SAFETY: one entry that lives through the call.
            if unsafe { libc::poll(&raw mut polled, 1, timeout.as_millis() as i32) } == 0 {
                return None;
            }
            // SAFETY: integers only, for which all zeroes is a value.
            let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
            let mut from_len = size_of_val(&from) as libc::socklen_t;
            // SAFETY: `buffer` and `from` are writable for the lengths passed.
            let len = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut from_len,
                )
            };
            // What is sent is seen here too; an interface that went down says so once.
            if len < 0 || from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            buffer.truncate(len.cast_unsigned());
            return Some(buffer);
        }
    }
}
