//! Policy, judged for the first packets of many flows together: what one verdict reads of memory is on its way while the others
//! are worked on, for a policy of many rules lies beyond the nearer caches.

use super::judge::{Asked, Next, Walk};
use super::table::Rules;
use super::{Attachment, Decision, PolicyQuery, Snapshot};
use crate::table::intervals::LeafNumber;

/// Questions to policy, judged as [`Snapshot::judge`] would each.
#[derive(Debug)]
pub struct PolicyBatch<'s> {
    snapshot: &'s Snapshot,
    all: [Option<Pending<'s>>; MAX],
    decisions: [Decision; MAX],
    len: usize,
    /// Numbers of those that are not decided yet.
    pending: [u8; MAX],
    pending_len: usize,
}

/// A question at a policy that has not answered yet.
#[derive(Debug)]
struct Pending<'s> {
    query: PolicyQuery,
    walk: Walk<'s>,
    rules: &'s Rules,
    /// How far the search for the rules of the peer has come, where the policy has an index.
    leaf: LeafNumber,
    place: Option<u32>,
}

impl<'s> Pending<'s> {
    #[inline]
    fn new(query: PolicyQuery, walk: Walk<'s>, rules: &'s Rules) -> Self {
        let index = rules.index.as_ref();
        Self {
            query,
            walk,
            rules,
            leaf: index.map(|index| index.begin(query.peer())).unwrap_or_default(),
            place: None,
        }
    }
}

impl<'s> PolicyBatch<'s> {
    /// Questions at most.
    pub const MAX: usize = MAX;

    /// None so far.
    #[inline]
    pub const fn new(snapshot: &'s Snapshot) -> Self {
        Self {
            snapshot,
            all: [const { None }; MAX],
            decisions: [Decision::NO_POLICY; MAX],
            len: 0,
            pending: [0; MAX],
            pending_len: 0,
        }
    }

    /// How many more may be asked.
    #[inline]
    pub const fn room(&self) -> usize {
        MAX - self.len
    }

    /// What the policies of `attachment`, those of the query's direction, say of it, where they are small: nothing is to be waited
    /// for then. `None`: that is a question now, for one of them has many rules.
    ///
    /// # Panics
    /// If there is no [`room`](Self::room).
    #[inline(never)]
    pub fn ask(&mut self, attachment: &'s Attachment, query: &PolicyQuery) -> Option<Decision> {
        let mut walk = Walk::new(attachment);
        let mut asked = Asked::new();
        loop {
            let rules = match walk.next(self.snapshot, query.direction) {
                Next::Rules(rules) => rules,
                Next::Decided(decision) => return Some(decision),
            };
            if rules.index.is_some() {
                self.all[self.len] = Some(Pending::new(*query, walk, rules));
                self.pending[self.pending_len] = self.len as u8;
                self.pending_len += 1;
                self.len += 1;
                return None;
            }
            let first = self.snapshot.first_rule(rules, query, None, &mut asked);
            if let Some(decision) = walk.said(first) {
                return Some(decision);
            }
        }
    }

    /// Puts an answer that is known among the others.
    ///
    /// # Panics
    /// If there is no [`room`](Self::room).
    #[inline]
    pub fn put(&mut self, decision: Decision) {
        self.decisions[self.len] = decision;
        self.len += 1;
    }

    /// What policy says of each, in the order in which they were asked. Then there are none.
    #[inline(never)]
    pub fn judge(&mut self) -> &[Decision] {
        // A policy of each at a time; most have but one.
        while self.pending_len > 0 {
            for number in &self.pending[..self.pending_len] {
                if let Some(pending) = &mut self.all[usize::from(*number)]
                    && let Some(index) = &pending.rules.index
                {
                    pending.place = Some(index.place(pending.query.peer(), pending.leaf));
                }
            }
            let mut left = 0;
            for at in 0..self.pending_len {
                let number = self.pending[at];
                let Some(decision) = self.advance(usize::from(number)) else {
                    self.pending[left] = number;
                    left += 1;
                    continue;
                };
                self.decisions[usize::from(number)] = decision;
            }
            self.pending_len = left;
        }
        let len = std::mem::take(&mut self.len);
        &self.decisions[..len]
    }

    /// What the policy says at which a question is; `None`: nothing, and it is at another one.
    #[inline]
    fn advance(&mut self, number: usize) -> Option<Decision> {
        let pending = self.all[number].as_mut()?;
        let Pending {
            query,
            walk,
            rules,
            place,
            ..
        } = pending;
        let first = self.snapshot.first_rule(rules, query, *place, &mut Asked::new());
        if let Some(decision) = walk.said(first) {
            return Some(decision);
        }
        match walk.next(self.snapshot, query.direction) {
            Next::Decided(decision) => Some(decision),
            Next::Rules(rules) => {
                *pending = Pending::new(*query, *walk, rules);
                None
            }
        }
    }
}

const MAX: usize = 64;
