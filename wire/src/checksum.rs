//! The Internet checksum: whole (RFC 1071) and incremental (RFC 1624).
//!
//! Sums are kept in *memory order*: bytes are loaded natively, the one's complement sum does not care (RFC 1071
//! section 2 B), and what is stored back goes out the way it came. So there is no byte swap on the packet path.
//!
//! One's complement has two zeros. A checksum over data that is not all zero, as any with a pseudo-header, is
//! never 0xffff when computed; [`Delta`] keeps that: applied to a computed checksum it gives, bit for bit,
//! what computing again would.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::ops::{Add, AddAssign, Neg};

use zerocopy::network_endian::U16;

use crate::proto::IpProtocol;

/// A one's complement sum that has not been folded yet.
///
/// Exact for less than 2^31 additions; a packet needs three.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// Sums `bytes`, an odd last byte being padded with a zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        // Eight lanes of 64-bit words: their sum, whose carries are lost, and the sum of their upper halves, which has none.
        // That of the lower halves is what the first is more than the second. The compiler makes vectors of it.
        let (mut whole, mut upper) = ([0u64; 8], [0u64; 8]);
        let (blocks, rest) = bytes.as_chunks::<64>();
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (at, word) in words.iter().enumerate() {
                let word = u64::from_ne_bytes(*word);
                whole[at] = whole[at].wrapping_add(word);
                upper[at] = upper[at].wrapping_add(word >> 32);
            }
        }
        let whole = whole.into_iter().fold(0u64, u64::wrapping_add);
        let upper = upper.into_iter().fold(0u64, u64::wrapping_add);
        let mut sum = whole.wrapping_sub(upper << 32).wrapping_add(upper);
        let (words, rest) = rest.as_chunks::<4>();
        for word in words {
            sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(*word)));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum = sum.wrapping_add(u64::from(u32::from_ne_bytes(last)));
        Self((sum & 0xffff_ffff) + (sum >> 32))
    }

    /// As [`of`](Self::of), in a form that becomes vectors as wide as the calling function is compiled for; with narrow ones slower
    /// than that.
    #[expect(
        clippy::inline_always,
        reason = "compiled for the caller's processor, not for any"
    )]
    #[inline(always)]
    pub fn of_wide(bytes: &[u8]) -> Self {
        // As in `of`, one lane: two plain reductions, which the compiler spreads over lanes of its own choice.
        let (words, rest) = bytes.as_chunks::<8>();
        let (mut whole, mut upper) = (0u64, 0u64);
        for word in words {
            let word = u64::from_ne_bytes(*word);
            whole = whole.wrapping_add(word);
            upper = upper.wrapping_add(word >> 32);
        }
        let sum = whole.wrapping_sub(upper << 32).wrapping_add(upper);
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        let last = u64::from_ne_bytes(last);
        Self((sum & 0xffff_ffff) + (sum >> 32) + (last & 0xffff_ffff) + (last >> 32))
    }

    /// Sums an IPv4 header without options: three loads, nothing to loop over.
    #[inline]
    pub const fn of_plain_ipv4(header: &[u8; 20]) -> Self {
        let [
            a0,
            a1,
            a2,
            a3,
            a4,
            a5,
            a6,
            a7,
            b0,
            b1,
            b2,
            b3,
            b4,
            b5,
            b6,
            b7,
            c0,
            c1,
            c2,
            c3,
        ] = *header;
        let first = u64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        let second = u64::from_ne_bytes([b0, b1, b2, b3, b4, b5, b6, b7]);
        let third = u32::from_ne_bytes([c0, c1, c2, c3]) as u64;
        let (sum, carry) = first.overflowing_add(second);
        let (sum, carry) = sum.overflowing_add(third + carry as u64);
        // Fits: a sum that carried is less than the third word.
        Self(sum.wrapping_add(carry as u64))
    }

    /// What the sum of data becomes more by when eight of its bytes, or four in the lower half, change from `old` to `new`, both
    /// as they lie in memory: `~old + new` of RFC 1624, not folded yet.
    #[inline]
    pub const fn of_change(old: u64, new: u64) -> Self {
        const LOW: u64 = 0xffff_ffff;
        Self((new & LOW) + (new >> 32) + (!old & LOW) + (!old >> 32))
    }

    /// The same of words.
    #[inline]
    pub fn of_changes<const N: usize>(old: [u64; N], new: [u64; N]) -> Self {
        Self::of_words(old.map(|word| !word)) + Self::of_words(new)
    }

    /// Sums words as they lie in memory, fewer than 2^31 of them.
    #[inline]
    pub fn of_words<const N: usize>(words: [u64; N]) -> Self {
        let sum: u128 = words.into_iter().map(u128::from).sum();
        // What went over the top comes round.
        let (low, over) = (sum as u64, (sum >> 64) as u64);
        Self((low & 0xffff_ffff) + (low >> 32) + over)
    }

    /// The checksum of data that had `checksum` before it changed by this.
    #[inline]
    #[must_use]
    pub const fn updated(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = Self(self.0 + !u16::from_ne_bytes(checksum) as u64);
        (!sum.fold()).to_ne_bytes()
    }

    /// The same of UDP, where zero means "none" and stays, and none that was computed becomes zero.
    #[inline]
    #[must_use]
    pub const fn updated_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        match checksum {
            [0, 0] => checksum,
            _ => match self.updated(checksum) {
                [0, 0] => [0xff; 2],
                updated => updated,
            },
        }
    }

    /// The same of a partial checksum, the sum of the pseudo-header alone, which is not complemented.
    #[inline]
    #[must_use]
    pub const fn updated_partial(self, checksum: [u8; 2]) -> [u8; 2] {
        Self(self.0 + u16::from_ne_bytes(checksum) as u64)
            .fold()
            .to_ne_bytes()
    }

    /// A 16-bit number as a header carries it.
    #[inline]
    pub const fn of_u16(value: u16) -> Self {
        Self(value.to_be() as u64)
    }

    /// A 32-bit number as a header carries it.
    #[inline]
    pub const fn of_u32(value: u32) -> Self {
        Self(value.to_be() as u64)
    }

    /// The IPv4 pseudo-header of TCP and UDP (RFC 9293 section 3.1); `l4_len` is header and payload in bytes.
    #[inline]
    pub fn pseudo_v4(src: [u8; 4], dst: [u8; 4], proto: IpProtocol, l4_len: u16) -> Self {
        Self::of_address_v4(src)
            + Self::of_address_v4(dst)
            + Self::of_u16(u16::from(proto.0))
            + Self::of_u16(l4_len)
    }

    /// The IPv6 pseudo-header, RFC 8200 section 8.1; `l4_len` is header and payload in bytes.
    #[inline]
    pub fn pseudo_v6(src: [u8; 16], dst: [u8; 16], proto: IpProtocol, l4_len: u32) -> Self {
        Self::of_address_v6(src)
            + Self::of_address_v6(dst)
            + Self::of_u16(u16::from(proto.0))
            + Self::of_u32(l4_len)
    }

    /// An IPv4 address.
    #[inline]
    pub const fn of_address_v4(address: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(address) as u64)
    }

    /// An IPv6 address.
    #[inline]
    pub fn of_address_v6(address: [u8; 16]) -> Self {
        let (words, _) = address.as_chunks::<4>();
        Self(
            words
                .iter()
                .map(|word| u64::from(u32::from_ne_bytes(*word)))
                .sum(),
        )
    }

    /// Adds the sum of bytes that start `offset` bytes into the data (only its parity counts), for data in pieces.
    #[inline]
    #[must_use]
    pub fn plus_at(self, other: Self, offset: usize) -> Self {
        if offset.is_multiple_of(2) {
            self + other
        } else {
            self + Self(u64::from(other.fold().swap_bytes()))
        }
    }

    /// Folds to 16 bits in memory order; 0 only when everything summed was 0.
    #[inline]
    pub const fn fold(self) -> u16 {
        // A half added to the other, the carry coming round from below; non-zero never becomes zero.
        let sum = (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32;
        (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
    }

    /// The folded sum as a field: what a *partial* checksum holds, and 0xffff for data with a right checksum.
    #[inline]
    pub const fn folded(self) -> U16 {
        U16::from_bytes(self.fold().to_ne_bytes())
    }

    /// The checksum as a field: the complement of the folded sum.
    #[inline]
    pub const fn checksum(self) -> U16 {
        U16::from_bytes((!self.fold()).to_ne_bytes())
    }

    /// The checksum as a UDP field, where a computed zero is sent as 0xffff (RFC 768).
    #[inline]
    pub const fn udp_checksum(self) -> U16 {
        let sum = self.fold();
        U16::from_bytes(if sum == 0xffff {
            [0xff; 2]
        } else {
            (!sum).to_ne_bytes()
        })
    }

    /// True when data that includes its own checksum sums to (negative) zero.
    #[inline]
    pub const fn is_valid(self) -> bool {
        // What folds to 0xffff is a multiple of it, and not zero.
        self.multiple().wrapping_sub(1) < MULTIPLES
    }

    /// The folded sum is this field's value: as comparing with [`folded`](Self::folded), and quicker where it is not. For sums of
    /// less than 2^63.
    #[inline]
    pub const fn folds_to(self, field: [u8; 2]) -> bool {
        let field = u16::from_ne_bytes(field);
        Self(self.0.wrapping_add(!field as u64)).multiple() <= MULTIPLES && self.fold() == field
    }

    /// How many times 0xffff the sum is, at most [`MULTIPLES`]; more than that when it is no multiple. One multiplication, where
    /// folding is eight instructions.
    #[inline]
    const fn multiple(self) -> u64 {
        // By the inverse of 0xffff modulo 2^64.
        self.0.wrapping_mul(0xfffe_fffe_fffe_ffff)
    }
}

/// Multiples of 0xffff in 64 bits, but for zero.
const MULTIPLES: u64 = u64::MAX / 0xffff;
const _: () = assert!(0xfffe_fffe_fffe_ffff_u64.wrapping_mul(0xffff) == 1);

impl Add for Sum {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }
}

