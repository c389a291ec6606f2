//! Single stages of the pipeline, each alone and with everything it needs in the cache: what a change of one did.
//! What a packet costs altogether, `bench core` says.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use contract::proto;
use contract::valid::ValidState;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use fastpath::compile;
use fastpath::flow::key::{Family as _, V4};
use fastpath::flow::key::{addresses_v4, ports_kind};
use fastpath::io::{BATCH_MAX, Checksum, Frame, Memory};
use fastpath::snapshot::{Direction, PolicyQuery, RouteTarget, Snapshot, VipLookup};
use fastpath::stage::encap::encap;
use fastpath::stage::ingress::{Parsed, Place, admit};
use fastpath::stage::rewrite::{After, rewrite_v4};
use fastpath::underlay::{Link, Neighbour, NextHop, Underlay, UnderlayRoute};
use flowtable::{Config, FlowHash, Quiescence, Share, TableV4};
use wire::packet::parse_l3;
use wire::{Mac, Port};

criterion_group!(stages, packet, table, tables_of_the_snapshot);
criterion_main!(stages);

const POD: &str = "pod:default/client";
const POD_MAC: Mac = Mac([2, 1, 10, 244, 1, 10]);
const GATEWAY_MAC: Mac = Mac([0xee; 6]);
const POD_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 168, 0, 1), Ipv4Addr::new(192, 168, 0, 2)];
const VTEP_MACS: [Mac; 2] = [Mac([0x66, 0, 0, 0, 0, 1]), Mac([0x66, 0, 0, 0, 0, 2])];
const UPLINK_MACS: [Mac; 2] = [Mac([2, 0, 192, 168, 0, 1]), Mac([2, 0, 192, 168, 0, 2])];
const RULES: u32 = 1000;
const SERVICES: u32 = 10_000;
const FLOWS: u32 = 64_000;

/// What is done to a packet: 64 bytes of TCP, and 1500 where length matters.
fn packet(criterion: &mut Criterion) {
    let snapshot = snapshot();
    let mut memory = Memory::heap(8, 2048);
    let pod = snapshot.port_by_name(POD).expect("the pod's port");
    let uplink = snapshot.port_by_name("uplink").expect("the uplink");
    let plain = ethernet(GATEWAY_MAC, POD_MAC, &tcp(POD_ADDRESS, vip(7), 24));

    criterion.bench_function("parse: headers", |bencher| {
        bencher.iter(|| parse_l3(black_box(&plain[14..])).expect("a packet"));
    });
    let mut frame = memory.allocate_copy(&plain).expect("a chunk");
    criterion.bench_function("parse: admit from a pod", |bencher| {
        bencher.iter(|| place(admit(&mut memory, &mut frame, pod, &snapshot)));
    });
    let Place { packet, zone, l3 } = place(admit(&mut memory, &mut frame, pod, &snapshot));
    let kind = ports_kind(&packet);
    criterion.bench_function("parse: key", |bencher| {
        bencher.iter(|| V4::key_of(black_box(&plain[usize::from(l3)..]), &packet, kind, zone));
    });

    let answer = tcp(BACKEND, POD_ADDRESS, 24);
    let tunnelled = vxlan(&ethernet(VTEP_MACS[0], VTEP_MACS[1], &answer));
    let mut outer = memory.allocate_copy(&tunnelled).expect("a chunk");
    criterion.bench_function("decap: admit from a tunnel", |bencher| {
        bencher.iter(|| place(admit(&mut memory, &mut outer, uplink, &snapshot)));
    });

    let (mut changed, mut l3_bytes) = (packet, plain[usize::from(l3)..].to_vec());
    let ends = [(vip(7), 80), (BACKEND, 8080)]
        .map(|(dst, port)| (addresses_v4(POD_ADDRESS.octets(), dst.octets()), Port::new(port)));
    criterion.bench_function("rewrite: destination there and back", |bencher| {
        bencher.iter(|| {
            for (addresses, dport) in [ends[1], ends[0]] {
                let ports = (packet.sport, dport);
                let after = rewrite_v4(&mut changed, &mut l3_bytes, false, addresses, ports);
                assert_eq!(after, After::Done);
            }
        });
    });

    let RouteTarget::RemotePod {
        tunnel: Some(tunnel), ..
    } = snapshot.route(BACKEND.into()).target
    else {
        panic!("the backend is behind a tunnel");
    };
    let adjacency = snapshot.adjacency(tunnel);
    for (name, data_len, is_partial) in [
        ("encap: VXLAN", 24, false),
        ("encap: VXLAN, 1500 bytes, partial checksum", 1460, true),
    ] {
        let bytes = ethernet(GATEWAY_MAC, POD_MAC, &tcp(POD_ADDRESS, BACKEND, data_len));
        let mut frame = memory.allocate_copy(&bytes).expect("a chunk");
        let Place { packet, .. } = place(admit(&mut memory, &mut frame, pod, &snapshot));
        let mut l3 = 14;
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| {
                if is_partial {
                    frame.checksum = Checksum::Partial {
                        start: l3 as u16 + 20,
                        offset: 16,
                    };
                }
                // The second time the headers of the first are what comes before the packet.
                assert!(encap(&mut memory, &mut frame, l3, &packet, adjacency, 7, false));
                l3 = usize::from(adjacency.header_len);
            });
        });
        memory.release(frame);
    }
    give_back(&mut memory, [frame, outer]);
}

