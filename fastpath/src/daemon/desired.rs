//! Desired state on its way to the workers: checked, compiled, published, made visible, acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::proto::{Applied, Refused, Resync, from_fastpath::Body as Answer};
use contract::valid::{Invalid, ValidDelta, ValidState};

use super::control::Message;
use super::facts::Facts;
use super::numbers::NumberFile;
use super::workers::WorkerThread;
use crate::compile::{self, CompileError, Compiled, Numbers};
use crate::io::clock;
use crate::owners::Owners;
use crate::shared::Shared;
use crate::snapshot::{Bumps, Snapshot};
use crate::underlay::Underlay;

/// The state in force and what is being made visible.
pub(super) struct Desired {
    shared: Arc<Shared>,
    current: Arc<Snapshot>,
    underlay: Underlay,
    /// What the kernel must know of it.
    pub(super) facts: Facts,
    /// What was refused last, until something is applied.
    pub(super) last_refusal: Option<String>,
    node_name: String,
    numbers: NumberFile,
    publications: VecDeque<Publication>,
    /// Of the numbers that counters have.
    pub(super) owners: Owners,
}

/// A snapshot that some worker may not use yet.
struct Publication {
    number: u64,
    bumps: Bumps,
    /// Desired state to be acknowledged; `None` for a change of the underlay.
    acknowledge: Option<Acknowledge>,
}

#[derive(Clone, Copy)]
struct Acknowledge {
    version: u64,
    received: Instant,
    compiled: Duration,
}

impl Desired {
    /// Nothing yet. `node_name`, if set, is the only node whose state is taken.
    pub(super) fn new(
        shared: Arc<Shared>,
        node_name: String,
        underlay: Underlay,
        numbers: NumberFile,
    ) -> Self {
        let current = shared.snapshot().current();
        Self {
            shared,
            current,
            underlay,
            facts: Facts::default(),
            last_refusal: None,
            node_name,
            numbers,
            publications: VecDeque::new(),
            owners: Owners::default(),
        }
    }

    /// The snapshot in force.
    pub(super) fn current(&self) -> &Arc<Snapshot> {
        &self.current
    }

    /// Version of the desired state in force, 0 for none.
    pub(super) fn version(&self) -> u64 {
        self.current.version()
    }

    /// Some worker may still use an older snapshot.
    pub(super) fn is_settling(&self) -> bool {
        !self.publications.is_empty()
    }

    /// Takes what control said. The answer is what is said at once: a refusal, or the wish for a snapshot.
    pub(super) fn take(&mut self, message: Message, workers: &[WorkerThread]) -> Option<Answer> {
        let received = Instant::now();
        let (version, outcome, numbers_things) = match message {
            Message::Snapshot(state) => (state.version, self.take_state(*state), true),
            Message::Delta(delta) => {
                let numbers_things = numbers_things(&delta);
                (delta.version, self.take_delta(*delta), numbers_things)
            }
        };
        match outcome {
            Ok(compiled) => {
                self.last_refusal = None;
                if numbers_things {
                    self.numbers.keep(Numbers::of(&compiled.snapshot));
                }
                let acknowledge = Acknowledge {
                    version,
                    received,
                    compiled: received.elapsed(),
                };
                self.publish(compiled, Some(acknowledge), workers);
                None
            }
            Err(CompileError::Invalid(invalid)) => Some(self.refuse(version, &invalid)),
            Err(error) => Some(Answer::Resync(Resync {
                reason: error.to_string(),
            })),
        }
    }

    /// The underlay became `underlay`.
    pub(super) fn set_underlay(&mut self, underlay: Underlay, workers: &[WorkerThread]) {
        if underlay == self.underlay {
            return;
        }
        match compile::apply_underlay(&self.current, &underlay) {
            Ok(compiled) => self.publish(compiled, None, workers),
            Err(error) => {
                tracing::error!(%error, "the underlay's change is refused; packets go the old ways");
                self.last_refusal = Some(error.to_string());
            }
        }
        self.underlay = underlay;
    }

    /// Outdates flow entries once a publication is visible to every worker. Returns the acknowledgements due.
    pub(super) fn settle(&mut self) -> Vec<Answer> {
        let mut due = Vec::new();
        while let Some(publication) = self.publications.front() {
            if !self.shared.outdate(publication.number, &publication.bumps) {
                break;
            }
            if let Some(a) = publication.acknowledge {
                tracing::debug!(
                    version = a.version,
                    visible_us = a.received.elapsed().as_micros(),
                    "applied"
                );
                due.push(Answer::Applied(Applied {
                    version: a.version,
                    compiled_ns: a.compiled.as_nanos() as u64,
                    visible_ns: a.received.elapsed().as_nanos() as u64,
                }));
            }
            self.publications.pop_front();
        }
        self.shared.snapshot().reclaim();
        due
    }

    fn take_state(&mut self, state: contract::proto::State) -> Result<Compiled, CompileError> {
        let state = ValidState::try_from(state)?;
        if !self.node_name.is_empty() && *state.node.name != *self.node_name {
            let subject = contract::valid::Subject::new("Node", "", &state.node.name);
            return Err(subject
                .invalid("name", format!("this node, {}", self.node_name), &state.node.name)
                .into());
        }
        let compiled = if self.current.version() == 0 {
            compile::compile_numbered(&state, &self.underlay, self.numbers.kept())?
        } else {
            compile::replace(&self.current, &state)?
        };
        self.facts = Facts::of(&state);
        Ok(compiled)
    }

    fn take_delta(&mut self, delta: contract::proto::Delta) -> Result<Compiled, CompileError> {
        let delta = ValidDelta::try_from(delta)?;
        let compiled = compile::apply(&self.current, &delta)?;
        self.facts.apply(&delta);
        Ok(compiled)
    }

    fn publish(&mut self, compiled: Compiled, acknowledge: Option<Acknowledge>, workers: &[WorkerThread]) {
        self.current = Arc::new(compiled.snapshot);
        let counters = workers.iter().map(|worker| &**worker.handle.counters());
        self.owners
            .begin(&compiled.reused, clock::monotonic_ns(), &counters);
        let number = self.shared.publish(Arc::clone(&self.current));
        for worker in workers {
            worker.handle.wake();
        }
        self.publications.push_back(Publication {
            number,
            bumps: compiled.bumps,
            acknowledge,
        });
    }

    fn refuse(&mut self, version: u64, invalid: &Invalid) -> Answer {
        tracing::warn!(version, %invalid, "desired state refused; the last good state stays");
        self.last_refusal = Some(invalid.to_string());
        Answer::Refused(Refused {
            version,
            kind: invalid.kind.to_string(),
            namespace: invalid.namespace.to_string(),
            name: invalid.name.to_string(),
            message: invalid.to_string(),
        })
    }
}

/// Ports or nodes come or go.
fn numbers_things(delta: &contract::proto::Delta) -> bool {
    use contract::proto::change::Change as Kind;
    delta.changes.iter().any(|change| {
        matches!(
            change.change,
            Some(Kind::Port(_) | Kind::PortRemoved(_) | Kind::RemoteNode(_) | Kind::RemoteNodeRemoved(_))
        )
    })
}
