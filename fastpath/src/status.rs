//! What a running fastpath tells of itself, and how to ask: the types behind `ringway status` and its like.
//!
//! One question per connection on a Unix socket: a line of JSON ([`Question`]), then an answer of one line of JSON
//! ([`Answer`]), then the end. Field names are stable; new ones may come.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Question {
    /// Health, ports, workers, conservation.
    Status,
    /// Connections, at most `limit`; with `contains`, only those whose text has it.
    Flows {
        /// At most this many.
        limit: usize,
        /// Only those whose text has it.
        contains: Option<String>,
    },
    /// Service ports and their backends.
    Services,
    /// Policies, with a counter for each rule.
    Policy,
    /// Drops by reason, and the last ones.
    Drops,
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Box<Status>),
    /// To [`Question::Flows`].
    Flows(Flows),
    /// To [`Question::Services`].
    Services(Vec<ServiceRow>),
    /// To [`Question::Policy`].
    Policy(Vec<RuleRow>),
    /// To [`Question::Drops`].
    Drops(Drops),
    /// The question was not understood.
    Error(String),
}

/// Health, ports, workers, conservation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What is wrong, worst first; empty when nothing is.
    pub problems: Vec<String>,
    /// Name of the node, empty before the first state.
    pub node: String,
    /// Name and version of this program.
    pub software: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Version of the desired state in force, 0 for none.
    pub version: u64,
    /// Control is connected.
    pub control_connected: bool,
    /// What was refused last, until something is applied.
    pub last_refusal: Option<String>,
    /// Worker threads.
    pub workers: Vec<WorkerRow>,
    /// Ports.
    pub ports: Vec<PortRow>,
    /// Sums over all workers, and whether both identities hold.
    pub conservation: ConservationRow,
    /// Punts by reason, those that are not zero.
    pub punts: Vec<ReasonRow>,
    /// Drops by reason, those that are not zero.
    pub drops: Vec<ReasonRow>,
    /// The flow tables.
    pub flow_tables: Vec<FlowTableRow>,
    /// What the steering program of the uplinks counted.
    pub steering: Vec<ReasonRow>,
    /// What is known of the underlay.
    pub underlay: UnderlayRow,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// Its number.
    pub worker: usize,
    /// The CPU it is pinned to, if it is.
    pub cpu: Option<usize>,
    /// Milliseconds since its last full loop.
    pub last_beat_ms: u64,
    /// Share of its loops that found frames, percent, since the start.
    pub busy_percent: f64,
    /// Packets received.
    pub rx: u64,
    /// Packet buffers in all.
    pub chunks: usize,
    /// Pages that its buffers lie on.
    pub pages: String,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PortRow {
    /// `uplink`, `host`, `pod:<namespace>/<name>`.
    pub name: String,
    /// The kernel's name of the interface.
    pub interface: String,
    /// Sockets are bound and the interface is there.
    pub live: bool,
    /// Why not, when it is not.
    pub message: String,
    /// AF_XDP mode of each queue: `copy`, `zero-copy`.
    pub modes: Vec<String>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Addresses behind it.
    pub addresses: Vec<String>,
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames that the kernel lost before we saw them (`XDP_STATISTICS`).
    pub kernel_lost: u64,
}

/// Sums over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConservationRow {
    /// Packets received.
    pub rx: u64,
    /// Sent on.
    pub tx: u64,
    /// Handed to the kernel.
    pub punt: u64,
    /// Dropped.
    pub drop: u64,
    /// Waiting.
    pub held: u64,
    /// Frames of our own.
    pub generated: u64,
    /// Fragments beyond each packet's first.
    pub split: u64,
    /// Frames that left.
    pub frames_out: u64,
    /// rx = tx + punt + drop + held and frames out = tx + punt + generated + split, each worker at a batch boundary.
    pub ok: bool,
}

/// A count with its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonRow {
    /// Stable name.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// What it means.
    pub help: String,
}

/// A flow table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowTableRow {
    /// `v4` or `v6`.
    pub family: String,
    /// Connections that fit.
    pub capacity: u64,
    /// Connections now.
    pub live: u64,
    /// Installed since the start.
    pub created: u64,
    /// Refused because the table was full.
    pub refused: u64,
    /// Taken over from the process before.
    pub adopted: u64,
}