/// Flows, by batches as a worker looks them up.
fn table(criterion: &mut Criterion) {
    let domain = Quiescence::new(1);
    let config = Config {
        capacity: FLOWS,
        seed: 1,
        user_words: 0,
    };
    let table = TableV4::create(config, flowtable::Memory::Anonymous, &domain).expect("memory");
    let seat = domain.register(0).expect("the only seat");
    let mut writer = table.writer(&seat, Share { index: 0, of: 1 });
    let keys = |flow: u32| [[u64::from(flow), 6], [u64::from(flow) | 1 << 32, 6]];
    for flow in 0..FLOWS {
        let [key, reply] = keys(flow);
        writer.insert(&key, &reply, |_| ()).expect("room for all");
    }
    let step = 7919; // prime, so that all flows are met
    let batches: Vec<Vec<[u64; 2]>> = (0..FLOWS)
        .map(|number| keys((u64::from(number) * step % u64::from(FLOWS)) as u32)[0])
        .collect::<Vec<_>>()
        .chunks_exact(BATCH_MAX)
        .map(<[_]>::to_vec)
        .collect();
    let mut group = criterion.benchmark_group("table");
    group.throughput(Throughput::Elements(BATCH_MAX as u64));
    let mut batch = batches.iter().cycle();
    group.bench_function("hash of 64 keys", |bencher| {
        bencher.iter(|| {
            let keys = batch.next().expect("it has no end");
            keys.iter().fold(0, |all, key| all ^ table.hash(key).value())
        });
    });
    let (mut hashes, mut found) = ([FlowHash::default(); BATCH_MAX], [None; BATCH_MAX]);
    for (name, is_there) in [("lookup of 64 keys", true), ("lookup of 64 other keys", false)] {
        let mut batch = batches.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut keys = [[0; 2]; BATCH_MAX];
                keys.copy_from_slice(batch.next().expect("it has no end"));
                if !is_there {
                    keys.iter_mut().for_each(|key| key[1] = 17);
                }
                table.lookup_batch(&keys, &mut hashes, &mut found);
                assert!(found.iter().all(|found| found.is_some() == is_there));
            });
        });
    }
    group.finish();
}

/// What only first packets ask.
fn tables_of_the_snapshot(criterion: &mut Criterion) {
    let snapshot = snapshot();
    let mut number = 0;
    let mut next = move || {
        number = (number + 7919) % SERVICES;
        number
    };
    criterion.bench_function("lookup of one VIP of 10,000", |bencher| {
        bencher.iter(|| {
            let found = snapshot.vip(vip(next()).into(), 6, 80);
            assert!(matches!(found, VipLookup::Service(_)));
        });
    });
    criterion.bench_function("route", |bencher| {
        bencher.iter(|| snapshot.route(black_box(BACKEND.into())));
    });
    let egress = &snapshot.port_by_name(POD).expect("the pod's port").egress;
    for (name, dst, allow) in [
        (
            "policy: allowed by the last of 1,000 rules",
            peer(RULES - 1),
            true,
        ),
        ("policy: allowed by no rule of 1,000", BACKEND, false),
    ] {
        let query = PolicyQuery {
            src: POD_ADDRESS.into(),
            dst: IpAddr::V4(dst),
            protocol: 6,
            dst_port: 8080,
            direction: Direction::Egress,
        };
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| assert_eq!(snapshot.judge(egress, black_box(&query)).allow, allow));
        });
    }
}

fn place(parsed: Parsed) -> Place {
    match parsed {
        Parsed::Ip(place) => place,
        other => panic!("not a packet to be forwarded: {other:?}"),
    }
}

fn give_back(memory: &mut Memory, frames: [Frame; 2]) {
    for frame in frames {
        memory.release(frame);
    }
    assert_eq!(memory.free_chunks(), memory.chunks());
}

fn tcp(src: Ipv4Addr, dst: Ipv4Addr, data_len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ipv4(src.octets(), dst.octets(), 64).tcp(40_000, 80, 1000, 64_000);
    let mut bytes = Vec::new();
    builder
        .ack(2000)
        .write(&mut bytes, &vec![0; data_len])
        .expect("a vector takes what is written");
    bytes
}

fn ethernet(to: Mac, from: Mac, l3: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &[8, 0], l3].concat()
}

