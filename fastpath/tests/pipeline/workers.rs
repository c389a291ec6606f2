//! Two workers of one node: a flow's packets come to either in turn, the fragments of a datagram to both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::thread;

use contract::proto;
use contract::valid::ValidState;
use fastpath::compile;
use wire::tcp::TcpFlags;

use crate::cluster::{BOTH, Fam, attach, backend, policy, port_of, service};
use crate::errors::cut_as;
use crate::lab::{Lab, Options};
use crate::packet::{Pkt, syn, syn_ack, tcp, udp};

const TWO: Options = Options {
    connections: 1000,
    tx_ring: 64,
    tx_checksum: true,
    workers: 2,
};

/// Both workers, polled by hand.
struct Pair(Vec<Lab>);

impl Pair {
    fn with(change: impl FnOnce(&mut proto::State)) -> Self {
        let a = Lab::with_options(&TWO, change);
        let b = beside(&a);
        Self(vec![a, b])
    }

    /// Worker 0 or 1.
    fn at(&mut self, number: usize) -> &mut Lab {
        &mut self.0[number % 2]
    }

    fn advance_s(&mut self, seconds: f64) {
        for lab in &mut self.0 {
            lab.advance_s(seconds);
        }
    }

    fn poll(&mut self) {
        for lab in &mut self.0 {
            lab.poll();
        }
    }

    /// Both sweep all of their share of the tables.
    fn sweep(&mut self) {
        self.poll();
        for lab in &mut self.0 {
            lab.worker.expire_all(lab.now_ns);
        }
    }

    /// Applies a change; between the two halves of it one worker has seen it and one has not.
    fn change(&mut self, change: impl FnOnce(&mut proto::State)) {
        let [a, b] = self.0.get_disjoint_mut([0, 1]).expect("two workers");
        change(&mut a.state);
        a.state.version += 1;
        let valid = ValidState::try_from(a.state.clone()).expect("a valid state");
        let compiled = compile::replace(&a.snapshot, &valid).expect("a state that compiles");
        a.take(compiled.snapshot.clone());
        b.take(compiled.snapshot.clone());
        let version = a.shared.publish(Arc::new(compiled.snapshot));
        a.poll();
        assert!(
            !a.shared.outdate(version, &compiled.bumps),
            "one worker has not seen it"
        );
        b.poll();
        assert!(a.shared.outdate(version, &compiled.bumps));
    }

    /// Sum over both workers of a counter.
    fn count(&self, name: &str) -> u64 {
        let moved = self.0.iter().flat_map(|lab| lab.worker.counters().moved());
        moved.filter(|(found, _)| found == name).map(|(_, n)| n).sum()
    }
}

/// A second worker over the tables of the first.
fn beside(a: &Lab) -> Lab {
    let (shared, snapshot) = (Arc::clone(&a.shared), a.snapshot.clone());
    Lab::seated(1, &TWO, shared, snapshot, a.state.clone(), a.underlay.clone())
}

fn deny_web(state: &mut proto::State) {
    state.policies.push(policy("web", &[], &[]));
    port_of(state, "web").ingress = attach(&["web"]);
}

fn admit_web(state: &mut proto::State) {
    state.policies.clear();
    port_of(state, "web").ingress = None;
}

/// The client, its Service and the backend behind it.
fn ends(f: Fam) -> (String, String, String) {
    (
        f.at(&f.pod(1, 6), 4000),
        f.at(&f.vip(10), 80),
        f.at(&f.pod(1, 5), 8080),
    )
}

