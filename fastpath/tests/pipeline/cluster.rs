//! The cluster of the tests: this node with three pods, and three other nodes reached by VXLAN, plainly and by IPIP.

use std::net::IpAddr;

use contract::proto;
use fastpath::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};
use wire::Mac;

/// The two families have the same cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fam {
    V4,
    V6,
}

pub const BOTH: [Fam; 2] = [Fam::V4, Fam::V6];

impl Fam {
    /// A pod's address: node and number.
    pub fn pod(self, node: u8, number: u8) -> String {
        match self {
            Self::V4 => format!("10.244.{node}.{number}"),
            Self::V6 => format!("fd00:{node}::{number:x}"),
        }
    }

    /// A node's own address.
    pub fn node(self, node: u8) -> String {
        match self {
            Self::V4 => format!("192.168.0.{node}"),
            Self::V6 => format!("2001:db8:0:1::{node:x}"),
        }
    }

    /// A node's tunnel address.
    pub fn tunnel(self, node: u8) -> String {
        self.pod(node, 0)
    }

    /// Somewhere beyond the cluster.
    pub fn outside(self) -> String {
        match self {
            Self::V4 => "203.0.113.9".into(),
            Self::V6 => "2001:db8:ffff::9".into(),
        }
    }

    pub fn vip(self, number: u8) -> String {
        match self {
            Self::V4 => format!("10.96.0.{number}"),
            Self::V6 => format!("fdaa::{number:x}"),
        }
    }

    pub fn at(self, address: &str, port: u16) -> String {
        match self {
            Self::V4 => format!("{address}:{port}"),
            Self::V6 => format!("[{address}]:{port}"),
        }
    }
}

