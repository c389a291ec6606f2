//! Every interleaving of a few small scenarios, within a bound on preemptions. See README.md for the command.

use loom::{sync::atomic::AtomicU64 as Cell, thread};

use crate::{
    sync::{AcqRel, Acquire, Arc, Relaxed, Release},
    *,
};

type Tiny = Table<1, 4>;

/// `capacity` is for the whole model; loom counts every atomic of the region.
fn table(capacity: u32) -> (Arc<Tiny>, Arc<Quiescence>) {
    let domain = Quiescence::new(2);
    let config = Config {
        capacity,
        seed: 1,
        user_words: 0,
    };
    (Tiny::create(config, Memory::Anonymous, &domain).unwrap(), domain)
}

fn model(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(scenario);
}

fn stamp_all(both: &mut Both<'_, 1, 4>, stamp: u64) {
    for direction in [Direction::Original, Direction::Reply] {
        both.set_words(direction, &[stamp, stamp]);
        both.set_bits(direction, stamp);
    }
}

fn find(table: &Tiny, key: u64) -> Option<FlowRef> {
    table.lookup(&[key], table.hash(&[key]))
}

#[test]
fn a_reader_sees_all_of_a_rewrite_or_nothing() {
    model(3, || {
        let (table, domain) = table(1);
        let worker = domain.register(0).unwrap();
        let mut writer = table.writer(&worker, Share::ALL);
        let flow = writer.insert(&[1], &[2], |both| stamp_all(both, 5)).unwrap();
        let reader = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                for flow in [flow.peer(), flow] {
                    match table.read(flow) {
                        Ok(entry) => {
                            assert_eq!(entry.word(0), entry.word(1));
                            assert_eq!(entry.word(0), entry.state().bits());
                        }
                        Err(error) => assert_eq!(error, Unreadable::Busy),
                    }
                }
            }
        });
        writer
            .redecide(flow, |both| {
                stamp_all(both, 6);
                Decision::Keep
            })
            .unwrap();
        reader.join().unwrap();
        assert_eq!(table.read(flow).unwrap().word(1), 6);
    });
}

/// A sole writer stores where others compare and exchange: who reads beside it sees all of a connection or nothing.
#[test]
fn a_reader_beside_a_sole_writer_sees_all_of_a_connection_or_nothing() {
    model(3, || {
        let (table, domain) = table(2);
        let mut worker = domain.register(0).unwrap();
        let mut writer = table.sole_writer(&worker);
        let reader = thread::spawn({
            let (table, domain) = (Arc::clone(&table), Arc::clone(&domain));
            move || {
                let _awake = domain.register(1).unwrap();
                for key in [2, 1] {
                    let Some(flow) = find(&table, key) else { continue };
                    if let Ok(entry) = table.read(flow) {
                        assert_eq!(entry.key(), [key]);
                        assert_eq!(entry.word(0), entry.word(1));
                        assert_eq!(entry.word(0), entry.state().bits());
                    }
                }
            }
        });
        let first = writer.insert(&[1], &[3], |both| stamp_all(both, 5)).unwrap();
        writer.remove(first).unwrap();
        worker.quiescent();
        let second = writer.insert(&[2], &[1], |both| stamp_all(both, 6)).unwrap();
        reader.join().unwrap();
        assert_eq!(
            [1, 2, 3].map(|key| find(&table, key)),
            [Some(second.peer()), Some(second), None]
        );
    });
}

#[test]
fn two_that_decide_again_take_turns() {
    model(3, || {
        let (table, domain) = table(1);
        let worker = domain.register(0).unwrap();
        let mut writer = table.writer(&worker, Share::ALL);
        let flow = writer.insert(&[1], &[2], |both| stamp_all(both, 5)).unwrap();
        fn bump(writer: &mut Writer<1, 4>, flow: FlowRef) -> u64 {
            let result = writer.redecide(flow, |both| {
                let stamp = both.word(Direction::Reply, 1);
                assert_eq!(both.word(Direction::Original, 0), stamp);
                stamp_all(both, stamp + 1);
                Decision::Keep
            });
            u64::from(result.is_ok())
        }
        let other = thread::spawn({
            let (table, domain) = (Arc::clone(&table), Arc::clone(&domain));
            move || {
                let worker = domain.register(1).unwrap();
                bump(&mut table.writer(&worker, Share::ALL), flow)
            }
        });
        let mine = bump(&mut writer, flow);
        let total = mine + other.join().unwrap();
        assert!(total >= 1);
        assert_eq!(table.read(flow).unwrap().word(0), 5 + total);
    });
}

