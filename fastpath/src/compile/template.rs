//! The bytes that go before a packet: Ethernet to a pod, host or next hop, and whole tunnel headers.

use std::net::IpAddr;

use wire::addr::{Mac, Vni};

use crate::port::PortId;
use crate::snapshot::{Adjacency, AdjacencyEncap, Port};

const ETHERNET_LEN: usize = 14;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// TTL and hop limit of tunnels, as the kernel's devices have it by default.
const TTL: u8 = 64;
const PROTOCOL_IPIP: u8 = 4;
const PROTOCOL_UDP: u8 = 17;

/// To the pod behind a port.
pub(super) fn to_pod(port: &Port) -> Adjacency {
    ethernet(port.id, port.peer_mac, port.own_mac, port.mtu, true)
}

/// To a station on a port's link. The Ethernet type is left to the pipeline.
pub(super) fn ethernet(port: PortId, to: Mac, from: Mac, mtu: u16, resolved: bool) -> Adjacency {
    let mut header = [0; Adjacency::HEADER_MAX];
    header[..6].copy_from_slice(&to.0);
    header[6..12].copy_from_slice(&from.0);
    Adjacency {
        port,
        encap: AdjacencyEncap::Ethernet,
        header,
        header_len: ETHERNET_LEN as u8,
        mtu,
        resolved,
    }
}

/// One end of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// The address that carries the tunnel.
    pub(super) outer: IpAddr,
    /// MAC inside VXLAN.
    pub(super) mac: Mac,
}

/// VXLAN over `hop`, RFC 7348. `None` when the ends are of two families or the link has no room.
///
/// IPv4 has DF clear, as the kernel's vxlan device has by default; the UDP checksum is 0.
pub(super) fn vxlan(hop: &Adjacency, us: End, them: End, vni: Vni, udp_port: u16) -> Option<Adjacency> {
    let mut template = Template::over(hop);
    let (encap, overhead) = match (us.outer, them.outer) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            template.ethertype(ETHERTYPE_IPV4);
            template.ipv4(from.octets(), to.octets(), PROTOCOL_UDP, false);
            (AdjacencyEncap::Vxlan4, 50)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            template.ethertype(ETHERTYPE_IPV6);
            template.push(&[0x60, 0, 0, 0, 0, 0, PROTOCOL_UDP, TTL]);
            template.push(&from.octets());
            template.push(&to.octets());
            (AdjacencyEncap::Vxlan6, 70)
        }
        _ => return None,
    };
    // Source port and length by the pipeline.
    template.push(&[0, 0]);
    template.push(&udp_port.to_be_bytes());
    template.push(&[0; 4]);
    // The I flag: the VNI is valid.
    template.push(&[0x08, 0, 0, 0]);
    template.push(&vni.to_wire());
    template.push(&[0]);
    // The inner Ethernet type by the pipeline.
    template.push(&them.mac.0);
    template.push(&us.mac.0);
    template.push(&[0, 0]);
    template.done(hop, encap, overhead)
}

/// IPv4 in IPv4 over `hop`, RFC 2003. `None` when an end is IPv6 or the link has no room.
///
/// DF is set, as the kernel's tunnel devices have it: path MTU discovery is on by default.
pub(super) fn ipip(hop: &Adjacency, us: IpAddr, them: IpAddr) -> Option<Adjacency> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (us, them) else {
        return None;
    };
    let mut template = Template::over(hop);
    template.ethertype(ETHERTYPE_IPV4);
    template.ipv4(from.octets(), to.octets(), PROTOCOL_IPIP, true);
    template.done(hop, AdjacencyEncap::Ipip, 20)
}

/// Header bytes as they are put together.
struct Template {
    header: [u8; Adjacency::HEADER_MAX],
    len: usize,
}

impl Template {
    /// Begins with the link header of a hop.
    fn over(hop: &Adjacency) -> Self {
        Self {
            header: hop.header,
            len: usize::from(hop.header_len),
        }
    }

    /// Fills in the Ethernet type that a hop leaves open.
    fn ethertype(&mut self, ethertype: [u8; 2]) {
        self.header[self.len - 2..self.len].copy_from_slice(&ethertype);
    }

    fn push(&mut self, bytes: &[u8]) {
        self.header[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// An IPv4 header; DSCP and ECN, total length, identification and checksum by the pipeline.
    fn ipv4(&mut self, from: [u8; 4], to: [u8; 4], protocol: u8, dont_fragment: bool) {
        let flags = if dont_fragment { 0x40 } else { 0 };
        self.push(&[0x45, 0, 0, 0, 0, 0, flags, 0, TTL, protocol, 0, 0]);
        self.push(&from);
        self.push(&to);
    }

    fn done(self, hop: &Adjacency, encap: AdjacencyEncap, overhead: u16) -> Option<Adjacency> {
        let mtu = hop.mtu.checked_sub(overhead)?;
        let Self { header, len } = self;
        Some(Adjacency {
            port: hop.port,
            encap,
            header,
            header_len: len as u8,
            mtu,
            resolved: hop.resolved,
        })
    }
}
