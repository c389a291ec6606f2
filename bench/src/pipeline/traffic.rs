//! Traffic: the packets of a run as they come in and as they should leave, built whole and without the pipeline's code.

use std::net::SocketAddrV4;

use wire::Mac;

use super::attack::Flaw;
use super::case::{Case, FIRST_REMOTE, GATEWAY_MAC, SERVERS_MAX, node_address, node_mac, pod_mac, vtep_mac};
use super::packet::{ChecksumFill, Content, Family, Step, Transport, Tunnel, VXLAN_LEN, frame, vxlan};
use super::sizes::Sizes;

/// One packet to be sent: whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) flow: u32,
    pub(crate) client: u16,
    /// Which server answers: known once the first packet has come out.
    pub(crate) server: u16,
}

impl Turn {
    /// The first flow's.
    pub(crate) const FIRST: Self = Self {
        flow: 0,
        client: 0,
        server: 0,
    };
}

/// What all packets of a run have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    pub(crate) case: Case,
    pub(crate) transport: Transport,
    pub(crate) family: Family,
    pub(crate) sizes: Sizes,
    /// As pods' sockets leave it: what comes from other nodes is always full.
    pub(crate) checksum: ChecksumFill,
    /// Of what pods send.
    pub(crate) flaw: Flaw,
}

impl Traffic {
    /// Replies come, and the clients' packets leave, in a tunnel.
    pub(crate) fn is_tunnelled(&self, reply: bool, is_leaving: bool) -> bool {
        self.case.has_tunnel() && reply != is_leaving
    }

    /// Offset of the inner Ethernet header.
    pub(crate) fn link(&self, reply: bool, is_leaving: bool) -> usize {
        if self.is_tunnelled(reply, is_leaving) {
            VXLAN_LEN
        } else {
            0
        }
    }

    /// Bytes from the inner Ethernet header to the end of the transport's.
    pub(crate) fn headers_len(&self) -> usize {
        14 + self.family.header_len() + self.transport.header_len()
    }

    /// The frame as it comes in.
    pub(crate) fn arriving(&self, step: Step, reply: bool, turn: Turn) -> Vec<u8> {
        let client = self.case.source(turn.flow, turn.client);
        let server = self.case.server(turn.flow, turn.server);
        let checksum = if reply && self.case.is_remote() {
            ChecksumFill::Full
        } else {
            self.checksum
        };
        let content = |src, dst| self.content(step, src, dst, turn, 64, checksum);
        if reply {
            return self.on_servers_link(turn, &content(server, client), false, tunnel_port(turn.flow));
        }
        let content = content(client, self.case.destination(turn.flow));
        let mut frame = frame(GATEWAY_MAC, pod_mac(*client.ip()), &content);
        self.flaw.apply(&mut frame[14..], turn.flow);
        frame
    }

    /// The frame as it should leave; `sport` is the tunnel's source port.
    pub(crate) fn leaving(&self, step: Step, reply: bool, turn: Turn, sport: u16) -> Vec<u8> {
        let client = self.case.source(turn.flow, turn.client);
        let server = self.case.server(turn.flow, turn.server);
        let content = |src, dst| self.content(step, src, dst, turn, 63, ChecksumFill::Full);
        if !reply {
            let mut frame = self.on_servers_link(turn, &content(client, server), true, sport);
            self.flaw
                .apply(&mut frame[self.link(false, true) + 14..], turn.flow);
            return frame;
        }
        let content = content(self.case.destination(turn.flow), client);
        frame(pod_mac(*client.ip()), GATEWAY_MAC, &content)
    }

    fn content(
        &self,
        step: Step,
        src: SocketAddrV4,
        dst: SocketAddrV4,
        turn: Turn,
        ttl: u8,
        checksum: ChecksumFill,
    ) -> Content {
        Content {
            transport: self.transport,
            family: self.family,
            step,
            src,
            dst,
            ttl,
            flow: turn.flow,
            frame_len: self.sizes.frame_len(turn.flow),
            checksum,
        }
    }

    /// On the link that who serves `turn` is behind: a pod's own, or the uplink, plain or in VXLAN.
    fn on_servers_link(&self, turn: Turn, content: &Content, is_leaving: bool, sport: u16) -> Vec<u8> {
        let framed = |us: Mac, them: Mac| {
            if is_leaving {
                frame(them, us, content)
            } else {
                frame(us, them, content)
            }
        };
        let node = FIRST_REMOTE + turn.server as u8;
        if !self.case.is_remote() {
            let server = self.case.server(turn.flow, turn.server);
            return framed(GATEWAY_MAC, pod_mac(*server.ip()));
        }
        if !self.case.has_tunnel() {
            return framed(node_mac(1), node_mac(node));
        }
        let (from, to) = if is_leaving { (1, node) } else { (node, 1) };
        let tunnel = Tunnel {
            to: node_mac(to),
            from: node_mac(from),
            src: node_address(from),
            dst: node_address(to),
            sport,
        };
        vxlan(&tunnel, &framed(vtep_mac(1), vtep_mac(node)))
    }
}

/// The UDP source port that the other node's hash gave the flow.
pub(crate) fn tunnel_port(flow: u32) -> u16 {
    0xc000 | (flow & 0x3fff) as u16
}

const _: () = assert!(SERVERS_MAX <= 3, "nodes 2 to 4");
