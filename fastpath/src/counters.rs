//! Counters: per worker, written by its thread alone, read by anyone.
//!
//! A count is a relaxed load and a relaxed store, no locked instruction; readers see each number whole, and recent. The
//! worker accounts for each input packet once ([`Verdict`] or held) and for each frame that a port took once, so that both
//! identities of [`Conservation`] can be checked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::port::PortId;
use crate::recent::RecentDrops;
use crate::snapshot::RuleId;
use crate::verdict::{DropReason, PuntReason, Verdict};

/// One number that one thread counts up.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. For the owning worker only: beside another writer an update would be lost.
    #[inline]
    pub fn add(&self, n: u64) {
        // Relaxed, load and store: one writer; nothing is ordered by a counter.
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, n: u64) {
        self.0.store(n, Relaxed);
    }

    /// The number.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Traffic of one port, as this worker saw it.
#[derive(Debug, Default)]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: Count,
    /// Their bytes.
    pub rx_bytes: Count,
    /// Frames that the port took for sending.
    pub tx_frames: Count,
    /// Their bytes.
    pub tx_bytes: Count,
}

/// What one worker counts.
#[derive(Debug)]
pub struct Counters {
    /// Packets received.
    pub rx: Count,
    /// Packets sent on.
    pub tx: Count,
    /// Packets that wait now: fragments before their first, next hops without a MAC. A gauge.
    pub held: Count,
    /// Frames of our own that a port took: ICMP errors, resets.
    pub generated: Count,
    /// Fragments beyond each packet's first that a port took.
    pub split: Count,
    /// Frames that ports took, all together.
    pub frames_out: Count,
    /// Packets that took the short way of steady flows.
    pub replayed: Count,
    /// Packets that opened a flow the short way.
    pub opened: Count,
    /// Connections installed.
    pub flows_created: Count,
    /// Connections removed because their time was up.
    pub flows_expired: Count,
    /// Connections removed to make room while nobody had answered them.
    pub flows_evicted: Count,
    /// Connections removed for any other reason: closed and opened anew, decided again to their end.
    pub flows_removed: Count,
    /// Connections decided again after a change.
    pub redecisions: Count,
    /// Packets served by an outdated decision because the batch had its share of re-decisions.
    pub redecisions_put_off: Count,
    /// Frames of our own that no port took, or for which no buffer was free.
    pub generated_lost: Count,
    /// Loops of the worker, and those that found nothing: how busy it is.
    pub polls: Count,
    /// Loops that found nothing.
    pub polls_empty: Count,
    /// The last drops.
    pub recent: RecentDrops,
    drops: [Count; DropReason::COUNT],
    punts: [Count; PuntReason::COUNT],
    ports: Box<[PortCounters]>,
    rules: Box<[RuleCounters]>,
}

/// How often a rule (or default deny) decided.
#[derive(Debug, Default)]
pub struct RuleCounters {
    /// First packets of flows, allowed or denied.
    pub decisions: Count,
    /// All packets of flows that it decided.
    pub packets: Count,
}

impl Counters {
    /// Zeros for ports and rules numbered below the given limits; others are not counted singly.
    pub fn new(ports_max: usize, rules_max: usize) -> Self {
        Self {
            rx: Count::default(),
            tx: Count::default(),
            held: Count::default(),
            generated: Count::default(),
            split: Count::default(),
            frames_out: Count::default(),
            replayed: Count::default(),
            opened: Count::default(),
            flows_created: Count::default(),
            flows_expired: Count::default(),
            flows_evicted: Count::default(),
            flows_removed: Count::default(),
            redecisions: Count::default(),
            redecisions_put_off: Count::default(),
            generated_lost: Count::default(),
            polls: Count::default(),
            polls_empty: Count::default(),
            recent: RecentDrops::default(),
            drops: Default::default(),
            punts: Default::default(),
            ports: (0..ports_max).map(|_| PortCounters::default()).collect(),
            rules: (0..rules_max).map(|_| RuleCounters::default()).collect(),
        }
    }

    /// Accounts for the verdict of one input packet.
    #[inline]
    pub(crate) fn verdict(&self, verdict: Verdict) {
        self.verdicts(verdict, 1);
    }

    /// Accounts for the verdict of `n` input packets; tx is counted when the port took them.
    #[inline]
    pub(crate) fn verdicts(&self, verdict: Verdict, n: u64) {
        match verdict {
            Verdict::Tx(_) => self.tx.add(n),
            Verdict::Punt(reason) => self.punts[reason.index()].add(n),
            Verdict::Drop(reason) => self.drops[reason.index()].add(n),
        }
    }

    /// Packets dropped for `reason`.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()].get()
    }

    /// Packets punted for `reason`.
    pub fn punted(&self, reason: PuntReason) -> u64 {
        self.punts[reason.index()].get()
    }

    /// Counters of a port, if it is below the limit.
    #[inline]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.ports.get(port.index())
    }

    /// Counters of a rule, if it is below the limit.
    #[inline]
    pub fn rule(&self, rule: RuleId) -> Option<&RuleCounters> {
        self.rules.get(rule.0 as usize)
    }

    /// Both sides of both identities.
    pub fn conservation(&self) -> Conservation {
        Conservation {
            rx: self.rx.get(),
            tx: self.tx.get(),
            punt: self.punts.iter().map(Count::get).sum(),
            drop: self.drops.iter().map(Count::get).sum(),
            held: self.held.get(),
            generated: self.generated.get(),
            split: self.split.get(),
            frames_out: self.frames_out.get(),
        }
    }

    /// Every number that is not zero, by its name; ports by their number.
    pub fn moved(&self) -> Vec<(String, u64)> {
        let plain = [
            ("rx", &self.rx),
            ("tx", &self.tx),
            ("held", &self.held),
            ("generated", &self.generated),
            ("split", &self.split),
            ("flows-created", &self.flows_created),
            ("flows-expired", &self.flows_expired),
            ("flows-evicted", &self.flows_evicted),
            ("flows-removed", &self.flows_removed),
            ("redecisions", &self.redecisions),
            ("redecisions-put-off", &self.redecisions_put_off),
            ("generated-lost", &self.generated_lost),
        ];
        let drops = DropReason::ALL
            .iter()
            .map(|r| (format!("drop-{}", r.name()), self.dropped(*r)));
        let punts = PuntReason::ALL
            .iter()
            .map(|r| (format!("punt-{}", r.name()), self.punted(*r)));
        plain
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count.get()))
            .chain(drops)
            .chain(punts)
            .filter(|(_, n)| *n != 0)
            .collect()
    }
}

/// What came in, what became of it, and what went out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conservation {
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
}

impl Conservation {
    /// Identity 1: rx = tx + punt + drop + held. Identity 2: frames out = tx + punt + generated + split.
    pub fn ok(&self) -> bool {
        self.rx == self.tx + self.punt + self.drop + self.held
            && self.frames_out == self.tx + self.punt + self.generated + self.split
    }
}