/// The reply's state follows the original's: who is between the two finds the bits all the same.
#[test]
fn a_flow_is_decided_again_from_the_bits_of_its_installer() {
    model(3, || {
        let (table, domain) = table(1);
        let worker = domain.register(0).unwrap();
        let mut writer = table.writer(&worker, Share::ALL);
        let other = thread::spawn({
            let (table, domain) = (Arc::clone(&table), Arc::clone(&domain));
            move || {
                let worker = domain.register(1).unwrap();
                let mut writer = table.writer(&worker, Share::ALL);
                let Some(flow) = find(&table, 1) else { return };
                let _ = writer.redecide(flow, |both| {
                    assert_eq!(
                        [Direction::Original, Direction::Reply].map(|d| both.bits(d)),
                        [5, 5]
                    );
                    Decision::Keep
                });
            }
        });
        let flow = writer.insert(&[1], &[2], |both| stamp_all(both, 5)).unwrap();
        other.join().unwrap();
        for flow in [flow, flow.peer()] {
            assert_eq!(table.read(flow).unwrap().state().bits(), 5);
        }
    });
}

#[test]
fn a_connection_is_removed_once() {
    model(3, || {
        let (table, domain) = table(1);
        let worker = domain.register(0).unwrap();
        let mut writer = table.writer(&worker, Share::ALL);
        let flow = writer.insert(&[1], &[2], |_| ()).unwrap();
        let other = thread::spawn({
            let (table, domain) = (Arc::clone(&table), Arc::clone(&domain));
            move || {
                let worker = domain.register(1).unwrap();
                table.writer(&worker, Share::ALL).remove(flow.peer())
            }
        });
        let outcomes = [writer.remove(flow), other.join().unwrap()];
        assert!(
            outcomes.contains(&Ok(())) && outcomes.contains(&Err(Unreadable::Gone)),
            "{outcomes:?}"
        );
        assert_eq!((find(&table, 1), find(&table, 2), table.live()), (None, None, 0));
    });
}

/// Installs two connections at once and gives what each worker was told. Three lanes of the bucket of `crowded` are
/// taken, so that two more of its keys end up in different words of it.
fn race(
    mine: [u64; 2],
    others: [u64; 2],
    crowded: Option<u64>,
) -> (Arc<Tiny>, [Result<FlowRef, Refused>; 2]) {
    let (table, domain) = table(2);
    for _ in 0..3 {
        // The last slot stays free, and its key is nobody's.
        crowded.inspect(|&key| {
            let nobody = 2 * table.slots() - 1;
            assert!(table.index().place(table.hash(&[key]), nobody, false));
        });
    }
    let worker = domain.register(0).unwrap();
    let mut writer = table.writer(&worker, Share::ALL);
    let other = thread::spawn({
        let (table, domain) = (Arc::clone(&table), Arc::clone(&domain));
        move || {
            let worker = domain.register(1).unwrap();
            let mut writer = table.writer(&worker, Share::ALL);
            writer.insert(&[others[0]], &[others[1]], |both| stamp_all(both, 2))
        }
    });
    let first = writer.insert(&[mine[0]], &[mine[1]], |both| stamp_all(both, 1));
    let second = other.join().unwrap();
    (table, [first, second])
}

#[test]
fn of_two_that_want_one_reply_key_one_gets_it() {
    model(3, || {
        // As two workers that choose one SNAT port for two clients.
        let (table, outcomes) = race([1, 9], [2, 9], None);
        let (winner, loser) = match outcomes {
            [Ok(winner), Err(refused)] | [Err(refused), Ok(winner)] => (winner, refused),
            _ => panic!("not exactly one won: {outcomes:?}"),
        };
        assert_eq!(loser, Refused::ReplyTaken(winner.peer()));
        assert_eq!(find(&table, 9), Some(winner.peer()));
        assert_eq!(
            [find(&table, 1), find(&table, 2)]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>(),
            [winner]
        );
        assert_eq!(table.live(), 1);
    });
}

/// Here the two write no common word, so only the fence between placing and looking keeps both from winning.
#[test]
fn of_two_in_different_words_of_a_bucket_one_wins() {
    model(2, || {
        let (table, outcomes) = race([1, 9], [2, 9], Some(9));
        assert_eq!(
            outcomes.iter().filter(|outcome| outcome.is_ok()).count(),
            1,
            "{outcomes:?}"
        );
        assert_eq!(table.live(), 1);
    });
}

#[test]
fn of_two_that_install_one_flow_one_wins() {
    model(3, || {
        let (table, outcomes) = race([1, 2], [1, 2], None);
        let (winner, loser) = match outcomes {
            [Ok(winner), Err(refused)] | [Err(refused), Ok(winner)] => (winner, refused),
            _ => panic!("not exactly one won: {outcomes:?}"),
        };
        assert_eq!(loser, Refused::Exists(winner));
        assert_eq!(
            (find(&table, 1), find(&table, 2)),
            (Some(winner), Some(winner.peer()))
        );
    });
}

