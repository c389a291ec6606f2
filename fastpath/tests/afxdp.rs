//! `AF_XDP` ports among real interfaces: pods, dead devices, and what refusals say.
#![allow(clippy::unwrap_used, clippy::needless_for_each, reason = "a test")]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "small numbers")]

mod support;

use std::{
    collections::hash_map::DefaultHasher,
    hash::Hasher,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use fastpath::io::{
    BATCH_MAX, Checksum, Memory, PacketIo,
    afxdp::{AfxdpOptions, AfxdpPort, BindError, Liveness, Mode, Umem},
    bpf::{AttachError, PodProgram},
};
use support::{
    netns::{self, Namespace},
    packet_socket::PacketSocket,
    root_or_skip,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what} did not come true");
        thread::yield_now();
    }
}

fn frame(number: u8) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.resize(100, number);
    frame
}

/// Passing a pod's packet to the kernel would carry it past policy.
#[test]
fn a_pods_packet_without_a_socket_is_dropped() {
    if !root_or_skip() {
        return;
    }
    netns::enter_fresh();
    netns::quiet_veth("pod0", "wire0", 1, 1500);
    let kernel = PacketSocket::bind("pod0");
    let program = PodProgram::attach("pod0", 1).unwrap();
    let wire = PacketSocket::bind("wire0");

    wire.send(&frame(1));
    until("the drop", || {
        netns::driver_counter("pod0", "rx_queue_0_xdp_drops") == 1
    });

    // A socket that comes and goes changes nothing for the kernel.
    let mut memory = Memory::mapped(256, 2048).unwrap();
    let umem = Umem::register(&memory, "lo", 0).unwrap();
    let mut port = AfxdpPort::open(&umem, "pod0", 0, AfxdpOptions::default()).unwrap();
    program.set_socket(0, port.socket()).unwrap();
    let mut frames = Vec::new();
    port.rx(&mut memory, &mut frames, 1);
    wire.send(&frame(2));
    until("the frame", || port.rx(&mut memory, &mut frames, 1) == 1);
    assert_eq!(memory.bytes(&frames[0]), frame(2));
    memory.release(frames.pop().unwrap());
    program.clear_socket(0).unwrap();
    wire.send(&frame(3));
    until("the second drop", || {
        netns::driver_counter("pod0", "rx_queue_0_xdp_drops") == 2
    });

    assert_eq!(
        kernel.receive(Duration::ZERO),
        None,
        "the kernel saw a pod's packet"
    );
    assert_eq!(port.close(&mut memory), 0);
    assert_eq!(memory.free_chunks(), memory.chunks());
}

#[test]
fn a_deleted_device_gives_back_every_chunk() {
    if !root_or_skip() {
        return;
    }
    netns::enter_fresh();
    netns::quiet_veth("pod0", "wire0", 1, 1500);
    let mut memory = Memory::mapped(512, 2048).unwrap();
    let umem = Umem::register(&memory, "lo", 0).unwrap();
    let program = PodProgram::attach("pod0", 1).unwrap();
    let options = AfxdpOptions {
        rx_slots: 64,
        ..AfxdpOptions::default()
    };
    let mut port = AfxdpPort::open(&umem, "pod0", 0, options).unwrap();
    program.set_socket(0, port.socket()).unwrap();
    let mut frames = Vec::new();
    port.rx(&mut memory, &mut frames, 0);

    // More traffic than the port takes, from another thread, while it forwards back what it gets.
    let wire = PacketSocket::bind("wire0");
    let stop = Arc::new(AtomicBool::new(false));
    let sender = {
        let (wire, stop) = (wire.clone(), Arc::clone(&stop));
        thread::spawn(move || while !stop.load(Relaxed) && wire.try_send(&frame(9)) {})
    };
    let mut moved = 0;
    until("traffic", || {
        moved += port.rx(&mut memory, &mut frames, 16);
        port.tx(&mut memory, &mut frames);
        moved > 2000
    });
    // Every chunk used up, then the end.
    until("an empty fill ring", || port.statistics().rx_dropped > 0);
    netns::run("ip link del pod0");
    stop.store(true, Relaxed);
    sender.join().unwrap();

    // Sending finds out. The frames offered are the caller's, or the port's, never lost.
    until("the end is noticed", || {
        port.rx(&mut memory, &mut frames, 16);
        if frames.is_empty() {
            frames.extend(memory.allocate_copy(&frame(1)));
        }
        port.tx(&mut memory, &mut frames);
        port.liveness() == Liveness::Gone
    });
    frames.drain(..).for_each(|frame| memory.release(frame));
    until("every chunk is back", || port.close(&mut memory) == 0);
    assert_eq!(memory.free_chunks(), memory.chunks());

    // The anchor lives on: the next pod comes.
    netns::quiet_veth("pod1", "wire1", 1, 1500);
    drop(program);
    let program = PodProgram::attach("pod1", 1).unwrap();
    let mut port = AfxdpPort::open(&umem, "pod1", 0, AfxdpOptions::default()).unwrap();
    program.set_socket(0, port.socket()).unwrap();
    port.rx(&mut memory, &mut frames, 0);
    PacketSocket::bind("wire1").send(&frame(5));
    until("the next pod's frame", || {
        port.rx(&mut memory, &mut frames, 1) == 1
    });
    frames.drain(..).for_each(|frame| memory.release(frame));
    assert_eq!(port.close(&mut memory), 0);
    assert_eq!(memory.free_chunks(), memory.chunks());
}

