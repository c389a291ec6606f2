//! The socket itself: its options, its rings, its bind.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_int},
    io, mem,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    BindError,
    ring::{Consumer, Descriptor, Producer},
};
use crate::io::{Memory, frame::METADATA_LEN};

/// How packets get from the driver into our memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The kernel copies each packet: works on every interface.
    Copy,
    /// The driver writes into our memory.
    ZeroCopy,
}

/// What the kernel lost on a socket, since it was bound: `XDP_STATISTICS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Dropped for other reasons, such as a packet too long for one chunk without multi-buffer.
    pub rx_dropped: u64,
    /// Dropped because we did not take packets fast enough.
    pub rx_ring_full: u64,
    /// Times that the kernel found no chunk to receive into.
    pub fill_ring_empty: u64,
    /// Chunks in the fill ring that the kernel refused: our fault.
    pub rx_invalid: u64,
    /// Packets in the TX ring that the kernel refused: our fault.
    pub tx_invalid: u64,
}

impl Statistics {
    /// Packets that did not reach us.
    pub fn lost(&self) -> u64 {
        self.rx_dropped + self.rx_ring_full
    }
}

/// Slots of a socket's rings, powers of two.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingSlots {
    pub(super) fill: u32,
    pub(super) completion: u32,
    pub(super) rx: u32,
    pub(super) tx: u32,
}

pub(super) struct Rings {
    pub(super) fill: Producer<u64>,
    pub(super) completion: Consumer<u64>,
    pub(super) rx: Consumer<Descriptor>,
    pub(super) tx: Producer<Descriptor>,
}

/// `XDP_MAX_TX_SKB_BUDGET`: packets that one `sendto` sends in copy mode. Since Linux 6.18.
const XDP_MAX_TX_SKB_BUDGET: c_int = 9;
/// The socket of an earlier owner of the queue is torn down in the background, within some 20 ms.
const BUSY_WAIT_MAX: Duration = Duration::from_secs(1);
const BUSY_RETRY: Duration = Duration::from_millis(2);

/// An interface's queue, by its name for messages.
#[derive(Clone, Debug)]
pub(super) struct QueueName {
    pub(super) interface: String,
    pub(super) index: u32,
    pub(super) queue: u16,
}

impl QueueName {
    pub(super) fn new(interface: &str, queue: u16) -> Result<Self, BindError> {
        let index = interface_index(interface).ok_or_else(|| BindError::NoSuchInterface {
            interface: interface.to_owned(),
        })?;
        Ok(Self {
            interface: interface.to_owned(),
            index,
            queue,
        })
    }

    pub(super) fn error(&self, action: &'static str, source: io::Error) -> BindError {
        let (interface, queue) = (self.interface.clone(), self.queue);
        BindError::System {
            interface,
            queue,
            action,
            source,
        }
    }
}

