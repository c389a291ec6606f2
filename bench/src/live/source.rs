//! The source of packets, the same for every forwarder: XDP frames made inside the kernel and sent out of a pod's link.
//!
//! `BPF_PROG_TEST_RUN` with live frames costs a quarter of what a socket's packets cost, so that on another CPU than the
//! forwarder's it is faster than anything that has to make a socket buffer of each packet.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::Array;
use aya::programs::{ProgramError, TestRun as _, Xdp};
use aya::{EbpfLoader, TestRunAttrs, TestRunOptions};
use etherparse::PacketBuilder;
use fastpath::io::netns::NetworkNamespace;
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::Signal;
use signal_hook::consts::SIGUSR1;

use super::machine;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../bpf/source.bpf.o");

/// Flows that packets belong to in turns; the program writes the source port.
pub(crate) const FLOWS: u32 = 64;
/// The source port of the first flow, as in `source.bpf.c`.
pub(crate) const FIRST_PORT: u16 = 20_000;
/// Bytes of Ethernet, IPv4 and UDP, which the program writes: a page that comes again holds what its forwarder wrote.
const HEADERS: usize = 14 + 20 + 8;
/// The kernel makes and sends so many frames at a time.
const BATCH: u32 = 64;
/// How often a run that is to end is told so.
const TELL: Duration = Duration::from_millis(1);

/// Where packets come from and go to, as they leave the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) port: u16,
}

/// What one run offers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Load {
    /// Packets a second; none: all that the source can.
    pub(crate) rate: Option<u32>,
    /// Packets at most.
    pub(crate) count: Option<u64>,
    pub(crate) length: Duration,
}

/// A loaded program with its frame.
pub(crate) struct Source {
    object: aya::Ebpf,
    netns: NetworkNamespace,
    frame: Vec<u8>,
}

impl Source {
    /// Sends out of `eth0` of `netns`, frames of `len` bytes.
    pub(crate) fn new(netns: NetworkNamespace, route: Route, len: usize) -> Result<Self> {
        // The signal that ends a run only has to interrupt the kernel: nobody looks at the flag.
        signal_hook::flag::register(SIGUSR1, Arc::default()).context("catching signals")?;
        let index = netns.run(|| nix::net::if_::if_nametoindex("eth0"))??;
        let frame = frame(route, len)?;
        let head = frame.first_chunk::<HEADERS>().context("a frame has headers")?;
        let mut object = EbpfLoader::new()
            .override_global("interface", &index, true)
            .override_global("flows", &FLOWS, true)
            .override_global("head", &head[..], true)
            .load(OBJECT)
            .context("the program of the source")?;
        program(&mut object)?
            .load()
            .context("loading the program of the source")?;
        Ok(Self { object, netns, frame })
    }

    /// Sends on a CPU of its own, while `meanwhile` runs on this thread. Gives the frames sent.
    ///
    /// A call into the kernel costs some ten milliseconds before and after its frames, so one call lasts for the whole run and
    /// is ended by a signal.
    pub(crate) fn run<T>(&mut self, load: Load, meanwhile: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let over = AtomicBool::new(false);
        let Self {
            object, netns, frame, ..
        } = self;
        state(object)?.set(0, [load.interval(), load.count.unwrap_or(u64::MAX), 0, 0], 0)?;
        let (whose, told) = std::sync::mpsc::channel();
        let done = thread::scope(|scope| {
            let sending = scope.spawn(|| {
                netns.run(|| {
                    machine::pin(machine::source_cpu())?;
                    // Gone: nobody waits for us any more.
                    let _ = whose.send(pthread_self());
                    send(program(object)?, frame, &over)
                })?
            });
            let done = meanwhile();
            // Relaxed: it has nothing to show to the one that sends.
            over.store(true, Relaxed);
            let thread: Option<Pthread> = told.recv().ok();
            while !sending.is_finished() {
                if let Some(thread) = thread {
                    // Ended meanwhile: nothing to signal.
                    let _ = pthread_kill(thread, Signal::SIGUSR1);
                }
                thread::sleep(TELL);
            }
            sending.join().ok().context("the source's thread")??;
            done
        })?;
        let [_, _, sent, _] = state(&mut self.object)?.get(&0, 0)?;
        Ok((sent, done))
    }
}

