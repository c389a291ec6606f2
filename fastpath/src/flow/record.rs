//! What a record holds beside its key: names for the bits and words (docs/decisions/0006-flow-record.md).
//!
//! Words fall in two kinds. *Decided* ones (addresses, ports and rule, stamp) are written by install and re-decision alone,
//! under the table's exclusion. *Running* ones (last seen and packets, bytes and sequence) are written by every packet with
//! plain stores: an update lost to another worker is harmless.

use flowtable::{Both, Direction, Record, State};
use wire::Port;

use super::Tuple;
use super::key::{Family, V4, V6, addresses_v4};
use crate::conntrack::ConnState;
use crate::generations::Stamp;
use crate::snapshot::{AdjacencyId, RuleId};

/// Where the payload words of a family's records are.
pub trait Layout: Family {
    /// New source and destination port (2 bytes each, as on the wire), rule (24 bits), 8 bits spare. Decided.
    const PORTS: usize;
    /// [`Stamp`]. Decided.
    const STAMP: usize;
    /// When last seen (32 bits of milliseconds), packets (32). Running.
    const SEEN: usize;
    /// Bytes (40 bits), TCP sequence number after the last segment, upper 24 bits. Running.
    const BYTES: usize;
    /// IPv4: new source and destination address. IPv6 has no such word: the peer's key, reversed, says the same.
    const ADDRESSES: Option<usize>;

    /// Writes the decided words of the direction that rewrites to `to`.
    fn write_rewrite<const K: usize, const W: usize>(
        both: &mut Both<'_, K, W>,
        direction: Direction,
        to: &Tuple,
        rule: Option<RuleId>,
    ) {
        let ([a, b], [c, d]) = (Port::new(to.sport).to_wire(), Port::new(to.dport).to_wire());
        both.set_word(direction, Self::PORTS, PortsWord::new([a, b, c, d], rule).0);
        if let (Some(at), std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) =
            (Self::ADDRESSES, to.src, to.dst)
        {
            both.set_word(direction, at, addresses_v4(src.octets(), dst.octets()));
        }
    }
}

impl Layout for V4 {
    const PORTS: usize = 1;
    const STAMP: usize = 2;
    const SEEN: usize = 3;
    const BYTES: usize = 4;
    const ADDRESSES: Option<usize> = Some(0);
}

impl Layout for V6 {
    const PORTS: usize = 0;
    const STAMP: usize = 1;
    const SEEN: usize = 2;
    const BYTES: usize = 3;
    const ADDRESSES: Option<usize> = None;
}

/// The rule number of a flow that no rule decided.
const NO_RULE: u32 = 0x00ff_ffff;

/// The word of ports and rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortsWord(pub u64);

impl PortsWord {
    /// From its parts, the ports as they lie in a header.
    #[inline]
    pub(crate) fn new(ports: [u8; 4], rule: Option<RuleId>) -> Self {
        let rule = rule.map_or(NO_RULE, |rule| rule.0 & NO_RULE);
        Self(u64::from(u32::from_le_bytes(ports)) | u64::from(rule) << 32)
    }

    /// New source and destination port.
    #[inline]
    pub fn ports(self) -> (Port, Port) {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        (Port::from_wire([a, b]), Port::from_wire([c, d]))
    }

    /// The same, as they lie in a header.
    #[inline]
    pub fn wire(self) -> [u8; 4] {
        let [a, b, c, d, ..] = self.0.to_le_bytes();
        [a, b, c, d]
    }

    /// The rule that decided.
    #[inline]
    pub fn rule(self) -> Option<RuleId> {
        let rule = (self.0 >> 32) as u32 & NO_RULE;
        (rule != NO_RULE).then_some(RuleId(rule))
    }
}

/// The word of last seen and packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenWord(pub u64);

impl SeenWord {
    /// From its parts.
    pub const fn new(last_seen_ms: u32, packets: u32) -> Self {
        Self(last_seen_ms as u64 | (packets as u64) << 32)
    }

    /// When, in wrapping milliseconds.
    #[inline]
    pub const fn last_seen_ms(self) -> u32 {
        self.0 as u32
    }

    /// How many; stays at the largest.
    #[inline]
    pub const fn packets(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// One more packet, now.
    #[inline]
    #[must_use]
    pub const fn touched(self, now_ms: u32) -> Self {
        Self::new(now_ms, self.packets().saturating_add(1))
    }
}

/// The word of bytes and sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesWord(pub u64);

impl BytesWord {
    const BYTES_BITS: u32 = 40;
    const BYTES_MASK: u64 = (1 << Self::BYTES_BITS) - 1;

    /// From its parts; `sequence` is the one after the segment.
    pub const fn new(bytes: u64, sequence: u32) -> Self {
        Self(bytes & Self::BYTES_MASK | ((sequence >> 8) as u64) << Self::BYTES_BITS)
    }

    /// IP bytes so far, modulo 2^40.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.0 & Self::BYTES_MASK
    }

    /// `len` more bytes; the sequence stays.
    #[inline]
    #[must_use]
    pub const fn plus(self, len: u32) -> Self {
        // With the bytes uppermost, so that what comes over the top is gone.
        const UP: u32 = u64::BITS - BytesWord::BYTES_BITS;
        let sum = self.0.rotate_left(UP).wrapping_add((len as u64) << UP);
        Self(sum.rotate_right(UP))
    }

    /// The same with the sequence number after a segment.
    #[inline]
    #[must_use]
    pub const fn with_sequence(self, sequence: u32) -> Self {
        Self::new(self.bytes(), sequence)
    }

