//! What a change costs: it follows the change, not the cluster.
//!
//! The figures for a large cluster: `cargo test --release -p fastpath --test delta_cost -- --ignored --nocapture`.
#![allow(unsafe_code)] // An allocator that counts can't be written without.
#![allow(clippy::unwrap_used)]

#[path = "support/big_cluster.rs"]
mod big_cluster;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use big_cluster::{Size, cluster, pod, service, set_member, underlay};
use contract::frame::{Decoder, encode};
use contract::proto::{self, change::Change, to_fastpath::Body};
use contract::valid::{ValidDelta, ValidState};
use fastpath::compile::{Reused, apply, compile, replace};
use fastpath::snapshot::{Direction, PolicyQuery, Snapshot};

thread_local! {
    /// Bytes that this thread has allocated, and in how many pieces.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
    static PIECES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counted.
struct Counting;

// SAFETY: every call goes to `System` with the caller's own arguments; counting touches a thread-local `Cell` that needs
// neither allocation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.with(|bytes| bytes.set(bytes.get() + layout.size()));
        PIECES.with(|pieces| pieces.set(pieces.get() + 1));
        // SAFETY: the caller upholds `System`'s contract, which is this one's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = ALLOCATED.with(Cell::get);
    let done = work();
    (ALLOCATED.with(Cell::get) - before, done)
}

fn compiled(size: Size) -> Snapshot {
    compile(&ValidState::try_from(cluster(size)).unwrap(), &underlay())
        .unwrap()
        .snapshot
}

fn delta(change: Change) -> ValidDelta {
    let changes = vec![proto::Change { change: Some(change) }];
    ValidDelta::try_from(proto::Delta {
        base_version: 1,
        version: 2,
        changes,
    })
    .unwrap()
}

/// One endpoint comes or goes: a pod here, a backend somewhere, a member of a set, a borrowed address.
fn endpoint_changes() -> Vec<(&'static str, ValidDelta)> {
    let member = |removed: Vec<proto::Member>, added: Vec<proto::Member>| {
        Change::IpSetDelta(proto::IpSetDelta {
            id: "set-0".into(),
            removed,
            added,
        })
    };
    let mut backend_gone = service(7, 25);
    backend_gone.backends.pop();
    let borrowed = proto::Prefix {
        address: big_cluster::pod_address(77),
        length: 32,
    };
    let block = proto::Block {
        prefix: Some(borrowed),
        node: "node-3".into(),
        encap: proto::Encap::Vxlan as i32,
    };
    vec![
        ("a pod comes", delta(Change::Port(pod(200, 100)))),
        (
            "a pod goes",
            delta(Change::PortRemoved("pod:default/pod-5".into())),
        ),
        ("a backend goes", delta(Change::Service(backend_gone))),
        ("a Service comes", delta(Change::Service(service(60_000, 3)))),
        (
            "a member comes",
            delta(member(vec![], vec![set_member(0x00f0_0000)])),
        ),
        ("a member goes", delta(member(vec![set_member(9)], vec![]))),
        ("an address is borrowed", delta(Change::Block(block))),
    ]
}

const SMALL: Size = Size {
    nodes: 10,
    pods: 20,
    services: 100,
    backends: 25,
    policies: 100,
    members: 1_000,
};
const LARGE: Size = Size {
    nodes: 1_000,
    pods: 110,
    services: 10_000,
    backends: 25,
    policies: 2_000,
    members: 100_000,
};

#[test]
fn one_endpoints_change_allocates_little_whatever_the_size_of_the_cluster() {
    let (small, large) = (compiled(SMALL), compiled(LARGE));
    for (what, delta) in endpoint_changes() {
        let (in_small, after) = allocated(|| apply(&small, &delta).unwrap());
        drop(after);
        let (in_large, after) = allocated(|| apply(&large, &delta).unwrap());
        drop(after);
        println!("{what}: {in_small} B in a small cluster, {in_large} B in one a hundred times as large");
        assert!(in_large <= 64 << 10, "{what}: {in_large} B");
        // A few levels of trees more.
        assert!(
            in_large <= in_small + (16 << 10),
            "{what}: {in_small} B became {in_large} B"
        );
    }
}

/// The cluster of `bench updates`: 50,000 Services of three backends on 250 nodes.
const MANY_SERVICES: Size = Size {
    nodes: 250,
    pods: 10,
    services: 50_000,
    backends: 3,
    policies: 100,
    members: 150_000,
};

