//! What every port must do, whatever is behind it.
#![allow(clippy::unwrap_used, clippy::needless_for_each, reason = "a test")]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "small numbers")]

mod support;

use std::{
    collections::VecDeque,
    io::{Cursor, Write},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use etherparse::PacketBuilder;
use fastpath::io::{
    Checksum, Frame, Memory, PacketIo, RingPort,
    afxdp::{AfxdpOptions, AfxdpPort, Umem},
    bpf::PodProgram,
    fault::{Fault, Faults},
    pcap::{CapturePort, CaptureReader, PcapngWriter, Record},
    tap::Tap,
};
use support::{netns, packet_socket::PacketSocket, root_or_skip};

/// A port, the memory of its worker, and the other end of its wire.
trait Harness {
    type Port: PacketIo;

    fn parts(&mut self) -> (&mut Self::Port, &mut Memory);

    /// A packet arrives.
    fn deliver(&mut self, packet: &[u8]);

    /// The next packet that left the port, `None` when there is none.
    fn sent(&mut self) -> Option<Vec<u8>>;

    /// Something that makes packets arrive from another thread.
    fn injector(&mut self) -> Option<Box<dyn FnOnce(Vec<u8>) + Send>>;

    /// Frames that the TX ring holds while nothing leaves it, if there is such a limit; from now on nothing leaves.
    fn stall(&mut self) -> Option<usize>;

    /// Packets leave again.
    fn resume(&mut self) {}
}

const DEADLINE: Duration = Duration::from_secs(10);

/// Packets of an experimental `EtherType` (IEEE 802), told apart by their number.
fn packet(number: u32, len: usize) -> Vec<u8> {
    let mut packet = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x88, 0xb5];
    packet.extend(number.to_be_bytes());
    packet.extend(
        (0..)
            .map(|i: u32| (i ^ number.wrapping_mul(31)) as u8)
            .take(len - packet.len()),
    );
    packet
}

fn receive<H: Harness>(harness: &mut H, count: usize) -> Vec<Frame> {
    let (mut frames, start) = (Vec::new(), Instant::now());
    while frames.len() < count && start.elapsed() < DEADLINE {
        let (port, memory) = harness.parts();
        let room = (count - frames.len()).min(7);
        if port.rx(memory, &mut frames, room) == 0 {
            H::Port::wait(&mut [port], Duration::from_millis(50));
        }
    }
    assert_eq!(frames.len(), count, "frames received");
    frames
}

fn send_all<H: Harness>(harness: &mut H, mut frames: Vec<Frame>) -> Vec<Vec<u8>> {
    let (mut sent, start) = (Vec::new(), Instant::now());
    while !frames.is_empty() && start.elapsed() < DEADLINE {
        let (port, memory) = harness.parts();
        if port.tx(memory, &mut frames) == 0 {
            sent.extend(harness.sent());
        }
    }
    assert!(frames.is_empty(), "{} frames left", frames.len());
    sent
}

fn collect_sent<H: Harness>(harness: &mut H, sent: &mut Vec<Vec<u8>>, count: usize) {
    while sent.len() < count {
        sent.push(
            harness
                .sent()
                .unwrap_or_else(|| panic!("packet {} of {count} left the port", sent.len() + 1)),
        );
    }
}

/// Every chunk is back when the port is closed: free + in rings = all.
fn assert_no_leak<H: Harness>(harness: &mut H) {
    let start = Instant::now();
    loop {
        let (port, memory) = harness.parts();
        let missing = port.close(memory);
        if missing == 0 || start.elapsed() > DEADLINE {
            assert_eq!(
                (missing, memory.free_chunks()),
                (0, memory.chunks()),
                "chunks leaked"
            );
            return;
        }
        thread::yield_now();
    }
}

fn received_frames_are_byte_equal_and_in_order(harness: &mut impl Harness) {
    let packets: Vec<_> = (0..300)
        .map(|i| packet(i, 60 + (i as usize * 37) % 1455))
        .collect();
    // In portions that fit what a port keeps with the kernel.
    for portion in packets.chunks(50) {
        // What the port does before it first sees a frame.
        let (port, memory) = harness.parts();
        assert_eq!(port.rx(memory, &mut Vec::new(), 0), 0);
        portion.iter().for_each(|packet| harness.deliver(packet));
        let frames = receive(harness, portion.len());
        let memory = harness.parts().1;
        for (frame, packet) in frames.into_iter().zip(portion) {
            assert_eq!(memory.to_vec(&frame), *packet);
            memory.release(frame);
        }
    }
    assert_no_leak(harness);
}