impl AddAssign for Sum {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// What a rewrite of header fields does to a checksum that covers them: `~old + new` of RFC 1624, equation 3.
///
/// Deltas of several fields add up, the delta of the way back is the negation. A field must lie at an even
/// offset of the data the checksum covers, as all that NAT touches do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Delta(u16);

impl Delta {
    /// Nothing changes.
    pub const ZERO: Self = Self(0);

    /// From two sums of what the checksum covers, before and after.
    #[inline]
    pub const fn between(old: Sum, new: Sum) -> Self {
        let (old, new) = (old.fold(), new.fold());
        Self(ones_add(!old, new))
    }

    /// A 16-bit field changes, in host order: a port, a length.
    #[inline]
    pub const fn of_u16(old: u16, new: u16) -> Self {
        Self::between(Sum::of_u16(old), Sum::of_u16(new))
    }

    /// A 32-bit field changes, in host order.
    #[inline]
    pub const fn of_u32(old: u32, new: u32) -> Self {
        Self::between(Sum::of_u32(old), Sum::of_u32(new))
    }

    /// A port changes.
    #[inline]
    pub const fn of_port(old: crate::Port, new: crate::Port) -> Self {
        Self::of_u16(old.get(), new.get())
    }

    /// An IPv4 address changes.
    #[inline]
    pub const fn of_ipv4(old: Ipv4Addr, new: Ipv4Addr) -> Self {
        Self::between(Sum::of_address_v4(old.octets()), Sum::of_address_v4(new.octets()))
    }

