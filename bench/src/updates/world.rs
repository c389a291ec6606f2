//! World: the cluster that changes. Which flow goes to which Service, which pods are its backends, and what control says when
//! one of them is replaced.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use contract::proto;
use fastpath::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};

use crate::pipeline::case::{GATEWAY_MAC, client_address, node_address, node_mac, pod_mac, vip, vtep_mac};
use crate::pipeline::cluster::{POD_MTU, UPLINK_MTU, origin, port};
use crate::pipeline::packet::Transport;

/// How flows are spread over clients and Services.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    /// Service ports.
    pub(super) services: u32,
    /// Pods of this node that speak to them.
    pub(super) clients: u16,
    /// Policy names the backends by an IP set: all Services are UDP then, since a connection to a pod that left the set would
    /// be denied.
    pub(super) by_set: bool,
}

impl Map {
    /// Every second Service is TCP, the others UDP.
    pub(super) fn transport(self, service: u32) -> Transport {
        if !self.by_set && service.is_multiple_of(2) {
            Transport::Tcp
        } else {
            Transport::Udp
        }
    }

    pub(super) fn service(self, flow: u32) -> u32 {
        flow % self.services
    }

    pub(super) fn client(self, flow: u32) -> u16 {
        (flow / self.services % u32::from(self.clients)) as u16
    }

    pub(super) fn source_port(self, flow: u32) -> u16 {
        FIRST_CLIENT_PORT + (flow / self.services / u32::from(self.clients)) as u16
    }

    pub(super) fn source(self, flow: u32) -> SocketAddrV4 {
        SocketAddrV4::new(client_address(self.client(flow)), self.source_port(flow))
    }

    pub(super) fn destination(self, flow: u32) -> SocketAddrV4 {
        SocketAddrV4::new(vip(self.service(flow)), SERVICE_PORT)
    }

    /// Flows that the sources' ports tell apart.
    pub(super) fn flows_max(self) -> u64 {
        u64::from(u16::MAX - FIRST_CLIENT_PORT) * u64::from(self.clients) * u64::from(self.services)
    }
}

/// One of the places that a Service has for a backend: pods replace each other in it, two addresses in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(pub(super) u32);

impl Slot {
    pub(super) const fn of(service: u32, place: u32) -> Self {
        Self(service * PLACES + place)
    }

    pub(super) const fn service(self) -> u32 {
        self.0 / PLACES
    }
}

/// A pod that is a backend now or was one before: a slot and which of its two addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) slot: Slot,
    pub(super) second: bool,
}

impl Pod {
    pub(super) fn address(self) -> Ipv4Addr {
        let number = self.slot.0 * 2 + u32::from(self.second);
        block(number % NODES) | Ipv4Addr::from_bits(1 + number / NODES)
    }

    /// The pod that has this address.
    pub(super) fn at(address: Ipv4Addr) -> Option<Self> {
        let offset = address.to_bits().checked_sub(block(0).to_bits())?;
        let index = (offset % BLOCK_LEN).checked_sub(1)?;
        let number = index * NODES + offset / BLOCK_LEN;
        (offset / BLOCK_LEN < NODES).then_some(Self {
            slot: Slot(number / 2),
            second: number % 2 == 1,
        })
    }

    /// The number of its node, for the addresses of the pipeline's cases.
    pub(super) fn node(self) -> u8 {
        node_number((self.slot.0 * 2 + u32::from(self.second)) % NODES)
    }
}

/// What is listed, for those who check packets meanwhile.
#[derive(Debug)]
pub(super) struct Truth {
    /// By slot: the version of the last change, and which address is listed since.
    slots: Vec<AtomicU64>,
    /// Every worker uses this version or a later one, and entries that it touched are outdated.
    settled: AtomicU64,
}

impl Truth {
    pub(super) fn new(map: Map) -> Self {
        Self {
            slots: (0..map.services * PLACES).map(|_| AtomicU64::new(0)).collect(),
            settled: AtomicU64::new(0),
        }
    }

    /// To be said before the version is published.
    fn changed(&self, slot: Slot, version: u64, second: bool) {
        // Relaxed: publication and its visibility order it.
        self.slots[slot.0 as usize].store(version << 1 | u64::from(second), Relaxed);
    }

