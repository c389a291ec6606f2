use proptest::prelude::*;
use prost::Message;

use super::*;

fn node(name: &str, last: u8) -> proto::RemoteNode {
    proto::RemoteNode {
        name: name.into(),
        addresses: vec![vec![192, 168, 0, last]],
        ..Default::default()
    }
}

fn prefix(address: [u8; 4], length: u32) -> proto::Prefix {
    proto::Prefix {
        address: address.to_vec(),
        length,
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

fn pod(name: &str, last: u8) -> proto::Port {
    proto::Port {
        name: format!("pod:default/{name}"),
        kind: proto::PortKind::Pod as i32,
        interface: "eth0".into(),
        mac: vec![2, 1, 10, 0, 0, last],
        addresses: vec![vec![10, 0, 0, last]],
        ingress: Some(proto::PolicyAttachment {
            tiers: vec![proto::Tier {
                name: "default".into(),
                policies: vec!["policy".into()],
                default_action: proto::Action::Deny as i32,
            }],
        }),
        ..Default::default()
    }
}

/// One of each kind of object.
fn state() -> proto::State {
    let peer = |peer| proto::Peer { peer: Some(peer) };
    let block = proto::IpBlock {
        prefix: Some(prefix([10, 0, 0, 0], 8)),
        except: vec![prefix([10, 1, 0, 0], 16)],
    };
    let port = |port| proto::PortMatch { protocol: 6, port };
    proto::State {
        version: 7,
        node: Some(proto::Node {
            name: "node-1".into(),
            addresses: vec![vec![192, 168, 0, 1], vec![0x20; 16]],
            own_blocks: vec![prefix([10, 0, 0, 0], 24)],
            ..Default::default()
        }),
        ports: vec![pod("a", 5), pod("b", 6)],
        remote_nodes: vec![node("node-2", 2)],
        blocks: vec![proto::Block {
            prefix: Some(prefix([10, 0, 1, 0], 24)),
            node: "node-2".into(),
            encap: 1,
        }],
        pools: vec![proto::Pool {
            prefix: Some(prefix([10, 0, 0, 0], 16)),
            ..Default::default()
        }],
        services: vec![proto::Service {
            id: "default/web:80".into(),
            origin: Some(origin("Service", "web")),
            protocol: 6,
            port: 80,
            cluster_ips: vec![vec![10, 96, 0, 1]],
            backends: vec![proto::Backend {
                address: vec![10, 0, 0, 5],
                port: 8080,
                state: 1,
                local: true,
            }],
            affinity_s: 0,
        }],
        service_ranges: vec![prefix([10, 96, 0, 0], 12)],
        ip_sets: vec![
            proto::IpSet {
                id: "addresses".into(),
                kind: 1,
                members: vec![proto::Member {
                    prefix: Some(prefix([10, 0, 1, 4], 32)),
                    ..Default::default()
                }],
            },
            proto::IpSet {
                id: "ports".into(),
                kind: 2,
                members: vec![proto::Member {
                    prefix: Some(prefix([10, 0, 1, 4], 32)),
                    protocol: 6,
                    port: 8080,
                }],
            },
        ],
        policies: vec![proto::Policy {
            id: "policy".into(),
            origin: Some(origin("NetworkPolicy", "web")),
            ingress: vec![proto::Rule {
                index: 0,
                action: 1,
                any_peer: false,
                peers: vec![
                    peer(proto::peer::Peer::IpSet("addresses".into())),
                    peer(proto::peer::Peer::IpBlock(block)),
                ],
                any_port: false,
                ports: vec![
                    port(Some(proto::port_match::Port::NamedSet("ports".into()))),
                    port(Some(proto::port_match::Port::Range(proto::PortRange {
                        first: 80,
                        last: 90,
                    }))),
                    port(None),
                ],
            }],
            egress: vec![],
        }],
        timeouts: Some(proto::Timeouts {
            udp: 7,
            ..Default::default()
        }),
        limits: None,
    }
}

#[test]
fn a_sound_state_passes_with_its_defaults_filled_in() {
    let valid = ValidState::try_from(state()).unwrap();
    assert_eq!((valid.timeouts.udp, valid.timeouts.tcp_established), (7, 8000));
    assert_eq!(valid.limits, Limits::default());
    assert_eq!((valid.node.vxlan_vni.get(), valid.node.vxlan_port), (4096, 4789));
    assert_eq!(valid.node.snat_ports, (45_000, 65_535));
    assert_eq!(valid.ports[0].mtu, None);
    assert_eq!(valid.policies[0].ingress[0].ports.as_ref().unwrap().len(), 3);
}

/// Each way to be wrong, with the object and field that must be named.
#[test]
fn what_is_wrong_is_refused_by_name() {
    type Break = fn(&mut proto::State);
    let cases: &[(&str, Break)] = &[
        ("State: node: ", |s| {
            s.node = None;
        }),
        ("Node node-1: addresses[0]: ", |s| {
            s.node.as_mut().unwrap().addresses[0] = vec![1, 2, 3];
        }),
        ("Node node-1: addresses: ", |s| {
            s.node.as_mut().unwrap().addresses[1] = vec![192, 168, 0, 1];
        }),
        ("Node node-1: own_blocks[0]: ", |s| {
            s.node.as_mut().unwrap().own_blocks[0].address[3] = 9;
        }),
        ("Node node-1: own_blocks[0]: ", |s| {
            s.node.as_mut().unwrap().own_blocks[0].length = 33;
        }),
        ("Node node-1: vxlan_vni: ", |s| {
            s.node.as_mut().unwrap().vxlan_vni = 1 << 24;
        }),
        ("Node node-1: snat_port_last: ", |s| {
            s.node.as_mut().unwrap().snat_port_last = 44_999;
        }),
        ("Node node-1: uplink_mtu: ", |s| {
            s.node.as_mut().unwrap().uplink_mtu = 67;
        }),
        ("Node node-2: tunnel_ends[0].mac: ", |s| {
            s.remote_nodes[0].tunnel_ends = vec![proto::TunnelEnd {
                encap: 1,
                ..Default::default()
            }];
        }),
        ("Node node-2: tunnel_ends[0].encap: ", |s| {
            s.remote_nodes[0].tunnel_ends = vec![proto::TunnelEnd::default()];
        }),
        ("Node node-2: name: ", |s| s.remote_nodes.push(node("node-2", 9))),
        ("Pod default/a: mac: ", |s| {
            s.ports[0].mac = vec![1; 6];
        }),
        ("Pod default/a: mac: ", |s| s.ports[0].mac.clear()),
        ("Pod default/a: addresses: ", |s| s.ports[0].addresses.clear()),
        ("Pod default/b: addresses: ", |s| {
            s.ports[1].addresses = vec![vec![10, 0, 0, 5]];
        }),
        ("Pod default/a: kind: ", |s| {
            s.ports[0].kind = 9;
        }),
        ("Pod default/a: name: ", |s| {
            s.ports[0].kind = proto::PortKind::Host as i32;
        }),
        ("Pod default/a: policies: ", |s| s.policies.clear()),
        ("Pod default/a: ingress.tiers[0].default_action: ", |s| {
            s.ports[0].ingress.as_mut().unwrap().tiers[0].default_action = 1;
        }),
        ("Pod default/a: ingress.tiers[0].policies: ", |s| {
            s.ports[0].ingress.as_mut().unwrap().tiers[0].policies.clear();
        }),
        ("Block 10.0.1.0/24: node: ", |s| s.remote_nodes.clear()),
        ("Block 10.0.1.0/24: encap: ", |s| {
            s.blocks[0].encap = 3;
        }),
        ("Block 10.0.1.0/24: prefix: ", |s| s.blocks.extend_from_within(..)),
        ("Service default/web: port: ", |s| {
            s.services[0].port = 0;
        }),
        ("Service default/web: protocol: ", |s| {
            s.services[0].protocol = 1;
        }),
        ("Service default/web: backends[0].state: ", |s| {
            s.services[0].backends[0].state = 0;
        }),
        ("Service default/web: backends: ", |s| {
            s.services[0].backends.extend_from_within(..);
        }),
        ("Service default/web: cluster_ips[0]: ", |s| {
            s.services[0].cluster_ips[0] = vec![224, 0, 0, 1];
        }),
        ("Service default/web:80: origin.kind: ", |s| {
            s.services[0].origin = None;
        }),
        ("IpSet addresses: members[0]: ", |s| {
            s.ip_sets[0].members[0].port = 80;
        }),
        ("IpSet addresses: members: ", |s| {
            s.ip_sets[0].members.extend_from_within(..);
        }),
        ("IpSet ports: members[0]: ", |s| {
            s.ip_sets[1].members[0].prefix.as_mut().unwrap().length = 31;
        }),
        ("IpSet ports: kind: ", |s| {
            s.ip_sets[1].kind = 0;
        }),
        ("NetworkPolicy default/web: ip_set: ", |s| s.ip_sets.truncate(1)),
        ("NetworkPolicy default/web: ip_set: ", |s| {
            s.policies[0].ingress[0].peers[0].peer = Some(proto::peer::Peer::IpSet("ports".into()));
        }),
        ("NetworkPolicy default/web: ingress[0].action: ", |s| {
            s.policies[0].ingress[0].action = 0;
        }),
        ("NetworkPolicy default/web: ingress[0].peers: ", |s| {
            s.policies[0].ingress[0].any_peer = true;
        }),
        ("NetworkPolicy default/web: ingress[0].ports.protocol: ", |s| {
            s.policies[0].ingress[0].ports[0].protocol = 256;
        }),
        (
            "NetworkPolicy default/web: ingress[0].peers.ip_block.except: ",
            |s| {
                let proto::peer::Peer::IpBlock(block) =
                    s.policies[0].ingress[0].peers[1].peer.as_mut().unwrap()
                else {
                    panic!()
                };
                block.except[0] = prefix([11, 0, 0, 0], 16);
            },
        ),
        ("NetworkPolicy default/web: id: ", |s| {
            s.policies.extend_from_within(..);
        }),
        ("Pod default/b: limits.ports: ", |s| {
            s.limits = Some(proto::Limits {
                ports: 1,
                ..Default::default()
            });
        }),
        ("IpSet ports: limits.ip_set_members: ", |s| {
            s.limits = Some(proto::Limits {
                ip_set_members: 1,
                ..Default::default()
            });
        }),
    ];
    for (number, (named, break_it)) in cases.iter().enumerate() {
        let mut broken = state();
        break_it(&mut broken);
        let error = ValidState::try_from(broken).expect_err(named).to_string();
        assert!(error.starts_with(named), "case {number}: {named}… but: {error}");
    }
}

#[test]
fn a_delta_grows_the_version_and_knows_its_changes() {
    let delta = |version, changes| proto::Delta {
        base_version: 5,
        version,
        changes,
    };
    assert!(ValidDelta::try_from(delta(5, vec![])).is_err());
    assert!(ValidDelta::try_from(delta(6, vec![proto::Change { change: None }])).is_err());
    let pod = proto::Change {
        change: Some(proto::change::Change::Port(pod("a", 5))),
    };
    let valid = ValidDelta::try_from(delta(6, vec![pod])).unwrap();
    assert!(matches!(&valid.changes[..], [Change::Port(port)] if &*port.name == "pod:default/a"));
}

proptest! {
    /// Whatever crosses the socket is refused or accepted, in bounded steps: a sound state with bytes changed, or any bytes.
    #[test]
    fn no_bytes_make_it_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        any_bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = state().encode_to_vec();
        for (place, byte) in flips {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        for bytes in [bytes, any_bytes] {
            if let Ok(state) = proto::State::decode(&*bytes) {
                let _ = ValidState::try_from(state);
            }
            if let Ok(delta) = proto::Delta::decode(&*bytes) {
                let _ = ValidDelta::try_from(delta);
            }
        }
    }
}
