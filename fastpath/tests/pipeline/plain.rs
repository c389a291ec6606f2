//! The short way of plain packets of steady flows does what the general way does: the same frames through both.

use fastpath::flow::key::V4;
use fastpath::flow::listing;
use proptest::prelude::*;
use wire::tcp::TcpFlags;

use crate::cluster::{Fam, allow, attach, backend, policy, port_of, service};
use crate::lab::{Lab, Options};
use crate::packet::{L4, Pkt, syn_ack, tcp, udp};

/// One node twice: as it is, and with every packet on the general way.
struct Twins {
    labs: [Lab; 2],
    flows: Vec<Flow>,
}

/// A connection that is up: what each side sends, and where.
struct Flow {
    sides: [(&'static str, Pkt); 2],
    /// The node that the other side's packets come from, by VXLAN.
    node: Option<u8>,
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
    fn new(tx_checksum: bool) -> Self {
        let options = Options {
            tx_checksum,
            ..Options::default()
        };
        let labs = [false, true].map(|general| {
            let mut lab = Lab::with_options(&options, |state| {
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
                state
                    .policies
                    .push(policy("web", &[allow(&[Fam::V4.pod(1, 6)], None)], &[]));
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
        };
        twins.bring_up();
        twins
    }

    fn bring_up(&mut self) {
        let f = Fam::V4;
        let far = |lab: &Lab, l3: &[u8]| lab.vxlan(2, l3);
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
                    Some(_) => far(&self.labs[0], &answer.l3()),
                    None => answer.l3(),
                };
                assert_eq!(self.both(port, &l3).verdict, "tx");
                let data = make(&from, &to);
                assert_eq!(self.both("client", &data.l3()).verdict, "tx");
                self.flows.push(Flow {
                    sides: [("client", data), (port, make(&src, &dst))],
                    node,
                });
            }
        }
    }

    /// A flow of datagrams that nobody has answered yet.
    fn ask(&mut self) {
        let f = Fam::V4;
        let (from, to) = (f.at(&f.pod(1, 6), 4100), f.at(&f.pod(1, 5), 80));
        let question = udp(&from, &to).payload(20);
        assert_eq!(self.both("client", &question.l3()).verdict, "tx");
        self.flows.push(Flow {
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
        if step.reply && flow.node.is_some() {
            l3 = self.labs[0].vxlan(2, &l3);
            wire::ipv4::Ipv4Header::prefix_mut(&mut l3)
                .unwrap()
                .set_tos(step.outer_ecn);
        }
        let mut frame = self.labs[0].frame(port, &l3);
        frame.resize(frame.len() + step.padding, 0xaa);
        if let Some((at, change)) = step.damage {
            // Headers alone: 14 + 50 + 40 bytes.
            let end = frame.len().min(104);
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
            listing::walk::<V4, 2, 8>(lab.shared.v4(), (lab.now_ns / 1_000_000) as u32, |listed| {
                flows.push(format!("{listed:?}"));
                true
            });
            let table = lab.shared.v4();
            let records: Vec<_> = table
                .connections()
                .map(|flow| (table.read(flow), table.read(flow.peer())))
                .collect();
            (counters.moved(), ports, rules, flows, records)
        };
        assert_eq!(of(&self.labs[0]), of(&self.labs[1]));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn both_ways_give_the_same(tx_checksum: bool, steps in proptest::collection::vec(step(), 1..80)) {
        let mut twins = Twins::new(tx_checksum);
        twins.ask();
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
                    let from = Fam::V4.pod(1, if open { 6 } else { 7 });
                    state.policies[0] = policy("web", &[allow(&[from], None)], &[]);
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
    let mut twins = Twins::new(true);
    for reply in [false, true] {
        for flow in 0..twins.flows.len() {
            let (port, pkt) = twins.flows[flow].sides[usize::from(reply)].clone();
            let pkt = pkt.seq(3000, 1).payload(20);
            let l3 = match twins.flows[flow].node.filter(|_| reply) {
                Some(node) => twins.labs[0].vxlan(node, &pkt.l3()),
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
    let mut twins = Twins::new(true);
    twins.ask();
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
    let twins = Twins::new(true);
    let [short, general] = twins
        .labs
        .each_ref()
        .map(|lab| lab.worker.counters().opened.get());
    assert!(short > 0, "no flow was opened the short way");
    assert_eq!(general, 0);
}

/// Fields at the edges of what is plain: the IP header stays right, so that nothing but the field itself tells.
#[test]
fn what_is_nearly_plain_fares_the_same_both_ways() {
    let mut twins = Twins::new(false);
    // Offset in the IP packet, and what is put there.
    let edges: &[(usize, &[u8])] = &[
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
    for flow in 0..twins.flows.len() {
        for reply in [false, true] {
            for (at, bytes) in edges {
                let (port, pkt) = twins.flows[flow].sides[usize::from(reply)].clone();
                let mut l3 = pkt.seq(3000, 1).payload(12).l3();
                l3[*at..at + bytes.len()].copy_from_slice(bytes);
                l3[10..12].fill(0);
                let sum = wire::checksum::Sum::of(&l3[..20]).checksum();
                l3[10..12].copy_from_slice(&sum.to_bytes());
                if let Some(node) = twins.flows[flow].node.filter(|_| reply) {
                    l3 = twins.labs[0].vxlan(node, &l3);
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
    from: &'static str,
    to: usize,
    sport: u16,
    is_tcp: bool,
    then_poll: bool,
}

fn first() -> impl Strategy<Value = First> {
    (
        prop_oneof![6 => Just("client"), 2 => Just("web"), 1 => Just("spoofed")],
        0..DESTINATIONS.len(),
        0u16..6,
        any::<bool>(),
        prop::bool::weighted(0.03),
    )
        .prop_map(|(from, to, sport, is_tcp, then_poll)| First {
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
        let mut twins = Self::new(false);
        for lab in &mut twins.labs {
            lab.change(|state| {
                let client = [Fam::V4.pod(1, 6)];
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
        let f = Fam::V4;
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
