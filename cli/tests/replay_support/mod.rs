//! A small cluster, frames of its pods, and the binary that replays them.
#![allow(dead_code, unreachable_pub, reason = "each test file takes what it needs")]
#![allow(
    clippy::unwrap_used,
    reason = "a test's own hands: what fails here fails the test"
)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket};
use fastpath::io::pcap::PcapngWriter;
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

/// Two nodes; web, client and lonely on node-a, db on node-b; one Service; web takes port 8080 from client alone.
pub const STATE: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node-a, annotations: {projectcalico.org/IPv4VXLANTunnelAddr: 10.244.1.1, projectcalico.org/IPv6VXLANTunnelAddr: "fd00:244:1::1"}}
spec: {podCIDRs: [10.244.1.0/24, "fd00:244:1::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.11}, {type: InternalIP, address: "2001:db8::11"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node-b, annotations: {projectcalico.org/IPv4VXLANTunnelAddr: 10.244.2.1, projectcalico.org/IPv6VXLANTunnelAddr: "fd00:244:2::1"}}
spec: {podCIDRs: [10.244.2.0/24, "fd00:244:2::/64"]}
status: {addresses: [{type: InternalIP, address: 192.0.2.12}, {type: InternalIP, address: "2001:db8::12"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: default, name: web, labels: {app: web}}
spec: {nodeName: node-a, containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.5}, {ip: "fd00:244:1::5"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: default, name: client, labels: {app: client}}
spec: {nodeName: node-a, containers: [{name: client}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.6}, {ip: "fd00:244:1::6"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: default, name: lonely, labels: {app: lonely}}
spec: {nodeName: node-a, containers: [{name: lonely}]}
status: {phase: Running, podIPs: [{ip: 10.244.1.7}, {ip: "fd00:244:1::7"}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: default, name: db, labels: {app: db}}
spec: {nodeName: node-b, containers: [{name: db}]}
status: {phase: Running, podIPs: [{ip: 10.244.2.9}, {ip: "fd00:244:2::9"}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: default, name: api}
spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, "fd00:96::10"], ipFamilies: [IPv4, IPv6], selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: default, name: web}
spec: {podSelector: {matchLabels: {app: web}}, ingress: [{from: [{podSelector: {matchLabels: {app: client}}}], ports: [{port: 8080}]}]}
"#;

/// MAC addresses as DESIGN gives them.
pub const GATEWAY: [u8; 6] = [0xee; 6];
pub const NODE_A: [u8; 6] = [2, 0, 192, 0, 2, 11];
pub const NODE_B: [u8; 6] = [2, 0, 192, 0, 2, 12];
pub const WEB: [u8; 6] = [2, 1, 10, 244, 1, 5];
pub const CLIENT: [u8; 6] = [2, 1, 10, 244, 1, 6];
pub const LONELY: [u8; 6] = [2, 1, 10, 244, 1, 7];

/// A folder with the state, captures and outputs of one test.
pub struct Case {
    folder: tempfile::TempDir,
}

/// What a replay left.
pub struct Replayed {
    /// Text of the verdict file.
    pub text: String,
    /// The same, parsed.
    pub lines: Vec<Value>,
    /// Emitted frames: port, stamp, bytes.
    pub frames: Vec<(String, u64, Vec<u8>)>,
    /// Bytes of the output file.
    pub out: Vec<u8>,
    pub report: Value,
    pub stderr: String,
}

impl Case {
    pub fn new() -> Self {
        Self::with_state(STATE)
    }

    pub fn with_state(state: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("state.yaml"), state).unwrap();
        Self { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Names of the files in the folder.
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Writes a pcapng of (port, nanoseconds, frame); interfaces in the order in which they first appear.
    pub fn pcapng(&self, name: &str, packets: &[(&str, u64, Vec<u8>)]) -> String {
        let mut ports: Vec<&str> = Vec::new();
        for (port, ..) in packets {
            if !ports.contains(port) {
                ports.push(port);
            }
        }
        let path = self.path(name);
        let mut writer = PcapngWriter::new(File::create(&path).unwrap(), ports.iter().copied()).unwrap();
        for (port, ns, bytes) in packets {
            let interface = ports.iter().position(|known| known == port).unwrap();
            writer.write(interface as u32, *ns, bytes, None).unwrap();
        }
        writer.flush().unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Writes a classic pcap of (nanoseconds, frame).
    pub fn pcap(&self, name: &str, link_type: u32, packets: &[(u64, Vec<u8>)]) -> String {
        let path = self.path(name);
        let mut file = File::create(&path).unwrap();
        let words = |file: &mut File, words: &[u32]| {
            for word in words {
                file.write_all(&word.to_le_bytes()).unwrap();
            }
        };
        words(&mut file, &[0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, link_type]);
        for (ns, bytes) in packets {
            let len = bytes.len() as u32;
            words(
                &mut file,
                &[(ns / 1_000_000_000) as u32, (ns % 1_000_000_000) as u32, len, len],
            );
            file.write_all(bytes).unwrap();
        }
        path.to_str().unwrap().to_owned()
    }

    /// Runs `ringway replay` with these arguments alone.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command
            .arg("replay")
            .args(arguments)
            .current_dir(self.folder.path());
        command.output().unwrap()
    }

    /// Replays `inputs` on node-a.
    pub fn replay(&self, inputs: &[&str], more: &[&str]) -> Replayed {
        let mut arguments = vec!["--state", "state.yaml", "--node", "node-a", "--out", "out.pcapng"];
        arguments.extend(["--verdicts", "verdicts.jsonl", "--report", "report.json"]);
        for input in inputs {
            arguments.extend(["--in", input]);
        }
        arguments.extend(more);
        let output = self.run(&arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        let text = fs::read_to_string(self.path("verdicts.jsonl")).unwrap();
        Replayed {
            lines: text
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
            text,
            frames: frames(&self.path("out.pcapng")),
            out: fs::read(self.path("out.pcapng")).unwrap(),
            report: serde_json::from_str(&fs::read_to_string(self.path("report.json")).unwrap()).unwrap(),
            stderr,
        }
    }

    /// Replays (port, nanoseconds, frame) on node-a.
    pub fn replay_packets(&self, packets: &[(&str, u64, Vec<u8>)]) -> Replayed {
        let input = self.pcapng("in.pcapng", packets);
        self.replay(&[&input], &[])
    }
}

impl Replayed {
    /// `verdict` or `verdict reason` of each line.
    pub fn verdicts(&self) -> Vec<String> {
        let text = |line: &Value| match line["reason"].as_str() {
            Some(reason) => format!("{} {reason}", line["verdict"].as_str().unwrap()),
            None => line["verdict"].as_str().unwrap().to_owned(),
        };
        self.lines.iter().map(text).collect()
    }
}

/// Reads an output with another reader than ours.
pub fn frames(path: &Path) -> Vec<(String, u64, Vec<u8>)> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut blocks = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let stamp = u64::try_from(packet.timestamp.as_nanos()).unwrap();
            blocks.push((packet.interface_id as usize, stamp, packet.data.to_vec()));
        }
    }
    let name = |at: usize| -> String {
        let options = &reader.interfaces()[at].options;
        let mut names = options.iter().filter_map(|option| match option {
            pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::IfName(name) => {
                Some(name.to_string())
            }
            _ => None,
        });
        names.next_back().unwrap()
    };
    blocks
        .into_iter()
        .map(|(at, stamp, data)| (name(at), stamp, data))
        .collect()
}

/// Names of the interfaces of an output, in order.
pub fn interfaces(path: &Path) -> Vec<String> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    while let Some(block) = reader.next_block() {
        block.unwrap();
    }
    let options = reader
        .interfaces()
        .iter()
        .flat_map(|interface| &interface.options);
    let names = options.filter_map(|option| match option {
        pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption::IfName(name) => {
            Some(name.to_string())
        }
        _ => None,
    });
    names.collect()
}

/// TCP flags to build with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcp {
    Syn,
    SynAck,
    Ack,
    Fin,
}

/// A TCP segment between `10.0.0.1:80` or `[fd00::1]:80` addresses.
pub fn tcp(macs: [[u8; 6]; 2], src: &str, dst: &str, flags: Tcp) -> Vec<u8> {
    let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
    let builder = ip(macs, src, dst).tcp(src.port(), dst.port(), 1000, 4096);
    let builder = match flags {
        Tcp::Syn => builder.syn(),
        Tcp::SynAck => builder.syn().ack(1001),
        Tcp::Ack => builder.ack(1001),
        Tcp::Fin => builder.fin().ack(1001),
    };
    let mut frame = Vec::new();
    builder.write(&mut frame, &[]).unwrap();
    frame
}

/// A UDP datagram.
pub fn udp(macs: [[u8; 6]; 2], src: &str, dst: &str, payload: &[u8]) -> Vec<u8> {
    let (src, dst): (std::net::SocketAddr, std::net::SocketAddr) =
        (src.parse().unwrap(), dst.parse().unwrap());
    let mut frame = Vec::new();
    ip(macs, src, dst)
        .udp(src.port(), dst.port())
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An echo request of either family.
pub fn ping(macs: [[u8; 6]; 2], src: &str, dst: &str, id: u16) -> Vec<u8> {
    let at = |address: &str| std::net::SocketAddr::new(address.parse().unwrap(), 0);
    let builder = ip(macs, at(src), at(dst));
    let mut frame = Vec::new();
    if at(src).is_ipv4() {
        builder
            .icmpv4_echo_request(id, 1)
            .write(&mut frame, b"ping")
            .unwrap();
    } else {
        builder
            .icmpv6_echo_request(id, 1)
            .write(&mut frame, b"ping")
            .unwrap();
    }
    frame
}

fn ip(
    macs: [[u8; 6]; 2],
    src: std::net::SocketAddr,
    dst: std::net::SocketAddr,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(macs[0], macs[1]);
    match (src.ip(), dst.ip()) {
        (std::net::IpAddr::V4(src), std::net::IpAddr::V4(dst)) => {
            ethernet.ipv4(src.octets(), dst.octets(), 64)
        }
        (std::net::IpAddr::V6(src), std::net::IpAddr::V6(dst)) => {
            ethernet.ipv6(src.octets(), dst.octets(), 64)
        }
        _ => panic!("{src} and {dst} are of two families"),
    }
}

/// An IPv4 datagram of UDP in `parts` fragments of 8 bytes or a multiple, of identification `id`.
pub fn fragments_v4(
    macs: [[u8; 6]; 2],
    src: &str,
    dst: &str,
    id: u16,
    payload: &[u8],
    part: usize,
) -> Vec<Vec<u8>> {
    let whole = udp(macs, src, dst, payload);
    let (head, data) = whole.split_at(34);
    let count = data.len().div_ceil(part);
    let fragment = |(at, bytes): (usize, &[u8])| {
        let mut frame = head.to_vec();
        let len = (20 + bytes.len()) as u16;
        let more = if at + 1 < count { 0x2000 } else { 0 };
        let offset = (at * part / 8) as u16 | more;
        frame[16..18].copy_from_slice(&len.to_be_bytes());
        frame[18..20].copy_from_slice(&id.to_be_bytes());
        frame[20..22].copy_from_slice(&offset.to_be_bytes());
        frame[24..26].fill(0);
        let sum: u32 = frame[14..34]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
        frame.extend_from_slice(bytes);
        frame
    };
    data.chunks(part).enumerate().map(fragment).collect()
}

/// The same in IPv6, with fragment headers.
pub fn fragments_v6(
    macs: [[u8; 6]; 2],
    src: &str,
    dst: &str,
    id: u32,
    payload: &[u8],
    part: usize,
) -> Vec<Vec<u8>> {
    let whole = udp(macs, src, dst, payload);
    let (head, data) = whole.split_at(54);
    let count = data.len().div_ceil(part);
    let fragment = |(at, bytes): (usize, &[u8])| {
        let mut frame = head.to_vec();
        frame[18..20].copy_from_slice(&((8 + bytes.len()) as u16).to_be_bytes());
        frame[20] = 44;
        let more = u16::from(at + 1 < count);
        frame.extend([17, 0]);
        frame.extend(((at * part) as u16 | more).to_be_bytes());
        frame.extend(id.to_be_bytes());
        frame.extend_from_slice(bytes);
        frame
    };
    data.chunks(part).enumerate().map(fragment).collect()
}

/// Source and destination address of a frame, as text.
pub fn addresses(frame: &[u8]) -> (String, String) {
    match SlicedPacket::from_ethernet(frame).unwrap().net.unwrap() {
        NetSlice::Ipv4(ip) => (
            ip.header().source_addr().to_string(),
            ip.header().destination_addr().to_string(),
        ),
        NetSlice::Ipv6(ip) => (
            ip.header().source_addr().to_string(),
            ip.header().destination_addr().to_string(),
        ),
        NetSlice::Arp(_) => panic!("ARP has no IP addresses"),
    }
}

/// Second `n`, in nanoseconds.
pub const fn s(n: u64) -> u64 {
    1_700_000_000_000_000_000 + n * 1_000_000_000
}
