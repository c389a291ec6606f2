//! Which fragments belong together.

use std::net::{Ipv4Addr, Ipv6Addr};

use wire::IpProtocol;

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
    /// Keyed by `seed`.
    pub(super) fn hash(&self, seed: u64) -> u64 {
        let [low, high] = halves(self.dst);
        let rest = u64::from(self.id) << 8 | u64::from(self.proto);
        mix(mix(self.source.hash(seed), low ^ rest), high)
    }
}

impl Source {
    /// Keyed by `seed`.
    pub(super) fn hash(&self, seed: u64) -> u64 {
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

/// A keyed multiply and fold, as in wyhash: enough where chains are bounded by quotas.
fn mix(state: u64, word: u64) -> u64 {
    let product =
        u128::from(state ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(u128::from(word ^ 0xd6e8_feb8_6659_fd93 | 1));
    (product as u64) ^ (product >> 64) as u64 ^ state.rotate_left(23)
}
