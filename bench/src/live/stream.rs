//! `tcp-1`: one TCP stream between pods, by iperf3.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::lab::Lab;
use super::machine;

/// A lab with an iperf3 server in the far pod.
#[derive(Debug)]
pub(crate) struct Stream {
    lab: Option<Lab>,
    server: Child,
}

impl Stream {
    /// Brings up a lab forwarded by `dataplane`.
    pub(crate) fn up(programs: &Path, dataplane: &str, states: &[&str], server: &str) -> Result<Self> {
        let lab = Lab::up(programs, dataplane, dataplane, states)?;
        let server = serve(lab.exec(server, &["iperf3", "--server", "--forceflush"]))?;
        Ok(Self {
            lab: Some(lab),
            server,
        })
    }

    /// Gbit/s that arrive, of one stream to `address` for `length`.
    pub(crate) fn turn(&self, address: &str, length: Duration) -> Result<f64> {
        let lab = self.lab.as_ref().context("the lab goes with the stream")?;
        // iperf3 takes whole seconds.
        let seconds = length.as_secs_f64().ceil().to_string();
        let words = ["iperf3", "--client", address, "--time", &seconds, "--json"];
        let output = machine::succeed(&mut lab.exec("default/source", &words))?;
        let report: Value = serde_json::from_slice(&output.stdout).context("iperf3's report")?;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3 to {address}: {error}");
        }
        let bits = report
            .pointer("/end/sum_received/bits_per_second")
            .and_then(Value::as_f64);
        Ok(bits.context("iperf3's report has no sum")? / 1e9)
    }

    /// Both identities of every fastpath hold; nothing to say of the kernel.
    pub(crate) fn wrong(&self) -> Result<Vec<String>> {
        let lab = self.lab.as_ref().context("the lab goes with the stream")?;
        let mut wrong = Vec::new();
        for node in lab.nodes() {
            let row = lab.status(&node)?.conservation;
            if !row.ok {
                wrong.push(format!("{node}: {row:?}"));
            }
        }
        Ok(wrong)
    }

    /// Takes the lab down, and the server with it.
    pub(crate) fn down(mut self) -> Result<()> {
        self.lab.take().map_or(Ok(()), Lab::down)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // `lab down` ends what is in the lab's namespaces; a server that is still there is ended here.
        drop(self.lab.take());
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn serve(mut command: Command) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0);
    let mut child = command.spawn().context("starting iperf3")?;
    let output = child.stdout.take().context("iperf3's output")?;
    for line in BufReader::new(output).lines() {
        if line?.contains("Server listening") {
            return Ok(child);
        }
    }
    let status = child.wait()?;
    bail!("iperf3 ended before it served: {status} (Debian package iperf3)")
}
