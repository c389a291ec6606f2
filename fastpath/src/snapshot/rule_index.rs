//! Rule index: which rules of a policy may match a query, without asking each.
//!
//! A rule whose peers are a few blocks is found by the peer's address, its exceptions cut out of them; one of plain port ranges
//! by protocol and port; the others are asked always. What is found is a list that holds what decides beside each other: the
//! rule itself is asked only where the list can't tell, so that the index may name too many and never too few.

use std::net::IpAddr;

use contract::valid::Action;
use ipnet::IpNet;

use super::rule_list::{Entry, Found, Lists, Open};
use super::table::{Blocks, Peers, PortClause, Rule};
use super::{PolicyQuery, RuleId};
use crate::table::intervals::{EMPTY, Intervals, LeafNumber, Range, signed};

/// Where to look for the rules of one policy and direction.
#[derive(Clone, Debug)]
pub(crate) struct RuleIndex {
    by_peer_v4: Intervals<i32>,
    by_peer_v6: Intervals<u128>,
    /// Which ports a rule is found by, whatever the protocol: most ports none is.
    ports: Ports,
    by_port: Intervals<i32>,
    always: u32,
    lists: Lists,
}

/// A set of ports, as coarse as a cache line demands.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Ports([u64; 8]);

/// The ranges of addresses and of ports that rules are found by.
#[derive(Default)]
struct Ranges {
    v4: Vec<Range<i32>>,
    v6: Vec<Range<u128>>,
    ports: Vec<Range<i32>>,
    always: Vec<u32>,
}

impl RuleIndex {
    /// Of these rules, if there are many and they can be told apart.
    pub(crate) fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() < RULES_MIN {
            return None;
        }
        let mut ranges = Ranges::default();
        // Of each rule where its entries begin.
        let (mut entries, mut begins) = (
            Vec::with_capacity(rules.len()),
            Vec::with_capacity(rules.len() + 1),
        );
        let mut ports = Ports([0; 8]);
        for (number, rule) in (0u32..).zip(rules) {
            begins.push(entries.len());
            let entry = |places, open| Entry {
                places,
                number,
                action: rule.action,
                id: rule.id,
                open,
            };
            if rule
                .peers
                .as_ref()
                .is_some_and(|peers| ranges.add_peers(peers, number))
            {
                match &rule.ports {
                    None => entries.push(entry(EVERY_PLACE, Open::Nothing)),
                    Some(clauses) if clauses.len() > CLAUSES_MAX => {
                        entries.push(entry(EVERY_PLACE, Open::Ports));
                    }
                    Some(clauses) => entries.extend(clauses.iter().map(|clause| {
                        let (places, is_all) = clause.places();
                        entry(places, if is_all { Open::Nothing } else { Open::Ports })
                    })),
                }
            } else if let Some(clauses) = rule.ports.as_deref().and_then(port_ranges) {
                for (first, last) in clauses {
                    ranges.ports.push((first, last, number));
                    ports.add(first, last);
                }
                let open = if rule.peers.is_none() {
                    Open::Nothing
                } else {
                    Open::Peers
                };
                entries.push(entry(EVERY_PLACE, open));
            } else {
                ranges.always.push(number);
                let open = match (&rule.ports, &rule.peers) {
                    (None, None) => Open::Nothing,
                    (Some(_), None) => Open::Ports,
                    (None, Some(_)) => Open::Peers,
                    (Some(_), Some(_)) => Open::Both,
                };
                entries.push(entry(EVERY_PLACE, open));
            }
        }
        begins.push(entries.len());
        let items_max = ITEMS_PER_RULE * rules.len();
        let mut lists = Lists::of(rules.len());
        let mut list = |numbers: &[u32]| {
            let of_rule = |number: &u32| &entries[begins[*number as usize]..begins[*number as usize + 1]];
            lists.place(numbers.iter().flat_map(of_rule).copied())
        };
        Some(Self {
            by_peer_v4: Intervals::new(&ranges.v4, items_max, &mut list)?,
            by_peer_v6: Intervals::new(&ranges.v6, items_max, &mut list)?,
            ports,
            by_port: Intervals::new(&ranges.ports, items_max, &mut list)?,
            always: if ranges.always.is_empty() {
                EMPTY
            } else {
                list(&ranges.always)
            },
            lists: lists.settled(),
        })
    }

    /// Where the rules of `peer` are to be looked for; brings it nearer.
    #[inline]
    pub(crate) fn begin(&self, peer: IpAddr) -> LeafNumber {
        match peer {
            IpAddr::V4(v4) => self.by_peer_v4.begin(signed(v4.to_bits())),
            IpAddr::V6(v6) => self.by_peer_v6.begin(v6.to_bits()),
        }
    }

    /// Where the list of the rules of `peer` is, whose leaf this is; brings it nearer.
    #[inline]
    pub(crate) fn place(&self, peer: IpAddr, leaf: LeafNumber) -> u32 {
        let place = match peer {
            IpAddr::V4(v4) => self.by_peer_v4.place(leaf, signed(v4.to_bits())),
            IpAddr::V6(v6) => self.by_peer_v6.place(leaf, v6.to_bits()),
        };
        self.lists.begin(place);
        place
    }

    /// What the first rule does that matches `query`. `place` is where the list of its peer's rules is; `ask` answers what the
    /// index leaves open of a rule.
    #[inline]
    pub(crate) fn first(
        &self,
        query: &PolicyQuery,
        place: u32,
        mut ask: impl FnMut(usize, Open) -> bool,
    ) -> Option<(Action, RuleId)> {
        let port = port_place(query.protocol, query.dst_port);
        let by_port = if self.ports.may_have(query.dst_port) {
            self.by_port.at(port)
        } else {
            EMPTY
        };
        // No rule is in two lists. What the earlier ones found bounds what the later ones are asked.
        let mut found = Found::NONE;
        for place in [place, by_port, self.always] {
            if place != EMPTY {
                found = self.lists.first(place, port, found, &mut ask);
            }
        }
        found.rule()
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let by_peer = self.by_peer_v4.bytes() + self.by_peer_v6.bytes();
        size_of::<Self>() + by_peer + self.by_port.bytes() + self.lists.bytes()
    }
}