    /// An IPv6 address changes.
    #[inline]
    pub fn of_ipv6(old: Ipv6Addr, new: Ipv6Addr) -> Self {
        Self::between(Sum::of_address_v6(old.octets()), Sum::of_address_v6(new.octets()))
    }

    /// An address changes. Families may differ: all that counts are the words.
    #[inline]
    pub fn of_address(old: IpAddr, new: IpAddr) -> Self {
        let sum = |address| match address {
            IpAddr::V4(v4) => Sum::of_address_v4(Ipv4Addr::octets(&v4)),
            IpAddr::V6(v6) => Sum::of_address_v6(Ipv6Addr::octets(&v6)),
        };
        Self::between(sum(old), sum(new))
    }

    /// Even-length runs of bytes change.
    #[inline]
    pub fn of_bytes(old: &[u8], new: &[u8]) -> Self {
        Self::between(Sum::of(old), Sum::of(new))
    }

    /// Updates a full checksum: IPv4 header, TCP, ICMP. For UDP see [`Self::apply_udp`].
    #[inline]
    pub fn apply(self, checksum: &mut U16) {
        let sum = ones_add(!u16::from_ne_bytes(checksum.to_bytes()), self.0);
        *checksum = U16::from_bytes((!sum).to_ne_bytes());
    }

