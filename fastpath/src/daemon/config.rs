//! The configuration file of `ringway-fastpath`: TOML, every key optional, unknown keys refused.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Everything that an operator can set. `ringway-fastpath --print-config` shows it with the values in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Who this is.
    pub node: NodeConfig,
    /// Unix sockets.
    pub sockets: SocketsConfig,
    /// Interfaces.
    pub ports: PortsConfig,
    /// Worker threads.
    pub workers: WorkersConfig,
    /// XDP programs and maps.
    pub bpf: BpfConfig,
    /// Connections.
    pub flow_table: FlowTableConfig,
    /// Packet buffers.
    pub memory: MemoryConfig,
    /// Bounds.
    pub limits: LimitsConfig,
}

/// `[node]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Name of the node; empty: whatever control says. A state for another node is refused when it is set.
    pub name: String,
}

/// `[sockets]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SocketsConfig {
    /// Where control connects with desired state.
    pub fastpath: PathBuf,
    /// Where `ringway status` and its like ask.
    pub status: PathBuf,
}

/// `[ports]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortsConfig {
    /// Kernel names of the uplinks: ports `uplink`, `uplink1`, ... in this order.
    pub uplinks: Vec<String>,
    /// The kernel's end of the host port, made by us; empty: no host port.
    pub host_interface: String,
    /// Our end of the host port.
    pub host_peer: String,
    /// RX and TX queues that the host port is made with.
    pub host_queues: u32,
}

/// `[workers]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// How many; worker w of W serves the queues i with i mod W = w of every port.
    pub count: usize,
    /// CPUs to pin them to, in order; empty: the CPUs that the process may use, first ones first.
    pub cpus: Vec<usize>,
    /// How long a worker goes on polling after the last frame, microseconds, before it sleeps.
    pub busy_poll_us: u64,
}

/// `[bpf]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BpfConfig {
    /// A bpffs directory for the uplinks' programs, links and maps, which outlive this process; mounted when it is not.
    pub bpffs: PathBuf,
}

/// `[flow_table]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FlowTableConfig {
    /// Folder of the tables' memory, on a tmpfs so that connections survive a restart of this process and not of the node.
    pub directory: PathBuf,
    /// IPv4 connections.
    pub connections_v4: u32,
    /// IPv6 connections.
    pub connections_v6: u32,
}

/// `[memory]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Packet buffers of each worker.
    pub chunks_per_worker: usize,
    /// Bytes of each: 2048 or 4096.
    pub chunk_bytes: usize,
    /// Entries of each AF_XDP ring, a power of two.
    pub ring_entries: u32,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// ICMP errors that a worker makes each second on average, a tenth of it at once.
    pub icmp_errors_per_second_max: u32,
}

impl Default for SocketsConfig {
    fn default() -> Self {
        Self {
            fastpath: "/run/ringway/fastpath.sock".into(),
            status: "/run/ringway/status.sock".into(),
        }
    }
}

impl Default for PortsConfig {
    fn default() -> Self {
        Self {
            uplinks: Vec::new(),
            host_interface: "ringway-host".into(),
            host_peer: "ringway-fp".into(),
            host_queues: 2,
        }
    }
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            count: 1,
            cpus: Vec::new(),
            busy_poll_us: 100,
        }
    }
}

impl Default for BpfConfig {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf/ringway".into(),
        }
    }
}

impl Default for FlowTableConfig {
    fn default() -> Self {
        Self {
            directory: "/run/ringway/flows".into(),
            connections_v4: 1 << 20,
            connections_v6: 1 << 18,
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            chunks_per_worker: 16_384,
            chunk_bytes: 4096,
            ring_entries: 1024,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            icmp_errors_per_second_max: 1000,
        }
    }
}

/// Why a configuration can't be used. The operator is at fault; the message says what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or not of this shape; the message of the parser names line and key.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, key and what was expected, on one line.
        message: String,
    },
    /// A value that can't be.
    #[error("{}: {key} is {found}; expected {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key, with its table.
        key: &'static str,
        /// What the file says.
        found: String,
        /// What it may say.
        expected: &'static str,
    },
}

