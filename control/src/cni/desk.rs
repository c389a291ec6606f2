//! The attachments of this node. Lives in the daemon's loop, where objects are resolved: what is asked for meanwhile is taken
//! in together, with one write of the journal and one new state.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};

use super::address::{Addresses, HostLocal};
use super::attachment::{Attachment, Key};
use super::dataplane::Dataplane;
use super::failure::{Code, Failure};
use super::journal::{Journal, JournalError};
use super::overlay::{Overlay, Plugged};
use super::reserve::not_resolved;
use crate::ipam::Assignments;
use crate::object::{ObjectName, Objects};
use crate::push::Report;
use crate::resolve::{NodeView, Resolved};

/// What an ADD wants.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) key: Key,
    pub(super) network: String,
    pub(super) netns: String,
    pub(super) pod: ObjectName,
    /// Must be these; none: any.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) mac: Option<[u8; 6]>,
}

/// What the desk is asked.
pub(super) enum Command {
    /// Addresses, kept on disk.
    Reserve(Box<Wish>, oneshot::Sender<Result<Attachment, Failure>>),
    /// The interface is there: make a port of it.
    Plug(Key, oneshot::Sender<Result<(), Failure>>),
    /// ADD came to its end.
    Complete(Key, oneshot::Sender<Result<(), Failure>>),
    /// The interface is gone: no port of it any more.
    Unplug(Key, oneshot::Sender<Result<(), Failure>>),
    /// Nothing of it is left.
    Forget(Key, oneshot::Sender<Result<(), Failure>>),
    /// Why no address could be handed out.
    Shortage(oneshot::Sender<Option<Failure>>),
}

/// Attachments as others may look at them.
#[derive(Clone, Debug, Default)]
pub(super) struct Attachments(Arc<Mutex<BTreeMap<Key, Attachment>>>);

impl Attachments {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Attachment>> {
        // Every change leaves it whole, so it is good even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct Desk {
    pub(super) node: String,
    /// Where objects come from an API server, a pod without one has no interface yet.
    pub(super) pods_are_known: bool,
    journal: Journal,
    pub(super) attachments: Attachments,
    pub(super) addresses: Box<dyn Addresses>,
    overlay: Overlay,
    pub(super) view: Option<NodeView>,
    pub(super) dataplane: watch::Sender<Dataplane>,
    resolved: watch::Sender<()>,
    commands: mpsc::Receiver<Command>,
    /// Keeps the channel open while there is no server.
    sender: mpsc::Sender<Command>,
    pending: Vec<Command>,
    answers: Vec<Answer>,
}

/// An answer that waits for the journal, or for the state, too.
struct Answer {
    to: oneshot::Sender<Result<(), Failure>>,
    needs_state: Option<Key>,
}

/// How the server and the operations reach the desk.
#[derive(Clone)]
pub(super) struct DeskHandle {
    pub(super) attachments: Attachments,
    pub(super) dataplane: watch::Sender<Dataplane>,
    /// Told whenever the objects were resolved anew.
    pub(super) resolved: watch::Sender<()>,
    commands: mpsc::Sender<Command>,
}

impl Desk {
    /// With the attachments that are kept in `directory`: their pods have ports from the first state on.
    ///
    /// # Errors
    /// A journal that is damaged or cannot be read.
    pub fn open(node: &str, directory: &Path, pods_are_known: bool) -> Result<Self, JournalError> {
        let journal = Journal::within(directory);
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let desk = Self {
            node: node.to_owned(),
            pods_are_known,
            attachments: Attachments::default(),
            addresses: Box::new(HostLocal::default()),
            overlay: Overlay::default(),
            view: None,
            dataplane: watch::Sender::new(Dataplane::default()),
            resolved: watch::Sender::new(()),
            commands,
            sender,
            pending: Vec::new(),
            answers: Vec::new(),
            journal,
        };
        let kept = desk.journal.load()?;
        if !kept.is_empty() {
            tracing::info!(count = kept.len(), "attachments are adopted");
        }
        for attachment in kept {
            desk.overlay.plug(attachment.pod(), desk.plugged(&attachment));
            desk.attachments.lock().insert(attachment.key.clone(), attachment);
        }
        Ok(desk)
    }

    /// Takes another source of addresses than host-local ones.
    #[must_use]
    pub fn with_addresses(mut self, addresses: impl Addresses + 'static) -> Self {
        self.addresses = Box::new(addresses);
        for attachment in self.attachments.lock().values() {
            self.addresses.given(&attachment.pod(), &attachment.addresses);
        }
        self
    }

    /// What is put over the objects that states are resolved from.
    pub fn overlay(&self) -> Overlay {
        self.overlay.clone()
    }

    pub(super) fn handle(&self) -> DeskHandle {
        DeskHandle {
            attachments: self.attachments.clone(),
            dataplane: self.dataplane.clone(),
            resolved: self.resolved.clone(),
            commands: self.sender.clone(),
        }
    }

    /// Takes in what fastpath told.
    pub fn record(&self, report: &Report) {
        self.dataplane.send_modify(|dataplane| dataplane.record(report));
    }

    /// Takes in what the objects came to.
    pub fn resolved(&mut self, resolved: &Resolved) {
        let own = resolved.nodes.iter().find(|view| view.name == self.node);
        self.view = own.cloned();
        self.resolved.send_replace(());
    }

    /// Waits until something is asked for. May be dropped half way.
    pub async fn asked(&mut self) {
        if self.pending.is_empty() {
            // Never without a sender: we have one.
            let _ = self.commands.recv_many(&mut self.pending, COMMANDS_MAX).await;
        }
    }

