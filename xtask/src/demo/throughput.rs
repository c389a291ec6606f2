//! `iperf3` between pods, on Ringway's lab and on the kernel's.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::cluster::Cluster;
use super::process;
use super::reach::FAMILIES;

/// Seconds of each run.
const SECONDS: &str = "2";

/// Gbit/s of one TCP stream, with what was measured.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) path: String,
    pub(crate) gbit_per_s: f64,
}

/// Measures from the client to a pod on its node and to one on the other node, in both families.
pub(crate) fn run(cluster: &mut Cluster) -> Result<Vec<Run>> {
    for server in ["default/api-0", "default/api-1"] {
        let command = cluster.command(server, &["iperf3", "--server", "--forceflush"]);
        cluster.serve(command, "Server listening")?;
    }
    let mut runs = Vec::new();
    for family in &FAMILIES {
        for (place, address) in [("same node", family.api[0]), ("other node", family.api[1])] {
            let words = ["iperf3", "--client", address, "--time", SECONDS, "--json"];
            let output = process::output(&mut cluster.command("default/client", &words))?;
            let report: Value = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
            if let Some(error) = report.get("error").and_then(Value::as_str) {
                bail!("iperf3 to {address}: {error}");
            }
            let bits = report
                .pointer("/end/sum_received/bits_per_second")
                .and_then(Value::as_f64);
            let gbit_per_s = bits.context("iperf3's report has no sum")? / 1e9;
            runs.push(Run {
                path: format!("pod -> pod, {place}, {}", family.name),
                gbit_per_s,
            });
        }
    }
    Ok(runs)
}
