//! The verbs.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::attachment::{Attachment, Key, pod_of};
use super::configuration::Configuration;
use super::dataplane::{Timing, wait_live};
use super::desk::{Command, DeskHandle, Wish};
use super::environment::{Parameters, Verb};
use super::failure::{Code, Failure};
use super::namespace::Namespace;
use super::protocol::{PROTOCOL, Request};
use super::steps::{Step, Steps};
use super::wiring::Wiring;
use super::{check, result};
use crate::object::ObjectName;
use crate::resolve::naming;

/// What the verbs work with.
pub(super) struct Operations {
    pub(super) desk: DeskHandle,
    pub(super) wiring: Wiring,
    pub(super) steps: Arc<dyn Steps>,
    pub(super) fastpath_status_socket: PathBuf,
    pub(super) turns: Turns,
}

/// One operation at a time for each pod: a runtime that lost its patience with an ADD may send a DEL while it runs.
#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<ObjectName, Weak<tokio::sync::Mutex<()>>>>);

impl Operations {
    /// Serves a call.
    pub(super) async fn serve(
        &self,
        request: Request,
        namespace: Option<OwnedFd>,
    ) -> Result<Option<Value>, Failure> {
        let Request {
            protocol,
            verb,
            parameters,
            configuration,
        } = request;
        if protocol != PROTOCOL {
            return Err(Failure::new(
                Code::Internal,
                "ringway-cni and ringway-control are of different versions",
                format!("protocol {protocol}, expected {PROTOCOL}"),
            ));
        }
        parameters.check(verb)?;
        let configuration = Configuration::parse(verb, &configuration)?;
        match verb {
            Verb::Add => self.add(&parameters, &configuration, namespace).await.map(Some),
            Verb::Del => self.del(&parameters).await.map(|()| None),
            Verb::Check => self
                .check(&parameters, &configuration, namespace)
                .await
                .map(|()| None),
            Verb::Gc => self.collect(&configuration).await.map(|()| None),
            Verb::Status => self.status().await.map(|()| None),
            Verb::Version => Err(Failure::new(Code::Internal, "VERSION is the plugin's own", "")),
        }
    }

    async fn add(
        &self,
        parameters: &Parameters,
        configuration: &Configuration,
        namespace: Option<OwnedFd>,
    ) -> Result<Value, Failure> {
        let begun = Instant::now();
        self.steps.reached(Step::AddReceived);
        let namespace = Namespace::of_call(namespace, &parameters.netns)?;
        let pod = pod_of(parameters)?;
        let key = Key::of(parameters);
        let _turn = self.turns.take(&pod).await;
        let shortage = self.desk.dataplane.borrow().shortage();
        if let Some(failure) = shortage {
            return Err(Failure {
                code: Code::TryAgainLater as u32,
                ..failure
            });
        }
        for other in self.of_pod(&pod) {
            self.make_way(&other, &key).await?;
        }
        let mut addresses = configuration.addresses.clone();
        if addresses.is_empty() {
            addresses = parameters.addresses()?;
        }
        let wish = Wish {
            key,
            network: configuration.network.clone(),
            netns: parameters.netns.clone(),
            pod,
            addresses,
            mac: configuration.mac,
        };
        let attachment = self.reserve(wish).await?;
        self.steps.reached(Step::Reserved);
        let reserved = begun.elapsed();
        let made = self.make(&attachment, &namespace).await;
        let (linked, timing) = match made {
            Ok(times) => times,
            Err(failure) => {
                // What cannot be undone stays on disk, for the DEL that follows.
                if let Err(error) = self.undo(&attachment).await {
                    tracing::error!(key = %attachment.key, %error, "a failed ADD is not undone yet");
                }
                return Err(failure);
            }
        };
        tracing::info!(
            pod = %attachment.pod(),
            container = attachment.key.container_id,
            addresses = ?attachment.addresses,
            total_us = begun.elapsed().as_micros(),
            reserved_us = reserved.as_micros(),
            link_us = linked.as_micros(),
            in_force_us = timing.in_force.as_micros(),
            port_us = timing.live.as_micros(),
            "pod attached"
        );
        let Configuration {
            version,
            dns,
            previous,
            ..
        } = configuration;
        Ok(result::encode(&attachment, version, dns, previous.as_ref()))
    }

