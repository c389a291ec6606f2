//! Which fragments belong together.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::IpProtocol;

/// Words of a key.
pub(super) const KEY_WORDS: usize = 5;

/// What the fragments of one datagram share, RFC 791 section 2.3 and RFC 8200 section 4.5, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    pub(super) source: Source,
    dst: [u8; 16],
    id: u32,
    proto: u8,
}

/// Whose quota a fragment counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Source {
    address: [u8; 16],
    zone: u16,
    is_v6: bool,
}

/// What a datagram is found by, and its source, both made at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes {
    pub(super) datagram: u64,
    pub(super) source: u64,
}

impl FragmentKey {
    /// Of an IPv4 fragment; `zone` as in flow keys.
    pub fn v4(src: Ipv4Addr, dst: Ipv4Addr, id: u16, proto: IpProtocol, zone: u16) -> Self {
        let widen = |address: Ipv4Addr| address.to_ipv6_compatible().octets();
        let source = Source {
            address: widen(src),
            zone,
            is_v6: false,
        };
        Self {
            source,
            dst: widen(dst),
            id: u32::from(id),
            proto: proto.0,
        }
    }

    /// Of an IPv6 fragment. The protocol is not part of it: fragments may disagree there, and the first counts.
    pub fn v6(src: Ipv6Addr, dst: Ipv6Addr, id: u32, zone: u16) -> Self {
        let source = Source {
            address: src.octets(),
            zone,
            is_v6: true,
        };
        Self {
            source,
            dst: dst.octets(),
            id,
            proto: 0,
        }
    }
}

impl FragmentKey {
    /// The same as plain words.
    pub(super) fn words(&self) -> [u64; KEY_WORDS] {
        let ([a, b], [c, d]) = (halves(self.source.address), halves(self.dst));
        let rest = u64::from(self.id)
            | u64::from(self.proto) << 32
            | u64::from(self.source.zone) << 40
            | u64::from(self.source.is_v6) << 56;
        [a, b, c, d, rest]
    }

    /// Keyed by `seed`.
    pub(super) fn hashes(&self, seed: u64) -> Hashes {
        let [low, high] = halves(self.dst);
        let rest = u64::from(self.id) << 8 | u64::from(self.proto);
        let source = self.source.hash(seed);
        Hashes {
            datagram: mix(mix(source, low ^ rest), high),
            source,
        }
    }
}

impl Source {
    fn hash(&self, seed: u64) -> u64 {
        let [low, high] = halves(self.address);
        mix(
            mix(seed ^ u64::from(self.zone) ^ u64::from(self.is_v6) << 16, low),
            high,
        )
    }
}

fn halves(address: [u8; 16]) -> [u64; 2] {
    let whole = u128::from_ne_bytes(address);
    [whole as u64, (whole >> 64) as u64]
}

/// A keyed multiply and fold, as in wyhash, and a shift and multiply after it: consecutive identifications, which senders use,
/// differ in few bits of the product, and they are to be spread evenly over few places.
fn mix(state: u64, word: u64) -> u64 {
    let product = u128::from(state ^ 0x9e37_79b9_7f4a_7c15)
        .wrapping_mul(u128::from((word ^ 0xd6e8_feb8_6659_fd93) | 1));
    let folded = (product as u64) ^ (product >> 64) as u64 ^ state.rotate_left(23);
    let spread = (folded ^ folded >> 32).wrapping_mul(0xe703_7ed1_a0b4_28db);
    spread ^ spread >> 29
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_identifications_are_spread_evenly() {
        let (src, dst) = (Ipv4Addr::new(10, 244, 1, 6), Ipv4Addr::new(10, 96, 0, 10));
        let (src6, dst6) = (src.to_ipv6_mapped(), dst.to_ipv6_mapped());
        for seed in 0..500_u64 {
            let seed = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let mut fullest = 0;
            for keys in [
                (0..64)
                    .map(|id| FragmentKey::v4(src, dst, id, IpProtocol::UDP, 3))
                    .collect::<Vec<_>>(),
                (0..64).map(|id| FragmentKey::v6(src6, dst6, id, 3)).collect(),
            ] {
                let mut places = [0_u8; 64];
                for key in keys {
                    places[key.hashes(seed).datagram as usize & 63] += 1;
                }
                fullest = fullest.max(places.into_iter().max().unwrap_or_default());
            }
            // By chance alone 64 keys put more than 8 in one of 64 places once in 14,000 times.
            assert!(fullest <= 8, "{fullest} in one place with seed {seed:#x}");
        }
    }
}
