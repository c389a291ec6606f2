//! What must hold whatever the workers do: slots are conserved, and none is handed out twice.

use std::{collections::HashSet, time::Duration};

use crate::{record::FlowRef, sync::lock, *};

type Small = Table<2, 8>;

fn table(capacity: u32, workers: usize) -> (std::sync::Arc<Small>, std::sync::Arc<Quiescence>) {
    let domain = Quiescence::new(workers);
    let config = Config {
        capacity,
        seed: 3,
        user_words: 0,
    };
    (
        Small::create(config, Memory::Anonymous, &domain).expect("there is memory"),
        domain,
    )
}

fn key(n: u64) -> [u64; 2] {
    [n, !n]
}

fn reply_key(n: u64) -> [u64; 2] {
    [!n, n ^ 0xffff]
}

/// Every slot is live, in the pool, or left behind in limbo; and in one of them only. No writer may be alive.
fn assert_conserved(table: &Small) {
    let mut seen = HashSet::new();
    let mut claim =
        |slot: u32, place: &str| assert!(seen.insert(slot), "slot {slot} twice, second in {place}");
    for slot in table.pool.slots(table) {
        claim(slot, "the pool");
        assert_eq!(
            table.records(slot)[0].state().lifecycle(),
            Lifecycle::Free,
            "slot {slot}"
        );
    }
    for &(_, slot) in lock(&table.orphans).iter() {
        claim(slot, "limbo");
    }
    let mut live = 0;
    for slot in 0..table.slots() {
        if table.records(slot)[0].state().is_stable() {
            claim(slot, "use");
            live += 1;
            for record in table.records(slot) {
                let found = table
                    .lookup(&record.key(), table.hash(&record.key()))
                    .expect("a live key is found");
                assert_eq!(found.slot(), slot);
                assert!(record.state().is_stable());
            }
        }
    }
    assert_eq!(seen.len(), table.slots() as usize, "slots were lost");
    assert_eq!(live, table.live());
}

#[test]
fn one_that_is_to_be_alone_is() {
    let (table, domain) = table(10, 2);
    let seats = [0, 1].map(|seat| domain.register(seat).unwrap());
    let refused = |take: &dyn Fn() -> Writer<2, 8>| {
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(take)).is_err());
    };
    let alone = table.sole_writer(&seats[0]);
    assert!(alone.is_alone());
    refused(&|| table.writer(&seats[1], Share::ALL));
    refused(&|| table.sole_writer(&seats[1]));
    drop(alone);
    let among_others = seats.each_ref().map(|seat| table.writer(seat, Share::ALL));
    refused(&|| table.sole_writer(&seats[0]));
    // Refused for another reason, which doesn't count as one more.
    refused(&|| table.writer(&seats[0], Share::ALL));
    refused(&|| table.writer(&seats[0], Share { index: 1, of: 1 }));
    drop(among_others);
    assert!(table.sole_writer(&seats[1]).is_alone());
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let (table, domain) = table(1000, 1);
    let mut worker = domain.register(0).unwrap();
    let mut writer = table.writer(&worker, Share::ALL);
    let flows: Vec<FlowRef> = (0..1000)
        .map(|n| writer.insert(&key(n), &reply_key(n), |_| ()).unwrap())
        .collect();
    for n in 1000..1100 {
        assert_eq!(writer.insert(&key(n), &reply_key(n), |_| ()), Err(Refused::Full));
    }
    for (n, &flow) in (0..).zip(&flows) {
        assert_eq!(table.lookup(&key(n), table.hash(&key(n))), Some(flow));
        assert_eq!(
            table.lookup(&reply_key(n), table.hash(&reply_key(n))),
            Some(flow.peer())
        );
    }
    // A limit below what is there removes nothing; room comes back with a removal under the limit.
    table.set_limit(500);
    assert_eq!(
        writer.insert(&key(2000), &reply_key(2000), |_| ()),
        Err(Refused::Full)
    );
    assert_eq!(table.live(), 1000);
    flows[..501].iter().for_each(|&flow| writer.remove(flow).unwrap());
    worker.quiescent();
    assert!(writer.insert(&key(2000), &reply_key(2000), |_| ()).is_ok());
    assert_eq!(
        writer.insert(&key(2001), &reply_key(2001), |_| ()),
        Err(Refused::Full)
    );
    assert_eq!(
        table.counters(),
        Counters {
            live: 500,
            inserts: 1001,
            removes: 501,
            refused_full: 102,
            ..Counters::default()
        }
    );
    drop(writer);
    assert_conserved(&table);
}

#[test]
fn a_slot_is_not_reused_before_every_worker_has_passed() {
    let (table, domain) = table(4, 2);
    let (mut mine, mut other) = (domain.register(0).unwrap(), domain.register(1).unwrap());
    let mut writer = table.writer(&mine, Share::ALL);
    let mut n = 0;
    let mut insert = |writer: &mut Writer<2, 8>| {
        n += 1;
        writer.insert(&key(n), &reply_key(n), |_| ())
    };
    // Removes and inserts until only slots that the other worker may still see are left.
    let mut seen = HashSet::new();
    while let Ok(flow) = insert(&mut writer) {
        assert!(seen.insert(flow.slot()), "reused under the other worker's eyes");
        writer.remove(flow).unwrap();
        mine.quiescent();
    }
    assert_eq!(seen.len(), table.slots() as usize);
    other.quiescent();
    assert!(insert(&mut writer).is_ok());
}

