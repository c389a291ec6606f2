use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use wire::IpProtocol;

use super::*;
use crate::io::Memory;

const S: u64 = 1_000_000_000;

fn key(source: u8, id: u16) -> FragmentKey {
    FragmentKey::v4(
        Ipv4Addr::new(10, 0, 0, source),
        Ipv4Addr::new(10, 0, 1, 1),
        id,
        IpProtocol::UDP,
        1,
    )
}

fn frame(memory: &mut Memory) -> Frame {
    memory.allocate_copy(&[0; 60]).unwrap()
}

fn notes(memory: &mut Memory, frames: &mut Vec<(Frame, u32)>) -> Vec<u32> {
    frames
        .drain(..)
        .map(|(frame, note)| {
            memory.release(frame);
            note
        })
        .collect()
}

#[test]
fn fragments_that_overtook_the_first_follow_it_in_order() {
    let mut memory = Memory::heap(8, 2048);
    let mut tracker = Tracker::<&str, u32>::new(FragmentLimits::default(), 7);
    let mut out = Vec::new();
    for note in 1..=3 {
        let frame = frame(&mut memory);
        assert!(matches!(tracker.later(&key(1, 9), frame, note, 0), Later::Held));
    }
    assert_eq!(tracker.held(), 3);
    tracker.first(&key(1, 9), "to pod 4", S, &mut out);
    assert_eq!(notes(&mut memory, &mut out), [1, 2, 3]);
    assert_eq!(tracker.held(), 0);
    let frame = frame(&mut memory);
    let Later::Follow("to pod 4", frame, 4) = tracker.later(&key(1, 9), frame, 4, 2 * S) else {
        panic!()
    };
    memory.release(frame);
    assert_eq!(memory.free_chunks(), 8);
}

#[test]
fn datagrams_differ_by_every_part_of_their_key() {
    let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let (c, d) = (Ipv6Addr::LOCALHOST, a.to_ipv6_compatible());
    let keys = [
        FragmentKey::v4(a, b, 1, IpProtocol::UDP, 1),
        FragmentKey::v4(b, a, 1, IpProtocol::UDP, 1),
        FragmentKey::v4(a, b, 2, IpProtocol::UDP, 1),
        FragmentKey::v4(a, b, 1, IpProtocol::TCP, 1),
        FragmentKey::v4(a, b, 1, IpProtocol::UDP, 2),
        FragmentKey::v4(a, b, 1, IpProtocol(0), 1),
        FragmentKey::v6(d, b.to_ipv6_compatible(), 1, 1),
        FragmentKey::v6(c, d, 1, 1),
        FragmentKey::v6(c, d, 1 << 16 | 1, 1),
    ];
    let mut memory = Memory::heap(2, 2048);
    let mut tracker = Tracker::<usize, ()>::new(FragmentLimits::default(), 7);
    for (index, key) in keys.iter().enumerate() {
        tracker.first(key, index, 0, &mut Vec::new());
    }
    for (index, key) in keys.iter().enumerate() {
        let frame = frame(&mut memory);
        let Later::Follow(found, frame, ()) = tracker.later(key, frame, (), 1) else {
            panic!()
        };
        assert_eq!(found, index);
        memory.release(frame);
    }
}

#[test]
fn a_fragment_waits_thirty_seconds_for_its_first() {
    let mut memory = Memory::heap(8, 2048);
    let mut tracker = Tracker::<(), u32>::new(FragmentLimits::default(), 7);
    let mut out = Vec::new();
    for note in 0..3 {
        let frame = frame(&mut memory);
        assert!(matches!(
            tracker.later(&key(1, note as u16), frame, note, S),
            Later::Held
        ));
    }
    assert_eq!(tracker.next_deadline_ns(), Some(31 * S));
    assert_eq!(tracker.expire(31 * S - 1, 10, &mut out), 0);
    assert_eq!(
        tracker.expire(31 * S, 2, &mut out),
        2,
        "the budget bounds the work"
    );
    assert_eq!(tracker.expire(31 * S, 2, &mut out), 1);
    assert_eq!(notes(&mut memory, &mut out), [0, 1, 2]);
    assert_eq!(tracker.next_deadline_ns(), None);
}

#[test]
fn an_outcome_is_forgotten_after_thirty_seconds() {
    let mut memory = Memory::heap(8, 2048);
    let mut tracker = Tracker::<(), u32>::new(FragmentLimits::default(), 7);
    tracker.first(&key(1, 1), (), 0, &mut Vec::new());
    let late = frame(&mut memory);
    assert!(matches!(tracker.later(&key(1, 1), late, 0, 30 * S), Later::Held));
    assert_eq!(tracker.next_deadline_ns(), Some(60 * S));
}

