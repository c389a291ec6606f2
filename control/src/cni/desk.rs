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
use crate::ipam::Assignments;
use crate::object::{ObjectName, Objects};
use crate::push::Report;
use crate::resolve::{NodeView, Resolved, naming, pod_port_name};

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
    node: String,
    /// Where objects come from an API server, a pod without one has no interface yet.
    pods_are_known: bool,
    journal: Journal,
    attachments: Attachments,
    addresses: Box<dyn Addresses>,
    overlay: Overlay,
    view: Option<NodeView>,
    dataplane: watch::Sender<Dataplane>,
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
        tracing::info!(count = kept.len(), "attachments are adopted");
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
                    is_dirty |= self.attachments.lock().remove(&key).is_some();
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

    fn reserve(
        &mut self,
        wish: &Wish,
        objects: &Objects,
        assignments: &Assignments,
    ) -> Result<Attachment, Failure> {
        let view = self.view.as_ref().ok_or_else(not_resolved)?;
        let object = objects.pods.get(&wish.pod);
        let refused = |details: String| {
            Err(Failure::new(
                Code::Refused,
                "the pod has no interface here",
                details,
            ))
        };
        match object {
            None if self.pods_are_known => {
                return Err(Failure::new(
                    Code::TryAgainLater,
                    "the pod is not known yet",
                    format!("pod {}: the API server has not told of it", wish.pod),
                ));
            }
            Some(pod) if pod.host_network => {
                return refused(format!("pod {} lives in its node's network", wish.pod));
            }
            Some(pod) if pod.node.as_deref().is_some_and(|node| node != self.node) => {
                let node = pod.node.as_deref().unwrap_or_default();
                return refused(format!(
                    "pod {} is bound to Node {node}, this is {}",
                    wish.pod, self.node
                ));
            }
            _ => {}
        }
        let attachments = self.attachments.lock();
        let owner = |address: IpAddr| {
            let others = attachments.values().filter(|other| other.pod() != wish.pod);
            let other = others
                .filter(|other| other.addresses.contains(&address))
                .map(Attachment::pod)
                .next();
            other.or_else(|| claimant(objects, assignments, address).filter(|pod| *pod != wish.pod))
        };
        let written = object.map_or(&[][..], |pod| &pod.addresses);
        let addresses = if !wish.addresses.is_empty() {
            for address in &wish.addresses {
                if let Some(other) = owner(*address) {
                    return Err(no_address(
                        &wish.pod,
                        *address,
                        &format!("it is that of pod {other}"),
                    ));
                }
                if !self.addresses.is_ours(view, *address) {
                    let why = format!("it is not in the ranges of Node {}", self.node);
                    return Err(no_address(&wish.pod, *address, &why));
                }
            }
            wish.addresses.clone()
        } else if !written.is_empty() && written.iter().all(|address| owner(*address).is_none()) {
            written.to_vec()
        } else if !assignments.addresses(&wish.pod).is_empty() {
            assignments.addresses(&wish.pod).to_vec()
        } else {
            let taken = taken(&attachments, objects, assignments, view);
            self.addresses
                .choose(view, &wish.pod, &|address| taken.contains(&address))?
        };
        drop(attachments);
        let mac = wish.mac.or(object.and_then(|pod| pod.mac));
        let attachment = Attachment {
            key: wish.key.clone(),
            network: wish.network.clone(),
            netns: wish.netns.clone(),
            pod_namespace: wish.pod.namespace.to_string(),
            pod_name: wish.pod.name.to_string(),
            interface: naming::interface(&wish.pod),
            mac: mac.unwrap_or_else(|| naming::mac_of_addresses(&addresses)),
            mtu: view.pod_mtu,
            addresses,
            is_complete: false,
        };
        let mut attachments = self.attachments.lock();
        attachments.insert(attachment.key.clone(), attachment.clone());
        let port = pod_port_name(&wish.pod);
        self.dataplane.send_modify(|dataplane| dataplane.forget(&port));
        Ok(attachment)
    }

    fn shortage(&self, objects: &Objects) -> Option<Failure> {
        let Some(view) = &self.view else {
            return Some(Failure {
                code: Code::NotAvailable as u32,
                ..not_resolved()
            });
        };
        let taken = taken(&self.attachments.lock(), objects, &Assignments::default(), view);
        let shortage = self
            .addresses
            .shortage(view, &|address| taken.contains(&address))?;
        Some(Failure::new(
            Code::NotAvailable,
            "no address can be handed out",
            shortage,
        ))
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

/// Addresses that nobody else may get, as far as they are in the node's ranges.
fn taken(
    attachments: &BTreeMap<Key, Attachment>,
    objects: &Objects,
    assignments: &Assignments,
    view: &NodeView,
) -> std::collections::HashSet<IpAddr> {
    let of_attachments = attachments.values().flat_map(|one| one.addresses.iter().copied());
    let claims = objects
        .pods
        .values()
        .filter(|pod| !pod.is_finished() && !pod.host_network);
    let of_objects = claims.flat_map(|pod| pod.addresses.iter().copied());
    let assigned = assignments
        .iter()
        .flat_map(|(_, one)| one.addresses.iter().copied());
    let is_here = |address: &IpAddr| view.pod_cidrs.iter().any(|range| range.contains(address));
    of_attachments
        .chain(of_objects)
        .chain(assigned)
        .filter(is_here)
        .collect()
}

/// The pod that an object, or an assignment, gives `address`.
fn claimant(objects: &Objects, assignments: &Assignments, address: IpAddr) -> Option<ObjectName> {
    let claims = |pod: &crate::object::Pod| {
        !pod.is_finished() && !pod.host_network && pod.addresses.contains(&address)
    };
    let by_object = objects
        .pods
        .iter()
        .find(|(_, pod)| claims(pod))
        .map(|(name, _)| name);
    let assigned = || {
        assignments
            .iter()
            .find(|(_, one)| one.addresses.contains(&address))
            .map(|(name, _)| name)
    };
    by_object.or_else(assigned).cloned()
}

fn no_address(pod: &ObjectName, address: IpAddr, why: &str) -> Failure {
    Failure::new(
        Code::NoAddress,
        "the address that was asked for cannot be had",
        format!("pod {pod}: {address}: {why}"),
    )
}

fn not_resolved() -> Failure {
    Failure::new(
        Code::TryAgainLater,
        "the node's state is not known yet",
        "ringway-control has not read the cluster's objects",
    )
}

/// Calls that wait; more make their callers wait.
const COMMANDS_MAX: usize = 256;
