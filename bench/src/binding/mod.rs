//! `l2-forward`: frames from one interface to the other, unchanged, by Ringway's own sockets and nothing else. A contender of
//! `bench live --case binding`, whose other programs are `bench/xsk-rs` and `bench/afxdp`.

mod turns;

use anyhow::{Context as _, Result};
use fastpath::io::afxdp::{AfxdpOptions, AfxdpPort, Umem};
use fastpath::io::bpf::PodProgram;
use fastpath::io::{BATCH_MAX, Memory, PacketIo as _};
use turns::{Counts, serve};

/// Arguments of `bench l2-forward`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// The interfaces, each with one queue.
    #[arg(num_args = 2, required = true)]
    interfaces: Vec<String>,
}

/// As the default of the daemon.
const CHUNKS: usize = 16_384;
const CHUNK_LEN: usize = 4096;

/// Forwards in the turns that standard input tells.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut memory = Memory::mapped(CHUNKS, CHUNK_LEN)?;
    let umem = Umem::register(&memory, "lo", 0)?;
    // They forward every frame as it is, checksums too.
    let options = AfxdpOptions {
        partial_checksums: false,
        ..AfxdpOptions::default()
    };
    let mut ports = Vec::new();
    let mut programs = Vec::new();
    for interface in &args.interfaces {
        let program = PodProgram::attach(interface, 1)?;
        let mut port = AfxdpPort::open(&umem, interface, 0, options)?;
        // It lends the kernel chunks to receive into.
        let early = port.rx(&mut memory, &mut Vec::new(), 0);
        debug_assert_eq!(early, 0, "no room was given");
        program
            .set_socket(0, port.socket())
            .with_context(|| format!("directing {interface} to its socket"))?;
        ports.push(port);
        programs.push(program);
    }
    let mut frames = Vec::with_capacity(BATCH_MAX);
    serve(|counts| {
        for (from, to) in [(0, 1), (1, 0)] {
            let received = ports[from].rx(&mut memory, &mut frames, BATCH_MAX);
            if received == 0 {
                continue;
            }
            let sent = ports[to].tx(&mut memory, &mut frames);
            for frame in frames.drain(..) {
                memory.release(frame);
            }
            *counts = Counts {
                rx: counts.rx + received as u64,
                tx: counts.tx + sent as u64,
                dropped: counts.dropped + (received - sent) as u64,
            };
        }
    })?;
    drop(programs);
    for port in &mut ports {
        port.close(&mut memory);
    }
    Ok(())
}
