//! The program on an uplink (`fastpath/bpf/steer.bpf.c`): what is ours goes to our sockets, the rest to the kernel.
//!
//! Program, link and maps are pinned below `BPFFS/INTERFACE`, so they outlive the process; the next one adopts them. Only
//! [`Steer::detach`] takes the program off the interface.

use std::{
    io,
    net::IpAddr,
    ops::{BitOr, RangeInclusive},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    attach::{self, AttachError},
    heartbeat::Heartbeats,
    pins::Pins,
    sys::{self, Map},
};

/// Workers that the program knows at most.
pub const WORKERS_MAX: usize = 64;
/// Queues that the program knows at most.
pub const QUEUES_MAX: usize = 256;

/// Compiled by clang; a test with clang compares it with its source.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../bpf/steer.bpf.o");

/// The program on an uplink, attached.
#[derive(Debug)]
pub struct Steer {
    interface: String,
    _link: OwnedFd,
    config: Map,
    addresses4: Map,
    addresses6: Map,
    nodes4: Map,
    nodes6: Map,
    node_ports: Map,
    sockets: Map,
    counters: Map,
    heartbeats: Heartbeats,
}

/// What the program has to know beside addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SteerConfig {
    /// UDP port of our tunnels.
    pub vxlan_port: u16,
    /// Network identifier of our tunnels, 24 bits.
    pub vni: u32,
    /// Ports and ICMP ids that translated flows use on the node's addresses.
    pub snat: RangeInclusive<u16>,
    /// Workers; queue `q` belongs to worker `q` modulo this. None at all: what is ours is dropped.
    pub workers: u16,
    /// A worker that did not beat for so long is dead.
    pub fuse: Duration,
}

impl Default for SteerConfig {
    fn default() -> Self {
        Self {
            vxlan_port: 4789,
            vni: 4096,
            snat: 45_000..=65_535,
            workers: 1,
            fuse: Duration::from_secs(1),
        }
    }
}

/// What one of our addresses is: one or more kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKinds(u32);

impl AddressKinds {
    /// Pods, or a block of their addresses: every packet is ours.
    pub const POD: Self = Self(1);
    /// A service's virtual address, or a range of them: every packet is ours.
    pub const SERVICE: Self = Self(2);
    /// Our end of tunnels.
    pub const VTEP: Self = Self(4);
    /// An address of the node: SNAT ports, `NodePort`s, echo replies and errors are ours, the rest is the kernel's.
    pub const NODE: Self = Self(8);
}

impl BitOr for AddressKinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Packets that the program saw, by what became of them, over all lives of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounters {
    /// The kernel's.
    pub passed: u64,
    /// Given to a socket of ours.
    pub redirected: u64,
    /// Ours, but the queue's worker did not beat.
    pub dropped_no_worker: u64,
    /// Ours, but the queue has no socket.
    pub dropped_no_socket: u64,
}

impl Steer {
    /// Puts the program on `interface`, or adopts the one that an earlier process left there, and pins it below `bpffs`, which is
    /// made and mounted if need be. An adopted program keeps running on its old maps until the new one is in, without a gap.
    ///
    /// # Errors
    /// [`AttachError`]; nothing is left behind that was not there.
    pub fn attach(interface: &str, bpffs: &Path) -> Result<Self, AttachError> {
        let index = attach::index(interface)?;
        let pins = Pins::new(interface, bpffs)?;
        let adopted = pins.link_on(index)?;
        let result = Self::load(interface, &pins, adopted);
        if result.is_err() && pins.link_on(index)?.is_none() {
            pins.remove()?;
        }
        result
    }

    /// Takes the program off `interface` and removes all pins, whether or not a process runs. Returns whether there were any.
    ///
    /// # Errors
    /// [`AttachError`] when they cannot be removed.
    pub fn detach(interface: &str, bpffs: &Path) -> Result<bool, AttachError> {
        match Pins::existing(interface, bpffs) {
            Some(pins) => pins.remove().map(|()| true),
            None => Ok(false),
        }
    }

