//! The last drops of each worker: which packet, why, and by which rule. The person on call reads it by `ringway drops`.
//!
//! One writer (the worker) and any readers, without locks: each slot is a small seqlock of plain words.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::flow::Tuple;
use crate::flow::key::{Family, V6};
use crate::port::PortId;
use crate::snapshot::RuleId;
use crate::verdict::DropReason;

/// One dropped packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecentDrop {
    /// When, in nanoseconds of the worker's clock.
    pub at_ns: u64,
    /// The port that it came from.
    pub port: PortId,
    /// Why.
    pub reason: DropReason,
    /// The rule that denied it.
    pub rule: Option<RuleId>,
    /// The packet as it was when it was dropped.
    pub tuple: Tuple,
}

const WORDS: usize = 8;
const NO_RULE: u64 = u32::MAX as u64;

#[derive(Debug)]
struct Slot {
    /// Odd while it is written; twice the count of writes otherwise.
    sequence: AtomicU64,
    words: [AtomicU64; WORDS],
}

/// The last [`RecentDrops::SLOTS`] drops of one worker.
#[derive(Debug)]
pub struct RecentDrops {
    slots: Box<[Slot]>,
    written: AtomicU64,
}

impl Default for RecentDrops {
    fn default() -> Self {
        let slot = || Slot {
            sequence: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        };
        Self {
            slots: (0..Self::SLOTS).map(|_| slot()).collect(),
            written: AtomicU64::new(0),
        }
    }
}

impl RecentDrops {
    /// How many are kept.
    pub const SLOTS: usize = 256;

    /// Remembers one. For the worker alone: two writers at once would mix their words.
    pub fn record(&self, drop: &RecentDrop) {
        // Relaxed: only this thread writes it.
        let number = self.written.load(Ordering::Relaxed);
        let slot = &self.slots[number as usize % Self::SLOTS];
        let sequence = slot.sequence.load(Ordering::Relaxed);
        slot.sequence.store(sequence + 1, Ordering::Relaxed);
        // Release: the odd sequence is visible before any word of the new record. Pairs with the Acquire fence in `read`.
        fence(Ordering::Release);
        for (to, from) in slot.words.iter().zip(encode(drop)) {
            // Relaxed: ordered by the fence above and the store below.
            to.store(from, Ordering::Relaxed);
        }
        // Release: whoever reads this even sequence reads the words above. Pairs with the load in `read`.
        slot.sequence.store(sequence + 2, Ordering::Release);
        // Release: pairs with the load in `latest`.
        self.written.store(number + 1, Ordering::Release);
    }

    /// The remembered ones, newest first. One that is overwritten meanwhile is left out.
    pub fn latest(&self) -> Vec<RecentDrop> {
        // Acquire: pairs with the store in `record`.
        let written = self.written.load(Ordering::Acquire);
        let kept = written.min(Self::SLOTS as u64);
        (written - kept..written)
            .rev()
            .filter_map(|n| self.read(n))
            .collect()
    }

    fn read(&self, number: u64) -> Option<RecentDrop> {
        let slot = &self.slots[number as usize % Self::SLOTS];
        // Acquire: pairs with the Release store of the even sequence.
        let before = slot.sequence.load(Ordering::Acquire);
        // Relaxed: checked by the sequence afterwards.
        let words = std::array::from_fn(|i| slot.words[i].load(Ordering::Relaxed));
        // Acquire: the words are read before the sequence is read again. Pairs with the Release fence in `record`.
        fence(Ordering::Acquire);
        let after = slot.sequence.load(Ordering::Relaxed);
        (before == after && before.is_multiple_of(2))
            .then(|| decode(words))
            .flatten()
    }
}

fn encode(drop: &RecentDrop) -> [u64; WORDS] {
    let tuple = &drop.tuple;
    let [a, b, c, d, ports] = V6::key(&Tuple {
        src: mapped(tuple.src),
        dst: mapped(tuple.dst),
        ..*tuple
    });
    let facts = u64::from(drop.port.0)
        | (drop.reason.index() as u64) << 16
        | u64::from(tuple.src.is_ipv4()) << 24
        | drop.rule.map_or(NO_RULE, |rule| u64::from(rule.0)) << 32;
    [drop.at_ns, facts, a, b, c, d, ports, 0]
}

fn decode(words: [u64; WORDS]) -> Option<RecentDrop> {
    let [at_ns, facts, a, b, c, d, ports, _] = words;
    let mut tuple = V6::tuple(&[a, b, c, d, ports]);
    if facts >> 24 & 1 == 1 {
        tuple.src = tuple.src.to_canonical();
        tuple.dst = tuple.dst.to_canonical();
    }
    let rule = facts >> 32;
    Some(RecentDrop {
        at_ns,
        port: PortId(facts as u16),
        reason: *DropReason::ALL.get(usize::from((facts >> 16) as u8))?,
        rule: (rule != NO_RULE).then_some(RuleId(rule as u32)),
        tuple,
    })
}

fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    /// IPv4 and IPv6 by turns.
    fn address(n: u64) -> IpAddr {
        if (n / 2).is_multiple_of(2) {
            (n as u32).to_be_bytes().into()
        } else {
            (1 << 100 | u128::from(n)).to_be_bytes().into()
        }
    }

    fn drop_number(n: u64) -> RecentDrop {
        RecentDrop {
            at_ns: n,
            port: PortId(n as u16),
            reason: DropReason::ALL[n as usize % DropReason::COUNT],
            rule: n.is_multiple_of(2).then_some(RuleId(n as u32)),
            tuple: Tuple {
                src: address(n / 4 * 4 + n / 2 % 2 * 2),
                dst: address(n / 4 * 4 + n / 2 % 2 * 2 + 1),
                sport: n as u16,
                dport: (n as u16).wrapping_add(1),
                proto: wire::IpProtocol::UDP,
                kind: crate::flow::PortsKind::Plain,
                zone: crate::flow::Zone::from_bits(n as u16),
            },
        }
    }

    #[test]
    fn the_latest_come_first_and_old_ones_go() {
        let drops = RecentDrops::default();
        for n in 0..300 {
            drops.record(&drop_number(n));
        }
        let latest = drops.latest();
        assert_eq!(latest.len(), RecentDrops::SLOTS);
        for (i, drop) in latest.iter().enumerate() {
            assert_eq!(*drop, drop_number(299 - i as u64));
        }
    }

    #[test]
    fn a_reader_never_sees_halves_of_two_drops() {
        let drops = RecentDrops::default();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000 {
                    drops.record(&drop_number(n));
                }
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                for drop in drops.latest() {
                    assert_eq!(drop, drop_number(drop.at_ns));
                }
            }
        });
    }
}
