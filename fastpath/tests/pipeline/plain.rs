//! The short way of plain packets of steady flows does what the general way does: the same frames through both.

use fastpath::flow::key::{V4, V6};
use fastpath::flow::listing;
use proptest::prelude::*;
use wire::tcp::TcpFlags;

use crate::cluster::{self, BOTH, Fam, allow, attach, backend, policy, port_of, service};
use crate::lab::{Lab, Options};
use crate::packet::{L4, Pkt, syn_ack, tcp, udp};

/// One node twice: as it is, and with every packet on the general way.
struct Twins {
    labs: [Lab; 2],
    flows: Vec<Flow>,
    /// What tunnels of IPv6 lie in.
    under: Fam,
}

/// A connection that is up: what each side sends, and where.
struct Flow {
    family: Fam,
    sides: [(&'static str, Pkt); 2],
    /// The node that the other side's packets come from, by VXLAN.
    node: Option<u8>,
}

/// The addresses of a pod of this node.
fn pods(number: u8) -> [String; 2] {
    BOTH.map(|family| family.pod(1, number))
}

/// Tunnels of IPv6 between the nodes' addresses of this family.
fn lay_tunnels(state: &mut contract::proto::State, under: Fam) {
    let lay = |ends: &mut [contract::proto::TunnelEnd], node: u8| {
        for end in ends.iter_mut().filter(|end| end.address.len() == 16) {
            end.outer_address = cluster::bytes(&under.node(node));
        }
    };
    lay(&mut state.node.as_mut().unwrap().tunnel_ends, 1);
    for (remote, node) in state.remote_nodes.iter_mut().zip(2..) {
        lay(&mut remote.tunnel_ends, node);
    }
}

/// Every word of the connections in a table.
fn records<const K: usize, const W: usize>(table: &flowtable::Table<K, W>) -> Vec<String> {
    table
        .connections()
        .map(|flow| format!("{:?}", (table.read(flow), table.read(flow.peer()))))
        .collect()
}

/// One packet of a flow, and what is odd about it.
#[derive(Clone, Debug)]
struct Step {
    flow: prop::sample::Index,
    reply: bool,
    flags: u8,
    ttl: u8,
    tos: u8,
    outer_ecn: u8,
    id: u16,
    may_fragment: bool,
    sequence: u32,
    payload: usize,
    padding: usize,
    partial: bool,
    damage: Option<(prop::sample::Index, u8)>,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    Poll,
    Wait(u16),
    /// Policy of the local server changes.
    Policy(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let usually =
        |value: u8, others: Vec<u8>| prop_oneof![8 => Just(value), 2 => prop::sample::select(others)];
    let head = (
        any::<prop::sample::Index>(),
        any::<bool>(),
        usually(0x10, vec![0x18, 0x11, 0x04, 0x02, 0x12, 0x14, 0]),
        usually(64, vec![0, 1, 2, 255]),
        usually(0, vec![1, 2, 3, 0xb8, 0xba]),
        usually(0, vec![1, 2, 3]),
        prop_oneof![Just(0u16), any::<u16>()],
        any::<bool>(),
    );
    let rest = (
        prop_oneof![4 => 900u32..5000, 1 => any::<u32>()],
        prop_oneof![4 => 0usize..200, 1 => 1300usize..1480],
        prop_oneof![3 => Just(0usize), 1 => 1usize..40],
        any::<bool>(),
        prop_oneof![9 => Just(None), 1 => (any::<prop::sample::Index>(), 1u8..).prop_map(Some)],
        prop_oneof![
            10 => Just(Then::Nothing),
            5 => Just(Then::Poll),
            1 => (1u16..5000).prop_map(Then::Wait),
            1 => any::<bool>().prop_map(Then::Policy),
        ],
    );
    (head, rest).prop_map(|(head, rest)| Step {
        flow: head.0,
        reply: head.1,
        flags: head.2,
        ttl: head.3,
        tos: head.4,
        outer_ecn: head.5,
        id: head.6,
        may_fragment: head.7,
        sequence: rest.0,
        payload: rest.1,
        padding: rest.2,
        partial: rest.3,
        damage: rest.4,
        then: rest.5,
    })
}

impl Twins {
    fn new(tx_checksum: bool, under: Fam) -> Self {
        let options = Options {
            tx_checksum,
            ..Options::default()
        };
        let labs = [false, true].map(|general| {
            let mut lab = Lab::with_options(&options, |state| {
                lay_tunnels(state, under);
                for (protocol, name) in [(6, "tcp"), (17, "udp")] {
                    let near = backend(1, 5, 8080);
                    state
                        .services
                        .push(service(&format!("near:{name}"), 10, protocol, 80, &near));
                    state.services.push(service(
                        &format!("far:{name}"),
                        11,
                        protocol,
                        80,
                        &backend(2, 9, 8080),
                    ));
                }
                state.policies.push(policy("web", &[allow(&pods(6), None)], &[]));
                port_of(state, "web").ingress = attach(&["web"]);
            });
            if general {
                lab.worker.take_general_way_only();
            }
            lab
        });
        let mut twins = Self {
            labs,
            flows: Vec::new(),
            under,
        };
        for family in BOTH {
            twins.bring_up(family);
        }
        twins
    }

    /// A packet of another node's, by VXLAN.
    fn vxlan(&self, node: u8, l3: &[u8]) -> Vec<u8> {
        let outer = if l3[0] >> 4 == 4 { Fam::V4 } else { self.under };
        self.labs[0].vxlan_from(&outer.node(node), 4096, l3)
    }

    fn bring_up(&mut self, f: Fam) {
        for (number, (to, node)) in [
            (f.at(&f.pod(1, 5), 80), None),
            (f.at(&f.vip(10), 80), None),
            (f.at(&f.vip(11), 80), Some(2)),
            (f.at(&f.pod(2, 9), 80), Some(2)),
            (f.at(&f.outside(), 80), None),
        ]
        .into_iter()
        .enumerate()
        {
            for make in [tcp, udp] {
                let from = f.at(&f.pod(1, 6), 4000 + number as u16);
                let is_tcp = make(&from, &to).l4 != L4::Udp;
                let open = if is_tcp {
                    make(&from, &to).flags(TcpFlags::SYN).seq(1000, 0)
                } else {
                    make(&from, &to)
                };
                let line = self.both("client", &open.l3());
                assert_eq!(line.verdict, "tx", "{line:?}");
                let (port, sent) = &(line.out[0].0.clone(), line.out[0].1.clone());
                let seen = if node.is_some() {
                    Pkt::read(&crate::lab::inner_of_vxlan(sent, 2)).unwrap()
                } else {
                    Pkt::read(&sent[14..]).unwrap()
                };
                let (dst, src) = (seen.src.to_string(), seen.dst.to_string());
                let answer = if is_tcp {
                    syn_ack(&src, &dst).seq(2000, 1001)
                } else {
                    udp(&src, &dst)
                };
                let port: &'static str = match port.as_str() {
                    "uplink" => "uplink",
                    "web" => "web",
                    other => panic!("a flow to {other}"),
                };
                let l3 = match node {
                    Some(node) => self.vxlan(node, &answer.l3()),
                    None => answer.l3(),
                };
                assert_eq!(self.both(port, &l3).verdict, "tx");
                let data = make(&from, &to);
                assert_eq!(self.both("client", &data.l3()).verdict, "tx");
                self.flows.push(Flow {
                    family: f,
                    sides: [("client", data), (port, make(&src, &dst))],
                    node,
                });
            }
        }
    }

    /// A flow of datagrams that nobody has answered yet.
    fn ask(&mut self, f: Fam) {
        let (from, to) = (f.at(&f.pod(1, 6), 4100), f.at(&f.pod(1, 5), 80));
        let question = udp(&from, &to).payload(20);
        assert_eq!(self.both("client", &question.l3()).verdict, "tx");
        self.flows.push(Flow {
            family: f,
            sides: [("client", question), ("web", udp(&to, &from))],
            node: None,
        });
    }

    /// Sends a packet to both and compares what they say.
    fn both(&mut self, port: &str, l3: &[u8]) -> crate::lab::Line {
        let [short, general] = self.labs.each_mut().map(|lab| lab.send_l3(port, l3));
        assert_eq!(format!("{short:?}"), format!("{general:?}"));
        short
    }

    /// Puts the packet of a step on the wire of both.
    fn feed(&mut self, step: &Step) -> u64 {
        let flow = &self.flows[step.flow.index(self.flows.len())];
        let (port, pkt) = &flow.sides[usize::from(step.reply)];
        let mut pkt = pkt
            .clone()
            .flags(TcpFlags(step.flags))
            .seq(step.sequence, 1)
            .ttl(step.ttl)
            .tos(step.tos)
            .id(step.id)
            .payload(step.payload);
        if step.may_fragment {
            pkt = pkt.may_fragment();
        }
        let mut l3 = if step.partial { pkt.l3_partial() } else { pkt.l3() };
        if let Some(node) = flow.node.filter(|_| step.reply) {
            l3 = self.vxlan(node, &l3);
            if l3[0] >> 4 == 4 {
                let outer = wire::ipv4::Ipv4Header::prefix_mut(&mut l3).unwrap();
                outer.set_tos(step.outer_ecn);
            } else {
                let outer = wire::ipv6::Ipv6Header::prefix_mut(&mut l3).unwrap();
                outer.set_traffic_class(step.outer_ecn);
            }
        }
        let mut frame = self.labs[0].frame(port, &l3);
        frame.resize(frame.len() + step.padding, 0xaa);
        if let Some((at, change)) = step.damage {
            // Headers alone: 14 + 50 + 40 bytes, with IPv6 20 more each.
            let end = frame.len().min(if flow.family == Fam::V4 { 104 } else { 144 });
            frame[at.index(end)] ^= change;
        }
        let [number, _] = self.labs.each_mut().map(|lab| lab.feed(port, &frame));
        number
    }

    fn poll(&mut self, numbers: &mut Vec<u64>) {
        for lab in &mut self.labs {
            lab.poll();
        }
        for number in numbers.drain(..) {
            if self.labs[0].is_held(number) {
                assert!(self.labs[1].is_held(number));
                continue;
            }
            let [short, general] = self.labs.each_mut().map(|lab| format!("{:?}", lab.line(number)));
            assert_eq!(short, general, "packet {number}");
        }
    }

    /// Counters and tables say the same.
    fn compare(&self) {
        let of = |lab: &Lab| {
            let counters = lab.worker.counters();
            let ports: Vec<_> = lab
                .snapshot
                .ports()
                .map(|port| format!("{:?}", counters.port(port.id)))
                .collect();
            let rules: Vec<_> = lab
                .snapshot
                .rules()
                .map(|(rule, _)| format!("{:?}", counters.rule(rule)))
                .collect();
            let mut flows = Vec::new();
            let now_ms = (lab.now_ns / 1_000_000) as u32;
            listing::walk::<V4, 2, 8>(lab.shared.v4(), now_ms, |listed| {
                flows.push(format!("{listed:?}"));
                true
            });
            listing::walk::<V6, 5, 12>(lab.shared.v6(), now_ms, |listed| {
                flows.push(format!("{listed:?}"));
                true
            });
            let (v4, v6) = (records(lab.shared.v4()), records(lab.shared.v6()));
            (counters.moved(), ports, rules, flows, v4, v6)
        };
        assert_eq!(of(&self.labs[0]), of(&self.labs[1]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn both_ways_give_the_same(
        tx_checksum: bool,
        under in prop::sample::select(vec![Fam::V4, Fam::V4, Fam::V6]),
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let mut twins = Twins::new(tx_checksum, under);
        for family in BOTH {
            twins.ask(family);
        }
        let mut numbers = Vec::new();
        for step in &steps {
            numbers.push(twins.feed(step));
            if step.then == Then::Nothing && numbers.len() < 60 {
                continue;
            }
            twins.poll(&mut numbers);
            match step.then {
                Then::Wait(ms) => twins.labs.iter_mut().for_each(|lab| lab.advance_s(f64::from(ms) / 1000.0)),
                Then::Policy(open) => twins.labs.iter_mut().for_each(|lab| lab.change(|state| {
                    let from = pods(if open { 6 } else { 7 });
                    state.policies[0] = policy("web", &[allow(&from, None)], &[]);
                })),
                _ => {}
            }
        }
        twins.poll(&mut numbers);
        twins.compare();
    }
}

/// Without it the test above would compare the general way with itself.
#[test]
fn packets_of_flows_that_are_up_take_the_short_way() {
    let mut twins = Twins::new(true, Fam::V4);
    for reply in [false, true] {
        for flow in 0..twins.flows.len() {
            let (port, pkt) = twins.flows[flow].sides[usize::from(reply)].clone();
            let pkt = pkt.seq(3000, 1).payload(20);
            let l3 = match twins.flows[flow].node.filter(|_| reply) {
                Some(node) => twins.vxlan(node, &pkt.l3()),
                None => pkt.l3(),
            };
            let replayed = |lab: &Lab| lab.worker.counters().replayed.get();
            let before = replayed(&twins.labs[0]);
            twins.both(port, &l3);
            let [short, general] = twins.labs.each_ref().map(replayed);
            assert_eq!((short - before, general), (1, 0), "{pkt:?}");
        }
    }
}

#[test]
fn datagrams_that_nobody_answers_take_the_short_way() {
    for family in BOTH {
        datagrams_of_one_family_that_nobody_answers_take_the_short_way(family);
    }
}

fn datagrams_of_one_family_that_nobody_answers_take_the_short_way(family: Fam) {
    let mut twins = Twins::new(true, Fam::V4);
    twins.ask(family);
    let (port, question) = twins.flows.last().unwrap().sides[0].clone();
    let replayed = |twins: &Twins| {
        twins
            .labs
            .each_ref()
            .map(|lab| lab.worker.counters().replayed.get())
    };
    let [before, _] = replayed(&twins);
    for _ in 0..20 {
        twins.both(port, &question.l3());
    }
    // The first of them still made the state `Udp`.
    assert_eq!(replayed(&twins), [before + 19, 0]);
    twins.compare();
}

#[test]
fn plain_packets_that_open_a_flow_take_the_short_way() {
    let twins = Twins::new(true, Fam::V4);
    let [short, general] = twins
        .labs
        .each_ref()
        .map(|lab| lab.worker.counters().opened.get());
    assert!(short > 0, "no flow was opened the short way");
    assert_eq!(general, 0);
}

/// Offset in the IP packet, and what is put there.
const EDGES_V4: &[(usize, &[u8])] = &[
    (2, &[0, 27]),
    (2, &[0, 39]),
    (2, &[0, 40]),
    (2, &[0, 41]),
    (2, &[0xff, 0xff]),
    (6, &[0x20, 0]),
    (6, &[0x80, 0]),
    (6, &[0, 1]),
    (8, &[1]),
    (8, &[2]),
    (9, &[1]),
    (9, &[132]),
    (12, &[0]),
    (12, &[127]),
    (12, &[169, 254]),
    (16, &[224]),
    (16, &[255, 255, 255, 255]),
    (20, &[0, 67, 0, 68]),
    (22, &4789u16.to_be_bytes()),
    (24, &[0, 7]),
    (24, &[0, 8]),
    (24, &[0xff, 0xff]),
    (26, &[0, 0]),
    (26, &[0xff, 0xff]),
    (32, &[0x40]),
    (32, &[0x60]),
    (32, &[0xf0]),
    (33, &[0x11]),
    (36, &[0, 0]),
    (36, &[0xff, 0xff]),
];

/// The same of IPv6.
const EDGES_V6: &[(usize, &[u8])] = &[
    (0, &[0x50]),
    (0, &[0x6f, 0xff, 0xff, 0xff]),
    (4, &[0, 0]),
    (4, &[0, 7]),
    (4, &[0, 19]),
    (4, &[0, 20]),
    (4, &[0, 33]),
    (4, &[0xff, 0xd7]),
    (4, &[0xff, 0xd8]),
    (4, &[0xff, 0xff]),
    (6, &[0]),
    (6, &[1]),
    (6, &[4]),
    (6, &[43]),
    (6, &[44]),
    (6, &[58]),
    (6, &[59]),
    (6, &[60]),
    (6, &[132]),
    (7, &[0]),
    (7, &[1]),
    (7, &[2]),
    (8, &[0]),
    (8, &[0, 0]),
    (8, &[0; 16]),
    (8, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    (8, &[0, 0x64, 0xff, 0x9b]),
    (8, &[0xfe, 0x80]),
    (8, &[0xfe, 0xc0]),
    (8, &[0xff, 2]),
    (24, &[0, 0]),
    (24, &[0; 16]),
    (24, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    (24, &[0xfe, 0x80]),
    (24, &[0xff, 2]),
    (40, &[2, 35, 2, 34]),
    (40, &[0, 67, 0, 68]),
    (42, &4789u16.to_be_bytes()),
    (44, &[0, 7]),
    (44, &[0, 8]),
    (44, &[0xff, 0xff]),
    (46, &[0, 0]),
    (46, &[0xff, 0xff]),
    (52, &[0x40]),
    (52, &[0x60]),
    (52, &[0xf0]),
    (53, &[0x11]),
    (56, &[0, 0]),
    (56, &[0xff, 0xff]),
];

/// Fields at the edges of what is plain: the IP header stays right, so that nothing but the field itself tells.
#[test]
fn what_is_nearly_plain_fares_the_same_both_ways() {
    let mut twins = Twins::new(false, Fam::V4);
    for flow in 0..twins.flows.len() {
        for reply in [false, true] {
            let edges = match twins.flows[flow].family {
                Fam::V4 => EDGES_V4,
                Fam::V6 => EDGES_V6,
            };
            for (at, bytes) in edges {
                let (port, pkt) = twins.flows[flow].sides[usize::from(reply)].clone();
                let mut l3 = pkt.seq(3000, 1).payload(12).l3();
                l3[*at..at + bytes.len()].copy_from_slice(bytes);
                if twins.flows[flow].family == Fam::V4 {
                    l3[10..12].fill(0);
                    let sum = wire::checksum::Sum::of(&l3[..20]).checksum();
                    l3[10..12].copy_from_slice(&sum.to_bytes());
                }
                if let Some(node) = twins.flows[flow].node.filter(|_| reply) {
                    l3 = twins.vxlan(node, &l3);
                }
                let frame = twins.labs[0].frame(port, &l3);
                let [number, _] = twins.labs.each_mut().map(|lab| lab.feed(port, &frame));
                twins.poll(&mut vec![number]);
            }
        }
    }
    twins.compare();
}

/// A packet that opens a flow, or would: from whom, to what, on which port.
#[derive(Clone, Debug)]
struct First {
    family: Fam,
    from: &'static str,
    to: usize,
    sport: u16,
    is_tcp: bool,
    then_poll: bool,
}

fn first() -> impl Strategy<Value = First> {
    (
        prop::sample::select(&BOTH[..]),
        prop_oneof![6 => Just("client"), 2 => Just("web"), 1 => Just("spoofed")],
        0..DESTINATIONS.len(),
        0u16..6,
        any::<bool>(),
        prop::bool::weighted(0.03),
    )
        .prop_map(|(family, from, to, sport, is_tcp, then_poll)| First {
            family,
            from,
            to,
            sport,
            is_tcp,
            then_poll,
        })
}

/// Address, by kind, and port.
const DESTINATIONS: [(fn(Fam) -> String, u16); 12] = [
    (|f| f.pod(1, 5), 8080),
    (|f| f.pod(1, 5), 9090), // denied
    (|f| f.vip(10), 80),
    (|f| f.vip(11), 80),
    (|f| f.vip(12), 80), // one backend in three is denied
    (|f| f.vip(12), 81), // no such port
    (|f| f.vip(13), 80), // affinity
    (|f| f.vip(14), 80), // no endpoints
    (|f| f.vip(99), 80), // nobody's
    (Fam::outside, 80),  // takes a source port
    // What the first would be answered by, and is denied when nobody asked.
    (|f| f.pod(1, 6), 6000),
    (|f| f.pod(1, 6), 6001),
];

impl Twins {
    /// Policies and Services that refuse some of what [`first`] makes.
    fn with_refusals() -> Self {
        let mut twins = Self::new(false, Fam::V4);
        for lab in &mut twins.labs {
            lab.change(|state| {
                let client = pods(6);
                let rules = [6, 17].map(|protocol| allow(&client, Some((protocol, 8080))));
                state.policies[0] = policy("web", &rules, &[]);
                state.policies.push(policy("client", &[], &[]));
                port_of(state, "client").ingress = attach(&["client"]);
                let [near, denied, far] = [(1, 5, 8080), (1, 5, 9090), (2, 9, 8080)]
                    .map(|(node, number, port)| backend(node, number, port));
                let mixed = [near.clone(), denied, far.clone()].concat();
                let both = [near, far].concat();
                for protocol in [6, 17] {
                    let mut sticky = service(&format!("sticky:{protocol}"), 13, protocol, 80, &both);
                    sticky.affinity_s = 100;
                    state.services.extend([
                        service(&format!("mixed:{protocol}"), 12, protocol, 80, &mixed),
                        sticky,
                        service(&format!("empty:{protocol}"), 14, protocol, 80, &[]),
                    ]);
                }
            });
        }
        twins
    }

    fn feed_first(&mut self, first: &First) -> u64 {
        let f = first.family;
        let (address, port) = DESTINATIONS[first.to];
        // No port for two destinations: two flows with one reply would draw a port, and the short way draws it after others' backends.
        let sport = 6000 + 6 * first.to as u16 + first.sport;
        let (src, sport) = match first.from {
            "client" => (f.pod(1, 6), sport),
            "web" if first.to >= 10 => (f.pod(1, 5), 8080),
            "web" => (f.pod(1, 5), sport),
            _ => (f.pod(1, 7), sport),
        };
        let (src, dst) = (f.at(&src, sport), f.at(&address(f), port));
        let pkt = if first.is_tcp {
            tcp(&src, &dst).flags(TcpFlags::SYN).seq(1000, 0)
        } else {
            // With less it is too short to be plain.
            udp(&src, &dst).payload(20)
        };
        let on = if first.from == "web" { "web" } else { "client" };
        let frame = self.labs[0].frame(on, &pkt.l3());
        let [number, _] = self.labs.each_mut().map(|lab| lab.feed(on, &frame));
        number
    }

    fn send_batches(&mut self, firsts: &[First]) {
        let mut numbers = Vec::new();
        for first in firsts {
            numbers.push(self.feed_first(first));
            if first.then_poll || numbers.len() == 60 {
                self.poll(&mut numbers);
            }
        }
        self.poll(&mut numbers);
        self.compare();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn packets_that_open_flows_or_may_not_fare_the_same_both_ways(
        firsts in proptest::collection::vec(first(), 1..200),
    ) {
        Twins::with_refusals().send_batches(&firsts);
    }
}

/// Each twice in a row, then once more: of an allowed one the second meets the flow of the first, of a denied one it is denied again.
#[test]
fn a_batch_of_allowed_and_denied_packets_and_their_duplicates_fares_the_same_both_ways() {
    let mut twins = Twins::with_refusals();
    let [before, _] = twins
        .labs
        .each_ref()
        .map(|lab| lab.worker.counters().opened.get());
    let firsts: Vec<_> = (0..60)
        .map(|number| First {
            family: Fam::V4,
            from: "client",
            to: (number / 2) % 2,
            sport: (number as u16 % 24) / 4,
            is_tcp: false,
            then_poll: false,
        })
        .collect();
    twins.send_batches(&firsts);
    let [short, general] = twins.labs.each_ref().map(|lab| {
        let moved = lab.worker.counters().moved();
        let of = |wanted: &str| moved.iter().find(|(name, _)| name == wanted).map(|(_, n)| *n);
        (lab.worker.counters().opened.get(), of("drop-policy-denied"))
    });
    assert_eq!((short.0 - before, general.0), (6, 0));
    assert_eq!((short.1, general.1), (Some(30), Some(30)));
}
