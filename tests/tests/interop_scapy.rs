//! Packets that scapy made, through `ringway replay`: IPIP, VXLAN, ECN, IPv6 with extension headers, spoofed tunnels.

use std::fs;
use std::path::Path;
use std::process::Command;

use tests::binary;
use tests::cluster::state;
use tests::interop::{scapy, text};

fn replay(what: &str, more: &str) {
    let ringway = match binary::find("ringway") {
        Ok(ringway) => ringway,
        Err(reason) => return println!("SKIPPED: {reason}"),
    };
    let Some(python) = scapy::python() else { return };
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