pub fn bytes(text: &str) -> Vec<u8> {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub fn net(text: &str) -> proto::Prefix {
    let (address, length) = text.split_once('/').unwrap();
    proto::Prefix {
        address: bytes(address),
        length: length.parse().unwrap(),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the type of the field that it fills")]
pub fn origin(kind: &str, name: &str) -> Option<proto::Origin> {
    Some(proto::Origin {
        group: String::new(),
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
    })
}

fn ends(node: u8) -> Vec<proto::TunnelEnd> {
    let vxlan = |address: String| proto::TunnelEnd {
        encap: proto::Encap::Vxlan as i32,
        address: bytes(&address),
        mac: vec![0x66, 0, 0, 0, 0, node],
        outer_address: vec![],
    };
    let ipip = proto::TunnelEnd {
        encap: proto::Encap::Ipip as i32,
        address: bytes(&format!("10.244.{node}.1")),
        mac: vec![],
        outer_address: vec![],
    };
    vec![vxlan(Fam::V4.tunnel(node)), vxlan(Fam::V6.tunnel(node)), ipip]
}

pub fn pod_mac(number: u8) -> Mac {
    Mac([2, 1, 10, 244, 1, number])
}

pub fn pod(name: &str, number: u8) -> proto::Port {
    proto::Port {
        name: format!("pod:default/{name}"),
        kind: proto::PortKind::Pod as i32,
        interface: format!("rw{number}"),
        mac: pod_mac(number).0.to_vec(),
        addresses: BOTH.iter().map(|f| bytes(&f.pod(1, number))).collect(),
        mtu: 1450,
        ingress: None,
        egress: None,
    }
}

fn port(name: &str, kind: proto::PortKind) -> proto::Port {
    proto::Port {
        name: name.into(),
        kind: kind as i32,
        ..Default::default()
    }
}

/// Nodes 2 (VXLAN), 3 (plain), 4 (IPIP, IPv4).
pub fn cluster() -> proto::State {
    let remote = |node: u8| proto::RemoteNode {
        name: format!("node-{node}"),
        addresses: BOTH.iter().map(|f| bytes(&f.node(node))).collect(),
        tunnel_ends: ends(node),
        uplink_mac: vec![],
    };
    let block = |prefix: &str, node: u8, encap: proto::Encap| proto::Block {
        prefix: Some(net(prefix)),
        node: format!("node-{node}"),
        encap: encap as i32,
    };
    let pool = |prefix: &str, encap: proto::Encap| proto::Pool {
        prefix: Some(net(prefix)),
        nat_outgoing: true,
        encap: encap as i32,
        cross_subnet: false,
    };
    proto::State {
        version: 1,
        node: Some(proto::Node {
            name: "node-1".into(),
            addresses: BOTH.iter().map(|f| bytes(&f.node(1))).collect(),
            own_blocks: vec![net("10.244.1.0/24"), net("fd00:1::/64")],
            tunnel_ends: ends(1),
            ..Default::default()
        }),
        ports: vec![
            port("uplink", proto::PortKind::Uplink),
            port("host", proto::PortKind::Host),
            pod("web", 5),
            pod("client", 6),
            pod("other", 7),
        ],
        remote_nodes: vec![remote(2), remote(3), remote(4)],
        blocks: vec![
            block("10.244.2.0/24", 2, proto::Encap::Vxlan),
            block("fd00:2::/64", 2, proto::Encap::Vxlan),
            block("10.244.3.0/24", 3, proto::Encap::None),
            block("fd00:3::/64", 3, proto::Encap::None),
            block("10.244.4.0/24", 4, proto::Encap::Ipip),
        ],
        pools: vec![
            pool("10.244.0.0/22", proto::Encap::Vxlan),
            pool("10.244.3.0/24", proto::Encap::None),
            pool("10.244.4.0/24", proto::Encap::Ipip),
            pool("fd00::/16", proto::Encap::Vxlan),
            pool("fd00:3::/64", proto::Encap::None),
        ],
        service_ranges: vec![net("10.96.0.0/12"), net("fdaa::/108")],
        ..Default::default()
    }
}

pub const UPLINK_MAC: Mac = Mac([2, 0, 192, 168, 0, 1]);
pub const HOST_MAC: Mac = Mac([2, 9, 0, 0, 0, 1]);
pub const ROUTER_MAC: Mac = Mac([2, 0xfe, 0, 0, 0, 1]);

pub fn node_mac(node: u8) -> Mac {
    Mac([2, 0, 192, 168, 0, node])
}

pub fn underlay() -> Underlay {
    let link = |port: &str, mac, peer_mac| Link {
        port: port.into(),
        mac,
        peer_mac,
        mtu: 1500,
        up: true,
    };
    let route = |prefix: &str, gateway: Option<&str>| UnderlayRoute {
        prefix: prefix.parse().unwrap(),
        metric: 0,
        next_hops: vec![NextHop {
            port: "uplink".into(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            weight: 1,
        }],
    };
    let neighbour = |address: String, mac| Neighbour {
        port: "uplink".into(),
        address: address.parse().unwrap(),
        mac,
    };
    let mut neighbours = Vec::new();
    for f in BOTH {
        neighbours.extend([2, 3, 4].map(|node| neighbour(f.node(node), node_mac(node))));
        neighbours.push(neighbour(f.node(254), ROUTER_MAC));
    }
    Underlay {
        links: vec![
            link("uplink", UPLINK_MAC, None),
            link("host", Mac([0xee; 6]), Some(HOST_MAC)),
        ],
        routes: vec![
            route("192.168.0.0/24", None),
            route("0.0.0.0/0", Some("192.168.0.254")),
            route("10.244.3.0/24", Some("192.168.0.3")),
            route("2001:db8:0:1::/64", None),
            route("::/0", Some("2001:db8:0:1::fe")),
            route("fd00:3::/64", Some("2001:db8:0:1::3")),
        ],
        neighbours,
    }
}

/// A Service port on this VIP number (both families), backends `(address, port, state)`.
pub fn service(
    name: &str,
    vip: u8,
    protocol: u8,
    port: u16,
    backends: &[(String, u16, proto::BackendState)],
) -> proto::Service {
    proto::Service {
        id: format!("default/{name}"),
        origin: origin("Service", name),
        protocol: protocol.into(),
        port: port.into(),
        cluster_ips: BOTH.iter().map(|f| bytes(&f.vip(vip))).collect(),
        backends: backends
            .iter()
            .map(|(address, port, state)| proto::Backend {
                address: bytes(address),
                port: u32::from(*port),
                state: *state as i32,
                local: false,
            })
            .collect(),
        affinity_s: 0,
    }
}

/// One backend for each family: this pod.
pub fn backend(node: u8, number: u8, port: u16) -> Vec<(String, u16, proto::BackendState)> {
    BOTH.iter()
        .map(|f| (f.pod(node, number), port, proto::BackendState::Ready))
        .collect()
}

/// A policy with these rules: action, peer prefixes (none: any), TCP destination port (none: any).
pub fn policy(name: &str, ingress: &[Rule], egress: &[Rule]) -> proto::Policy {
    let rules = |rules: &[Rule]| {
        rules
            .iter()
            .enumerate()
            .map(|(index, rule)| rule.proto(index as u32))
            .collect()
    };
    proto::Policy {
        id: format!("NetworkPolicy/default/{name}"),
        origin: origin("NetworkPolicy", name),
        ingress: rules(ingress),
        egress: rules(egress),
    }
}

pub struct Rule {
    pub action: proto::Action,
    pub peers: Vec<String>,
    pub protocol_port: Option<(u8, u16)>,
}

pub fn allow(peers: &[String], protocol_port: Option<(u8, u16)>) -> Rule {
    Rule {
        action: proto::Action::Allow,
        peers: peers.to_vec(),
        protocol_port,
    }
}

pub fn deny(peers: &[String]) -> Rule {
    Rule {
        action: proto::Action::Deny,
        peers: peers.to_vec(),
        protocol_port: None,
    }
}

impl Rule {
    fn proto(&self, index: u32) -> proto::Rule {
        let peer = |address: &String| {
            let length = if address.contains(':') { 128 } else { 32 };
            let block = proto::IpBlock {
                prefix: Some(net(&format!("{address}/{length}"))),
                except: vec![],
            };
            proto::Peer {
                peer: Some(proto::peer::Peer::IpBlock(block)),
            }
        };
        let port = |(protocol, port): (u8, u16)| proto::PortMatch {
            protocol: protocol.into(),
            port: Some(proto::port_match::Port::Range(proto::PortRange {
                first: port.into(),
                last: port.into(),
            })),
        };
        proto::Rule {
            index,
            action: self.action as i32,
            any_peer: self.peers.is_empty(),
            peers: self.peers.iter().map(peer).collect(),
            any_port: self.protocol_port.is_none(),
            ports: self.protocol_port.map(port).into_iter().collect(),
        }
    }
}

/// One tier with these policies, default deny.
#[expect(clippy::unnecessary_wraps, reason = "the type of the field that it fills")]
pub fn attach(policies: &[&str]) -> Option<proto::PolicyAttachment> {
    let tier = proto::Tier {
        name: "default".into(),
        policies: policies
            .iter()
            .map(|name| format!("NetworkPolicy/default/{name}"))
            .collect(),
        default_action: proto::Action::Deny as i32,
    };
    Some(proto::PolicyAttachment { tiers: vec![tier] })
}

/// The port of a pod in a state.
pub fn port_of<'s>(state: &'s mut proto::State, pod: &str) -> &'s mut proto::Port {
    let name = format!("pod:default/{pod}");
    state.ports.iter_mut().find(|port| port.name == name).unwrap()
}
