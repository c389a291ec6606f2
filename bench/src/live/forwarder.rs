//! Who forwards: Ringway, or the kernel. testpmd is next door.

use std::path::Path;

use anyhow::Result;
use fastpath::status::{ReasonRow, Status};
use serde::Serialize;

use super::lab::Lab;
use super::machine;

/// What a forwarder says of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Books {
    /// Packets that came from the source.
    pub(crate) rx: u64,
    /// Packets that went towards the sink.
    pub(crate) tx: u64,
    /// Packets that it dropped, with its reasons.
    pub(crate) dropped: Vec<(String, u64)>,
    /// Packets that the kernel lost in front of its sockets.
    pub(crate) kernel_lost: u64,
    /// What does not add up, in words.
    pub(crate) wrong: Vec<String>,
}

/// Something that carries packets from the pod `default/source` to a sink.
pub(crate) trait Forwarder {
    /// The lab that it forwards in.
    fn lab(&self) -> &Lab;

    /// Routers that a packet passes on its way to the sink.
    fn hops(&self) -> u8;

    /// Forwards from here on.
    fn begin(&mut self) -> Result<()>;

    /// Stands still, and tells what it did since [`begin`](Self::begin); none where nobody counts.
    fn end(&mut self) -> Result<Option<Books>>;

    /// Takes down what was made.
    fn down(self: Box<Self>) -> Result<()>;
}

/// `ringway-fastpath` on every node, fed by `ringway-control`.
#[derive(Debug)]
pub(crate) struct Ringway {
    lab: Lab,
    /// Port that the packets leave the last node by.
    sink_port: String,
    before: Vec<Status>,
}

impl Ringway {
    /// Brings up its lab.
    pub(crate) fn up(programs: &Path, states: &[&str], sink: &str) -> Result<Self> {
        Ok(Self {
            lab: Lab::up(programs, "ringway", states)?,
            sink_port: format!("pod:{sink}"),
            before: Vec::new(),
        })
    }

    fn statuses(&self) -> Result<Vec<Status>> {
        self.lab
            .nodes()
            .iter()
            .map(|node| self.lab.status(node))
            .collect()
    }
}

impl Forwarder for Ringway {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn hops(&self) -> u8 {
        self.lab.nodes().len() as u8
    }

    fn begin(&mut self) -> Result<()> {
        self.before = self.statuses()?;
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Books>> {
        let after = self.statuses()?;
        let mut books = Books::default();
        for (before, after) in self.before.iter().zip(&after) {
            books.add(before, after, &self.sink_port);
        }
        Ok(Some(books))
    }

    fn down(self: Box<Self>) -> Result<()> {
        self.lab.down()
    }
}

impl Books {
    /// Adds what a node did between two looks at it.
    fn add(&mut self, before: &Status, after: &Status, sink_port: &str) {
        let frames = |status: &Status, name: &str, of: fn(&fastpath::status::PortRow) -> u64| {
            let ports = status
                .ports
                .iter()
                .filter(|port| name.is_empty() || port.name == name);
            ports.map(of).sum::<u64>()
        };
        self.rx += frames(after, SOURCE_PORT, |port| port.rx_frames)
            - frames(before, SOURCE_PORT, |port| port.rx_frames);
        self.tx += frames(after, sink_port, |port| port.tx_frames)
            - frames(before, sink_port, |port| port.tx_frames);
        self.kernel_lost +=
            frames(after, "", |port| port.kernel_lost) - frames(before, "", |port| port.kernel_lost);
        for (row, count) in moved(&before.drops, &after.drops) {
            self.dropped.push((row, count));
        }
        let (old, new) = (&before.conservation, &after.conservation);
        let verdicts = (new.tx - old.tx) + (new.punt - old.punt) + (new.drop - old.drop);
        if !new.ok || new.rx - old.rx + old.held != verdicts + new.held {
            self.wrong.push(format!("{}: {new:?} after {old:?}", after.node));
        }
    }
}

const SOURCE_PORT: &str = "pod:default/source";

/// The counters that moved, and by how much.
fn moved(before: &[ReasonRow], after: &[ReasonRow]) -> Vec<(String, u64)> {
    let old = |reason: &str| {
        let row = before.iter().find(|row| row.reason == reason);
        row.map_or(0, |row| row.count)
    };
    let difference = |row: &ReasonRow| (row.reason.clone(), row.count - old(&row.reason));
    after
        .iter()
        .map(difference)
        .filter(|(_, count)| *count > 0)
        .collect()
}

/// The kernel: routes, nftables for services, a VXLAN device; no policy.
#[derive(Debug)]
pub(crate) struct Kernel {
    lab: Lab,
}

impl Kernel {
    /// Brings up its lab. The node's end of the source's link gets NAPI (by GRO), without which it takes no XDP frames, and hands
    /// packets on to the forwarder's CPU (RPS): like Ringway it forwards beside the source, not in its time.
    pub(crate) fn up(programs: &Path, states: &[&str]) -> Result<Self> {
        let lab = Lab::up(programs, "kernel", states)?;
        let interface = lab.interface("default/source")?;
        machine::succeed(&mut lab.exec("node-a", &["ethtool", "-K", &interface, "gro", "on"]))?;
        let mask = format!("{:x}", 1_u64 << machine::FORWARDER_CPU);
        let steer = format!("echo {mask} > /sys/class/net/{interface}/queues/rx-0/rps_cpus");
        machine::succeed(&mut lab.exec("node-a", &["sh", "-c", &steer]))?;
        Ok(Self { lab })
    }
}

impl Forwarder for Kernel {
    fn lab(&self) -> &Lab {
        &self.lab
    }

    fn hops(&self) -> u8 {
        self.lab.nodes().len() as u8
    }

    fn begin(&mut self) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Books>> {
        Ok(None)
    }

    fn down(self: Box<Self>) -> Result<()> {
        self.lab.down()
    }
}
