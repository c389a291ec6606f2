//! The source that follows an API server.
//!
//! ```text
//! access (kubeconfig, service account, --api-server, kept addresses) ──► servers (one answers at a time)
//!                                                                          │ request: pieces, patience
//! resource (kinds) ──► reflect (one task per kind: list, watch) ── Event ──► store ──► Objects ──► resolve
//!                                                                          │
//!                                                                        copy (last good state on disk)
//! ```
//! `docs/decisions/0015-kubernetes-source.md` says why kube's client is under this and its reflectors are not, and what is
//! held on to when.

pub mod access;
pub mod copy;
pub mod ipam_store;
mod reflect;
mod request;
pub mod resource;
mod server_file;
mod servers;
mod store;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Condition, News, Scope, Source};
use crate::object::{Kind, Object, Objects};
use access::{Access, AccessError};
pub use reflect::Pace;
use reflect::{Event, Reflector};
use request::Trouble;
use resource::RESOURCES;
use servers::Servers;
use store::{Effect, Store};

/// What the source is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that we are.
    pub node: String,
    /// Which API server, and as whom.
    pub access: Access,
    /// Where the copy and the addresses of API servers are kept; without it a restart begins with nothing.
    pub run_directory: Option<PathBuf>,
    /// How long to wait for what.
    pub pace: Pace,
    /// Longest time between a change and its copy on disk, where copies cost little.
    pub copy_each: Duration,
    /// How long a refusal of a kind may last at the start before it is an error.
    pub denied_patience: Duration,
}

impl Config {
    /// With the usual waits.
    pub fn new(node: &str, access: Access, run_directory: Option<PathBuf>) -> Self {
        Self {
            node: node.to_owned(),
            access,
            run_directory,
            pace: Pace::default(),
            copy_each: Duration::from_secs(10),
            denied_patience: Duration::from_secs(10),
        }
    }
}

/// Why there is nothing to begin with.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// The API server cannot be asked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It does not let us read, and there is no copy to begin with.
    #[error("{0}")]
    Denied(String),
}

/// An API server, followed.
pub struct Kubernetes {
    config: Config,
    servers: Servers,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    store: Store,
    counts: BTreeMap<Kind, Arc<AtomicUsize>>,
    keeper: Option<copy::Keeper>,
    copy: Option<Objects>,
    /// A change that is not told yet, because not every kind is settled.
    owed: Option<Scope>,
    started: Instant,
}

impl Kubernetes {
    /// Reads credentials and the copy, and begins to list.
    ///
    /// # Errors
    /// What only a person can mend; never because no server answers.
    pub async fn start(config: Config) -> Result<Self, KubernetesError> {
        let file = config
            .run_directory
            .as_ref()
            .map(|directory| server_file::path(directory, &config.node));
        let servers = Servers::new(config.access.clone(), file, config.pace.answer).await?;
        let copy = config.run_directory.as_ref().and_then(|directory| {
            let path = copy::path(directory, &config.node);
            copy::load(&path, &config.node).unwrap_or_else(|error| {
                tracing::warn!(%error, "the copy of the last good state is of no use; waiting for the API server");
                None
            })
        });
        let keeper = config
            .run_directory
            .as_ref()
            .map(|directory| copy::Keeper::new(directory, &config.node, config.copy_each));
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let store = Store::new(&config.node, copy.is_some());
        let counts: BTreeMap<Kind, Arc<AtomicUsize>> =
            Kind::ALL.iter().map(|kind| (*kind, Arc::default())).collect();
        let source = Self {
            config,
            servers,
            events,
            sender,
            store,
            counts,
            keeper,
            copy,
            owed: None,
            started: Instant::now(),
        };
        if let Some(copy) = &source.copy {
            source.count(copy);
        }
        for resource in RESOURCES {
            let reflector = Reflector {
                resource,
                servers: source.servers.clone(),
                events: source.sender.clone(),
                in_force: source.counts.get(&resource.kind).cloned().unwrap_or_default(),
                pace: source.config.pace,
            };
            tokio::spawn(reflector.run());
        }
        Ok(source)
    }

    /// IPAM's objects on the same API servers.
    pub fn ipam_store(&self) -> ipam_store::IpamStore {
        ipam_store::IpamStore(self.servers.clone())
    }

    /// Keeps the books that the reflectors look into.
    fn count(&self, objects: &Objects) {
        for (kind, count) in &self.counts {
            count.store(objects.count(*kind), Ordering::Relaxed);
        }
    }

