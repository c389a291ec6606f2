//! The control daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use control::daemon::{self, Config};
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
    #[arg(long, value_name = "DIR|FILE", required = true)]
    state: Vec<PathBuf>,
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
    /// Directory that keeps the addresses handed out to pods over a restart; without it they are handed out anew,
    /// in namespace and name order
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Network interface that leads to the other nodes
    #[arg(long, value_name = "INTERFACE", default_value = "eth0")]
    uplink: String,
}

const EXAMPLES: &str = "Examples:
  ringway-control --node node-a --state /etc/ringway/cluster
  ringway-control --node node-a --state nodes.yaml --state pods.yaml --uplink ens3 --run-dir /var/lib/ringway

Exit codes: 0 after SIGTERM or SIGINT, 1 when the system refuses something, 2 for a bad flag, file or object.
A bad change to the manifests later on is logged with file and line, and the last good state stays.
Log levels by RINGWAY_LOG (error, warn, info, debug), for instance RINGWAY_LOG=debug.";

fn main() -> ExitCode {
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

    let config = Config {
        node: arguments.node,
        state: arguments.state,
        fastpath_socket: arguments.fastpath_socket,
        status_socket: arguments.status_socket,
        run_directory: arguments.run_dir,
        uplink: arguments.uplink,
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
