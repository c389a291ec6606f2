//! Gate: which frames of a port are plain, as words to compare with.
//!
//! Made of the port and the node's tunnel ends, again after each change of either.

use std::net::{IpAddr, Ipv4Addr};

use flowtable::View;
use wire::IpProtocol;
use wire::vxlan::VxlanHeader;

use super::head::{HEAD_LEN, Head, L3, Plain};
use super::lane::Lane;
use crate::counters::Counters;
use crate::flow::key::zone_of_key;
use crate::flow::{Ingress, Zone};
use crate::io::{Checksum, Frame, Memory};
use crate::port::PortId;
use crate::snapshot::{PeerId, Port, PortKind, Snapshot};

/// The gates of a worker's ports, and the nodes whose tunnel packets came last.
#[derive(Debug)]
pub(crate) struct Gates {
    /// No frame is plain, whatever its port.
    closed: bool,
    /// Counts changes; what was made before the last one is made anew when it is used.
    epoch: u64,
    gates: Vec<Gate>,
    /// Made with the first gate of each epoch.
    tunnel: Tunnel,
    peers: Box<[Known; PEERS]>,
}

/// What plain frames of one port look like. Small, as there are many.
#[derive(Clone, Copy, Debug)]
struct Gate {
    epoch: u64,
    /// The first 16 bytes, of which [`Kind::link_mask`] says which count.
    link: [u64; 2],
    /// Part of the keys.
    zone: u64,
    kind: Kind,
}

/// What tunnel packets look like.
#[derive(Clone, Copy, Debug)]
struct Tunnel {
    vxlan_port: [u8; 2],
    vni: wire::Vni,
    /// An address at which tunnel packets reach us; those to others take the general way.
    vtep: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Closed,
    Pod,
    Host,
    Uplink,
}

/// A node, by the address that its tunnel packets come from.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    epoch: u64,
    address: [u8; 4],
    zone: u64,
}

/// What frames are read by, for one batch.
#[derive(Clone, Copy)]
pub(crate) struct Reading<'b> {
    pub(crate) memory: &'b Memory,
    pub(crate) table: &'b View<'b, 2, 8>,
    pub(crate) snapshot: &'b Snapshot,
    pub(crate) counters: &'b Counters,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            closed: false,
            epoch: 1,
            gates: Vec::new(),
            tunnel: Tunnel {
                vxlan_port: [0; 2],
                vni: wire::Vni::MAX,
                vtep: [0; 4],
            },
            peers: Box::new([Known::default(); PEERS]),
        }
    }
}

impl Gates {
    /// Makes room for a port.
    pub(crate) fn add_port(&mut self, port: PortId) {
        if self.gates.len() <= port.index() {
            self.gates.resize(port.index() + 1, Gate::CLOSED);
        }
    }

    /// No frame is plain from now on.
    pub(crate) fn close(&mut self) {
        self.closed = true;
    }

    /// Something that gates are made of has changed.
    pub(crate) fn outdate(&mut self) {
        self.epoch += 1;
    }

    /// Reads `frames`, received by the ports of `runs`, into their lanes, counts them, and notes partial checksums that plain ones
    /// carry. Returns how many are plain.
    #[inline(never)]
    pub(crate) fn read(
        &mut self,
        runs: &[(PortId, usize)],
        frames: &mut [Frame],
        lanes: &mut [Lane],
        by: &Reading<'_>,
    ) -> usize {
        let (mut frames, mut lanes, mut plain) = (frames, lanes, 0);
        // With many ports a run is a frame: nothing here may cost more than that is worth.
        for &(port, count) in runs {
            let (frames_now, frames_later) = frames.split_at_mut(count);
            let (lanes_now, lanes_later) = lanes.split_at_mut(count);
            (frames, lanes) = (frames_later, lanes_later);
            let gate = self.gate(port, by.snapshot);
            let (others, bytes) = match gate.kind {
                Kind::Closed => {
                    lanes_now.iter_mut().for_each(Lane::clear);
                    let bytes = frames_now.iter().map(|frame| frame.len() as u64).sum();
                    (count, bytes)
                }
                Kind::Pod | Kind::Host => self.read_run::<false>(&gate, frames_now, lanes_now, by),
                Kind::Uplink => self.read_run::<true>(&gate, frames_now, lanes_now, by),
            };
            plain += count - others;
            if let Some(counters) = by.counters.port(port) {
                counters.rx_frames.add(count as u64);
                counters.rx_bytes.add(bytes);
            }
        }
        plain
    }