    /// Takes in `first` and all that waits behind it. Nothing is waited for, so nothing is lost half way.
    fn take(&mut self, objects: &mut Objects, first: Event) -> News {
        let mut effect = self.store.apply(objects, first);
        for _ in 0..EVENTS_MAX {
            let Ok(event) = self.events.try_recv() else { break };
            effect |= self.store.apply(objects, event);
        }
        self.count(objects);
        let Effect {
            scope,
            ask_for_node,
            api_servers,
        } = effect;
        if ask_for_node {
            self.ask_for_node();
        }
        if api_servers {
            let (servers, addresses) = (self.servers.clone(), api_server_addresses(objects));
            tokio::spawn(async move { servers.learn(addresses).await });
        }
        let mut all = Effect {
            scope: self.owed.take(),
            ..Effect::default()
        };
        all |= Effect {
            scope,
            ..Effect::default()
        };
        match all.scope {
            Some(scope) if self.store.is_settled() => News::Changed(scope),
            owed => {
                self.owed = owed;
                News::Unchanged
            }
        }
    }

    /// Asks for our own Node by name, until there is an answer.
    fn ask_for_node(&self) {
        let (servers, sender) = (self.servers.clone(), self.sender.clone());
        let path = format!("/api/v1/nodes/{}", self.config.node);
        let pause = self.config.pace.pause_max.min(Duration::from_secs(5));
        tokio::spawn(async move {
            let found = loop {
                match ask(&servers, &path).await {
                    Ok(found) => break found,
                    Err(trouble) => tracing::debug!(?trouble, path, "asking again"),
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = sender.closed() => return,
                }
            };
            // Nobody may want to know any more.
            let _ = sender.send(Event::OwnNode(found.map(Box::new))).await;
        });
    }
}

/// `None` for "there is none".
async fn ask(servers: &Servers, path: &str) -> Result<Option<Object>, Trouble> {
    let answer = match request::get(servers, path).await {
        Err(Trouble::NotFound) => return Ok(None),
        other => other?,
    };
    let bytes = answer.whole(servers).await?;
    Kind::Node
        .read(&mut serde_json::Deserializer::from_slice(&bytes))
        .map(Some)
        .map_err(|error| Trouble::Failed(error.to_string()))
}

/// Where the cluster says that its API servers are.
fn api_server_addresses(objects: &Objects) -> Vec<SocketAddr> {
    let slices = objects.endpoint_slices.values();
    let slices = slices.filter(|slice| store::is_api_server_slice(slice.service.as_ref()));
    slices
        .flat_map(|slice| {
            let ports = slice.ports.iter().filter(|port| port.name == "https");
            ports.filter_map(|port| port.port).flat_map(|port| {
                let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
                ready.map(move |endpoint| SocketAddr::new(endpoint.address, port))
            })
        })
        .collect()
}

impl Source for Kubernetes {
    type Error = KubernetesError;

    async fn first(&mut self, objects: &mut Objects) -> Result<(), KubernetesError> {
        if let Some(copy) = self.copy.take() {
            tracing::info!(
                objects = copy.len(),
                "the copy of the last good state is in force until the API server has answered"
            );
            *objects = copy;
            return Ok(());
        }
        let until = self.started + self.config.denied_patience;
        while !self.store.is_settled() {
            let denied = self.store.denied();
            tokio::select! {
                event = self.events.recv() => {
                    // A sender is ours.
                    let Some(event) = event else { return std::future::pending().await };
                    self.take(objects, event);
                }
                () = tokio::time::sleep_until(until), if denied.is_some() => {
                    return Err(KubernetesError::Denied(denied.unwrap_or_default()));
                }
            }
        }
        Ok(())
    }

    async fn next(&mut self, objects: &mut Objects) -> News {
        let due = self.keeper.as_ref().and_then(copy::Keeper::due);
        let copy_time = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // A copy that is due does not starve.
            biased;
            () = copy_time => {
                if let Some(keeper) = &mut self.keeper {
                    keeper.keep(objects).await;
                }
                News::Unchanged
            }
            event = self.events.recv() => {
                let Some(event) = event else { return std::future::pending().await };
                self.take(objects, event)
            }
        }
    }

    fn condition(&self) -> Condition {
        let mut problems = self.store.problems();
        if !self.store.is_current() {
            problems.push("not every kind has been listed since the start".to_owned());
        }
        Condition {
            problems,
            api_server: self.store.server().map(ToOwned::to_owned),
            is_current: self.store.is_current(),
        }
    }

    fn mends_itself(&self) -> bool {
        true
    }

    fn in_force(&mut self, _: &Objects) {
        // What is not current came from the copy, in part at least.
        if self.store.is_settled()
            && let Some(keeper) = &mut self.keeper
        {
            keeper.note();
        }
    }

    async fn stop(&mut self, objects: &Objects) {
        if let Some(keeper) = &mut self.keeper {
            keeper.stop(objects).await;
        }
    }
}

/// Events that wait for us before those who watch have to.
const EVENTS_MAX: usize = 256;