#[test]
fn a_connection_whose_packets_come_to_two_workers_in_turn_is_one() {
    for f in BOTH {
        for first in [0, 1] {
            let mut pair = Pair::with(|state| {
                state
                    .services
                    .push(service("web:x", 10, 6, 80, &backend(1, 5, 8080)));
            });
            let (a, vip, b) = ends(f);
            let mut turn = first;
            let mut exchange = |pair: &mut Pair, out: Pkt, back: Pkt| {
                let to = out.clone().to(&b).routed();
                pair.at(turn).send("client", &out).tx("web", &to);
                let to = back.clone().from(&vip).routed();
                pair.at(turn + 1).send("web", &back).tx("client", &to);
                // One more by each side, so that every kind of packet comes to both.
                turn += 1;
            };
            exchange(&mut pair, syn(&a, &vip), syn_ack(&b, &a));
            for round in 0..20 {
                exchange(
                    &mut pair,
                    tcp(&a, &vip).seq(1 + round * 8, 1 + round * 8),
                    tcp(&b, &a).seq(1 + round * 8, 9 + round * 8),
                );
                pair.advance_s(600.0);
                pair.sweep();
            }
            assert_eq!((pair.0[0].live(), pair.count("flows-created")), (1, 1));

            // Policy cuts it, whichever worker decides again and whichever is told.
            pair.change(deny_web);
            for number in 0..4 {
                pair.at(number)
                    .send("client", &tcp(&a, &vip))
                    .dropped_silently("policy-denied");
                pair.at(number + 1)
                    .send("web", &tcp(&b, &a))
                    .dropped_silently("policy-denied");
            }
            // And admits it again.
            pair.change(admit_web);
            for number in 0..4 {
                pair.at(number + 1)
                    .send("web", &tcp(&b, &a))
                    .tx("client", &tcp(&vip, &a).routed());
                pair.at(number)
                    .send("client", &tcp(&a, &vip))
                    .tx("web", &tcp(&a, &b).routed());
            }
            assert_eq!((pair.0[0].live(), pair.count("flows-created")), (1, 1));

            // One side closes at one worker, the other at the other; the last one's packets come to both.
            let fin = |pkt: Pkt| pkt.flags(TcpFlags::FIN | TcpFlags::ACK);
            pair.at(0)
                .send("client", &fin(tcp(&a, &vip)))
                .tx("web", &fin(tcp(&a, &b)).routed());
            pair.at(1)
                .send("web", &fin(tcp(&b, &a)))
                .tx("client", &fin(tcp(&vip, &a)).routed());
            pair.at(0)
                .send("client", &tcp(&a, &vip))
                .tx("web", &tcp(&a, &b).routed());
            pair.advance_s(29.0);
            pair.sweep();
            assert_eq!(pair.0[0].live(), 1);
            pair.advance_s(2.0);
            pair.sweep();
            assert_eq!(pair.0[0].live(), 0, "both workers' sweeps together find it");
            // Nobody takes it up in the middle.
            for number in 0..2 {
                pair.at(number).send("client", &tcp(&a, &vip)).dropped("no-flow");
            }
        }
    }
}

#[test]
fn datagrams_at_either_worker_keep_one_flow_alive() {
    for f in BOTH {
        let backends = [backend(1, 5, 8080), backend(1, 7, 8080)].concat();
        let mut pair = Pair::with(|state| state.services.push(service("web:x", 10, 17, 80, &backends)));
        let (a, vip, _) = ends(f);
        let line = pair.at(0).send("client", &udp(&a, &vip));
        let (chosen, to) = line.packet();
        let reply = udp(&to.dst.to_string(), &a);
        for number in 0..40 {
            // Each worker alone sees nothing for longer than the timeout of 60 s, together they see enough.
            pair.advance_s(35.0);
            pair.sweep();
            let line = pair.at(number).send("client", &udp(&a, &vip));
            assert_eq!(line.packet().0, chosen, "it stays on its backend");
            pair.at(number / 2)
                .send(&chosen, &reply)
                .tx("client", &udp(&vip, &a).routed());
        }
        assert_eq!((pair.0[0].live(), pair.count("flows-created")), (1, 1));
        pair.advance_s(181.0);
        pair.sweep();
        assert_eq!((pair.0[0].live(), pair.count("flows-expired")), (0, 1));
    }
}

/// Flows that two threads drive at once, and packets of each by each thread.
const FLOWS: u16 = 48;
const ROUNDS: usize = 60;

