//! testpmd: what it costs DPDK to take a packet in and let it out, without anything between: its `macswap` mode, memory to memory.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use machine::{HugePages, Interrupt};

use super::process::{find, mortal, switches};
use crate::live::dialogue::Dialogue;
use crate::slices::{Slices, Took};

/// Where packets come from and go to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Devices<'f> {
    /// Both ports make packets of so many bytes, each copied from one, and discard what they get.
    Null(usize),
    /// The frames of a file over and over, discarded behind.
    Capture(&'f Path),
}

/// Finds the program, or says what is missing and what to install.
pub(crate) fn program() -> std::result::Result<PathBuf, String> {
    find(PROGRAM, &[]).ok_or_else(|| format!("no {PROGRAM}: Debian package dpdk-dev"))
}

/// A running testpmd.
#[derive(Debug)]
struct Testpmd {
    dialogue: Dialogue,
    _pages: HugePages,
}

/// Windows of its own cycle counter, and the packets of all.
pub(crate) fn run(
    program: &Path,
    devices: Devices<'_>,
    cpus: (usize, usize),
    seconds: f64,
    interrupt: &Interrupt,
) -> Result<(Slices, u64)> {
    let Testpmd { dialogue, .. } = &mut Testpmd::up(program, devices, cpus)?;
    dialogue.say("set record-core-cycles on")?;
    let mut windows = Slices::default();
    let mut packets = 0;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    while Instant::now() < end || windows.len() < WINDOWS_MIN {
        interrupt.check()?;
        let before = switches(dialogue.id(), WORKER)?;
        dialogue.say("start")?;
        dialogue.wait_for("packet forwarding packets/burst")?;
        thread::sleep(WINDOW);
        dialogue.say("stop")?;
        let said = dialogue.wait_for("CPU cycles/packet=")?.pop().unwrap_or_default();
        let after = switches(dialogue.id(), WORKER)?;
        let (cycles, moved) = figures(&said).with_context(|| format!("testpmd's cycles: {said:?}"))?;
        ensure!(moved > 0, "testpmd moved no packets");
        packets += moved;
        windows.push(moved, Took::new(cycles, before == after));
    }
    Ok((windows, packets))
}

impl Testpmd {
    fn up(program: &Path, devices: Devices<'_>, (main, worker): (usize, usize)) -> Result<Self> {
        let pages = HugePages::reserve(MEMORY_MIB / 2 + 16).context("huge pages for testpmd")?;
        let devices = match devices {
            Devices::Null(bytes) => [0, 1].map(|number| format!("net_null{number},size={bytes},copy=1")),
            Devices::Capture(file) => [
                format!("net_pcap0,rx_pcap={},infinite_rx=1", file.display()),
                "net_null0,no-rx=1".to_owned(),
            ],
        };
        let mut command = mortal(Path::new("stdbuf"));
        command.arg("-oL").arg(program);
        command.args([
            "-l",
            &format!("{main},{worker}"),
            "--main-lcore",
            &main.to_string(),
        ]);
        command.args([
            "--in-memory",
            "--no-pci",
            "--no-telemetry",
            "-m",
            &MEMORY_MIB.to_string(),
        ]);
        command.arg(format!("--file-prefix=bench{}", std::process::id()));
        for device in devices {
            command.args(["--vdev", &device]);
        }
        command.args(["--", "-i", "--forward-mode=macswap", "--nb-cores=1", "--burst=32"]);
        command.arg(format!("--total-num-mbufs={MBUFS}"));
        let mut dialogue = Dialogue::start("testpmd", &mut command)?;
        // Interactive mode says nothing when it is ready, but answers when it is.
        dialogue.say("show port summary all")?;
        dialogue.wait_for("Number of available ports: 2")?;
        Ok(Self {
            dialogue,
            _pages: pages,
        })
    }
}

/// Cycles and packets of `CPU cycles/packet=25.25 (total cycles=67900620 / total macswap packets=2689152) at 2596 MHz Clock`.
fn figures(line: &str) -> Option<(u64, u64)> {
    let number = |text: &str| -> Option<u64> {
        let (_, rest) = line.split_once(text)?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((number("total cycles=")?, number(" packets=")?))
}

const PROGRAM: &str = "dpdk-testpmd";
/// Begins the name of its thread that forwards.
const WORKER: &str = "rte-worker";
/// As many packet buffers as OVS has.
const MBUFS: u32 = 262_144;
const MEMORY_MIB: u64 = 1000;
const WINDOW: Duration = Duration::from_millis(1);
const WINDOWS_MIN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cycles_and_packets_are_read() {
        let line = "  CPU cycles/packet=25.25 (total cycles=67900620 / total macswap packets=2689152) at 2596 MHz Clock";
        assert_eq!(figures(line), Some((67_900_620, 2_689_152)));
        assert_eq!(figures("CPU cycles/packet=nan"), None);
    }
}
