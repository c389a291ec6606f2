//! `cargo xtask demo`: two nodes, real sockets, and who reached whom.

pub(crate) mod cluster;
pub(crate) mod machine;
pub(crate) mod process;
pub(crate) mod reach;
mod replay;
mod throughput;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use self::cluster::Cluster;
use self::reach::{API_TCP, API_UDP, DB_TCP, FAMILIES, Family, OUTSIDE_TCP, OUTSIDE_UDP, Row};

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Only replay the captures, as without root
    #[arg(long)]
    replay_only: bool,
    /// Run the lab on the kernel's own forwarding alone: services and reachability, no policy
    #[arg(long, conflicts_with = "replay_only")]
    kernel_only: bool,
    /// Use programs built without optimisation, which check more and forward slower
    #[arg(long)]
    debug_build: bool,
}

/// Runs the demo. The last line is `demo: passed` or `demo: failed: WHAT`.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut failures = Vec::new();
    if let Err(error) = process::catch_interrupts().and_then(|()| steps(options, &mut failures)) {
        // The reason may be a page of a daemon's log: the last line has its beginning.
        println!("{error:#}");
        let reason = if process::interrupted() {
            "interrupted".to_owned()
        } else {
            format!("{error:#}")
        };
        failures.push(reason.lines().next().unwrap_or_default().to_owned());
    }
    if failures.is_empty() {
        println!("demo: passed");
        return ExitCode::SUCCESS;
    }
    println!("demo: failed: {}", failures.join("; "));
    ExitCode::FAILURE
}

fn steps(options: &Options, failures: &mut Vec<String>) -> Result<()> {
    let root = machine::is_root();
    if root && !options.replay_only {
        machine::install_missing()?;
    }
    println!("==> build");
    let programs = machine::build(options.debug_build)?;
    if !options.kernel_only {
        println!("==> replay of the captures in examples/two-nodes");
        let compared = replay::run(&programs)?;
        for (node, packets) in &compared {
            println!("    {node}: {packets} packets, every verdict as recorded");
        }
        if compared.is_empty() {
            failures.push("examples/two-nodes has no captures to replay".to_owned());
        }
    }
    if !root {
        println!("without root this is all: `sudo -E cargo xtask demo` runs the lab with real sockets");
        return Ok(());
    }
    if options.replay_only {
        return Ok(());
    }
    cluster::remove_stale(&programs)?;
    println!("==> the same lab forwarded by the kernel, for comparison");
    let mut cluster = Cluster::up(&programs, "kernel")?;
    if options.kernel_only {
        serve(&mut cluster)?;
        reached(&cluster, reach::run_without_policy, failures)?;
    }
    let kernel = throughput::run(&mut cluster)?;
    cluster.down()?;
    for run in &kernel {
        println!("    {:<28} {:>6.2} Gbit/s", run.path, run.gbit_per_s);
    }
    if options.kernel_only {
        return Ok(());
    }
    ringway_lab(&programs, &kernel, failures)
}

/// The servers of the cases.
pub(crate) fn serve(cluster: &mut Cluster) -> Result<()> {
    for (target, tcp, udp) in [
        ("default/client", API_TCP, API_UDP),
        ("default/api-0", API_TCP, API_UDP),
        ("default/api-1", API_TCP, API_UDP),
        ("default/api-2", API_TCP, API_UDP),
        ("default/db", DB_TCP, API_UDP),
    ] {
        cluster.serve_traffic(target, tcp, udp, &[])?;
    }
    cluster.serve_traffic(
        "outside",
        OUTSIDE_TCP,
        OUTSIDE_UDP,
        &FAMILIES.map(|family| family.outside),
    )
}

/// Tries cases in both families, shows the table and notes what went wrong.
fn reached(
    cluster: &Cluster,
    run: fn(&Cluster, &Family) -> Result<Vec<Row>>,
    failures: &mut Vec<String>,
) -> Result<()> {
    for family in &FAMILIES {
        println!("==> who reaches whom, {}", family.name);
        let rows = run(cluster, family)?;
        print_rows(&rows);
        let failed = rows.iter().filter(|row| !row.ok);
        failures.extend(failed.map(|row| format!("{} -> {} ({})", row.from, row.to, row.how)));
    }
    Ok(())
}

fn ringway_lab(programs: &Path, kernel: &[throughput::Run], failures: &mut Vec<String>) -> Result<()> {
    println!("==> lab: two nodes, six pods, ringway-control and ringway-fastpath on each node");
    let mut cluster = Cluster::up(programs, "ringway")?;
    serve(&mut cluster)?;
    reached(&cluster, reach::run, failures)?;
    println!("==> throughput, one TCP stream, beside the kernel's own path (routes, vxlan, nftables)");
    for (run, kernel) in throughput::run(&mut cluster)?.iter().zip(kernel) {
        let ratio = run.gbit_per_s / kernel.gbit_per_s;
        println!(
            "    {:<28} {:>6.2} Gbit/s, kernel {:>6.2}: ratio {ratio:.2}",
            run.path, run.gbit_per_s, kernel.gbit_per_s
        );
    }
    for node in ["node-a", "node-b"] {
        println!("==> {node}");
        failures.extend(accounts(node, &cluster.ask(node, "status")?)?);
    }
    cluster.down().context("clean-up")?;
    println!("==> the lab is gone: no namespace, process or file of it is left");
    Ok(())
}

fn print_rows(rows: &[Row]) {
    let width = |cell: fn(&Row) -> &String| rows.iter().map(|row| cell(row).len()).max().unwrap_or_default();
    let (from, to, how) = (
        width(|row| &row.from),
        width(|row| &row.to),
        width(|row| &row.how),
    );
    for row in rows {
        let mark = if row.ok { "ok  " } else { "FAIL" };
        println!(
            "    {mark} {:<from$}  {:<to$}  {:<how$}  {}",
            row.from, row.to, row.how, row.result
        );
    }
}

/// Shows a node's drops by reason and its conservation check. Gives what is wrong.
fn accounts(node: &str, status: &Value) -> Result<Vec<String>> {
    let list = |key: &str| {
        status
            .get(key)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    for (what, rows) in [("dropped", list("drops")), ("to the kernel", list("punts"))] {
        for row in rows {
            let reason = row.get("reason").and_then(Value::as_str).unwrap_or_default();
            let count = row.get("count").and_then(Value::as_u64).unwrap_or_default();
            println!("    {what:<14} {reason:<28} {count:>10}");
        }
    }
    let conservation = status
        .get("conservation")
        .context("the status has no conservation")?;
    let count = |key: &str| conservation.get(key).and_then(Value::as_u64).unwrap_or_default();
    let ok = conservation
        .get("ok")
        .and_then(Value::as_bool)
        .unwrap_or_default();
    println!(
        "    conservation {}: rx {} = tx {} + punt {} + drop {} + held {}; out {} = tx + punt + generated {} + split {}",
        if ok { "holds" } else { "BROKEN" },
        count("rx"),
        count("tx"),
        count("punt"),
        count("drop"),
        count("held"),
        count("frames_out"),
        count("generated"),
        count("split"),
    );
    let mut wrong = Vec::new();
    if !ok {
        wrong.push(format!("conservation on {node}"));
    }
    if count("rx") == 0 {
        wrong.push(format!("{node} received nothing"));
    }
    for problem in list("problems") {
        println!("    problem: {problem}");
        wrong.push(format!("{node}: {}", problem.as_str().unwrap_or_default()));
    }
    Ok(wrong)
}
