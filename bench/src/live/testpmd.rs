//! DPDK's testpmd with `net_af_xdp`: plain L2 forwarding between the node's ends of two pods' links.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::forwarder::{Books, Forwarder};
use super::lab::Lab;
use super::machine::{self, FORWARDER_CPU, HugePages};

/// Debian's packages that have the program and the driver.
pub(crate) const PACKAGES: &str = "dpdk-dev and librte-net-af-xdp23";
const PROGRAM: &str = "dpdk-testpmd";
/// As Ringway's default.
const RING_SLOTS: &str = "1024";
const MEMORY_MIB: u64 = 128;
const PATIENCE: Duration = Duration::from_secs(20);

/// A running testpmd in a lab of its own, whose nodes forward nothing else to these pods.
#[derive(Debug)]
pub(crate) struct Testpmd {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    lab: Option<Lab>,
    _pages: HugePages,
}

/// Why it can't be compared with, if it can't.
pub(crate) fn missing() -> Option<String> {
    if !machine::has_program(PROGRAM) {
        return Some(format!("no {PROGRAM}: Debian packages {PACKAGES}"));
    }
    let mut driver = Command::new("sh");
    driver.args(["-c", "ls /usr/lib/*/dpdk/pmds-*/librte_net_af_xdp.so /usr/local/lib/*/dpdk/pmds-*/librte_net_af_xdp.so 2>/dev/null"]);
    match driver.output() {
        Ok(output) if !output.stdout.is_empty() => None,
        _ => Some(format!(
            "{PROGRAM} has no net_af_xdp driver: Debian packages {PACKAGES}"
        )),
    }
}

impl Testpmd {
    /// Brings up a lab like Ringway's and starts the program on its node.
    pub(crate) fn up(programs: &Path, states: &[&str]) -> Result<Self> {
        let pages = HugePages::reserve(MEMORY_MIB / 2 + 8)?;
        let lab = Lab::up(programs, "testpmd", "kernel", states)?;
        let mut devices = Vec::new();
        for (number, pod) in ["default/source", "default/sink"].into_iter().enumerate() {
            let interface = lab.interface(pod)?;
            devices.push("--vdev".to_owned());
            // Without its busy polling, which asks the kernel for packets by a system call per poll: on veth it costs it
            // rate, and this is to be its best.
            devices.push(format!(
                "net_af_xdp{number},iface={interface},start_queue=0,queue_count=1,busy_budget=0"
            ));
        }
        let cores = format!("{FORWARDER_CPU},{}", machine::source_cpu());
        let main = machine::source_cpu().to_string();
        let prefix = format!("--file-prefix=bench{}", std::process::id());
        let memory = MEMORY_MIB.to_string();
        let mut words = vec!["stdbuf", "-oL", PROGRAM, "-l", &cores, "--main-lcore", &main];
        words.extend([
            "--in-memory",
            "--no-pci",
            "--no-telemetry",
            &prefix,
            "-m",
            &memory,
        ]);
        words.extend(devices.iter().map(String::as_str));
        words.extend([
            "--",
            "-i",
            "--forward-mode=io",
            "--nb-cores=1",
            "--total-num-mbufs=16384",
        ]);
        let slots = [format!("--rxd={RING_SLOTS}"), format!("--txd={RING_SLOTS}")];
        words.extend(slots.iter().map(String::as_str));
        words.push("--burst=64");

        let mut command = lab.exec("node-a", &words);
        let mut child = start(&mut command)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("testpmd's output")?;
        let stderr = child.stderr.take().context("testpmd's errors")?;
        let (sender, lines) = channel();
        listen(stdout, sender.clone());
        listen(stderr, sender);
        let mut testpmd = Self {
            child,
            stdin,
            lines,
            lab: Some(lab),
            _pages: pages,
        };
        // Interactive mode says nothing when it is ready, but answers when it is.
        testpmd.say("show port summary all")?;
        testpmd.wait_for("Number of available ports: 2")?;
        Ok(testpmd)
    }

    fn say(&mut self, words: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("testpmd is ending")?;
        writeln!(stdin, "{words}").context("telling testpmd")?;
        stdin.flush().context("telling testpmd")
    }

    /// All lines up to the one that has `awaited`.
    fn wait_for(&mut self, awaited: &str) -> Result<Vec<String>> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    let found = line.contains(awaited);
                    said.push(line);
                    if found {
                        return Ok(said);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "testpmd did not say {awaited:?} within {PATIENCE:?}, but:\n{}",
                        said.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => bail!("testpmd ended; it said:\n{}", said.join("\n")),
            }
        }
    }

    fn end_process(&mut self) {
        // Its prompt ends where its input does, having closed its ports.
        let _ = self.say("quit");
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(command: &mut Command) -> Result<Child> {
    use std::os::unix::process::CommandExt as _;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("starting testpmd")
}

/// Passes on each line of `from`, to its end.
fn listen(from: impl Read + Send + 'static, to: Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
}

impl Forwarder for Testpmd {
    fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the lab goes with the forwarder")
    }

    /// It is no router.
    fn hops(&self) -> u8 {
        0
    }

    fn begin(&mut self) -> Result<()> {
        self.say("start")?;
        self.wait_for("packet forwarding packets/burst").map(drop)
    }

    fn end(&mut self) -> Result<Option<Books>> {
        self.say("stop")?;
        let said = self.wait_for("Done.")?;
        books(&said).context("testpmd's statistics").map(Some)
    }

    fn down(mut self: Box<Self>) -> Result<()> {
        self.end_process();
        self.lab.take().map_or(Ok(()), Lab::down)
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        if self.lab.is_some() {
            self.end_process();
        }
    }
}

/// What it says on `stop`: port 0 is the source's, port 1 the sink's.
fn books(said: &[String]) -> Option<Books> {
    let field = |port: &str, direction: &str, name: &str| {
        let header = format!("Forward statistics for port {port} ");
        let at = said.iter().position(|line| line.contains(&header))?;
        let line = said
            .get(at..)?
            .iter()
            .find(|line| line.contains(&format!("{direction}-packets:")))?;
        let (_, rest) = line.split_once(name)?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()
    };
    let mut books = Books {
        rx: field("0", "RX", "RX-packets:")?,
        tx: field("1", "TX", "TX-packets:")?,
        ..Books::default()
    };
    let dropped = field("1", "TX", "TX-dropped:")?;
    if dropped > 0 {
        books.dropped.push(("tx-dropped".to_owned(), dropped));
    }
    if books.rx != books.tx + dropped {
        books.wrong.push(format!(
            "rx {} is not tx {} + dropped {dropped}",
            books.rx, books.tx
        ));
    }
    Some(books)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_statistics_are_read_by_port() {
        let said = "\
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 1000           RX-dropped: 7             RX-total: 1007
  TX-packets: 3              TX-dropped: 0             TX-total: 3
  ----------------------------------------------------------------------------

  ---------------------- Forward statistics for port 1  ----------------------
  RX-packets: 3              RX-dropped: 0             RX-total: 3
  TX-packets: 990            TX-dropped: 10            TX-total: 1000
  ----------------------------------------------------------------------------
Done.";
        let said: Vec<String> = said.lines().map(str::to_owned).collect();
        let read = books(&said).unwrap();
        assert_eq!((read.rx, read.tx), (1000, 990));
        assert_eq!(read.dropped, [("tx-dropped".to_owned(), 10)]);
        assert!(read.wrong.is_empty(), "{:?}", read.wrong);
        assert!(books(&said[..4]).is_none());
    }
}
