//! Any bytes give a verdict; the steady state allocates nothing; an idle worker sleeps.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastpath::io::{Memory, RingPort};
use fastpath::observe::Unobserved;
use fastpath::shared::{Shared, SharedConfig};
use fastpath::worker::{RunConfig, Worker, WorkerConfig};
use proptest::prelude::*;

use crate::cluster::{self, BOTH, backend, service};
use crate::lab::{Lab, compiled};
use crate::packet::{syn, udp};

/// Counts the allocations of the thread that asks for it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[allow(unsafe_code)]
// SAFETY: both calls go to the system allocator as they came; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[test]
fn a_port_in_place_of_another_leaves_no_chunk_behind() {
    let mut lab = Lab::new();
    let port = lab.port("client");
    let free = lab.worker.memory().free_chunks();
    let (memory, ring) = lab.worker.port_mut(port).unwrap();
    assert!(ring.feed_copy(memory, &[0; 60], 0));
    lab.worker.add_port(port, RingPort::new(64));
    lab.poll();
    assert_eq!(lab.worker.memory().free_chunks(), free);
    lab.assert_counters(&[]);
}

/// A worker that nobody watches, on the tests' cluster with one Service.
fn plain_worker() -> (Worker<RingPort, Unobserved>, fastpath::snapshot::Snapshot) {
    let mut state = cluster::cluster();
    state
        .services
        .push(service("web:udp", 10, 17, 80, &backend(2, 9, 8080)));
    let snapshot = compiled(&state, &cluster::underlay());
    let config = SharedConfig {
        seats: 1,
        connections_v4: 10_000,
        connections_v6: 10_000,
        seed: 7,
    };
    let shared = Shared::new(&config, Arc::new(snapshot.clone())).unwrap();
    let config = WorkerConfig {
        seat: 0,
        workers: 1,
        seed: 0,
        punt_to_host_mac: true,
    };
    let mut worker = Worker::new(config, shared, Memory::heap(512, 2048), Unobserved);
    for port in snapshot.ports() {
        worker.add_port(port.id, RingPort::new(256));
    }
    (worker, snapshot)
}

#[test]
fn two_hundred_thousand_frames_allocate_nothing() {
    let (mut worker, _) = plain_worker();
    let lab = Lab::new();
    let mut frames = Vec::new();
    for f in BOTH {
        for n in 0..64 {
            let a = f.at(&f.pod(1, 6), 4000 + n);
            frames.push((
                "client",
                lab.frame("client", &udp(&a, &f.at(&f.vip(10), 80)).l3()),
            ));
            frames.push((
                "client",
                lab.frame("client", &udp(&a, &f.at(&f.pod(1, 5), 80)).l3()),
            ));
            frames.push((
                "client",
                lab.frame("client", &udp(&a, &f.at(&f.outside(), 80)).l3()),
            ));
            frames.push(("web", lab.frame("web", &udp(&f.at(&f.pod(1, 5), 80), &a).l3())));
            // New flows, refusals and expiry allocate nothing either.
            frames.push((
                "client",
                lab.frame("client", &syn(&a, &f.at(&f.vip(11), 80)).l3()),
            ));
            frames.push((
                "client",
                lab.frame("client", &udp(&a, &f.at(&f.pod(1, 5), 80)).ttl(1).l3()),
            ));
        }
    }
    let ports: Vec<_> = ["client", "web", "uplink", "host"]
        .map(|name| lab.port(name))
        .to_vec();
    let mut now_ns = 1_000_000_000;
    let mut received = 0;
    let mut round = |worker: &mut Worker<RingPort, Unobserved>| {
        for chunk in frames.chunks(64) {
            for (port, frame) in chunk {
                let (memory, ring) = worker.port_mut(lab.port(port)).unwrap();
                assert!(ring.feed_copy(memory, frame, 0));
            }
            now_ns += 1_000_000;
            received += worker.poll(now_ns);
            for port in &ports {
                let (memory, ring) = worker.port_mut(*port).unwrap();
                while let Some(frame) = ring.take_sent() {
                    memory.release(frame);
                }
            }
        }
        received
    };
    round(&mut worker);
    let lab_allocates = {
        // `lab.port` formats a name: what the loop itself allocates is known and taken off.
        let before = ALLOCATIONS.with(Cell::get);
        let _ = lab.port("client");
        ALLOCATIONS.with(Cell::get) - before
    };
    let before = (ALLOCATIONS.with(Cell::get), round(&mut worker));
    let (mut after, mut frames_in) = (before.0, before.1);
    while frames_in < 200_000 {
        let start = frames_in;
        frames_in = round(&mut worker);
        after = ALLOCATIONS.with(Cell::get);
        assert!(frames_in > start);
    }
    // From `before.0` on: each frame fed asks for its port's name once.
    let fed = (frames_in - before.1 + frames.len()) as u64;
    assert_eq!(after - before.0, fed * lab_allocates);
    assert!(worker.counters().conservation().ok());
}

/// A valid frame with some bytes changed and its end cut, or no frame at all.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let lab = Lab::new();
    let mut seeds = Vec::new();
    for f in BOTH {
        let (a, b) = (f.at(&f.pod(1, 6), 4000), f.at(&f.pod(1, 5), 80));
        for l3 in [
            syn(&a, &b).l3(),
            udp(&a, &b).l3(),
            udp(&a, &f.at(&f.outside(), 53)).l3(),
            syn(&a, &f.at(&f.vip(10), 80)).l3(),
            crate::packet::echo(&f.pod(1, 6), &f.pod(1, 5), 9).l3(),
            lab.vxlan(2, &udp(&f.at(&f.pod(2, 9), 4000), &b).l3()),
        ] {
            seeds.push(lab.frame("client", &l3));
            seeds.push(lab.frame("uplink", &l3));
            seeds.push(lab.frame("host", &l3));
        }
    }
    let mutated = (
        proptest::sample::select(seeds),
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut frame, changes, cut, whole)| {
            for (at, byte) in changes {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if !whole {
                frame.truncate(cut.index(frame.len()) + 1);
            }
            frame
        });
    prop_oneof![4 => mutated, 1 => proptest::collection::vec(any::<u8>(), 1..200)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn any_bytes_on_any_port_give_one_verdict(frames in proptest::collection::vec((0usize..4, bytes()), 1..40)) {
        let mut lab = Lab::with(|state| state.services.push(service("web:tcp", 10, 6, 80, &backend(1, 5, 8080))));
        let ports = ["client", "web", "uplink", "host"];
        let numbers: Vec<_> = frames.iter().map(|(port, frame)| lab.feed(ports[*port], frame)).collect();
        lab.poll();
        // What was held gets its verdict when its time is up.
        lab.advance_s(31.0);
        lab.poll();
        lab.poll();
        for number in numbers {
            lab.line(number);
        }
        prop_assert_eq!(lab.worker.held(), 0);
    }
}

#[test]
fn an_idle_worker_sleeps_and_beats() {
    let (mut worker, _) = plain_worker();
    let handle = worker.handle();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        worker.run(&RunConfig::default(), &stopped);
        cpu_time()
    });
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(1));
    stop.store(true, Relaxed);
    handle.wake();
    let used = thread.join().unwrap();
    let share = used.as_secs_f64() / started.elapsed().as_secs_f64();
    assert!(share < 0.02, "{:.1} % of a core", share * 100.0);
    assert!(
        handle.counters().polls.get() >= 10,
        "it beats each 100 ms at least"
    );
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}
