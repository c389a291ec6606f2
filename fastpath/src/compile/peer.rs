//! Other nodes: their addresses, blocks and the tunnels to them.

use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{Block, Encap, Family, RemoteNode, Subject, TunnelEnd};
use ipnet::IpNet;

use super::claim::host;
use super::node::{missing, outer};
use super::template::{self, End};
use super::{CompileError, Work, numbers};
use crate::flow::Zone;
use crate::snapshot::table::{BlockRecord, Claim, Peer};
use crate::snapshot::{Adjacency, PeerId, Shard};
use crate::table::hash;

/// The tunnels of [`Peer::tunnels`], in order.
const TUNNELS: [(Encap, Family); 3] = [
    (Encap::Vxlan, Family::V4),
    (Encap::Vxlan, Family::V6),
    (Encap::Ipip, Family::V4),
];

impl Work {
    pub(super) fn remote_node(&mut self, source: RemoteNode) -> Result<(), CompileError> {
        let known = self.snapshot.peer_names.get(&source.name).copied();
        let before = known.and_then(|id| Some(self.snapshot.peers.get(u32::from(id.0))?.source.clone()));
        if before.as_deref() == Some(&source) {
            return Ok(());
        }
        let source = Arc::new(source);
        if let (Some(id), Some(before)) = (known, &before)
            && before.addresses != source.addresses
        {
            // Plain blocks are reached by the first of them that is on a link of ours.
            self.bumps.add(Shard::peer(id));
        }
        let id = if let Some(id) = known {
            self.peer_mut(id).source = source.clone();
            id
        } else {
            let peers = &self.snapshot.peers;
            let index = numbers::kept(
                &self.numbers.peers,
                &source.name,
                peers.end(),
                peers.next_index(),
                Zone::PEERS_MAX,
            );
            let id = match u16::try_from(index) {
                Ok(id) if index < Zone::PEERS_MAX => id,
                _ => {
                    let subject = Subject::new("Node", "", &source.name);
                    return Err(subject
                        .invalid(
                            "remote_nodes",
                            format!("at most {} nodes", Zone::PEERS_MAX),
                            index,
                        )
                        .into());
                }
            };
            let peer = Peer {
                source: source.clone(),
                tunnels: [None; 3],
                blocks: 0,
            };
            self.snapshot.peers.insert_at(index, peer);
            self.snapshot.peer_names.insert(source.name.clone(), PeerId(id));
            PeerId(id)
        };
        let before = before.map(|before| claims_of(&before, id)).unwrap_or_default();
        let after = claims_of(&source, id);
        for (prefix, claim) in before.iter().filter(|claim| !after.contains(claim)) {
            self.withdraw(*prefix, *claim);
        }
        for (prefix, claim) in after.iter().filter(|claim| !before.contains(claim)) {
            self.claim(*prefix, *claim);
        }
        self.tunnels(id)
    }

    pub(super) fn remote_node_removed(&mut self, name: &str) -> Result<(), CompileError> {
        let Some(id) = self.snapshot.peer_names.get_name(name).copied() else {
            return Err(missing("Node", name));
        };
        let Some(peer) = self.snapshot.peers.get(u32::from(id.0)).cloned() else {
            return Err(missing("Node", name));
        };
        if peer.blocks > 0 {
            let subject = Subject::new("Node", "", name);
            let found = format!("{} that name it", peer.blocks);
            return Err(subject
                .invalid("blocks", "none that names a node which goes", found)
                .into());
        }
        for (prefix, claim) in claims_of(&peer.source, id) {
            self.withdraw(prefix, claim);
        }
        for tunnel in peer.tunnels.into_iter().flatten() {
            self.snapshot.adjacencies.remove(u32::from(tunnel.0));
        }
        self.bumps.add(Shard::peer(id));
        self.snapshot.peers.remove(u32::from(id.0));
        self.snapshot.peer_names.remove(&peer.source.name);
        Ok(())
    }

    pub(super) fn block(&mut self, source: Block) -> Result<(), CompileError> {
        let Some(peer) = self.snapshot.peer_names.get(&source.node).copied() else {
            let subject = Subject::new("Block", "", &source.prefix.to_string());
            return Err(subject
                .invalid("node", "the name of a remote node", format!("{:?}", source.node))
                .into());
        };
        let prefix = source.prefix;
        let before = self.snapshot.blocks.exact(prefix).cloned();
        if before
            .as_ref()
            .is_some_and(|before| *before.source == source && before.peer == peer)
        {
            return Ok(());
        }
        let claim = Claim::PeerBlock(peer, source.encap);
        // In before out: the prefix is never without an owner, so that only its own shard is bumped.
        self.claim(prefix, claim);
        self.peer_mut(peer).blocks += 1;
        if let Some(before) = before {
            self.withdraw(prefix, Claim::PeerBlock(before.peer, before.source.encap));
            self.peer_mut(before.peer).blocks -= 1;
            self.bumps.add(Shard::peer(before.peer));
        }
        self.snapshot.blocks.insert(
            prefix,
            BlockRecord {
                source: Arc::new(source),
                peer,
            },
        );
        Ok(())
    }

