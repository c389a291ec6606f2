//! The CNI plugin.

use std::io::{Read, Write};
use std::process::ExitCode;

use control::cni::plugin;

/// What a person at a terminal is told; a runtime gives no arguments.
const HELP: &str = "\
Ringway's CNI plugin, specification 1.1. A container runtime runs it: the verb is in CNI_COMMAND, the network configuration on
standard input, the answer on standard output.

It asks ringway-control on the Unix socket that the configuration's key \"socket\" names (/run/ringway/cni.sock without one).

Usage: ringway-cni

Example:
  echo '{\"cniVersion\": \"1.1.0\"}' | CNI_COMMAND=VERSION ringway-cni
";

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("--help" | "-h") => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!(
                "ringway-cni: unexpected argument {other:?}; usage: ringway-cni, the verb in CNI_COMMAND"
            );
            return ExitCode::from(2);
        }
    }
    let command = std::env::var("CNI_COMMAND").ok();
    // Without a command nobody feeds us a configuration: a person at a terminal must not wait for one.
    let input = if command.is_some() {
        let mut input = Vec::new();
        let read = std::io::stdin()
            .lock()
            .take(INPUT_LEN_MAX)
            .read_to_end(&mut input);
        read.map(|_| input)
    } else {
        Ok(Vec::new())
    };
    let variable = |name: &str| std::env::var(name).ok();
    let answer = plugin::call(variable, input);
    if let Some(body) = answer.body
        && let Err(error) = writeln!(std::io::stdout(), "{body:#}")
    {
        eprintln!("ringway-cni: {error}");
        return ExitCode::FAILURE;
    }
    if answer.is_success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Far beyond any network configuration, in bytes.
const INPUT_LEN_MAX: u64 = 2 << 20;
