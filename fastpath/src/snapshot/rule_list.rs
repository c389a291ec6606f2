//! Lists of rules, each a few cache lines with all that most rules need to be decided: no rule is fetched for it.

use contract::valid::Action;

use super::RuleId;
use crate::table::hash;

/// A rule in a list, or one of its port ranges: a rule of several is there for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The first and the last place of protocol and port between which it may match.
    pub(crate) places: (i32, i32),
    /// The rule's number in the policy.
    pub(crate) number: u32,
    pub(crate) action: Action,
    pub(crate) id: RuleId,
    /// What the list doesn't say of it.
    pub(crate) open: Open,
}

/// What remains to be asked of a rule that a list names at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Open {
    /// It matches.
    Nothing,
    /// Whether its ports match.
    Ports,
    /// Whether its peers do.
    Peers,
    /// Whether both do.
    Both,
}

/// Lists of rules of one policy, one behind the other. The empty one is at 0.
#[derive(Clone, Debug)]
pub(crate) struct Lists {
    lines: Vec<Line>,
    /// Places by the lists' hashes, while they are made, the latest of each: between neighbouring blocks it's mostly the same
    /// few wide ones that hold.
    known: Vec<u32>,
    /// The list that is made.
    made: Vec<Entry>,
}

/// What lists found: the first rule that matches, by what it decides with, or none. The lesser comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found(u64);

/// Entries side by side, so that all places are compared at once.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line {
    first: [i32; LINE],
    last: [i32; LINE],
    number: [u32; LINE],
    /// The rule's id; above it the action, what is [open](Open), and in the first [`MORE`].
    word: [u32; LINE],
}

impl Default for Lists {
    fn default() -> Self {
        Self {
            lines: vec![Line::EMPTY],
            known: Vec::new(),
            made: Vec::new(),
        }
    }
}

impl Lists {
    /// With room to remember lists of so many rules.
    pub(crate) fn of(rules: usize) -> Self {
        Self {
            known: vec![0; rules.next_power_of_two()],
            ..Self::default()
        }
    }

    /// Where the list of these entries is, which are in the order of their rules.
    pub(crate) fn place(&mut self, entries: impl Iterator<Item = Entry>) -> u32 {
        self.made.clear();
        for entry in entries {
            // A rule that only counts decides nothing, nor does one behind another that matches wherever it does.
            if entry.action != Action::Log
                && !self
                    .made
                    .iter()
                    .take(HIDING_MAX)
                    .any(|before| before.hides(&entry))
            {
                self.made.push(entry);
            }
        }
        if self.made.is_empty() {
            return 0;
        }
        let hash = self.made.iter().fold(0, |hash, entry| {
            hash::words(
                hash,
                u64::from(entry.number) << 32 | u64::from(entry.places.0.cast_unsigned()),
            )
        });
        let slot = hash as usize & (self.known.len() - 1);
        let known = self.known[slot];
        if known != 0 && self.is_at(known) {
            return known;
        }
        let place = self.lines.len() as u32;
        self.lines.extend(self.made.chunks(LINE).map(Line::new));
        let count = self.made.len().div_ceil(LINE);
        for line in &mut self.lines[place as usize..place as usize + count - 1] {
            line.word[0] |= MORE;
        }
        self.known[slot] = place;
        place
    }

    /// The list at `place` is the one that is made.
    fn is_at(&self, place: u32) -> bool {
        let mut lines = self.lines[place as usize..].iter();
        let mut has_more = true;
        let are_equal = self.made.chunks(LINE).all(|entries| {
            let line = lines.next().filter(|_| has_more);
            has_more = line.is_some_and(|line| line.word[0] & MORE != 0);
            let made = Line::new(entries);
            line.is_some_and(|line| {
                (line.first, line.last, line.number) == (made.first, made.last, made.number)
            })
        });
        are_equal && !has_more
    }

    /// With no list to come.
    pub(crate) fn settled(mut self) -> Self {
        (self.known, self.made) = (Vec::new(), Vec::new());
        self.lines.shrink_to_fit();
        self
    }

