//! Follows the fragments of datagrams: remembers what became of the first, which has the ports, and holds what overtook it.
//!
//! Everything has a limit and its memory at construction. What holds frames (datagrams whose first part has not come) may take
//! half of the datagrams and is refused beyond; what only remembers an outcome gives way to newer ones, oldest first, of the
//! same source if that source has its share. So one source can neither make others' fragments wait in vain nor be forgotten.
//!
//! One tracker serves one worker. Parts that come to another worker than their first find its outcome on the shared
//! [board](super::board): who calls [`Tracker::first`] posts there too, and [`Tracker::next_waiting`] tells whom to look for again.

use super::key::{FragmentKey, Hashes, Source};
use super::list::{Index, Links, List, NONE};
use crate::io::Frame;

/// How much a tracker may remember and hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentLimits {
    /// Datagrams in all. Half of them may wait for their first fragment.
    pub datagrams_max: u32,
    /// Datagrams of one source that are remembered, and as many again that wait.
    pub datagrams_per_source_max: u32,
    /// Frames held in all.
    pub held_max: u32,
    /// Frames held of one source.
    pub held_per_source_max: u32,
    /// Frames held of one datagram.
    pub held_per_datagram_max: u32,
    /// How long a fragment waits and an outcome is remembered, nanoseconds.
    pub timeout_ns: u64,
}

impl Default for FragmentLimits {
    /// 4096 datagrams, 512 per source; 1024 frames, 128 per source, 64 per datagram; 30 s.
    fn default() -> Self {
        Self {
            datagrams_max: 4096,
            datagrams_per_source_max: 512,
            held_max: 1024,
            held_per_source_max: 128,
            held_per_datagram_max: 64,
            timeout_ns: 30_000_000_000,
        }
    }
}

/// What becomes of a later fragment.
#[derive(Debug)]
#[must_use = "a frame that is neither sent nor released leaks its chunk"]
pub enum Later<T, M> {
    /// The first fragment has been seen: do the same.
    Follow(T, Frame, M),
    /// It waits; [`Tracker::first`] or [`Tracker::expire`] gives it back.
    Held,
    /// It would exceed a limit: drop reason `fragment-quota`.
    Refused(Frame, M),
}

/// Datagrams of which fragments came: outcomes `T` of first fragments, and held later ones with the caller's notes `M`.
pub struct Tracker<T, M> {
    limits: FragmentLimits,
    seed: u64,
    datagrams: Box<[Datagram<T>]>,
    free_datagrams: Vec<u32>,
    by_key: Index,
    sources: Box<[SourceUse]>,
    free_sources: Vec<u32>,
    by_source: Index,
    held: Box<[HeldSlot<M>]>,
    free_held: Vec<u32>,
    /// Datagrams without an outcome, oldest first.
    waiting: List,
    waiting_count: u32,
    /// Datagrams with one, oldest first.
    decided: List,
    /// The waiting datagram that [`Self::next_waiting`] tells next; [`NONE`]: all were told.
    look_next: u32,
    /// What was posted when it began with the oldest.
    looked_at: u64,
}

struct Datagram<T> {
    key: Option<FragmentKey>,
    outcome: Option<T>,
    deadline_ns: u64,
    source: u32,
    age: Links,
    of_source: Links,
    held_first: u32,
    held_last: u32,
    held_count: u32,
}

struct SourceUse {
    source: Option<Source>,
    decided: List,
    decided_count: u32,
    waiting_count: u32,
    held_count: u32,
}

struct HeldSlot<M> {
    frame: Option<(Frame, M)>,
    next: u32,
}

