//! A cluster of two nodes, as control would tell it to the first.

use std::net::IpAddr;

use contract::proto;
use wire::addr::Mac;

use crate::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn bytes(text: &str) -> Vec<u8> {
    match address(text) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn net(text: &str) -> proto::Prefix {
    let (address, length) = text.split_once('/').unwrap();
    proto::Prefix {
        address: bytes(address),
        length: length.parse().unwrap(),
    }
}

pub(super) fn origin(kind: &str, name: &str) -> proto::Origin {
    let group = if kind == "NetworkPolicy" {
        "networking.k8s.io"
    } else {
        ""
    };
    proto::Origin {
        group: group.into(),
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
    }
}

/// The VXLAN ends of node `number`.
pub(super) fn ends(number: u8) -> Vec<proto::TunnelEnd> {
    let mac = vec![0x66, 0, 0, 0, 0, number];
    let vxlan = |address: String| proto::TunnelEnd {
        encap: proto::Encap::Vxlan as i32,
        address: bytes(&address),
        mac: mac.clone(),
        outer_address: vec![],
    };
    vec![
        vxlan(format!("10.244.{number}.0")),
        vxlan(format!("fd00:{number}::")),
    ]
}

pub(super) fn pod(name: &str, number: u8, policies: &[&str]) -> proto::Port {
    let tier = proto::Tier {
        name: "default".into(),
        policies: policies.iter().map(ToString::to_string).collect(),
        default_action: proto::Action::Deny as i32,
    };
    proto::Port {
        name: format!("pod:default/{name}"),
        kind: proto::PortKind::Pod as i32,
        interface: format!("rw{number}"),
        mac: vec![2, 1, 10, 244, 1, number],
        addresses: vec![vec![10, 244, 1, number], bytes(&format!("fd00:1::{number:x}"))],
        mtu: 1450,
        ingress: (!policies.is_empty()).then(|| proto::PolicyAttachment { tiers: vec![tier] }),
        egress: None,
    }
}

pub(super) fn remote(number: u8) -> proto::RemoteNode {
    proto::RemoteNode {
        name: format!("node-{number}"),
        addresses: vec![
            vec![192, 168, 0, number],
            bytes(&format!("2001:db8:0:1::{number:x}")),
        ],
        tunnel_ends: ends(number),
        uplink_mac: vec![],
    }
}

pub(super) fn cluster() -> proto::State {
    let vxlan = proto::Encap::Vxlan as i32;
    let block = |prefix: &str| proto::Block {
        prefix: Some(net(prefix)),
        node: "node-2".into(),
        encap: vxlan,
    };
    let pool = |prefix: &str| proto::Pool {
        prefix: Some(net(prefix)),
        nat_outgoing: true,
        encap: vxlan,
        cross_subnet: false,
    };
    let backend = |address: &str, state: proto::BackendState| proto::Backend {
        address: bytes(address),
        port: 8080,
        state: state as i32,
        local: false,
    };
    let port = |name: &str, kind: proto::PortKind| proto::Port {
        name: name.into(),
        kind: kind as i32,
        ..Default::default()
    };
    proto::State {
        version: 1,
        node: Some(proto::Node {
            name: "node-1".into(),
            addresses: vec![bytes("192.168.0.1"), bytes("2001:db8:0:1::1")],
            own_blocks: vec![net("10.244.1.0/24"), net("fd00:1::/64")],
            tunnel_ends: ends(1),
            ..Default::default()
        }),
        ports: vec![
            port("uplink", proto::PortKind::Uplink),
            port("host", proto::PortKind::Host),
            pod("web", 5, &["NetworkPolicy/default/web"]),
            pod("client", 6, &[]),
        ],
        remote_nodes: vec![remote(2)],
        blocks: vec![block("10.244.2.0/24"), block("fd00:2::/64")],
        pools: vec![pool("10.244.0.0/16"), pool("fd00::/16")],
        services: vec![proto::Service {
            id: "default/web:http".into(),
            origin: Some(origin("Service", "web")),
            protocol: 6,
            port: 80,
            cluster_ips: vec![bytes("10.96.0.10")],
            backends: vec![
                backend("10.244.1.5", proto::BackendState::Ready),
                backend("10.244.2.7", proto::BackendState::Ready),
                backend("10.244.2.8", proto::BackendState::NotReady),
            ],
            affinity_s: 0,
        }],
        service_ranges: vec![net("10.96.0.0/12")],
        ip_sets: vec![proto::IpSet {
            id: "clients".into(),
            kind: proto::ip_set::Kind::Addresses as i32,
            members: vec![proto::Member {
                prefix: Some(net("10.244.2.7/32")),
                ..Default::default()
            }],
        }],
        policies: vec![proto::Policy {
            id: "NetworkPolicy/default/web".into(),
            origin: Some(origin("NetworkPolicy", "web")),
            ingress: vec![proto::Rule {
                index: 0,
                action: proto::Action::Allow as i32,
                any_peer: false,
                peers: vec![proto::Peer {
                    peer: Some(proto::peer::Peer::IpSet("clients".into())),
                }],
                any_port: false,
                ports: vec![proto::PortMatch {
                    protocol: 6,
                    port: Some(proto::port_match::Port::Range(proto::PortRange {
                        first: 80,
                        last: 80,
                    })),
                }],
            }],
            egress: vec![],
        }],
        timeouts: None,
        limits: None,
    }
}

pub(super) fn route(prefix: &str, gateways: &[(&str, u16)]) -> UnderlayRoute {
    let next_hops = gateways
        .iter()
        .map(|(gateway, weight)| NextHop {
            port: "uplink".into(),
            gateway: gateway.parse().ok(),
            weight: *weight,
        })
        .collect();
    UnderlayRoute {
        prefix: prefix.parse().unwrap(),
        metric: 0,
        next_hops,
    }
}

pub(super) fn neighbour(text: &str, mac: [u8; 6]) -> Neighbour {
    Neighbour {
        port: "uplink".into(),
        address: address(text),
        mac: Mac(mac),
    }
}

pub(super) fn underlay() -> Underlay {
    Underlay {
        links: vec![Link {
            port: "uplink".into(),
            mac: Mac([2, 0, 192, 168, 0, 1]),
            peer_mac: None,
            mtu: 1500,
            up: true,
        }],
        routes: vec![
            route("192.168.0.0/24", &[("", 1)]),
            route("2001:db8:0:1::/64", &[("", 1)]),
            route("0.0.0.0/0", &[("192.168.0.254", 1)]),
        ],
        neighbours: vec![
            neighbour("192.168.0.2", [2, 0, 192, 168, 0, 2]),
            neighbour("192.168.0.254", [2, 0xfe, 0, 0, 0, 1]),
            neighbour("2001:db8:0:1::2", [2, 0, 192, 168, 0, 2]),
        ],
    }
}
