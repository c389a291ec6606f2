//! Which chunks the kernel holds for reception: a bit for each.

/// Chunks that are in a port's fill ring, in the kernel, or in the RX ring.
///
/// The rings alone do not tell: a packet that found the RX ring full leaves its chunk on a list inside the kernel. When the
/// socket is closed the kernel forgets that list, and this set is how the chunk comes back.
#[derive(Debug)]
pub(super) struct Lent {
    words: Box<[u64]>,
    count: u32,
}

impl Lent {
    pub(super) fn new(chunks: usize) -> Self {
        Self {
            words: vec![0; chunks.div_ceil(64)].into_boxed_slice(),
            count: 0,
        }
    }

    pub(super) fn len(&self) -> u32 {
        self.count
    }

    /// # Panics
    /// In debug builds when the kernel has the chunk already.
    pub(super) fn insert(&mut self, chunk: u32) {
        let word = &mut self.words[chunk as usize / 64];
        debug_assert!(*word & (1 << (chunk % 64)) == 0, "chunk {chunk} was lent twice");
        *word |= 1 << (chunk % 64);
        self.count += 1;
    }

    /// `false` when the kernel never had it.
    pub(super) fn remove(&mut self, chunk: u32) -> bool {
        let Some(word) = self.words.get_mut(chunk as usize / 64) else {
            return false;
        };
        let had = *word & (1 << (chunk % 64)) != 0;
        *word &= !(1 << (chunk % 64));
        self.count -= u32::from(had);
        had
    }

    /// Empties the set into `each`.
    pub(super) fn drain(&mut self, mut each: impl FnMut(u32)) {
        for (index, word) in self.words.iter_mut().enumerate() {
            while *word != 0 {
                each(index as u32 * 64 + word.trailing_zeros());
                *word &= *word - 1;
            }
        }
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_and_did_not_come_out_is_drained_once() {
        let mut lent = Lent::new(130);
        for chunk in [0, 63, 64, 129] {
            lent.insert(chunk);
        }
        assert!(lent.remove(63) && !lent.remove(63) && !lent.remove(5000));
        let mut left = Vec::new();
        lent.drain(|chunk| left.push(chunk));
        assert_eq!((left, lent.len()), (vec![0, 64, 129], 0));
    }
}