    /// The gate of `port`, for the frames of one run.
    #[inline]
    fn gate(&mut self, port: PortId, snapshot: &Snapshot) -> Gate {
        match self.gates.get(port.index()) {
            Some(gate) if gate.epoch == self.epoch => *gate,
            _ => self.make(port, snapshot),
        }
    }

    #[cold]
    #[inline(never)]
    fn make(&mut self, port: PortId, snapshot: &Snapshot) -> Gate {
        let Some(gate) = self.gates.get_mut(port.index()).filter(|_| !self.closed) else {
            return Gate::CLOSED;
        };
        *gate = Gate::of(snapshot.port(port), self.epoch);
        self.tunnel = Tunnel::of(snapshot);
        *gate
    }

    /// Reads frames of one port. Returns how many are not plain, and the bytes of all.
    #[inline]
    fn read_run<const UPLINK: bool>(
        &mut self,
        gate: &Gate,
        frames: &mut [Frame],
        lanes: &mut [Lane],
        by: &Reading<'_>,
    ) -> (usize, u64) {
        // Copies: what is read for each frame stays in registers.
        let (gate, tunnel, mask) = (*gate, self.tunnel, gate.kind.link_mask());
        let (mut others, mut len) = (0, 0);
        for (frame, lane) in frames.iter_mut().zip(lanes) {
            if let Some(plain) = self.read_one::<UPLINK>(&gate, mask, tunnel, frame, by) {
                len += frame.head_len() as u64;
                lane.set(plain.mark, plain.key, by.table);
            } else {
                len += frame.len() as u64;
                lane.clear();
                others += 1;
            }
        }
        (others, len)
    }

    #[inline]
    fn read_one<const UPLINK: bool>(
        &mut self,
        gate: &Gate,
        mask: [u64; 2],
        tunnel: Tunnel,
        frame: &mut Frame,
        by: &Reading<'_>,
    ) -> Option<Plain> {
        if frame.is_chain() {
            return None;
        }
        let bytes = by.memory.bytes(frame);
        let head = Head::of(bytes)?;
        let ([a, b], [c, d], [m, n]) = (head.link(), gate.link, mask);
        if (a ^ c) & m | (b ^ d) & n != 0 || !head.is_ip_plain(bytes.len() - L3) {
            return None;
        }
        if UPLINK {
            if head.proto() == IpProtocol::UDP && head.dport() == tunnel.vxlan_port {
                let plain = self.read_tunnel(tunnel, head, bytes, by.snapshot)?;
                // What the port found is the outer header's, which is gone.
                frame.checksum = Checksum::Full;
                note_partial(&plain, frame);
                return Some(plain);
            }
            return head.read(L3, gate.zone, |_| false);
        }
        let plain = head.read(L3, gate.zone, |udp| {
            gate.kind == Kind::Pod && (udp.dport() == tunnel.vxlan_port || udp.ports() == DHCP_SERVER)
        })?;
        note_partial(&plain, frame);
        Some(plain)
    }

    /// The packet inside VXLAN of ours.
    #[inline]
    fn read_tunnel(
        &mut self,
        tunnel: Tunnel,
        outer: Head<'_>,
        bytes: &[u8],
        snapshot: &Snapshot,
    ) -> Option<Plain> {
        if outer.dst() != tunnel.vtep || !outer.udp_is_plain() {
            return None;
        }
        let (header, inner) = VxlanHeader::parse(bytes.get(VXLAN_AT..)?).ok()?;
        let head = Head::of(inner)?;
        let [_, link] = head.link();
        // The outer packet's length bounds the inner one.
        let available = usize::from(outer.total_len()).checked_sub(INNER_L3 - L3)?;
        // RFC 6040: what the outer header marks is the general way's to merge.
        let outer_ecn = outer.tos() & 3;
        let is_plain = header.vni() == tunnel.vni
            && (link ^ IPV4_LINK) & IPV4_LINK_MASK == 0
            && (outer_ecn == 0 || outer_ecn == head.tos() & 3)
            && head.is_ip_plain(available);
        if !is_plain {
            return None;
        }
        let zone = self.zone_of_peer(outer.src(), snapshot)?;
        head.read(INNER_L3, zone, |_| false)
    }

