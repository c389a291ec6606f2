//! Lists of rules, each a few cache lines with all that most rules need to be decided: no rule is fetched for it.

use contract::valid::Action;

use super::RuleId;
use crate::table::hash;

/// A rule in a list.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// The first and the last place of protocol and port between which it may match.
    pub(crate) places: (u32, u32),
    /// Its number in the policy.
    pub(crate) number: u32,
    pub(crate) action: Action,
    pub(crate) id: RuleId,
    /// Matches all between its places that comes to the list.
    pub(crate) is_all: bool,
}

/// Lists of rules of one policy, one behind the other. The empty one is at 0.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    lines: Vec<Line>,
    /// Places by the lists' hashes, while they are made, the latest of each: between neighbouring blocks it's mostly the same
    /// few wide ones that hold.
    known: Vec<u32>,
}

/// What a list found: a rule that matches, by what it decides with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    number: u32,
    word: u32,
}

/// Entries side by side, so that all places are compared at once.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line {
    first: [u32; LINE],
    last: [u32; LINE],
    number: [u32; LINE],
    /// The rule's id; above it the action, [`IS_ALL`], and in the first [`MORE`].
    word: [u32; LINE],
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            lines: vec![Line::EMPTY],
            known: Vec::new(),
        }
    }
}

impl Lists {
    /// Where the list of the entries with these numbers is, ascending.
    pub(crate) fn place(&mut self, entries: &[Entry], numbers: &[u32]) -> u32 {
        if self.known.is_empty() {
            self.known = vec![0; entries.len().next_power_of_two()];
        }
        // A rule that only counts decides nothing.
        let deciding = numbers.iter().map(|number| &entries[*number as usize]);
        let mut deciding = deciding.filter(|entry| entry.action != Action::Log).peekable();
        if deciding.peek().is_none() {
            return 0;
        }
        let hash = numbers
            .iter()
            .fold(0, |hash, number| hash::words(hash, u64::from(*number)));
        let slot = hash as usize & (self.known.len() - 1);
        let known = self.known[slot];
        if known != 0 && self.numbers(known).eq(deciding.clone().map(|entry| entry.number)) {
            return known;
        }
        let place = self.lines.len() as u32;
        let mut line = Line::EMPTY;
        let mut at = 0;
        for entry in deciding {
            if at == LINE {
                line.word[0] |= MORE;
                self.lines.push(line);
                (line, at) = (Line::EMPTY, 0);
            }
            line.put(at, entry);
            at += 1;
        }
        self.lines.push(line);
        self.known[slot] = place;
        place
    }

    /// The rules of the list at `place`.
    fn numbers(&self, place: u32) -> impl Iterator<Item = u32> {
        let lines = &self.lines[place as usize..];
        let more = lines.iter().take_while(|line| line.word[0] & MORE != 0).count();
        let numbers = lines[..=more].iter().flat_map(|line| line.number);
        numbers.take_while(|number| *number != u32::MAX)
    }

    /// With no list to come.
    pub(crate) fn settled(mut self) -> Self {
        self.known = Vec::new();
        self
    }

    /// The first rule of the list at `place` that matches at `port`, or what was `found` if that comes before it.
    #[inline]
    pub(crate) fn first(
        &self,
        place: u32,
        port: u32,
        found: Option<Found>,
        ask: &mut impl FnMut(usize) -> bool,
    ) -> Option<Found> {
        let bound = found.map_or(u32::MAX, |found| found.number);
        for line in &self.lines[place as usize..] {
            let mut matching = line.at(port);
            while matching != 0 {
                let at = matching.trailing_zeros() as usize % LINE;
                let (number, word) = (line.number[at], line.word[at]);
                if number >= bound {
                    return found;
                }
                if word & IS_ALL != 0 || ask(number as usize) {
                    return Some(Found { number, word });
                }
                matching &= matching - 1;
            }
            if line.word[0] & MORE == 0 || line.number[LINE - 1] >= bound {
                break;
            }
        }
        found
    }
}

impl Line {
    /// With places that nothing is at.
    const EMPTY: Self = Self {
        first: [u32::MAX; LINE],
        last: [0; LINE],
        number: [u32::MAX; LINE],
        word: [0; LINE],
    };

    fn put(&mut self, at: usize, entry: &Entry) {
        (self.first[at], self.last[at]) = entry.places;
        self.number[at] = entry.number;
        let action = match entry.action {
            Action::Allow => ALLOW,
            Action::Deny => DENY,
            Action::Pass | Action::Log => PASS,
        };
        self.word[at] = entry.id.0 | action | if entry.is_all { IS_ALL } else { 0 };
    }

    /// A bit for each entry that may match at `port`.
    #[inline]
    fn at(&self, port: u32) -> u32 {
        (0..LINE).fold(0, |bits, at| {
            bits | (u32::from(self.first[at] <= port) & u32::from(port <= self.last[at])) << at
        })
    }
}

impl Found {
    pub(crate) const fn action(self) -> Action {
        match self.word & ACTIONS {
            ALLOW => Action::Allow,
            DENY => Action::Deny,
            _ => Action::Pass,
        }
    }

    pub(crate) const fn id(self) -> RuleId {
        RuleId(self.word & ID)
    }
}

const LINE: usize = 4;
const ID: u32 = (1 << 24) - 1;
const ACTIONS: u32 = 3 << 24;
const PASS: u32 = 0;
const ALLOW: u32 = 1 << 24;
const DENY: u32 = 2 << 24;
const IS_ALL: u32 = 1 << 26;
/// The list goes on in the next line.
const MORE: u32 = 1 << 27;
const _: () = assert!(size_of::<Line>() == 64);
