//! Packets that scapy made, through `ringway replay`: IPIP, VXLAN, ECN, IPv6 with extension headers, spoofed tunnels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tests::binary;
use tests::cluster::state;
use tests::interop::text;

/// A Python with scapy, made once beside the test programs; or why there is none.
fn python() -> Option<&'static Path> {
    static PYTHON: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let folder = own
            .parent()
            .ok_or("an executable lies in a folder")?
            .join("scapy-venv");
        let python = folder.join("bin/python");
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{command:?}: {}", text(&output))),
            Err(error) => Err(format!("{command:?}: {error}")),
        };
        let has_scapy = || run(Command::new(&python).args(["-c", "import scapy.all"]));
        if has_scapy().is_ok() {
            return Ok(python);
        }
        run(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "scapy"]))?;
        has_scapy()?;
        Ok(python)
    });
    found
        .as_deref()
        .map_err(|reason| println!("SKIPPED: no scapy: {reason}"))
        .ok()
}

fn replay(what: &str, more: &str) {
    let ringway = match binary::find("ringway") {
        Ok(ringway) => ringway,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let manifests = folder.path().join("state.yaml");
    fs::write(&manifests, state(more)).expect("the state");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scapy/replay.py");
    let output = Command::new(python)
        .arg(script)
        .arg(ringway)
        .arg(&manifests)
        .arg(folder.path())
        .arg(what)
        .output()
        .expect("python starts");
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("packets as expected"), "{}", text(&output));
}

#[test]
fn ipip_of_scapy_is_taken_and_ours_is_what_scapy_would_make() {
    replay(
        "ipip",
        "---\napiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: { name: pods }\n\
         spec: { cidr: 10.244.0.0/16, ipipMode: Always, natOutgoing: true }\n",
    );
}

#[test]
fn vxlan_of_scapy_is_taken_and_ours_is_what_scapy_would_make() {
    replay("vxlan", "");
}
