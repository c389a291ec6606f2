//! Key → T by hash: a tree of 32-way nodes, each as long as it has children.

use std::sync::Arc;

use super::hash::{self, Key};

const BITS: u32 = 5;
/// From here on the hash has no bits left: equal hashes share a list.
const HASH_END: u32 = 65;

/// A persistent hash map. Values should be cheap to clone: a change clones its neighbours.
///
/// A lookup touches about log32(n) nodes: four at 100,000 keys.
#[derive(Clone, Debug)]
pub struct Trie<K, V> {
    root: Slot<K, V>,
    len: usize,
}

#[derive(Clone, Debug, Default)]
enum Slot<K, V> {
    #[default]
    Empty,
    Leaf(K, V),
    /// `children` has one slot for each bit of `bitmap`, in order.
    Branch {
        bitmap: u32,
        children: Arc<[Slot<K, V>]>,
    },
    Collision(Arc<[(K, V)]>),
}

impl<K, V> Default for Trie<K, V> {
    fn default() -> Self {
        Self {
            root: Slot::Empty,
            len: 0,
        }
    }
}

impl<K: Key, V: Clone> Trie<K, V> {
    /// The value of `key`.
    #[inline]
    pub fn get(&self, key: &K) -> Option<&V> {
        self.find(key.hash64(), |other| other == key)
            .map(|(_, value)| value)
    }

    /// Is there such a key?
    #[inline]
    pub fn contains(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The entry whose key hashes to `hash` and is the one.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl Fn(&K) -> bool) -> Option<(&K, &V)> {
        let mut slot = &self.root;
        let mut rest = hash;
        loop {
            match slot {
                Slot::Leaf(key, value) => return is_it(key).then_some((key, value)),
                Slot::Branch { bitmap, children } => {
                    let bit = 1u32 << (rest & 31);
                    if bitmap & bit == 0 {
                        return None;
                    }
                    slot = &children[(bitmap & (bit - 1)).count_ones() as usize];
                    rest >>= BITS;
                }
                Slot::Empty => return None,
                Slot::Collision(list) => {
                    return list
                        .iter()
                        .find(|(key, _)| is_it(key))
                        .map(|(key, value)| (key, value));
                }
            }
        }
    }

    /// The values of up to `N` keys, of which the first `keys.len()` are set: each step is taken for all of them before the next, so
    /// that they wait for memory together and not one after the other.
    pub fn get_each<const N: usize>(&self, keys: &[K]) -> [Option<&V>; N] {
        let mut hashes = [0; N];
        let mut slots = [Some(&self.root); N];
        for (hash, key) in hashes.iter_mut().zip(keys) {
            *hash = key.hash64();
        }
        let len = keys.len().min(N);
        for shift in (0..HASH_END).step_by(BITS as usize) {
            let mut goes_on = false;
            for (slot, hash) in slots[..len].iter_mut().zip(&hashes) {
                if let Some(Slot::Branch { bitmap, children }) = *slot {
                    let bit = 1u32 << (hash.checked_shr(shift).unwrap_or(0) & 31);
                    *slot =
                        (bitmap & bit != 0).then(|| &children[(bitmap & (bit - 1)).count_ones() as usize]);
                    goes_on = true;
                }
            }
            if !goes_on {
                break;
            }
        }
        let mut values = [None; N];
        for ((value, slot), key) in values.iter_mut().zip(slots).zip(keys) {
            *value = match slot {
                Some(Slot::Leaf(other, value)) if other == key => Some(value),
                Some(Slot::Collision(list)) => list
                    .iter()
                    .find(|(other, _)| other == key)
                    .map(|(_, value)| value),
                _ => None,
            };
        }
        values
    }

    /// Sets the value of `key`; gives the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.root.insert(key.hash64(), 0, key, value);
        self.len += usize::from(before.is_none());
        before
    }

    /// Takes `key` out; gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        // Without this a miss would copy the path.
        self.get(key)?;
        let before = self.root.remove(key.hash64(), key);
        self.len -= usize::from(before.is_some());
        before
    }

    /// How many keys there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in an order that depends on nothing but the keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            stack: vec![std::slice::from_ref(&self.root).iter()],
            list: [].iter(),
        }
    }
}

impl<'a, K: Key, V: Clone> IntoIterator for &'a Trie<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<V: Clone> Trie<Arc<str>, V> {
    /// The value of a name.
    pub fn get_name(&self, name: &str) -> Option<&V> {
        self.find(hash::name(name), |other| **other == *name)
            .map(|(_, value)| value)
    }
}

impl<K: Key, V: Clone> Slot<K, V> {
    fn insert(&mut self, rest: u64, depth: u32, key: K, value: V) -> Option<V> {
        match self {
            Self::Empty => {
                *self = Self::Leaf(key, value);
                None
            }
            Self::Leaf(other, old) if *other == key => Some(std::mem::replace(old, value)),
            Self::Leaf(..) => {
                let Self::Leaf(other, old) = std::mem::take(self) else {
                    unreachable!("matched above")
                };
                if depth >= HASH_END {
                    *self = Self::Collision([(other, old), (key, value)].into());
                    return None;
                }
                let bits = other.hash64() >> depth & 31;
                *self = Self::Branch {
                    bitmap: 1 << bits,
                    children: [Self::Leaf(other, old)].into(),
                };
                self.insert(rest, depth, key, value)
            }
            Self::Branch { bitmap, children } => {
                let bit = 1u32 << (rest & 31);
                let place = (*bitmap & (bit - 1)).count_ones() as usize;
                if *bitmap & bit != 0 {
                    return Arc::make_mut(children)[place].insert(rest >> BITS, depth + BITS, key, value);
                }
                *children = spliced(children, place, Some(Self::Leaf(key, value)));
                *bitmap |= bit;
                None
            }
            Self::Collision(list) => {
                if let Some(place) = list.iter().position(|(other, _)| *other == key) {
                    return Some(std::mem::replace(&mut Arc::make_mut(list)[place].1, value));
                }
                *list = list.iter().cloned().chain([(key, value)]).collect();
                None
            }
        }
    }

