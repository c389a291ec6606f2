//! Prefix → T by longest match: a multibit tree, 5 bits a node, with the runs of single children left out.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::trie::spliced;

/// Bits of the key that a node decides on.
const STRIDE: u8 = 5;

/// The bits of an address. A family has the width that it needs: half of what a lookup does is shifts of the key.
trait Bits: Copy {
    /// How many leading bits are those of `other`.
    fn common(self, other: Self) -> u8;
    /// The first `len` bits, zeros behind.
    fn truncated(self, len: u8) -> Self;
    /// The first `len` bits are those of `other`.
    fn begins_as(self, other: Self, len: u8) -> bool;
    /// The 5 bits at `depth`; a last digit of fewer bits has zeros below.
    fn digit(self, depth: u8) -> u32;
    /// With the first `len` bits of `digit` at `depth`, where it has zeros.
    fn with(self, depth: u8, digit: u32, len: u32) -> Self;
}

impl Bits for u32 {
    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn truncated(self, len: u8) -> Self {
        // In 64 bits, since none of 32 can be shifted by 32.
        (u64::from(self) & (u64::MAX << (32 - len))) as Self
    }

    #[inline]
    fn begins_as(self, other: Self, len: u8) -> bool {
        u64::from(self ^ other) >> (32 - len) == 0
    }

    #[inline]
    fn digit(self, depth: u8) -> u32 {
        (self << depth) >> 27
    }

    fn with(self, depth: u8, digit: u32, len: u32) -> Self {
        self | ((u64::from(digit) << 32 >> len) as Self) >> depth
    }
}

impl Bits for u128 {
    #[inline]
    fn common(self, other: Self) -> u8 {
        (self ^ other).leading_zeros() as u8
    }

    #[inline]
    fn truncated(self, len: u8) -> Self {
        if len == 0 {
            0
        } else {
            self & (Self::MAX << (128 - u32::from(len)))
        }
    }

    #[inline]
    fn begins_as(self, other: Self, len: u8) -> bool {
        (self ^ other).truncated(len) == 0
    }

    #[inline]
    fn digit(self, depth: u8) -> u32 {
        ((self << depth) >> 123) as u32
    }

    fn with(self, depth: u8, digit: u32, len: u32) -> Self {
        if len == 0 {
            self
        } else {
            self | Self::from(digit) << (128 - len) >> depth
        }
    }
}

/// Prefixes of one family.
///
/// A lookup touches one line of memory per node, and a node for each 5 bits at which the prefixes really part: IPv4 never more
/// than seven.
#[derive(Clone, Debug)]
struct Lpm<B, T> {
    root: Option<Node<B, T>>,
    len: usize,
}

/// The node of the bits `depth..depth + 5` under `base`. It lies in its parent's slots, so one line gives header and way on.
#[derive(Clone, Debug)]
struct Node<B, T> {
    /// The first `depth` bits are those of every key below.
    base: B,
    /// Which prefixes of `depth` to `depth + 4` bits there are: bit 0 the empty rest, then two of one bit, ...
    values: u32,
    /// Which children there are, by the 5 bits.
    children: u32,
    depth: u8,
    /// A value for each bit of `values`, then a node for each bit of `children`.
    slots: Arc<[Slot<B, T>]>,
}

#[derive(Clone, Debug, Default)]
enum Slot<B, T> {
    #[default]
    Empty,
    Value(T),
    Child(Node<B, T>),
}

/// For each digit, the bits of `values` that cover it.
const COVERING: [u32; 32] = {
    let mut covering = [0; 32];
    let mut digit = 0;
    while digit < 32 {
        let mut rest = 0;
        while rest < STRIDE as u32 {
            covering[digit as usize] |= 1 << value_bit(digit, rest);
            rest += 1;
        }
        digit += 1;
    }
    covering
};

/// The bit of the prefix that has the first `rest` bits of `digit`.
const fn value_bit(digit: u32, rest: u32) -> u32 {
    (1 << rest) - 1 + (digit >> (STRIDE as u32 - rest))
}

impl<B: Bits, T: Clone> Node<B, T> {
    fn leaf(key: B, len: u8, value: T) -> Self {
        let depth = len / STRIDE * STRIDE;
        let bit = value_bit(key.digit(depth), u32::from(len - depth));
        Self {
            base: key.truncated(depth),
            values: 1 << bit,
            children: 0,
            depth,
            slots: [Slot::Value(value)].into(),
        }
    }

    fn covers(&self, key: B) -> bool {
        key.begins_as(self.base, self.depth)
    }

