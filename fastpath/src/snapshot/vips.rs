//! VIPs: which Service port has an address, protocol and port.
//!
//! Who claims what is in a tree. Beside it lie cache lines of the keys of IPv4 with whom they belong to, a line by the key's hash, so
//! that a packet reads one where the tree has four levels. A key that found its line full is in the tree alone, and the line counts it.

use std::net::IpAddr;

use contract::valid::AddressPort;
use flowtable::prefetch;

use super::ServiceId;
use super::table::VipOwners;
use crate::table::chunks::Chunks;
use crate::table::hash;
use crate::table::trie::Trie;

/// A persistent map from VIPs to who claims them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vips {
    owners: Trie<AddressPort, VipOwners>,
    lines: Chunks<Line>,
    /// Lines less one; there is a power of two of them.
    mask: u32,
    /// Keys of IPv4.
    len: u32,
}

/// Some of the keys with one hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
struct Line {
    /// 0: none.
    keys: [u64; LINE],
    winners: [u32; LINE],
    /// Keys that found it full.
    more: u32,
}

const _: () = assert!(size_of::<Line>() == 64);

/// What a line says of a key.
#[derive(Clone, Copy, Debug)]
enum Found {
    Here(ServiceId),
    Nowhere,
    AskTree,
}

impl Vips {
    /// All that claim a VIP.
    pub(crate) fn get(&self, vip: &AddressPort) -> Option<&VipOwners> {
        self.owners.get(vip)
    }

    /// The Service port that has a VIP.
    pub(crate) fn winner(&self, vip: &AddressPort) -> Option<ServiceId> {
        let found = key(vip).map_or(Found::AskTree, |key| {
            self.line(key).map_or(Found::Nowhere, |line| line.find(key))
        });
        self.resolved(found, vip)
    }

    /// Those of up to `N` VIPs, of which the first `vips.len()` count; their lines are fetched together.
    #[inline]
    pub(crate) fn winner_each<const N: usize>(&self, vips: &[AddressPort]) -> [Option<ServiceId>; N] {
        let mut winners = [None; N];
        if vips.first().is_some_and(|vip| vip.address.is_ipv6()) {
            for (winner, owners) in winners.iter_mut().zip(self.owners.get_each::<N>(vips)) {
                *winner = owners.map(|owners| owners.winner);
            }
            return winners;
        }
        let mut lines = [None; N];
        for (slot, vip) in lines.iter_mut().zip(vips) {
            let key = key(vip);
            let line = key.and_then(|key| self.line(key));
            line.inspect(|line| prefetch(*line));
            *slot = key.map(|key| (key, line));
        }
        for ((winner, slot), vip) in winners.iter_mut().zip(lines).zip(vips) {
            let found = slot.map_or(Found::AskTree, |(key, line)| {
                line.map_or(Found::Nowhere, |line| line.find(key))
            });
            *winner = self.resolved(found, vip);
        }
        winners
    }

    /// Sets who claims a VIP.
    pub(crate) fn insert(&mut self, vip: AddressPort, owners: VipOwners) {
        let winner = owners.winner;
        let is_new = self.owners.insert(vip, owners).is_none();
        let Some(key) = key(&vip) else {
            return;
        };
        self.len += u32::from(is_new);
        if self.len > (self.mask + 1) * KEYS_PER_LINE_MAX {
            self.grow();
        } else {
            self.lines.get_mut(self.place(key)).put(key, winner, is_new);
        }
    }

    /// Nobody claims a VIP any more.
    pub(crate) fn remove(&mut self, vip: &AddressPort) {
        if self.owners.remove(vip).is_some()
            && let Some(key) = key(vip)
        {
            self.len -= 1;
            self.lines.get_mut(self.place(key)).take(key);
        }
    }

    /// Twice as many lines, once in as many keys as there are.
    fn grow(&mut self) {
        self.mask = 2 * self.mask + 1;
        self.lines = Chunks::default();
        for (vip, owners) in &self.owners {
            if let Some(key) = key(vip) {
                self.lines
                    .get_mut(place(key, self.mask))
                    .put(key, owners.winner, true);
            }
        }
    }

    #[inline]
    fn place(&self, key: u64) -> u32 {
        place(key, self.mask)
    }

    /// The line that a key would be in; it isn't read.
    #[inline]
    fn line(&self, key: u64) -> Option<&Line> {
        self.lines.get(self.place(key))
    }

    #[inline]
    fn resolved(&self, found: Found, vip: &AddressPort) -> Option<ServiceId> {
        match found {
            Found::Here(winner) => Some(winner),
            Found::Nowhere => None,
            Found::AskTree => self.owners.get(vip).map(|owners| owners.winner),
        }
    }
}