impl<T: Copy, M> Tracker<T, M> {
    /// An empty tracker; `seed` keys its hash.
    ///
    /// # Panics
    /// When a limit is zero, or there are fewer than two datagrams.
    pub fn new(limits: FragmentLimits, seed: u64) -> Self {
        assert!(
            limits.datagrams_max >= 2 && limits.datagrams_max < NONE,
            "{limits:?}"
        );
        assert!(limits.held_max > 0 && limits.held_max < NONE, "{limits:?}");
        assert!(
            limits.held_per_source_max > 0 && limits.held_per_datagram_max > 0,
            "{limits:?}"
        );
        assert!(limits.datagrams_per_source_max > 0, "{limits:?}");
        let datagrams = limits.datagrams_max as usize;
        let descending = |count: u32| (0..count).rev().collect();
        Self {
            limits,
            seed,
            datagrams: (0..datagrams).map(|_| Datagram::EMPTY).collect(),
            free_datagrams: descending(limits.datagrams_max),
            by_key: Index::new(datagrams),
            sources: (0..datagrams).map(|_| SourceUse::EMPTY).collect(),
            free_sources: descending(limits.datagrams_max),
            by_source: Index::new(datagrams),
            held: (0..limits.held_max)
                .map(|_| HeldSlot {
                    frame: None,
                    next: NONE,
                })
                .collect(),
            free_held: descending(limits.held_max),
            waiting: List::EMPTY,
            waiting_count: 0,
            decided: List::EMPTY,
            look_next: NONE,
            looked_at: 0,
        }
    }

    /// Frames that wait.
    pub fn held(&self) -> usize {
        self.held.len() - self.free_held.len()
    }