#[test]
fn of_two_ends_that_speak_at_once_one_is_the_original() {
    model(3, || {
        let (table, outcomes) = race([1, 2], [2, 1], None);
        let (winner, loser) = match outcomes {
            [Ok(winner), Err(refused)] | [Err(refused), Ok(winner)] => (winner, refused),
            _ => panic!("not exactly one won: {outcomes:?}"),
        };
        assert_eq!(loser, Refused::Exists(winner.peer()));
        assert_eq!(table.live(), 1);
    });
}

#[test]
fn what_is_retired_is_not_reused_while_a_worker_may_hold_it() {
    model(4, || {
        let domain = Quiescence::new(2);
        // 0: linked and whole; the link goes first, the content only once everyone has passed.
        let (link, content) = (Arc::new(Cell::new(0)), Arc::new(Cell::new(0)));
        let reader = thread::spawn({
            let (domain, link, content) = (Arc::clone(&domain), Arc::clone(&link), Arc::clone(&content));
            move || {
                let mut worker = domain.register(1).unwrap();
                for batch in 0..3 {
                    if link.load(Acquire) == 0 {
                        assert_eq!(content.load(Relaxed), 0, "reused under our eyes");
                    }
                    if batch == 1 {
                        drop(worker.sleep());
                    } else {
                        worker.quiescent();
                    }
                }
            }
        });
        let mut worker = domain.register(0).unwrap();
        link.store(1, Release);
        let stamp = domain.retire();
        worker.quiescent();
        for _ in 0..2 {
            if domain.horizon() >= stamp {
                content.store(1, Relaxed);
                break;
            }
        }
        reader.join().unwrap();
    });
}

#[test]
fn an_acknowledged_snapshot_is_the_oldest_in_use() {
    model(3, || {
        let domain = Quiescence::new(1);
        let cell = Arc::new(SnapshotCell::new(&domain, Arc::new(1)));
        let acknowledged = Arc::new(Cell::new(1));
        let reader = thread::spawn({
            let (domain, cell, acknowledged) =
                (Arc::clone(&domain), Arc::clone(&cell), Arc::clone(&acknowledged));
            move || {
                let mut worker = domain.register(0).unwrap();
                let mut reader = cell.reader(&worker);
                for batch in 0..2 {
                    let value = *reader.refresh(&worker);
                    assert!(
                        value >= acknowledged.load(Acquire),
                        "older than what was acknowledged"
                    );
                    if batch == 0 {
                        drop(worker.sleep());
                    }
                }
            }
        });
        let version = cell.publish(Arc::new(2));
        if cell.visible_to_all(version) {
            acknowledged.fetch_max(2, AcqRel);
        }
        // A reader that meets this one at work may go on with 2, not with 1 if 2 is acknowledged.
        cell.publish(Arc::new(3));
        reader.join().unwrap();
        assert_eq!((*cell.current(), cell.reclaim()), (3, 0));
    });
}

/// A flow that two workers see at once: one decides it again, the other's sweep removes it and the next packet installs
/// it anew, while its slot passes through limbo.
#[test]
fn a_flow_that_bounces_between_workers_is_never_two() {
    model(3, || {
        let (table, domain) = table(2);
        let mut worker = domain.register(0).unwrap();
        let mut writer = table.writer(&worker, Share::ALL);
        writer.insert(&[1], &[2], |both| stamp_all(both, 1)).unwrap();
        let other = thread::spawn({
            let (table, domain) = (Arc::clone(&table), Arc::clone(&domain));
            move || {
                let mut worker = domain.register(1).unwrap();
                let mut writer = table.writer(&worker, Share::ALL);
                if let Some(flow) = find(&table, 1) {
                    let _ = writer.redecide(flow, |both| {
                        let stamp = both.word(Direction::Original, 0);
                        assert_eq!(both.word(Direction::Reply, 1), stamp);
                        stamp_all(both, stamp + 10);
                        Decision::Keep
                    });
                }
                worker.quiescent();
                if let Some(flow) = find(&table, 2) {
                    if let Ok(entry) = table.read(flow) {
                        assert_eq!((entry.key(), entry.word(0)), ([2], entry.word(1)));
                    }
                }
            }
        });
        writer.sweep(8, |_| Sweep::Remove);
        worker.quiescent();
        let again = writer.insert(&[1], &[2], |both| stamp_all(both, 2));
        other.join().unwrap();
        let flow = find(&table, 1).expect("removed and installed anew, or never removed");
        assert_eq!(find(&table, 2), Some(flow.peer()));
        assert_eq!(table.live(), 1);
        match again {
            Ok(installed) => assert_eq!(installed, flow),
            Err(refused) => assert_eq!(refused, Refused::Exists(flow)),
        }
    });
}
