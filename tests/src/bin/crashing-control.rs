//! `ringway-control` that dies, without a word, at the step of a CNI call that `CRASH_AT` names.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use control::cni::{self, Step, Steps};
use control::daemon::{self, Config, SourceConfig};

/// Aborts at one step.
struct CrashAt(Step);

impl Steps for CrashAt {
    fn reached(&self, step: Step) {
        if step == self.0 {
            std::process::abort();
        }
    }
}

fn main() -> ExitCode {
    let wanted = std::env::var("CRASH_AT").unwrap_or_default();
    let Some(step) = Step::ALL.into_iter().find(|step| format!("{step:?}") == wanted) else {
        eprintln!(
            "crashing-control: CRASH_AT: {wanted:?}, expected one of {:?}",
            Step::ALL
        );
        return ExitCode::from(2);
    };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| {
        let at = arguments.iter().position(|argument| argument == flag)?;
        arguments.get(at + 1).cloned()
    };
    let path = |flag: &str| PathBuf::from(value(flag).unwrap_or_default());
    let config = Config {
        node: value("--node").unwrap_or_default(),
        source: SourceConfig::Manifests(vec![path("--state")]),
        fastpath_socket: path("--fastpath-socket"),
        status_socket: Some(path("--status-socket")),
        run_directory: Some(path("--run-dir")),
        uplink: value("--uplink").unwrap_or_default(),
        cni: Some(cni::Config {
            socket: path("--cni-socket"),
            fastpath_status_socket: path("--fastpath-status-socket"),
            queues: 1,
            installation: None,
        }),
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match runtime.block_on(daemon::run_with(config, Arc::new(CrashAt(step)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crashing-control: {error}");
            ExitCode::FAILURE
        }
    }
}
