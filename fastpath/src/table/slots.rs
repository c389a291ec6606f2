//! Things with stable indexes: an index belongs to one thing while it exists, and is reused later, the longest free first.

use super::chunks::Chunks;

/// A persistent slab.
#[derive(Clone, Debug)]
pub struct Slots<T> {
    items: Chunks<Slot<T>>,
    /// One past the highest index ever used.
    end: u32,
    live: u32,
    /// Free indexes, a list through the vacant slots.
    free: Option<(u32, u32)>,
    /// Freed since the last [`Slots::settle`].
    freed: Vec<u32>,
}

#[derive(Clone, Debug)]
enum Slot<T> {
    Vacant { next: Option<u32> },
    Taken(T),
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::Vacant { next: None }
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            items: Chunks::default(),
            end: 0,
            live: 0,
            free: None,
            freed: Vec::new(),
        }
    }
}

impl<T: Clone> Slots<T> {
    /// The thing at `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        match self.items.get(index) {
            Some(Slot::Taken(item)) => Some(item),
            _ => None,
        }
    }

    /// Brings what is at `index` nearer.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        if let Some(slot) = self.items.get(index) {
            flowtable::prefetch(slot);
        }
    }

    /// The thing at `index`, to be changed.
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.get(index)?;
        match self.items.get_mut(index) {
            Slot::Taken(item) => Some(item),
            Slot::Vacant { .. } => None,
        }
    }

    /// The index that the next [`Slots::insert`] takes.
    pub fn next_index(&self) -> u32 {
        self.free.map_or(self.end, |(first, _)| first)
    }

    /// Puts a thing at a free index.
    pub fn insert(&mut self, item: T) -> u32 {
        let index = self.next_index();
        let slot = self.items.get_mut(index);
        match (self.free, &*slot) {
            (Some((first, last)), Slot::Vacant { next }) => {
                debug_assert_eq!(next.is_none(), first == last, "the free list ends where it says");
                self.free = next.map(|next| (next, last));
            }
            (None, Slot::Vacant { .. }) => self.end += 1,
            (_, Slot::Taken(_)) => unreachable!("a free index is vacant"),
        }
        *slot = Slot::Taken(item);
        self.live += 1;
        index
    }

    /// Puts a thing at `index`: the next one, or one beyond all that were ever used. Those between are free from the next
    /// [`Slots::settle`] on.
    ///
    /// # Panics
    /// At any other index.
    pub fn insert_at(&mut self, index: u32, item: T) {
        if index == self.next_index() {
            self.insert(item);
            return;
        }
        assert!(index >= self.end, "index {index} was used, below {}", self.end);
        self.freed.extend(self.end..index);
        *self.items.get_mut(index) = Slot::Taken(item);
        self.end = index + 1;
        self.live += 1;
    }

    /// Takes the thing at `index` out. The index stays unused until [`Slots::settle`].
    pub fn remove(&mut self, index: u32) -> Option<T> {
        self.get(index)?;
        let Slot::Taken(item) = std::mem::take(self.items.get_mut(index)) else {
            return None;
        };
        self.live -= 1;
        self.freed.push(index);
        Some(item)
    }

    /// Makes the indexes that were freed fit for reuse.
    pub fn settle(&mut self) {
        for index in std::mem::take(&mut self.freed) {
            match self.free {
                Some((first, last)) => {
                    *self.items.get_mut(last) = Slot::Vacant { next: Some(index) };
                    self.free = Some((first, index));
                }
                None => self.free = Some((index, index)),
            }
        }
    }

    /// How many things there are.
    pub const fn len(&self) -> usize {
        self.live as usize
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// One past the highest index ever used.
    pub const fn end(&self) -> u32 {
        self.end
    }

    /// All things with their indexes, by index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.end).filter_map(|index| Some((index, self.get(index)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_reused_only_after_settle_and_the_longest_free_first() {
        let mut slots = Slots::default();
        let indexes: Vec<_> = (0..4).map(|n| slots.insert(n)).collect();
        assert_eq!(indexes, [0, 1, 2, 3]);
        slots.remove(2);
        slots.remove(0);
        assert_eq!(slots.insert(4), 4);
        slots.settle();
        assert_eq!([slots.insert(5), slots.insert(6), slots.insert(7)], [2, 0, 5]);
        assert_eq!(slots.len(), 6);
        assert_eq!(slots.remove(9), None);
    }

    #[test]
    fn indexes_that_were_leapt_over_are_free() {
        let mut slots = Slots::default();
        slots.insert_at(0, 'a');
        slots.insert_at(3, 'd');
        assert_eq!(slots.insert('e'), 4);
        slots.settle();
        assert_eq!(
            [slots.insert('b'), slots.insert('c'), slots.insert('f')],
            [1, 2, 5]
        );
        let all: String = slots.iter().map(|(_, item)| *item).collect();
        assert_eq!(all, "abcdef");
    }
}
