//! Decide: what becomes of a flow, from its tuple alone. A function of (tuple, snapshot, random choice), so that a flow's
//! first packet and a re-decision after a change agree.
//!
//! Reads the snapshot: Services, routes, policy, pools. Sets nothing. Refuses with drop `no-endpoints`, `no-such-port`,
//! `unassigned-service-address`, `no-flow`, `no-route`, `policy-denied`.

use std::net::IpAddr;

use wire::IpProtocol;

use super::NOTHING;
use super::refuse::{Answer, node_address};
use crate::flow::{Ingress, Tuple, Zone};
use crate::observe::Fate;
use crate::rng::Rng;
use crate::snapshot::{
    AdjacencyEncap, AdjacencyId, Attachment, Backend, Direction, PolicyBatch, PolicyQuery, Port, PortKind,
    Route, RouteTarget, RuleId, Service, ServiceId, Shard, Snapshot, VipLookup,
};
use crate::verdict::DropReason;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    /// The tuple as the original direction has it on arrival.
    pub tuple: Tuple,
    /// The packet may open a connection: anything but a TCP segment without SYN or an echo reply.
    pub opening: bool,
    /// Hash of the flow, for ECMP.
    pub hash: u64,
    /// What an established flow is rewritten to; asked again after a change.
    pub established: Option<Tuple>,
    /// The backend that this client had before.
    pub affine: Option<Backend>,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The tuple after rewriting, but for the source where `snat` says so.
    pub to: Tuple,
    /// The source that is to be put in front, if any.
    pub snat: Option<Snat>,
    /// Where packets of the original direction go.
    pub exit: Exit,
    /// Where replies go.
    pub back: Exit,
    /// Where replies come from.
    pub reply_zone: Zone,
    /// The rule that allowed it.
    pub rule: Option<RuleId>,
    /// What it depends on.
    pub shards: [Shard; 3],
}

/// A source to put in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Snat {
    pub address: IpAddr,
    /// The original port is fine wherever it lies; else only in the range set aside for us.
    pub keep_any_port: bool,
}

/// Where packets of one direction go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By this adjacency; `None`: none known now, asked again when needed.
    Adjacency(Option<AdjacencyId>),
    /// To this node's kernel, unchanged.
    Punt,
}

/// Why not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub reason: DropReason,
    pub answer: Answer,
    pub rule: Option<RuleId>,
    pub service: Option<ServiceId>,
    pub shards: [Shard; 3],
}

impl Refusal {
    pub(crate) fn new(reason: DropReason, answer: Answer) -> Self {
        Self {
            reason,
            answer,
            rule: None,
            service: None,
            shards: [NO_SHARD; 3],
        }
    }

    /// Policy denies the flow, by this rule.
    pub(crate) fn denied(rule: Option<RuleId>, service: Option<ServiceId>, shards: [Shard; 3]) -> Self {
        Self {
            reason: DropReason::PolicyDenied,
            answer: Answer::None,
            rule,
            service,
            shards,
        }
    }

    /// What it says of the packet.
    pub(crate) fn fate(&self) -> Fate {
        Fate {
            rule: self.rule,
            service: self.service,
            ..NOTHING
        }
    }
}

/// Stands where a flow depends on nothing.
const NO_SHARD: Shard = Shard(0);

/// A plan that policy has not judged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aim<'s> {
    pub plan: Plan,
    service: Option<ServiceId>,
    /// Policy of the source, if any is to be asked, and of the destination.
    egress: Option<&'s Attachment>,
    ingress: Option<&'s Attachment>,
}

/// Decides; `vip` is what the tuple's destination is to the Services.
pub(crate) fn decide(
    question: &Question,
    vip: VipLookup<'_>,
    snapshot: &Snapshot,
    rng: &mut Rng,
) -> Result<Plan, Refusal> {
    aim(question, vip, snapshot, rng)?.judged(&question.tuple, snapshot)
}