    /// Brings the list at `place` nearer.
    #[inline]
    pub(crate) fn begin(&self, place: u32) {
        if let Some(line) = self.lines.get(place as usize) {
            flowtable::prefetch(line);
        }
    }

    /// The first rule of the list at `place` that matches at `port`, or what was `found` if that comes before it. `ask` answers
    /// what the list leaves open of a rule.
    #[inline]
    pub(crate) fn first(
        &self,
        place: u32,
        port: i32,
        found: Found,
        mut ask: impl FnMut(usize, Open) -> bool,
    ) -> Found {
        for line in &self.lines[place as usize..] {
            let mut matching = line.at(port);
            while matching != 0 {
                let at = matching.trailing_zeros() as usize / 8 % LINE;
                let (number, word) = (line.number[at], line.word[at]);
                let this = Found(u64::from(number) << 32 | u64::from(word));
                if this >= found {
                    return found;
                }
                if word & OPEN == 0 || ask(number as usize, open(word)) {
                    return this;
                }
                matching &= !(0xff << (8 * at));
            }
            if line.word[0] & MORE == 0 {
                break;
            }
        }
        found
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }
}

impl Entry {
    /// Where that one matches, this one does.
    fn hides(&self, other: &Self) -> bool {
        self.open == Open::Nothing && self.places.0 <= other.places.0 && other.places.1 <= self.places.1
    }

    const fn word(&self) -> u32 {
        let action = match self.action {
            Action::Allow => ALLOW,
            Action::Deny => DENY,
            Action::Pass | Action::Log => PASS,
        };
        let open = match self.open {
            Open::Nothing => 0,
            Open::Ports => PORTS,
            Open::Peers => PEERS,
            Open::Both => OPEN,
        };
        self.id.0 | action | open
    }
}

impl Line {
    /// With places that nothing is at.
    const EMPTY: Self = Self {
        first: [i32::MAX; LINE],
        last: [0; LINE],
        number: [u32::MAX; LINE],
        word: [0; LINE],
    };

    fn new(entries: &[Entry]) -> Self {
        let mut line = Self::EMPTY;
        for (at, entry) in entries.iter().enumerate() {
            (line.first[at], line.last[at]) = entry.places;
            line.number[at] = entry.number;
            line.word[at] = entry.word();
        }
        line
    }

    /// A byte for each entry, with all bits where it may match at `port`: bytes are what compilers make of a vector's lanes in
    /// the fewest steps.
    #[inline]
    #[expect(
        clippy::needless_bitwise_bool,
        reason = "both are compared, of all entries at once"
    )]
    fn at(&self, port: i32) -> u32 {
        let is_within = |at: usize| (self.first[at] <= port) & (port <= self.last[at]);
        u32::from_le_bytes(std::array::from_fn(|at| if is_within(at) { 0xff } else { 0 }))
    }
}

impl Found {
    /// No rule.
    pub(crate) const NONE: Self = Self(u64::MAX);

    /// What the rule does, and which it is.
    #[inline]
    pub(crate) const fn rule(self) -> Option<(Action, RuleId)> {
        let word = self.0 as u32;
        let action = match word & ACTIONS {
            PASS => Action::Pass,
            ALLOW => Action::Allow,
            DENY => Action::Deny,
            _ => return None,
        };
        Some((action, RuleId(word & ID)))
    }
}

#[inline]
const fn open(word: u32) -> Open {
    match word & OPEN {
        PORTS => Open::Ports,
        PEERS => Open::Peers,
        OPEN => Open::Both,
        _ => Open::Nothing,
    }
}

const LINE: usize = 4;
/// Of a list, those that later ones are compared with.
const HIDING_MAX: usize = 16;
const ID: u32 = (1 << 24) - 1;
const ACTIONS: u32 = 3 << 24;
const PASS: u32 = 0;
const ALLOW: u32 = 1 << 24;
const DENY: u32 = 2 << 24;
const PORTS: u32 = 1 << 26;
const PEERS: u32 = 1 << 27;
const OPEN: u32 = PORTS | PEERS;
/// The list goes on in the next line.
const MORE: u32 = 1 << 28;
const _: () = assert!(size_of::<Line>() == 64);