    fn load(interface: &str, pins: &Pins, adopted: Option<OwnedFd>) -> Result<Self, AttachError> {
        let failed = |action| move |error| AttachError::system(interface, action, error);
        pins.make_maps_folder()?;
        let mut object = aya::EbpfLoader::new()
            .default_map_pin_directory(pins.maps())
            .load(OBJECT)
            .map_err(|error| object_error(&error))?;
        let program: &mut aya::programs::Xdp = object
            .program_mut("steer")
            .expect("the object's one program")
            .try_into()
            .map_err(|error: aya::programs::ProgramError| object_error(&error))?;
        load(program).map_err(|error| object_error(&error))?;
        let program = program.fd().map_err(|error| object_error(&error))?.as_fd();
        let link = if let Some(link) = adopted {
            sys::update_link(link.as_fd(), program).map_err(failed("replace the XDP program"))?;
            link
        } else {
            let link = attach::attach(program, interface)?;
            pins.pin_link(link.as_fd())?;
            link
        };
        pins.remove_other_versions();
        let heartbeats = pins.map("heartbeats", 4, 64)?;
        Ok(Self {
            interface: interface.to_owned(),
            _link: link,
            config: pins.map("config", 4, size_of::<Config>())?,
            addresses4: pins.map("addresses4", 8, 4)?,
            addresses6: pins.map("addresses6", 20, 4)?,
            nodes4: pins.map("nodes4", 4, 4)?,
            nodes6: pins.map("nodes6", 16, 4)?,
            node_ports: pins.map("node_ports", 4, 4)?,
            sockets: pins.map("sockets", 4, 4)?,
            counters: pins.map("counters", 4, 8)?,
            heartbeats: Heartbeats::map(heartbeats.fd()).map_err(failed("map the workers' heartbeats"))?,
        })
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Sets what the program has to know beside addresses. Nothing but pod and service addresses is ours before.
    ///
    /// # Errors
    /// The kernel's, here and below.
    pub fn set_config(&self, config: &SteerConfig) -> io::Result<()> {
        assert!(
            usize::from(config.workers) <= WORKERS_MAX,
            "{} workers",
            config.workers
        );
        let raw = Config {
            fuse_ns: u64::try_from(config.fuse.as_nanos())
                .unwrap_or(u64::MAX / 2)
                .to_ne_bytes(),
            vni: config.vni.to_ne_bytes(),
            workers: u32::from(config.workers).to_ne_bytes(),
            vxlan_port: config.vxlan_port.to_ne_bytes(),
            snat_first: config.snat.start().to_ne_bytes(),
            snat_last: config.snat.end().to_ne_bytes(),
            padding: [0; 2],
        };
        self.config.update(&[0; 4], zerocopy::IntoBytes::as_bytes(&raw))
    }

    /// Makes packets to an address or block ours, as far as `kinds` says; replaces what was said of the same prefix. The longest
    /// prefix that contains an address decides about it.
    ///
    /// # Errors
    /// `ENOSPC` with 131,072 prefixes of a family.
    pub fn add_address(&self, prefix: IpNet, kinds: AddressKinds) -> io::Result<()> {
        let (map, key) = self.address_key(prefix);
        map.update(&key, &kinds.0.to_ne_bytes())
    }

    /// Leaves packets to this prefix to the kernel again. `false` when it was not ours.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_address(&self, prefix: IpNet) -> io::Result<bool> {
        let (map, key) = self.address_key(prefix);
        map.delete(&key)
    }