/// Decides all but what policy says.
#[inline]
pub(crate) fn aim<'s>(
    question: &Question,
    vip: VipLookup<'_>,
    snapshot: &'s Snapshot,
    rng: &mut Rng,
) -> Result<Aim<'s>, Refusal> {
    let tuple = &question.tuple;
    let ingress = tuple.zone.ingress();
    let (backend, service) = backend(question, vip, rng)?;
    let (dst, dport) = backend.map_or((tuple.dst, tuple.dport), |backend| {
        (backend.address, backend.port)
    });
    let mut to = Tuple { dst, dport, ..*tuple };
    let route = snapshot.route(dst);
    let port = port_at(ingress, snapshot);
    // Where a pod's packets come from is known without asking for its route.
    let source = match port {
        Some(port) if port.kind == PortKind::Pod => Source::Pod(port),
        _ => Source::Other(snapshot.route(tuple.src)),
    };
    let is_to_pod = matches!(route.target, RouteTarget::LocalPod(_));
    // Two ends, and the address of the one that is not here: whatever changes about one that is, is the endpoint's.
    let shards = match &source {
        Source::Pod(port) => [port.shard, route.shard, Shard::address(dst)],
        Source::Other(from) if is_to_pod => [from.shard, route.shard, Shard::address(tuple.src)],
        Source::Other(from) => [from.shard, route.shard, Shard::address(dst)],
    };
    let refuse = |reason, answer, rule, shards| Refusal {
        reason,
        answer,
        rule,
        service: service.map(|service| service.id),
        shards,
    };

    let no_route = || refuse(DropReason::NoRoute, Answer::NoRoute, None, shards);
    let exit = match answer_of_this_node(question, &to, &route, snapshot) {
        Some(adjacency) => Exit2 {
            exit: Exit::Adjacency(Some(adjacency)),
            reply_zone: Zone::UPLINK,
        },
        None => exit(&route, dst, question.hash, snapshot).ok_or_else(no_route)?,
    };
    if service.is_none() && backend.is_none() && !may_pass_through(ingress, port, &route) {
        return Err(refuse(DropReason::NoRoute, Answer::None, None, shards));
    }
    let destination = match route.target {
        RouteTarget::LocalPod(port) => snapshot.port(port),
        _ => None,
    };
    let (egress, ingress) = policies(tuple, port, destination, snapshot);

    let snat = snat(
        tuple,
        &to,
        port,
        &route,
        exit.exit,
        service.is_some() || backend.is_some(),
        question.opening,
        snapshot,
    );
    if let Some(established) = question.established {
        // NAT that holds is kept, port and all.
        (to.src, to.sport) = (established.src, established.sport);
        if to.kind.is_echo() {
            to.dport = established.dport;
        }
    }
    let rewritten = dst != tuple.dst || dport != tuple.dport || snat.is_some();
    let exit = match exit.exit {
        // The kernel gets what is its own as it came; what was rewritten for it is a packet like any other.
        Exit::Punt if rewritten => Exit2 {
            exit: Exit::Adjacency(snapshot.host_adjacency()),
            ..exit
        },
        _ => exit,
    };
    let back = back(tuple, &source, question.hash, snapshot);
    let plan = Plan {
        to,
        snat,
        exit: exit.exit,
        back,
        reply_zone: exit.reply_zone,
        rule: None,
        shards,
    };
    Ok(Aim {
        plan,
        service: service.map(|service| service.id),
        egress,
        ingress,
    })
}

impl<'s> Aim<'s> {
    /// The plan, if policy allows the flow that comes as `from`.
    #[inline]
    pub(crate) fn judged(self, from: &Tuple, snapshot: &Snapshot) -> Result<Plan, Refusal> {
        let mut rule = None;
        let asks = [
            (self.egress, Direction::Egress),
            (self.ingress, Direction::Ingress),
        ];
        for (attachment, direction) in asks {
            let Some(attachment) = attachment else {
                continue;
            };
            let decision = snapshot.judge(attachment, &self.query(from, direction));
            if !decision.allow {
                return Err(Refusal::denied(decision.rule, self.service, self.plan.shards));
            }
            rule = decision.rule.or(rule);
        }
        Ok(Plan { rule, ..self.plan })
    }

