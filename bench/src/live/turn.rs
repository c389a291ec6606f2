//! One turn of a forwarder: packets for some time, the rate at the sink, and what became of each packet.

use std::thread;
use std::time::{Duration, Instant};

use ::machine::Interrupt;
use anyhow::{Result, ensure};
use serde::Serialize;

use super::forwarder::Forwarder;
use super::machine;
use super::sink::{Arrival, Sink};
use super::source::{Load, Route, Source};

/// How often the sink is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The sink stands still when so many looks in a row see the same.
const SAME_LOOKS: u32 = 6;
/// What is on its way arrives within this.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The part of a turn that is not measured: the forwarder wakes up, rings fill.
const WARM_UP: f64 = 0.15;

/// A forwarder with a source and a sink beside it.
pub(crate) struct Bench {
    pub(crate) forwarder: Box<dyn Forwarder>,
    source: Source,
    sink: Sink,
}

/// What became of the packets of one turn, or of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Account {
    /// Sent by the source.
    pub(crate) offered: u64,
    /// Lost on the way to the forwarder: it was slower than the source.
    pub(crate) lost_before: u64,
    /// Lost by the kernel between two nodes: the second was slower than the first.
    pub(crate) lost_between: u64,
    /// Dropped by the forwarder.
    pub(crate) dropped: u64,
    /// Lost by the kernel between the forwarder and the sink, which the machine's backlog counter explains.
    pub(crate) lost_behind: u64,
    /// Arrived as they should be.
    pub(crate) delivered: u64,
    /// The forwarder keeps no books: what did not arrive stands under `lost_before`.
    pub(crate) uncounted: bool,
    /// Everything adds up.
    pub(crate) ok: bool,
    /// Otherwise: what does not.
    pub(crate) wrong: Vec<String>,
}

/// One turn.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    /// Thousands of packets a second, at the sink, in the steady part.
    pub(crate) kpps: f64,
    pub(crate) account: Account,
}

impl Bench {
    /// Puts source and sink into the pods of the forwarder's lab.
    pub(crate) fn new(
        forwarder: Box<dyn Forwarder>,
        route: Route,
        mut arrival: Arrival,
        sink: &str,
    ) -> Result<Self> {
        let source = Source::new(forwarder.lab().netns("default/source")?, route, arrival.len)?;
        arrival.hops = forwarder.hops();
        let sink = Sink::new(forwarder.lab().netns(sink)?, &arrival)?;
        Ok(Self {
            forwarder,
            source,
            sink,
        })
    }

    /// Sends `load` through the forwarder.
    pub(crate) fn turn(&mut self, load: Load, interrupt: &Interrupt) -> Result<Turn> {
        interrupt.check()?;
        self.forwarder.begin()?;
        let before = self.sink.count()?;
        let backlog_before = machine::backlog_drops();
        let (sent, kpps) = self.send(load, interrupt)?;
        drain(&self.sink)?;
        let books = self.forwarder.end()?;
        let after = self.sink.count()?;
        let backlog_lost = machine::backlog_drops() - backlog_before;
        let delivered = after.arrived - before.arrived;

        let mut account = Account {
            offered: sent,
            delivered,
            ..Account::default()
        };
        if after.strays > before.strays {
            account.wrong.push(format!(
                "{} packets arrived otherwise than they should",
                after.strays - before.strays
            ));
        }
        if let Some(books) = books {
            account.dropped = books.dropped.iter().map(|(_, count)| count).sum();
            account.wrong.extend(books.wrong);
            account.lost_between = books.lost_between;
            account.settle(books.rx, books.tx, books.sockets_lost + backlog_lost);
        } else {
            account.uncounted = true;
            match sent.checked_sub(delivered) {
                Some(lost) => account.lost_before = lost,
                None => account.wrong.push(format!("{delivered} arrived of {sent}")),
            }
        }
        account.ok = account.wrong.is_empty();
        Ok(Turn { kpps, account })
    }

    /// Takes the forwarder down, and its lab.
    pub(crate) fn down(self) -> Result<()> {
        self.forwarder.down()
    }