    /// Takes in all that was asked for. `true`: the state must be resolved anew, then comes [`Self::settle`].
    pub async fn take(&mut self, objects: &Objects, assignments: &Assignments) -> bool {
        let commands = std::mem::take(&mut self.pending);
        let mut reserved = Vec::new();
        let (mut is_dirty, mut is_state_dirty) = (false, false);
        for command in commands {
            match command {
                Command::Reserve(wish, to) => match self.reserve(&wish, objects, assignments) {
                    Ok(attachment) => {
                        is_dirty = true;
                        reserved.push((attachment, to));
                    }
                    Err(failure) => drop(to.send(Err(failure))),
                },
                Command::Plug(key, to) => {
                    let attachment = self.attachments.lock().get(&key).cloned();
                    if let Some(attachment) = attachment {
                        self.overlay.plug(attachment.pod(), self.plugged(&attachment));
                        is_state_dirty = true;
                    }
                    self.answer(to, Some(key));
                }
                Command::Complete(key, to) => {
                    if let Some(attachment) = self.attachments.lock().get_mut(&key) {
                        is_dirty |= !std::mem::replace(&mut attachment.is_complete, true);
                    }
                    self.answer(to, None);
                }
                Command::Unplug(key, to) => {
                    let pod = self.attachments.lock().get(&key).map(Attachment::pod);
                    is_state_dirty |= pod.is_some_and(|pod| self.overlay.unplug(&pod));
                    self.answer(to, None);
                }
                Command::Forget(key, to) => {
                    let gone = self.attachments.lock().remove(&key);
                    if let Some(gone) = &gone {
                        self.addresses.released(&gone.pod(), &gone.addresses);
                    }
                    is_dirty |= gone.is_some();
                    self.answer(to, None);
                }
                Command::Shortage(to) => drop(to.send(self.shortage(objects))),
            }
        }
        if is_dirty && let Err(failure) = self.save().await {
            self.abandon(reserved, &failure);
            return is_state_dirty;
        }
        for (attachment, to) in reserved {
            let key = attachment.key.clone();
            // Nobody waits any more: what is reserved is on disk, and the next call about it heals it.
            if to.send(Ok(attachment)).is_err() {
                tracing::warn!(%key, "an ADD went away after its addresses were reserved");
            }
        }
        if !is_state_dirty {
            self.settle(&Ok(()));
        }
        is_state_dirty
    }

    /// Answers whoever waits: the state with all that was asked for is on its way, or it is none for this reason.
    pub fn settle(&mut self, outcome: &Result<(), String>) {
        for Answer { to, needs_state } in self.answers.drain(..) {
            let result = match (outcome, needs_state) {
                (Err(reason), Some(key)) => {
                    if let Some(attachment) = self.attachments.lock().get(&key) {
                        self.overlay.unplug(&attachment.pod());
                    }
                    let msg = "the cluster with this pod is no state for the node";
                    Err(Failure::new(Code::Refused, msg, reason.clone()))
                }
                _ => Ok(()),
            };
            let _ = to.send(result);
        }
    }

    fn answer(&mut self, to: oneshot::Sender<Result<(), Failure>>, needs_state: Option<Key>) {
        self.answers.push(Answer { to, needs_state });
    }

    /// The write failed: nothing new is reserved, and whoever waits hears why.
    fn abandon(
        &mut self,
        reserved: Vec<(Attachment, oneshot::Sender<Result<Attachment, Failure>>)>,
        failure: &Failure,
    ) {
        for (attachment, to) in reserved {
            self.attachments.lock().remove(&attachment.key);
            self.addresses.released(&attachment.pod(), &attachment.addresses);
            let _ = to.send(Err(failure.clone()));
        }
        for Answer { to, .. } in self.answers.drain(..) {
            let _ = to.send(Err(failure.clone()));
        }
    }

    /// Off the loop's thread: a disk takes its time.
    async fn save(&self) -> Result<(), Failure> {
        let all: Vec<Attachment> = self.attachments.lock().values().cloned().collect();
        let journal = self.journal.clone();
        let saved = tokio::task::spawn_blocking(move || journal.save(all)).await;
        let result = match saved {
            Ok(result) => result.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        result.map_err(|error| {
            tracing::error!(error, "attachments cannot be kept");
            Failure::new(Code::Io, "attachments cannot be kept", error)
        })
    }

    fn plugged(&self, attachment: &Attachment) -> Plugged {
        Plugged {
            node: self.node.as_str().into(),
            addresses: attachment.addresses.clone(),
            mac: attachment.mac,
            last: None,
            is_enough: !self.pods_are_known,
        }
    }
}

impl DeskHandle {
    /// Asks, and waits for the answer.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Failure>>) -> Command,
    ) -> Result<T, Failure> {
        let (to, answer) = oneshot::channel();
        let stops = || Failure::new(Code::TryAgainLater, "ringway-control stops", "it was told to end");
        self.commands.send(command(to)).await.map_err(|_| stops())?;
        answer.await.map_err(|_| stops())?
    }

    /// Why no address could be handed out.
    pub(super) async fn shortage(&self) -> Option<Failure> {
        let (to, answer) = oneshot::channel();
        if self.commands.send(Command::Shortage(to)).await.is_err() {
            return Some(not_resolved());
        }
        answer.await.unwrap_or_else(|_| Some(not_resolved()))
    }
}

/// Calls that wait; more make their callers wait.
const COMMANDS_MAX: usize = 256;