    /// How far `sequence` is ahead of the last one seen, in steps of 256; negative: behind.
    #[inline]
    pub const fn ahead(self, sequence: u32) -> i32 {
        let last = (self.0 >> Self::BYTES_BITS) as u32;
        // 24-bit difference, sign extended.
        ((sequence >> 8).wrapping_sub(last) << 8).cast_signed() >> 8
    }
}

/// The user's 44 bits of a record's state word.
///
/// | bits | field |
/// | --- | --- |
/// | 0..16 | adjacency that this direction leaves by; 0xffff: looked up when needed |
/// | 16..32 | half of the creation time in ms: low half in the original's record, high half in the reply's |
/// | 32..36 | [`ConnState`], the same in both records |
/// | 36 | headers are rewritten |
/// | 37 | denied: the rule of the record says by what |
/// | 38 | to this node's kernel, unchanged, instead of an adjacency |
/// | 39 | the other side has answered |
/// | 40 | not a flow: the backend that a client had |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits(pub u64);

impl Bits {
    /// Headers are rewritten.
    pub const REWRITE: u64 = 1 << 36;
    /// Policy denies the flow.
    pub const DENIED: u64 = 1 << 37;
    /// To this node's kernel.
    pub const PUNT: u64 = 1 << 38;
    /// The other side has answered.
    pub const ANSWERED: u64 = 1 << 39;
    /// Not a flow: the backend that a client had; it lasts as many milliseconds as the word of bytes says.
    pub const AFFINITY: u64 = 1 << 40;
    const STATE_SHIFT: u32 = 32;
    const STATE_MASK: u64 = 0xf << Self::STATE_SHIFT;
    const NO_ADJACENCY: u16 = 0xffff;

    /// Of a direction that leaves by `adjacency`, with `flags` of the above.
    pub const fn new(
        adjacency: Option<AdjacencyId>,
        created_half: u16,
        state: ConnState,
        flags: u64,
    ) -> Self {
        let adjacency = match adjacency {
            Some(id) => id.0,
            None => Self::NO_ADJACENCY,
        };
        Self(adjacency as u64 | (created_half as u64) << 16 | (state as u64) << Self::STATE_SHIFT | flags)
    }

    /// Which adjacency it leaves by; `None`: to be looked up.
    #[inline]
    pub const fn adjacency(self) -> Option<AdjacencyId> {
        match self.0 as u16 {
            Self::NO_ADJACENCY => None,
            id => Some(AdjacencyId(id)),
        }
    }

    /// The same as it is kept; for one that is to be looked up a number that is no adjacency's.
    #[inline]
    pub(crate) const fn leaves_by(self) -> AdjacencyId {
        AdjacencyId(self.0 as u16)
    }

    /// This record's half of the creation time.
    pub const fn created_half(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// State of the connection.
    #[inline]
    pub const fn state(self) -> ConnState {
        ConnState::from_bits((self.0 >> Self::STATE_SHIFT) as u8)
    }

    /// The same in another state.
    #[inline]
    #[must_use]
    pub const fn with_state(self, state: ConnState) -> Self {
        Self(self.0 & !Self::STATE_MASK | (state as u64) << Self::STATE_SHIFT)
    }

    /// What a flow has to be whose packets are just sent on: the state that [`steady`](Self::steady) says, answered, neither
    /// denied nor the kernel's.
    pub(crate) const STEADY: u64 =
        Self::STATE_MASK | Self::DENIED | Self::PUNT | Self::ANSWERED | Self::AFFINITY;

    /// The value of these bits in `state`.
    #[inline]
    pub(crate) const fn steady(state: ConnState) -> u64 {
        (state as u64) << Self::STATE_SHIFT | Self::ANSWERED
    }

    /// True when all of `flags` are set.
    #[inline]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }
}

const _: () = assert!(Bits::AFFINITY < 1 << State::USER_BITS);

/// When the connection was made, from the halves in its two records.
pub fn created_ms<const K: usize, const W: usize>(
    original: Record<'_, K, W>,
    reply: Record<'_, K, W>,
) -> u32 {
    let half = |record: Record<'_, K, W>| u32::from(Bits(record.state().bits()).created_half());
    half(original) | half(reply) << 16
}

/// The stamp of a record.
#[inline]
pub fn stamp<L: Layout, const K: usize, const W: usize>(copy: &flowtable::Snapshot<K, W>) -> Stamp {
    Stamp(copy.word(L::STAMP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_words_do_not_disturb_each_other() {
        let bits = Bits::new(
            Some(AdjacencyId(7)),
            0xabcd,
            ConnState::UdpStream,
            Bits::DENIED | Bits::ANSWERED,
        );
        assert_eq!(
            (bits.adjacency(), bits.created_half(), bits.state()),
            (Some(AdjacencyId(7)), 0xabcd, ConnState::UdpStream)
        );
        assert!(bits.has(Bits::DENIED) && bits.has(Bits::ANSWERED) && !bits.has(Bits::PUNT));
        let closed = bits.with_state(ConnState::TcpReset);
        assert_eq!(
            (closed.state(), closed.created_half()),
            (ConnState::TcpReset, 0xabcd)
        );
        assert_eq!(Bits::new(None, 0, ConnState::Other, 0).adjacency(), None);

        let seen = SeenWord::new(u32::MAX, 1).touched(3);
        assert_eq!((seen.last_seen_ms(), seen.packets()), (3, 2));
        assert_eq!(SeenWord::new(0, u32::MAX).touched(1).packets(), u32::MAX);
    }

    #[test]
    fn bytes_come_round_without_touching_the_sequence() {
        let word = BytesWord::new((1 << 40) - 1, 0xffff_ff00).plus(2);
        assert_eq!((word.bytes(), word.ahead(0xffff_ff00)), (1, 0));
        assert_eq!(word.ahead(0x0000_0100), 2);
        assert_eq!(word.ahead(0xffff_fe00), -1);
    }
}