    /// Updates a full UDP checksum: zero means "none" and stays (RFC 768; over IPv6 only tunnels may do that,
    /// RFC 6936), and no computed checksum becomes zero.
    #[inline]
    pub fn apply_udp(self, checksum: &mut U16) {
        if checksum.to_bytes() == [0; 2] {
            return;
        }
        self.apply(checksum);
        if checksum.to_bytes() == [0; 2] {
            *checksum = U16::from_bytes([0xff; 2]);
        }
    }

    /// Updates a partial checksum, the *uncomplemented* sum of the pseudo-header: same words, opposite sign.
    ///
    /// Only what the pseudo-header covers may be in the delta: addresses, never ports.
    #[inline]
    pub fn apply_partial(self, sum: &mut U16) {
        *sum = U16::from_bytes(ones_add(u16::from_ne_bytes(sum.to_bytes()), self.0).to_ne_bytes());
    }

    /// The stored form, in this machine's memory order: for tables that live and die with the machine.
    #[inline]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// From [`Self::to_bits`].
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }
}

impl Add for Delta {
    type Output = Self;

    #[inline]
    fn add(self, other: Self) -> Self {
        Self(ones_add(self.0, other.0))
    }
}

impl AddAssign for Delta {
    #[inline]
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Neg for Delta {
    type Output = Self;

    #[inline]
    fn neg(self) -> Self {
        Self(!self.0)
    }
}

/// One's complement addition: the carry comes round.
#[inline]
const fn ones_add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 as written: 16-bit big-endian words, fold, complement.
    fn reference(bytes: &[u8]) -> u16 {
        let mut sum = 0u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_to_ddf2() {
        let sum = Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded().get(), 0xddf2);
        assert_eq!(sum.checksum().get(), !0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_does_not_give_negative_zero() {
        // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285 gives 0x0000, where RFC 1141 erred with 0xffff.
        let mut checksum = U16::new(0xdd2f);
        Delta::of_u16(0x5555, 0x3285).apply(&mut checksum);
        assert_eq!(checksum.get(), 0x0000);
    }

    proptest! {
        #[test]
        fn words_sum_as_their_bytes_do_and_change_a_checksum_so(old: [u64; 4], new: [u64; 4], ones: bool) {
            let new = if ones { [u64::MAX; 4] } else { new };
            let bytes = |words: [u64; 4]| words.map(u64::to_ne_bytes).as_flattened().to_vec();
            prop_assert_eq!(Sum::of_words(old).fold(), Sum::of(&bytes(old)).fold());
            prop_assert_eq!(Sum::of_words(new).fold(), Sum::of(&bytes(new)).fold());
            let before = Sum::of(&bytes(old)) + Sum::of_u16(1);
            let after = Sum::of(&bytes(new)) + Sum::of_u16(1);
            let updated = Sum::of_changes(old, new).updated(before.checksum().to_bytes());
            prop_assert_eq!(updated, after.checksum().to_bytes());
        }

        #[test]
        fn comparing_without_folding_says_what_folding_does(sum: u64, times in 0u64..=MULTIPLES, field: [u8; 2]) {
            for sum in [Sum(sum), Sum(times * 0xffff), Sum(times)] {
                prop_assert_eq!(sum.is_valid(), sum.fold() == 0xffff);
                // What is not folded to 64 bits must not come round.
                let sum = Sum(sum.0 >> 1);
                for field in [field, sum.fold().to_ne_bytes(), (!sum.fold()).to_ne_bytes(), [0; 2], [0xff; 2]] {
                    prop_assert_eq!(sum.folds_to(field), sum.folded() == U16::from_bytes(field));
                }
            }
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without() {
        let mut none = U16::new(0);
        Delta::of_u16(1, 2).apply_udp(&mut none);
        assert_eq!(none.get(), 0);
    }

    #[test]
    fn udp_never_becomes_zero() {
        let mut checksum = U16::new(0xdd2f);
        Delta::of_u16(0x5555, 0x3285).apply_udp(&mut checksum);
        assert_eq!(checksum.get(), 0xffff);
        // And back again from there.
        Delta::of_u16(0x3285, 0x5555).apply_udp(&mut checksum);
        assert_eq!(checksum.get(), 0xdd2f);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_rfc_1071(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::of(&bytes).checksum().get(), reference(&bytes));
        }

        #[test]
        fn the_sum_of_pieces_is_the_sum_of_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..300), cut in 0usize..300,
        ) {
            let cut = cut.min(bytes.len());
            let pieces = Sum::of(&bytes[..cut]).plus_at(Sum::of(&bytes[cut..]), cut);
            prop_assert_eq!(pieces.fold(), Sum::of(&bytes).fold());
        }

        #[test]
        fn an_incremental_update_equals_computing_again(
            mut bytes in proptest::collection::vec(any::<u8>(), 40..200),
            at in 0usize..9, old4: [u8; 4], new4: [u8; 4], old_port: u16, new_port: u16, new6: [u8; 16],
        ) {
            bytes[0] = 1; // not all zero, as with any pseudo-header
            let at = 2 + at * 2;
            bytes[at..at + 4].copy_from_slice(&old4);
            bytes[at + 4..at + 6].copy_from_slice(&old_port.to_be_bytes());
            let mut full = Sum::of(&bytes).checksum();
            let mut partial = Sum::of(&bytes).folded();
            let mut udp = Sum::of(&bytes).udp_checksum();

            let mut old6 = [0; 16];
            old6.copy_from_slice(&bytes[24..40]);
            let delta = if at + 6 <= 24 {
                bytes[24..40].copy_from_slice(&new6);
                Delta::of_ipv6(old6.into(), new6.into())
            } else { Delta::ZERO };
            let delta = delta + Delta::of_ipv4(old4.into(), new4.into()) + Delta::of_u16(old_port, new_port);
            bytes[at..at + 4].copy_from_slice(&new4);
            bytes[at + 4..at + 6].copy_from_slice(&new_port.to_be_bytes());

            delta.apply(&mut full);
            delta.apply_partial(&mut partial);
            delta.apply_udp(&mut udp);
            prop_assert_eq!(full, Sum::of(&bytes).checksum());
            prop_assert_eq!(partial, Sum::of(&bytes).folded());
            prop_assert_eq!(udp, Sum::of(&bytes).udp_checksum());

            let there = full;
            (-delta).apply(&mut full);
            delta.apply(&mut full);
            prop_assert_eq!(full, there);
            prop_assert_eq!(Delta::from_bits(delta.to_bits()), delta);
        }
    }
}