    const fn value_place(&self, bit: u32) -> usize {
        (self.values & ((1 << bit) - 1)).count_ones() as usize
    }

    const fn child_place(&self, digit: u32) -> usize {
        (self.values.count_ones() + (self.children & ((1 << digit) - 1)).count_ones()) as usize
    }

    fn child(&self, digit: u32) -> Option<&Self> {
        if self.children & 1 << digit == 0 {
            return None;
        }
        match &self.slots[self.child_place(digit)] {
            Slot::Child(child) => Some(child),
            _ => unreachable!("children follow values"),
        }
    }

    fn value(&self, bit: u32) -> Option<&T> {
        if self.values & 1 << bit == 0 {
            return None;
        }
        match &self.slots[self.value_place(bit)] {
            Slot::Value(value) => Some(value),
            _ => unreachable!("values come first"),
        }
    }

    fn add_child(&mut self, child: Self) {
        let digit = child.base.digit(self.depth);
        let place = self.child_place(digit);
        self.slots = spliced(&mut self.slots, place, Some(Slot::Child(child)));
        self.children |= 1 << digit;
    }

    fn insert(&mut self, key: B, len: u8, value: T) -> Option<T> {
        let depth = len / STRIDE * STRIDE;
        let common = key.common(self.base).min(self.depth).min(depth) / STRIDE * STRIDE;
        if common < self.depth {
            // They part above this node: a new one goes between.
            let mut above = Self {
                base: key.truncated(common),
                values: 0,
                children: 0,
                depth: common,
                slots: [].into(),
            };
            std::mem::swap(self, &mut above);
            self.add_child(above);
        }
        if depth == self.depth {
            let bit = value_bit(key.digit(depth), u32::from(len - depth));
            let place = self.value_place(bit);
            if self.values & 1 << bit != 0 {
                let Slot::Value(old) = &mut Arc::make_mut(&mut self.slots)[place] else {
                    unreachable!("values come first")
                };
                return Some(std::mem::replace(old, value));
            }
            self.slots = spliced(&mut self.slots, place, Some(Slot::Value(value)));
            self.values |= 1 << bit;
            return None;
        }
        let digit = key.digit(self.depth);
        if self.children & 1 << digit == 0 {
            self.add_child(Self::leaf(key, len, value));
            return None;
        }
        let place = self.child_place(digit);
        let Slot::Child(child) = &mut Arc::make_mut(&mut self.slots)[place] else {
            unreachable!("children follow values")
        };
        child.insert(key, len, value)
    }

    /// Removes what is known to be there. Leaves a node that may be empty or need not be there: see [`Node::collapsed`].
    fn remove(&mut self, key: B, len: u8) -> Option<T> {
        let depth = len / STRIDE * STRIDE;
        if depth == self.depth {
            let bit = value_bit(key.digit(depth), u32::from(len - depth));
            let place = self.value_place(bit);
            let Slot::Value(old) = std::mem::take(&mut Arc::make_mut(&mut self.slots)[place]) else {
                unreachable!("known to be there")
            };
            self.slots = spliced(&mut self.slots, place, None);
            self.values &= !(1 << bit);
            return Some(old);
        }
        let digit = key.digit(self.depth);
        let place = self.child_place(digit);
        let Slot::Child(mut child) = std::mem::take(&mut Arc::make_mut(&mut self.slots)[place]) else {
            unreachable!("known to be there")
        };
        let old = child.remove(key, len);
        if let Some(child) = child.collapsed() {
            Arc::make_mut(&mut self.slots)[place] = Slot::Child(child);
        } else {
            self.slots = spliced(&mut self.slots, place, None);
            self.children &= !(1 << digit);
        }
        old
    }

    /// Nothing for an empty node, the child for one that only leads to it: the tree depends on its prefixes alone.
    fn collapsed(mut self) -> Option<Self> {
        match (self.values, self.slots.len()) {
            (_, 0) => None,
            (0, 1) => match std::mem::take(&mut Arc::make_mut(&mut self.slots)[0]) {
                Slot::Child(child) => Some(child),
                _ => unreachable!("no values"),
            },
            _ => Some(self),
        }
    }

    fn each(&self, visit: &mut impl FnMut(B, u8, &T)) {
        let mut bits = self.values;
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            let rest = (bit + 1).ilog2();
            let key = self.base.with(self.depth, bit + 1 - (1 << rest), rest);
            if let Some(value) = self.value(bit) {
                visit(key, self.depth + rest as u8, value);
            }
        }
        for slot in &self.slots[self.values.count_ones() as usize..] {
            if let Slot::Child(child) = slot {
                child.each(visit);
            }
        }
    }
}

