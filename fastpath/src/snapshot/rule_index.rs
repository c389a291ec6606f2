//! Rule index: which rules of a policy may match a query, without asking each.
//!
//! A rule whose peers are a few blocks is found by the peer's address, one of plain port ranges by protocol and port; the
//! others are asked always. What is found is asked all the same, so that the index may name too many and never too few.

use std::net::IpAddr;

use ipnet::IpNet;

use super::PolicyQuery;
use super::table::{Blocks, Peers, PortClause, Rule};
use crate::table::intervals::Intervals;

/// Where to look for the rules of one policy and direction.
#[derive(Clone, Debug)]
pub(crate) struct RuleIndex {
    by_peer_v4: Intervals<u32>,
    by_peer_v6: Intervals<u128>,
    by_port: Intervals<u32>,
    always: Box<[u32]>,
}

/// Numbers of rules that may match, in order.
#[derive(Debug)]
pub(crate) struct Candidates<'i> {
    lists: [&'i [u32]; 3],
    /// All of them, where there is no index.
    all: std::ops::Range<usize>,
}

impl RuleIndex {
    /// Of these rules, if there are many and they can be told apart.
    pub(crate) fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() < RULES_MIN {
            return None;
        }
        let (mut by_v4, mut by_v6, mut by_port, mut always) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, rule) in (0u32..).zip(rules) {
            if let Some(blocks) = rule.peers.as_ref().and_then(peer_blocks) {
                for block in blocks {
                    match block {
                        IpNet::V4(net) => {
                            by_v4.push((net.network().to_bits(), net.broadcast().to_bits(), number));
                        }
                        IpNet::V6(net) => {
                            by_v6.push((net.network().to_bits(), net.broadcast().to_bits(), number));
                        }
                    }
                }
            } else if let Some(ranges) = rule.ports.as_deref().and_then(port_ranges) {
                by_port.extend(ranges.map(|(first, last)| (first, last, number)));
            } else {
                always.push(number);
            }
        }
        let items_max = ITEMS_PER_RULE * rules.len();
        Some(Self {
            by_peer_v4: Intervals::new(&by_v4, items_max)?,
            by_peer_v6: Intervals::new(&by_v6, items_max)?,
            by_port: Intervals::new(&by_port, items_max)?,
            always: always.into(),
        })
    }

    /// Rules that may match `query`, whose other end is `peer`.
    pub(crate) fn candidates(&self, query: &PolicyQuery, peer: IpAddr) -> Candidates<'_> {
        let by_peer = match peer {
            IpAddr::V4(v4) => self.by_peer_v4.at(v4.to_bits()),
            IpAddr::V6(v6) => self.by_peer_v6.at(v6.to_bits()),
        };
        Candidates {
            lists: [
                by_peer,
                self.by_port.at(port_place(query.protocol, query.dst_port)),
                &self.always,
            ],
            all: 0..0,
        }
    }
}

impl Candidates<'_> {
    /// Each of `count` rules.
    pub(crate) fn all(count: usize) -> Self {
        Self {
            lists: [&[]; 3],
            all: 0..count,
        }
    }
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        // No rule is in two lists.
        let least = self
            .lists
            .iter_mut()
            .filter(|list| !list.is_empty())
            .min_by_key(|list| list[0]);
        let Some(list) = least else {
            return self.all.next();
        };
        let (first, rest) = list.split_first()?;
        *list = rest;
        Some(*first as usize)
    }
}

/// The blocks of peers that are nothing but a few blocks.
fn peer_blocks(peers: &Peers) -> Option<impl Iterator<Item = &IpNet>> {
    let Blocks::Few(blocks) = &peers.blocks else {
        return None;
    };
    let except = peers.except.iter().map(|(block, _)| block);
    peers.sets.is_empty().then(|| blocks.iter().chain(except))
}

/// The ranges of clauses none of which names a port.
fn port_ranges(clauses: &[PortClause]) -> Option<impl Iterator<Item = (u32, u32)>> {
    let range = |clause: &PortClause| match *clause {
        PortClause::Range {
            protocol,
            first,
            last,
        } => Some((port_place(protocol, first), port_place(protocol, last))),
        PortClause::Named { .. } => None,
    };
    let is_plain = clauses.iter().all(|clause| range(clause).is_some());
    is_plain.then(|| clauses.iter().filter_map(range))
}

fn port_place(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

/// Fewer are asked one by one: about what the searches cost.
const RULES_MIN: usize = 8;
/// Memory has a bound where ranges lie within each other.
const ITEMS_PER_RULE: usize = 32;