/// All that the config thread does with one: bytes, message, objects, snapshot.
#[test]
fn a_backend_replaced_among_50_000_services_allocates_what_it_does_among_100() {
    let from_bytes = |size: Size| {
        let snapshot = compiled(size);
        let mut service = service(7, 3);
        service.backends[1].address = big_cluster::pod_address(3);
        let change = proto::Change {
            change: Some(Change::Service(service)),
        };
        let delta = proto::Delta {
            base_version: 1,
            version: 2,
            changes: vec![change],
        };
        let bytes = encode(&proto::ToFastpath {
            body: Some(Body::Delta(delta)),
        })
        .unwrap();
        let before = PIECES.with(Cell::get);
        let (read, delta) = allocated(|| {
            let mut decoder = Decoder::default();
            decoder.extend(&bytes);
            match decoder.next_message::<proto::ToFastpath>().unwrap().unwrap().body {
                Some(Body::Delta(delta)) => ValidDelta::try_from(delta).unwrap(),
                other => panic!("{other:?}"),
            }
        });
        let (applied, compiled) = allocated(|| apply(&snapshot, &delta).unwrap());
        let pieces = PIECES.with(Cell::get) - before;
        assert!(compiled.snapshot.version() == 2 && snapshot.version() == 1);
        (read, applied, pieces)
    };
    let small = from_bytes(Size {
        services: 100,
        ..MANY_SERVICES
    });
    let large = from_bytes(MANY_SERVICES);
    for (what, (read, applied, pieces)) in [("100", small), ("50,000", large)] {
        println!(
            "one backend replaced among {what} Services: {read} B to read it, {applied} B to apply it, {pieces} pieces"
        );
    }
    assert_eq!(small.0, large.0, "reading a delta knows nothing of the cluster");
    assert!(large.1 <= 16 << 10, "{} B", large.1);
    assert!(
        large.1 <= small.1 + (8 << 10),
        "{} B became {} B",
        small.1,
        large.1
    );
}

/// What a control process that restarted says.
#[test]
fn the_state_in_force_said_again_touches_nothing() {
    for size in [SMALL, LARGE] {
        let before = compiled(size);
        let mut state = ValidState::try_from(cluster(size)).unwrap();
        state.version += 1;
        let (bytes, after) = allocated(|| replace(&before, &state).unwrap());
        println!("{bytes} B for the same state of {} Services", size.services);
        assert!(bytes <= 8 << 10, "{bytes} B");
        assert!(after.bumps.is_empty(), "{:?}", after.bumps);
        assert_eq!(after.reused, Reused::default());
        assert_eq!(after.snapshot.version(), before.version() + 1);
    }
}

#[test]
fn lookups_allocate_nothing() {
    let snapshot = compiled(SMALL);
    let pod = snapshot.port_by_name("pod:default/pod-5").unwrap();
    let (bytes, ()) = allocated(|| {
        for last in 0..=255u8 {
            for first in [10, 100, 172, 192, 8] {
                let address = std::net::IpAddr::from([first, 0, last, last]);
                let route = std::hint::black_box(snapshot.route(address));
                std::hint::black_box(snapshot.forwarding_mtu(&route, address, u32::from(last) << 24));
                std::hint::black_box((snapshot.vip(address, 6, 80), snapshot.peer_by_outer(address)));
                let query = PolicyQuery {
                    src: address,
                    dst: address,
                    protocol: 6,
                    dst_port: 80,
                    direction: Direction::Ingress,
                };
                let decision = std::hint::black_box(snapshot.judge(&pod.ingress, &query));
                std::hint::black_box(decision.rule.and_then(|rule| snapshot.rule_origin(rule)));
            }
        }
    });
    assert_eq!(bytes, 0);
}

/// The size that DESIGN.md names: compile and change times, printed.
#[test]
#[ignore = "a measurement: run it in release"]
fn figures_of_a_large_cluster() {
    let size = Size {
        nodes: 5_000,
        pods: 110,
        services: 10_000,
        backends: 25,
        policies: 10_000,
        members: 150_000,
    };
    let raw = cluster(size);
    let start = Instant::now();
    let state = ValidState::try_from(raw).unwrap();
    let validated = start.elapsed();
    let start = Instant::now();
    let (bytes, snapshot) = allocated(|| compile(&state, &underlay()).unwrap().snapshot);
    println!(
        "{size:?}: validated in {validated:?}, compiled in {:?} ({bytes} B allocated)",
        start.elapsed()
    );
    for (what, delta) in endpoint_changes() {
        let mut times: Vec<_> = (0..1000)
            .map(|_| {
                let start = Instant::now();
                std::hint::black_box(apply(&snapshot, &delta).unwrap());
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("{what}: median {:?}, p99 {:?}", times[500], times[990]);
    }
}