#[test]
fn a_flooding_source_leaves_room_for_others() {
    let limits = FragmentLimits {
        datagrams_max: 16,
        datagrams_per_source_max: 4,
        held_max: 8,
        held_per_source_max: 4,
        held_per_datagram_max: 2,
        ..FragmentLimits::default()
    };
    let mut memory = Memory::heap(64, 2048);
    let mut tracker = Tracker::<u32, u32>::new(limits, 7);
    let mut held = [0; 3];
    for (source, held) in held.iter_mut().enumerate() {
        for id in 0..10 {
            let frame = frame(&mut memory);
            match tracker.later(&key(source as u8, id), frame, 0, 0) {
                Later::Held => *held += 1,
                Later::Refused(frame, _) => memory.release(frame),
                Later::Follow(..) => panic!("no first fragment came"),
            }
        }
    }
    assert_eq!(held, [4, 4, 0], "a quota each, then the total");
    let of_one = frame(&mut memory);
    let Later::Refused(of_one, _) = tracker.later(&key(0, 0), of_one, 0, 0) else {
        panic!()
    };
    memory.release(of_one);

    // Outcomes of a source push out its own, oldest first.
    tracker.first(&key(9, 100), 100, 0, &mut Vec::new());
    for id in 0..50 {
        tracker.first(&key(8, id), u32::from(id), 0, &mut Vec::new());
    }
    let frame = frame(&mut memory);
    let Later::Follow(100, frame, _) = tracker.later(&key(9, 100), frame, 0, 1) else {
        panic!()
    };
    let Later::Follow(49, frame, _) = tracker.later(&key(8, 49), frame, 0, 1) else {
        panic!()
    };
    memory.release(frame);
}

#[test]
fn a_first_fragment_seen_by_another_worker_releases_what_waits_here() {
    let mut memory = Memory::heap(8, 2048);
    let mut tracker = Tracker::<u8, u32>::new(FragmentLimits::default(), 7);
    let mut out = Vec::new();
    for id in 0..3 {
        let frame = frame(&mut memory);
        assert!(matches!(
            tracker.later(&key(1, id), frame, u32::from(id), 0),
            Later::Held
        ));
    }
    assert_eq!(tracker.next_waiting(0), None, "nothing was posted");
    assert_eq!(tracker.next_waiting(1), Some(key(1, 0)));
    assert_eq!(tracker.next_waiting(2), Some(key(1, 1)));
    tracker.first(&key(1, 1), 5, S, &mut out);
    assert_eq!(notes(&mut memory, &mut out), [1]);
    assert_eq!(tracker.held(), 2);
    assert!(tracker.is_decided(&key(1, 1), S) && !tracker.is_decided(&key(1, 2), S));
    assert!(!tracker.is_decided(&key(1, 1), 31 * S), "forgotten");

    // The one that is to be told next goes away meanwhile; what comes last is told too.
    let late = frame(&mut memory);
    assert!(matches!(tracker.later(&key(1, 9), late, 9, S), Later::Held));
    tracker.first(&key(1, 2), 6, S, &mut out);
    assert_eq!(notes(&mut memory, &mut out), [2]);
    assert_eq!(tracker.next_waiting(2), Some(key(1, 9)));
    // It had moved before the first round was over: another round.
    assert_eq!(tracker.next_waiting(2), Some(key(1, 0)));
    assert_eq!(tracker.next_waiting(2), Some(key(1, 9)));
    assert_eq!(tracker.next_waiting(2), None);
}

/// What the tracker promises, written down without slabs: a list of datagrams in order of age.
#[derive(Default)]
struct Model {
    datagrams: Vec<(FragmentKey, Option<u32>, u64, Vec<u32>)>,
}

impl Model {
    fn remove_oldest(&mut self, of: impl Fn(&FragmentKey) -> bool) {
        let at = self
            .datagrams
            .iter()
            .position(|d| d.1.is_some() && of(&d.0))
            .unwrap();
        self.datagrams.remove(at);
    }

    fn first(&mut self, limits: &FragmentLimits, key: FragmentKey, outcome: u32, now: u64) -> Vec<u32> {
        let found = self.datagrams.iter().position(|d| d.0 == key);
        let released = found.map_or(Vec::new(), |at| self.datagrams.remove(at).3);
        if found.is_none() {
            let same = |k: &FragmentKey| k.source == key.source;
            let of_source = self
                .datagrams
                .iter()
                .filter(|d| d.1.is_some() && same(&d.0))
                .count();
            if of_source >= limits.datagrams_per_source_max as usize {
                self.remove_oldest(same);
            } else if self.datagrams.len() == limits.datagrams_max as usize {
                self.remove_oldest(|_| true);
            }
        }
        self.datagrams
            .push((key, Some(outcome), now + limits.timeout_ns, Vec::new()));
        released
    }