#[test]
fn equal_hashes_are_bounded_and_harm_no_one_else() {
    // All keys of the index's smallest shape share few buckets: after 50 in a row of five, one is refused.
    let (table, domain) = table(4000, 1);
    let worker = domain.register(0).unwrap();
    let mut writer = table.writer(&worker, Share::ALL);
    // With the secret known, keys can be aimed at one bucket; the index refuses, it does not degrade.
    let target = table.hash(&key(0)).bucket_bits() >> 23;
    let aimed: Vec<u64> = (0..1 << 22)
        .filter(|&n| table.hash(&key(n)).bucket_bits() >> 23 == target)
        .take(4000)
        .collect();
    let (mut placed, mut refused) = (Vec::new(), 0);
    for &n in &aimed {
        match writer.insert(&key(n), &reply_key(n), |_| ()) {
            Ok(flow) => placed.push((n, flow)),
            Err(Refused::Full) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0 && table.counters().refused_index == refused);
    for &(n, flow) in &placed {
        assert_eq!(table.lookup(&key(n), table.hash(&key(n))), Some(flow));
        assert_eq!(
            table.lookup(&reply_key(n), table.hash(&reply_key(n))),
            Some(flow.peer())
        );
    }
    drop(writer);
    assert_conserved(&table);
}

/// Workers install, find, rewrite and remove the same few flows as fast as they can.
#[test]
fn no_record_is_torn_and_no_slot_is_lost_under_contention() {
    const WORKERS: usize = 4;
    const KEYS: u64 = 64;
    let (table, domain) = table(128, WORKERS);
    let until = std::time::Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for index in 0..WORKERS {
            let (table, domain) = (&table, &domain);
            scope.spawn(move || {
                let mut worker = domain.register(index).unwrap();
                let mut writer = table.writer(
                    &worker,
                    Share {
                        index: index as u32,
                        of: WORKERS as u32,
                    },
                );
                let mut random = index as u64 + 1;
                let mut stamp = (index as u64) << 48;
                while std::time::Instant::now() < until {
                    for _ in 0..32 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        stamp += 1;
                        step(
                            table,
                            &mut writer,
                            (random >> 33) % KEYS,
                            (random >> 55) % 8,
                            stamp,
                        );
                    }
                    worker.quiescent();
                    writer.sweep(16, |flow| {
                        if flow.record(Direction::Original).word(0) % 64 == 0 {
                            Sweep::Remove
                        } else {
                            Sweep::Keep
                        }
                    });
                    if random >> 60 == 0 {
                        drop(worker.sleep());
                    }
                }
            });
        }
    });
    let counters = table.counters();
    assert!(
        counters.inserts > 1000 && counters.removes > 1000 && counters.redecisions > 1000,
        "{counters:?}"
    );
    assert_eq!(counters.inserts - counters.removes, counters.live);
    assert_conserved(&table);
}

/// All payload words of a direction hold one stamp, the reply's its complement.
fn step(table: &Small, writer: &mut Writer<2, 8>, n: u64, what: u64, stamp: u64) {
    let write = |both: &mut Both<'_, 2, 8>| {
        for at in 0..Small::PAYLOAD_WORDS {
            both.set_word(Direction::Original, at, stamp);
            both.set_word(Direction::Reply, at, !stamp);
        }
    };
    // Half of the inserts know the connection the other way round, as two ends that speak at once do.
    let (mut original, mut reply) = (key(n), reply_key(n));
    if what & 1 != 0 {
        std::mem::swap(&mut original, &mut reply);
    }
    let Some(flow) = table.lookup(&original, table.hash(&original)) else {
        if let Ok(flow) = writer.insert(&original, &reply, write) {
            assert_eq!(table.record(flow).key(), original);
        }
        return;
    };
    match what {
        0 | 1 => {
            let _ = writer.remove(flow);
        }
        2 | 3 => {
            let _ = writer.redecide(flow, |both| {
                let (there, back) = (both.word(Direction::Original, 0), both.word(Direction::Reply, 0));
                assert_eq!(there, !back, "both directions are decided together");
                write(both);
                if stamp.is_multiple_of(16) {
                    Decision::Remove
                } else {
                    Decision::Keep
                }
            });
        }
        4 => {
            let _ = writer.update_state(flow, |bits| Some((bits + 1) & State::USER_MAX));
        }
        _ => {
            if let Ok(entry) = table.read(flow) {
                assert_eq!(entry.key(), original, "a slot changed hands within a batch");
                assert!(
                    entry.payload().iter().all(|&word| word == entry.word(0)),
                    "torn: {entry:?}"
                );
            }
        }
    }
}
