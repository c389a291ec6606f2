//! The daemon: follow a source, resolve, push; keep the last good state whatever comes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use contract::proto;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::cni::{self, Desk, Steps};
use crate::object::{ObjectName, Objects};
use crate::push::{self, Desired, Report};
use crate::resolve::{Endpoints, Mode, Options, Resolved, resolve};
#[cfg(feature = "kubernetes")]
use crate::source::kubernetes::{Kubernetes, KubernetesError};
use crate::source::manifests::{Manifests, ManifestsError};
use crate::source::{News, Scope, Source};
use crate::status::{self, Shared};
use crate::{assignment_file, ipam, uplink};

/// What the daemon is told on its command line.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node to serve.
    pub node: String,
    /// Where objects come from.
    pub source: SourceConfig,
    /// Fastpath's socket.
    pub fastpath_socket: PathBuf,
    /// Where to tell about ourselves.
    pub status_socket: Option<PathBuf>,
    /// Where to keep over a restart what must be kept.
    pub run_directory: Option<PathBuf>,
    /// Kernel name of the uplink.
    pub uplink: String,
    /// How `ringway-cni` is served, if it is.
    pub cni: Option<cni::Config>,
}

/// Where objects come from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// Files and directories of manifests.
    Manifests(Vec<PathBuf>),
    /// An API server.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<crate::source::kubernetes::Config>),
}

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The manifests are wrong, or cannot be watched.
    #[error(transparent)]
    Manifests(#[from] ManifestsError),
    /// The API server cannot be asked, or does not let us read.
    #[cfg(feature = "kubernetes")]
    #[error(transparent)]
    Kubernetes(#[from] KubernetesError),
    /// They are no state for this node.
    #[error(transparent)]
    Resolve(#[from] Box<crate::resolve::ResolveError>),
    /// Kept assignments are of no use.
    #[error(transparent)]
    Assignments(#[from] assignment_file::AssignmentFileError),
    /// Kept attachments are of no use.
    #[error(transparent)]
    Attachments(#[from] cni::journal::JournalError),
    /// The plugin could not be put where the runtime looks for it.
    #[error("installing ringway-cni: {0}")]
    Install(#[from] cni::install::InstallError),
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
    /// Whether a person's input is at fault: a bad flag, file, object or right.
    pub fn is_input(&self) -> bool {
        !matches!(
            self,
            Self::System { .. } | Self::Install(_) | Self::Manifests(ManifestsError::Watch(_))
        )
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
/// Only at the start: later trouble with the source or fastpath is logged and told by the status socket.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    run_with(config, Arc::new(())).await
}

/// As [`run`], with somebody who is told of the steps of `ringway-cni`'s calls.
///
/// # Errors
/// As [`run`].
pub async fn run_with(config: Config, steps: Arc<dyn Steps>) -> Result<(), DaemonError> {
    let ends = Ends {
        terminate: signal(SignalKind::terminate()).map_err(system("SIGTERM"))?,
        interrupt: signal(SignalKind::interrupt()).map_err(system("SIGINT"))?,
    };
    let result = match config.source.clone() {
        SourceConfig::Manifests(paths) => {
            let resolver = Resolver::new(&config, Mode::Live)?;
            let desk = open_desk(&config, false)?;
            follow(&config, Manifests::new(paths), resolver, desk, steps, ends).await
        }
        #[cfg(feature = "kubernetes")]
        SourceConfig::Kubernetes(kubernetes) => {
            let resolver = Resolver::new(&config, Mode::Cluster)?;
            let desk = open_desk(&config, true)?;
            let source = Kubernetes::start(*kubernetes).await?;
            follow(&config, source, resolver, desk, steps, ends).await
        }
    };
    for path in config
        .status_socket
        .iter()
        .chain(config.cni.as_ref().map(|cni| &cni.socket))
    {
        // It may be gone already, or never have been.
        let _ = std::fs::remove_file(path);
    }
    result
}

/// The signals that end us.
struct Ends {
    terminate: Signal,
    interrupt: Signal,
}

impl Ends {
    async fn come(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn follow<S: Source>(
    config: &Config,
    mut source: S,
    mut resolver: Resolver,
    mut desk: Option<Desk>,
    steps: Arc<dyn Steps>,
    mut ends: Ends,
) -> Result<(), DaemonError>
where
    DaemonError: From<S::Error>,
{
    let shared = Shared::default();
    shared.update(|s| s.node.clone_from(&config.node));
    // A source that may take long tells from the start what it waits for.
    if source.mends_itself() {
        serve_status(config, &shared)?;
        tell_condition(&shared, &source);
    }
    // From the start, so that the runtime hears what is not ready. A manifest that is wrong comes before that.
    if let (Some(desk), Some(cni), true) = (&desk, &config.cni, source.mends_itself()) {
        serve_cni(cni, desk, &steps)?;
    }
    resolver.overlay = desk.as_ref().map(Desk::overlay).unwrap_or_default();
    let mut objects = Objects::default();
    tokio::select! {
        first = source.first(&mut objects) => first?,
        () = ends.come() => return Ok(()),
    }

    let (sender, mut reports) = mpsc::channel(REPORTS_MAX);
    let mut desired: Option<watch::Sender<Arc<Desired>>> = None;
    let mut is_good = false;
    let mut news = News::Changed(Scope::Whole);
    loop {
        match news {
            News::Changed(scope) => {
                let short = match (&scope, &desired) {
                    (Scope::Slices(slices), Some(desired)) if is_good => {
                        let in_force = Arc::clone(&desired.borrow());
                        resolver.update(&objects, slices, &in_force)
                    }
                    _ => None,
                };
                let next = match short {
                    Some(next) => {
                        shared.update(|s| {
                            s.source.accepted += 1;
                            s.source.objects = objects.len();
                        });
                        Ok(next)
                    }
                    None => match resolver.resolve(&mut objects).await {
                        Ok(resolved) => {
                            desk.iter_mut().for_each(|desk| desk.resolved(&resolved));
                            // A path that cannot be is the only thing said then.
                            if desired.is_none() && !source.mends_itself() {
                                serve_status(config, &shared)?;
                                if let (Some(desk), Some(cni)) = (&desk, &config.cni) {
                                    serve_cni(cni, desk, &steps)?;
                                }
                            }
                            accept(&shared, &objects, &resolved);
                            Ok(Desired::from(resolved.state))
                        }
                        Err(error) => Err(error),
                    },
                };
                is_good = next.is_ok();
                match next {
                    Ok(next) => {
                        source.in_force(&objects);
                        let next = Arc::new(next);
                        if let Some(desired) = &desired {
                            desired.send_replace(next);
                        } else {
                            let (first, receiver) = watch::channel(next);
                            tokio::spawn(push::push(
                                config.fastpath_socket.clone(),
                                receiver,
                                sender.clone(),
                            ));
                            desired = Some(first);
                        }
                    }
                    Err(error) if desired.is_none() && !source.mends_itself() => return Err(error),
                    Err(error) => refuse(&shared, &error.to_string(), desired.is_some()),
                }
            }
            // Perhaps a mistake was taken back.
            News::Unchanged if is_good => shared.update(|s| s.source.error = None),
            News::Unchanged => {}
            News::Refused(reason) => refuse(&shared, &reason, desired.is_some()),
        }
        tell_condition(&shared, &source);
        news = loop {
            tokio::select! {
                news = source.next(&mut objects) => break news,
                Some(report) = reports.recv() => {
                    log(&report);
                    desk.iter().for_each(|desk| desk.record(&report));
                    shared.update(|s| s.fastpath.record(&report));
                }
                desk = asked(&mut desk) => {
                    if desk.take(&objects, &resolver.options.assignments).await {
                        let outcome = resolver.resolve(&mut objects).await;
                        let outcome = outcome.map_err(|error| error.to_string());
                        desk.settle(&outcome.map(|resolved| {
                            if let Some(desired) = &desired {
                                desired.send_replace(Arc::new(Desired::from(resolved.state)));
                            }
                        }));
                    }
                }
                () = ends.come() => {
                    tracing::info!("stopping; fastpath forwards on with the last state");
                    source.stop(&objects).await;
                    return Ok(());
                }
            }
        };
    }
}

fn serve_status(config: &Config, shared: &Shared) -> Result<(), DaemonError> {
    if let Some(path) = &config.status_socket {
        let listener =
            status::bind(path).map_err(wrong_path(path, "a path for a socket in a directory that exists"))?;
        tokio::spawn(status::serve(listener, shared.clone()));
    }
    Ok(())
}

fn serve_cni(cni: &cni::Config, desk: &Desk, steps: &Arc<dyn Steps>) -> Result<(), DaemonError> {
    let expected = "a path for a socket in a directory that exists";
    cni::server::start(cni, desk, Arc::clone(steps)).map_err(wrong_path(&cni.socket, expected))?;
    // Only now: a configuration tells the runtime that pods may come.
    cni.installation
        .as_ref()
        .map_or(Ok(()), |installation| Ok(installation.install_own()?))
}

/// The desk of pods' interfaces, where there is one.
fn open_desk(config: &Config, pods_are_known: bool) -> Result<Option<Desk>, DaemonError> {
    let Some(cni) = &config.cni else { return Ok(None) };
    // Beside the socket: attachments end with the boot, as what is below /run does, and each call waits for their file.
    let directory = cni.socket.parent().unwrap_or(Path::new("."));
    Ok(Some(Desk::open(&config.node, directory, pods_are_known)?))
}

/// Waits until somebody asks for an interface.
async fn asked(desk: &mut Option<Desk>) -> &mut Desk {
    match desk {
        Some(desk) => {
            desk.asked().await;
            desk
        }
        None => std::future::pending().await,
    }
}

fn tell_condition(shared: &Shared, source: &impl Source) {
    let condition = source.condition();
    shared.update(|s| s.source.condition(condition));
}

/// Tells of a change that is not taken over: first where it can be looked up, then where it is announced.
fn refuse(shared: &Shared, error: &str, has_state: bool) {
    shared.update(|s| {
        s.source.refused += 1;
        s.source.error = Some(error.to_owned());
    });
    if has_state {
        tracing::error!(error, "the change is refused, the last good state stays");
    } else {
        tracing::error!(error, "there is no state to begin with yet; waiting");
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
        Report::Applied(applied, _) => {
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
    /// Pods' interfaces.
    overlay: cni::overlay::Overlay,
    /// As of the last whole resolve and the short ways since.
    endpoints: Endpoints,
}

impl Resolver {
    fn new(config: &Config, mode: Mode) -> Result<Self, DaemonError> {
        let mut options = Options {
            mode,
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
            overlay: cni::overlay::Overlay::default(),
            endpoints: Endpoints::default(),
        })
    }

    async fn resolve(&mut self, objects: &mut Objects) -> Result<Resolved, DaemonError> {
        self.options.uplink_mtu = uplink::mtu(&self.uplink).await;
        let undo = self.overlay.apply(objects, &self.options.assignments);
        let resolved = resolve(objects, &self.node, &self.options);
        undo.revert(objects);
        let resolved = resolved.map_err(Box::new)?;
        self.keep(&resolved.assignments)?;
        self.endpoints = Endpoints::new(objects, &self.node, &resolved.state);
        Ok(resolved)
    }

    /// The state after a change of these slices alone; `None` where that takes a whole resolve.
    fn update(
        &mut self,
        objects: &Objects,
        slices: &BTreeSet<ObjectName>,
        in_force: &Desired,
    ) -> Option<Desired> {
        in_force.with(self.endpoints.update(objects, slices)?)
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