    fn later(
        &mut self,
        limits: &FragmentLimits,
        key: FragmentKey,
        note: u32,
        now: u64,
    ) -> Result<Option<u32>, ()> {
        self.datagrams
            .retain(|d| d.0 != key || d.1.is_none() || d.2 > now);
        let held: usize = self.datagrams.iter().map(|d| d.3.len()).sum();
        let of_source = |d: &&(FragmentKey, Option<u32>, u64, Vec<u32>)| d.0.source == key.source;
        let held_of_source: usize = self.datagrams.iter().filter(of_source).map(|d| d.3.len()).sum();
        let waiting = self.datagrams.iter().filter(|d| d.1.is_none()).count();
        let waiting_of_source = self
            .datagrams
            .iter()
            .filter(of_source)
            .filter(|d| d.1.is_none())
            .count();
        let found = self.datagrams.iter_mut().find(|d| d.0 == key);
        if let Some((_, Some(outcome), ..)) = found {
            return Ok(Some(*outcome));
        }
        if held >= limits.held_max as usize || held_of_source >= limits.held_per_source_max as usize {
            return Err(());
        }
        if let Some((.., notes)) = found {
            if notes.len() >= limits.held_per_datagram_max as usize {
                return Err(());
            }
            notes.push(note);
            return Ok(None);
        }
        if waiting >= limits.datagrams_max as usize / 2
            || waiting_of_source >= limits.datagrams_per_source_max as usize
        {
            return Err(());
        }
        if self.datagrams.len() == limits.datagrams_max as usize {
            self.remove_oldest(|_| true);
        }
        self.datagrams
            .push((key, None, now + limits.timeout_ns, vec![note]));
        Ok(None)
    }

    fn expire(&mut self, now: u64) -> Vec<u32> {
        let mut expired = Vec::new();
        self.datagrams.retain(|d| {
            let due = d.2 <= now;
            if due {
                expired.extend(&d.3);
            }
            !due
        });
        expired
    }
}

proptest! {
    #[test]
    fn the_tracker_does_what_the_model_says(
        steps in proptest::collection::vec((0u8..8, 0u8..4, 0u16..5, 0u64..12), 1..400), seed: u64,
    ) {
        let limits = FragmentLimits {
            datagrams_max: 8, datagrams_per_source_max: 3,
            held_max: 7, held_per_source_max: 4, held_per_datagram_max: 3, timeout_ns: 30 * S,
        };
        let mut memory = Memory::heap(16, 1024);
        let mut tracker = Tracker::<u32, u32>::new(limits, seed);
        let mut model = Model::default();
        let (mut now, mut out) = (0, Vec::new());
        for (step, (what, source, id, wait)) in steps.into_iter().enumerate() {
            let key = key(source, id);
            let note = step as u32;
            match what {
                0 | 1 => {
                    tracker.first(&key, note, now, &mut out);
                    prop_assert_eq!(notes(&mut memory, &mut out), model.first(&limits, key, note, now));
                }
                2 => {
                    now += wait * S;
                    while tracker.expire(now, 2, &mut out) == 2 {}
                    prop_assert_eq!(notes(&mut memory, &mut out), model.expire(now));
                }
                3 => {
                    let told: Vec<_> = std::iter::from_fn(|| tracker.next_waiting(step as u64 + 1)).collect();
                    let waiting = model.datagrams.iter().filter(|d| d.1.is_none()).map(|d| d.0);
                    prop_assert_eq!(told, waiting.collect::<Vec<_>>());
                }
                _ => {
                    let frame = frame(&mut memory);
                    let said = match tracker.later(&key, frame, note, now) {
                        Later::Follow(outcome, frame, _) => { memory.release(frame); Ok(Some(outcome)) }
                        Later::Held => Ok(None),
                        Later::Refused(frame, _) => { memory.release(frame); Err(()) }
                    };
                    prop_assert_eq!(said, model.later(&limits, key, note, now));
                }
            }
            prop_assert_eq!(memory.free_chunks() + tracker.held(), 16, "a frame leaked");
        }
        now += 100 * S;
        while tracker.expire(now, 3, &mut out) == 3 {}
        prop_assert_eq!(notes(&mut memory, &mut out), model.expire(now));
        prop_assert_eq!(memory.free_chunks(), 16);
        prop_assert_eq!(tracker.free_sources.len(), 8, "a source leaked");
        prop_assert_eq!(tracker.free_datagrams.len(), 8);
    }
}
