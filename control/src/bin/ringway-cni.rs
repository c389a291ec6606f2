//! The CNI plugin.

use std::io::{Read, Write};
use std::process::ExitCode;

/// What a person at a terminal is told; a runtime gives no arguments.
const HELP: &str = "\
Ringway's CNI plugin, specification 1.1. A container runtime runs it: the verb is in CNI_COMMAND, the network configuration on
standard input, the answer on standard output.

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
    let mut input = Vec::new();
    // Without a command nobody feeds us a configuration: a person at a terminal must not wait for one.
    if command.is_some()
        && let Err(error) = std::io::stdin()
            .lock()
            .take(INPUT_LEN_MAX)
            .read_to_end(&mut input)
    {
        eprintln!("ringway-cni: reading the network configuration: {error}");
    }
    let answer = control::cni::answer(command.as_deref(), &String::from_utf8_lossy(&input));
    if let Err(error) = writeln!(std::io::stdout(), "{:#}", answer.body) {
        eprintln!("ringway-cni: {error}");
        return ExitCode::FAILURE;
    }
    if answer.success {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Far beyond any network configuration, in bytes.
const INPUT_LEN_MAX: u64 = 1 << 20;