impl Load {
    /// Nanoseconds between packets, 0 for none.
    fn interval(&self) -> u64 {
        self.rate.map_or(0, |rate| 1_000_000_000 / u64::from(rate.max(1)))
    }
}

fn program(object: &mut aya::Ebpf) -> Result<&mut Xdp> {
    let program = object.program_mut("source").context("the object's one program")?;
    Ok(program.try_into()?)
}

/// `struct run` of the program: interval, quota, sent, due.
fn state(object: &mut aya::Ebpf) -> Result<Array<&mut aya::maps::MapData, [u64; 4]>> {
    let map = object.map_mut("runs").context("the object's one map")?;
    Ok(Array::try_from(map)?)
}

fn send(program: &Xdp, frame: &[u8], over: &AtomicBool) -> Result<()> {
    // Relaxed: as where it is stored.
    while !over.load(Relaxed) {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: i32::MAX as u32,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        };
        match program.test_run(options) {
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("sending live XDP frames"),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// A UDP frame of `len` bytes, without a checksum: the program changes its source port.
fn frame(route: Route, len: usize) -> Result<Vec<u8>> {
    ensure!(
        len >= HEADERS,
        "a frame of {len} bytes has no room for its headers"
    );
    let pod_mac = |address: Ipv4Addr| {
        let [a, b, c, d] = address.octets();
        [2, 1, a, b, c, d]
    };
    let builder = PacketBuilder::ethernet2(pod_mac(route.from), [0xee; 6])
        .ipv4(route.from.octets(), route.to.octets(), 64)
        .udp(FIRST_PORT, route.port);
    let payload: Vec<u8> = (0..len - HEADERS).map(|n| n as u8).collect();
    let mut frame = Vec::with_capacity(len);
    builder.write(&mut frame, &payload)?;
    frame[40..42].fill(0);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use etherparse::SlicedPacket;

    use super::*;

    /// The committed object is what `make` builds of its source, where the compiler that made it is at hand.
    #[test]
    fn the_committed_program_is_built_from_its_source() {
        let version = Command::new("clang").arg("--version").output();
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        if !version.unwrap_or_default().contains("version 14.") || !machine::has_program("llvm-strip") {
            println!("SKIPPED: needs clang 14 and llvm-strip, which made the committed object");
            return;
        }
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("bpf");
        let copy = tempfile::tempdir().unwrap();
        for name in ["Makefile", "source.bpf.c"] {
            fs::copy(folder.join(name), copy.path().join(name)).unwrap();
        }
        let made = Command::new("make").current_dir(copy.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |folder: &Path| fs::read(folder.join("source.bpf.o")).unwrap();
        assert!(
            read(copy.path()) == read(&folder),
            "the object differs: run `make` in bench/bpf and commit it"
        );
    }

    #[test]
    fn a_frame_is_as_long_as_asked_and_has_no_udp_checksum() {
        let route = Route {
            from: [10, 244, 1, 10].into(),
            to: [10, 96, 0, 20].into(),
            port: 90,
        };
        for len in [60, 64, 1464] {
            let frame = frame(route, len).unwrap();
            assert_eq!(frame.len(), len);
            let parsed = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::TransportSlice::Udp(udp)) = parsed.transport else {
                panic!("no UDP in {parsed:?}")
            };
            assert_eq!(
                (udp.source_port(), udp.destination_port(), udp.checksum()),
                (FIRST_PORT, 90, 0)
            );
            assert_eq!(usize::from(udp.length()), len - 34);
            // The pod's own MAC, without which antispoofing drops it.
            assert_eq!(frame[6..12], [2, 1, 10, 244, 1, 10]);
        }
        assert!(frame(route, 20).is_err());
    }
}
