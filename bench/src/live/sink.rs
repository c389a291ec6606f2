//! The sink, the same for every forwarder: nftables at the ingress of a pod's link counts what should arrive and drops it before
//! the pod's IP sees it. What looks otherwise counts as a stray.

use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use fastpath::io::netns::NetworkNamespace;
use serde_json::Value;

use super::source::{FIRST_PORT, FLOWS};

/// What an arriving packet looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    pub(crate) port: u16,
    /// How many routers it passed.
    pub(crate) hops: u8,
    /// Bytes of the frame.
    pub(crate) len: usize,
}

/// Packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// As they should be.
    pub(crate) arrived: u64,
    /// UDP that is otherwise.
    pub(crate) strays: u64,
}

/// The rules in a pod's namespace.
#[derive(Debug)]
pub(crate) struct Sink {
    netns: NetworkNamespace,
}

impl Sink {
    /// Puts the rules on `eth0` of `netns`.
    pub(crate) fn new(netns: NetworkNamespace, arrival: &Arrival) -> Result<Self> {
        let sink = Self { netns };
        sink.nft(&["-f", "-"], &rules(arrival))?;
        Ok(sink)
    }

    /// What arrived since the rules are there.
    pub(crate) fn count(&self) -> Result<Count> {
        let listed = self.nft(&["-j", "list", "counters", "netdev"], "")?;
        let listed: Value = serde_json::from_str(&listed).context("what nft lists")?;
        let packets = |name: &str| {
            let rows = listed["nftables"].as_array().into_iter().flatten();
            let row = rows.map(|row| &row["counter"]).find(|row| row["name"] == name);
            let packets = row.and_then(|row| row["packets"].as_u64());
            packets.with_context(|| format!("nft lists no counter {name}"))
        };
        Ok(Count {
            arrived: packets("arrived")?,
            strays: packets("strays")?,
        })
    }

    /// What came in on the link, of any kind: a look that costs microseconds.
    pub(crate) fn glance(&self) -> Result<u64> {
        let text = self
            .netns
            .run(|| fs::read_to_string("/proc/thread-self/net/dev"))??;
        received(&text, "eth0").context("the pod has eth0")
    }

    fn nft(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut command = Command::new("nft");
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let spawned = self.netns.run(|| command.spawn())?;
        let mut child = spawned.context("starting nft (Debian package nftables)")?;
        let mut stdin = child.stdin.take().context("nft's input")?;
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "nft {arguments:?}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

fn rules(arrival: &Arrival) -> String {
    let Arrival {
        from,
        to,
        port,
        hops,
        len,
    } = arrival;
    let (ttl, udp_len) = (64 - hops, len - 34);
    let last_port = u32::from(FIRST_PORT) + FLOWS - 1;
    format!(
        "table netdev bench {{\n  \
           counter arrived {{}}\n  \
           counter strays {{}}\n  \
           chain sink {{\n    \
             type filter hook ingress device \"eth0\" priority 0; policy accept;\n    \
             ip saddr {from} ip daddr {to} ip ttl {ttl} udp dport {port} udp sport {FIRST_PORT}-{last_port} udp length {udp_len} \
             counter name arrived drop\n    \
             ip protocol udp counter name strays drop\n  \
           }}\n}}\n"
    )
}

/// Received packets of an interface in `/proc/net/dev`.
fn received(text: &str, interface: &str) -> Option<u64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_packets_are_the_second_column() {
        let text = "Inter-|   Receive\n face |bytes packets\n    lo:  10 1 0 0 0 0 0 0 10 1\n  eth0: 6400 100 0 3 0 0 0 0 1 2\n";
        assert_eq!(received(text, "eth0"), Some(100));
        assert_eq!(received(text, "lo"), Some(1));
        assert_eq!(received(text, "eth"), None);
    }

    #[test]
    fn a_packet_that_passed_a_router_has_a_lower_ttl_in_the_rules() {
        let arrival = Arrival {
            from: [10, 244, 1, 10].into(),
            to: [10, 244, 2, 10].into(),
            port: 9000,
            hops: 2,
            len: 64,
        };
        let rules = rules(&arrival);
        assert!(
            rules.contains("ip ttl 62 udp dport 9000 udp sport 20000-20063 udp length 30"),
            "{rules}"
        );
    }
}