/// Both threads send packets of the same flows at the same time, also their first ones, while policy changes and flows expire
/// between; the books of both balance and every flow has one backend as long as it lives.
#[test]
fn two_threads_share_every_flow_while_policy_changes() {
    for f in BOTH {
        let backends = [backend(1, 5, 8080), backend(1, 7, 8080)].concat();
        let first = Lab::with_options(&TWO, |state| {
            state.services.push(service("web:x", 10, 17, 80, &backends));
        });
        let (shared, state, underlay) = (
            Arc::clone(&first.shared),
            first.state.clone(),
            first.underlay.clone(),
        );
        let (snapshot, start_ns) = (first.snapshot.clone(), first.now_ns);
        // The seat is free again for the thread that takes it.
        drop(first);
        let now_ns = AtomicU64::new(start_ns);
        let done = AtomicUsize::new(0);
        let give_up = AtomicBool::new(false);
        let run = |seat: usize| {
            let (shared, snapshot) = (Arc::clone(&shared), snapshot.clone());
            let mut lab = Lab::seated(seat, &TWO, shared, snapshot, state.clone(), underlay.clone());
            let vip = f.at(&f.vip(10), 80);
            let mut chosen: Vec<Vec<String>> = Vec::new();
            let (mut denied, mut busy) = (0, 0);
            for round in 0..ROUNDS {
                // Both are in the same round, so that each flow's packets meet.
                done.fetch_add(1, Relaxed);
                while done.load(Relaxed) < (round + 1) * 2 && !give_up.load(Relaxed) {
                    lab.now_ns = now_ns.load(Relaxed);
                    lab.poll();
                }
                let numbers: Vec<u64> = (0..FLOWS)
                    .map(|flow| {
                        let client = f.at(&f.pod(1, 6), 4000 + flow);
                        let frame = lab.frame("client", &udp(&client, &vip).l3());
                        lab.feed("client", &frame)
                    })
                    .collect();
                lab.now_ns = now_ns.load(Relaxed);
                lab.poll();
                let backends = numbers.into_iter().map(|number| {
                    let line = lab.line(number);
                    if line.verdict == "tx" {
                        line.packet().0
                    } else {
                        // A thread that the system stops while it decides a flow keeps the other one from it.
                        busy += u64::from(line.reason == "flow-busy");
                        assert!(
                            ["policy-denied", "flow-busy"].contains(&line.reason.as_str()),
                            "{line:?}"
                        );
                        denied += 1;
                        "dropped".to_owned()
                    }
                });
                chosen.push(backends.collect());
                // Flows time out between some rounds.
                if seat == 0 && round % 10 == 9 {
                    now_ns.fetch_add(61_000_000_000, Relaxed);
                }
            }
            done.fetch_add(1, Relaxed);
            let conservation = lab.worker.counters().conservation();
            assert!(conservation.ok() && conservation.held == 0, "{conservation:?}");
            assert_eq!(conservation.rx, u64::from(FLOWS) * ROUNDS as u64);
            assert!(
                busy * 100 < conservation.rx,
                "{busy} packets found their flow busy"
            );
            (chosen, denied, conservation.rx - conservation.tx)
        };
        thread::scope(|scope| {
            let threads = [0, 1].map(|seat| {
                let (run, give_up) = (&run, &give_up);
                scope.spawn(move || {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seat)));
                    give_up.store(true, Relaxed);
                    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            });
            // Policy changes as fast as both workers take it.
            let mut state = state.clone();
            let mut current = snapshot.clone();
            let mut deny = true;
            while !give_up.load(Relaxed) {
                if deny {
                    deny_web(&mut state);
                } else {
                    admit_web(&mut state);
                }
                deny = !deny;
                state.version += 1;
                let valid = ValidState::try_from(state.clone()).expect("a valid state");
                let compiled = compile::replace(&current, &valid).expect("a state that compiles");
                let version = shared.publish(Arc::new(compiled.snapshot.clone()));
                while !shared.outdate(version, &compiled.bumps) && !give_up.load(Relaxed) {
                    thread::yield_now();
                }
                current = compiled.snapshot;
            }
            let [a, b] = threads.map(|thread| thread.join().unwrap());
            let mut compared = 0;
            for flow in 0..usize::from(FLOWS) {
                // From one expiry to the next a flow has one backend, at whichever worker its packets come.
                for life in 0..ROUNDS / 10 {
                    // The first round of a life may see packets of both lives: the clock moves while the other thread works.
                    let rounds = life * 10 + 2..(life + 1) * 10 - 1;
                    let mut seen: Vec<&str> = rounds
                        .flat_map(|round| [&a.0[round][flow], &b.0[round][flow]])
                        .map(String::as_str)
                        .filter(|backend| *backend != "dropped")
                        .collect();
                    compared += seen.len();
                    seen.sort_unstable();
                    seen.dedup();
                    assert!(seen.len() <= 1, "flow {flow} in life {life}: {seen:?}");
                }
            }
            assert!(compared > 1000, "{compared} packets went through");
            assert_eq!((a.1, b.1), (a.2, b.2), "only for these reasons");
        });
        // Of every flow there is at most one left: none is doubled.
        let live = shared.v4().live() + shared.v6().live();
        assert!(live <= u32::from(FLOWS), "{live} flows");
    }
}