impl<B: Bits, T: Clone> Lpm<B, T> {
    const fn new() -> Self {
        Self { root: None, len: 0 }
    }

    fn insert(&mut self, key: B, len: u8, value: T) -> Option<T> {
        let before = if let Some(root) = &mut self.root {
            root.insert(key, len, value)
        } else {
            self.root = Some(Node::leaf(key, len, value));
            None
        };
        self.len += usize::from(before.is_none());
        before
    }

    fn remove(&mut self, key: B, len: u8) -> Option<T> {
        self.exact(key, len)?;
        let mut root = self.root.take()?;
        let before = root.remove(key, len);
        self.root = root.collapsed();
        self.len -= 1;
        before
    }

    fn exact(&self, key: B, len: u8) -> Option<&T> {
        let depth = len / STRIDE * STRIDE;
        let mut node = self.root.as_ref()?;
        while node.depth < depth {
            if !node.covers(key) {
                return None;
            }
            node = node.child(key.digit(node.depth))?;
        }
        if node.depth != depth || !node.covers(key) {
            return None;
        }
        node.value(value_bit(key.digit(depth), u32::from(len - depth)))
    }

    /// The longest prefix of at most `longest` bits.
    #[inline]
    fn lookup(&self, key: B, longest: u8) -> Option<(u8, &T)> {
        let mut best = None;
        let mut node = self.root.as_ref()?;
        while node.depth <= longest && node.covers(key) {
            let digit = key.digit(node.depth);
            let mut matching = node.values & COVERING[digit as usize];
            let spare = u32::from(longest - node.depth);
            if spare < u32::from(STRIDE) - 1 {
                matching &= (2 << ((2 << spare) - 2)) - 1;
            }
            if matching != 0 {
                best = Some((node, matching.ilog2()));
            }
            match node.child(digit) {
                Some(child) => node = child,
                None => break,
            }
        }
        let (node, bit) = best?;
        Some((node.depth + (bit + 1).ilog2() as u8, node.value(bit)?))
    }

    /// All prefixes inside the one of `len` bits of `key`, itself included.
    fn within(&self, key: B, len: u8, visit: &mut impl FnMut(B, u8, &T)) {
        let Some(mut node) = self.root.as_ref() else {
            return;
        };
        while node.depth < len / STRIDE * STRIDE {
            if !node.covers(key) {
                return;
            }
            let Some(child) = node.child(key.digit(node.depth)) else {
                return;
            };
            node = child;
        }
        node.each(&mut |found, found_len, value| {
            if found_len >= len && found.begins_as(key, len) {
                visit(found, found_len, value);
            }
        });
    }
}

/// A persistent map from prefixes of both families.
#[derive(Clone, Debug)]
pub struct Prefixes<T> {
    v4: Lpm<u32, T>,
    v6: Lpm<u128, T>,
}

impl<T: Clone> Default for Prefixes<T> {
    fn default() -> Self {
        Self {
            v4: Lpm::new(),
            v6: Lpm::new(),
        }
    }
}

