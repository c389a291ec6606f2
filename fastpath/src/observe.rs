//! What someone may watch a worker do: replay's verdict lines, traces, captures.
//!
//! The observer is a type parameter of the worker; [`Unobserved`] compiles to nothing. Calls come in the order in which
//! things happen: `received` for each packet of a batch, `decided` and `emitted` as the packets get their verdicts,
//! `sent` or `unsent` once a port has taken their frames.

use crate::flow::Tuple;
use crate::port::PortId;
use crate::snapshot::{RuleId, ServiceId, Snapshot};
use crate::verdict::Verdict;

/// Number of an input packet: counts from 0 over all ports of the worker, in the order received.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketNumber(pub u64);

/// What was decided for one packet, and by what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// Where it went, or why it did not.
    pub verdict: Verdict,
    /// The rule or default deny that decided, where policy did.
    pub rule: Option<RuleId>,
    /// The Service port that it was sent to, or came back from.
    pub service: Option<ServiceId>,
    /// The flow it belongs to.
    pub flow: Option<FlowView>,
}

impl Fate {
    /// A verdict to which neither policy nor Service nor flow contributed.
    pub const fn bare(verdict: Verdict) -> Self {
        Self {
            verdict,
            rule: None,
            service: None,
            flow: None,
        }
    }
}

/// A connection as a verdict line shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// This packet made the entry.
    pub new: bool,
    /// The tuple as the first packet had it on arrival.
    pub orig: Tuple,
    /// The tuple as replies have it on arrival.
    pub reply: Tuple,
}

/// Why a frame left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Emission {
    /// An input packet (or the first fragment that it was cut into).
    Forwarded,
    /// An input packet, unchanged, to the kernel.
    Punted,
    /// The second or a later fragment of an input packet.
    Split,
    /// A frame of our own: an ICMP error or a reset.
    Generated,
}

/// Watches one worker.
pub trait Observer {
    /// `false` removes the calls, and what is gathered for them, from the worker.
    const ACTIVE: bool = true;

    /// `frame` was received on `port`.
    fn received(&mut self, packet: PacketNumber, port: PortId, frame: &[u8]);

    /// The packet's verdict. It stands unless [`unsent`](Self::unsent) follows.
    fn decided(&mut self, packet: PacketNumber, fate: &Fate, snapshot: &Snapshot);

    /// The packet waits (a fragment before its first, a next hop that is not resolved); `decided` comes later.
    fn held(&mut self, packet: PacketNumber);

    /// `port` took a frame. `cause` is the packet that it stems from, none for what only time caused.
    fn sent(&mut self, cause: Option<PacketNumber>, port: PortId, frame: &[u8], emission: Emission);

    /// The port had no room for the packet: its verdict is drop, `tx-ring-full` (or `port-gone`).
    fn unsent(&mut self, packet: PacketNumber, verdict: Verdict);
}

/// Nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    const ACTIVE: bool = false;

    #[inline]
    fn received(&mut self, _: PacketNumber, _: PortId, _: &[u8]) {}

    #[inline]
    fn decided(&mut self, _: PacketNumber, _: &Fate, _: &Snapshot) {}

    #[inline]
    fn held(&mut self, _: PacketNumber) {}

    #[inline]
    fn sent(&mut self, _: Option<PacketNumber>, _: PortId, _: &[u8], _: Emission) {}

    #[inline]
    fn unsent(&mut self, _: PacketNumber, _: Verdict) {}
}