/// A datagram from the client to the Service in two parts, and what the backend gets.
fn parts(lab: &Lab, f: Fam, id: u16) -> ([Vec<u8>; 2], [Vec<u8>; 2]) {
    let (a, vip, b) = ends(f);
    let sent = cut_as(f, &udp(&a, &vip).payload(1000), 512, id).map(|l3| lab.frame("client", &l3));
    (sent, cut_as(f, &udp(&a, &b).payload(1000).routed(), 512, id))
}

fn udp_service(state: &mut proto::State) {
    state
        .services
        .push(service("web:udp", 10, 17, 80, &backend(1, 5, 8080)));
}

fn web_got(lab: &mut Lab, number: u64, expected: &[u8]) {
    let line = lab.line(number);
    assert_eq!(
        (line.verdict.as_str(), line.out[0].0.as_str()),
        ("tx", "web"),
        "{line:?}"
    );
    assert_eq!(&line.out[0].1[14..], expected);
}

#[test]
fn a_later_fragment_finds_its_first_at_another_worker() {
    for f in BOTH {
        let mut pair = Pair::with(udp_service);
        let (sent, expected) = parts(&pair.0[0], f, 7);
        let first = pair.at(0).feed("client", &sent[0]);
        pair.at(0).poll();
        web_got(pair.at(0), first, &expected[0]);
        let second = pair.at(1).feed("client", &sent[1]);
        pair.at(1).poll();
        web_got(pair.at(1), second, &expected[1]);
        pair.0[0].assert_counters(&[("rx", 1), ("tx", 1), ("flows-created", 1)]);
        pair.0[1].assert_counters(&[("rx", 1), ("tx", 1)]);
    }
}

#[test]
fn fragments_held_by_one_worker_go_when_another_sees_their_first() {
    for f in BOTH {
        let mut pair = Pair::with(udp_service);
        // Three datagrams wait; the first part of the second comes, to the other worker.
        let datagrams: Vec<_> = (1..=3).map(|id| parts(&pair.0[0], f, id)).collect();
        let held: Vec<u64> = datagrams
            .iter()
            .map(|(sent, _)| pair.at(1).feed("client", &sent[1]))
            .collect();
        pair.at(1).poll();
        assert_eq!(pair.0[1].worker.counters().held.get(), 3);
        pair.at(0).feed("client", &datagrams[1].0[0]);
        pair.at(0).poll();
        // Nothing is received: the batch boundary is enough.
        pair.at(1).poll();
        web_got(pair.at(1), held[1], &datagrams[1].1[1]);
        assert_eq!(pair.0[1].worker.held(), 2);
        // One more part of it, at the worker that held.
        let again = pair.at(1).feed("client", &datagrams[1].0[1]);
        pair.at(1).poll();
        web_got(pair.at(1), again, &datagrams[1].1[1]);
        // The others' time runs out.
        pair.advance_s(30.0);
        pair.poll();
        for number in [held[0], held[2]] {
            pair.at(1).line(number).dropped_silently("fragment-timeout");
        }
        pair.0[1].assert_counters(&[("rx", 4), ("tx", 2), ("drop-fragment-timeout", 2)]);
    }
}