impl Ranges {
    /// Adds the addresses of peers that are nothing but blocks, and not too many. `false`: they are not.
    fn add_peers(&mut self, peers: &Peers, number: u32) -> bool {
        let Blocks::Few(blocks) = &peers.blocks else {
            return false;
        };
        if !peers.sets.is_empty() || peers.except.iter().any(|(_, except)| except.len() > EXCEPT_MAX) {
            return false;
        }
        let whole = blocks.iter().map(|block| (block, [].as_slice()));
        for (block, except) in whole.chain(peers.except.iter().map(|(block, except)| (block, &**except))) {
            self.add_block(block, except, number);
        }
        true
    }

    /// Adds the addresses of `block` that are not in `except`.
    fn add_block(&mut self, block: &IpNet, except: &[IpNet], number: u32) {
        let is_v4 = |net: &IpNet| matches!(net, IpNet::V4(_));
        let of_family = except.iter().filter(|hole| is_v4(hole) == is_v4(block));
        let mut holes: Vec<(u128, u128)> = of_family.map(bounds).collect();
        holes.sort_unstable();
        let (mut next, end) = bounds(block);
        for (first, last) in holes {
            if next < first {
                self.add(block, next, end.min(first - 1), number);
            }
            if last >= end {
                return;
            }
            next = next.max(last + 1);
        }
        self.add(block, next, end, number);
    }

    fn add(&mut self, block: &IpNet, first: u128, last: u128, number: u32) {
        match block {
            IpNet::V4(_) => self.v4.push((signed(first as u32), signed(last as u32), number)),
            IpNet::V6(_) => self.v6.push((first, last, number)),
        }
    }
}

impl Ports {
    fn add(&mut self, first: i32, last: i32) {
        let part = |place: i32| usize::from(place.cast_unsigned() as u16 >> PORTS_SHIFT);
        for at in part(first)..=part(last) {
            self.0[at / 64] |= 1 << (at % 64);
        }
    }

    #[inline]
    fn may_have(&self, port: u16) -> bool {
        let at = usize::from(port >> PORTS_SHIFT);
        self.0[at / 64] >> (at % 64) & 1 != 0
    }
}

impl PortClause {
    /// Between which places it matches, and whether at each of them.
    fn places(self) -> ((i32, i32), bool) {
        match self {
            Self::Range {
                protocol,
                first,
                last,
            } => ((port_place(protocol, first), port_place(protocol, last)), true),
            Self::Named { protocol, .. } => {
                ((port_place(protocol, 0), port_place(protocol, u16::MAX)), false)
            }
        }
    }
}

/// The ranges of clauses none of which names a port.
fn port_ranges(clauses: &[PortClause]) -> Option<impl Iterator<Item = (i32, i32)>> {
    let is_plain = clauses.iter().all(|clause| clause.places().1);
    is_plain.then(|| clauses.iter().map(|clause| clause.places().0))
}

/// The first and the last address of a block.
fn bounds(block: &IpNet) -> (u128, u128) {
    match block {
        IpNet::V4(net) => (net.network().to_bits().into(), net.broadcast().to_bits().into()),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

#[inline]
const fn port_place(protocol: u8, port: u16) -> i32 {
    (protocol as i32) << 16 | port as i32
}

/// Fewer are asked one by one: about what the searches cost.
const RULES_MIN: usize = 8;
/// Memory has a bound where ranges lie within each other.
const ITEMS_PER_RULE: usize = 32;
/// Exceptions of a block that are cut out of it; each makes an interval more.
const EXCEPT_MAX: usize = 64;
/// Port ranges of a rule that are in a list one by one.
const CLAUSES_MAX: usize = 16;
const EVERY_PLACE: (i32, i32) = (0, i32::MAX);
/// 512 parts of 128 ports.
const PORTS_SHIFT: u32 = 7;
