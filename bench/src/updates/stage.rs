//! Stage: what all threads of a run do at a time, phase by phase.

use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

/// What happens in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing changes.
    Quiet,
    /// Endpoints are replaced, at the rate asked for.
    Changes,
    /// The whole state comes once more, as when control has restarted.
    Resync,
    /// As a resync, but what was compiled is thrown away: no worker sees it.
    Rehearsal,
    /// The other thread counts, as long as a resync takes: nothing but that a second processor is busy.
    Spin,
    /// A label of one client changes.
    Label,
}

/// The phases of a run, and which one it is.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) phases: Vec<Kind>,
    /// Number of the phase, and in the lowest bit whether it counts: not while it still has the one before in it.
    now: AtomicU64,
    /// Phases whose single event is over.
    events_done: AtomicUsize,
    failed: AtomicBool,
}

/// A moment of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn phase(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub(super) fn counts(self) -> bool {
        self.0 & 1 != 0
    }
}

impl Stage {
    pub(super) fn new(phases: Vec<Kind>) -> Self {
        Self {
            phases,
            now: AtomicU64::new(0),
            events_done: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
        }
    }

    /// `None`: all phases are over.
    pub(super) fn now(&self) -> Option<(Moment, Kind)> {
        let moment = Moment(self.now.load(Acquire));
        let kind = self.phases.get(moment.phase()).copied()?;
        (!self.failed.load(Relaxed)).then_some((moment, kind))
    }

    /// Begins phase `phase`.
    pub(super) fn enter(&self, phase: usize, counts: bool) {
        self.now.store((phase as u64) << 1 | u64::from(counts), Release);
    }

    /// What the phase is about begins now, or has ended.
    pub(super) fn count(&self, phase: usize, counts: bool) {
        self.enter(phase, counts);
    }

    /// All phases are over.
    pub(super) fn end(&self) {
        self.enter(self.phases.len(), false);
    }

    /// A thread could not go on: no other has to.
    pub(super) fn fail(&self) {
        self.failed.store(true, Relaxed);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    pub(super) fn event_done(&self) {
        self.events_done.fetch_add(1, Release);
    }

    pub(super) fn events_done(&self) -> usize {
        self.events_done.load(Acquire)
    }
}
