//! What passes an interface in a lab, by tcpdump, and what tshark thinks of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::has;
use crate::live::lab::PATIENCE;
use crate::live::place::Background;
use crate::live::{Lab, wait};

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

impl Capture {
    /// Captures all of `interface` of a node or pod. `None`, with a line that says so: there is no tcpdump or no tshark.
    ///
    /// # Panics
    /// When it does not start to listen.
    #[must_use]
    pub fn start(lab: &Lab, place: &str, interface: &str) -> Option<Self> {
        if !has("tcpdump") || !has("tshark") {
            return None;
        }
        let file = lab.folder().join(format!("{place}-{interface}.pcap"));
        let name = file.display();
        let line = format!("tcpdump -i {interface} -w {name} -U -s 0 -B 16384 -Z root --immediate-mode");
        let tcpdump = lab.start(place, &line);
        wait::until("tcpdump to listen", PATIENCE, || {
            tcpdump.said().contains("listening on")
        });
        Some(Self { tcpdump, file })
    }

    /// Ends it; gives the file.
    ///
    /// # Panics
    /// When the kernel had to drop packets: then nothing can be said of them.
    #[must_use]
    pub fn finish(self) -> PathBuf {
        // What was sent before is captured; the file grows until tcpdump has written it.
        let mut size = 0;
        wait::until("tcpdump to have written", PATIENCE, || {
            let before = size;
            size = std::fs::metadata(&self.file).map_or(0, |file| file.len());
            std::thread::sleep(Duration::from_millis(100));
            before == size
        });
        let said = self.tcpdump.interrupt();
        assert!(said.contains("0 packets dropped by kernel"), "{said}");
        self.file
    }
}

/// Fields of every packet of a capture that a display filter picks, a line each, tab separated; checksums are validated.
///
/// # Panics
/// When tshark fails.
pub fn fields(file: &Path, filter: &str, fields: &[&str]) -> Vec<String> {
    let mut command = Command::new("tshark");
    // Random bytes to a port that HTTP uses are no HTTP.
    command.args(["-n", "--disable-protocol", "http", "-r"]).arg(file);
    for checksum in [
        "ip.check_checksum:TRUE",
        "tcp.check_checksum:TRUE",
        "udp.check_checksum:TRUE",
        // Both sides of a tunnel are captured: the same segment twice is no retransmission.
        "tcp.analyze_sequence_numbers:FALSE",
    ] {
        command.args(["-o", checksum]);
    }
    command.args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let output = command.stdin(Stdio::null()).output().expect("tshark starts");
    assert!(
        output.status.success(),
        "tshark {filter}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// tshark warns of nothing in a capture: no malformed packet, no wrong checksum, no error or warning of a dissector.
///
/// What it says of a TCP conversation's sequence alone (a segment came twice, a socket reset its connection) is about hosts and
/// a busy machine, not about how a packet is made: that does not count.
///
/// # Panics
/// With the packets that it warns of.
#[track_caller]
pub fn assert_clean(file: &Path) {
    let wrong = format!(
        "_ws.malformed || _ws.expert.severity >= {WARNING} || ip.checksum.status == 0 || udp.checksum.status == 0 \
         || tcp.checksum.status == 0 || icmp.checksum.status == 0 || icmpv6.checksum.status == 0"
    );
    let shown = [
        "_ws.expert.group",
        "frame.number",
        "_ws.col.Info",
        "_ws.expert.message",
    ];
    let found: Vec<String> = fields(file, &wrong, &shown)
        .into_iter()
        .filter(|line| {
            let groups = line.split('\t').next().unwrap_or_default();
            groups.is_empty() || groups.split(',').any(|group| group != SEQUENCE)
        })
        .collect();
    assert!(
        found.is_empty(),
        "tshark on {}:\n{}",
        file.display(),
        found.join("\n")
    );
}

/// Wireshark's expert severity from which on it warns: `PI_WARN`.
const WARNING: u32 = 0x0060_0000;
/// Wireshark's expert group `PI_SEQUENCE`, as tshark prints it.
const SEQUENCE: &str = "33554432";
