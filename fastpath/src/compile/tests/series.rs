//! Any series of deltas equals compiling the final state, and every answer that changed had its shard bumped.

use contract::merge;
use contract::proto;
use contract::valid::{ValidDelta, ValidState};

use super::compiled;
use super::fixture::{cluster, underlay};
use super::flows::check_bumps;
use super::life::{delta, later, step};
use super::observed::{check_indexes, check_links, equal};
use super::random::Random;
use crate::compile::{apply, apply_underlay, replace};

const SEEDS: u64 = 150;
const STEPS: u64 = 8;

#[test]
fn a_series_of_deltas_equals_compiling_the_final_state() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut state = cluster();
        state.ports.push(proto::Port {
            name: "uplink1".into(),
            kind: proto::PortKind::Uplink as i32,
            ..Default::default()
        });
        (state.ports, state.policies) = (
            state.ports.into_iter().filter(|p| p.kind != 1).collect(),
            Vec::new(),
        );
        let mut under = underlay();
        let mut snapshot = compiled(&state, &under);
        for _ in 0..STEPS {
            if random.chance(30) {
                under = later(&mut random);
                let after = apply_underlay(&snapshot, &under).unwrap();
                check_bumps(&snapshot, &after.snapshot, &after.bumps, seed);
                check_indexes(&snapshot, &after.snapshot, seed);
                check_links(&snapshot, &after.snapshot, seed);
                snapshot = after.snapshot;
            } else {
                let mut next = state.clone();
                step(&mut random, &mut next);
                next.version += 1;
                let after = if random.chance(15) {
                    replace(&snapshot, &ValidState::try_from(next.clone()).unwrap()).unwrap()
                } else {
                    let delta = delta(&mut random, &state, &next);
                    let mut expected = next.clone();
                    merge::sort(&mut expected);
                    assert_eq!(
                        merge::apply(&state, &delta).unwrap(),
                        expected,
                        "seed {seed}: the reference agrees"
                    );
                    apply(&snapshot, &ValidDelta::try_from(delta).unwrap())
                        .unwrap_or_else(|error| panic!("seed {seed}: {error}"))
                };
                check_bumps(&snapshot, &after.snapshot, &after.bumps, seed);
                check_indexes(&snapshot, &after.snapshot, seed);
                check_links(&snapshot, &after.snapshot, seed);
                (snapshot, state) = (after.snapshot, next);
            }
            equal(&snapshot, &state, &under, seed);
        }
    }
}