fn sent_frames_are_byte_equal_and_in_order(harness: &mut impl Harness) {
    let packets: Vec<_> = (0..200)
        .map(|i| packet(i, 60 + (i as usize * 41) % 1455))
        .collect();
    for portion in packets.chunks(100) {
        let memory = harness.parts().1;
        let frames = portion
            .iter()
            .map(|packet| memory.allocate_copy(packet).unwrap())
            .collect();
        let mut sent = send_all(harness, frames);
        collect_sent(harness, &mut sent, portion.len());
        assert_eq!(sent, portion);
    }
    assert_no_leak(harness);
}

fn a_full_ring_leaves_the_rest_with_the_caller(harness: &mut impl Harness) {
    let Some(slots) = harness.stall() else { return };
    let count = slots + 5;
    let packets: Vec<_> = (0..count as u32).map(|i| packet(i, 80)).collect();
    let (port, memory) = harness.parts();
    let mut frames: Vec<_> = packets
        .iter()
        .map(|packet| memory.allocate_copy(packet).unwrap())
        .collect();
    assert_eq!(port.tx(memory, &mut frames), slots);
    assert_eq!(frames.len(), 5);
    assert_eq!(
        memory.to_vec(&frames[0]),
        packets[slots],
        "those at the front were taken"
    );
    assert_eq!(port.tx(memory, &mut frames), 0);
    harness.resume();
    // A worker that has nothing else to do polls its ports; that is enough to send what waits.
    let (port, memory) = harness.parts();
    port.rx(memory, &mut Vec::new(), 0);
    let mut sent = send_all(harness, frames);
    collect_sent(harness, &mut sent, count);
    assert_eq!(sent, packets);
    assert_no_leak(harness);
}

fn wait_ends_on_arrival_or_timeout(harness: &mut impl Harness) {
    let Some(inject) = harness.injector() else { return };
    let (port, memory) = harness.parts();
    assert_eq!(port.rx(memory, &mut Vec::new(), 8), 0);
    let start = Instant::now();
    PacketIo::wait(&mut [port], Duration::from_millis(30));
    assert!(
        start.elapsed() >= Duration::from_millis(30),
        "returned early: {:?}",
        start.elapsed()
    );

    let start = Instant::now();
    let other = thread::spawn(move || inject(packet(1, 100)));
    let (port, _) = harness.parts();
    PacketIo::wait(&mut [port], Duration::from_mins(1));
    assert!(start.elapsed() < DEADLINE, "slept over an arrival");
    let frames = receive(harness, 1);
    other.join().unwrap();
    frames
        .into_iter()
        .for_each(|frame| harness.parts().1.release(frame));
    assert_no_leak(harness);
}

fn the_longest_frame_passes_both_ways(harness: &mut impl Harness) {
    let capabilities = harness.parts().0.capabilities();
    let chunk_room = harness.parts().1.chunk_len() - fastpath::io::frame::HEADROOM;
    let longest = if capabilities.multi_buffer {
        usize::MAX
    } else {
        chunk_room
    };
    let len = longest.min(capabilities.frame_len_max as usize).min(9014);
    let jumbo = packet(7, len);
    let (port, memory) = harness.parts();
    port.rx(memory, &mut Vec::new(), 0);
    harness.deliver(&jumbo);
    let frames = receive(harness, 1);
    let memory = harness.parts().1;
    assert_eq!(frames[0].len(), len);
    assert_eq!(memory.to_vec(&frames[0]), jumbo);
    assert_eq!(frames[0].is_chain(), len > chunk_room);
    let mut sent = send_all(harness, frames);
    collect_sent(harness, &mut sent, 1);
    assert_eq!(sent[0], jumbo);
    assert_no_leak(harness);
}

fn partial_checksums_are_completed(harness: &mut impl Harness) {
    if !harness.parts().0.capabilities().tx_checksum {
        return;
    }
    for payload_len in [1, 333] {
        let mut whole = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4)
            .write(&mut whole, &vec![0x5a; payload_len])
            .unwrap();
        let mut partial = whole.clone();
        let sum = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 6 + (whole.len() as u16 - 34);
        partial[50..52].copy_from_slice(&sum.to_be_bytes());
        let memory = harness.parts().1;
        let mut frame = memory.allocate_copy(&partial).unwrap();
        frame.checksum = Checksum::Partial {
            start: 34,
            offset: 16,
        };
        let mut sent = send_all(harness, vec![frame]);
        collect_sent(harness, &mut sent, 1);
        assert_eq!(sent[0], whole);
    }
    assert_no_leak(harness);
}

