use std::net::Ipv4Addr;
use std::thread;

use wire::IpProtocol;

use super::*;

const S: u64 = 1_000_000_000;

fn key(source: u32, id: u16) -> FragmentKey {
    let (src, dst) = (Ipv4Addr::from(source), Ipv4Addr::new(10, 0, 1, 1));
    FragmentKey::v4(src, dst, id, IpProtocol::UDP, 1)
}

fn outcome(word: u64) -> [u64; OUTCOME_WORDS] {
    std::array::from_fn(|at| word + at as u64)
}

#[test]
fn what_one_posts_another_finds_until_it_is_old() {
    let board = Board::new(4096, 128, 30 * S, 7);
    let before = board.posted();
    board.post(&key(1, 9), outcome(100), S);
    assert_ne!(board.posted(), before);
    assert_eq!(board.find(&key(1, 9), S), Some(outcome(100)));
    assert_eq!(board.find(&key(1, 8), S), None);
    assert_eq!(board.find(&key(2, 9), S), None);
    // The identification is used again.
    board.post(&key(1, 9), outcome(200), 2 * S);
    assert_eq!(board.find(&key(1, 9), 32 * S - 1), Some(outcome(200)));
    assert_eq!(board.find(&key(1, 9), 32 * S), None);
}

#[test]
fn a_flooding_source_displaces_what_lies_in_its_few_sets_alone() {
    let board = Board::new(4096, 128, 30 * S, 7);
    let sources = 200;
    for source in 0..sources {
        board.post(&key(source, 1), outcome(u64::from(source)), S);
    }
    let kept = |now| {
        (0..sources)
            .filter(|source| board.find(&key(*source, 1), now) == Some(outcome(u64::from(*source))))
            .count()
    };
    assert_eq!(kept(S), 200);
    for id in 0..u16::MAX {
        board.post(&key(1 << 20, id), outcome(0), 2 * S);
    }
    // 512 entries of 16384 can be the flood's: of 200 others 6 on average.
    let kept = kept(2 * S);
    assert!((180..=200).contains(&kept), "{kept} of {sources}");
    let of_flood = (0..u16::MAX)
        .filter(|id| board.find(&key(1 << 20, *id), 2 * S).is_some())
        .count();
    assert_eq!(of_flood, 512);
}

#[test]
fn readers_never_see_a_mixture() {
    let board = Board::new(2, 2, 30 * S, 7);
    let (writers, rounds) = (3_u64, if cfg!(miri) { 50 } else { 50_000 });
    thread::scope(|scope| {
        for writer in 0..writers {
            let board = &board;
            scope.spawn(move || {
                for round in 0..rounds {
                    board.post(
                        &key(1, (round % 5) as u16),
                        outcome(((round * writers + writer) << 8) | (round % 5)),
                        S,
                    );
                }
            });
        }
        let mut found = 0;
        for round in 0..rounds * 5 {
            let id = round % 5;
            if let Some(words) = board.find(&key(1, id as u16), S) {
                assert_eq!(words[0] & 0xff, id, "of another key");
                assert_eq!(words, outcome(words[0]), "a mixture");
                found += 1;
            }
        }
        assert!(found > 0);
    });
    // Nobody writes: each is there, once and for all.
    for id in 0..5 {
        board.post(&key(1, id), outcome(u64::from(id)), 2 * S);
        assert_eq!(board.find(&key(1, id), 2 * S), Some(outcome(u64::from(id))));
    }
}

#[test]
fn nothing_that_two_post_at_once_is_lost_where_there_is_room() {
    for round in 0..200 {
        let board = Board::new(4096, 512, 30 * S, round);
        thread::scope(|scope| {
            for half in 0..2_u16 {
                let board = &board;
                scope.spawn(move || {
                    for id in (half..120).step_by(2) {
                        board.post(&key(1, id), outcome(u64::from(id)), S);
                    }
                });
            }
        });
        for id in 0..120 {
            assert_eq!(
                board.find(&key(1, id), S),
                Some(outcome(u64::from(id))),
                "round {round}"
            );
        }
    }
}
