//! DPDK's testpmd with `net_af_xdp`: plain L2 forwarding between the node's ends of two pods' links.

use std::path::Path;
use std::process::Command;

use ::machine::HugePages;
use anyhow::{Context as _, Result};

use super::dialogue::Dialogue;
use super::forwarder::{Books, Forwarder};
use super::lab::Lab;
use super::machine::{self, FORWARDER_CPU};

/// Debian's packages that have the program and the driver.
pub(crate) const PACKAGES: &str = "dpdk-dev and librte-net-af-xdp23";
const PROGRAM: &str = "dpdk-testpmd";
/// As Ringway's default.
const RING_SLOTS: &str = "1024";
const MEMORY_MIB: u64 = 128;

/// A running testpmd in a lab of its own, whose nodes forward nothing else to these pods.
#[derive(Debug)]
pub(crate) struct Testpmd {
    // Before the lab that it is in, which goes after it.
    dialogue: Dialogue,
    lab: Lab,
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

        let mut dialogue = Dialogue::start("testpmd", &mut lab.exec("node-a", &words))?;
        // Interactive mode says nothing when it is ready, but answers when it is.
        dialogue.say("show port summary all")?;
        dialogue.wait_for("Number of available ports: 2")?;
        Ok(Self {
            dialogue,
            lab,
            _pages: pages,
        })
    }
}

impl Forwarder for Testpmd {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    /// It is no router.
    fn hops(&self) -> u8 {
        0
    }

    fn begin(&mut self) -> Result<()> {
        self.dialogue.say("start")?;
        self.dialogue
            .wait_for("packet forwarding packets/burst")
            .map(drop)
    }

    fn end(&mut self) -> Result<Option<Books>> {
        self.dialogue.say("stop")?;
        let said = self.dialogue.wait_for("Done.")?;
        books(&said).context("testpmd's statistics").map(Some)
    }

    fn down(self: Box<Self>) -> Result<()> {
        drop(self.dialogue);
        self.lab.down()
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