/// The suite, for a harness that may be missing on this machine.
macro_rules! conformance {
    ($port:ident, $harness:expr) => {
        mod $port {
            use super::*;

            conformance!(@each $harness, received_frames_are_byte_equal_and_in_order
                sent_frames_are_byte_equal_and_in_order a_full_ring_leaves_the_rest_with_the_caller
                wait_ends_on_arrival_or_timeout the_longest_frame_passes_both_ways partial_checksums_are_completed);
        }
    };
    (@each $harness:expr, $($test:ident)*) => {$(
        #[test]
        fn $test() {
            if let Some(mut harness) = $harness {
                super::$test(&mut harness);
            }
        }
    )*};
}

conformance!(ring, RingHarness::around(|ring| ring));
conformance!(
    tap,
    RingHarness::around(|ring| {
        let out: Box<dyn Write + Send> = Box::new(std::io::sink());
        Tap::new(
            ring,
            Arc::new(Mutex::new(PcapngWriter::new(out, ["uplink"]).unwrap())),
            0,
        )
    })
);
conformance!(
    fault,
    RingHarness::around(|ring| Fault::new(ring, Faults::default(), 1))
);
conformance!(pcap, Some(CaptureHarness::new()));
conformance!(afxdp, AfxdpHarness::new(1500, 2048));
conformance!(afxdp_jumbo, AfxdpHarness::new(9000, 4096));

#[cfg(feature = "xsk-rs")]
conformance!(xsk_rs, xsk_rs_harness::XskRsHarness::new());

/// A ring, or a wrapper around one.
struct RingHarness<P> {
    port: P,
    memory: Memory,
}

trait AroundRing: PacketIo {
    fn ring(&mut self) -> &mut RingPort;
}

impl AroundRing for RingPort {
    fn ring(&mut self) -> &mut RingPort {
        self
    }
}

impl AroundRing for Tap<RingPort> {
    fn ring(&mut self) -> &mut RingPort {
        self.inner_mut()
    }
}

impl AroundRing for Fault<RingPort> {
    fn ring(&mut self) -> &mut RingPort {
        self.inner_mut()
    }
}

const RING_SLOTS: usize = 64;

impl<P: AroundRing> RingHarness<P> {
    #[expect(clippy::unnecessary_wraps, reason = "as the harnesses that may be missing")]
    fn around(wrap: impl FnOnce(RingPort) -> P) -> Option<Self> {
        Some(Self {
            port: wrap(RingPort::new(RING_SLOTS)),
            memory: Memory::heap(512, 2048),
        })
    }
}

impl<P: AroundRing> Harness for RingHarness<P> {
    type Port = P;

    fn parts(&mut self) -> (&mut P, &mut Memory) {
        (&mut self.port, &mut self.memory)
    }

    fn deliver(&mut self, packet: &[u8]) {
        assert!(self.port.ring().feed_copy(&mut self.memory, packet, 5));
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.port.ring().take_sent_bytes(&mut self.memory)
    }

    fn injector(&mut self) -> Option<Box<dyn FnOnce(Vec<u8>) + Send>> {
        let injector = self.port.ring().injector();
        Some(Box::new(move |packet| injector.inject(&packet)))
    }

    fn stall(&mut self) -> Option<usize> {
        Some(RING_SLOTS)
    }
}

/// A capture in memory as input, another as output.
struct CaptureHarness {
    memory: Memory,
    port: CapturePort,
    input: PcapngWriter<Vec<u8>>,
    output: Output,
    taken: VecDeque<Vec<u8>>,
    given: usize,
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl CaptureHarness {
    fn new() -> Self {
        let output = Output::default();
        let boxed: Box<dyn Write + Send> = Box::new(output.clone());
        let writer = Arc::new(Mutex::new(PcapngWriter::new(boxed, ["uplink"]).unwrap()));
        Self {
            memory: Memory::heap(512, 2048),
            port: CapturePort::closed().with_sink(writer, 0),
            input: PcapngWriter::new(Vec::new(), ["other", "uplink"]).unwrap(),
            output,
            taken: VecDeque::new(),
            given: 0,
        }
    }
}

impl Harness for CaptureHarness {
    type Port = CapturePort;

    fn parts(&mut self) -> (&mut CapturePort, &mut Memory) {
        if self.port.is_exhausted() && self.input.packets() > 0 {
            let fresh = PcapngWriter::new(Vec::new(), ["other", "uplink"]).unwrap();
            let bytes = std::mem::replace(&mut self.input, fresh).into_inner().unwrap();
            let reader = CaptureReader::new(Box::new(Cursor::new(bytes)), Path::new("in")).unwrap();
            let port = std::mem::replace(&mut self.port, CapturePort::closed());
            self.port = port.with_source(reader, Some("uplink"));
        }
        (&mut self.port, &mut self.memory)
    }

