//! The rules and the tuples that are judged: seeded, and a linear reference that says what is right.

use std::net::Ipv4Addr;

use contract::proto;

use crate::random::Random;

/// How a rule names its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Peers {
    /// By a block.
    Blocks,
    /// By a block without its second quarter, as `ipBlock` with `except`.
    Excepts,
    /// By an IP set, as selectors: the block is its only member.
    Sets,
}

/// One rule: peers in a block of addresses, a protocol, a range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) address: u32,
    pub(crate) length: u8,
    /// None: every protocol and port.
    pub(crate) protocol: Option<u8>,
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) allow: bool,
    pub(crate) peers: Peers,
}

/// What is judged: who speaks to the endpoint, and to which of its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub(crate) peer: u32,
    pub(crate) protocol: u8,
    pub(crate) port: u16,
}

impl Rule {
    fn mask(&self) -> u32 {
        u32::MAX
            .checked_shl(32 - u32::from(self.length))
            .unwrap_or_default()
    }

    /// Address and length of the block that is excepted.
    fn hole(&self) -> Option<(u32, u8)> {
        let length = self.length + 2;
        let is_excepted = self.peers == Peers::Excepts && self.length > 0 && length <= 32;
        is_excepted.then(|| (self.address | 1 << (32 - length), length))
    }

    fn matches(&self, tuple: Tuple) -> bool {
        (tuple.peer ^ self.address) & self.mask() == 0
            && self
                .hole()
                .is_none_or(|(address, length)| (tuple.peer ^ address) >> (32 - length) != 0)
            && self.protocol.is_none_or(|protocol| protocol == tuple.protocol)
            && (self.first..=self.last).contains(&tuple.port)
    }

    /// As control would tell it, at place `index`.
    fn told(&self, index: u32) -> proto::Rule {
        let peer = match self.peers {
            Peers::Blocks | Peers::Excepts => proto::peer::Peer::IpBlock(proto::IpBlock {
                prefix: Some(prefix(self.address, self.length)),
                except: self
                    .hole()
                    .map(|(address, length)| prefix(address, length))
                    .into_iter()
                    .collect(),
            }),
            Peers::Sets => proto::peer::Peer::IpSet(set_id(index)),
        };
        let range = proto::PortRange {
            first: self.first.into(),
            last: self.last.into(),
        };
        let ports = self.protocol.map(|protocol| proto::PortMatch {
            protocol: protocol.into(),
            port: Some(proto::port_match::Port::Range(range)),
        });
        let action = if self.allow {
            proto::Action::Allow
        } else {
            proto::Action::Deny
        };
        proto::Rule {
            index,
            action: action as i32,
            any_peer: self.length == 0,
            peers: (self.length > 0)
                .then_some(proto::Peer { peer: Some(peer) })
                .into_iter()
                .collect(),
            any_port: ports.is_none(),
            ports: ports.into_iter().collect(),
        }
    }
}

fn prefix(address: u32, length: u8) -> proto::Prefix {
    proto::Prefix {
        address: Ipv4Addr::from(address).octets().to_vec(),
        length: length.into(),
    }
}

fn set_id(number: u32) -> String {
    format!("set-{number}")
}

/// The set that stands for the peers of rule `number`.
fn set(number: u32, rule: &Rule) -> proto::IpSet {
    let member = proto::Member {
        prefix: Some(prefix(rule.address, rule.length)),
        ..Default::default()
    };
    proto::IpSet {
        id: set_id(number),
        kind: proto::ip_set::Kind::Addresses as i32,
        members: vec![member],
    }
}

/// `count` rules: mostly networks of /24 to /16 and single hosts, half of them in the cluster's own 10.0.0.0/8, some wide
/// blocks; mostly one port or a short range of TCP, then UDP; one in a hundred opens a port to everyone.
pub(crate) fn rules(count: u32, peers: Peers, random: &mut Random) -> Vec<Rule> {
    let rules = (0..count).map(|_| rule(random));
    rules.map(|rule| Rule { peers, ..rule }).collect()
}

fn rule(random: &mut Random) -> Rule {
    let allow = random.below(4) > 0;
    let protocol = if random.below(4) == 0 { UDP } else { TCP };
    if random.below(100) == 0 {
        let port = EVERYONES_PORTS + random.below(10_000) as u16;
        return Rule {
            address: 0,
            length: 0,
            protocol: Some(protocol),
            first: port,
            last: port,
            allow,
            peers: Peers::Blocks,
        };
    }
    let length = pick(&LENGTHS, random);
    let is_inside = length >= 16 && random.below(2) == 0;
    let address = if is_inside {
        10 << 24 | random.next() as u32 >> 8
    } else {
        // Unicast but for the shared space (100.64.0.0/10), which no rule names.
        loop {
            let address = random.next() as u32;
            if (1..224).contains(&(address >> 24)) && address >> 24 != NOBODYS >> 24 {
                break address;
            }
        }
    };
    let mut rule = Rule {
        address,
        length,
        protocol: Some(protocol),
        first: 0,
        last: u16::MAX,
        allow,
        peers: Peers::Blocks,
    };
    rule.address &= rule.mask();
    let port = match random.below(3) {
        0 => WELL_KNOWN[random.below(WELL_KNOWN.len() as u64) as usize],
        _ => 1024 + random.below(30_000) as u16,
    };
    match random.below(100) {
        0..60 => (rule.first, rule.last) = (port, port),
        60..85 => (rule.first, rule.last) = (port, port + random.below(100) as u16),
        85..90 => rule.first = 1024,
        90..95 => {}
        _ => rule.protocol = None,
    }
    rule
}

