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
    /// Poll rounds without a frame before a worker sleeps.
    pub idle_rounds: u32,
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
    /// Ports, all kinds.
    pub ports_max: usize,
    /// ICMP errors and resets that a worker makes each second.
    pub answers_per_second_max: u32,
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
            idle_rounds: 64,
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
            ports_max: 1024,
            answers_per_second_max: 1000,
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
    #[error("{key} is {found}; expected {expected}")]
    Value {
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
        config.check()?;
        Ok(config)
    }

    /// As the file that would give these values.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("plain strings and numbers can be written as TOML")
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, found: String, expected| Err(ConfigError::Value { key, found, expected });
        if self.workers.count == 0 || self.workers.count > 64 {
            return refuse("workers.count", self.workers.count.to_string(), "1 to 64");
        }
        if !self.workers.cpus.is_empty() && self.workers.cpus.len() < self.workers.count {
            return refuse(
                "workers.cpus",
                format!("{} CPUs", self.workers.cpus.len()),
                "one CPU for each worker, or none",
            );
        }
        if !matches!(self.memory.chunk_bytes, 2048 | 4096) {
            return refuse(
                "memory.chunk_bytes",
                self.memory.chunk_bytes.to_string(),
                "2048 or 4096",
            );
        }
        if self.memory.chunks_per_worker < 1024 {
            return refuse(
                "memory.chunks_per_worker",
                self.memory.chunks_per_worker.to_string(),
                "1024 or more",
            );
        }
        if !self.memory.ring_entries.is_power_of_two() || !(64..=32_768).contains(&self.memory.ring_entries) {
            return refuse(
                "memory.ring_entries",
                self.memory.ring_entries.to_string(),
                "a power of two, 64 to 32768",
            );
        }
        if self.flow_table.connections_v4 < 1024 || self.flow_table.connections_v6 < 1024 {
            return refuse(
                "flow_table.connections",
                format!(
                    "{} and {}",
                    self.flow_table.connections_v4, self.flow_table.connections_v6
                ),
                "1024 or more of each family",
            );
        }
        if let Some(name) = self
            .ports
            .uplinks
            .iter()
            .find(|n| n.is_empty() || n.len() > 15 || n.contains('/'))
        {
            return refuse(
                "ports.uplinks",
                format!("{name:?}"),
                "interface names of 1 to 15 characters",
            );
        }
        Ok(())
    }
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
        assert_eq!(error, "memory.chunk_bytes is 3000; expected 2048 or 4096");
    }
}
