//! Gate: which frames of a port are plain, as words to compare with.
//!
//! Made of the port and the node's tunnel ends, again after each change of either.

use std::net::{IpAddr, Ipv4Addr};

use flowtable::View;
use wire::IpProtocol;
use wire::vxlan::VxlanHeader;

use super::head::{HEAD_LEN, Head, L3, Plain};
use super::lane::Lane;
use crate::flow::key::zone_of_key;
use crate::flow::{Ingress, Zone};
use crate::io::{Checksum, Frame, Memory};
use crate::port::PortId;
use crate::snapshot::{PeerId, Port, PortKind, Snapshot};

/// The gates of a worker's ports, and the nodes whose tunnel packets came last.
#[derive(Debug)]
pub(crate) struct Gates {
    /// Counts changes; what was made before the last one is made anew when it is used.
    epoch: u64,
    gates: Vec<Gate>,
    peers: Box<[Known; PEERS]>,
}

/// What plain frames of one port look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    epoch: u64,
    kind: Kind,
    /// The first 16 bytes, of which the masks say which count.
    link: [u64; 2],
    link_mask: [u64; 2],
    /// Part of the keys.
    zone: u64,
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

impl Default for Gates {
    fn default() -> Self {
        Self {
            epoch: 1,
            gates: Vec::new(),
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

    /// Something that gates are made of has changed.
    pub(crate) fn outdate(&mut self) {
        self.epoch += 1;
    }

    /// The gate of `port`, for the frames of one batch.
    #[inline]
    pub(crate) fn gate(&mut self, port: PortId, snapshot: &Snapshot) -> Gate {
        let Some(gate) = self.gates.get_mut(port.index()) else {
            return Gate::CLOSED;
        };
        if gate.epoch != self.epoch {
            *gate = Gate::of(snapshot.port(port), snapshot, self.epoch);
        }
        *gate
    }

    /// Reads `frames`, received by the port of `gate`, into their lanes, and notes partial checksums that plain ones carry. Returns
    /// how many are plain, and the bytes of all.
    #[inline(never)]
    pub(crate) fn read(
        &mut self,
        gate: &Gate,
        memory: &Memory,
        frames: &mut [Frame],
        lanes: &mut [Lane],
        table: &View<'_, 2, 8>,
        snapshot: &Snapshot,
    ) -> (usize, u64) {
        match gate.kind {
            Kind::Closed => {
                lanes.iter_mut().for_each(Lane::clear);
                (0, frames.iter().map(|frame| frame.len() as u64).sum())
            }
            Kind::Pod | Kind::Host => self.read_each::<false>(gate, memory, frames, lanes, table, snapshot),
            Kind::Uplink => self.read_each::<true>(gate, memory, frames, lanes, table, snapshot),
        }
    }

    #[inline]
    fn read_each<const UPLINK: bool>(
        &mut self,
        gate: &Gate,
        memory: &Memory,
        frames: &mut [Frame],
        lanes: &mut [Lane],
        table: &View<'_, 2, 8>,
        snapshot: &Snapshot,
    ) -> (usize, u64) {
        let (gate, mut others, mut len) = (*gate, 0, 0);
        let count = frames.len();
        for (frame, lane) in frames.iter_mut().zip(lanes) {
            if let Some(plain) = self.read_one::<UPLINK>(&gate, memory, frame, snapshot) {
                len += frame.head_len() as u64;
                lane.set(plain.mark, plain.key, table);
            } else {
                len += frame.len() as u64;
                lane.clear();
                others += 1;
            }
        }
        (count - others, len)
    }

    #[inline]
    fn read_one<const UPLINK: bool>(
        &mut self,
        gate: &Gate,
        memory: &Memory,
        frame: &mut Frame,
        snapshot: &Snapshot,
    ) -> Option<Plain> {
        if frame.is_chain() {
            return None;
        }
        let bytes = memory.bytes(frame);
        let head = Head::of(bytes)?;
        let ([a, b], [c, d], [m, n]) = (head.link(), gate.link, gate.link_mask);
        if (a ^ c) & m | (b ^ d) & n != 0 || !head.is_ip_plain(bytes.len() - L3) {
            return None;
        }
        if UPLINK {
            if head.proto() == IpProtocol::UDP && head.dport() == gate.vxlan_port {
                let plain = self.read_tunnel(gate, head, bytes, snapshot)?;
                // What the port found is the outer header's, which is gone.
                frame.checksum = Checksum::Full;
                note_partial(&plain, frame);
                return Some(plain);
            }
            return head.read(L3, gate.zone, |_| false);
        }
        let plain = head.read(L3, gate.zone, |udp| {
            gate.kind == Kind::Pod && (udp.dport() == gate.vxlan_port || udp.ports() == DHCP_SERVER)
        })?;
        note_partial(&plain, frame);
        Some(plain)
    }

    /// The packet inside VXLAN of ours.
    #[inline]
    fn read_tunnel(
        &mut self,
        gate: &Gate,
        outer: Head<'_>,
        bytes: &[u8],
        snapshot: &Snapshot,
    ) -> Option<Plain> {
        if outer.dst() != gate.vtep || !outer.udp_is_plain() {
            return None;
        }
        let (header, inner) = VxlanHeader::parse(bytes.get(VXLAN_AT..)?).ok()?;
        let head = Head::of(inner)?;
        let [_, link] = head.link();
        // The outer packet's length bounds the inner one.
        let available = usize::from(outer.total_len()).checked_sub(INNER_L3 - L3)?;
        // RFC 6040: what the outer header marks is the general way's to merge.
        let outer_ecn = outer.tos() & 3;
        let is_plain = header.vni() == gate.vni
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
    pub(crate) const CLOSED: Self = Self {
        epoch: 0,
        kind: Kind::Closed,
        link: [0; 2],
        link_mask: [0; 2],
        zone: 0,
        vxlan_port: [0; 2],
        vni: wire::Vni::MAX,
        vtep: [0; 4],
    };

    #[cold]
    fn of(port: Option<&Port>, snapshot: &Snapshot, epoch: u64) -> Self {
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
        let (mut link, mut mask) = ([0; 16], [0; 16]);
        link[..6].copy_from_slice(&port.own_mac.0);
        mask[..6].fill(0xff);
        if kind == Kind::Pod {
            link[6..12].copy_from_slice(&port.peer_mac.0);
            mask[6..12].fill(0xff);
        }
        link[12..15].copy_from_slice(&IPV4_WITHOUT_OPTIONS);
        mask[12..15].fill(0xff);
        let node = snapshot.this_node();
        let vtep = node.vteps.iter().find_map(|vtep| match vtep {
            IpAddr::V4(v4) => Some(v4.octets()),
            IpAddr::V6(_) => None,
        });
        Self {
            epoch,
            kind,
            link: words(link),
            link_mask: words(mask),
            zone: zone_of_key(Zone::of(ingress)),
            vxlan_port: node.vxlan_port.to_be_bytes(),
            vni: node.vni,
            vtep: vtep.unwrap_or_default(),
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
