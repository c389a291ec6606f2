//! Rule index: which rules of a policy may match a query, without asking each.
//!
//! A rule whose peers are a few blocks is found by the peer's address, one of plain port ranges by protocol and port; the
//! others are asked always. What is found is a list that holds what decides beside each other: the rule itself is asked only
//! where the list can't tell, so that the index may name too many and never too few.

use std::net::IpAddr;

use contract::valid::Action;
use ipnet::IpNet;

use super::rule_list::{Entry, Lists};
use super::table::{Blocks, Peers, PortClause, Rule};
use super::{PolicyQuery, RuleId};
use crate::table::intervals::{EMPTY, Intervals};

/// Where to look for the rules of one policy and direction.
#[derive(Clone, Debug)]
pub(crate) struct RuleIndex {
    by_peer_v4: Intervals<u32>,
    by_peer_v6: Intervals<u128>,
    by_port: Intervals<u32>,
    always: u32,
    lists: Lists,
}

impl RuleIndex {
    /// Of these rules, if there are many and they can be told apart.
    pub(crate) fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() < RULES_MIN {
            return None;
        }
        let mut entries = Vec::with_capacity(rules.len());
        let (mut by_v4, mut by_v6, mut by_port, mut always) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (number, rule) in (0u32..).zip(rules) {
            let (mut places, mut is_all) = rule.ports.as_deref().map_or((EVERY_PLACE, true), bounds);
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
                is_all &= rule.peers.as_ref().is_some_and(|peers| peers.except.is_empty());
            } else if let Some(ranges) = rule.ports.as_deref().and_then(port_ranges) {
                by_port.extend(ranges.map(|(first, last)| (first, last, number)));
                (places, is_all) = (EVERY_PLACE, rule.peers.is_none());
            } else {
                always.push(number);
                is_all &= rule.peers.is_none();
            }
            entries.push(Entry {
                places,
                number,
                action: rule.action,
                id: rule.id,
                is_all,
            });
        }
        let items_max = ITEMS_PER_RULE * rules.len();
        let mut lists = Lists::default();
        let mut list = |items: &[u32]| lists.place(&entries, items);
        Some(Self {
            by_peer_v4: Intervals::new(&by_v4, items_max, &mut list)?,
            by_peer_v6: Intervals::new(&by_v6, items_max, &mut list)?,
            by_port: Intervals::new(&by_port, items_max, &mut list)?,
            always: if always.is_empty() { EMPTY } else { list(&always) },
            lists: lists.settled(),
        })
    }

    /// What the first rule does that matches `query`, whose other end is `peer`. `ask` says whether the rule of some number
    /// does, where the index can't tell.
    pub(crate) fn first(
        &self,
        query: &PolicyQuery,
        peer: IpAddr,
        mut ask: impl FnMut(usize) -> bool,
    ) -> Option<(Action, RuleId)> {
        let place = port_place(query.protocol, query.dst_port);
        let by_peer = match peer {
            IpAddr::V4(v4) => self.by_peer_v4.at(v4.to_bits()),
            IpAddr::V6(v6) => self.by_peer_v6.at(v6.to_bits()),
        };
        // No rule is in two lists. What the earlier ones found bounds what the later ones are asked.
        let found = self.lists.first(by_peer, place, None, &mut ask);
        let found = self.lists.first(self.by_port.at(place), place, found, &mut ask);
        let found = self.lists.first(self.always, place, found, &mut ask)?;
        Some((found.action(), found.id()))
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

/// Where the places of all clauses lie, and whether every place there is one of theirs.
fn bounds(clauses: &[PortClause]) -> ((u32, u32), bool) {
    let places = clauses.iter().map(|clause| match *clause {
        PortClause::Range {
            protocol,
            first,
            last,
        } => (port_place(protocol, first), port_place(protocol, last)),
        PortClause::Named { protocol, .. } => (port_place(protocol, 0), port_place(protocol, u16::MAX)),
    });
    let bounds = places.fold((u32::MAX, 0), |(least, most), (first, last)| {
        (least.min(first), most.max(last))
    });
    (bounds, matches!(clauses, [PortClause::Range { .. }]))
}

fn port_place(protocol: u8, port: u16) -> u32 {
    u32::from(protocol) << 16 | u32::from(port)
}

/// Fewer are asked one by one: about what the searches cost.
const RULES_MIN: usize = 8;
/// Memory has a bound where ranges lie within each other.
const ITEMS_PER_RULE: usize = 32;
const EVERY_PLACE: (u32, u32) = (0, u32::MAX);