    pub(super) fn settle(&self, version: u64) {
        self.settled.store(version, Relaxed);
    }

    pub(super) fn settled(&self) -> u64 {
        self.settled.load(Relaxed)
    }

    /// The pod is listed in some version from `since` on.
    pub(super) fn was_listed(&self, pod: Pod, since: u64) -> bool {
        let word = self.slots[pod.slot.0 as usize].load(Relaxed);
        (word & 1 != 0) == pod.second || word >> 1 > since
    }

    /// The pod is listed in the version made last.
    pub(super) fn is_listed(&self, pod: Pod) -> bool {
        self.was_listed(pod, u64::MAX >> 1)
    }
}

/// Desired state, and the changes to it.
#[derive(Debug)]
pub(super) struct World {
    pub(super) map: Map,
    /// By slot: which address is listed.
    second: Vec<bool>,
    /// Clients that are selected by one policy more, by number.
    extra: Vec<bool>,
    pub(super) version: u64,
    changes: u32,
}

impl World {
    pub(super) fn new(map: Map) -> Self {
        Self {
            map,
            second: vec![false; (map.services * PLACES) as usize],
            extra: vec![false; usize::from(map.clients)],
            version: 1,
            changes: 0,
        }
    }

    /// The whole, as control says it when it connects.
    pub(super) fn state(&self, connections: u32) -> proto::State {
        let vxlan = proto::Encap::Vxlan as i32;
        let members = (0..self.map.services * PLACES).map(|slot| self.listed(Slot(slot)));
        let mut ports = vec![
            port("uplink", proto::PortKind::Uplink),
            port("host", proto::PortKind::Host),
        ];
        ports.extend((0..self.map.clients).map(|number| self.client(number)));
        let mut state = proto::State {
            version: self.version,
            node: Some(proto::Node {
                name: "node-1".into(),
                addresses: vec![bytes(node_address(1))],
                own_blocks: vec![prefix(Ipv4Addr::new(10, 244, 1, 0), 24)],
                tunnel_ends: vec![tunnel_end(1, Ipv4Addr::new(10, 244, 1, 0))],
                ..Default::default()
            }),
            ports,
            remote_nodes: (0..NODES)
                .map(|node| proto::RemoteNode {
                    name: node_name(node),
                    addresses: vec![bytes(node_address(node_number(node)))],
                    tunnel_ends: vec![tunnel_end(node_number(node), block(node))],
                    uplink_mac: vec![],
                })
                .collect(),
            blocks: (0..NODES)
                .map(|node| proto::Block {
                    prefix: Some(prefix(block(node), 32 - BLOCK_LEN.trailing_zeros())),
                    node: node_name(node),
                    encap: vxlan,
                })
                .collect(),
            pools: vec![proto::Pool {
                prefix: Some(prefix(Ipv4Addr::new(10, 128, 0, 0), 9)),
                nat_outgoing: true,
                encap: vxlan,
                cross_subnet: false,
            }],
            services: (0..self.map.services)
                .map(|number| self.service(number))
                .collect(),
            service_ranges: vec![prefix(Ipv4Addr::new(10, 96, 0, 0), 12)],
            ip_sets: vec![proto::IpSet {
                id: BACKENDS.into(),
                kind: proto::ip_set::Kind::Addresses as i32,
                members: members.map(member).collect(),
            }],
            policies: vec![allow_backends(self.map.by_set), deny_elsewhere()],
            limits: Some(proto::Limits {
                connections,
                services: self.map.services.max(1 << 16),
                ..Default::default()
            }),
            ..Default::default()
        };
        contract::merge::sort(&mut state);
        state
    }

    /// The next endpoint's change: in each place of each Service, in an order that leaps about, a pod goes and another comes.
    pub(super) fn replace_backend(&mut self, truth: &Truth) -> proto::Delta {
        // A step that shares no factor with the number of Services visits each of them once a round.
        let services = u64::from(self.map.services);
        let turn = u64::from(self.changes) % services;
        let number = (turn * LEAP % services) as u32;
        let place = (self.changes / self.map.services) % PLACES;
        self.changes += 1;
        let slot = Slot::of(number, place);
        let gone = self.listed(slot);
        let at = &mut self.second[slot.0 as usize];
        *at = !*at;
        let come = self.listed(slot);
        truth.changed(slot, self.version + 1, come.second);
        let mut changes = vec![proto::change::Change::Service(self.service(number))];
        if self.map.by_set {
            changes.push(proto::change::Change::IpSetDelta(proto::IpSetDelta {
                id: BACKENDS.into(),
                removed: vec![member(gone)],
                added: vec![member(come)],
            }));
        }
        self.delta(changes)
    }

