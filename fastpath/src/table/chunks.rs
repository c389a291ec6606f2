//! Index → T: a tree of chunks, 32 items to a leaf and 64 leaves to a branch.

use std::sync::Arc;

const LEAF_BITS: u32 = 5;
const BRANCH_BITS: u32 = 6;
const LEAF_LEN: usize = 1 << LEAF_BITS;
const BRANCH_LEN: usize = 1 << BRANCH_BITS;

/// A persistent array that grows. Items not yet written are `T::default()`.
///
/// A lookup touches one node for up to 2,048 items, two for up to 131,072, then the item.
#[derive(Clone, Debug)]
pub struct Chunks<T> {
    root: Node<T>,
    /// Bits of the index that the root's children share out; 0 when the root is a leaf.
    shift: u32,
}

#[derive(Clone, Debug, Default)]
enum Node<T> {
    #[default]
    Empty,
    Branch(Arc<[Node<T>]>),
    Leaf(Arc<[T]>),
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self {
            root: Node::Empty,
            shift: 0,
        }
    }
}

impl<T: Clone + Default> Chunks<T> {
    /// The item at `index`; `None` where nothing near was ever written.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let mut node = &self.root;
        let mut shift = self.shift;
        if u64::from(index) >= Self::capacity(shift) {
            return None;
        }
        loop {
            match node {
                Node::Leaf(items) => return items.get(index as usize & (LEAF_LEN - 1)),
                Node::Branch(children) => {
                    node = &children[(index >> shift) as usize & (BRANCH_LEN - 1)];
                    shift = Self::below(shift);
                }
                Node::Empty => return None,
            }
        }
    }

    /// The item at `index`, to be changed; the path to it is copied where it is shared.
    pub fn get_mut(&mut self, index: u32) -> &mut T {
        self.grow(index);
        Self::descend(&mut self.root, self.shift, index)
    }

    fn descend(node: &mut Node<T>, shift: u32, index: u32) -> &mut T {
        if let Node::Empty = node {
            *node = if shift == 0 {
                Node::Leaf((0..LEAF_LEN).map(|_| T::default()).collect())
            } else {
                Node::Branch((0..BRANCH_LEN).map(|_| Node::Empty).collect())
            };
        }
        match node {
            Node::Leaf(items) => &mut Arc::make_mut(items)[index as usize & (LEAF_LEN - 1)],
            Node::Branch(children) => {
                let child = &mut Arc::make_mut(children)[(index >> shift) as usize & (BRANCH_LEN - 1)];
                Self::descend(child, Self::below(shift), index)
            }
            Node::Empty => unreachable!("filled above"),
        }
    }

    /// Adds levels above the root until `index` fits.
    fn grow(&mut self, index: u32) {
        while u64::from(index) >= Self::capacity(self.shift) {
            let old = std::mem::take(&mut self.root);
            let old = (!matches!(old, Node::Empty)).then_some(old);
            self.root = match old {
                Some(old) => Node::Branch(
                    std::iter::once(old)
                        .chain((1..BRANCH_LEN).map(|_| Node::Empty))
                        .collect(),
                ),
                None => Node::Empty,
            };
            self.shift = if self.shift == 0 {
                LEAF_BITS
            } else {
                self.shift + BRANCH_BITS
            };
        }
    }

    /// The shift of a child of a branch of `shift`.
    const fn below(shift: u32) -> u32 {
        if shift > LEAF_BITS { shift - BRANCH_BITS } else { 0 }
    }

    const fn capacity(shift: u32) -> u64 {
        if shift == 0 {
            LEAF_LEN as u64
        } else {
            (BRANCH_LEN as u64) << shift
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_what_it_had_and_shares_what_did_not_change() {
        let mut chunks = Chunks::<u32>::default();
        for index in (0..200_000).step_by(7) {
            *chunks.get_mut(index) = index + 1;
        }
        let before = chunks.clone();
        *chunks.get_mut(70_000) = 5;
        assert_eq!(
            (before.get(70_000), chunks.get(70_000)),
            (Some(&70_001), Some(&5))
        );
        for index in (0..200_000).step_by(7).filter(|index| *index != 70_000) {
            assert_eq!(chunks.get(index), Some(&(index + 1)));
        }
        // Far away it is the same memory, not an equal copy.
        assert!(std::ptr::eq(before.get(7).unwrap(), chunks.get(7).unwrap()));
    }

    #[test]
    fn what_was_never_written_is_default_or_none() {
        let mut chunks = Chunks::<u32>::default();
        assert_eq!(chunks.get(0), None);
        *chunks.get_mut(31) = 9;
        assert_eq!(
            (chunks.get(0), chunks.get(31), chunks.get(32)),
            (Some(&0), Some(&9), None)
        );
        *chunks.get_mut(2048) = 8;
        assert_eq!(
            (
                chunks.get(31),
                chunks.get(2048),
                chunks.get(2047),
                chunks.get(u32::MAX)
            ),
            (Some(&9), Some(&8), None, None)
        );
        *chunks.get_mut(u32::MAX) = 7;
        assert_eq!(
            (chunks.get(31), chunks.get(2048), chunks.get(u32::MAX)),
            (Some(&9), Some(&8), Some(&7))
        );
    }
}
