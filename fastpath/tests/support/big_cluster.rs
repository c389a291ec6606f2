//! A cluster of a chosen size, as control would tell it to one node.

use contract::proto;
use fastpath::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};
use wire::addr::Mac;

/// How big.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Other nodes, each with a block.
    pub(crate) nodes: u32,
    /// Pods on this node.
    pub(crate) pods: u8,
    /// Service ports.
    pub(crate) services: u32,
    /// Backends of each.
    pub(crate) backends: u32,
    /// Policies of four rules.
    pub(crate) policies: u32,
    /// Members of the one large set; the others have ten.
    pub(crate) members: u32,
}

/// The state of that size.
pub(crate) fn cluster(size: Size) -> proto::State {
    let vxlan = proto::Encap::Vxlan as i32;
    let end = |number: u32| proto::TunnelEnd {
        encap: vxlan,
        address: pod_address(number << 8),
        mac: [vec![0x66, 0], number.to_be_bytes().to_vec()].concat(),
        outer_address: vec![],
    };
    let port = |name: &str, kind: proto::PortKind| proto::Port {
        name: name.into(),
        kind: kind as i32,
        ..Default::default()
    };
    let mut ports = vec![
        port("uplink", proto::PortKind::Uplink),
        port("host", proto::PortKind::Host),
    ];
    ports.extend((0..size.pods).map(|number| pod(number, size.policies)));
    proto::State {
        version: 1,
        node: Some(proto::Node {
            name: "node-0".into(),
            addresses: vec![vec![192, 168, 0, 1]],
            own_blocks: vec![proto::Prefix {
                address: pod_address(0),
                length: 24,
            }],
            tunnel_ends: vec![end(0)],
            ..Default::default()
        }),
        ports,
        remote_nodes: (1..=size.nodes)
            .map(|number| proto::RemoteNode {
                name: format!("node-{number}"),
                addresses: vec![(0xac10_0000 + number).to_be_bytes().to_vec()],
                tunnel_ends: vec![end(number)],
                uplink_mac: vec![],
            })
            .collect(),
        blocks: (1..=size.nodes)
            .map(|number| proto::Block {
                prefix: Some(proto::Prefix {
                    address: pod_address(number << 8),
                    length: 24,
                }),
                node: format!("node-{number}"),
                encap: vxlan,
            })
            .collect(),
        pools: vec![proto::Pool {
            prefix: Some(proto::Prefix {
                address: vec![10, 0, 0, 0],
                length: 8,
            }),
            nat_outgoing: true,
            encap: vxlan,
            cross_subnet: false,
        }],
        services: (0..size.services)
            .map(|number| service(number, size.backends))
            .collect(),
        service_ranges: vec![proto::Prefix {
            address: vec![100, 64, 0, 0],
            length: 10,
        }],
        ip_sets: (0..1_000)
            .map(|number| ip_set(number, if number == 0 { size.members } else { 10 }))
            .collect(),
        policies: (0..size.policies).map(policy).collect(),
        ..Default::default()
    }
}

/// Pod address number `number`, in 10.0.0.0/8.
pub(crate) fn pod_address(number: u32) -> Vec<u8> {
    (0x0a00_0000 + number).to_be_bytes().to_vec()
}

/// Local pod number `number`, with the first few policies.
pub(crate) fn pod(number: u8, policies: u32) -> proto::Port {
    let policies: Vec<_> = (0..policies.min(5)).map(policy_id).collect();
    let tier = proto::Tier {
        name: "default".into(),
        policies,
        default_action: proto::Action::Deny as i32,
    };
    let attachment = (!tier.policies.is_empty()).then(|| proto::PolicyAttachment { tiers: vec![tier] });
    proto::Port {
        name: format!("pod:default/pod-{number}"),
        kind: proto::PortKind::Pod as i32,
        interface: format!("rw{number}"),
        mac: vec![2, 1, 10, 0, 0, number],
        addresses: vec![pod_address(u32::from(number))],
        mtu: 1450,
        ingress: attachment.clone(),
        egress: attachment,
    }
}

/// Service port number `number`.
pub(crate) fn service(number: u32, backends: u32) -> proto::Service {
    proto::Service {
        id: format!("default/service-{number}:http"),
        origin: Some(origin("Service", &format!("service-{number}"))),
        protocol: 6,
        port: 80,
        cluster_ips: vec![(0x6440_0000 + number).to_be_bytes().to_vec()],
        backends: (0..backends)
            .map(|backend| proto::Backend {
                address: pod_address(256 + number * backends + backend),
                port: 8080,
                state: proto::BackendState::Ready as i32,
                local: false,
            })
            .collect(),
        affinity_s: 0,
    }
}

fn origin(kind: &str, name: &str) -> proto::Origin {
    proto::Origin {
        group: String::new(),
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
    }
}

fn ip_set(number: u32, members: u32) -> proto::IpSet {
    let members = (0..members)
        .map(|member| set_member(number * 16 + member))
        .collect();
    proto::IpSet {
        id: format!("set-{number}"),
        kind: proto::ip_set::Kind::Addresses as i32,
        members,
    }
}

/// The member that is pod address number `number`.
pub(crate) fn set_member(number: u32) -> proto::Member {
    let prefix = Some(proto::Prefix {
        address: pod_address(number),
        length: 32,
    });
    proto::Member {
        prefix,
        ..Default::default()
    }
}

fn policy_id(number: u32) -> String {
    format!("NetworkPolicy/default/policy-{number}")
}

fn policy(number: u32) -> proto::Policy {
    let rule = |index: u32| proto::Rule {
        index,
        action: proto::Action::Allow as i32,
        any_peer: false,
        peers: vec![proto::Peer {
            peer: Some(proto::peer::Peer::IpSet(format!(
                "set-{}",
                (number + index) % 1000
            ))),
        }],
        any_port: false,
        ports: vec![proto::PortMatch {
            protocol: 6,
            port: Some(proto::port_match::Port::Range(proto::PortRange {
                first: 80 + index,
                last: 90 + index,
            })),
        }],
    };
    proto::Policy {
        id: policy_id(number),
        origin: Some(origin("NetworkPolicy", &format!("policy-{number}"))),
        ingress: vec![rule(0), rule(1)],
        egress: vec![rule(0), rule(1)],
    }
}

/// One uplink with a default route.
pub(crate) fn underlay() -> Underlay {
    let router: std::net::IpAddr = [192, 168, 0, 254].into();
    let hop = NextHop {
        port: "uplink".into(),
        gateway: Some(router),
        weight: 1,
    };
    let prefix = "0.0.0.0/0".parse().expect("a prefix");
    Underlay {
        links: vec![Link {
            port: "uplink".into(),
            mac: Mac([2, 0, 0, 0, 0, 1]),
            peer_mac: None,
            mtu: 1500,
            up: true,
        }],
        routes: vec![UnderlayRoute {
            prefix,
            metric: 0,
            next_hops: vec![hop],
        }],
        neighbours: vec![Neighbour {
            port: "uplink".into(),
            address: router,
            mac: Mac([2, 0, 0, 0, 0, 2]),
        }],
    }
}