impl Line {
    #[inline]
    fn find(&self, wanted: u64) -> Found {
        for (key, winner) in self.keys.iter().zip(self.winners) {
            if *key == wanted {
                return Found::Here(ServiceId(winner));
            }
        }
        if self.more == 0 {
            Found::Nowhere
        } else {
            Found::AskTree
        }
    }

    /// Sets whose a key is; `is_new`: it was nobody's.
    fn put(&mut self, key: u64, winner: ServiceId, is_new: bool) {
        let known = self.position(key);
        match known.or_else(|| self.position(0)) {
            Some(at) => {
                (self.keys[at], self.winners[at]) = (key, winner.0);
                self.more -= u32::from(known.is_none() && !is_new);
            }
            None => self.more += u32::from(is_new),
        }
    }

    /// A key is nobody's any more.
    fn take(&mut self, key: u64) {
        match self.position(key) {
            Some(at) => (self.keys[at], self.winners[at]) = (0, 0),
            None => self.more -= 1,
        }
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.keys.iter().position(|other| *other == key)
    }
}

/// Address, protocol and port in one word, which is not 0; of IPv4 only.
#[inline]
fn key(vip: &AddressPort) -> Option<u64> {
    let IpAddr::V4(address) = vip.address else {
        return None;
    };
    let address = u64::from(address.to_bits()) << 24;
    Some(SOME | address | u64::from(vip.protocol) << 16 | u64::from(vip.port))
}

#[inline]
const fn place(key: u64, mask: u32) -> u32 {
    hash::words(0, key) as u32 & mask
}

/// Keys of a line.
const LINE: usize = 5;
/// Keys for each line at most, on average: then some one in ninety finds its line full.
const KEYS_PER_LINE_MAX: u32 = 2;
const SOME: u64 = 1 << 63;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    fn vip(number: u16) -> AddressPort {
        let address = if number.is_multiple_of(5) {
            Ipv6Addr::from(u128::from(number)).into()
        } else {
            Ipv4Addr::from(u32::from(number / 4)).into()
        };
        AddressPort {
            address,
            protocol: [6, 17][usize::from(number % 2)],
            port: number % 4,
        }
    }

    fn owners(winner: u32) -> VipOwners {
        VipOwners {
            winner: ServiceId(winner),
            rest: None,
        }
    }

    fn check(vips: &Vips, map: &BTreeMap<u16, u32>, numbers: impl Iterator<Item = u16>) {
        let (of_v6, of_v4): (Vec<_>, Vec<_>) = numbers.partition(|number| number.is_multiple_of(5));
        for numbers in of_v4.chunks(64).chain(of_v6.chunks(64)) {
            let each: Vec<_> = numbers.iter().map(|number| vip(*number)).collect();
            for ((number, vip), found) in numbers.iter().zip(&each).zip(vips.winner_each::<64>(&each)) {
                let expected = map.get(number).copied().map(ServiceId);
                assert_eq!(found, expected, "{vip:?}");
                assert_eq!(vips.winner(vip), expected, "{vip:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_vip_is_whose_it_was_told_to_be_and_old_copies_stay(
            changes in prop::collection::vec((0u8..4, 0u16..600, any::<u32>()), 0..1500),
        ) {
            let (mut vips, mut map, mut copies) = (Vips::default(), BTreeMap::new(), Vec::new());
            for (at, (kind, number, winner)) in changes.into_iter().enumerate() {
                if kind == 0 {
                    vips.remove(&vip(number));
                    map.remove(&number);
                } else {
                    vips.insert(vip(number), owners(winner));
                    map.insert(number, winner);
                }
                if at % 200 == 0 {
                    copies.push((vips.clone(), map.clone()));
                }
            }
            copies.push((vips, map));
            for (vips, map) in copies {
                check(&vips, &map, 0..600);
            }
        }
    }

    #[test]
    fn what_found_its_line_full_is_found_in_the_tree() {
        let mut vips = Vips::default();
        let map: BTreeMap<u16, u32> = (0..20_000)
            .map(|number| (number, u32::from(number) + 7))
            .collect();
        for (number, winner) in &map {
            vips.insert(vip(*number), owners(*winner));
        }
        let lines = || (0..=vips.mask).filter_map(|at| vips.lines.get(at));
        let full = lines().filter(|line| line.more > 0).count();
        let kept: usize = lines()
            .map(|line| line.keys.iter().filter(|key| **key != 0).count())
            .sum();
        assert!(full > 0, "a case of it");
        assert!(
            kept * 100 > 97 * vips.len as usize,
            "{kept} of {} in their lines",
            vips.len
        );
        check(&vips, &map, 0..21_000);
        // Who goes leaves no trace: else nearly every line would send for the tree after a year of Services coming and going.
        for number in map.keys() {
            vips.remove(&vip(*number));
        }
        let lines = (0..=vips.mask).filter_map(|at| vips.lines.get(at));
        assert_eq!(lines.filter(|line| **line != Line::default()).count(), 0);
    }
}
