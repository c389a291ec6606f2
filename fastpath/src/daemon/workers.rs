//! Worker threads: each with its memory, its UMEM and its CPU. One that panics ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use core_affinity::CoreId;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::config::Config;
use crate::io::afxdp::{BindError, QueueGroup, Umem};
use crate::io::region::RegionError;
use crate::io::{Memory, clock};
use crate::netlink::veth::{self, VethError};
use crate::observe::Unobserved;
use crate::shared::Shared;
use crate::worker::{Handle, RunConfig, Worker, WorkerConfig};

/// One worker's thread, and how to reach it.
pub(super) struct WorkerThread {
    /// Commands, counters, waking.
    pub(super) handle: Handle<QueueGroup>,
    /// Its memory as the kernel knows it: ports are opened over it.
    pub(super) umem: Umem,
    /// The CPU that it is pinned to.
    pub(super) cpu: Option<usize>,
    /// Chunks of its memory.
    pub(super) chunks: usize,
    /// Pages that its memory lies on.
    pub(super) pages: String,
    thread: JoinHandle<()>,
}

/// Why the workers can't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkersError {
    /// No memory for frames.
    #[error(transparent)]
    Memory(#[from] RegionError),
    /// The kernel does not take the memory.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The interface that anchors the memory can't be made.
    #[error(transparent)]
    Anchor(#[from] VethError),
    /// No thread.
    #[error("a worker thread can't be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Interfaces that anchor the UMEMs of several workers, a queue for each; `lo` has but one.
const ANCHOR: [&str; 2] = ["ringway-anchor", "ringway-anchor2"];

/// Starts all workers. They poll no port yet.
pub(super) fn start(
    config: &Config,
    shared: &Arc<Shared>,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<WorkerThread>, WorkersError> {
    let count = config.workers.count;
    let anchor = if count == 1 {
        "lo"
    } else {
        veth::ensure(ANCHOR[0], ANCHOR[1], count as u32, 1500)?;
        ANCHOR[0]
    };
    let cpus = cpus(config);
    (0..count)
        .map(|seat| start_one(config, seat, anchor, cpus.get(seat).copied(), shared, stop))
        .collect()
}

/// Keeps the calling thread, and those that it starts, off the workers' CPUs, where the process may use another one: a worker that
/// polls would leave it, and it the worker, a time slice at a time.
pub(super) fn stay_beside(workers: &[WorkerThread]) {
    let this_thread = Pid::from_raw(0);
    let taken: Vec<usize> = workers.iter().filter_map(|worker| worker.cpu).collect();
    let outcome = sched_getaffinity(this_thread).and_then(|allowed| match beside(&allowed, &taken)? {
        Some(others) => sched_setaffinity(this_thread, &others),
        None => Ok(()),
    });
    if let Err(error) = outcome {
        tracing::warn!(%error, "the config thread shares the workers' CPUs");
    }
}

/// Of `allowed` without `taken`; `None` where nothing is left.
fn beside(allowed: &CpuSet, taken: &[usize]) -> nix::Result<Option<CpuSet>> {
    let mut others = CpuSet::new();
    let mut is_empty = true;
    for cpu in 0..CpuSet::count() {
        if allowed.is_set(cpu)? && !taken.contains(&cpu) {
            others.set(cpu)?;
            is_empty = false;
        }
    }
    Ok((!is_empty).then_some(others))
}

/// Ends all workers and waits for them.
pub(super) fn stop(workers: Vec<WorkerThread>, stop: &AtomicBool) {
    // Relaxed: the workers have nothing to read that was written before.
    stop.store(true, Ordering::Relaxed);
    for worker in &workers {
        worker.handle.wake();
    }
    for worker in workers {
        // A panic has ended the process already.
        let _ = worker.thread.join();
    }
}

fn start_one(
    config: &Config,
    seat: usize,
    anchor: &str,
    cpu: Option<CoreId>,
    shared: &Arc<Shared>,
    stop: &Arc<AtomicBool>,
) -> Result<WorkerThread, WorkersError> {
    let memory = Memory::mapped(config.memory.chunks_per_worker, config.memory.chunk_bytes)?;
    let umem = Umem::register(&memory, anchor, seat as u16)?;
    let (chunks, pages) = (memory.chunks(), format!("{:?}", memory.region().pages()));
    let worker_config = WorkerConfig {
        seat,
        workers: config.workers.count,
        seed: clock::monotonic_ns() ^ (seat as u64) << 56,
        punt_to_host_mac: true,
    };
    let run = RunConfig {
        busy_poll: Duration::from_micros(config.workers.busy_poll_us),
        ..RunConfig::default()
    };
    let icmp_errors_per_second = config.limits.icmp_errors_per_second_max;
    let (shared, stop) = (Arc::clone(shared), Arc::clone(stop));
    let (handle_to, handle_from) = crossbeam::channel::bounded(1);
    let thread = thread::Builder::new()
        .name(format!("worker-{seat}"))
        .spawn(move || {
            if let Some(cpu) = cpu
                && !core_affinity::set_for_current(cpu)
            {
                tracing::warn!(cpu = cpu.id, "worker {seat} can't be pinned");
            }
            // Half a worker must not go on: what it left undone nobody would know.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut worker = Worker::new(worker_config, shared, memory, Unobserved);
                worker.limit_icmp_errors(icmp_errors_per_second);
                let _ = handle_to.send(worker.handle());
                worker.run(&run, &stop);
            }));
            if outcome.is_err() {
                tracing::error!(
                    "worker {seat} panicked; the process ends, connections stay in the flow tables"
                );
                std::process::exit(101);
            }
        })
        .map_err(WorkersError::Thread)?;
    let handle = handle_from
        .recv()
        .expect("a worker gives its handle before it runs");
    Ok(WorkerThread {
        handle,
        umem,
        cpu: cpu.map(|c| c.id),
        chunks,
        pages,
        thread,
    })
}

/// The CPUs to pin to, in the order of workers; none where there are fewer than workers.
fn cpus(config: &Config) -> Vec<CoreId> {
    let allowed = core_affinity::get_core_ids().unwrap_or_default();
    if config.workers.cpus.is_empty() {
        return if allowed.len() >= config.workers.count {
            allowed
        } else {
            Vec::new()
        };
    }
    config.workers.cpus.iter().map(|&id| CoreId { id }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_config_thread_takes_the_cpus_that_no_worker_has() {
        let set = |cpus: &[usize]| {
            let mut set = CpuSet::new();
            cpus.iter().for_each(|&cpu| set.set(cpu).unwrap());
            set
        };
        let allowed = set(&[0, 2, 3, 70]);
        assert_eq!(beside(&allowed, &[0, 1, 3]), Ok(Some(set(&[2, 70]))));
        assert_eq!(beside(&allowed, &[]), Ok(Some(allowed)));
        assert_eq!(beside(&set(&[0, 1]), &[1, 0]), Ok(None), "it stays where it is");
    }
}
