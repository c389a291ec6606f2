//! The daemon: watch the manifests, resolve, push; keep the last good state whatever comes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::proto;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::object::Objects;
use crate::push::{self, Report};
use crate::resolve::{Mode, Options, Resolved, resolve};
use crate::source::directory::{self, LoadErrors};
use crate::source::watch::Watch;
use crate::status::{self, Shared};
use crate::{assignment_file, ipam, uplink};

/// What the daemon is told on its command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node to serve.
    pub node: String,
    /// Manifests.
    pub state: Vec<PathBuf>,
    /// Fastpath's socket.
    pub fastpath_socket: PathBuf,
    /// Where to tell about ourselves.
    pub status_socket: Option<PathBuf>,
    /// Where to keep assignments over a restart.
    pub run_directory: Option<PathBuf>,
    /// Kernel name of the uplink.
    pub uplink: String,
}

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The manifests are wrong.
    #[error(transparent)]
    Load(#[from] LoadErrors),
    /// They are no state for this node.
    #[error(transparent)]
    Resolve(#[from] Box<crate::resolve::ResolveError>),
    /// Kept assignments are of no use.
    #[error(transparent)]
    Assignments(#[from] assignment_file::AssignmentFileError),
    /// A path on the command line leads to something else.
    #[error("{}: {source}; expected {expected}", path.display())]
    Path {
        /// As it was given.
        path: PathBuf,
        /// What is there, or why nothing can be.
        source: std::io::Error,
        /// What it may be.
        expected: &'static str,
    },
    /// The system refuses something.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl DaemonError {
    /// Whether a person's input is at fault: a bad flag, file or object.
    pub fn is_input(&self) -> bool {
        !matches!(self, Self::System { .. })
    }
}

fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> DaemonError {
    let what = what.into();
    move |source| DaemonError::System { what, source }
}

fn wrong_path(path: &Path, expected: &'static str) -> impl FnOnce(std::io::Error) -> DaemonError {
    let path = path.to_owned();
    move |source| DaemonError::Path {
        path,
        source,
        expected,
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// Only at the start: later trouble with manifests or fastpath is logged and told by the status socket.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(system("SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("SIGINT"))?;
    // Before the first load, so that no change between the two is missed. What cannot be watched cannot be loaded
    // either, and the load says better why.
    let watch_result = Watch::start(&config.state);
    let mut resolver = Resolver::new(&config)?;
    let objects = directory::load(&config.state)?;
    let resolved = resolver.resolve(&objects).await?;
    let mut manifests = watch_result.map_err(system("watching the manifests"))?;

    let shared = Shared::default();
    shared.update(|s| s.node.clone_from(&config.node));
    if let Some(path) = &config.status_socket {
        let listener =
            status::bind(path).map_err(wrong_path(path, "a path for a socket in a directory that exists"))?;
        tokio::spawn(status::serve(listener, shared.clone()));
    }
    accept(&shared, &objects, &resolved);
    let (desired, receiver) = watch::channel(Arc::new(resolved.state));
    let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
    tokio::spawn(push::push(config.fastpath_socket.clone(), receiver, sender));

    let mut in_force = objects;
    loop {
        tokio::select! {
            () = manifests.changed() => {
                if let Some((objects, state)) = reload(&config, &mut resolver, &in_force, &shared).await {
                    in_force = objects;
                    desired.send_replace(state);
                }
            }
            Some(report) = reports.recv() => {
                log(&report);
                shared.update(|s| s.fastpath.record(&report));
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping; fastpath forwards on with the last state");
    if let Some(path) = &config.status_socket {
        // It may be gone already.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Reads everything again. `None` if nothing changed or what was read is no good: then the last state stays.
async fn reload(
    config: &Config,
    resolver: &mut Resolver,
    in_force: &Objects,
    shared: &Shared,
) -> Option<(Objects, Arc<proto::State>)> {
    let refuse = |error: String| {
        // First where it can be looked up, then where it is announced.
        shared.update(|s| {
            s.source.refused += 1;
            s.source.error = Some(error.clone());
        });
        tracing::error!(%error, "the change is refused, the last good state stays");
    };
    let objects = match directory::load(&config.state) {
        Ok(objects) => objects,
        Err(errors) => {
            for error in &errors.0 {
                tracing::error!(%error, "bad manifest");
            }
            refuse(errors.to_string());
            return None;
        }
    };
    if objects == *in_force {
        // The same as before, perhaps because a mistake was taken back.
        shared.update(|s| s.source.error = None);
        return None;
    }
    match resolver.resolve(&objects).await {
        Ok(resolved) => {
            accept(shared, &objects, &resolved);
            Some((objects, Arc::new(resolved.state)))
        }
        Err(error) => {
            refuse(error.to_string());
            None
        }
    }
}

fn accept(shared: &Shared, objects: &Objects, resolved: &Resolved) {
    shared.update(|s| {
        for warning in resolved
            .warnings
            .iter()
            .filter(|w| !s.source.warnings.contains(w))
        {
            tracing::warn!("{warning}");
        }
        s.source.accepted += 1;
        s.source.error = None;
        s.source.objects = objects.len();
        s.source.unknown_kinds.clone_from(&resolved.unknown_kinds);
        s.source.warnings.clone_from(&resolved.warnings);
    });
    let state = &resolved.state;
    tracing::info!(
        objects = objects.len(),
        ports = state.ports.len(),
        services = state.services.len(),
        policies = state.policies.len(),
        blocks = state.blocks.len(),
        "state resolved"
    );
}

fn log(report: &Report) {
    match report {
        Report::Connected {
            software,
            applied_version,
        } => {
            tracing::info!(software, applied_version, "connected to fastpath");
        }
        Report::Disconnected { reason } => tracing::warn!(reason, "no connection to fastpath, trying on"),
        Report::Applied(applied) => {
            let proto::Applied {
                version,
                compiled_ns,
                visible_ns,
            } = *applied;
            tracing::info!(version, compiled_ns, visible_ns, "applied");
        }
        Report::Refused(refused) => {
            let version = refused.version;
            tracing::error!(
                version,
                object = status::refusal(refused),
                "fastpath refused, the last good state stays"
            );
        }
        Report::Resync { reason } => tracing::warn!(reason, "fastpath asked for everything again"),
        Report::Port(event) if event.live => tracing::info!(port = event.port, "port is live"),
        Report::Port(event) => tracing::warn!(port = event.port, reason = event.message, "port is not live"),
    }
}

/// Resolves for one node and remembers the addresses that were handed out.
struct Resolver {
    node: String,
    options: Options,
    uplink: String,
    file: Option<PathBuf>,
}

impl Resolver {
    fn new(config: &Config) -> Result<Self, DaemonError> {
        let mut options = Options {
            mode: Mode::Live,
            uplink_interface: config.uplink.clone(),
            pod_views: false,
            ..Options::default()
        };
        let mut file = None;
        if let Some(directory) = &config.run_directory {
            std::fs::create_dir_all(directory).map_err(wrong_path(directory, "a directory"))?;
            let path = assignment_file::path(directory, &config.node);
            options.assignments = assignment_file::load(&path)?;
            file = Some(path);
        }
        Ok(Self {
            node: config.node.clone(),
            options,
            uplink: config.uplink.clone(),
            file,
        })
    }

    async fn resolve(&mut self, objects: &Objects) -> Result<Resolved, DaemonError> {
        self.options.uplink_mtu = uplink::mtu(&self.uplink).await;
        let resolved = resolve(objects, &self.node, &self.options).map_err(Box::new)?;
        self.keep(&resolved.assignments)?;
        Ok(resolved)
    }

    /// On disk before anyone hears of them.
    fn keep(&mut self, assignments: &ipam::Assignments) -> Result<(), DaemonError> {
        if self.options.assignments != *assignments {
            if let Some(path) = &self.file {
                assignment_file::save(path, assignments)?;
            }
            self.options.assignments = assignments.clone();
        }
        Ok(())
    }
}

/// Reports that wait for the log; more make the connection wait.
const REPORTS_MAX: usize = 256;