    fn deliver(&mut self, packet: &[u8]) {
        self.input.write(0, 1, b"of another interface", None).unwrap();
        self.input.write(1, 2, packet, None).unwrap();
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        let bytes = self.output.0.lock().unwrap().clone();
        let mut reader = CaptureReader::new(Box::new(Cursor::new(bytes)), Path::new("out")).unwrap();
        let mut record = Record::default();
        for _ in 0..=self.given {
            if !reader.read_into(&mut record).unwrap() {
                return self.taken.pop_front();
            }
        }
        self.given += 1;
        Some(record.bytes)
    }

    fn injector(&mut self) -> Option<Box<dyn FnOnce(Vec<u8>) + Send>> {
        None
    }

    fn stall(&mut self) -> Option<usize> {
        None
    }
}

/// An `AF_XDP` socket on one end of a veth pair, a packet socket on the other.
struct AfxdpHarness {
    port: AfxdpPort,
    _program: PodProgram,
    _umem: Umem,
    memory: Memory,
    wire: PacketSocket,
}

const TX_SLOTS: u32 = 64;

impl AfxdpHarness {
    fn new(mtu: u32, chunk_len: usize) -> Option<Self> {
        if !root_or_skip() {
            return None;
        }
        netns::enter_fresh();
        netns::quiet_veth("port0", "wire0", 1, mtu);
        // A link that completes checksums, as a NIC's does: the kernel does it in software for an interface without the feature.
        netns::run("ethtool -K port0 tx off");
        let memory = Memory::mapped(512, chunk_len).unwrap();
        let umem = Umem::register(&memory, "lo", 0).unwrap();
        let options = AfxdpOptions {
            tx_slots: TX_SLOTS,
            ..AfxdpOptions::default()
        };
        let program = PodProgram::attach("port0", 1).unwrap();
        let port = AfxdpPort::open(&umem, "port0", 0, options).unwrap();
        program.set_socket(0, port.socket()).unwrap();
        Some(Self {
            port,
            _program: program,
            _umem: umem,
            memory,
            wire: PacketSocket::bind("wire0"),
        })
    }
}

impl Harness for AfxdpHarness {
    type Port = AfxdpPort;

    fn parts(&mut self) -> (&mut AfxdpPort, &mut Memory) {
        (&mut self.port, &mut self.memory)
    }

    fn deliver(&mut self, packet: &[u8]) {
        self.wire.send(packet);
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        self.wire.receive(Duration::from_secs(2))
    }

    fn injector(&mut self) -> Option<Box<dyn FnOnce(Vec<u8>) + Send>> {
        let wire = self.wire.clone();
        Some(Box::new(move |packet| wire.send(&packet)))
    }

    fn stall(&mut self) -> Option<usize> {
        netns::run("ip link set port0 down");
        Some(TX_SLOTS as usize)
    }

    fn resume(&mut self) {
        netns::run("ip link set port0 up");
    }
}

/// As [`AfxdpHarness`], by way of `xsk-rs`.
#[cfg(feature = "xsk-rs")]
mod xsk_rs_harness {
    use fastpath::io::xsk_rs::XskRsPort;

    use super::*;

    pub(crate) struct XskRsHarness {
        port: XskRsPort,
        _program: PodProgram,
        memory: Memory,
        wire: PacketSocket,
    }

    impl XskRsHarness {
        pub(crate) fn new() -> Option<Self> {
            if !root_or_skip() {
                return None;
            }
            netns::enter_fresh();
            netns::quiet_veth("port0", "wire0", 1, 1500);
            let program = PodProgram::attach("port0", 1).unwrap();
            let port = XskRsPort::open("port0", 0, TX_SLOTS).unwrap();
            program.set_socket(0, port.socket()).unwrap();
            let memory = Memory::heap(512, 2048);
            Some(Self {
                port,
                _program: program,
                memory,
                wire: PacketSocket::bind("wire0"),
            })
        }
    }

    impl Harness for XskRsHarness {
        type Port = XskRsPort;

        fn parts(&mut self) -> (&mut XskRsPort, &mut Memory) {
            (&mut self.port, &mut self.memory)
        }

        fn deliver(&mut self, packet: &[u8]) {
            self.wire.send(packet);
        }

        fn sent(&mut self) -> Option<Vec<u8>> {
            self.wire.receive(Duration::from_secs(2))
        }

        fn injector(&mut self) -> Option<Box<dyn FnOnce(Vec<u8>) + Send>> {
            let wire = self.wire.clone();
            Some(Box::new(move |packet| wire.send(&packet)))
        }

        fn stall(&mut self) -> Option<usize> {
            netns::run("ip link set port0 down");
            Some(TX_SLOTS as usize)
        }

        fn resume(&mut self) {
            netns::run("ip link set port0 up");
        }
    }
}
