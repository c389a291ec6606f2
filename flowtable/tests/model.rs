//! The table against a `HashMap`: whatever is done in whatever order, both hold the same connections.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used)] // a test, outside `#[test]` functions too

use std::collections::HashMap;

use flowtable::{
    Config, Decision, Direction, FlowHash, FlowRef, Memory, Quiescence, Refused, Share, Sweep, Table,
};
use proptest::prelude::*;

const CAPACITY: u32 = 24;
/// Few keys, so that they meet: a connection is two of them.
const KEYS: u64 = 40;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert { original: u64, reply: u64, value: u64 },
    Remove { key: u64 },
    Redecide { key: u64, value: u64, keep: bool },
    Update { key: u64, bits: u64 },
    Sweep { budget: u32, below: u64 },
    Quiescent,
    Limit(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let value = 0..100u64;
    prop_oneof![
        8 => (0..KEYS, 0..KEYS, value.clone())
            .prop_map(|(original, reply, value)| Step::Insert { original, reply, value }),
        3 => (0..KEYS).prop_map(|key| Step::Remove { key }),
        2 => (0..KEYS, value, prop::bool::weighted(0.8))
            .prop_map(|(key, value, keep)| Step::Redecide { key, value, keep }),
        2 => (0..KEYS, 0..=flowtable::State::USER_MAX).prop_map(|(key, bits)| Step::Update { key, bits }),
        1 => (0..200u32, 0..40u64).prop_map(|(budget, below)| Step::Sweep { budget, below }),
        3 => Just(Step::Quiescent),
        1 => (0..=CAPACITY).prop_map(Step::Limit),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Expected {
    keys: [u64; 2],
    value: u64,
    bits: u64,
    flow: FlowRef,
}

#[derive(Default)]
struct Model {
    /// By either key.
    by_key: HashMap<u64, FlowRef>,
    connections: HashMap<u32, Expected>,
}

impl Model {
    fn of(&self, key: u64) -> Option<(FlowRef, Expected)> {
        let &flow = self.by_key.get(&key)?;
        Some((flow, self.connections[&flow.slot()]))
    }

    fn remove(&mut self, slot: u32) {
        let gone = self.connections.remove(&slot).expect("removed once");
        for key in gone.keys {
            self.by_key.remove(&key);
        }
    }
}

fn run<const K: usize, const W: usize>(
    steps: &[Step],
    seed: u128,
    is_alone: bool,
) -> Result<(), TestCaseError> {
    // Sparse keys that differ in every word, in the last only, or in the first only.
    let wide = |key: u64| -> [u64; K] {
        std::array::from_fn(|at| match key % 3 {
            0 => key << at,
            1 if at + 1 == K => key,
            2 if at == 0 => key,
            _ => 7,
        })
    };
    let domain = Quiescence::new(1);
    let table = Table::<K, W>::create(
        Config {
            capacity: CAPACITY,
            seed,
            user_words: 0,
        },
        Memory::Anonymous,
        &domain,
    )
    .unwrap();
    let mut worker = domain.register(0).unwrap();
    let mut writer = if is_alone {
        table.sole_writer(&worker)
    } else {
        table.writer(&worker, Share::ALL)
    };
    let last = Table::<K, W>::PAYLOAD_WORDS - 1;
    let mut model = Model::default();
    for &step in steps {
        match step {
            Step::Insert {
                original,
                reply,
                value,
            } => {
                let keys = [&wide(original), &wide(reply)];
                let init = |both: &mut flowtable::Both<'_, K, W>| {
                    both.set_word(Direction::Original, last, value);
                    both.set_word(Direction::Reply, 0, value);
                };
                // One that is alone looks before it takes a slot, so that it may be told of a key which is there already.
                let result = if is_alone && value.is_multiple_of(2) {
                    writer.insert_missed(keys, keys.map(|key| table.hash(key)), init)
                } else {
                    writer.insert(keys[0], keys[1], init)
                };
                let expected = if let Some((flow, _)) = model.of(original) {
                    Err(Refused::Exists(flow))
                } else if let Some((flow, _)) = model.of(reply) {
                    Err(Refused::ReplyTaken(flow))
                } else if model.connections.len() >= table.limit() as usize {
                    Err(Refused::Full)
                } else {
                    Ok(())
                };
                match expected {
                    Err(Refused::Full) => prop_assert_eq!(result, Err(Refused::Full)),
                    Err(refused) => prop_assert_eq!(result, Err(refused)),
                    // All slots may be in limbo: then a table below its limit refuses too, until the batch ends.
                    Ok(()) if result == Err(Refused::Full) => {
                        let (free, limbo) = writer.held();
                        prop_assert_eq!(free, 0);
                        prop_assert!(limbo + model.connections.len() == table.slots() as usize);
                    }
                    Ok(()) => {
                        let flow = result.unwrap();
                        prop_assert_eq!(flow.direction(), Direction::Original);
                        let new = Expected {
                            keys: [original, reply],
                            value,
                            bits: 0,
                            flow,
                        };
                        prop_assert!(
                            model.connections.insert(flow.slot(), new).is_none(),
                            "slot in use"
                        );
                        model.by_key.insert(reply, flow.peer());
                        model.by_key.insert(original, flow);
                    }
                }
            }
            Step::Remove { key } => {
                if let Some((flow, _)) = model.of(key) {
                    prop_assert_eq!(writer.remove(flow), Ok(()));
                    prop_assert_eq!(writer.remove(flow.peer()), Err(flowtable::Unreadable::Gone));
                    model.remove(flow.slot());
                }
            }
            Step::Redecide { key, value, keep } => {
                if let Some((flow, old)) = model.of(key) {
                    let decision = if keep { Decision::Keep } else { Decision::Remove };
                    let result = writer.redecide(flow, |both| {
                        assert_eq!(both.word(Direction::Reply, 0), old.value);
                        assert_eq!(both.bits(Direction::Original), old.bits);
                        both.set_word(Direction::Original, last, value);
                        both.set_word(Direction::Reply, 0, value);
                        decision
                    });
                    prop_assert_eq!(result, Ok(decision));
                    if keep {
                        model.connections.get_mut(&flow.slot()).unwrap().value = value;
                    } else {
                        model.remove(flow.slot());
                    }
                }
            }
            Step::Update { key, bits } => {
                if let Some((flow, _)) = model.of(key) {
                    prop_assert_eq!(writer.update_state(flow.original(), |_| Some(bits)), Ok(bits));
                    model.connections.get_mut(&flow.slot()).unwrap().bits = bits;
                }
            }
            Step::Sweep { budget, below } => {
                let mut removed = Vec::new();
                let swept = writer.sweep(budget, |connection| {
                    if connection.record(Direction::Reply).word(0) < below {
                        removed.push(connection.flow(Direction::Original).slot());
                        Sweep::Remove
                    } else {
                        Sweep::Keep
                    }
                });
                prop_assert!(swept.visited <= budget);
                prop_assert_eq!(swept.removed as usize, removed.len());
                for slot in removed {
                    prop_assert!(model.connections[&slot].value < below);
                    model.remove(slot);
                }
            }
            Step::Quiescent => worker.quiescent(),
            Step::Limit(limit) => table.set_limit(limit),
        }
        prop_assert_eq!(table.live() as usize, model.connections.len());
    }
    // One batch over all keys, and each alone.
    let keys: Vec<_> = (0..KEYS).map(wide).collect();
    let (mut hashes, mut found) = (vec![FlowHash::default(); keys.len()], vec![None; keys.len()]);
    table.lookup_batch(&keys, &mut hashes, &mut found);
    for (key, (&hash, &found)) in (0..KEYS).zip(hashes.iter().zip(&found)) {
        let expected = model.of(key);
        prop_assert_eq!(found, expected.map(|(flow, _)| flow));
        prop_assert_eq!(found, table.lookup(&wide(key), hash));
        if let Some((flow, expected)) = expected {
            let original = table.read(flow.original()).unwrap();
            prop_assert_eq!(original.key(), wide(expected.keys[0]));
            prop_assert_eq!(
                (original.word(last), original.state().bits()),
                (expected.value, expected.bits)
            );
            prop_assert_eq!(
                table.read(flow.original().peer()).unwrap().key(),
                wide(expected.keys[1])
            );
        }
    }
    // A whole round of the hand sees every connection once.
    let mut judged = 0;
    while !writer
        .sweep(7, |_| {
            judged += 1;
            Sweep::Keep
        })
        .wrapped
    {}
    let mut again = 0;
    while !writer
        .sweep(7, |_| {
            again += 1;
            Sweep::Keep
        })
        .wrapped
    {}
    prop_assert_eq!(again, model.connections.len());
    prop_assert!(judged <= again);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn v4_flows_behave_like_a_map(steps in prop::collection::vec(step(), 1..300), seed: u128, is_alone: bool) {
        run::<2, 8>(&steps, seed, is_alone)?;
    }

    #[test]
    fn v6_flows_behave_like_a_map(steps in prop::collection::vec(step(), 1..300), seed: u128, is_alone: bool) {
        run::<5, 12>(&steps, seed, is_alone)?;
    }
}
