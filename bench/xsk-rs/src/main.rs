//! Frames from one interface to the other, unchanged, by the crate `xsk-rs`: `l2-xsk-rs INTERFACE INTERFACE`.
//!
//! Both sockets share one UMEM, so that a frame moves by its descriptor. The crate's XDP program is its own.

#[path = "../../src/binding/turns.rs"]
mod turns;

use std::error::Error;
use std::num::NonZeroU32;
use std::process::ExitCode;

use xsk_rs::config::{BindFlags, FrameSize, QueueSize, SocketConfig, UmemConfig, XdpFlags};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use turns::{Counts, serve};

const CHUNKS: u32 = 16_384;
const CHUNK_LEN: u32 = 4096;
const RING_SLOTS: u32 = 1024;
const BATCH: usize = 64;
/// The kernel sends so many in a call.
const SENT_AT_ONCE: usize = 32;

struct Side {
    tx: TxQueue,
    rx: RxQueue,
    fill: FillQueue,
    completion: CompQueue,
}

fn main() -> ExitCode {
    let interfaces: Vec<String> = std::env::args().skip(1).collect();
    let [first, second] = &interfaces[..] else {
        eprintln!("l2-xsk-rs: two interfaces are wanted");
        return ExitCode::from(2);
    };
    match forward([first, second]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let source = error.source().map(ToString::to_string).unwrap_or_default();
            eprintln!("l2-xsk-rs: {error} {source}");
            ExitCode::FAILURE
        }
    }
}

fn forward(interfaces: [&String; 2]) -> Result<(), Box<dyn Error>> {
    let slots = QueueSize::new(RING_SLOTS)?;
    let umem_config = UmemConfig::builder()
        .frame_size(FrameSize::new(CHUNK_LEN)?)
        .fill_queue_size(slots)
        .comp_queue_size(slots)
        .build()?;
    let count = NonZeroU32::new(CHUNKS).expect("CHUNKS is not zero");
    let (umem, mut free) =
        Umem::new(umem_config, count, true).or_else(|_| Umem::new(umem_config, count, false))?;
    let mut sides = Vec::new();
    for interface in interfaces {
        let config = SocketConfig::builder()
            .rx_queue_size(slots)
            .tx_queue_size(slots)
            .xdp_flags(XdpFlags::XDP_FLAGS_DRV_MODE)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: each interface is bound once.
        let (tx, rx, rings) = unsafe { Socket::new(config, &umem, &interface.parse()?, 0)? };
        let (mut fill, completion) = rings.ok_or("an interface comes with its rings")?;
        let first = free.split_off(free.len() - RING_SLOTS as usize);
        // SAFETY: of this UMEM, and off the free list, which was the only place they were in.
        if unsafe { fill.produce(&first) } != first.len() {
            return Err("the fill ring took less than it has room for".into());
        }
        sides.push(Side {
            tx,
            rx,
            fill,
            completion,
        });
    }
    serve(|counts| {
        for (from, to) in [(0, 1), (1, 0)] {
            pass(&mut sides, (from, to), &mut free, counts);
        }
    })?;
    Ok(())
}

fn pass(sides: &mut [Side], (from, to): (usize, usize), free: &mut Vec<FrameDesc>, counts: &mut Counts) {
    let mut frames = [FrameDesc::default(); BATCH];
    // SAFETY: the ring is of the one UMEM; the descriptors only receive what it holds.
    let received = unsafe { sides[from].rx.consume(&mut frames) };
    if received > 0 {
        counts.rx += received as u64;
        for part in frames[..received].chunks(SENT_AT_ONCE) {
            let tx = &mut sides[to].tx;
            // SAFETY: of the one UMEM, and in no ring since they were consumed.
            let sent = unsafe { tx.produce(part) };
            if tx.needs_wakeup() {
                // An error is told by frames that don't complete.
                let _ = tx.wakeup();
            }
            counts.tx += sent as u64;
            counts.dropped += (part.len() - sent) as u64;
            free.extend_from_slice(&part[sent..]);
        }
        let count = received.min(free.len());
        let lent = free.split_off(free.len() - count);
        // SAFETY: of the one UMEM, and in no ring: they were on the free list alone.
        let taken = unsafe { sides[from].fill.produce(&lent) };
        free.extend_from_slice(&lent[taken..]);
    }
    // SAFETY: as for the RX ring.
    let done = unsafe { sides[to].completion.consume(&mut frames) };
    free.extend_from_slice(&frames[..done]);
}
