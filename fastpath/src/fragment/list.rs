//! Lists and hash chains over slabs, by index: what the tracker is made of. Nothing here allocates after construction.

/// No index.
pub(super) const NONE: u32 = u32::MAX;

/// The place of a slab's element in one [`List`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    pub(super) const UNLINKED: Self = Self {
        prev: NONE,
        next: NONE,
    };
}

/// A doubly linked list through elements of a slab. `links` tells which of an element's links belong to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: NONE,
        tail: NONE,
    };

    /// The oldest element.
    pub(super) fn front(self) -> Option<u32> {
        (self.head != NONE).then_some(self.head)
    }

    /// Appends the element at `at`, which must be in no list through the same links.
    pub(super) fn push_back<E>(&mut self, slab: &mut [E], at: u32, links: impl Fn(&mut E) -> &mut Links) {
        *links(&mut slab[at as usize]) = Links {
            prev: self.tail,
            next: NONE,
        };
        match self.tail {
            NONE => self.head = at,
            tail => links(&mut slab[tail as usize]).next = at,
        }
        self.tail = at;
    }

    /// Takes the element at `at` out of this list, which it must be in.
    pub(super) fn remove<E>(&mut self, slab: &mut [E], at: u32, links: impl Fn(&mut E) -> &mut Links) {
        let Links { prev, next } = std::mem::replace(links(&mut slab[at as usize]), Links::UNLINKED);
        match prev {
            NONE => self.head = next,
            prev => links(&mut slab[prev as usize]).next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => links(&mut slab[next as usize]).prev = prev,
        }
    }

    /// The element behind the one at `at`.
    pub(super) fn after<E>(slab: &mut [E], at: u32, links: impl Fn(&mut E) -> &mut Links) -> Option<u32> {
        let next = links(&mut slab[at as usize]).next;
        (next != NONE).then_some(next)
    }
}

/// A hash index over a slab: chains through a table beside it.
#[derive(Debug)]
pub(super) struct Index {
    heads: Box<[u32]>,
    next: Box<[u32]>,
}

impl Index {
    /// For a slab of `capacity` elements.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            heads: vec![NONE; capacity.next_power_of_two()].into_boxed_slice(),
            next: vec![NONE; capacity].into_boxed_slice(),
        }
    }

    fn head(&mut self, hash: u64) -> &mut u32 {
        let bucket = hash as usize & (self.heads.len() - 1);
        &mut self.heads[bucket]
    }

    /// The element with this hash that `is_it` accepts.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = self.heads[hash as usize & (self.heads.len() - 1)];
        while at != NONE {
            if is_it(at) {
                return Some(at);
            }
            at = self.next[at as usize];
        }
        None
    }

    /// Adds the element at `at`, which must not be in yet.
    pub(super) fn insert(&mut self, hash: u64, at: u32) {
        let next = std::mem::replace(self.head(hash), at);
        self.next[at as usize] = next;
    }

    /// Takes the element at `at` out, which was added with the same hash.
    pub(super) fn remove(&mut self, hash: u64, at: u32) {
        let next = self.next[at as usize];
        let head = self.head(hash);
        if *head == at {
            *head = next;
            return;
        }
        let mut before = *head;
        while self.next[before as usize] != at {
            before = self.next[before as usize];
        }
        self.next[before as usize] = next;
    }
}
