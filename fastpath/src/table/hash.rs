//! 64-bit hashes of table keys: the same in every process and on every machine, so that equal input makes equal tables.

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use contract::valid::AddressPort;
use ipnet::IpNet;

/// A key of a [`Trie`](super::trie::Trie).
pub trait Key: Eq + Clone {
    /// Its hash. Equal keys have equal ones.
    fn hash64(&self) -> u64;
}

// Digits of pi: no structure, nothing up the sleeve.
const A: u64 = 0x243f_6a88_85a3_08d3;
const B: u64 = 0x1319_8a2e_0370_7344 | 1;
const C: u64 = 0xa409_3822_299f_31d0 | 1;

/// Multiplies to 128 bits and folds.
const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ (product >> 64) as u64
}

/// The hash of two words.
pub const fn words(high: u64, low: u64) -> u64 {
    fold(fold(high ^ A, B) ^ low, C) ^ low.rotate_left(32)
}

/// A number whose every bit depends on every bit of `word` (the finaliser of `SplitMix64`): for scores that are compared.
pub const fn scattered(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The hash of an address.
pub fn address(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => words(4, u64::from(v4.to_bits())),
        IpAddr::V6(v6) => words((v6.to_bits() >> 64) as u64, v6.to_bits() as u64),
    }
}

/// The hash of a name. Names are chosen by tenants, so this one takes work to collide.
pub fn name(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}

impl Key for u32 {
    fn hash64(&self) -> u64 {
        words(0, u64::from(*self))
    }
}

impl Key for u128 {
    fn hash64(&self) -> u64 {
        words((*self >> 64) as u64, *self as u64)
    }
}

impl Key for IpAddr {
    fn hash64(&self) -> u64 {
        address(*self)
    }
}

impl Key for AddressPort {
    fn hash64(&self) -> u64 {
        words(
            address(self.address),
            u64::from(self.protocol) << 16 | u64::from(self.port),
        )
    }
}

impl Key for IpNet {
    fn hash64(&self) -> u64 {
        words(address(self.addr()), u64::from(self.prefix_len()))
    }
}

impl Key for Arc<str> {
    fn hash64(&self) -> u64 {
        name(self)
    }
}