/// Pods' sockets leave checksums to the interface. Nothing is switched off here, so this works by TX metadata alone.
#[test]
fn tcp_between_pods_with_checksum_offload_on() {
    if root_or_skip() {
        tcp_between_pods(1500);
    }
}

#[test]
fn tcp_between_pods_in_jumbo_frames() {
    if root_or_skip() {
        tcp_between_pods(9000);
    }
}

const TRANSFER_LEN: usize = 8 << 20;

fn tcp_between_pods(mtu: u32) {
    netns::enter_fresh();
    let pods = [Namespace::new(), Namespace::new()];
    for (index, pod) in (1..).zip(&pods) {
        netns::run(&format!(
            "ip link add host{index} type veth peer name eth0 netns {}",
            pod.name()
        ));
        netns::run(&format!("ip link set host{index} addrgenmode none mtu {mtu} up"));
        pod.run(&format!(
            "ip link set eth0 address 02:01:00:00:00:0{index} mtu {mtu} up"
        ));
        pod.run(&format!("ip addr add 10.9.0.{index}/24 dev eth0"));
    }
    for (pod, other) in [(&pods[0], 2), (&pods[1], 1)] {
        pod.run(&format!(
            "ip neigh replace 10.9.0.{other} lladdr 02:01:00:00:00:0{other} dev eth0 nud permanent"
        ));
    }

    let mut memory = Memory::mapped(4096, 4096).unwrap();
    let umem = Umem::register(&memory, "lo", 0).unwrap();
    assert!(umem.tx_metadata());
    let mut programs = Vec::new();
    let mut ports: Vec<_> = ["host1", "host2"]
        .into_iter()
        .map(|host| {
            let program = PodProgram::attach(host, 1).unwrap();
            let port = AfxdpPort::open(&umem, host, 0, AfxdpOptions::default()).unwrap();
            assert_eq!(port.mode(), Mode::Copy);
            program.set_socket(0, port.socket()).unwrap();
            programs.push(program);
            port
        })
        .collect();

    let [client_pod, server_pod] = [0, 1].map(|index: usize| pods[index].name().to_owned());
    let server = thread::spawn(move || serve(&server_pod));
    let client = thread::spawn(move || dial(&client_pod));

    // The worker: swaps frames between the two ports.
    let (mut frames, mut partial, mut chains, mut full) = (Vec::new(), 0_u64, 0_u64, 0_u64);
    let start = Instant::now();
    while !(client.is_finished() && server.is_finished()) {
        assert!(
            start.elapsed() < DEADLINE,
            "{partial} frames with partial checksums, {full} dropped"
        );
        let mut received = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            received += ports[from].rx(&mut memory, &mut frames, BATCH_MAX);
            partial += frames
                .iter()
                .filter(|frame| frame.checksum != Checksum::Full)
                .count() as u64;
            chains += frames.iter().filter(|frame| frame.is_chain()).count() as u64;
            ports[to].tx(&mut memory, &mut frames);
            full += frames.len() as u64;
            frames.drain(..).for_each(|frame| memory.release(frame));
        }
        if received == 0 {
            let [a, b] = &mut ports[..] else { unreachable!() };
            AfxdpPort::wait(&mut [a, b], Duration::from_millis(10));
        }
    }
    let (received, sent) = (server.join().unwrap(), client.join().unwrap());
    assert_eq!(received, sent, "what arrived is what was sent");
    assert!(
        partial > (TRANSFER_LEN / 9000) as u64,
        "{partial} frames needed the metadata"
    );
    assert_eq!(chains > 0, mtu > 4096 - 256, "{chains} chains");
    for port in &mut ports {
        assert_eq!(port.statistics().tx_invalid, 0);
        assert_eq!(port.refused(), 0);
        until("every chunk is back", || port.close(&mut memory) == 0);
    }
    assert_eq!(memory.free_chunks(), memory.chunks());
}

fn serve(pod: &str) -> (usize, u64) {
    Namespace::enter(pod);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 80)).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let (mut hash, mut total, mut buffer) = (DefaultHasher::new(), 0, vec![0; 65_536]);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => return (total, hash.finish()),
            len => {
                buffer[..len].iter().for_each(|byte| hash.write_u8(*byte));
                total += len;
            }
        }
    }
}

