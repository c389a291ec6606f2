//! Cycles (ticks of the time stamp counter; nanoseconds where there is none) per lookup of the table alone, over a random permutation of all keys.
//!
//! `cargo run --release -p flowtable --example lookup`
#![allow(unsafe_code, clippy::cast_precision_loss)]

#[cfg(not(loom))]
use std::hint::black_box;

#[cfg(not(loom))]
use flowtable::{Config, FlowHash, Memory, Quiescence, Share, TableV4};

#[cfg(loom)]
fn main() {}

#[cfg(not(loom))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    const BATCH: usize = 64;
    println!(
        "{:>9}  {:>7} {:>7} {:>7} {:>7}  memory",
        "flows", "hit", "single", "miss", "insert"
    );
    for flows in [1_000u32, 64_000, 1_000_000] {
        let domain = Quiescence::new(1);
        let config = Config {
            capacity: flows,
            seed: 42,
            user_words: 0,
        };
        let table = TableV4::create(config, Memory::Anonymous, &domain)?;
        let worker = domain.register(0).ok_or("the seat is taken")?;
        let mut writer = table.writer(&worker, Share::ALL);
        let mut keys = Vec::new();
        let started = Ticks::now();
        for n in 0..u64::from(flows) {
            let (key, reply) = (
                [0x0a00_0000_0a80_0000 + (n >> 16), n],
                [n, 0x0a80_0000_0a00_0000 + (n >> 16)],
            );
            writer.insert(&key, &reply, |_| ())?;
            keys.extend([key, reply]);
        }
        let insert = started.per(flows as usize);
        shuffle(&mut keys);
        let misses: Vec<[u64; 2]> = keys.iter().map(|&[a, b]| [a, b ^ 1 << 60]).collect();

        let (mut hashes, mut out) = ([FlowHash::default(); BATCH], [None; BATCH]);
        let mut batched = |keys: &[[u64; 2]], hit: bool| {
            let rounds = (1_000_000 / keys.len()).clamp(1, 500);
            let mut best = f64::INFINITY;
            for _ in 0..30 {
                let started = Ticks::now();
                for _ in 0..rounds {
                    for batch in keys.chunks_exact(BATCH) {
                        table.lookup_batch(batch, &mut hashes, &mut out);
                        assert_eq!(black_box(&out)[0].is_some(), hit);
                    }
                }
                best = best.min(started.per(rounds * (keys.len() / BATCH) * BATCH));
            }
            best
        };
        let (hit, miss) = (batched(&keys, true), batched(&misses, false));
        let started = Ticks::now();
        let mut found = 0;
        for key in &keys {
            found += usize::from(table.lookup(key, table.hash(key)).is_some());
        }
        let single = started.per(keys.len());
        assert_eq!(found, keys.len());
        let per_connection = table.memory_bytes() as f64 / f64::from(flows);
        println!(
            "{flows:>9}  {hit:>7.1} {single:>7.1} {miss:>7.1} {insert:>7.1}  {per_connection:.1} B per connection, {}",
            table.pages()
        );
    }
    Ok(())
}

/// A moment, in ticks.
#[cfg(not(loom))]
struct Ticks(u64);

#[cfg(not(loom))]
impl Ticks {
    fn now() -> Self {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 CPU has a time stamp counter, and Linux lets processes read it.
        return Self(unsafe { std::arch::x86_64::_rdtsc() });
        #[cfg(not(target_arch = "x86_64"))]
        return Self(
            std::time::UNIX_EPOCH
                .elapsed()
                .map_or(0, |since| since.as_nanos() as u64),
        );
    }

    /// Ticks since then, for each of `n`.
    fn per(&self, n: usize) -> f64 {
        (Self::now().0 - self.0) as f64 / n as f64
    }
}

#[cfg(not(loom))]
fn shuffle<T>(items: &mut [T]) {
    let mut random = 1u64;
    for at in (1..items.len()).rev() {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        items.swap(at, (random >> 33) as usize % (at + 1));
    }
}