    /// A label of a client changes, so that another policy selects it too, or no longer.
    pub(super) fn relabel_client(&mut self, number: u16) -> proto::Delta {
        let extra = &mut self.extra[usize::from(number)];
        *extra = !*extra;
        let port = self.client(number);
        self.delta(vec![proto::change::Change::Port(port)])
    }

    fn delta(&mut self, changes: Vec<proto::change::Change>) -> proto::Delta {
        let base_version = self.version;
        self.version += 1;
        proto::Delta {
            base_version,
            version: self.version,
            changes: changes
                .into_iter()
                .map(|change| proto::Change { change: Some(change) })
                .collect(),
        }
    }

    fn listed(&self, slot: Slot) -> Pod {
        Pod {
            slot,
            second: self.second[slot.0 as usize],
        }
    }

    fn service(&self, number: u32) -> proto::Service {
        let backend = |place| proto::Backend {
            address: bytes(self.listed(Slot::of(number, place)).address()),
            port: BACKEND_PORT.into(),
            state: proto::BackendState::Ready as i32,
            local: false,
        };
        proto::Service {
            id: format!("default/service-{number}:http"),
            origin: Some(origin("Service", &format!("service-{number}"))),
            protocol: match self.map.transport(number) {
                Transport::Tcp => 6,
                Transport::Udp => 17,
            },
            port: SERVICE_PORT.into(),
            cluster_ips: vec![bytes(vip(number))],
            backends: (0..PLACES).map(backend).collect(),
            affinity_s: 0,
        }
    }

    fn client(&self, number: u16) -> proto::Port {
        let mut policies = vec![ALLOW.to_owned()];
        if self.extra[usize::from(number)] {
            policies.insert(0, DENY_ELSEWHERE.to_owned());
        }
        let address = client_address(number);
        proto::Port {
            mac: pod_mac(address).0.to_vec(),
            addresses: vec![bytes(address)],
            interface: format!("client{number}"),
            mtu: POD_MTU,
            egress: Some(proto::PolicyAttachment {
                tiers: vec![proto::Tier {
                    name: "default".into(),
                    policies,
                    default_action: proto::Action::Deny as i32,
                }],
            }),
            ..port(&client_port(number), proto::PortKind::Pod)
        }
    }
}

/// The name of a client's port.
pub(super) fn client_port(number: u16) -> String {
    format!("pod:default/client-{number}")
}

/// What the kernel would tell of the underlay: one uplink, every other node a neighbour on it.
pub(super) fn underlay() -> Underlay {
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
        routes: vec![UnderlayRoute {
            prefix: "192.168.0.0/24".parse().expect("a prefix"),
            metric: 0,
            next_hops: vec![NextHop {
                port: "uplink".into(),
                gateway: None,
                weight: 1,
            }],
        }],
        neighbours: (0..NODES)
            .map(|node| Neighbour {
                port: "uplink".into(),
                address: node_address(node_number(node)).into(),
                mac: node_mac(node_number(node)),
            })
            .collect(),
    }
}

fn node_number(node: u32) -> u8 {
    2 + node as u8
}

fn node_name(node: u32) -> String {
    format!("node-{}", node_number(node))
}

/// The pods of other node number `node`.
fn block(node: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 128, 0, 0).to_bits() + node * BLOCK_LEN)
}

fn tunnel_end(node: u8, address: Ipv4Addr) -> proto::TunnelEnd {
    proto::TunnelEnd {
        encap: proto::Encap::Vxlan as i32,
        address: bytes(address),
        mac: vtep_mac(node).0.to_vec(),
        outer_address: vec![],
    }
}

fn member(pod: Pod) -> proto::Member {
    proto::Member {
        prefix: Some(prefix(pod.address(), 32)),
        ..Default::default()
    }
}