    pub(super) fn block_removed(&mut self, prefix: IpNet) -> Result<(), CompileError> {
        let Some(before) = self.snapshot.blocks.remove(prefix) else {
            return Err(missing("Block", &prefix.to_string()));
        };
        self.withdraw(prefix, Claim::PeerBlock(before.peer, before.source.encap));
        self.peer_mut(before.peer).blocks -= 1;
        Ok(())
    }

    /// Makes the tunnels to a node from its ends, ours and the underlay.
    ///
    /// There is one adjacency for each tunnel: where the underlay has several equal ways to the other end, the node's address
    /// chooses one, so that nodes spread over the ways and one node's packets stay on one.
    pub(super) fn tunnels(&mut self, id: PeerId) -> Result<(), CompileError> {
        for (place, (encap, family)) in TUNNELS.into_iter().enumerate() {
            let Some(peer) = self.snapshot.peers.get(u32::from(id.0)) else {
                return Ok(());
            };
            let old = peer.tunnels[place];
            let name = peer.source.name.clone();
            match (old, self.tunnel(&peer.source, encap, family)) {
                (None, None) => {}
                (Some(old), Some(new)) => {
                    let before = self.snapshot.adjacency(old);
                    // A flow keeps the port and the MTU beside the index.
                    if (before.port, before.mtu, before.encap) != (new.port, new.mtu, new.encap) {
                        self.bumps.add(Shard::peer(id));
                    }
                    self.set_adjacency(old, new);
                }
                (None, Some(new)) => {
                    let adjacency = self.new_adjacency(&Subject::new("Node", "", &name), new)?;
                    self.peer_mut(id).tunnels[place] = Some(adjacency);
                    self.bumps.add(Shard::peer(id));
                }
                (Some(old), None) => {
                    self.snapshot.adjacencies.remove(u32::from(old.0));
                    self.peer_mut(id).tunnels[place] = None;
                    self.bumps.add(Shard::peer(id));
                }
            }
        }
        Ok(())
    }

    /// `None` when an end is missing, or no route leads to the other one.
    fn tunnel(&self, peer: &RemoteNode, encap: Encap, family: Family) -> Option<Adjacency> {
        let is_it = |end: &&TunnelEnd| (end.encap, end.family) == (encap, family);
        let node = &self.snapshot.node;
        let our_end = node.tunnel_ends.iter().find(is_it)?;
        let their_end = peer.tunnel_ends.iter().find(is_it)?;
        let them = their_end.outer_address.or_else(|| peer.main_address(family))?;
        let us = outer(node, our_end)
            .filter(|us| us.is_ipv4() == them.is_ipv4())
            .or_else(|| node.main_address(Family::of(&them)))?;
        let hop = self
            .snapshot
            .underlay_adjacency(them, (hash::address(them) >> 32) as u32)?;
        let hop = self.snapshot.adjacency(hop);
        match encap {
            Encap::Vxlan => {
                let us = End {
                    outer: us,
                    mac: our_end.mac?,
                };
                let them = End {
                    outer: them,
                    mac: their_end.mac?,
                };
                template::vxlan(hop, us, them, node.vxlan_vni, node.vxlan_port)
            }
            Encap::Ipip => template::ipip(hop, us, them),
            Encap::None => None,
        }
    }

    fn peer_mut(&mut self, id: PeerId) -> &mut Peer {
        self.snapshot
            .peers
            .get_mut(u32::from(id.0))
            .expect("an index that a name or block has is taken")
    }
}

/// The addresses of a node, those that carry tunnels among them, and its tunnel addresses.
fn claims_of(node: &RemoteNode, id: PeerId) -> Vec<(IpNet, Claim)> {
    let outer = node.tunnel_ends.iter().filter_map(|end| end.outer_address);
    let own = node
        .addresses
        .iter()
        .copied()
        .chain(outer)
        .map(|a: IpAddr| (host(a), Claim::PeerNode(id)));
    let tunnels = node
        .tunnel_ends
        .iter()
        .filter_map(|end| Some((host(end.address?), Claim::PeerTunnel(id, end.encap))));
    let mut claims: Vec<_> = own.chain(tunnels).collect();
    claims.sort_unstable();
    claims.dedup();
    claims
}
