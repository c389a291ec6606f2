//! Gate: which frames of a port are plain, as words to compare with.
//!
//! Made of the port and the node's tunnel ends, again after each change of either.

use std::net::{IpAddr, Ipv4Addr};

use flowtable::View;
use wire::IpProtocol;
use wire::packet::Family;
use wire::vxlan::VxlanHeader;

use super::head::{Head, HeadV4, L3, Plain};
use super::ip::Ip;
use super::lane::{Lane, Lanes};
use crate::counters::Counters;
use crate::flow::key::{V4, V6, zone_of_key};
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
    /// The first 16 bytes of those of IPv4, of which [`Kind::link_mask`] says which count.
    link: [u64; 2],
    /// Part of the keys.
    zone: u64,
    kind: Kind,
}

/// What the first 16 bytes of a frame are, and which bits of them count.
#[derive(Clone, Copy, Debug)]
struct Link {
    words: [u64; 2],
    mask: [u64; 2],
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
    pub(crate) v4: &'b View<'b, 2, 8>,
    pub(crate) v6: &'b View<'b, 5, 12>,
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

    /// Reads `frames`, received by the ports of `runs`, into their lanes of IPv4, counts them, and notes partial checksums that
    /// plain ones carry. Returns how many are plain.
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

    /// Reads those of the frames that are not plain as IPv4 into their lanes of IPv6, and notes partial checksums. Returns how many are
    /// plain.
    #[inline(never)]
    pub(crate) fn read_v6(
        &mut self,
        runs: &[(PortId, usize)],
        frames: &mut [Frame],
        lanes: &mut Lanes,
        by: &Reading<'_>,
    ) -> usize {
        let (mut at, mut plain) = (0, 0);
        for &(port, count) in runs {
            let gate = self.gate(port, by.snapshot);
            let (now, others) = (at..at + count, &lanes.v4[at..at + count]);
            let others = others.iter().zip(&mut lanes.v6[now.clone()]);
            for (frame, (other, lane)) in frames[now].iter_mut().zip(others) {
                let found = if other.is_plain() {
                    None
                } else {
                    self.read_one_v6(&gate, frame, by)
                };
                if let Some(found) = found {
                    lane.set(found.mark, found.key, by.v6);
                    plain += 1;
                } else {
                    lane.clear();
                }
            }
            at += count;
        }
        lanes.extend_v6(at);
        plain
    }

    #[inline]
    fn read_one_v6(&mut self, gate: &Gate, frame: &mut Frame, by: &Reading<'_>) -> Option<Plain<5>> {
        let link = gate.link().of_ipv6();
        match gate.kind {
            Kind::Closed => None,
            Kind::Pod | Kind::Host => self.read_one::<V6, 5, 12, false>(gate, link, self.tunnel, frame, by),
            Kind::Uplink => self.read_one::<V6, 5, 12, true>(gate, link, self.tunnel, frame, by),
        }
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
        let (gate, tunnel, link) = (*gate, self.tunnel, gate.link());
        let (mut others, mut len) = (0, 0);
        for (frame, lane) in frames.iter_mut().zip(lanes) {
            if let Some(plain) = self.read_one::<V4, 2, 8, UPLINK>(&gate, link, tunnel, frame, by) {
                len += frame.head_len() as u64;
                lane.set(plain.mark, plain.key, by.v4);
            } else {
                len += frame.len() as u64;
                lane.clear();
                others += 1;
            }
        }
        (others, len)
    }

    #[inline]
    fn read_one<L: Ip<K, W>, const K: usize, const W: usize, const UPLINK: bool>(
        &mut self,
        gate: &Gate,
        link: Link,
        tunnel: Tunnel,
        frame: &mut Frame,
        by: &Reading<'_>,
    ) -> Option<Plain<K>> {
        if frame.is_chain() {
            return None;
        }
        let bytes = by.memory.bytes(frame);
        let head = <L::Head<'_>>::of(bytes)?;
        if !link.is_of(head.link()) {
            // IPv6, too, comes in IPv4.
            if !UPLINK || L::FAMILY == Family::V4 {
                return None;
            }
            let outer = HeadV4::of(bytes)?;
            let is_tunnel = gate.link().is_of(outer.link())
                && outer.is_ip_plain(bytes.len() - L3)
                && tunnel.is_for(outer);
            return if is_tunnel {
                self.read_tunnel::<L, K, W>(tunnel, frame, by)
            } else {
                None
            };
        }
        if !head.is_ip_plain(bytes.len() - L3) {
            return None;
        }
        if UPLINK {
            if !tunnel.is_for(head) {
                return head.read(L3, gate.zone, |_| false);
            }
            // Over IPv6 it takes the general way.
            return if L::FAMILY == Family::V4 {
                self.read_tunnel::<L, K, W>(tunnel, frame, by)
            } else {
                None
            };
        }
        let plain = head.read(L3, gate.zone, |udp| {
            gate.kind == Kind::Pod
                && (udp.dport() == tunnel.vxlan_port || udp.ports() == dhcp_server(L::FAMILY))
        })?;
        note_partial::<L, K, W>(&plain, frame);
        Some(plain)
    }