/// Egress to the backends' set (or to any address, where no change of a pod is to touch policy), on their port.
fn allow_backends(by_set: bool) -> proto::Policy {
    let port = |protocol| proto::PortMatch {
        protocol,
        port: Some(proto::port_match::Port::Range(proto::PortRange {
            first: BACKEND_PORT.into(),
            last: BACKEND_PORT.into(),
        })),
    };
    policy(
        ALLOW,
        "out-client",
        proto::Rule {
            index: 0,
            action: proto::Action::Allow as i32,
            any_peer: !by_set,
            peers: by_set
                .then(|| proto::Peer {
                    peer: Some(proto::peer::Peer::IpSet(BACKENDS.into())),
                })
                .into_iter()
                .collect(),
            any_port: false,
            ports: vec![port(6), port(17)],
        },
    )
}

/// Denies what nobody sends here.
fn deny_elsewhere() -> proto::Policy {
    policy(
        DENY_ELSEWHERE,
        "deny-elsewhere",
        proto::Rule {
            index: 0,
            action: proto::Action::Deny as i32,
            any_peer: false,
            peers: vec![proto::Peer {
                peer: Some(proto::peer::Peer::IpBlock(proto::IpBlock {
                    prefix: Some(prefix(Ipv4Addr::new(203, 0, 113, 0), 24)),
                    except: vec![],
                })),
            }],
            any_port: true,
            ports: vec![],
        },
    )
}

fn policy(id: &str, name: &str, rule: proto::Rule) -> proto::Policy {
    proto::Policy {
        id: id.into(),
        origin: Some(origin("NetworkPolicy", name)),
        ingress: vec![],
        egress: vec![rule],
    }
}

fn bytes(address: Ipv4Addr) -> Vec<u8> {
    address.octets().to_vec()
}

fn prefix(address: Ipv4Addr, length: u32) -> proto::Prefix {
    proto::Prefix {
        address: bytes(address),
        length,
    }
}

/// Backends of a Service.
const PLACES: u32 = 3;
/// Other nodes.
const NODES: u32 = 250;
const BLOCK_LEN: u32 = 1 << 11;
/// Services at most: two pods for each of their places have to fit the blocks.
pub(super) const SERVICES_MAX: u32 = (BLOCK_LEN - 2) * NODES / (2 * PLACES);
pub(super) const SERVICE_PORT: u16 = 80;
pub(super) const BACKEND_PORT: u16 = 8080;
const FIRST_CLIENT_PORT: u16 = 16_384;
/// A prime beyond every number of Services.
const LEAP: u64 = 1_000_003;
const BACKENDS: &str = "backends";
const ALLOW: &str = "NetworkPolicy/default/out-client";
const DENY_ELSEWHERE: &str = "NetworkPolicy/default/deny-elsewhere";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pod_has_an_address_of_its_own_in_its_nodes_block() {
        let mut seen = std::collections::HashSet::new();
        for slot in (0..SERVICES_MAX * PLACES).step_by(7) {
            for second in [false, true] {
                let pod = Pod {
                    slot: Slot(slot),
                    second,
                };
                assert_eq!(Pod::at(pod.address()), Some(pod));
                assert!(seen.insert(pod.address()));
            }
        }
        assert_eq!(Pod::at(Ipv4Addr::new(10, 127, 255, 255)), None);
        assert_eq!(Pod::at(block(0)), None);
    }

    #[test]
    fn a_round_of_changes_touches_every_service_once() {
        let map = Map {
            services: 1000,
            clients: 2,
            by_set: true,
        };
        let (mut world, truth) = (World::new(map), Truth::new(map));
        let before: Vec<_> = (0..1000).map(|number| world.service(number)).collect();
        for _ in 0..1000 {
            world.replace_backend(&truth);
        }
        for (number, before) in (0..).zip(before) {
            let after = world.service(number);
            assert_ne!(after.backends[0], before.backends[0]);
            assert_eq!(after.backends[1..], before.backends[1..]);
        }
        let gone = Pod {
            slot: Slot::of(7, 0),
            second: false,
        };
        assert!(truth.was_listed(gone, 1) && !truth.was_listed(gone, 1001));
    }
}
