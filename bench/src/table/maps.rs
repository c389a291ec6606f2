//! General-purpose maps, all with the same keyed hash (foldhash), two entries a connection.

use std::hint::black_box;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, ensure};
use hashbrown::DefaultHashBuilder;

use super::contender::{Contender, Hand, Key, Value, keys_of};

/// `hashbrown::HashMap`: its one thread holds the lock all the time, so the lock costs nothing.
pub(crate) struct Hashbrown(Mutex<hashbrown::HashMap<Key, Value>>);

impl Contender for Hashbrown {
    type Hand<'a> = MutexGuard<'a, hashbrown::HashMap<Key, Value>>;

    fn create(connections: u32, _: usize, _: u64) -> Result<Self> {
        Ok(Self(Mutex::new(hashbrown::HashMap::with_capacity(
            connections as usize * 2,
        ))))
    }

    fn hand(&self, _: usize, _: usize) -> Self::Hand<'_> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hand for MutexGuard<'_, hashbrown::HashMap<Key, Value>> {
    fn insert(&mut self, number: u32) -> Result<()> {
        both(number, |key, value| (**self).insert(key, value).is_none())
    }

    fn remove(&mut self, number: u32) -> Result<()> {
        both(number, |key, _| (**self).remove(&key).is_some())
    }

    fn lookup(&mut self, keys: &[Key]) -> u64 {
        keys.iter().filter(|key| self.get(*key).is_some_and(read)).count() as u64
    }
}

/// `dashmap::DashMap`.
pub(crate) struct Dashmap(dashmap::DashMap<Key, Value, DefaultHashBuilder>);

impl Contender for Dashmap {
    type Hand<'a> = &'a Self;

    fn create(connections: u32, _: usize, _: u64) -> Result<Self> {
        let map = dashmap::DashMap::with_capacity_and_hasher(
            connections as usize * 2,
            DefaultHashBuilder::default(),
        );
        Ok(Self(map))
    }

    fn hand(&self, _: usize, _: usize) -> &Self {
        self
    }
}

impl Hand for &Dashmap {
    fn insert(&mut self, number: u32) -> Result<()> {
        both(number, |key, value| self.0.insert(key, value).is_none())
    }

    fn remove(&mut self, number: u32) -> Result<()> {
        both(number, |key, _| self.0.remove(&key).is_some())
    }

    fn lookup(&mut self, keys: &[Key]) -> u64 {
        keys.iter()
            .filter(|key| self.0.get(*key).is_some_and(|value| read(&value)))
            .count() as u64
    }
}

/// `papaya::HashMap`, pinned once a batch.
pub(crate) struct Papaya(papaya::HashMap<Key, Value, DefaultHashBuilder>);

impl Contender for Papaya {
    type Hand<'a> = &'a Self;

    fn create(connections: u32, _: usize, _: u64) -> Result<Self> {
        let map = papaya::HashMap::with_capacity_and_hasher(
            connections as usize * 2,
            DefaultHashBuilder::default(),
        );
        Ok(Self(map))
    }

    fn hand(&self, _: usize, _: usize) -> &Self {
        self
    }
}

impl Hand for &Papaya {
    fn insert(&mut self, number: u32) -> Result<()> {
        let map = self.0.pin();
        both(number, |key, value| map.insert(key, value).is_none())
    }

    fn remove(&mut self, number: u32) -> Result<()> {
        let map = self.0.pin();
        both(number, |key, _| map.remove(&key).is_some())
    }

    fn lookup(&mut self, keys: &[Key]) -> u64 {
        let map = self.0.pin();
        keys.iter().filter(|key| map.get(*key).is_some_and(read)).count() as u64
    }
}

/// Does something to both keys of a connection, each of which must succeed.
fn both(number: u32, mut change: impl FnMut(Key, Value) -> bool) -> Result<()> {
    for key in keys_of(number) {
        let value = [u64::from(number); 6];
        ensure!(
            change(key, value),
            "connection {number} was there already, or not at all"
        );
    }
    Ok(())
}

/// Reads a word of what was found, as the pipeline would.
fn read(value: &Value) -> bool {
    black_box(value[0]);
    true
}