    /// When the oldest waiting fragment is due, nanoseconds.
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.waiting
            .front()
            .map(|at| self.datagrams[at as usize].deadline_ns)
    }

    /// A first fragment came and got `outcome` (a refusal is one, too). Appends the frames that waited for it to `released`,
    /// in order of arrival. A first fragment seen again replaces the outcome.
    pub fn first(&mut self, key: &FragmentKey, outcome: T, now_ns: u64, released: &mut Vec<(Frame, M)>) {
        let hashes = key.hashes(self.seed);
        if let Some(at) = self.find(key, hashes) {
            self.take_held(at, usize::MAX, released);
            self.unlink(at);
            self.link(at, Some(outcome), now_ns);
        } else {
            self.make_room(key, hashes);
            self.insert(key, hashes, Some(outcome), now_ns);
        }
    }

    /// A later fragment came.
    pub fn later(&mut self, key: &FragmentKey, frame: Frame, note: M, now_ns: u64) -> Later<T, M> {
        let hashes = key.hashes(self.seed);
        let at = match self.find(key, hashes) {
            Some(at) => match self.datagrams[at as usize].outcome {
                Some(outcome) if now_ns < self.datagrams[at as usize].deadline_ns => {
                    return Later::Follow(outcome, frame, note);
                }
                Some(_) => {
                    self.forget(at);
                    None
                }
                None => Some(at),
            },
            None => None,
        };
        if !self.may_hold(key, hashes, at) {
            return Later::Refused(frame, note);
        }
        let at = at.unwrap_or_else(|| self.insert(key, hashes, None, now_ns));
        self.hold(at, frame, note);
        Later::Held
    }

    /// Gives up what is due at `now_ns`: appends frames whose first fragment did not come to `expired` (drop reason
    /// `fragment-timeout`), oldest first, and forgets old outcomes. At most `budget` of both together; returns how many: a
    /// full budget means "call again".
    pub fn expire(&mut self, now_ns: u64, budget: usize, expired: &mut Vec<(Frame, M)>) -> usize {
        let mut done = 0;
        while done < budget
            && let Some(at) = self.due(self.waiting, now_ns)
        {
            done += self.take_held(at, budget - done, expired);
            if self.datagrams[at as usize].held_count == 0 {
                self.forget(at);
            }
        }
        while done < budget
            && let Some(at) = self.due(self.decided, now_ns)
        {
            self.forget(at);
            done += 1;
        }
        done
    }

    /// Whether the outcome of this datagram's first fragment is known here at `now_ns`.
    pub fn is_decided(&self, key: &FragmentKey, now_ns: u64) -> bool {
        self.find(key, key.hashes(self.seed))
            .map(|at| &self.datagrams[at as usize])
            .is_some_and(|datagram| datagram.outcome.is_some() && now_ns < datagram.deadline_ns)
    }

    /// The next datagram whose first fragment may have been seen by another worker since it began to wait, the oldest first.
    ///
    /// `posted` moves when some worker saw a first fragment. Each time it has moved, all that wait are told once, over as many
    /// calls as that takes; what begins to wait later is looked for before it waits.
    pub fn next_waiting(&mut self, posted: u64) -> Option<FragmentKey> {
        if self.look_next == NONE && posted != self.looked_at {
            self.looked_at = posted;
            self.look_next = self.waiting.front().unwrap_or(NONE);
        }
        if self.look_next == NONE {
            return None;
        }
        let at = self.look_next;
        self.look_next = List::after(&mut self.datagrams, at, |d| &mut d.age).unwrap_or(NONE);
        self.datagrams[at as usize].key
    }

    fn find(&self, key: &FragmentKey, hashes: Hashes) -> Option<u32> {
        self.by_key.find(hashes.datagram, |at| {
            self.datagrams[at as usize].key == Some(*key)
        })
    }

    fn find_source(&self, source: &Source, hashes: Hashes) -> Option<u32> {
        self.by_source.find(hashes.source, |at| {
            self.sources[at as usize].source == Some(*source)
        })
    }

    fn due(&self, list: List, now_ns: u64) -> Option<u32> {
        list.front()
            .filter(|at| self.datagrams[*at as usize].deadline_ns <= now_ns)
    }

    /// Whether one more frame may be held, in the waiting datagram `at` or a new one. Makes room for a new one.
    fn may_hold(&mut self, key: &FragmentKey, hashes: Hashes, at: Option<u32>) -> bool {
        let limits = self.limits;
        let source = self
            .find_source(&key.source, hashes)
            .map(|at| &self.sources[at as usize]);
        if self.free_held.is_empty() || source.is_some_and(|s| s.held_count >= limits.held_per_source_max) {
            return false;
        }
        if let Some(at) = at {
            return self.datagrams[at as usize].held_count < limits.held_per_datagram_max;
        }
        let allowed = self.waiting_count < limits.datagrams_max / 2
            && source.is_none_or(|s| s.waiting_count < limits.datagrams_per_source_max);
        if allowed && self.free_datagrams.is_empty() {
            self.forget(self.decided.front().expect("at most half of the datagrams wait"));
        }
        allowed
    }

    /// Makes room for an outcome of `key`: the source's oldest goes when it has its share, else the oldest of all.
    fn make_room(&mut self, key: &FragmentKey, hashes: Hashes) {
        let source = self
            .find_source(&key.source, hashes)
            .map(|at| &self.sources[at as usize]);
        let oldest_of_source = source
            .filter(|s| s.decided_count >= self.limits.datagrams_per_source_max)
            .and_then(|s| s.decided.front());
        if let Some(at) = oldest_of_source {
            self.forget(at);
        } else if self.free_datagrams.is_empty() {
            self.forget(self.decided.front().expect("at most half of the datagrams wait"));
        }
    }

    fn insert(&mut self, key: &FragmentKey, hashes: Hashes, outcome: Option<T>, now_ns: u64) -> u32 {
        let source = self.find_source(&key.source, hashes).unwrap_or_else(|| {
            let at = self.free_sources.pop().expect("no more sources than datagrams");
            self.sources[at as usize].source = Some(key.source);
            self.by_source.insert(hashes.source, at);
            at
        });
        let at = self.free_datagrams.pop().expect("room was made");
        self.by_key.insert(hashes.datagram, at);
        let datagram = &mut self.datagrams[at as usize];
        datagram.key = Some(*key);
        datagram.source = source;
        self.link(at, outcome, now_ns);
        at
    }

    /// Puts the datagram at the end of the lists that its outcome says.
    fn link(&mut self, at: u32, outcome: Option<T>, now_ns: u64) {
        let datagram = &mut self.datagrams[at as usize];
        datagram.outcome = outcome;
        datagram.deadline_ns = now_ns.saturating_add(self.limits.timeout_ns);
        let source = &mut self.sources[datagram.source as usize];
        if outcome.is_some() {
            source.decided_count += 1;
            source
                .decided
                .push_back(&mut self.datagrams, at, |d| &mut d.of_source);
            self.decided.push_back(&mut self.datagrams, at, |d| &mut d.age);
        } else {
            source.waiting_count += 1;
            self.waiting_count += 1;
            self.waiting.push_back(&mut self.datagrams, at, |d| &mut d.age);
        }
    }

    fn unlink(&mut self, at: u32) {
        if self.look_next == at {
            self.look_next = List::after(&mut self.datagrams, at, |d| &mut d.age).unwrap_or(NONE);
        }
        let datagram = &self.datagrams[at as usize];
        let source = &mut self.sources[datagram.source as usize];
        if datagram.outcome.is_some() {
            source.decided_count -= 1;
            source
                .decided
                .remove(&mut self.datagrams, at, |d| &mut d.of_source);
            self.decided.remove(&mut self.datagrams, at, |d| &mut d.age);
        } else {
            source.waiting_count -= 1;
            self.waiting_count -= 1;
            self.waiting.remove(&mut self.datagrams, at, |d| &mut d.age);
        }
    }

    /// Removes a datagram that holds nothing, and its source with the last one.
    fn forget(&mut self, at: u32) {
        debug_assert_eq!(self.datagrams[at as usize].held_count, 0, "frames would leak");
        self.unlink(at);
        let datagram = &mut self.datagrams[at as usize];
        let source_at = datagram.source;
        let key = datagram.key.take().expect("only live datagrams are in lists");
        let hashes = key.hashes(self.seed);
        self.by_key.remove(hashes.datagram, at);
        self.free_datagrams.push(at);
        let source = &mut self.sources[source_at as usize];
        if source.decided_count + source.waiting_count == 0 {
            source.source = None;
            self.by_source.remove(hashes.source, source_at);
            self.free_sources.push(source_at);
        }
    }

    fn hold(&mut self, at: u32, frame: Frame, note: M) {
        let slot = self.free_held.pop().expect("checked by `may_hold`");
        self.held[slot as usize] = HeldSlot {
            frame: Some((frame, note)),
            next: NONE,
        };
        let datagram = &mut self.datagrams[at as usize];
        match datagram.held_last {
            NONE => datagram.held_first = slot,
            last => self.held[last as usize].next = slot,
        }
        datagram.held_last = slot;
        datagram.held_count += 1;
        self.sources[datagram.source as usize].held_count += 1;
    }

    /// Moves up to `count` held frames of the datagram to `out`, oldest first. Returns how many.
    fn take_held(&mut self, at: u32, count: usize, out: &mut Vec<(Frame, M)>) -> usize {
        let datagram = &mut self.datagrams[at as usize];
        let source = &mut self.sources[datagram.source as usize];
        let mut taken = 0;
        while taken < count && datagram.held_first != NONE {
            let slot = datagram.held_first;
            let held = &mut self.held[slot as usize];
            out.push(
                held.frame
                    .take()
                    .expect("a slot in a datagram's chain holds a frame"),
            );
            datagram.held_first = held.next;
            datagram.held_count -= 1;
            source.held_count -= 1;
            self.free_held.push(slot);
            taken += 1;
        }
        if datagram.held_first == NONE {
            datagram.held_last = NONE;
        }
        taken
    }
}

impl<T> Datagram<T> {
    const EMPTY: Self = Self {
        key: None,
        outcome: None,
        deadline_ns: 0,
        source: NONE,
        age: Links::UNLINKED,
        of_source: Links::UNLINKED,
        held_first: NONE,
        held_last: NONE,
        held_count: 0,
    };
}

impl SourceUse {
    const EMPTY: Self = Self {
        source: None,
        decided: List::EMPTY,
        decided_count: 0,
        waiting_count: 0,
        held_count: 0,
    };
}

#[cfg(test)]
mod tests;
