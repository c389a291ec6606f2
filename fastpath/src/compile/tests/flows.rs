//! Flows as workers would have them: what each is told before a change and after it, and the stamp that it has in between.

use std::net::IpAddr;

use wire::IpProtocol;

use super::differential;
use super::fixture::address;
use super::life::VIPS;
use super::observed::places;
use super::random::Random;
use crate::flow::{Ingress, PortsKind, Tuple, Zone};
use crate::port::PortId;
use crate::rng::Rng;
use crate::snapshot::{
    AdjacencyId, Backend, Bumps, PortKind, RouteTarget, RuleId, RuleOrigin, Shard, Snapshot, VipLookup,
};
use crate::stage::decide::{Exit, Question, Snat, decide};
use crate::stage::source_is_right;
use crate::verdict::DropReason;

/// A flow that has an entry.
#[derive(Clone, Copy, Debug)]
struct Flow {
    from: Tuple,
    /// What it was rewritten to.
    to: Tuple,
    hash: u64,
}

/// What a flow is told when it is decided again.
#[derive(Debug, PartialEq)]
enum Told {
    Forward {
        to: Tuple,
        snat: Option<Snat>,
        exits: [Leaves; 2],
        reply_zone: Zone,
        rule: Option<(RuleId, RuleOrigin)>,
    },
    /// It stays, and is dropped.
    Deny(Option<(RuleId, RuleOrigin)>),
    /// Its entry goes.
    Gone(DropReason),
}

#[derive(Debug, PartialEq)]
enum Leaves {
    Punt,
    /// `None`: asked anew for every packet. What else an adjacency says (MAC addresses, MTU) is read anew for every packet.
    By(Option<(AdjacencyId, PortId)>),
}

/// Whatever a flow is told otherwise than before the change, one of the three shards in its stamp was bumped.
pub(super) fn check_bumps(before: &Snapshot, after: &Snapshot, bumps: &Bumps, seed: u64) {
    for flow in flows(before, &mut Random(seed)) {
        if is_for_the_kernel_alone(&flow.from, before) {
            continue;
        }
        let (was, Some(shards)) = told(&flow, before) else {
            continue; // no such flow has an entry
        };
        if shards.iter().any(|shard| bumps.contains(*shard)) {
            continue;
        }
        let (now, _) = told(&flow, after);
        assert_eq!(
            was, now,
            "seed {seed}: {flow:?} is told otherwise; none of {shards:?} was bumped"
        );
    }
}

/// Plain from outside to an address of this node that is no Service's: it has no entry.
fn is_for_the_kernel_alone(from: &Tuple, snapshot: &Snapshot) -> bool {
    from.zone == Zone::UPLINK
        && snapshot.route(from.dst).target == RouteTarget::ThisNode
        && snapshot.vip(from.dst, from.proto.0, from.dport) == VipLookup::NotService
}

/// As `stage::redecide` asks. The shards are those of the stamp that its entry has then.
fn told(flow: &Flow, snapshot: &Snapshot) -> (Told, Option<[Shard; 3]>) {
    let Flow { from, to, hash } = *flow;
    if let Err(reason) = source_is_right(snapshot, from.zone.ingress(), from.src) {
        return (Told::Gone(reason), None);
    }
    let question = Question {
        tuple: from,
        opening: true,
        hash,
        established: Some(to),
        affine: None,
    };
    let rule = |rule: Option<RuleId>| Some((rule?, snapshot.rule_origin(rule?)?));
    let leaves = |exit| match exit {
        Exit::Punt => Leaves::Punt,
        Exit::Adjacency(id) => Leaves::By(id.map(|id| (id, snapshot.adjacency(id).port))),
    };
    let vip = snapshot.vip(from.dst, from.proto.0, from.dport);
    match decide(&question, vip, snapshot, &mut Rng::new(hash, 0)) {
        Ok(plan) => {
            let told = Told::Forward {
                to: plan.to,
                snat: plan.snat,
                exits: [plan.exit, plan.back].map(leaves),
                reply_zone: plan.reply_zone,
                rule: rule(plan.rule),
            };
            (told, Some(plan.shards))
        }
        Err(refusal) if refusal.reason == DropReason::PolicyDenied => {
            (Told::Deny(rule(refusal.rule)), Some(refusal.shards))
        }
        Err(refusal) => (Told::Gone(refusal.reason), None),
    }
}

