//! `cargo xtask record`: makes the captures of `examples/two-nodes` anew, from the lab.
//!
//! Each step is a few packets of real sockets. Everything that enters a node is captured where it comes from: at the
//! pods' and the host's own interfaces and at the underlay's bridge. A live node draws its backends by chance and a replay by its
//! seed, so of a step's tries the first one is kept that replays as it happened.

mod capture;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use self::capture::{Frame, pcapng, read_pcap};
use crate::demo::cluster::{Cluster, Protocol};
use crate::demo::reach::{API_TCP, API_UDP, DB_TCP, FAMILIES, Family, OUTSIDE_TCP, OUTSIDE_UDP};
use crate::demo::{machine, process, serve};
use crate::workspace;

/// Bytes of each exchange: captures are kept small.
const BYTES: u64 = 200;
/// How often a step is tried where chance decides.
const TRIES: usize = 40;
/// Source ports for the recording: inside the range set aside for masquerade, where they are kept.
const SOURCE_PORTS: &str = "46000 60999";

/// A node's port, and the namespace and interface where what enters by it is captured.
type Port = (&'static str, &'static str, &'static str);

/// The nodes and the ports of each.
const NODES: [(&str, &[Port]); 2] = [
    (
        "node-a",
        &[
            ("uplink", "underlay", "node1"),
            ("host", "node-a", "ringway-host"),
            ("pod:default/client", "default/client", "eth0"),
            ("pod:default/api-0", "default/api-0", "eth0"),
            ("pod:ops/prober", "ops/prober", "eth0"),
        ],
    ),
    (
        "node-b",
        &[
            ("uplink", "underlay", "node2"),
            ("host", "node-b", "ringway-host"),
            ("pod:default/api-1", "default/api-1", "eth0"),
            ("pod:default/api-2", "default/api-2", "eth0"),
            ("pod:default/db", "default/db", "eth0"),
        ],
    ),
];

/// Records. Needs root, and tcpdump.
pub(crate) fn run(debug_build: bool) -> ExitCode {
    match process::catch_interrupts().and_then(|()| record(debug_build)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("record: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is done, and how it replays.
struct Step {
    from: &'static str,
    to: String,
    protocol: Option<Protocol>,
    /// The reason of the drop that ends it; none: nothing is dropped.
    refused: Option<&'static str>,
    tries: usize,
}

/// The time in which a try's packets were captured.
#[derive(Clone, Copy, Debug)]
struct Window {
    step: usize,
    from_ns: u64,
    to_ns: u64,
}

fn record(debug_build: bool) -> Result<()> {
    ensure!(machine::is_root(), "recording needs root");
    machine::install_missing()?;
    let programs = machine::build(debug_build)?;
    let scratch = std::env::temp_dir().join(format!("ringway-record-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    let steps: Vec<Step> = FAMILIES.iter().flat_map(steps).collect();
    let windows = live(&programs, &steps, &scratch)?;
    let mut captured = Vec::new();
    for (node, ports) in NODES {
        let mut frames = Vec::new();
        for index in 0..ports.len() {
            frames.extend(read_pcap(&scratch.join(format!("{node}-{index}.pcap")), index)?);
        }
        frames.sort_by_key(|frame| frame.time_ns);
        captured.push(frames);
    }
    let kept = keep(&programs, &captured, &steps, &windows, &scratch)?;
    for ((node, ports), frames) in NODES.into_iter().zip(&kept) {
        let example = workspace().join("examples/two-nodes");
        fs::write(
            example.join(format!("{node}.pcapng")),
            pcapng(&names(ports), frames),
        )?;
        let verdicts = replay(&programs, node, ports, frames, &scratch)?;
        fs::write(example.join(format!("{node}.verdicts.jsonl")), verdicts)?;
        println!("{node}: {} packets", frames.len());
    }
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

fn steps(family: &Family) -> Vec<Step> {
    let at = |address: &str, port: u16| {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    };
    let step = |from, to: String, protocol| Step {
        from,
        to,
        protocol,
        refused: None,
        tries: 1,
    };
    let [api_0, api_1, _] = family.api;
    let (tcp, udp) = (Some(Protocol::Tcp), Some(Protocol::Udp));
    let refused = |step: Step, reason| Step {
        refused: Some(reason),
        ..step
    };
    let by_chance = |step: Step| Step { tries: TRIES, ..step };
    vec![
        step("default/client", api_0.to_owned(), None),
        step("default/client", api_1.to_owned(), None),
        step("default/client", at(api_0, API_TCP), tcp),
        step("default/client", at(api_1, API_TCP), tcp),
        step("default/client", at(api_1, API_UDP), udp),
        step("node-a", at(api_0, API_TCP), tcp),
        by_chance(step("default/client", at(family.vip, 80), tcp)),
        by_chance(step("default/client", at(family.vip, 7), udp)),
        step("default/client", at(family.outside, OUTSIDE_TCP), tcp),
        step("default/client", at(family.outside, OUTSIDE_UDP), udp),
        refused(
            step("default/client", at(family.db, DB_TCP), tcp),
            "policy-denied",
        ),
        refused(step("ops/prober", at(api_0, API_TCP), tcp), "policy-denied"),
        refused(step("default/client", at(family.vip, 81), tcp), "no-such-port"),
    ]
}

/// Runs the steps on the lab with every port captured.
fn live(programs: &Path, steps: &[Step], scratch: &Path) -> Result<Vec<Window>> {
    let mut cluster = Cluster::up(programs, "ringway")?;
    serve(&mut cluster)?;
    for pod in ["default/client", "ops/prober"] {
        let set = format!("echo {SOURCE_PORTS} > /proc/sys/net/ipv4/ip_local_port_range");
        process::run(&mut cluster.command(pod, &["sh", "-c", &set]))?;
    }
    let mut captures = Vec::new();
    for (node, ports) in NODES {
        for (index, (_, target, interface)) in ports.iter().enumerate() {
            captures.push(capture(
                &cluster,
                target,
                interface,
                &scratch.join(format!("{node}-{index}.pcap")),
            )?);
        }
    }
    let mut windows = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        for _ in 0..step.tries {
            let from_ns = now_ns()?;
            if let Some(window) = windows.last_mut() {
                let window: &mut Window = window;
                window.to_ns = from_ns;
            }
            windows.push(Window {
                step: number,
                from_ns,
                to_ns: u64::MAX,
            });
            perform(&cluster, step)?;
        }
    }
    for mut capture in captures {
        // tcpdump writes what it has and ends.
        kill(Pid::from_raw(i32::try_from(capture.id())?), Signal::SIGINT)?;
        capture.wait()?;
    }
    cluster.down()?;
    Ok(windows)
}

fn perform(cluster: &Cluster, step: &Step) -> Result<()> {
    let Some(protocol) = step.protocol else {
        let ping = ["ping", "-n", "-c1", "-W2", &step.to];
        return process::run(&mut cluster.command(step.from, &ping));
    };
    let patience_ms = if step.refused.is_some() { 300 } else { 5000 };
    let outcomes = cluster.exchange(step.from, protocol, &step.to, BYTES, 1, patience_ms)?;
    println!("{} -> {}: {outcomes:?}", step.from, step.to);
    Ok(())
}

/// Starts tcpdump on what an interface sends, and waits until it listens.
fn capture(cluster: &Cluster, target: &str, interface: &str, file: &Path) -> Result<Child> {
    let dump = format!(
        "exec tcpdump -n -U --immediate-mode -Q out --time-stamp-precision=nano -i {interface} -w {} 2>&1",
        file.display()
    );
    Cluster::start(cluster.command(target, &["sh", "-c", &dump]), "listening on")
}

/// The frames of each node: of each step the first try that replays on every node as it should.
fn keep(
    programs: &Path,
    captured: &[Vec<Frame>],
    steps: &[Step],
    windows: &[Window],
    scratch: &Path,
) -> Result<Vec<Vec<Frame>>> {
    let mut kept: Vec<Vec<Frame>> = vec![Vec::new(); captured.len()];
    for (number, step) in steps.iter().enumerate() {
        let mut why = "it was not tried".to_owned();
        let mut found = None;
        for window in windows.iter().filter(|window| window.step == number) {
            match attempt(programs, captured, &kept, step, *window, scratch) {
                Ok(tried) => {
                    found = Some(tried);
                    break;
                }
                Err(error) => why = format!("{error:#}"),
            }
        }
        kept = found.with_context(|| {
            format!(
                "{} -> {} does not replay as it happened: {why}",
                step.from, step.to
            )
        })?;
    }
    Ok(kept)
}

/// What was kept and the frames of one try, where they replay as they should.
fn attempt(
    programs: &Path,
    captured: &[Vec<Frame>],
    kept: &[Vec<Frame>],
    step: &Step,
    window: Window,
    scratch: &Path,
) -> Result<Vec<Vec<Frame>>> {
    let mut all = Vec::new();
    let mut refused = false;
    for (((node, ports), captured), kept) in NODES.into_iter().zip(captured).zip(kept) {
        let inside = |frame: &&Frame| (window.from_ns..window.to_ns).contains(&frame.time_ns);
        let mut tried = kept.clone();
        tried.extend(captured.iter().filter(inside).cloned());
        let verdicts = replay(programs, node, ports, &tried, scratch)?;
        refused |= judge(&verdicts, kept.len(), step.refused).with_context(|| node.to_owned())?;
        all.push(tried);
    }
    let packets = |frames: &[Vec<Frame>]| frames.iter().map(Vec::len).sum::<usize>();
    ensure!(packets(&all) > packets(kept), "nothing was captured");
    ensure!(refused == step.refused.is_some(), "nothing was refused");
    Ok(all)
}

/// Checks the verdicts after the first `before` packets: drops for no reason but `refused`. Gives whether there was one.
fn judge(verdicts: &str, before: usize, refused: Option<&str>) -> Result<bool> {
    let mut seen = false;
    for line in verdicts.lines().skip(before) {
        let verdict: Value = serde_json::from_str(line)?;
        let text = |key: &str| verdict.get(key).and_then(Value::as_str).unwrap_or_default();
        let as_told = text("verdict") == "drop" && Some(text("reason")) == refused;
        seen |= as_told;
        // Multicast that a kernel sends by itself is nobody's.
        ensure!(
            as_told || text("verdict") != "drop" || text("reason") == "not-for-us",
            "{line}"
        );
    }
    Ok(seen)
}

fn replay(programs: &Path, node: &str, ports: &[Port], frames: &[Frame], scratch: &Path) -> Result<String> {
    let (input, verdicts): (PathBuf, PathBuf) = (scratch.join("in.pcapng"), scratch.join("verdicts.jsonl"));
    fs::write(&input, pcapng(&names(ports), frames))?;
    let mut command = Command::new(programs.join("ringway"));
    command
        .arg("replay")
        .arg("--state")
        .arg(workspace().join("examples/two-nodes"))
        .args(["--node", node]);
    command
        .arg("--in")
        .arg(&input)
        .arg("--out")
        .arg(scratch.join("out.pcapng"))
        .arg("--verdicts")
        .arg(&verdicts);
    let output = process::output(&mut command)?;
    if !output.status.success() {
        bail!(
            "`{}`: {}",
            process::display(&command),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(fs::read_to_string(&verdicts)?)
}

fn names(ports: &[Port]) -> Vec<String> {
    ports.iter().map(|(name, ..)| (*name).to_owned()).collect()
}

fn now_ns() -> Result<u64> {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(u64::try_from(since.as_nanos())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refusal_of_the_step_may_drop() {
        let lines = "{\"verdict\":\"drop\",\"reason\":\"too-big\"}\n{\"verdict\":\"tx\"}\n\
            {\"verdict\":\"drop\",\"reason\":\"policy-denied\"}\n";
        assert!(judge(lines, 1, Some("policy-denied")).unwrap());
        assert!(judge(lines, 1, None).is_err());
        assert!(
            judge(lines, 0, Some("policy-denied")).is_err(),
            "the first line counts, too"
        );
        assert!(!judge(lines, 3, Some("policy-denied")).unwrap());
    }
}
