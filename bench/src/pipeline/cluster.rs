//! The desired state of the benchmark's node, as control would tell it.

use std::net::{IpAddr, Ipv4Addr};

use contract::proto;
use fastpath::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};

use super::case::{
    CLIENT_PORTS, Case, FIRST_REMOTE, FIRST_SERVER_PORT, GATEWAY_MAC, NEW_FLOW_SERVICES_MAX, SERVERS_MAX,
    client_address, node_address, node_mac, pod_mac, vip, vtep_mac,
};
use super::packet::Family;

/// What the node is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cluster {
    pub(crate) case: Case,
    /// Of the pods; VXLAN's outer headers are IPv4 always.
    pub(crate) family: Family,
    /// Every flow's number is below.
    pub(crate) flows: u32,
    /// Pods that send.
    pub(crate) clients: u16,
    /// Room in the flow table.
    pub(crate) connections: u32,
    /// Of new flows: Services, and rules before the one that allows.
    pub(crate) services: u32,
    pub(crate) rules: u32,
}

/// The state of such a node.
pub(crate) fn state(cluster: &Cluster) -> proto::State {
    let Cluster {
        case,
        family,
        flows,
        clients,
        connections,
        services: new_flow_services,
        rules,
    } = *cluster;
    let encap = if case.has_tunnel() {
        proto::Encap::Vxlan
    } else {
        proto::Encap::None
    };
    let servers: Vec<Ipv4Addr> = (0..case.servers())
        .map(|server| *case.server(0, server).ip())
        .collect();
    let mut ports = vec![
        port("uplink", proto::PortKind::Uplink),
        port("host", proto::PortKind::Host),
    ];
    ports.extend((0..clients).map(|number| pod("client", number, client_address(number), cluster)));
    if !case.is_remote() {
        ports.extend(
            servers
                .iter()
                .zip(0..)
                .map(|(address, number)| pod("server", number, *address, cluster)),
        );
    }
    let remotes = || FIRST_REMOTE..FIRST_REMOTE + SERVERS_MAX as u8;
    proto::State {
        version: 1,
        node: Some(proto::Node {
            name: "node-1".into(),
            addresses: node_addresses(family, 1),
            own_blocks: vec![prefix(family, Ipv4Addr::new(10, 244, 1, 0), 24)],
            tunnel_ends: vec![tunnel_end(family, 1)],
            ..Default::default()
        }),
        ports,
        remote_nodes: remotes()
            .map(|node| proto::RemoteNode {
                name: format!("node-{node}"),
                addresses: node_addresses(family, node),
                tunnel_ends: vec![tunnel_end(family, node)],
                uplink_mac: vec![],
            })
            .collect(),
        blocks: remotes()
            .map(|node| proto::Block {
                prefix: Some(prefix(family, Ipv4Addr::new(10, 244, node, 0), 24)),
                node: format!("node-{node}"),
                encap: encap as i32,
            })
            .collect(),
        pools: vec![proto::Pool {
            prefix: Some(prefix(family, Ipv4Addr::new(10, 244, 0, 0), 16)),
            nat_outgoing: true,
            encap: encap as i32,
            cross_subnet: false,
        }],
        services: services(case, family, flows, new_flow_services),
        service_ranges: vec![prefix(family, Ipv4Addr::new(10, 96, 0, 0), 12)],
        ip_sets: ip_sets(family, &servers, clients),
        policies: policies(case, family, rules),
        timeouts: (case == Case::NewFlows).then(|| proto::Timeouts {
            tcp_syn: NEW_FLOW_SECONDS,
            udp_single: NEW_FLOW_SECONDS,
            ..Default::default()
        }),
        limits: Some(proto::Limits {
            connections,
            // Of both protocols; what is more than the default is asked for.
            services: (2 * new_flow_services).max(SERVICES_LIMIT),
            ..Default::default()
        }),
    }
}

