//! What the control plane costs at the size it has to hold: memory, the first resolve, and each change after it.
//!
//! `cargo run --release -p control --example scale [-- DIVISOR]` prints one line of JSON. Times are CPU times of this thread.
//!
//! `... -- follow [DIVISOR]` runs `ringway-control` (built beside it, with the same profile) against an API server of that
//! size in this process, and prints what the daemon takes: memory, CPU time, and the time from an event of a watch to the delta.

use std::fs;
use std::time::Duration;

use control::resolve::{Mode, Options, resolve};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;

mod cluster;
mod follow;
mod server;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let divisor = |text: Option<&String>| text.map_or(1, |n| n.parse().expect("a divisor"));
    if arguments.first().is_some_and(|first| first == "follow") {
        follow::follow(cluster::WHOLE.divided_by(divisor(arguments.get(1))));
        return;
    }
    let size = cluster::WHOLE.divided_by(divisor(arguments.first()));
    let began = cpu();
    let objects = size.objects();
    let read_s = since(began);
    let objects_mib = memory_mib("self", "VmRSS");

    let options = Options {
        mode: Mode::Live,
        pod_views: false,
        ..Options::default()
    };
    let began = cpu();
    let resolved = resolve(&objects, cluster::LOCAL, &options).expect("a good state");
    let resolve_s = since(began);
    let resolved_mib = memory_mib("self", "VmRSS");
    let began = cpu();
    let state = resolved.state;
    let message = contract::proto::ToFastpath {
        body: Some(contract::proto::to_fastpath::Body::Snapshot(state.clone())),
    };
    let frame = contract::frame::encode(&message).expect("a frame");
    let encode_s = since(began);
    let line = json!({
        "objects": objects.len(), "read_s": read_s, "objects_mib": objects_mib,
        "resolve_s": resolve_s, "resolved_mib": resolved_mib,
        "encode_s": encode_s, "snapshot_mib": frame.len() >> 20,
        "services": state.services.len(), "policies": state.policies.len(), "ip_sets": state.ip_sets.len(),
        "members": state.ip_sets.iter().map(|set| set.members.len()).sum::<usize>(),
        "blocks": state.blocks.len(), "ports": state.ports.len(), "warnings": resolved.warnings.len(),
        "peak_mib": memory_mib("self", "VmHWM"),
    });
    println!("{line}");
}

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn since(began: Duration) -> f64 {
    cpu().saturating_sub(began).as_secs_f64()
}

/// A line of `/proc/PROCESS/status`, in MiB.
fn memory_mib(process: &str, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .unwrap_or_default();
    let kib = line.trim_matches(|c: char| !c.is_ascii_digit());
    kib.parse::<u64>().unwrap_or_default() >> 10
}
