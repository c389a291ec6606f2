//! Capture files: pcap and pcapng are read, pcapng is written.
//!
//! The readers are ours because a replay is judged by its numbers: `pcap-file` 2 takes every pcapng timestamp for nanoseconds,
//! whatever `if_tsresol` says, and cannot tell at which packet a file is cut. Sources: draft-ietf-opsawg-pcap and
//! draft-ietf-opsawg-pcapng.

mod classic;
mod ng;
mod port;
mod reader;
mod writer;

use std::{io, path::PathBuf};

pub use port::{CapturePort, SharedWriter};
pub use reader::CaptureReader;
pub use writer::PcapngWriter;

/// Longest packet that a capture may hold: what libpcap itself allows.
pub const PACKET_LEN_MAX: usize = 262_144;

/// A captured packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// When it was captured, in nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Index into [`CaptureReader::interfaces`].
    pub interface: usize,
    /// All of its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Its comment, in pcapng.
    pub comment: Option<String>,
}

/// An interface of a capture: in pcap the only one, nameless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `if_name` in pcapng.
    pub name: Option<String>,
    resolution: Resolution,
    /// Seconds to add to each timestamp, `if_tsoffset`.
    offset_s: i64,
    snaplen: u32,
}

/// Units of an interface's timestamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    /// 10 to this power per second.
    Decimal(u8),
    /// 2 to this power per second.
    Binary(u8),
}

impl Interface {
    fn nameless(resolution: Resolution, snaplen: u32) -> Self {
        Self {
            name: None,
            resolution,
            offset_s: 0,
            snaplen,
        }
    }

    /// Nanoseconds since 1970 of a timestamp in the interface's units; `None` beyond the year 2554 and before 1970.
    fn nanoseconds(&self, units: u64) -> Option<u64> {
        let units = u128::from(units);
        let ns = match self.resolution {
            Resolution::Decimal(power @ 0..=9) => units.checked_mul(10_u128.pow(u32::from(9 - power)))?,
            Resolution::Decimal(power) => units / 10_u128.checked_pow(u32::from(power - 9))?,
            Resolution::Binary(power @ 0..=63) => (units * 1_000_000_000) >> power,
            Resolution::Binary(_) => return None,
        };
        let ns = i128::try_from(ns).ok()? + i128::from(self.offset_s) * 1_000_000_000;
        u64::try_from(ns).ok()
    }
}

/// Why a capture cannot be used. The file's fault, but for [`Open`](Self::Open) and [`Read`](Self::Read).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The file could not be opened.
    #[error("{path}: {source}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file could not be read on.
    #[error("{path}, at packet {packet}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The packet to be read, from 1.
        packet: u64,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("{path} is neither pcap nor pcapng: it begins with {magic:02x?}", path = path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
        /// Its first bytes, up to four.
        magic: Vec<u8>,
    },
    /// Packets that do not begin with an Ethernet header.
    #[error("{path}: interface {interface} holds {name} packets (link type {link_type}); only Ethernet (1) can be used", path = path.display(), name = link_type_name(*link_type))]
    LinkType {
        /// The file.
        path: PathBuf,
        /// The interface, from 0.
        interface: usize,
        /// Its LINKTYPE value.
        link_type: u16,
    },
    /// The file ends inside a packet or block.
    #[error("{path} ends in the middle of packet {packet}", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The packet that is not whole, from 1.
        packet: u64,
    },
    /// The capturing program kept only the first bytes of a packet: what would be replayed is not what was on the wire.
    #[error("{path}: packet {packet} was cut to {captured} of {original} bytes when it was captured (capture with snaplen 0)", path = path.display())]
    Cut {
        /// The file.
        path: PathBuf,
        /// The packet, from 1.
        packet: u64,
        /// Bytes in the file.
        captured: u32,
        /// Bytes on the wire.
        original: u32,
    },
    /// Something in the file contradicts the format.
    #[error("{path}, at packet {packet}: {what}", path = path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The packet to be read, from 1.
        packet: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// An interface has no name, so its packets have no port.
    #[error("{path}: interface {interface} has no name; add the port: {path}:uplink, {path}:host or {path}:pod:NAMESPACE/NAME", path = path.display())]
    NoPort {
        /// The file.
        path: PathBuf,
        /// The interface, from 0.
        interface: usize,
    },
}

/// The format's own names of the link types that captures of containers and nodes come with.
fn link_type_name(link_type: u16) -> &'static str {
    match link_type {
        0 => "loopback (NULL)",
        1 => "Ethernet",
        101 => "raw IP",
        105 => "802.11",
        108 => "OpenBSD loopback",
        113 => "Linux cooked (SLL; tcpdump -i any makes these)",
        127 => "802.11 radiotap",
        228 => "raw IPv4",
        229 => "raw IPv6",
        253 => "netlink",
        276 => "Linux cooked (SLL2; tcpdump -i any makes these)",
        _ => "other",
    }
}

const ETHERNET: u16 = 1;