    /// An attachment of the same pod is in the way of an ADD of `key`: one that did not come to its end, or one of a sandbox
    /// that its runtime has given up.
    async fn make_way(&self, other: &Attachment, key: &Key) -> Result<(), Failure> {
        if other.key == *key && other.is_complete {
            return Err(Failure::new(
                Code::Exists,
                "the attachment exists already",
                format!("{key} was added to network {}", other.network),
            ));
        }
        if other.key != *key && other.key.container_id == key.container_id {
            return Err(Failure::new(
                Code::Refused,
                "a pod has one interface of Ringway's",
                format!("container {} has {} already", key.container_id, other.key.ifname),
            ));
        }
        tracing::warn!(pod = %other.pod(), old = %other.key, new = %key, "an attachment is replaced");
        self.undo(other).await
    }

    /// Waits for the pod's object where pods have one: without its labels nobody knows its policy.
    async fn reserve(&self, wish: Wish) -> Result<Attachment, Failure> {
        let deadline = tokio::time::Instant::now() + POD_PATIENCE;
        let mut resolved = self.desk.resolved.subscribe();
        loop {
            let asked = self
                .desk
                .ask(|to| Command::Reserve(Box::new(wish.clone()), to))
                .await;
            let failure = match asked {
                Err(failure) if failure.is(Code::TryAgainLater) => failure,
                done => return done,
            };
            match tokio::time::timeout_at(deadline, resolved.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(failure),
            }
        }
    }

    async fn make(
        &self,
        attachment: &Attachment,
        namespace: &Namespace,
    ) -> Result<(Duration, Timing), Failure> {
        let begun = Instant::now();
        self.wiring.make(attachment, namespace, &*self.steps).await?;
        self.steps.reached(Step::NodeReady);
        let linked = begun.elapsed();
        let key = || attachment.key.clone();
        self.desk.ask(|to| Command::Plug(key(), to)).await?;
        self.steps.reached(Step::Plugged);
        let timing = wait_live(self.desk.dataplane.subscribe(), attachment, LIVE_PATIENCE).await?;
        self.steps.reached(Step::InForce);
        self.desk.ask(|to| Command::Complete(key(), to)).await?;
        self.steps.reached(Step::Completed);
        Ok((linked, timing))
    }

    /// Everything of an attachment goes; each step may find its work done.
    ///
    /// The link first: fastpath closes a port whose interface went for good, and keeps the program of one that it only shall not
    /// serve.
    async fn undo(&self, attachment: &Attachment) -> Result<(), Failure> {
        let key = || attachment.key.clone();
        self.wiring.remove(&attachment.interface).await?;
        self.steps.reached(Step::LinkRemoved);
        self.desk.ask(|to| Command::Unplug(key(), to)).await?;
        self.steps.reached(Step::Unplugged);
        let mut dataplane = self.desk.dataplane.subscribe();
        let gone = dataplane.wait_for(|dataplane| dataplane.is_cut_off(attachment));
        if tokio::time::timeout(GONE_PATIENCE, gone).await.is_err() {
            tracing::warn!(key = %attachment.key, "fastpath has not noticed yet that a pod's interface is gone");
        }
        self.desk.ask(|to| Command::Forget(key(), to)).await?;
        self.steps.reached(Step::Forgotten);
        Ok(())
    }

    async fn del(&self, parameters: &Parameters) -> Result<(), Failure> {
        self.steps.reached(Step::DelReceived);
        let key = Key::of(parameters);
        let known = || self.desk.attachments.lock().get(&key).cloned();
        let Some(pod) = known()
            .map(|attachment| attachment.pod())
            .or_else(|| pod_of(parameters).ok())
        else {
            return Ok(());
        };
        let _turn = self.turns.take(&pod).await;
        match known() {
            Some(attachment) => {
                self.undo(&attachment).await?;
                tracing::info!(%pod, container = key.container_id, "pod detached");
                Ok(())
            }
            // Done before, never added, or its attachment was forgotten by hand.
            None => self.wiring.remove_stray(&naming::interface(&pod), &key).await,
        }
    }

