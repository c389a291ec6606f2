//! Taking over the table of a predecessor that has ended, whatever it was doing when it did.

use std::os::fd::OwnedFd;

use crate::{
    hash::FlowHash,
    layout::Layout,
    memory::Region,
    pool::CHUNK,
    quiescence::Quiescence,
    record::{Direction, FlowRef, Record},
    state::Lifecycle,
    sync::Arc,
    table::{AdoptError, Table},
};

/// What adoption found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// Connections that live on.
    pub live: u32,
    /// Connections dropped because the predecessor was installing, deciding or removing them.
    pub dropped: u32,
    /// Connections dropped because their keys belonged to another one as well: the memory was damaged.
    pub duplicates: u32,
}

impl<const K: usize, const W: usize> Table<K, W> {
    /// Takes over the table in `fd`. Live connections and the user area are kept as they are; those that the
    /// predecessor was just changing are dropped; the index and the free lists are made anew.
    ///
    /// The predecessor must have ended, or must not touch the table any more: nothing here can check that.
    pub fn adopt(fd: OwnedFd, domain: &Arc<Quiescence>) -> Result<(Arc<Self>, Adoption), AdoptError> {
        let region = Region::open(fd).map_err(AdoptError::Map)?;
        let layout = Layout::read(region.words(), K, W)?;
        let mut table = Self::over(region, layout, domain);
        let (found, high_water) = table.repair();
        table.set_adopted(found.live.into(), high_water);
        let mut free = Vec::with_capacity(CHUNK);
        for slot in 0..high_water {
            if table.records(slot)[0].state().lifecycle() == Lifecycle::Free {
                free.push(slot);
                if free.len() == CHUNK {
                    table.pool.push(&table, &free);
                    free.clear();
                }
            }
        }
        table.pool.push(&table, &free);
        Ok((Arc::new(table), found))
    }

    /// Rebuilds the index from the live records and frees all others. Returns the first slot of the unused rest too.
    fn repair(&self) -> (Adoption, u32) {
        self.index().clear();
        let mut found = Adoption::default();
        let mut high_water = 0;
        for from in (0..self.slots()).step_by(AHEAD) {
            let group = from..self.slots().min(from + AHEAD as u32);
            let mut hashes = [[FlowHash::default(); 2]; AHEAD];
            for (hashes, slot) in hashes.iter_mut().zip(group.clone()) {
                if self.is_whole(slot) {
                    *hashes = self.records(slot).map(|record| self.hash(&record.key()));
                    for &hash in &*hashes {
                        self.prefetch(hash);
                    }
                }
            }
            for (hashes, slot) in hashes.into_iter().zip(group) {
                if !self.is_whole(slot) {
                    let free = self.records(slot)[0].state().lifecycle() == Lifecycle::Free;
                    found.dropped += u32::from(!free);
                } else if self.relink(slot, hashes) {
                    found.live += 1;
                    high_water = slot + 1;
                    continue;
                } else {
                    found.duplicates += 1;
                }
                for record in self.records(slot) {
                    record.set_state(
                        record
                            .state()
                            .closed()
                            .with_lifecycle(Lifecycle::Free)
                            .with_bits(0),
                    );
                }
            }
        }
        (found, high_water)
    }

    /// The original's state speaks for both. A reply still Installing beside it was complete, just not yet marked.
    fn is_whole(&self, slot: u32) -> bool {
        let [original, reply] = self.records(slot).map(Record::state);
        original.is_stable() && (reply.is_stable() || reply.lifecycle() == Lifecycle::Installing)
    }

    /// Puts both keys of a live connection in the index. False, and nothing changed there, if that cannot be.
    fn relink(&self, slot: u32, hashes: [FlowHash; 2]) -> bool {
        let [original, reply] = self.records(slot);
        let (key, reply_key) = (original.key(), reply.key());
        if self.lookup(&key, hashes[0]).is_some() || self.lookup(&reply_key, hashes[1]).is_some() {
            return false;
        }
        let (at, reply_at) = (
            FlowRef::of(slot, Direction::Original).index(),
            FlowRef::of(slot, Direction::Reply).index(),
        );
        if !self.index().place(hashes[0], at, false) {
            return false;
        }
        if key != reply_key && !self.index().place(hashes[1], reply_at, false) {
            self.index().unlink(hashes[0], at);
            return false;
        }
        let state = reply.state();
        if state.lifecycle() == Lifecycle::Installing {
            reply.set_state(state.closed().with_lifecycle(Lifecycle::Live));
        }
        true
    }
}

/// Slots whose buckets are fetched together.
const AHEAD: usize = 16;