/// What the kernel would tell of the underlay: one uplink, every other node a neighbour on it.
pub(crate) fn underlay(case: Case, family: Family) -> Underlay {
    let remotes = || FIRST_REMOTE..FIRST_REMOTE + SERVERS_MAX as u8;
    let route = |family: Family, network: Ipv4Addr, gateway: Option<Ipv4Addr>| UnderlayRoute {
        prefix: format!("{}/{}", family.address(network), family.prefix_len(24))
            .parse()
            .expect("a prefix"),
        metric: 0,
        next_hops: vec![NextHop {
            port: "uplink".into(),
            gateway: gateway.map(|gateway| family.address(gateway)),
            weight: 1,
        }],
    };
    let of_nodes = Ipv4Addr::new(192, 168, 0, 0);
    let mut routes: Vec<UnderlayRoute> = families(family)
        .map(|family| route(family, of_nodes, None))
        .collect();
    if !case.has_tunnel() {
        routes.extend(remotes().map(|node| {
            let pods = Ipv4Addr::new(10, 244, node, 0);
            route(family, pods, Some(node_address(node)))
        }));
    }
    let link = |port: &str, mac, peer_mac| Link {
        port: port.into(),
        mac,
        peer_mac,
        mtu: UPLINK_MTU,
        up: true,
    };
    Underlay {
        links: vec![
            link("uplink", node_mac(1), None),
            link("host", GATEWAY_MAC, Some(wire::Mac([2, 9, 0, 0, 0, 1]))),
        ],
        routes,
        neighbours: families(family)
            .flat_map(|family| {
                remotes().map(move |node| Neighbour {
                    port: "uplink".into(),
                    address: family.address(node_address(node)),
                    mac: node_mac(node),
                })
            })
            .collect(),
    }
}

/// Name of the port of a pod.
pub(crate) fn pod_port(role: &str, number: u16) -> String {
    format!("pod:default/{role}-{number}")
}