    fn remove(&mut self, rest: u64, key: &K) -> Option<V> {
        match self {
            Self::Leaf(other, _) if other == key => {
                let Self::Leaf(_, value) = std::mem::take(self) else {
                    unreachable!("matched above")
                };
                Some(value)
            }
            Self::Empty | Self::Leaf(..) => None,
            Self::Branch { bitmap, children } => {
                let bit = 1u32 << (rest & 31);
                if *bitmap & bit == 0 {
                    return None;
                }
                let place = (*bitmap & (bit - 1)).count_ones() as usize;
                let child = &mut Arc::make_mut(children)[place];
                let value = child.remove(rest >> BITS, key)?;
                if matches!(child, Self::Empty) {
                    *bitmap &= !bit;
                    *children = spliced(children, place, None);
                }
                // A lone leaf moves up, so that the tree depends on its keys alone.
                match &**children {
                    [] => *self = Self::Empty,
                    [Self::Leaf(..)] => {
                        let leaf = std::mem::take(&mut Arc::make_mut(children)[0]);
                        *self = leaf;
                    }
                    _ => {}
                }
                Some(value)
            }
            Self::Collision(list) => {
                let place = list.iter().position(|(other, _)| other == key)?;
                let value = list[place].1.clone();
                match (list.len(), place) {
                    (2, _) => {
                        let (key, value) = list[1 - place].clone();
                        *self = Self::Leaf(key, value);
                    }
                    _ => {
                        *list = list
                            .iter()
                            .enumerate()
                            .filter(|(i, _)| *i != place)
                            .map(|(_, e)| e.clone())
                            .collect();
                    }
                }
                Some(value)
            }
        }
    }
}

/// `slots` with one more at `place`, or without the one at `place`. Moves them where nobody else holds them.
pub(super) fn spliced<S: Clone + Default>(slots: &mut Arc<[S]>, place: usize, added: Option<S>) -> Arc<[S]> {
    let skip = usize::from(added.is_none());
    if let Some(own) = Arc::get_mut(slots) {
        let (before, after) = own.split_at_mut(place);
        let before = before.iter_mut().map(std::mem::take);
        let after = after[skip..].iter_mut().map(std::mem::take);
        // Collected by way of a Vec: its length is known, so that the Arc is allocated once.
        return before.chain(added).chain(after).collect::<Vec<_>>().into();
    }
    let after = slots[place + skip..].iter().cloned();
    slots[..place]
        .iter()
        .cloned()
        .chain(added)
        .chain(after)
        .collect::<Vec<_>>()
        .into()
}

/// Walks a [`Trie`].
pub struct Iter<'a, K, V> {
    stack: Vec<std::slice::Iter<'a, Slot<K, V>>>,
    list: std::slice::Iter<'a, (K, V)>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.list.next() {
                return Some((key, value));
            }
            match self.stack.last_mut()?.next() {
                None => {
                    self.stack.pop();
                }
                Some(Slot::Leaf(key, value)) => return Some((key, value)),
                Some(Slot::Branch { children, .. }) => self.stack.push(children.iter()),
                Some(Slot::Collision(list)) => self.list = list.iter(),
                Some(Slot::Empty) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A key whose hash has few values, so that lists of equal hashes and deep paths occur.
    #[derive(Clone, Debug, PartialEq, Eq, Hash)]
    struct Crowded(u16);

    impl Key for Crowded {
        fn hash64(&self) -> u64 {
            match self.0 % 3 {
                0 => 0,
                1 => 1 << 63,
                _ => u64::from(self.0 >> 4),
            }
        }
    }

    proptest! {
        #[test]
        fn a_trie_is_a_map_and_old_copies_stay(changes in prop::collection::vec((any::<bool>(), 0u16..200, any::<u8>()), 0..400)) {
            let mut trie = Trie::default();
            let mut map = HashMap::new();
            let mut copies = Vec::new();
            for (number, (put, key, value)) in changes.into_iter().enumerate() {
                let key = Crowded(key);
                if put {
                    prop_assert_eq!(trie.insert(key.clone(), value), map.insert(key, value));
                } else {
                    prop_assert_eq!(trie.remove(&key), map.remove(&key));
                }
                if number % 50 == 0 {
                    copies.push((trie.clone(), map.clone()));
                }
            }
            copies.push((trie, map));
            for (trie, map) in copies {
                prop_assert_eq!(trie.len(), map.len());
                prop_assert_eq!(trie.iter().map(|(k, v)| (k.clone(), *v)).collect::<HashMap<_, _>>(), map.clone());
                for key in (0..200).map(Crowded) {
                    prop_assert_eq!(trie.get(&key), map.get(&key));
                }
                let some: Vec<Crowded> = (0..150).map(Crowded).collect();
                let found = trie.get_each::<200>(&some);
                for (key, found) in some.iter().zip(found) {
                    prop_assert_eq!(found, map.get(key));
                }
            }
        }
    }
}
