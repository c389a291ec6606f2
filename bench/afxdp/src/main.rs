//! Frames from one interface to the other, unchanged, by the crate `afxdp`: `l2-afxdp INTERFACE INTERFACE`.
//!
//! The loop is that of the crate's example for two links, but for batches that one system call sends whole. Memory is one area,
//! registered for each interface.

#[path = "../../src/binding/turns.rs"]
mod turns;

use std::process::ExitCode;

use afxdp::PENDING_LEN;
use afxdp::buf_mmap::BufMmap;
use afxdp::mmap_area::{MmapArea, MmapAreaOptions};
use afxdp::socket::{Socket, SocketOptions, SocketRx, SocketTx};
use afxdp::umem::{Umem, UmemCompletionQueue, UmemFillQueue};
use arraydeque::{ArrayDeque, Wrapping};

use turns::{Counts, serve};

const CHUNKS: usize = 16_384;
const CHUNK_LEN: usize = 4096;
const RING_SLOTS: u32 = 1024;
const BATCH: usize = 64;
/// The kernel sends so many in a call, and the crate makes one call for each batch that it sends.
const SENT_AT_ONCE: usize = 32;

/// Nothing of ours goes with a buffer.
#[derive(Clone, Copy, Default)]
struct Nothing;

struct Side {
    completion: UmemCompletionQueue<'static, Nothing>,
    fill: UmemFillQueue<'static, Nothing>,
    rx: SocketRx<'static, Nothing>,
    tx: SocketTx<'static, Nothing>,
    to_fill: usize,
}

type Pending = ArrayDeque<[BufMmap<'static, Nothing>; PENDING_LEN], Wrapping>;

fn main() -> ExitCode {
    let interfaces: Vec<String> = std::env::args().skip(1).collect();
    let [first, second] = &interfaces[..] else {
        eprintln!("l2-afxdp: two interfaces are wanted");
        return ExitCode::from(2);
    };
    match forward([first, second]) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("l2-afxdp: {error}");
            ExitCode::FAILURE
        }
    }
}

fn forward(interfaces: [&String; 2]) -> Result<(), String> {
    let area = MmapArea::new(CHUNKS, CHUNK_LEN, MmapAreaOptions { huge_tlb: true })
        .or_else(|_| MmapArea::new(CHUNKS, CHUNK_LEN, MmapAreaOptions { huge_tlb: false }));
    let (area, mut free) = area.map_err(|error| format!("memory: {error:?}"))?;
    let mut sides = Vec::new();
    for interface in interfaces {
        let umem = Umem::new(area.clone(), RING_SLOTS, RING_SLOTS);
        let (umem, completion, mut fill) = umem.map_err(|error| format!("memory: {error}"))?;
        let options = SocketOptions {
            copy_mode: true,
            ..SocketOptions::default()
        };
        let socket = Socket::new(umem, interface, 0, RING_SLOTS, RING_SLOTS, options);
        let (_, rx, tx) = socket.map_err(|error| format!("{interface}: {error}"))?;
        fill.fill(&mut free, RING_SLOTS as usize)
            .map_err(|error| format!("{interface}: {error}"))?;
        sides.push(Side {
            completion,
            fill,
            rx,
            tx,
            to_fill: 0,
        });
    }
    let mut pending: [Pending; 2] = [ArrayDeque::new(), ArrayDeque::new()];
    let served = serve(|counts| {
        for (from, to) in [(0, 1), (1, 0)] {
            pass(&mut sides, (from, to), &mut pending[from], &mut free, counts);
        }
    });
    served.map_err(|error| error.to_string())
}

fn pass(
    sides: &mut [Side],
    (from, to): (usize, usize),
    pending: &mut Pending,
    free: &mut Vec<BufMmap<'static, Nothing>>,
    counts: &mut Counts,
) {
    let side = &mut sides[from];
    side.completion
        .service(free, BATCH)
        .expect("completions can always be taken");
    let received = side
        .rx
        .try_recv(pending, BATCH, Nothing)
        .expect("a ring can always be looked at");
    counts.rx += received as u64;
    side.to_fill += received;
    while !pending.is_empty() {
        let Ok(sent @ 1..) = sides[to].tx.try_send(pending, SENT_AT_ONCE) else {
            // Its ring is full: they are tried again in the next pass.
            break;
        };
        counts.tx += sent as u64;
    }
    let side = &mut sides[from];
    if side.to_fill >= BATCH / 2 {
        side.to_fill -= side
            .fill
            .fill(free, side.to_fill)
            .expect("a ring can always be filled");
    }
}
