//! What end-to-end tests send through a lab and how they look at it from outside: sockets with every byte compared, and
//! captures that tshark dissects.

pub mod capture;
pub mod exchange;
pub mod scapy;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::live::Lab;

/// Runs a program in a place of the lab to its end.
///
/// # Panics
/// When it can't be started.
#[track_caller]
pub fn exec(lab: &Lab, place: &str, program: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    lab.within(place, || command.output())
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// All that a command said.
pub fn text(output: &Output) -> String {
    format!(
        "{}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Adds a manifest of `tests/states/` to a lab's state.
///
/// # Panics
/// When it is not there.
pub fn add_state(state: &Path, name: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("states").join(name);
    fs::copy(&from, state.join(name)).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}

/// Gives every Node of a lab's state one more annotation.
///
/// # Panics
/// When the manifests can't be changed.
pub fn annotate_nodes(state: &Path, annotation: impl Fn(&str) -> String) {
    let path = state.join("00-nodes.yaml");
    let text = fs::read_to_string(&path).expect("the example's nodes");
    let mut out = String::new();
    let mut node = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("  name: ") {
            node = name;
        }
        out.push_str(line);
        out.push('\n');
        if line == "  annotations:" {
            out.push_str("    ");
            out.push_str(&annotation(node));
            out.push('\n');
        }
    }
    fs::write(&path, out).expect("the lab's copy");
}

/// Leaves the Service of a lab's state one backend in each family.
///
/// # Panics
/// When it has none with these addresses.
pub fn one_backend(state: &Path, addresses: [&str; 2]) {
    let path = state.join("20-service.yaml");
    let manifests = fs::read_to_string(&path).expect("the lab's copy");
    let mut out = String::new();
    let mut skipping = false;
    for line in manifests.lines() {
        if line.starts_with("  - addresses:") {
            let is = |address: &&str| {
                line.contains(&format!("[{address}]")) || line.contains(&format!("\"{address}\""))
            };
            skipping = !addresses.iter().any(is);
        } else if line == "---" {
            skipping = false;
        }
        if !skipping {
            out.push_str(line);
            out.push('\n');
        }
    }
    assert_eq!(out.matches("  - addresses:").count(), addresses.len(), "{out}");
    fs::write(&path, out).expect("the lab's copy");
}

/// Is this program there? If not, that is printed as the reason to skip.
pub fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !found {
        println!("SKIPPED: no {program}");
    }
    found
}