    /// All prefixes that are ours: after adoption, those of the process before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn addresses(&self) -> io::Result<Vec<(IpNet, AddressKinds)>> {
        let mut all = Vec::new();
        for map in [&self.addresses4, &self.addresses6] {
            for key in map.keys()? {
                let mut kinds = [0; 4];
                if map.lookup(&key, &mut kinds)?
                    && let Some(prefix) = prefix_of_key(&key)
                {
                    all.push((prefix, AddressKinds(u32::from_ne_bytes(kinds))));
                }
            }
        }
        Ok(all)
    }

    /// Accepts tunnel packets from a node.
    ///
    /// # Errors
    /// `E2BIG` with 16,384 nodes of a family.
    pub fn add_node(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(address) => self.nodes4.update(&address.octets(), &[1, 0, 0, 0]),
            IpAddr::V6(address) => self.nodes6.update(&address.octets(), &[1, 0, 0, 0]),
        }
    }

    /// Leaves tunnel packets from this address to the kernel again. `false` when it was no node.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_node(&self, address: IpAddr) -> io::Result<bool> {
        match address {
            IpAddr::V4(address) => self.nodes4.delete(&address.octets()),
            IpAddr::V6(address) => self.nodes6.delete(&address.octets()),
        }
    }

    /// All known nodes: after adoption, those of the process before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn nodes(&self) -> io::Result<Vec<IpAddr>> {
        let mut all = Vec::new();
        for key in self.nodes4.keys()? {
            all.extend(<[u8; 4]>::try_from(key.as_slice()).map(IpAddr::from));
        }
        for key in self.nodes6.keys()? {
            all.extend(<[u8; 16]>::try_from(key.as_slice()).map(IpAddr::from));
        }
        Ok(all)
    }

    /// Makes a `NodePort` or hostPort (IP protocol 6, 17 or 132) ours on every address of the node.
    ///
    /// # Errors
    /// `E2BIG` with 65,536 ports.
    pub fn add_port(&self, protocol: u8, port: u16) -> io::Result<()> {
        self.node_ports.update(&port_key(protocol, port), &[1, 0, 0, 0])
    }

    /// Leaves a port to the kernel again. `false` when it was not ours.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_port(&self, protocol: u8, port: u16) -> io::Result<bool> {
        self.node_ports.delete(&port_key(protocol, port))
    }

    /// All `NodePort`s and hostPorts as (protocol, port): after adoption, those of the process before.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ports(&self) -> io::Result<Vec<(u8, u16)>> {
        let keys = self.node_ports.keys()?;
        Ok(keys
            .iter()
            .map(|key| (key[2], u16::from_be_bytes([key[0], key[1]])))
            .collect())
    }

    /// Gives what is ours on `queue` to `socket`. The kernel forgets it when the socket is closed.
    ///
    /// # Errors
    /// `E2BIG` for a queue of [`QUEUES_MAX`] or more.
    pub fn set_socket(&self, queue: u16, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.sockets
            .update(&u32::from(queue).to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes())
    }

    /// The workers' signs of life, to be given to each of them.
    pub fn heartbeats(&self) -> Heartbeats {
        self.heartbeats.clone()
    }

    /// What became of packets so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn counters(&self) -> io::Result<SteerCounters> {
        let read = |counter: u32| -> io::Result<u64> {
            let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
            let mut values = vec![0; cpus * 8];
            self.counters.lookup(&counter.to_ne_bytes(), &mut values)?;
            Ok(values
                .as_chunks::<8>()
                .0
                .iter()
                .map(|value| u64::from_ne_bytes(*value))
                .sum())
        };
        Ok(SteerCounters {
            passed: read(0)?,
            redirected: read(1)?,
            dropped_no_worker: read(2)?,
            dropped_no_socket: read(3)?,
        })
    }

    fn address_key(&self, prefix: IpNet) -> (&Map, Vec<u8>) {
        let mut key = u32::from(prefix.prefix_len()).to_ne_bytes().to_vec();
        match prefix.trunc() {
            IpNet::V4(net) => {
                key.extend(net.network().octets());
                (&self.addresses4, key)
            }
            IpNet::V6(net) => {
                key.extend(net.network().octets());
                (&self.addresses6, key)
            }
        }
    }
}

/// Loads the program. The verifier gives up with `EAGAIN` when a signal is pending; libbpf tries again as well.
fn load(program: &mut aya::programs::Xdp) -> Result<(), aya::programs::ProgramError> {
    let mut result = program.load();
    for _ in 0..sys::LOAD_RETRIES {
        match &result {
            Err(aya::programs::ProgramError::LoadError { io_error, .. })
                if io_error.raw_os_error() == Some(libc::EAGAIN) => {}
            _ => break,
        }
        result = program.load();
    }
    result
}

/// The program's `struct config`.
#[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Config {
    fuse_ns: [u8; 8],
    vni: [u8; 4],
    workers: [u8; 4],
    vxlan_port: [u8; 2],
    snat_first: [u8; 2],
    snat_last: [u8; 2],
    padding: [u8; 2],
}

const _: () = assert!(size_of::<Config>() == 24);

fn port_key(protocol: u8, port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, protocol, 0]
}

fn prefix_of_key(key: &[u8]) -> Option<IpNet> {
    let (len, address) = key.split_first_chunk::<4>()?;
    let len = u8::try_from(u32::from_ne_bytes(*len)).ok()?;
    if let Ok(octets) = <[u8; 4]>::try_from(address) {
        return Ipv4Net::new(octets.into(), len).ok().map(IpNet::V4);
    }
    let octets = <[u8; 16]>::try_from(address).ok()?;
    Ipv6Net::new(octets.into(), len).ok().map(IpNet::V6)
}

/// The loader's errors say the cause in their sources.
fn object_error(error: &dyn std::error::Error) -> AttachError {
    let mut detail = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
            == Some(libc::EPERM)
        {
            return AttachError::NotPermitted {
                action: "load the XDP program",
            };
        }
        detail = format!("{detail}: {cause}");
        source = cause.source();
    }
    AttachError::Object { detail }
}
