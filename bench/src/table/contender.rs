//! What every table under test does: hold connections that are found by either of two keys.

use anyhow::Result;

/// A flow's key, as in the flow table: addresses, ports, protocol, zone.
pub(crate) type Key = [u64; 2];
/// What the other maps keep for a key: the rest of a record of one cache line.
pub(crate) type Value = [u64; 6];

/// A table that threads share.
pub(crate) trait Contender: Sync + Sized {
    /// One thread's way to it.
    type Hand<'a>: Hand
    where
        Self: 'a;

    /// An empty table for so many connections.
    fn create(connections: u32, threads: usize, seed: u64) -> Result<Self>;

    /// The hand of thread number `thread`, made on that thread.
    fn hand(&self, thread: usize, threads: usize) -> Self::Hand<'_>;

    /// Bytes of memory of each of so many connections, where the table says it: what it has of its own, and its part of the index.
    fn bytes_per_connection(&self, _: u32) -> Option<f64> {
        None
    }

    /// The pages that it lies in, where the table says it.
    fn pages(&self) -> Option<String> {
        None
    }
}

/// One thread's way to a table.
pub(crate) trait Hand {
    /// Inserts connection `number`, both keys.
    fn insert(&mut self, number: u32) -> Result<()>;

    /// Removes it.
    fn remove(&mut self, number: u32) -> Result<()>;

    /// Removes the oldest connections, which `old` numbers, and inserts as many new ones.
    fn replace(&mut self, old: &[u32], new: &[u32]) -> Result<()> {
        for (&old, &new) in old.iter().zip(new) {
            self.remove(old)?;
            self.insert(new)?;
        }
        Ok(())
    }

    /// Looks all keys up. Returns how many are there.
    fn lookup(&mut self, keys: &[Key]) -> u64;

    /// The end of a batch.
    fn pass(&mut self) {}
}

/// The keys of connection `number`: a client's and the reply's.
pub(crate) fn keys_of(number: u32) -> [Key; 2] {
    let number = u64::from(number);
    let (client, server) = (0x0a00_0000 + (number >> 16), 0x0a80_0001);
    let (sport, dport, tcp) = (number & 0xffff, 80, 6);
    let ports = |from: u64, to: u64| (from << 48) | (to << 32) | tcp;
    [
        [(client << 32) | server, ports(sport, dport)],
        [(server << 32) | client, ports(dport, sport)],
    ]
}

/// A key that no connection has, as like `key` as can be: another zone.
pub(crate) fn nobodys([addresses, rest]: Key) -> Key {
    [addresses, rest ^ (1 << 20)]
}