    /// The packet inside VXLAN of ours, in a plain packet of IPv4.
    #[inline]
    fn read_tunnel<L: Ip<K, W>, const K: usize, const W: usize>(
        &mut self,
        tunnel: Tunnel,
        frame: &mut Frame,
        by: &Reading<'_>,
    ) -> Option<Plain<K>> {
        let bytes = by.memory.bytes(frame);
        let outer = HeadV4::of(bytes)?;
        if outer.dst() != tunnel.vtep || !outer.udp_is_plain() {
            return None;
        }
        let (header, inner) = VxlanHeader::parse(bytes.get(VXLAN_AT..)?).ok()?;
        let head = <L::Head<'_>>::of(inner)?;
        // The outer packet's length bounds the inner one.
        let available = outer.total_len().checked_sub(INNER_L3 - L3)?;
        // RFC 6040: what the outer header marks is the general way's to merge.
        let outer_ecn = outer.tos() & 3;
        let is_plain = header.vni() == tunnel.vni
            && Link::inner(L::FAMILY).is_of(head.link())
            && (outer_ecn == 0 || outer_ecn == head.tos() & 3)
            && head.is_ip_plain(available);
        if !is_plain {
            return None;
        }
        let zone = self.zone_of_peer(outer.src(), by.snapshot)?;
        let plain = head.read(INNER_L3, zone, |_| false)?;
        // What the port found is the outer header's, which is gone.
        frame.checksum = Checksum::Full;
        note_partial::<L, K, W>(&plain, frame);
        Some(plain)
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
#[expect(
    clippy::inline_always,
    reason = "called, it reads from memory what was written a moment ago in other pieces, and waits"
)]
#[inline(always)]
fn note_partial<L: Ip<K, W>, const K: usize, const W: usize>(plain: &Plain<K>, frame: &mut Frame) {
    let ip_len = <L::Head<'_> as Head<'_, K>>::IP_LEN as u16;
    let mark = plain.mark;
    let pseudo = L::pseudo(&plain.key, mark.proto(), mark.total_len - ip_len);
    if pseudo.folds_to(plain.checksum) && frame.checksum == Checksum::Full {
        let offset = if mark.is_udp() {
            wire::udp::CHECKSUM_OFFSET
        } else {
            wire::tcp::CHECKSUM_OFFSET
        };
        frame.checksum = Checksum::Partial {
            start: mark.l3 + ip_len,
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

    /// Of its frames of IPv4.
    #[inline]
    const fn link(&self) -> Link {
        Link {
            words: self.link,
            mask: self.kind.link_mask(),
        }
    }
}

impl Link {
    /// Of the frame inside a tunnel, of any MAC addresses.
    #[inline]
    const fn inner(family: Family) -> Self {
        let v4 = Self {
            words: [0, IPV4_LINK],
            mask: [0, IPV4_LINK_MASK],
        };
        match family {
            Family::V4 => v4,
            Family::V6 => v4.of_ipv6(),
        }
    }

    /// The same station's as of IPv4.
    #[inline]
    const fn of_ipv6(self) -> Self {
        let ([a, b], [m, n]) = (self.words, self.mask);
        Self {
            words: [a, b & !IPV4_LINK_MASK | IPV6_LINK],
            mask: [m, n & !IPV4_LINK_MASK | IPV6_LINK_MASK],
        }
    }

    #[inline]
    const fn is_of(self, head: [u64; 2]) -> bool {
        let ([a, b], [c, d], [m, n]) = (head, self.words, self.mask);
        (a ^ c) & m | (b ^ d) & n == 0
    }
}

/// Source and destination port of what DHCP servers say.
#[inline]
const fn dhcp_server(family: Family) -> [u8; 4] {
    match family {
        Family::V4 => [0, 67, 0, 68],
        Family::V6 => [2, 35, 2, 34],
    }
}

impl Tunnel {
    /// UDP to the port of VXLAN.
    #[inline]
    fn is_for<'f, const K: usize>(self, head: impl Head<'f, K>) -> bool {
        head.proto() == IpProtocol::UDP && head.l4().dport() == self.vxlan_port
    }

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
/// The same of IPv6, whose traffic class begins within the byte of the version.
const IPV6_LINK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0x86, 0xdd, 0x60, 0]);
const IPV6_LINK_MASK: u64 = u64::from_ne_bytes([0, 0, 0, 0, 0xff, 0xff, 0xf0, 0]);
/// Where VXLAN's header is behind plain outer headers, and the inner IP header behind it.
const VXLAN_AT: usize = L3 + 20 + 8;
const INNER_L3: usize = VXLAN_AT + 8 + L3;
const PEERS: usize = 64;
