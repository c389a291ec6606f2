//! Who forwards: Ringway, or the kernel. testpmd is next door.

use std::path::Path;

use ::machine::HugePages;
use anyhow::Result;
use fastpath::status::{PortRow, ReasonRow, Status};
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
    /// Packets that were lost on the wire between the nodes, and how many of them the receiver's sockets count.
    pub(crate) lost_between: u64,
    pub(crate) sockets_lost: u64,
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
    _pages: HugePages,
}

/// Huge pages that a node's packet buffers take, by default.
const PAGES_PER_NODE: u64 = 32;

impl Ringway {
    /// Brings up its lab.
    pub(crate) fn up(programs: &Path, states: &[&str], sink: &str) -> Result<Self> {
        // A file of the state for each node.
        let pages = HugePages::reserve(PAGES_PER_NODE * states.len() as u64)?;
        Ok(Self {
            lab: Lab::up(programs, "ringway", "ringway", states)?,
            sink_port: format!("pod:{sink}"),
            before: Vec::new(),
            _pages: pages,
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
        let moved: Vec<Moved> = self
            .before
            .iter()
            .zip(&after)
            .map(|(before, after)| Moved { before, after })
            .collect();
        for node in &moved {
            node.check(&mut books);
        }
        if let (Some(first), Some(last)) = (moved.first(), moved.last()) {
            books.rx = first.port(SOURCE_PORT, |port| port.rx_frames);
            books.tx = last.port(&self.sink_port, |port| port.tx_frames);
        }
        for pair in moved.windows(2) {
            let sent = pair[0].port(UPLINK, |port| port.tx_frames);
            let received = pair[1].port(UPLINK, |port| port.rx_frames);
            books.sockets_lost += pair[1].port(UPLINK, |port| port.kernel_lost);
            match sent.checked_sub(received) {
                Some(lost) => books.lost_between += lost,
                None => books
                    .wrong
                    .push(format!("{received} of {sent} packets came over the underlay")),
            }
        }
        Ok(Some(books))
    }

    fn down(self: Box<Self>) -> Result<()> {
        self.lab.down()
    }
}

/// A node at the beginning and at the end of a run.
struct Moved<'a> {
    before: &'a Status,
    after: &'a Status,
}

impl Moved<'_> {
    /// How far a port's counter moved.
    fn port(&self, name: &str, counter: fn(&PortRow) -> u64) -> u64 {
        let read = |status: &Status| {
            let port = status.ports.iter().find(|port| port.name == name);
            port.map_or(0, counter)
        };
        read(self.after) - read(self.before)
    }

    /// Adds the drops, and what is wrong with the verdicts.
    fn check(&self, books: &mut Books) {
        let Self { before, after } = self;
        books.dropped.extend(moved(&before.drops, &after.drops));
        let (old, new) = (&before.conservation, &after.conservation);
        let verdicts = (new.tx - old.tx) + (new.punt - old.punt) + (new.drop - old.drop);
        if !new.ok || new.rx - old.rx + old.held != verdicts + new.held {
            books.wrong.push(format!("{}: {new:?} after {old:?}", after.node));
        }
    }
}

const UPLINK: &str = "uplink";
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
    /// Brings up its lab. The node's end of the source's link gets NAPI (by GRO), without which it takes no XDP frames.
    ///
    /// NAPI has a thread of its own there, on the forwarder's CPU: so the kernel takes packets when it has time for them, as Ringway does.
    pub(crate) fn up(programs: &Path, states: &[&str]) -> Result<Self> {
        let lab = Lab::up(programs, "kernel", "kernel", states)?;
        let interface = lab.interface("default/source")?;
        machine::succeed(&mut lab.exec("node-a", &["ethtool", "-K", &interface, "gro", "on"]))?;
        // Other labs may have an interface of that name, in other namespaces.
        let others = machine::napi_threads(&interface);
        let threaded = format!("echo 1 > /sys/class/net/{interface}/threaded");
        machine::succeed(&mut lab.exec("node-a", &["sh", "-c", &threaded]))?;
        let mut threads = machine::napi_threads(&interface);
        threads.retain(|thread| !others.contains(thread));
        anyhow::ensure!(!threads.is_empty(), "{interface} has no thread for its packets");
        machine::make_forwarders(&threads)?;
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
