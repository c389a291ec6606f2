//! This node: its addresses, own blocks, pools, and what it tells the stages.

use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::{Encap, Family, Node, Pool, Subject, TunnelEnd};
use ipnet::IpNet;
use wire::addr::Vni;

use super::claim::host;
use super::{CompileError, Work};
use crate::snapshot::table::{Claim, PoolRecord};
use crate::snapshot::{PoolFlags, ThisNode};

/// A node of no name: before the first state.
pub(super) fn nobody() -> Node {
    Node {
        name: "".into(),
        addresses: Vec::new(),
        uplink_mac: None,
        uplink_mtu: None,
        own_blocks: Vec::new(),
        tunnel_ends: Vec::new(),
        vxlan_vni: Vni::default(),
        vxlan_port: 0,
        snat_ports: (0, 0),
    }
}

impl Work {
    /// `true` when the underlay and the tunnels must be compiled again.
    pub(super) fn node(&mut self, node: Node) -> bool {
        if *self.snapshot.node == node {
            return false;
        }
        let old = self.snapshot.node.clone();
        let (before, after) = (claims_of(&old), claims_of(&node));
        for (prefix, claim) in before.iter().filter(|claim| !after.contains(claim)) {
            self.withdraw(*prefix, *claim);
        }
        for (prefix, claim) in after.iter().filter(|claim| !before.contains(claim)) {
            self.claim(*prefix, *claim);
        }
        let this = this_node(&node);
        if *self.snapshot.this != this {
            // Masquerade, tunnels and what is ours depend on these: rare, so everything is decided again.
            self.bumps.add_all();
        }
        self.snapshot.this = Arc::new(this);
        self.snapshot.node = Arc::new(node);
        true
    }

    pub(super) fn pool(&mut self, pool: Pool) {
        let flags = PoolFlags {
            nat_outgoing: pool.nat_outgoing,
            demands_tunnel: pool.encap != Encap::None && !pool.cross_subnet,
        };
        let before = self
            .snapshot
            .pools
            .insert(pool.prefix, PoolRecord { source: pool, flags });
        if before.is_none_or(|before| before.flags != flags) {
            // Every destination inside may be another now, whatever routes lead there.
            self.bumps.add_all();
        }
    }

    pub(super) fn pool_removed(&mut self, prefix: IpNet) -> Result<(), CompileError> {
        if self.snapshot.pools.remove(prefix).is_none() {
            return Err(missing("Pool", &prefix.to_string()));
        }
        self.bumps.add_all();
        Ok(())
    }
}

/// Something of this name should be there.
pub(super) fn missing(kind: &str, name: &str) -> CompileError {
    let subject = if kind == "Port" {
        Subject::port(name)
    } else {
        Subject::new(kind, "", name)
    };
    subject
        .invalid("name", "something that is there", "nothing of this name")
        .into()
}

fn claims_of(node: &Node) -> Vec<(IpNet, Claim)> {
    let tunnels = node.tunnel_ends.iter().filter_map(|end| end.address);
    let mut claims: Vec<_> = node
        .own_blocks
        .iter()
        .map(|block| (*block, Claim::OwnBlock))
        .collect();
    claims.extend(
        node.addresses
            .iter()
            .copied()
            .chain(tunnels)
            .map(|address| (host(address), Claim::ThisNode)),
    );
    claims.sort_unstable();
    claims.dedup();
    claims
}

fn this_node(node: &Node) -> ThisNode {
    let tunnel_address = |encap, family| {
        let end = node
            .tunnel_ends
            .iter()
            .find(|end| (end.encap, end.family) == (encap, family))?;
        end.address
    };
    let mut vteps: Vec<_> = node
        .tunnel_ends
        .iter()
        .filter_map(|end| outer(node, end))
        .collect();
    vteps.sort_unstable();
    vteps.dedup();
    ThisNode {
        name: node.name.clone(),
        addresses: node.addresses.as_slice().into(),
        vteps: vteps.into(),
        vxlan_address_v4: tunnel_address(Encap::Vxlan, Family::V4),
        vxlan_address_v6: tunnel_address(Encap::Vxlan, Family::V6),
        ipip_address_v4: tunnel_address(Encap::Ipip, Family::V4),
        vni: node.vxlan_vni,
        vxlan_port: node.vxlan_port,
        snat_ports: node.snat_ports,
    }
}

/// The address that carries a tunnel end of this node.
pub(super) fn outer(node: &Node, end: &TunnelEnd) -> Option<IpAddr> {
    end.outer_address.or_else(|| node.main_address(end.family))
}