/// Index of the interface with this name in the thread's network namespace.
pub(in crate::io) fn interface_index(interface: &str) -> Option<u32> {
    let name = CString::new(interface).ok()?;
    // SAFETY: `name` is a nul-terminated string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

pub(super) fn open() -> Result<OwnedFd, BindError> {
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd >= 0 {
        // SAFETY: `fd` was just made and nobody else knows it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let error = io::Error::last_os_error();
    Err(match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => BindError::NotPermitted {
            action: "open an AF_XDP socket",
            capability: "CAP_NET_RAW",
        },
        Some(libc::EAFNOSUPPORT) => BindError::NoAfXdp,
        _ => BindError::System {
            interface: String::new(),
            queue: 0,
            action: "opening an AF_XDP socket",
            source: error,
        },
    })
}

/// Registers `memory` as the socket's UMEM. Returns whether TX metadata may be used.
pub(super) fn register(socket: BorrowedFd<'_>, memory: &Memory, name: &QueueName) -> Result<bool, BindError> {
    let mut registration = libc::xdp_umem_reg {
        addr: memory.region().start().as_ptr() as u64,
        len: (memory.chunks() * memory.chunk_len()) as u64,
        chunk_size: memory.chunk_len() as u32,
        headroom: 0,
        flags: libc::XDP_UMEM_TX_METADATA_LEN,
        tx_metadata_len: METADATA_LEN as u32,
    };
    let mut result = set_option(socket, libc::XDP_UMEM_REG, &registration);
    if result
        .as_ref()
        .is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
    {
        // Kernels before 6.8 don't know metadata: checksums are completed in software then.
        (registration.flags, registration.tx_metadata_len) = (0, 0);
        result = set_option(socket, libc::XDP_UMEM_REG, &registration);
    }
    match result {
        Ok(()) => Ok(registration.flags != 0),
        Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Err(BindError::MemoryLock {
            bytes: registration.len,
        }),
        Err(error) => Err(name.error("registering frame memory", error)),
    }
}

/// Makes and maps the rings, which must be before the bind.
pub(super) fn make_rings(
    socket: BorrowedFd<'_>,
    slots: RingSlots,
    name: &QueueName,
) -> Result<Rings, BindError> {
    for (option, count) in [
        (libc::XDP_UMEM_FILL_RING, slots.fill),
        (libc::XDP_UMEM_COMPLETION_RING, slots.completion),
        (libc::XDP_RX_RING, slots.rx),
        (libc::XDP_TX_RING, slots.tx),
    ] {
        set_option(socket, option, &count).map_err(|error| name.error("making a ring", error))?;
    }
    // Older kernels don't know it and send 32 packets at a time: sending loops anyway.
    let _ = set_option(socket, XDP_MAX_TX_SKB_BUDGET, &slots.tx);
    map_rings(socket, slots).map_err(|error| name.error("mapping a ring", error))
}

fn map_rings(socket: BorrowedFd<'_>, slots: RingSlots) -> io::Result<Rings> {
    // SAFETY: integers only, for which all zeroes is a value.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { mem::zeroed() };
    read_option(socket, libc::XDP_MMAP_OFFSETS, &mut offsets)?;
    let fill_page = libc::XDP_UMEM_PGOFF_FILL_RING.cast_signed();
    let completion_page = libc::XDP_UMEM_PGOFF_COMPLETION_RING.cast_signed();
    Ok(Rings {
        fill: Producer::map(socket, fill_page, &offsets.fr, slots.fill)?,
        completion: Consumer::map(socket, completion_page, &offsets.cr, slots.completion)?,
        rx: Consumer::map(socket, libc::XDP_PGOFF_RX_RING, &offsets.rx, slots.rx)?,
        tx: Producer::map(socket, libc::XDP_PGOFF_TX_RING, &offsets.tx, slots.tx)?,
    })
}

/// Binds the socket; with `shared` to the UMEM of that bound socket, whose mode it takes.
pub(super) fn bind(
    socket: BorrowedFd<'_>,
    name: &QueueName,
    mode: Mode,
    shared: Option<BorrowedFd<'_>>,
) -> Result<(), BindError> {
    let own_flags = libc::XDP_USE_NEED_WAKEUP
        | libc::XDP_USE_SG
        | if mode == Mode::Copy {
            libc::XDP_COPY
        } else {
            libc::XDP_ZEROCOPY
        };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        // A shared bind carries this flag alone; the others come from the first socket.
        sxdp_flags: if shared.is_some() {
            libc::XDP_SHARED_UMEM
        } else {
            own_flags
        },
        sxdp_ifindex: name.index,
        sxdp_queue_id: u32::from(name.queue),
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
    };
    let start = Instant::now();
    loop {
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is a sockaddr_xdp of `len` bytes that lives through the call.
        if unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() == Some(libc::EBUSY) && start.elapsed() < BUSY_WAIT_MAX {
            std::thread::sleep(BUSY_RETRY);
            continue;
        }
        return Err(bind_error(name, mode, shared.is_some(), start, error));
    }
}

fn bind_error(name: &QueueName, mode: Mode, shared: bool, start: Instant, error: io::Error) -> BindError {
    let (interface, queue) = (name.interface.clone(), name.queue);
    match error.raw_os_error() {
        Some(libc::EBUSY) => BindError::Busy {
            interface,
            queue,
            waited_ms: start.elapsed().as_millis() as u64,
        },
        Some(libc::ENODEV) => BindError::NoSuchInterface { interface },
        Some(libc::ENETDOWN) => BindError::Down { interface },
        Some(libc::EPERM | libc::EACCES) => BindError::NotPermitted {
            action: "bind an AF_XDP socket",
            capability: "CAP_NET_RAW",
        },
        Some(libc::EINVAL) => match queue_count(&interface) {
            Some(available) if queue >= available => BindError::NoSuchQueue {
                interface,
                queue,
                available,
            },
            _ => name.error("bind", error),
        },
        _ if mode == Mode::ZeroCopy && !shared => BindError::ZeroCopyRefused {
            interface,
            queue,
            source: error,
        },
        _ => name.error("bind", error),
    }
}