    /// Asks policy of the flow that comes as `from`: of its source, then of its destination. All must be allowed; the rule of the
    /// last that names one is the flow's. Returns the rule so far, and how many answers are to come.
    #[inline]
    pub(crate) fn ask(
        &self,
        from: &Tuple,
        policy: &mut PolicyBatch<'s>,
    ) -> Result<(Option<RuleId>, u8), Refusal> {
        let denied = |rule| Refusal::denied(rule, self.service, self.plan.shards);
        let (mut rule, mut asks) = (None, 0);
        let questions = [
            (self.egress, Direction::Egress),
            (self.ingress, Direction::Ingress),
        ];
        for (attachment, direction) in questions {
            let Some(attachment) = attachment else {
                continue;
            };
            match policy.ask(attachment, &self.query(from, direction)) {
                None => asks += 1,
                // The source's answer comes first.
                Some(decision) if asks > 0 => {
                    policy.put(decision);
                    asks += 1;
                }
                Some(decision) if decision.allow => rule = decision.rule.or(rule),
                Some(decision) => return Err(denied(decision.rule)),
            }
        }
        Ok((rule, asks))
    }

    #[inline]
    fn query(&self, from: &Tuple, direction: Direction) -> PolicyQuery {
        let to = &self.plan.to;
        PolicyQuery {
            src: from.src,
            dst: to.dst,
            protocol: from.proto.0,
            dst_port: if to.proto.has_ports() { to.dport } else { 0 },
            direction,
        }
    }
}

/// Where a flow's packets come from.
enum Source<'s> {
    /// The pod behind the port.
    Pod(&'s Port),
    /// Anyone else, who is reached so.
    Other(Route),
}

/// The backend that the flow goes to, if it goes to a Service.
fn backend<'s>(
    question: &Question,
    vip: VipLookup<'s>,
    rng: &mut Rng,
) -> Result<(Option<Backend>, Option<&'s Service>), Refusal> {
    let Question {
        tuple,
        established,
        opening,
        ..
    } = question;
    let (established, opening) = (*established, *opening);
    let chosen = established
        .filter(|to| (to.dst, to.dport) != (tuple.dst, tuple.dport) && !tuple.kind.is_echo())
        .map(|to| Backend {
            address: to.dst,
            port: to.dport,
        });
    let is_connection = tuple.proto != IpProtocol::UDP;
    if let Some(chosen) = chosen {
        return match vip {
            // A connection stays where it is until that address is withdrawn; a datagram flow while it is listed.
            VipLookup::Service(service) if is_connection || service.listed.contains(&chosen) => {
                Ok((Some(chosen), Some(service)))
            }
            _ if is_connection => Ok((Some(chosen), None)),
            // Chosen anew by the packet that follows.
            VipLookup::Service(service) => Err(Refusal {
                service: Some(service.id),
                ..Refusal::new(DropReason::NoFlow, Answer::None)
            }),
            _ => Err(Refusal::new(DropReason::NoFlow, Answer::None)),
        };
    }
    match vip {
        VipLookup::NotService => Ok((None, None)),
        // It was forwarded before this address became a VIP.
        _ if established.is_some() && is_connection => Ok((None, None)),
        VipLookup::NoSuchPort => Err(Refusal::new(DropReason::NoSuchPort, Answer::Reject)),
        VipLookup::Unassigned => Err(Refusal::new(DropReason::UnassignedServiceAddress, Answer::None)),
        VipLookup::Service(service) => {
            let refuse = |reason, answer| Refusal {
                service: Some(service.id),
                ..Refusal::new(reason, answer)
            };
            if let (true, Some(backend)) = (opening, question.affine) {
                return Ok((Some(backend), Some(service)));
            }
            let is_v4 = tuple.dst.is_ipv4();
            let count = service.eligible(is_v4).len();
            if count == 0 {
                return Err(refuse(DropReason::NoEndpoints, Answer::Reject));
            }
            if !opening {
                // Never a new choice in the middle of a connection.
                return Err(refuse(DropReason::NoFlow, Answer::Reset));
            }
            Ok((
                Some(service.eligible_at(is_v4, rng.below(count as u32) as usize)),
                Some(service),
            ))
        }
    }
}

#[derive(Clone, Copy)]
struct Exit2 {
    exit: Exit,
    reply_zone: Zone,
}

