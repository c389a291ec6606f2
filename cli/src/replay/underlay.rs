//! The underlay of a replay: every node on one link, and a gateway for all else. No neighbour is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use contract::valid::{PortKind, ValidState};
use fastpath::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use wire::addr::Mac;

/// Who has the way to everything that is no node's address.
pub(super) const GATEWAY_MAC: Mac = Mac([0x02, 0xfe, 0, 0, 0, 1]);

/// Its addresses never appear in a packet: next hops are told by address, that is all.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 254, 254)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xfefe, 0xfefe)),
];

/// When no annotation says otherwise.
const MTU: u16 = 1500;

/// The underlay that `state` implies. Nodes and gateway are on the first uplink.
pub(super) fn of(state: &ValidState) -> Underlay {
    let mut uplinks: Vec<Arc<str>> = state
        .ports
        .iter()
        .filter(|port| port.kind == PortKind::Uplink)
        .map(|port| Arc::clone(&port.name))
        .collect();
    uplinks.sort_unstable();
    let links = uplinks.iter().map(|port| Link {
        port: Arc::clone(port),
        mac: state.node.uplink_mac.unwrap_or(Mac::ZERO),
        peer_mac: None,
        mtu: state.node.uplink_mtu.unwrap_or(MTU),
        up: true,
    });
    let mut underlay = Underlay {
        links: links.collect(),
        ..Underlay::default()
    };
    let Some(uplink) = uplinks.first() else {
        return underlay;
    };
    for (gateway, anywhere) in GATEWAYS
        .into_iter()
        .zip([IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())])
    {
        underlay.neighbours.push(neighbour(uplink, gateway, GATEWAY_MAC));
        underlay.routes.push(route(uplink, anywhere, Some(gateway)));
    }
    for node in &state.remote_nodes {
        let mac = node.uplink_mac.unwrap_or(GATEWAY_MAC);
        for address in &node.addresses {
            underlay.neighbours.push(neighbour(uplink, *address, mac));
            underlay.routes.push(route(uplink, IpNet::from(*address), None));
        }
    }
    // As a routing daemon would say it: a pod is no node, so its packets go to the gateway.
    for block in &state.blocks {
        let gateway = GATEWAYS
            .into_iter()
            .find(|gateway| gateway.is_ipv4() == block.prefix.addr().is_ipv4());
        underlay.routes.push(route(uplink, block.prefix, gateway));
    }
    underlay
}

fn neighbour(port: &Arc<str>, address: IpAddr, mac: Mac) -> Neighbour {
    Neighbour {
        port: Arc::clone(port),
        address,
        mac,
    }
}

fn route(port: &Arc<str>, prefix: IpNet, gateway: Option<IpAddr>) -> UnderlayRoute {
    UnderlayRoute {
        prefix,
        metric: 0,
        next_hops: vec![NextHop {
            port: Arc::clone(port),
            gateway,
            weight: 1,
        }],
    }
}