#[test]
fn a_later_fragment_shares_the_refusal_of_its_first_at_another_worker() {
    for f in BOTH {
        let mut pair = Pair::with(|state| {
            udp_service(state);
            deny_web(state);
        });
        let (sent, _) = parts(&pair.0[0], f, 7);
        let before = pair.at(1).feed("client", &sent[1]);
        pair.at(1).poll();
        pair.at(0)
            .send_frame("client", &sent[0])
            .dropped_silently("policy-denied");
        pair.at(1).poll();
        pair.at(1).line(before).dropped_silently("policy-denied");
        pair.at(1)
            .send_frame("client", &sent[1])
            .dropped_silently("policy-denied");
    }
}

#[test]
fn an_identification_used_again_at_another_worker_means_the_newer_datagram() {
    for f in BOTH {
        let mut pair = Pair::with(|state| {
            udp_service(state);
            state
                .services
                .push(service("other:udp", 11, 17, 80, &backend(1, 7, 8080)));
        });
        let (sent, expected) = parts(&pair.0[0], f, 7);
        pair.at(0).send_frame("client", &sent[0]);
        let line = pair.at(0).send_frame("client", &sent[1]);
        assert_eq!(line.out[0].1[14..], expected[1]);
        pair.advance_s(1.0);
        // The same client, Service and identification again, from another port: another flow with another outcome.
        let mut renewed = udp(&f.at(&f.pod(1, 6), 4001), &f.at(&f.vip(10), 81)).payload(1000);
        renewed.id = 7;
        let sent = cut_as(f, &renewed, 512, 7).map(|l3| pair.0[1].frame("client", &l3));
        let refused = pair.at(1).send_frame("client", &sent[0]);
        assert_eq!(refused.verdict, "drop", "no such port: {refused:?}");
        // The first worker remembers the former datagram; the board knows better.
        pair.at(0)
            .send_frame("client", &sent[1])
            .dropped_silently(&refused.reason);
    }
}

#[test]
fn two_threads_get_every_fragment_of_every_datagram_through() {
    const DATAGRAMS: u16 = 30;
    const ROUNDS_OF_DATAGRAMS: u16 = 20;
    for f in BOTH {
        let first = Lab::with_options(&TWO, udp_service);
        let (shared, state, underlay) = (
            Arc::clone(&first.shared),
            first.state.clone(),
            first.underlay.clone(),
        );
        let snapshot = first.snapshot.clone();
        drop(first);
        let (passed, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let run = |seat: usize| {
            let (shared, snapshot) = (Arc::clone(&shared), snapshot.clone());
            let mut lab = Lab::seated(seat, &TWO, shared, snapshot, state.clone(), underlay.clone());
            let mut fed = Vec::new();
            for round in 1..=ROUNDS_OF_DATAGRAMS {
                for id in (round - 1) * DATAGRAMS..round * DATAGRAMS {
                    let (sent, expected) = parts(&lab, f, id);
                    // Firsts come to one worker, seconds to the other, in turn.
                    let part = usize::from(id / 3 % 2) ^ seat;
                    fed.push((lab.feed("client", &sent[part]), expected[part].clone()));
                    if id % 5 == 0 {
                        lab.poll();
                    }
                }
                lab.poll();
                passed.fetch_add(1, Relaxed);
                while passed.load(Relaxed) < usize::from(round) * 2 && !failed.load(Relaxed) {
                    lab.poll();
                }
                // The other one's firsts are posted by now: one batch looks for all that wait.
                lab.poll();
                assert_eq!(lab.worker.held(), 0);
                // What is older gives way.
                lab.advance_s(0.001);
            }
            for (number, expected) in fed {
                web_got(&mut lab, number, &expected);
            }
            lab.worker.counters().conservation()
        };
        let books = thread::scope(|scope| {
            let threads = [0, 1].map(|seat| {
                let (run, failed) = (&run, &failed);
                scope.spawn(move || {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seat)));
                    failed.fetch_or(result.is_err(), Relaxed);
                    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        for book in books {
            assert!(
                book.ok() && book.tx == u64::from(DATAGRAMS * ROUNDS_OF_DATAGRAMS),
                "{book:?}"
            );
        }
    }
}