fn dial(pod: &str) -> (usize, u64) {
    Namespace::enter(pod);
    let start = Instant::now();
    let mut stream = loop {
        // Refused until the server listens.
        match TcpStream::connect((Ipv4Addr::new(10, 9, 0, 2), 80)) {
            Ok(stream) => break stream,
            Err(error) => assert!(start.elapsed() < DEADLINE, "{error}"),
        }
    };
    let (mut hash, mut state) = (DefaultHasher::new(), 1_u32);
    let data: Vec<u8> = (0..TRANSFER_LEN)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    data.iter().for_each(|byte| hash.write_u8(*byte));
    stream.write_all(&data).unwrap();
    (data.len(), hash.finish())
}

/// Workers of one node, each with a queue of every port and a memory of its own.
#[test]
fn each_worker_has_an_anchor_and_its_own_queues() {
    if !root_or_skip() {
        return;
    }
    netns::enter_fresh();
    netns::quiet_veth("pod0", "wire0", 2, 1500);
    netns::quiet_veth("anchor0", "anchor1", 2, 1500);
    let program = PodProgram::attach("pod0", 2).unwrap();
    let mut workers: Vec<_> = (0..2)
        .map(|queue| {
            let mut memory = Memory::mapped(256, 2048).unwrap();
            let umem = Umem::register(&memory, "anchor0", queue).unwrap();
            let mut port = AfxdpPort::open(&umem, "pod0", queue, AfxdpOptions::default()).unwrap();
            port.rx(&mut memory, &mut Vec::new(), 0);
            program.set_socket(queue, port.socket()).unwrap();
            (memory, umem, port)
        })
        .collect();
    let wire = PacketSocket::bind("wire0");
    // Fewer than one queue's chunks.
    let (mut frames, mut received) = (Vec::new(), 0);
    (0..50).for_each(|number| wire.send(&frame(number)));
    until("all frames, whichever queue they took", || {
        for (memory, _, port) in &mut workers {
            received += port.rx(memory, &mut frames, BATCH_MAX);
            port.tx(memory, &mut frames);
            assert!(frames.is_empty(), "each worker sends on its own queue");
        }
        received == 50
    });
    let mut numbers: Vec<_> = (0..50).map(|_| wire.receive(DEADLINE).unwrap()[20]).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..50));
    for (memory, _, port) in &mut workers {
        until("every chunk is back", || port.close(memory) == 0);
        assert_eq!(memory.free_chunks(), memory.chunks());
    }
}

#[test]
fn refusals_say_what_to_do() {
    if !root_or_skip() {
        return;
    }
    netns::enter_fresh();
    netns::quiet_veth("pod0", "wire0", 2, 1500);
    let memory = Memory::mapped(256, 2048).unwrap();
    let umem = Umem::register(&memory, "lo", 0).unwrap();
    let open = |interface: &str, queue| AfxdpPort::open(&umem, interface, queue, AfxdpOptions::default());

    assert_eq!(
        open("pod7", 0).unwrap_err().to_string(),
        "there is no interface pod7 in this network namespace"
    );
    assert_eq!(
        open("pod0", 2).unwrap_err().to_string(),
        "pod0 has 2 queues, so queue 2 cannot be bound"
    );
    let held = open("pod0", 1).unwrap();
    assert!(matches!(
        open("pod0", 1).unwrap_err(),
        BindError::Busy { queue: 1, .. }
    ));
    drop(held);
    // The kernel tears the old socket down in the background; binding waits for it.
    drop(open("pod0", 1).unwrap());
    let zero_copy = AfxdpPort::open_alone(&memory, "pod0", 0, Mode::ZeroCopy, AfxdpOptions::default());
    assert!(matches!(
        zero_copy.unwrap_err(),
        BindError::ZeroCopyRefused { .. }
    ));

    let _first = PodProgram::attach("pod0", 2).unwrap();
    assert!(matches!(
        PodProgram::attach("pod0", 2).unwrap_err(),
        AttachError::AlreadyAttached { .. }
    ));
    assert!(matches!(
        PodProgram::attach("pod7", 2).unwrap_err(),
        AttachError::NoSuchInterface { .. }
    ));
    netns::run(
        "ip link add few0 numtxqueues 1 numrxqueues 1 type veth peer name many0 numtxqueues 4 numrxqueues 4",
    );
    assert!(matches!(
        PodProgram::attach("few0", 1).unwrap_err(),
        AttachError::TooFewQueues { .. }
    ));
}

/// The kernel judges by the calling thread's effective capabilities, so a thread can give its own up.
#[test]
fn a_process_without_rights_is_told_which_one_it_needs() {
    if !root_or_skip() {
        return;
    }
    netns::enter_fresh();
    let memory = Memory::mapped(256, 2048).unwrap();
    support::drop_capabilities();
    assert_eq!(
        Umem::register(&memory, "lo", 0).unwrap_err().to_string(),
        "not permitted to open an AF_XDP socket: the process needs CAP_NET_RAW"
    );
    assert!(matches!(
        PodProgram::attach("lo", 1).unwrap_err(),
        AttachError::NotPermitted { .. }
    ));
}
