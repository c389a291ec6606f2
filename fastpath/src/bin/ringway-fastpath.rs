//! The packet path daemon.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{CommandFactory as _, Parser};
use fastpath::daemon::config::{Config, ConfigError};
use fastpath::daemon::{self, DaemonError};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;
use usage::one_line;

/// Ringway's packet path: AF_XDP ports, workers and flow tables of one node.
///
/// It needs `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_BPF`, `CAP_IPC_LOCK` (and `CAP_SYS_ADMIN` to mount a BPF filesystem), and is told
/// what to do by ringway-control over a Unix socket.
#[derive(Debug, Parser)]
#[command(
    name = "ringway-fastpath",
    version,
    after_help = "Examples:\n  ringway-fastpath --print-config > /etc/ringway/fastpath.toml\n  ringway-fastpath --config /etc/ringway/fastpath.toml\n\nLog levels by RINGWAY_LOG, for instance RINGWAY_LOG=debug."
)]
struct Arguments {
    /// The configuration file (TOML); without one, the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every key with its value in force, and exit
    #[arg(long)]
    print_config: bool,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are no errors.
        Err(error) if !error.use_stderr() => error.exit(),
        Err(error) => {
            eprintln!("ringway-fastpath: {}", one_line(&error, &Arguments::command()));
            return ExitCode::from(2);
        }
    };
    let config = match arguments
        .config
        .as_deref()
        .map_or_else(|| Ok(Config::default()), Config::load)
    {
        Ok(config) => config,
        Err(error) => return fail(&error.into()),
    };
    if arguments.print_config {
        print!("{}", config.to_toml());
        return ExitCode::SUCCESS;
    }
    let filter = EnvFilter::try_from_env("RINGWAY_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    tracing::info!("configuration in force:\n{}", config.to_toml());
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        if let Err(error) = signal_hook::flag::register(signal, Arc::clone(&stop)) {
            tracing::warn!(%error, signal, "this signal will not end the process cleanly");
        }
    }
    match daemon::run(&config, &stop) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// One line, and 2 when the operator can mend it in the file.
fn fail(error: &DaemonError) -> ExitCode {
    eprintln!("ringway-fastpath: {error}");
    match error {
        DaemonError::Config(
            ConfigError::Unreadable { .. } | ConfigError::Invalid { .. } | ConfigError::Value { .. },
        )
        | DaemonError::NoUplink(_)
        | DaemonError::UplinkMtu { .. } => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    }
}