/// The underlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnderlayRow {
    /// Routes that are followed.
    pub routes: usize,
    /// Neighbours that are resolved.
    pub neighbours: usize,
    /// Rules that are not followed.
    pub refused: Vec<String>,
}

/// Connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// All of them.
    pub live: u64,
    /// Those asked for.
    pub flows: Vec<FlowRow>,
}

/// A connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// The tuple of its first packet, as it arrived.
    pub orig: String,
    /// The tuple of replies, as they arrive.
    pub reply: String,
    /// State of the connection.
    pub state: String,
    /// Milliseconds since its last packet.
    pub idle_ms: u64,
    /// Packets of the original and of the reply direction.
    pub packets: [u64; 2],
    /// Bytes likewise.
    pub bytes: [u64; 2],
    /// What allowed it (or denies it now).
    pub policy: Option<String>,
}

/// A Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    /// `<namespace>/<name>:<port name>`.
    pub name: String,
    /// Backends that new connections may go to.
    pub eligible: Vec<String>,
    /// Every backend that is listed.
    pub listed: Vec<String>,
    /// Session affinity in seconds, 0 for none.
    pub affinity_s: u32,
}

/// A rule, or a default deny.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// `NetworkPolicy default/web`.
    pub policy: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its index in the object; none for the default deny.
    pub rule: Option<u32>,
    /// First packets that it decided.
    pub decisions: u64,
    /// All packets of flows that it decided.
    pub packets: u64,
}

/// Drops by reason, and the last ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Counts since the start, those that are not zero.
    pub reasons: Vec<ReasonRow>,
    /// The last ones, newest first.
    pub recent: Vec<DropRow>,
}

/// A dropped packet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    /// Milliseconds ago.
    pub ago_ms: u64,
    /// The port that it came from.
    pub port: String,
    /// `tcp 10.0.0.1:4000 > 10.0.0.2:80`.
    pub packet: String,
    /// Stable name of the reason.
    pub reason: String,
    /// Policy, direction and rule, where policy dropped it.
    pub policy: Option<String>,
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody listens there.
    #[error("{socket}: is ringway-fastpath running, and is this its [sockets] status?")]
    Connect {
        /// The socket.
        socket: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("{socket}: {source}")]
    Broken {
        /// The socket.
        socket: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The answer is not of this version's shape.
    #[error("{socket} answered what this version does not understand: {source}")]
    Shape {
        /// The socket.
        socket: String,
        /// The parser's message.
        #[source]
        source: serde_json::Error,
    },
    /// The fastpath did not understand the question.
    #[error("{0}")]
    Refused(String),
}

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks the fastpath behind `socket`.
pub fn ask(socket: &Path, question: &Question) -> Result<Answer, AskError> {
    let name = || socket.display().to_string();
    let broken = |source| AskError::Broken {
        socket: name(),
        source,
    };
    let mut stream = UnixStream::connect(socket).map_err(|source| AskError::Connect {
        socket: name(),
        source,
    })?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(broken)?;
    stream.set_write_timeout(Some(ANSWER_TIMEOUT)).map_err(broken)?;
    let mut line = serde_json::to_string(question).expect("a question is plain data");
    line.push('\n');
    stream.write_all(line.as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(broken)?;
    match serde_json::from_str(&answer).map_err(|source| AskError::Shape {
        socket: name(),
        source,
    })? {
        Answer::Error(message) => Err(AskError::Refused(message)),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_json() {
        for question in [
            Question::Status,
            Question::Flows {
                limit: 5,
                contains: Some("tcp".into()),
            },
            Question::Services,
            Question::Policy,
            Question::Drops,
        ] {
            let text = serde_json::to_string(&question).unwrap();
            assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question);
        }
        let answer = Answer::Status(Box::default());
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
    }

    #[test]
    fn nobody_listening_says_what_to_look_at() {
        let folder = tempfile::tempdir().unwrap();
        let error = ask(&folder.path().join("none.sock"), &Question::Status)
            .unwrap_err()
            .to_string();
        assert!(error.contains("is ringway-fastpath running"), "{error}");
    }
}