/// Where a route leads, and where replies come from. `None`: nowhere.
fn exit(route: &Route, dst: IpAddr, hash: u64, snapshot: &Snapshot) -> Option<Exit2> {
    let by = |adjacency, ingress| Exit2 {
        exit: Exit::Adjacency(Some(adjacency)),
        reply_zone: Zone::of(ingress),
    };
    Some(match route.target {
        RouteTarget::LocalPod(port) => by(snapshot.pod_adjacency(port)?, Ingress::Port(port)),
        RouteTarget::ThisNode => Exit2 {
            exit: Exit::Punt,
            reply_zone: snapshot
                .host_port()
                .map_or(Zone::UPLINK, |port| Zone::of(Ingress::Port(port.id))),
        },
        RouteTarget::RemotePod {
            peer,
            tunnel: Some(tunnel),
        } => by(tunnel, Ingress::Tunnel(peer)),
        RouteTarget::RemotePod { tunnel: None, .. } | RouteTarget::PeerNode(_) | RouteTarget::Underlay => {
            let adjacency = snapshot.underlay_adjacency(dst, ecmp(hash))?;
            by(adjacency, ingress_behind(adjacency, snapshot))
        }
        RouteTarget::Unreachable => return None,
    })
}

/// How this node answers a pod of another node that spoke to its own address.
///
/// A pod reaches a node's own address plain and by its own address, past our workers: that packet was the kernel's. So the
/// answer must reach the pod the same way, with the address that it asked: not by the tunnel, whose other end takes only our
/// tunnel address. It can where the pod's node is on our link. `None`: it is no such answer, or the pod's node is behind a
/// router, which knows no pods.
pub(super) fn answer_of_this_node(
    question: &Question,
    to: &Tuple,
    route: &Route,
    snapshot: &Snapshot,
) -> Option<AdjacencyId> {
    let from = &question.tuple;
    let RouteTarget::RemotePod {
        peer,
        tunnel: Some(_),
    } = route.target
    else {
        return None;
    };
    let Ingress::Port(port) = from.zone.ingress() else {
        return None;
    };
    let from_host = snapshot.port(port)?.kind == PortKind::Host;
    let is_own = snapshot.this_node().addresses.contains(&from.src);
    let is_answer = match question.established {
        Some(established) => established.src == from.src,
        None => !question.opening || is_datagram_of_server(from),
    };
    (from_host && is_own && is_answer && from.dst == to.dst)
        .then(|| snapshot.on_link_peer(peer, from.src.is_ipv4(), ecmp(question.hash)))
        .flatten()
}

/// Datagrams do not say who began: servers have the lower port.
fn is_datagram_of_server(from: &Tuple) -> bool {
    from.proto == IpProtocol::UDP && from.sport < from.dport
}

/// How packets from behind an underlay adjacency come in: by an uplink, or the host port.
fn ingress_behind(adjacency: AdjacencyId, snapshot: &Snapshot) -> Ingress {
    snapshot
        .port(snapshot.adjacency(adjacency).port)
        .filter(|port| port.kind == PortKind::Host)
        .map_or(Ingress::Uplink, |port| Ingress::Port(port.id))
}

/// What comes from outside and is for nobody here does not go out again through us, unless a Service sends it there.
fn may_pass_through(ingress: Ingress, port: Option<&Port>, route: &Route) -> bool {
    match ingress {
        Ingress::Uplink | Ingress::Tunnel(_) => {
            matches!(route.target, RouteTarget::LocalPod(_) | RouteTarget::ThisNode)
        }
        Ingress::Port(_) => !(is_host(port) && route.target == RouteTarget::ThisNode),
    }
}

/// The port behind an ingress that is one.
fn port_at(ingress: Ingress, snapshot: &Snapshot) -> Option<&Port> {
    match ingress {
        Ingress::Port(port) => snapshot.port(port),
        Ingress::Uplink | Ingress::Tunnel(_) => None,
    }
}

fn is_host(port: Option<&Port>) -> bool {
    port.is_some_and(|port| port.kind == PortKind::Host)
}

/// Egress policy of the source after DNAT, ingress policy of the destination before SNAT, where there is any to ask.
fn policies<'s>(
    from: &Tuple,
    port: Option<&'s Port>,
    destination: Option<&'s Port>,
    snapshot: &Snapshot,
) -> (Option<&'s Attachment>, Option<&'s Attachment>) {
    let source = port.filter(|port| port.kind == PortKind::Pod);
    if let (Some(source), Some(destination)) = (source, destination)
        && source.id == destination.id
    {
        return (None, None); // a pod always reaches itself
    }
    let says_something = |attachment: &&Attachment| !attachment.0.is_empty();
    let ingress = destination
        .map(|port| &port.ingress)
        .filter(says_something)
        .filter(|_| !is_from_this_node(from, port, snapshot));
    (source.map(|port| &port.egress).filter(says_something), ingress)
}