    /// The zone of what comes by a tunnel from the node that has this address.
    #[inline]
    fn zone_of_peer(&mut self, address: [u8; 4], snapshot: &Snapshot) -> Option<u64> {
        let [_, _, _, last] = address;
        let known = &mut self.peers[usize::from(last) % PEERS];
        if known.epoch != self.epoch || known.address != address {
            *known = Known::ask(address, snapshot, self.epoch)?;
        }
        Some(known.zone)
    }
}

/// Notes that the checksum of a packet that comes from a kernel is partial, if it is and the port did not say so.
#[inline]
fn note_partial(plain: &Plain, frame: &mut Frame) {
    if plain.is_partial() && frame.checksum == Checksum::Full {
        let offset = if plain.mark.is_udp() {
            wire::udp::CHECKSUM_OFFSET
        } else {
            wire::tcp::CHECKSUM_OFFSET
        };
        frame.checksum = Checksum::Partial {
            start: plain.mark.l3 + 20,
            offset: offset as u16,
        };
    }
}

impl Known {
    #[cold]
    fn ask(address: [u8; 4], snapshot: &Snapshot, epoch: u64) -> Option<Self> {
        let peer: PeerId = snapshot.peer_by_outer(IpAddr::V4(Ipv4Addr::from(address)))?;
        Some(Self {
            epoch,
            address,
            zone: zone_of_key(Zone::of(Ingress::Tunnel(peer))),
        })
    }
}

impl Gate {
    /// Nothing is plain.
    const CLOSED: Self = Self {
        epoch: 0,
        link: [0; 2],
        zone: 0,
        kind: Kind::Closed,
    };

    fn of(port: Option<&Port>, epoch: u64) -> Self {
        let Some(port) = port else {
            return Self {
                epoch,
                ..Self::CLOSED
            };
        };
        let (kind, ingress) = match port.kind {
            PortKind::Pod => (Kind::Pod, Ingress::Port(port.id)),
            PortKind::Host => (Kind::Host, Ingress::Port(port.id)),
            PortKind::Uplink => (Kind::Uplink, Ingress::Uplink),
        };
        let mut link = [0; 16];
        link[..6].copy_from_slice(&port.own_mac.0);
        link[6..12].copy_from_slice(&port.peer_mac.0);
        link[12..15].copy_from_slice(&IPV4_WITHOUT_OPTIONS);
        Self {
            epoch,
            link: words(link),
            zone: zone_of_key(Zone::of(ingress)),
            kind,
        }
    }
}

impl Tunnel {
    fn of(snapshot: &Snapshot) -> Self {
        let node = snapshot.this_node();
        let vtep = node.vteps.iter().find_map(|vtep| match vtep {
            IpAddr::V4(v4) => Some(v4.octets()),
            IpAddr::V6(_) => None,
        });
        Self {
            vxlan_port: node.vxlan_port.to_be_bytes(),
            vni: node.vni,
            vtep: vtep.unwrap_or_default(),
        }
    }
}

impl Kind {
    /// Which bits of the first 16 bytes count: a pod has one MAC address, others may be reached by many.
    #[inline]
    const fn link_mask(self) -> [u64; 2] {
        const TO_US: [u64; 2] = words([
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0,
        ]);
        match self {
            Self::Pod => [
                u64::MAX,
                u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
            ],
            Self::Closed | Self::Host | Self::Uplink => TO_US,
        }
    }
}

const fn words(bytes: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// Ethernet type, version, header length.
const IPV4_WITHOUT_OPTIONS: [u8; 3] = [0x08, 0x00, 0x45];
/// The second word of a frame as far as it says that.
const IPV4_LINK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0x08, 0x00, 0x45, 0]);
const IPV4_LINK_MASK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xff, 0]);
/// Source and destination port of what DHCP servers say.
const DHCP_SERVER: [u8; 4] = [0, 67, 0, 68];
/// Where VXLAN's header is behind plain outer headers, and the inner IP header behind it.
const VXLAN_AT: usize = L3 + 20 + 8;
const INNER_L3: usize = VXLAN_AT + 8 + L3;
const PEERS: usize = 64;
const _: () = assert!(HEAD_LEN >= VXLAN_AT);
