//! The control daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use control::cni::{self, install::Installation};
use control::daemon::{self, Config, SourceConfig};
use tracing_subscriber::EnvFilter;
use usage::one_line;

/// Resolves cluster objects for one node and keeps the node's fastpath up to date.
#[derive(Parser)]
#[command(name = "ringway-control", version, after_help = EXAMPLES)]
struct Arguments {
    /// Name of the Node object that this machine is
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Manifests: a file, or a directory of *.yaml, *.yml and *.json; may be repeated; watched for changes
    #[arg(long, value_name = "DIR|FILE")]
    #[cfg_attr(not(feature = "kubernetes"), arg(required = true))]
    state: Vec<PathBuf>,
    #[cfg(feature = "kubernetes")]
    #[command(flatten)]
    kubernetes: KubernetesArguments,
    /// Socket that ringway-fastpath listens on
    #[arg(
        long,
        alias = "fastpath",
        value_name = "PATH",
        default_value = "/run/ringway/fastpath.sock"
    )]
    fastpath_socket: PathBuf,
    /// Socket to tell our own status on, as one line of JSON to whoever connects
    #[arg(long, value_name = "PATH")]
    status_socket: Option<PathBuf>,
    /// Directory that keeps over a restart: with --state, the addresses handed out to pods (without it they are handed
    /// out anew, in namespace and name order); else a copy of the last good state and the API servers' addresses
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Network interface that leads to the other nodes
    #[arg(long, value_name = "INTERFACE", default_value = "eth0")]
    uplink: String,
    /// Socket to serve ringway-cni on, /run/ringway/cni.sock unless its configuration says another; the file of pods'
    /// interfaces is kept beside it; without it pods get no interfaces from us
    #[arg(long, value_name = "PATH")]
    cni_socket: Option<PathBuf>,
    /// Socket that ringway-fastpath tells its status on, which the CNI verb CHECK asks
    #[arg(long, value_name = "PATH", default_value = "/run/ringway/status.sock")]
    fastpath_status_socket: PathBuf,
    /// Receive and transmit queues of a pod's link: as many as fastpath may ever have workers
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pod_queues: u32,
    /// Install ringway-cni and its configuration as soon as calls are served, where the options below say
    #[arg(long, requires = "cni_socket")]
    install_cni: bool,
    #[command(flatten)]
    places: Places,
}

/// Where a container runtime looks for plugins.
#[derive(clap::Args, Clone)]
struct Places {
    /// Directory that the runtime reads network configurations from
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Name of our configuration in it; the runtime takes the first in order
    #[arg(long, value_name = "NAME", default_value = "05-ringway.conflist")]
    cni_conf_name: String,
    /// Directory that the runtime runs plugins from
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
}

impl Places {
    fn installation(self, socket: PathBuf) -> Installation {
        Installation {
            configuration_directory: self.cni_conf_dir,
            configuration_name: self.cni_conf_name,
            program_directory: self.cni_bin_dir,
            socket,
        }
    }
}

/// Removes ringway-cni and its configuration from the container runtime's directories; pods that run keep their interfaces.
#[derive(Parser)]
#[command(
    name = "ringway-control uninstall-cni",
    bin_name = "ringway-control uninstall-cni"
)]
struct Uninstall {
    #[command(flatten)]
    places: Places,
}

/// The API server, where there is no --state.
#[cfg(feature = "kubernetes")]
#[derive(clap::Args)]
#[group(conflicts_with = "state", multiple = true)]
struct KubernetesArguments {
    /// Kubeconfig that leads to the API server; without it and without --state: the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Address of an API server, `https://HOST:PORT`; may be repeated; counts instead of the kubeconfig's
    #[arg(long = "api-server", value_name = "URL", value_parser = api_server)]
    api_servers: Vec<http::Uri>,
}

#[cfg(feature = "kubernetes")]
fn api_server(text: &str) -> Result<http::Uri, String> {
    let address: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    let has_scheme = matches!(address.scheme_str(), Some("https" | "http"));
    if has_scheme
        && address.host().is_some_and(|host| !host.is_empty())
        && address.path() == "/"
        && address.query().is_none()
    {
        Ok(address)
    } else {
        Err("expected https://HOST:PORT".to_owned())
    }
}

const EXAMPLES: &str = "Examples:
  ringway-control --node node-a --state /etc/ringway/cluster
  ringway-control --node node-a --kubeconfig /etc/ringway/kubeconfig --run-dir /var/lib/ringway
  ringway-control --node node-a --api-server https://10.0.0.1:6443 --run-dir /var/lib/ringway    (in a pod)
  ringway-control --node node-a --state nodes.yaml --state pods.yaml --uplink ens3 --run-dir /var/lib/ringway
  ringway-control --node node-a --state /etc/ringway/cluster --cni-socket /run/ringway/cni.sock --install-cni
  ringway-control uninstall-cni

Exit codes: 0 after SIGTERM or SIGINT, 1 when the system refuses something, 2 for a bad flag, file or object, and for an
API server that does not let us read a kind (it says which one, and the rule to add).
A bad change later on is logged with the object's name, and the last good state stays; so it does while no API server answers.
Log levels by RINGWAY_LOG (error, warn, info, debug), for instance RINGWAY_LOG=debug.";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("uninstall-cni") {
        return uninstall_cni();
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are no errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("ringway-control: {}", one_line(&error, &Arguments::command()));
            return ExitCode::from(2);
        }
    };
    let filter = EnvFilter::try_from_env("RINGWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .init();

    let source = source(&arguments);
    let config = Config {
        node: arguments.node,
        source,
        fastpath_socket: arguments.fastpath_socket,
        status_socket: arguments.status_socket,
        run_directory: arguments.run_dir,
        uplink: arguments.uplink,
        cni: arguments.cni_socket.map(|socket| cni::Config {
            installation: arguments
                .install_cni
                .then(|| arguments.places.installation(socket.clone())),
            socket,
            fastpath_status_socket: arguments.fastpath_status_socket,
            queues: arguments.pod_queues,
        }),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ringway-control: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway-control: {error}");
            if error.is_input() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn uninstall_cni() -> ExitCode {
    let arguments = match Uninstall::try_parse_from(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("ringway-control: {}", one_line(&error, &Uninstall::command()));
            return ExitCode::from(2);
        }
    };
    match arguments.places.installation(PathBuf::new()).uninstall() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringway-control: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(feature = "kubernetes")]
fn source(arguments: &Arguments) -> SourceConfig {
    use control::source::kubernetes::{self, access};

    if !arguments.state.is_empty() {
        return SourceConfig::Manifests(arguments.state.clone());
    }
    let access = access::Access {
        kubeconfig: arguments.kubernetes.kubeconfig.clone(),
        servers: arguments.kubernetes.api_servers.clone(),
        service_account: access::SERVICE_ACCOUNT.into(),
    };
    let config = kubernetes::Config::new(&arguments.node, access, arguments.run_dir.clone());
    SourceConfig::Kubernetes(Box::new(config))
}

#[cfg(not(feature = "kubernetes"))]
fn source(arguments: &Arguments) -> SourceConfig {
    SourceConfig::Manifests(arguments.state.clone())
}