/// Flows between ends of every kind: pods, the host and others to each other and to Services.
fn flows(snapshot: &Snapshot, random: &mut Random) -> Vec<Flow> {
    let (here, pods) = ends_here(snapshot);
    let others: Vec<_> = places()
        .into_iter()
        .chain((0..16).map(|_| differential::address(random)))
        .collect();
    let mut flows = Vec::new();
    let mut add = |random: &mut Random, (src, zone): (IpAddr, Zone), dst: IpAddr, proto, dport| {
        if src.is_ipv4() == dst.is_ipv4() && source_is_right(snapshot, zone.ingress(), src).is_ok() {
            let from = Tuple {
                src,
                dst,
                sport: 40_000,
                dport,
                proto: IpProtocol(proto),
                kind: PortsKind::Plain,
                zone,
            };
            let hash = random.next();
            let backends = backends(&from, snapshot);
            let to = backends.into_iter().map(|Backend { address: dst, port }| Tuple {
                dst,
                dport: port,
                ..from
            });
            flows.extend(
                to.chain([from])
                    .map(|to| translated(Flow { from, to, hash }, snapshot)),
            );
        }
    };
    let mut ends = here;
    ends.extend(
        random
            .some(&others, 20)
            .into_iter()
            .map(|src| outside(src, snapshot)),
    );
    for end in &ends {
        for vip in VIPS.map(address).into_iter().chain([address("10.96.9.9")]) {
            for proto in [6, 17] {
                add(random, *end, vip, proto, 80);
            }
        }
        for dst in random.some(&others, 40) {
            let (proto, dport) = service_of(random);
            add(random, *end, dst, proto, dport);
        }
    }
    for src in others {
        for pod in random.some(&pods, 50) {
            let (proto, dport) = service_of(random);
            add(random, outside(src, snapshot), pod, proto, dport);
        }
    }
    flows
}

/// Pods and the host, with where their packets come in; and the pods' addresses.
fn ends_here(snapshot: &Snapshot) -> (Vec<(IpAddr, Zone)>, Vec<IpAddr>) {
    let (mut ends, mut pods) = (Vec::new(), Vec::new());
    for port in snapshot.ports() {
        let zone = Zone::of(Ingress::Port(port.id));
        match port.kind {
            PortKind::Pod => {
                pods.extend(port.addresses.iter().copied());
                ends.extend(port.addresses.iter().map(|address| (*address, zone)));
            }
            PortKind::Host => {
                let node = snapshot.this_node();
                ends.extend(node.addresses.iter().map(|address| (*address, zone)));
                ends.push((address("203.0.113.9"), zone));
            }
            PortKind::Uplink => {}
        }
    }
    (ends, pods)
}

/// By which way packets of others come.
fn outside(src: IpAddr, snapshot: &Snapshot) -> (IpAddr, Zone) {
    let zone = match snapshot.route(src).target {
        RouteTarget::RemotePod {
            peer,
            tunnel: Some(_),
        } => Zone::of(Ingress::Tunnel(peer)),
        _ => Zone::UPLINK,
    };
    (src, zone)
}

/// A protocol and port that random policies tell from others.
fn service_of(random: &mut Random) -> (u8, u16) {
    match *random.one(&[6, 17, 132, 1]) {
        1 => (1, 0),
        proto => (proto, random.below(7) as u16),
    }
}

/// Those that a flow to this Service may have; a connection also one that the Service lists no more.
fn backends(from: &Tuple, snapshot: &Snapshot) -> Vec<Backend> {
    let mut backends = match snapshot.vip(from.dst, from.proto.0, from.dport) {
        VipLookup::Service(service) => service.listed.to_vec(),
        _ => return Vec::new(),
    };
    backends.retain(|backend| backend.address.is_ipv4() == from.dst.is_ipv4());
    if from.proto == IpProtocol::TCP && from.dst.is_ipv4() {
        backends.push(Backend {
            address: address("10.244.2.9"),
            port: 8080,
        });
    }
    backends
}

/// The flow with a source in front, if it has to have one.
fn translated(flow: Flow, snapshot: &Snapshot) -> Flow {
    match told(&flow, snapshot).0 {
        Told::Forward { snat: Some(snat), .. } => Flow {
            to: Tuple {
                src: snat.address,
                sport: 45_000,
                ..flow.to
            },
            ..flow
        },
        _ => flow,
    }
}