/// What the kernel lost on a socket; a copy of its descriptor tells it too.
pub fn statistics(socket: BorrowedFd<'_>) -> io::Result<Statistics> {
    // SAFETY: integers only, for which all zeroes is a value.
    let mut raw: libc::xdp_statistics = unsafe { mem::zeroed() };
    read_option(socket, libc::XDP_STATISTICS, &mut raw)?;
    Ok(Statistics {
        rx_dropped: raw.rx_dropped,
        rx_ring_full: raw.rx_ring_full,
        fill_ring_empty: raw.rx_fill_ring_empty_descs,
        rx_invalid: raw.rx_invalid_descs,
        tx_invalid: raw.tx_invalid_descs,
    })
}

/// The mode that the bind came to.
pub(super) fn mode(socket: BorrowedFd<'_>) -> io::Result<Mode> {
    let mut options = libc::xdp_options { flags: 0 };
    read_option(socket, libc::XDP_OPTIONS, &mut options)?;
    Ok(if options.flags & libc::XDP_OPTIONS_ZEROCOPY == 0 {
        Mode::Copy
    } else {
        Mode::ZeroCopy
    })
}

/// Asks the kernel to send what is in the TX ring.
pub(super) fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no buffer and no address are passed.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            std::ptr::null(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null(),
            0,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Tells a driver that sleeps that its fill ring has chunks again.
pub(super) fn wake_rx(socket: BorrowedFd<'_>) {
    // SAFETY: no buffer and no address are passed. An error shows itself on sending.
    unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
}

/// The interface's MTU.
pub(super) fn mtu(name: &QueueName) -> Result<u32, BindError> {
    interface_mtu(&name.interface).map_err(|error| name.error("reading the MTU", error))
}

/// The MTU of the interface with this name.
pub(in crate::io) fn interface_mtu(interface: &str) -> io::Result<u32> {
    let mut request = interface_request(interface);
    // Any socket answers interface requests but AF_XDP ones: a throw-away datagram socket asks.
    let asker = datagram_socket()?;
    // SAFETY: `request` is an ifreq that lives through the call.
    if unsafe { libc::ioctl(asker.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFMTU fills this member.
    Ok(unsafe { request.ifr_ifru.ifru_mtu }.cast_unsigned())
}

/// Queues for reception, as ethtool's channels tell; `None` when the driver does not say.
fn queue_count(interface: &str) -> Option<u16> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    const ETHTOOL_GCHANNELS: u32 = 0x3c;
    // cmd, then the largest numbers of rx, tx, other and combined channels, then the present ones.
    let mut channels = [0_u32; 9];
    channels[0] = ETHTOOL_GCHANNELS;
    let mut request = interface_request(interface);
    request.ifr_ifru.ifru_data = channels.as_mut_ptr().cast();
    let asker = datagram_socket().ok()?;
    // SAFETY: `request` points to `channels`, which is as long as `struct ethtool_channels`; both live through the call.
    if unsafe { libc::ioctl(asker.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) } != 0 {
        return None;
    }
    let [.., rx, tx, _other, combined] = channels;
    u16::try_from(rx.max(tx) + combined).ok()
}

fn datagram_socket() -> io::Result<OwnedFd> {
    // SAFETY: plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn interface_request(interface: &str) -> libc::ifreq {
    // SAFETY: integers and pointers only, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // One byte stays zero behind the name.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request
}

fn set_option<T>(socket: BorrowedFd<'_>, option: c_int, value: &T) -> io::Result<()> {
    let (value, len) = (
        std::ptr::from_ref(value).cast(),
        size_of::<T>() as libc::socklen_t,
    );
    // SAFETY: `value` is `len` readable bytes.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, value, len) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Fills `value`, plain integers, with what the kernel answers; an older kernel's shorter answer leaves the rest.
fn read_option<T>(socket: BorrowedFd<'_>, option: c_int, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    let value = std::ptr::from_mut(value).cast();
    // SAFETY: `value` is `len` writable bytes, and both callers' types take any bits.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_XDP,
            option,
            value,
            &raw mut len,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