impl<T: Clone> Prefixes<T> {
    /// Sets the value of a prefix; gives the one before.
    pub fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(net.network().to_bits(), net.prefix_len(), value),
            IpNet::V6(net) => self.v6.insert(net.network().to_bits(), net.prefix_len(), value),
        }
    }

    /// Takes a prefix out; gives its value.
    pub fn remove(&mut self, prefix: IpNet) -> Option<T> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(net.network().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self.v6.remove(net.network().to_bits(), net.prefix_len()),
        }
    }

    /// The value of exactly this prefix.
    pub fn exact(&self, prefix: IpNet) -> Option<&T> {
        match prefix {
            IpNet::V4(net) => self.v4.exact(net.network().to_bits(), net.prefix_len()),
            IpNet::V6(net) => self.v6.exact(net.network().to_bits(), net.prefix_len()),
        }
    }

    /// The value of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        let (_, value) = match address {
            IpAddr::V4(v4) => self.v4.lookup(v4.to_bits(), 32)?,
            IpAddr::V6(v6) => self.v6.lookup(v6.to_bits(), 128)?,
        };
        Some(value)
    }

    /// The longest prefix that contains `address`, and its value.
    pub fn lookup_prefix(&self, address: IpAddr) -> Option<(IpNet, &T)> {
        self.covering(IpNet::from(address))
    }

    /// The longest prefix that contains `prefix` or is it, and its value.
    pub fn covering(&self, prefix: IpNet) -> Option<(IpNet, &T)> {
        match prefix {
            IpNet::V4(net) => {
                let (len, value) = self.v4.lookup(net.network().to_bits(), net.prefix_len())?;
                Some((IpNet::new(net.network().into(), len).ok()?.trunc(), value))
            }
            IpNet::V6(net) => {
                let (len, value) = self.v6.lookup(net.network().to_bits(), net.prefix_len())?;
                Some((IpNet::new(net.network().into(), len).ok()?.trunc(), value))
            }
        }
    }

    /// Visits every prefix inside `prefix`, itself included.
    pub fn within(&self, prefix: IpNet, mut visit: impl FnMut(IpNet, &T)) {
        match prefix {
            IpNet::V4(net) => self.v4.within(
                net.network().to_bits(),
                net.prefix_len(),
                &mut |key, len, value| {
                    if let Ok(net) = Ipv4Net::new(key.into(), len) {
                        visit(net.into(), value);
                    }
                },
            ),
            IpNet::V6(net) => self.v6.within(
                net.network().to_bits(),
                net.prefix_len(),
                &mut |key, len, value| {
                    if let Ok(net) = Ipv6Net::new(key.into(), len) {
                        visit(net.into(), value);
                    }
                },
            ),
        }
    }

    /// Visits every prefix.
    pub fn each(&self, mut visit: impl FnMut(IpNet, &T)) {
        self.within(Ipv4Net::default().into(), &mut visit);
        self.within(Ipv6Net::default().into(), &mut visit);
    }

    /// How many prefixes there are.
    pub const fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// None at all.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Prefixes that nest and part at many depths.
    fn prefix() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<u32>(), 0u8..=32, 0u32..32).prop_map(|(bits, len, ones)| {
            let bits = if ones % 2 == 0 { bits & 0x0703_0103 } else { bits };
            IpNet::from(Ipv4Net::new(bits.into(), len).unwrap()).trunc()
        });
        let v6 = (any::<u128>(), 0u8..=128, any::<bool>()).prop_map(|(bits, len, few)| {
            let bits = if few {
                bits & (7 << 120 | 3 << 64 | 0b1011)
            } else {
                bits
            };
            IpNet::from(Ipv6Net::new(bits.into(), len).unwrap()).trunc()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn lookups_are_those_of_a_linear_scan(
            changes in prop::collection::vec((0u8..4, prefix()), 1..120),
            asked in prop::collection::vec(prefix(), 1..60),
        ) {
            let mut table = Prefixes::default();
            let mut map = BTreeMap::new();
            for (number, (what, prefix)) in changes.iter().enumerate() {
                if *what > 0 {
                    prop_assert_eq!(table.insert(*prefix, number), map.insert(*prefix, number));
                } else {
                    let prefix = map.keys().nth(number % map.len().max(1)).copied().unwrap_or(*prefix);
                    prop_assert_eq!(table.remove(prefix), map.remove(&prefix));
                }
            }
            prop_assert_eq!(table.len(), map.len());
            let mut all = BTreeMap::new();
            table.each(|prefix, value| { all.insert(prefix, *value); });
            prop_assert_eq!(&all, &map);
            for asked in asked.into_iter().chain(map.keys().copied().collect::<Vec<_>>()) {
                let longest = map.iter().filter(|(p, _)| p.contains(&asked)).max_by_key(|(p, _)| p.prefix_len());
                prop_assert_eq!(table.covering(asked), longest.map(|(p, v)| (*p, v)));
                prop_assert_eq!(table.exact(asked), map.get(&asked));
                let address = asked.addr();
                let longest = map.iter().filter(|(p, _)| p.contains(&address)).max_by_key(|(p, _)| p.prefix_len());
                prop_assert_eq!(table.lookup(address), longest.map(|(_, v)| v));
                let mut inside = BTreeMap::new();
                table.within(asked, |prefix, value| { inside.insert(prefix, *value); });
                let expected: BTreeMap<_, _> = map.iter().filter(|(p, _)| asked.contains(*p)).map(|(p, v)| (*p, *v)).collect();
                prop_assert_eq!(inside, expected);
            }
        }
    }

    #[test]
    fn a_copy_keeps_what_it_had() {
        let mut table = Prefixes::default();
        let net: IpNet = "10.0.0.0/8".parse().unwrap();
        table.insert(net, 1);
        let before = table.clone();
        table.insert("10.1.0.0/16".parse().unwrap(), 2);
        table.remove(net);
        let address = "10.1.2.3".parse().unwrap();
        assert_eq!(
            (before.lookup(address), table.lookup(address)),
            (Some(&1), Some(&2))
        );
    }
}
