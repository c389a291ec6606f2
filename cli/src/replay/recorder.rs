//! Recorder: watches the worker and writes what it sees, frames as pcapng and verdicts as lines in the order of input.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::Arc;

use fastpath::io::pcap::PcapngWriter;
use fastpath::observe::{Emission, Fate, Observer, PacketNumber};
use fastpath::port::PortId;
use fastpath::snapshot::Snapshot;
use fastpath::verdict::Verdict;

use super::line::{Line, Out};
use super::node::PortNames;
use super::output::Output;

/// Frames and lines of one replay.
///
/// A line may be written once every earlier packet has its verdict: a held fragment keeps back those after it.
pub(super) struct Recorder {
    frames: PcapngWriter<Output>,
    verdicts: Option<Output>,
    /// By the port's index: its name, and its interface in the output.
    ports: Vec<Option<(Arc<str>, u32)>>,
    /// Replayed time, nanoseconds since 1970.
    now_ns: u64,
    /// Lines that are not written yet: the packets from `first` on.
    lines: VecDeque<Line>,
    first: u64,
    /// The first error in writing.
    error: Option<io::Error>,
}

impl Recorder {
    pub(super) fn new(frames: Output, verdicts: Option<Output>, names: &PortNames) -> io::Result<Self> {
        let mut ports = Vec::new();
        for (interface, (name, id)) in names.iter().enumerate() {
            if ports.len() <= id.index() {
                ports.resize(id.index() + 1, None);
            }
            ports[id.index()] = Some((Arc::from(name), interface as u32));
        }
        Ok(Self {
            frames: PcapngWriter::new(frames, names.iter().map(|(name, _)| name))?,
            verdicts,
            ports,
            now_ns: 0,
            lines: VecDeque::new(),
            first: 0,
            error: None,
        })
    }

    /// What comes now happens at this time.
    pub(super) fn set_now(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Writes the lines that are complete; the worker has finished its batch.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        while let Some(line) = self.lines.pop_front_if(|line| line.is_decided()) {
            self.first += 1;
            if let Some(verdicts) = &mut self.verdicts {
                serde_json::to_writer(&mut *verdicts, &line)?;
                verdicts.write_all(b"\n")?;
            }
        }
        Ok(())
    }

    /// The files, complete.
    pub(super) fn finish(mut self) -> io::Result<(Output, Option<Output>)> {
        self.settle()?;
        debug_assert!(
            self.lines.is_empty(),
            "packets without a verdict: {:?}",
            self.lines
        );
        Ok((self.frames.into_inner()?, self.verdicts))
    }

    fn line(&mut self, packet: PacketNumber) -> Option<&mut Line> {
        let at = packet.0.checked_sub(self.first)?;
        let line = self.lines.get_mut(usize::try_from(at).ok()?);
        debug_assert!(line.is_some(), "{packet:?} was not received");
        line
    }

    fn name(&self, port: PortId) -> Option<&(Arc<str>, u32)> {
        self.ports.get(port.index())?.as_ref()
    }
}

impl Observer for Recorder {
    fn received(&mut self, packet: PacketNumber, port: PortId, _: &[u8]) {
        debug_assert_eq!(
            packet.0,
            self.first + self.lines.len() as u64,
            "packets come in order"
        );
        let name = self
            .name(port)
            .map_or_else(|| Arc::from(""), |(name, _)| Arc::clone(name));
        self.lines.push_back(Line::new(packet.0 + 1, self.now_ns, name));
    }

    fn decided(&mut self, packet: PacketNumber, fate: &Fate, snapshot: &Snapshot) {
        if let Some(line) = self.line(packet) {
            line.decide(fate, snapshot);
        }
    }

    fn held(&mut self, _: PacketNumber) {}

    fn sent(&mut self, cause: Option<PacketNumber>, port: PortId, frame: &[u8], _: Emission) {
        let Some((name, interface)) = self.name(port).cloned() else {
            debug_assert!(false, "{port:?} is no port of the node");
            return;
        };
        let frame = match self.frames.write(interface, self.now_ns, frame, None) {
            Ok(frame) => frame,
            Err(error) => {
                self.error.get_or_insert(error);
                return;
            }
        };
        if let Some(line) = cause.and_then(|packet| self.line(packet)) {
            line.out.push(Out { port: name, frame });
        }
    }

    fn unsent(&mut self, packet: PacketNumber, verdict: Verdict) {
        if let Some(line) = self.line(packet) {
            line.set_verdict(verdict);
        }
    }
}