    /// Runs the source and meanwhile measures at the sink. Gives the frames sent and the rate.
    fn send(&mut self, load: Load, interrupt: &Interrupt) -> Result<(u64, f64)> {
        let Self { source, sink, .. } = self;
        source.run(load, || watch(sink, load.length, interrupt))
    }
}

/// The rate between the warm-up's end and the end, in thousands a second.
fn watch(sink: &Sink, length: Duration, interrupt: &Interrupt) -> Result<f64> {
    let start = Instant::now();
    let (mut first, mut last) = (None, (start, sink.glance()?));
    while start.elapsed() < length && !interrupt.came() {
        thread::sleep(LOOK);
        last = (Instant::now(), sink.glance()?);
        if first.is_none() && start.elapsed() >= length.mul_f64(WARM_UP) {
            first = Some(last);
        }
    }
    let Some(first) = first.filter(|first| last.0 > first.0) else {
        return Ok(0.0);
    };
    let seconds = (last.0 - first.0).as_secs_f64();
    Ok((last.1 - first.1) as f64 / seconds / 1e3)
}

/// Waits until nothing arrives any more.
fn drain(sink: &Sink) -> Result<()> {
    let start = Instant::now();
    let (mut seen, mut same) = (sink.glance()?, 0);
    while same < SAME_LOOKS {
        ensure!(
            start.elapsed() < DRAIN_MAX,
            "packets still arrive {DRAIN_MAX:?} after the source ended"
        );
        thread::sleep(LOOK);
        let now = sink.glance()?;
        same = if now == seen { same + 1 } else { 0 };
        seen = now;
    }
    Ok(())
}

impl Account {
    /// Fills in the losses from the forwarder's books, and says what does not add up. `explained`: losses that the kernel
    /// counted, at sockets and in its backlogs.
    fn settle(&mut self, rx: u64, tx: u64, explained: u64) {
        let between = self.lost_between;
        match self.offered.checked_sub(rx) {
            Some(lost) => self.lost_before = lost,
            None => self
                .wrong
                .push(format!("the forwarder received {rx} of {} sent", self.offered)),
        }
        if rx != tx + self.dropped + between {
            self.wrong.push(format!(
                "rx {rx} is not tx {tx} + dropped {} + lost between nodes {between}",
                self.dropped
            ));
        }
        match tx.checked_sub(self.delivered) {
            Some(lost) if lost + between <= explained => self.lost_behind = lost,
            Some(lost) => self.wrong.push(format!(
                "{lost} at the sink and {between} between nodes did not arrive, of which the kernel tells {explained}"
            )),
            None => self
                .wrong
                .push(format!("{} arrived of {tx} that were sent on", self.delivered)),
        }
    }

    /// The sum of two accounts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.offered += other.offered;
        self.lost_before += other.lost_before;
        self.lost_between += other.lost_between;
        self.dropped += other.dropped;
        self.lost_behind += other.lost_behind;
        self.delivered += other.delivered;
        self.uncounted |= other.uncounted;
        self.ok &= other.ok;
        self.wrong.extend(other.wrong.iter().cloned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(offered: u64, dropped: u64, delivered: u64) -> Account {
        Account {
            offered,
            dropped,
            delivered,
            ..Account::default()
        }
    }

    #[test]
    fn every_packet_has_its_place() {
        let mut settled = account(100, 5, 83);
        settled.settle(90, 85, 2);
        assert!(settled.wrong.is_empty(), "{:?}", settled.wrong);
        assert_eq!((settled.lost_before, settled.lost_behind), (10, 2));
    }

    #[test]
    fn a_packet_that_is_nowhere_is_found_out() {
        for (rx, tx, delivered, backlog) in [
            (101, 101, 101, 0), // more received than sent
            (90, 84, 84, 0),    // one vanished in the forwarder
            (90, 85, 83, 1),    // one vanished behind it
            (90, 85, 86, 0),    // one came twice
        ] {
            let mut settled = account(100, 5, delivered);
            settled.settle(rx, tx, backlog);
            assert!(!settled.wrong.is_empty(), "{rx} {tx} {delivered} {backlog}");
        }
    }
}