fn bytes(family: Family, address: Ipv4Addr) -> Vec<u8> {
    match family.address(address) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn prefix(family: Family, address: Ipv4Addr, length: u8) -> proto::Prefix {
    proto::Prefix {
        address: bytes(family, address),
        length: family.prefix_len(length).into(),
    }
}

/// The pods' own, and IPv4 below it.
fn families(family: Family) -> impl Iterator<Item = Family> {
    let below = (family == Family::V6).then_some(Family::V4);
    std::iter::once(family).chain(below)
}

fn node_addresses(family: Family, node: u8) -> Vec<Vec<u8>> {
    families(family)
        .map(|family| bytes(family, node_address(node)))
        .collect()
}

fn tunnel_end(family: Family, node: u8) -> proto::TunnelEnd {
    proto::TunnelEnd {
        encap: proto::Encap::Vxlan as i32,
        address: bytes(family, Ipv4Addr::new(10, 244, node, 0)),
        mac: vtep_mac(node).0.to_vec(),
        outer_address: bytes(Family::V4, node_address(node)),
    }
}

pub(crate) fn port(name: &str, kind: proto::PortKind) -> proto::Port {
    proto::Port {
        name: name.into(),
        kind: kind as i32,
        ..Default::default()
    }
}

fn pod(role: &str, number: u16, address: Ipv4Addr, cluster: &Cluster) -> proto::Port {
    let attachment = |policy: String| proto::PolicyAttachment {
        tiers: vec![proto::Tier {
            name: "default".into(),
            policies: vec![policy],
            default_action: proto::Action::Deny as i32,
        }],
    };
    proto::Port {
        mac: pod_mac(address).0.to_vec(),
        addresses: vec![bytes(cluster.family, address)],
        interface: format!("{role}{number}"),
        mtu: POD_MTU,
        ingress: cluster
            .case
            .has_policy()
            .then(|| attachment(policy_id("in", role))),
        egress: cluster
            .case
            .has_policy()
            .then(|| attachment(policy_id("out", role))),
        ..port(&pod_port(role, number), proto::PortKind::Pod)
    }
}

pub(crate) fn origin(kind: &str, name: &str) -> proto::Origin {
    proto::Origin {
        group: String::new(),
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
    }
}

fn services(case: Case, family: Family, flows: u32, services: u32) -> Vec<proto::Service> {
    let count = match case {
        Case::NewFlows => services,
        _ if case.has_service() => flows.div_ceil(CLIENT_PORTS),
        _ => 0,
    };
    let of_number = |number: u32, protocol: u32| {
        let flow = if case == Case::NewFlows {
            number
        } else {
            number * CLIENT_PORTS
        };
        let backend = |server| {
            let at = case.server(flow, server);
            proto::Backend {
                address: bytes(family, *at.ip()),
                port: at.port().into(),
                state: proto::BackendState::Ready as i32,
                local: !case.is_remote(),
            }
        };
        proto::Service {
            id: format!("default/service-{number}:{protocol}"),
            origin: Some(origin("Service", &format!("service-{number}"))),
            protocol,
            port: 80,
            cluster_ips: vec![bytes(family, vip(number))],
            backends: (0..case.servers()).map(backend).collect(),
            affinity_s: 0,
        }
    };
    (0..count)
        .flat_map(|number| [6, 17].map(|protocol| of_number(number, protocol)))
        .collect()
}

fn ip_sets(family: Family, servers: &[Ipv4Addr], clients: u16) -> Vec<proto::IpSet> {
    let set = |id: &str, addresses: Vec<Ipv4Addr>| proto::IpSet {
        id: id.into(),
        kind: proto::ip_set::Kind::Addresses as i32,
        members: addresses
            .into_iter()
            .map(|address| proto::Member {
                prefix: Some(prefix(family, address, 32)),
                ..Default::default()
            })
            .collect(),
    };
    vec![
        set("servers", servers.to_vec()),
        set("clients", (0..clients).map(client_address).collect()),
    ]
}

fn policy_id(direction: &str, role: &str) -> String {
    format!("NetworkPolicy/default/{direction}-{role}")
}

/// Clients may speak to the servers' set and servers be spoken to by the clients' set, on the servers' ports; nothing else.
/// For new flows the rule that allows comes after `before` that don't match.
fn policies(case: Case, family: Family, before: u32) -> Vec<proto::Policy> {
    let before = if case == Case::NewFlows { before } else { 0 };
    let rules = |peers: &str| -> Vec<proto::Rule> {
        let elsewhere = (0..before).map(|index| {
            let peer = proto::IpBlock {
                prefix: Some(prefix(
                    family,
                    Ipv4Addr::new(172, 16, (index >> 8) as u8, index as u8),
                    32,
                )),
                except: vec![],
            };
            rule(index, proto::peer::Peer::IpBlock(peer))
        });
        elsewhere
            .chain([rule(before, proto::peer::Peer::IpSet(peers.into()))])
            .collect()
    };
    let policy = |direction: &str, role: &str, ingress, egress| proto::Policy {
        id: policy_id(direction, role),
        origin: Some(origin("NetworkPolicy", &format!("{direction}-{role}"))),
        ingress,
        egress,
    };
    if !case.has_policy() {
        return Vec::new();
    }
    vec![
        policy("out", "client", vec![], rules("servers")),
        policy("in", "client", vec![], vec![]),
        policy("out", "server", vec![], vec![]),
        policy("in", "server", rules("clients"), vec![]),
    ]
}

fn rule(index: u32, peer: proto::peer::Peer) -> proto::Rule {
    let ports = |protocol| proto::PortMatch {
        protocol,
        port: Some(proto::port_match::Port::Range(proto::PortRange {
            first: FIRST_SERVER_PORT.into(),
            last: u32::from(FIRST_SERVER_PORT) + NEW_FLOW_SERVICES_MAX,
        })),
    };
    proto::Rule {
        index,
        action: proto::Action::Allow as i32,
        any_peer: false,
        peers: vec![proto::Peer { peer: Some(peer) }],
        any_port: false,
        ports: vec![ports(6), ports(17)],
    }
}

/// Bytes of IP packet that the uplink takes: a frame of 1514 bytes and VXLAN around it.
pub(crate) const UPLINK_MTU: u16 = 1600;
pub(crate) const POD_MTU: u32 = 1500;
/// The default limit of Services' ports.
const SERVICES_LIMIT: u32 = 1 << 16;
/// How long a flow of one packet lives in the new-flows case, seconds of the bench's clock.
pub(crate) const NEW_FLOW_SECONDS: u32 = 10;