impl Config {
    /// Reads and checks `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        let config: Self = toml::from_str(&text).map_err(|e| ConfigError::Invalid {
            path: path.to_owned(),
            message: one_line(&e, &text),
        })?;
        config.check(path)?;
        Ok(config)
    }

    /// As the file that would give these values.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain strings and numbers can be written as TOML")
    }

    fn check(&self, path: &Path) -> Result<(), ConfigError> {
        match self.wrong_value() {
            None => Ok(()),
            Some((key, found, expected)) => Err(ConfigError::Value {
                path: path.to_owned(),
                key,
                found,
                expected,
            }),
        }
    }

    /// The first value that can't be: its key, itself and what it may be.
    fn wrong_value(&self) -> Option<(&'static str, String, &'static str)> {
        let (workers, ports, memory, flows) = (&self.workers, &self.ports, &self.memory, &self.flow_table);
        let mut uplinks = ports.uplinks.clone();
        uplinks.sort_unstable();
        let twice = uplinks.windows(2).find(|pair| pair[0] == pair[1]);
        let no_name = ports.uplinks.iter().find(|name| !is_interface_name(name));
        let has_host = !ports.host_interface.is_empty();
        let pairs_well = is_interface_name(&ports.host_peer) && ports.host_peer != ports.host_interface;
        let names = "interface names of 1 to 15 characters, each once";
        let connections = "1024 to 1073741824";
        let rules = [
            (
                (1..=64).contains(&workers.count),
                ("workers.count", workers.count.to_string(), "1 to 64"),
            ),
            (
                workers.busy_poll_us <= 1_000_000,
                (
                    "workers.busy_poll_us",
                    workers.busy_poll_us.to_string(),
                    "0 to 1000000",
                ),
            ),
            (
                (10..=1_000_000).contains(&self.limits.icmp_errors_per_second_max),
                (
                    "limits.icmp_errors_per_second_max",
                    self.limits.icmp_errors_per_second_max.to_string(),
                    "10 to 1000000",
                ),
            ),
            (
                workers.cpus.is_empty() || workers.cpus.len() >= workers.count,
                (
                    "workers.cpus",
                    format!("{} CPUs", workers.cpus.len()),
                    "one CPU for each worker, or none",
                ),
            ),
            (
                matches!(memory.chunk_bytes, 2048 | 4096),
                (
                    "memory.chunk_bytes",
                    memory.chunk_bytes.to_string(),
                    "2048 or 4096",
                ),
            ),
            (
                (1024..=1 << 22).contains(&memory.chunks_per_worker),
                (
                    "memory.chunks_per_worker",
                    memory.chunks_per_worker.to_string(),
                    "1024 to 4194304",
                ),
            ),
            (
                memory.ring_entries.is_power_of_two() && (64..=32_768).contains(&memory.ring_entries),
                (
                    "memory.ring_entries",
                    memory.ring_entries.to_string(),
                    "a power of two, 64 to 32768",
                ),
            ),
            (
                (1024..=1 << 30).contains(&flows.connections_v4),
                (
                    "flow_table.connections_v4",
                    flows.connections_v4.to_string(),
                    connections,
                ),
            ),
            (
                (1024..=1 << 30).contains(&flows.connections_v6),
                (
                    "flow_table.connections_v6",
                    flows.connections_v6.to_string(),
                    connections,
                ),
            ),
            (
                no_name.is_none(),
                (
                    "ports.uplinks",
                    format!("{:?}", no_name.map_or("", String::as_str)),
                    names,
                ),
            ),
            (
                twice.is_none(),
                ("ports.uplinks", format!("{:?}", ports.uplinks), names),
            ),
            (
                !has_host || is_interface_name(&ports.host_interface),
                (
                    "ports.host_interface",
                    format!("{:?}", ports.host_interface),
                    "an interface name of 1 to 15 characters, or nothing",
                ),
            ),
            (
                !has_host || pairs_well,
                (
                    "ports.host_peer",
                    format!("{:?}", ports.host_peer),
                    "an interface name of 1 to 15 characters, not that of host_interface",
                ),
            ),
            (
                (1..=256).contains(&ports.host_queues),
                ("ports.host_queues", ports.host_queues.to_string(), "1 to 256"),
            ),
            (
                self.sockets.fastpath != self.sockets.status,
                (
                    "sockets.status",
                    self.sockets.status.display().to_string(),
                    "another path than that of sockets.fastpath",
                ),
            ),
        ];
        let wrong = rules.into_iter().find(|(holds, _)| !holds);
        wrong.map(|(_, refused)| refused)
    }
}

/// What the kernel takes as an interface's name.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len()) && !name.contains('/') && !name.contains(char::is_whitespace)
}

/// The parser's message on one line, with the line number of the file.
fn one_line(error: &toml::de::Error, text: &str) -> String {
    let line = error.span().map_or(1, |span| {
        text[..span.start.min(text.len())].matches('\n').count() + 1
    });
    format!("line {line}: {}", error.message().replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path())
    }

    #[test]
    fn an_empty_file_is_the_defaults_and_what_is_printed_reads_back() {
        let config = load("").unwrap();
        assert_eq!(config, Config::default());
        assert_eq!(load(&config.to_toml()).unwrap(), config);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let error = load("[workers]\ncount = 1\nthreads = 2\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("line 3") && error.contains("threads"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn a_value_out_of_range_says_what_was_expected() {
        let error = load("[memory]\nchunk_bytes = 3000\n").unwrap_err().to_string();
        assert!(
            error.ends_with(": memory.chunk_bytes is 3000; expected 2048 or 4096"),
            "{error}"
        );
        assert!(error.starts_with('/'), "the file is named: {error}");
        for (text, named) in [
            ("[workers]\ncount = 0", "workers.count is 0; expected 1 to 64"),
            ("[ports]\nuplinks = ['e', 'e']", "ports.uplinks is"),
            ("[ports]\nuplinks = ['']", "ports.uplinks is \"\""),
            (
                "[ports]\nhost_interface = 'sixteen-letters-'",
                "ports.host_interface",
            ),
            ("[ports]\nhost_peer = 'ringway-host'", "ports.host_peer"),
            ("[ports]\nhost_queues = 0", "ports.host_queues is 0"),
            (
                "[flow_table]\nconnections_v6 = 4000000000",
                "flow_table.connections_v6",
            ),
            ("[sockets]\nstatus = '/a'\nfastpath = '/a'", "sockets.status"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains('\n'), "{text}: {error}");
        }
    }
}