/// A value drawn by its weight.
fn pick(weights: &[(u8, u64)], random: &mut Random) -> u8 {
    let mut at = random.below(weights.iter().map(|(_, weight)| weight).sum());
    for (value, weight) in weights {
        if at < *weight {
            return *value;
        }
        at -= weight;
    }
    unreachable!("the draw is below the sum of the weights")
}

/// `count` tuples in random order: three in four made for a rule each, in turns over all; an eighth from peers that no
/// block has, an eighth to ports that hardly any rule has.
pub(crate) fn tuples(count: u32, rules: &[Rule], random: &mut Random) -> Vec<Tuple> {
    let mut tuples: Vec<Tuple> = (0..count)
        .zip(rules.iter().cycle())
        .map(|(number, rule)| {
            let mut tuple = Tuple {
                peer: rule.address | random.next() as u32 & !rule.mask(),
                protocol: rule.protocol.unwrap_or(TCP),
                port: rule.first + random.below(u64::from(rule.last) - u64::from(rule.first) + 1) as u16,
            };
            // The turn of the rules is not to be the turn of these.
            match (number / 7 + number) % 8 {
                0 => tuple.peer = NOBODYS | random.next() as u32 >> 10,
                1 => tuple.port = random.below(20) as u16,
                _ => {}
            }
            tuple
        })
        .collect();
    random.shuffle(&mut tuples);
    tuples
}

/// The number of the first rule that matches, by asking each.
pub(crate) fn linear(rules: &[Rule], tuple: Tuple) -> Option<u32> {
    (0..)
        .zip(rules)
        .find_map(|(number, rule)| rule.matches(tuple).then_some(number))
}

/// The state of a node with one endpoint, whose ingress these rules decide in so many policies of one tier.
pub(crate) fn state(rules: &[Rule], policies: usize) -> proto::State {
    let share = rules.len().div_ceil(policies);
    let origin = |name: &str| proto::Origin {
        group: "networking.k8s.io".into(),
        kind: "NetworkPolicy".into(),
        namespace: "default".into(),
        name: name.into(),
    };
    let policies: Vec<proto::Policy> = (0u32..)
        .zip(rules.chunks(share))
        .map(|(number, of_policy)| {
            let name = format!("web-{number}");
            proto::Policy {
                id: format!("NetworkPolicy/default/{name}"),
                origin: Some(origin(&name)),
                ingress: (number * share as u32..)
                    .zip(of_policy)
                    .map(|(index, rule)| rule.told(index))
                    .collect(),
                egress: vec![],
            }
        })
        .collect();
    let tier = proto::Tier {
        name: "default".into(),
        policies: policies.iter().map(|policy| policy.id.clone()).collect(),
        default_action: proto::Action::Deny as i32,
    };
    proto::State {
        version: 1,
        node: Some(proto::Node {
            name: "node-1".into(),
            addresses: vec![vec![192, 168, 0, 1]],
            ..Default::default()
        }),
        ports: vec![proto::Port {
            name: PORT.into(),
            kind: proto::PortKind::Pod as i32,
            interface: "web".into(),
            mac: vec![2, 1, 10, 244, 1, 2],
            addresses: vec![ENDPOINT.octets().to_vec()],
            mtu: 1500,
            ingress: Some(proto::PolicyAttachment { tiers: vec![tier] }),
            ..Default::default()
        }],
        policies,
        ip_sets: (0u32..)
            .zip(rules)
            .filter(|(_, rule)| rule.peers == Peers::Sets && rule.length > 0)
            .map(|(number, rule)| set(number, rule))
            .collect(),
        ..Default::default()
    }
}

/// The endpoint's port.
pub(crate) const PORT: &str = "pod:default/web";
/// The endpoint's address.
pub(crate) const ENDPOINT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);

const TCP: u8 = 6;
const UDP: u8 = 17;
/// 100.64.0.0/10, RFC 6598.
const NOBODYS: u32 = 100 << 24 | 64 << 16;
/// From here on ports are opened to everyone.
const EVERYONES_PORTS: u16 = 40_000;
const WELL_KNOWN: [u16; 8] = [22, 53, 80, 443, 3306, 5432, 8080, 9090];
/// Lengths of blocks and how often each is, of 200.
const LENGTHS: [(u8, u64); 9] = [
    (8, 1),
    (12, 2),
    (16, 12),
    (20, 20),
    (22, 20),
    (24, 85),
    (26, 10),
    (28, 10),
    (32, 40),
];