    async fn check(
        &self,
        parameters: &Parameters,
        configuration: &Configuration,
        namespace: Option<OwnedFd>,
    ) -> Result<(), Failure> {
        let namespace = Namespace::of_call(namespace, &parameters.netns)?;
        let key = Key::of(parameters);
        let known = self.desk.attachments.lock().get(&key).cloned();
        let Some(attachment) = known.filter(|attachment| attachment.is_complete) else {
            return Err(Failure::new(
                Code::UnknownContainer,
                "there is no such attachment",
                format!("{key} was not added"),
            ));
        };
        let ifname = key.ifname.clone();
        let inside = namespace
            .within(async move |handle| check::look(&handle, &ifname).await)
            .await?;
        let outside = self.wiring.node_end(&attachment.interface).await?;
        let previous = configuration.previous.as_ref().unwrap_or(&Value::Null);
        let mut wrong = check::differences(
            &attachment,
            previous,
            &parameters.netns,
            inside.as_ref(),
            outside.as_ref(),
        );
        let socket = self.fastpath_status_socket.clone();
        let asked = tokio::task::spawn_blocking(move || check::port_trouble(&socket, &attachment)).await;
        wrong.extend(asked.ok().flatten());
        if wrong.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Code::Damaged,
            "the attachment is not as ADD made it",
            wrong.join("; "),
        ))
    }

    /// Undoes all attachments of the network but those that are named, as many as it can.
    async fn collect(&self, configuration: &Configuration) -> Result<(), Failure> {
        let Some(valid) = &configuration.valid_attachments else {
            return Ok(());
        };
        let is_stale = |attachment: &&Attachment| {
            let key = (attachment.key.container_id.clone(), attachment.key.ifname.clone());
            attachment.network == configuration.network && !valid.contains(&key)
        };
        let stale: Vec<Attachment> = self
            .desk
            .attachments
            .lock()
            .values()
            .filter(is_stale)
            .cloned()
            .collect();
        let mut failures = Vec::new();
        for attachment in stale {
            let _turn = self.turns.take(&attachment.pod()).await;
            if !self.desk.attachments.lock().contains_key(&attachment.key) {
                continue;
            }
            tracing::info!(pod = %attachment.pod(), key = %attachment.key, "a stale attachment is removed");
            if let Err(failure) = self.undo(&attachment).await {
                failures.push(format!("{}: {failure}", attachment.key));
            }
        }
        for interface in self.wiring.links().await? {
            let is_known = |one: &Attachment| one.interface == interface;
            if self.desk.attachments.lock().values().any(is_known) {
                continue;
            }
            tracing::info!(interface, "a link without an attachment is removed");
            if let Err(failure) = self.wiring.remove(&interface).await {
                failures.push(format!("{interface}: {failure}"));
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(Failure::new(
            Code::Kernel,
            "not everything that is stale could be removed",
            failures.join("; "),
        ))
    }

    async fn status(&self) -> Result<(), Failure> {
        let shortage = self.desk.dataplane.borrow().shortage();
        match shortage {
            Some(failure) => Err(failure),
            None => self.desk.shortage().await.map_or(Ok(()), Err),
        }
    }

    fn of_pod(&self, pod: &ObjectName) -> Vec<Attachment> {
        let attachments = self.desk.attachments.lock();
        attachments
            .values()
            .filter(|one| one.pod() == *pod)
            .cloned()
            .collect()
    }
}

impl Turns {
    async fn take(&self, pod: &ObjectName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(turn) = turns.get(pod).and_then(Weak::upgrade) {
                turn
            } else {
                turns.retain(|_, turn| turn.strong_count() > 0);
                let turn = Arc::new(tokio::sync::Mutex::new(()));
                turns.insert(pod.clone(), Arc::downgrade(&turn));
                turn
            }
        };
        turn.lock_owned().await
    }
}

/// The object of a pod that kubelet knows already comes within this.
const POD_PATIENCE: Duration = Duration::from_secs(5);
/// A port is live within milliseconds unless fastpath restarts.
const LIVE_PATIENCE: Duration = Duration::from_secs(15);
/// A DEL does not wait for a fastpath that is down.
const GONE_PATIENCE: Duration = Duration::from_secs(1);