/// Nodes always reach their own pods: told by the port that it came in by, and an address of this node.
fn is_from_this_node(from: &Tuple, port: Option<&Port>, snapshot: &Snapshot) -> bool {
    is_host(port) && snapshot.is_node_address(from.src)
}

/// The source to put in front, if any.
#[expect(clippy::too_many_arguments, reason = "everything that masquerade depends on")]
fn snat(
    from: &Tuple,
    to: &Tuple,
    port: Option<&Port>,
    route: &Route,
    exit: Exit,
    is_service: bool,
    opening: bool,
    snapshot: &Snapshot,
) -> Option<Snat> {
    let masquerade = |address: Option<IpAddr>| {
        address.map(|address| Snat {
            address,
            keep_any_port: false,
        })
    };
    let node = || node_address(from.src.is_ipv4(), snapshot);
    if to.dst == from.src {
        return masquerade(node()); // hairpin: the pod must not see itself as the peer
    }
    let tunnel_source = || match exit {
        Exit::Adjacency(Some(adjacency)) => tunnel_source(adjacency, to.dst.is_ipv4(), snapshot),
        _ => None,
    };
    match port.map(|port| port.kind) {
        Some(PortKind::Pod) => {
            let leaves = matches!(route.target, RouteTarget::Underlay) && snapshot.pool(to.dst).is_none();
            let nat_outgoing = || snapshot.pool(from.src).is_some_and(|pool| pool.nat_outgoing);
            (leaves && nat_outgoing())
                .then_some(())
                .and_then(|()| masquerade(node()))
        }
        Some(PortKind::Host) => {
            // Replies of the host's sockets to connections from elsewhere keep their address.
            let address = tunnel_source().filter(|address| opening && *address != from.src)?;
            Some(Snat {
                address,
                keep_any_port: true,
            })
        }
        _ if is_service && !matches!(route.target, RouteTarget::LocalPod(_) | RouteTarget::ThisNode) => {
            // From outside through us to elsewhere: replies must come back through us.
            masquerade(tunnel_source().or_else(node))
        }
        _ => None,
    }
}

/// Our address inside the tunnel that an adjacency leads into.
fn tunnel_source(adjacency: AdjacencyId, is_v4: bool, snapshot: &Snapshot) -> Option<IpAddr> {
    let node = snapshot.this_node();
    match snapshot.adjacency(adjacency).encap {
        AdjacencyEncap::Ethernet => None,
        AdjacencyEncap::Vxlan4 | AdjacencyEncap::Vxlan6 if is_v4 => node.vxlan_address_v4,
        AdjacencyEncap::Vxlan4 | AdjacencyEncap::Vxlan6 => node.vxlan_address_v6,
        AdjacencyEncap::Ipip => node.ipip_address_v4,
    }
}

/// Where replies go: back by the way that the flow came, a tunnel included.
fn back(tuple: &Tuple, source: &Source<'_>, hash: u64, snapshot: &Snapshot) -> Exit {
    let source = match source {
        Source::Pod(port) => return Exit::Adjacency(port.adjacency),
        Source::Other(route) => route,
    };
    Exit::Adjacency(match tuple.zone.ingress() {
        Ingress::Port(_) => snapshot.host_adjacency(),
        Ingress::Tunnel(_) => match source.target {
            RouteTarget::RemotePod {
                tunnel: Some(tunnel), ..
            } => Some(tunnel),
            _ => snapshot.underlay_adjacency(tuple.src, ecmp(hash)),
        },
        // An address of our blocks that nobody has: its shard does not stand for an underlay route, so none is kept.
        Ingress::Uplink if source.target == RouteTarget::Unreachable => None,
        Ingress::Uplink => snapshot.underlay_adjacency(tuple.src, ecmp(hash)),
    })
}

/// The part of a flow's hash that chooses among equal paths.
pub(super) fn ecmp(hash: u64) -> u32 {
    (hash >> 16) as u32
}