/// From the other node.
fn vxlan(inner: &[u8]) -> Vec<u8> {
    let header = [&[8, 0, 0, 0, 0, 0x10, 0, 0][..], inner].concat();
    let builder = PacketBuilder::ethernet2(UPLINK_MACS[1].0, UPLINK_MACS[0].0)
        .ipv4(NODES[1].octets(), NODES[0].octets(), 64)
        .udp(50_000, 4789);
    let mut bytes = Vec::new();
    builder
        .write(&mut bytes, &header)
        .expect("a vector takes what is written");
    bytes
}

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 1)) + number)
}

/// Whom rule `number` allows.
fn peer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + number)
}

/// A pod with 1,000 rules, 10,000 Services, another node behind VXLAN.
fn snapshot() -> Arc<Snapshot> {
    let state = proto::State {
        version: 1,
        node: Some(proto::Node {
            name: "node-1".into(),
            addresses: vec![bytes(NODES[0])],
            own_blocks: vec![prefix(Ipv4Addr::new(10, 244, 1, 0), 24)],
            tunnel_ends: vec![tunnel_end(0)],
            ..Default::default()
        }),
        ports: vec![uplink(), pod()],
        remote_nodes: vec![proto::RemoteNode {
            name: "node-2".into(),
            addresses: vec![bytes(NODES[1])],
            tunnel_ends: vec![tunnel_end(1)],
            uplink_mac: vec![],
        }],
        blocks: vec![proto::Block {
            prefix: Some(prefix(Ipv4Addr::new(10, 244, 2, 0), 24)),
            node: "node-2".into(),
            encap: proto::Encap::Vxlan as i32,
        }],
        services: (0..SERVICES).map(service).collect(),
        service_ranges: vec![prefix(Ipv4Addr::new(10, 96, 0, 0), 12)],
        policies: vec![proto::Policy {
            id: "NetworkPolicy/default/out".into(),
            origin: Some(origin("NetworkPolicy", "out")),
            ingress: vec![],
            egress: (0..RULES).map(rule).collect(),
        }],
        ..Default::default()
    };
    let underlay = Underlay {
        links: vec![Link {
            port: "uplink".into(),
            mac: UPLINK_MACS[0],
            peer_mac: None,
            mtu: 1600,
            up: true,
        }],
        routes: vec![UnderlayRoute {
            prefix: "192.168.0.0/24".parse().expect("a prefix"),
            metric: 0,
            next_hops: vec![NextHop {
                port: "uplink".into(),
                gateway: None,
                weight: 1,
            }],
        }],
        neighbours: vec![Neighbour {
            port: "uplink".into(),
            address: NODES[1].into(),
            mac: UPLINK_MACS[1],
        }],
    };
    let valid = ValidState::try_from(state).expect("a valid state");
    Arc::new(
        compile::compile(&valid, &underlay)
            .expect("a state within limits")
            .snapshot,
    )
}

fn uplink() -> proto::Port {
    proto::Port {
        name: "uplink".into(),
        kind: proto::PortKind::Uplink as i32,
        ..Default::default()
    }
}

fn pod() -> proto::Port {
    proto::Port {
        name: POD.into(),
        kind: proto::PortKind::Pod as i32,
        mac: POD_MAC.0.to_vec(),
        addresses: vec![bytes(POD_ADDRESS)],
        interface: "client".into(),
        mtu: 1500,
        egress: Some(proto::PolicyAttachment {
            tiers: vec![proto::Tier {
                name: "default".into(),
                policies: vec!["NetworkPolicy/default/out".into()],
                default_action: proto::Action::Deny as i32,
            }],
        }),
        ..Default::default()
    }
}

fn rule(index: u32) -> proto::Rule {
    let block = proto::IpBlock {
        prefix: Some(prefix(peer(index), 32)),
        except: vec![],
    };
    proto::Rule {
        index,
        action: proto::Action::Allow as i32,
        any_peer: false,
        peers: vec![proto::Peer {
            peer: Some(proto::peer::Peer::IpBlock(block)),
        }],
        any_port: true,
        ports: vec![],
    }
}

fn service(number: u32) -> proto::Service {
    proto::Service {
        id: format!("default/service-{number}:6"),
        origin: Some(origin("Service", &format!("service-{number}"))),
        protocol: 6,
        port: 80,
        cluster_ips: vec![bytes(vip(number))],
        backends: vec![proto::Backend {
            address: bytes(BACKEND),
            port: 8080,
            state: proto::BackendState::Ready as i32,
            local: false,
        }],
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

fn tunnel_end(node: usize) -> proto::TunnelEnd {
    proto::TunnelEnd {
        encap: proto::Encap::Vxlan as i32,
        address: vec![10, 244, node as u8 + 1, 0],
        mac: VTEP_MACS[node].0.to_vec(),
        outer_address: vec![],
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
