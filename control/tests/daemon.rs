//! `ringway-control` as a process, against a fastpath made of a socket and the contract's reference merge.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

mod process;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use process::{Control, Fastpath, status};

const CLUSTER: &str = "apiVersion: v1
kind: Node
metadata: {name: a}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
";

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: a}}\n")
}

fn start(directory: &Path) -> Control {
    let state = directory.join("state");
    Control::start(directory, &["--state", state.to_str().unwrap()])
}

fn set_up() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::write(state.join("cluster.yaml"), CLUSTER).unwrap();
    fs::write(state.join("pods.yaml"), pod("web")).unwrap();
    let listener = UnixListener::bind(directory.path().join("fastpath.sock")).unwrap();
    (directory, state, listener)
}

#[test]
fn a_broken_file_is_refused_and_the_last_good_state_stays() {
    let (directory, state, listener) = set_up();
    let control = start(directory.path());
    let mut fastpath = Fastpath::accept(&listener);
    assert_eq!(fastpath.next(), ["host", "pod:default/web", "uplink"]);
    assert_eq!(fastpath.state.ports[1].addresses, [[10, 244, 1, 2]]);

    fs::write(
        state.join("pods.yaml"),
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: [\n",
    )
    .unwrap();
    let line = control.wait_for_log("bad manifest");
    assert!(line.contains("pods.yaml:"), "{line}");
    let line = control.wait_for_log("last good state stays");
    assert!(line.contains("pods.yaml:"), "{line}");
    let told = status(directory.path());
    assert!(
        told["problems"][0].as_str().unwrap().contains("pods.yaml:"),
        "{told}"
    );

    // Mended, with one pod more: only the difference comes, and the old pod keeps its address.
    fs::write(
        state.join("pods.yaml"),
        format!("{}---\n{}", pod("web"), pod("a-first")),
    )
    .unwrap();
    assert_eq!(
        fastpath.next(),
        ["host", "pod:default/a-first", "pod:default/web", "uplink"]
    );
    assert_eq!(fastpath.state.ports[2].addresses, [[10, 244, 1, 2]]);
    assert_eq!(fastpath.state.ports[1].addresses, [[10, 244, 1, 3]]);
    control.wait_for_log("state resolved");
    assert_eq!(
        status(directory.path())["source"]["error"],
        serde_json::Value::Null
    );
    assert_eq!(control.terminate().code(), Some(0));
    assert!(!directory.path().join("status.sock").exists());
}

#[test]
fn a_restarted_control_hands_out_the_same_addresses() {
    let (directory, state, listener) = set_up();
    let control = start(directory.path());
    assert_eq!(Fastpath::accept(&listener).next().len(), 3);
    assert_eq!(control.terminate().code(), Some(0));
    fs::write(state.join("more.yaml"), pod("a-first")).unwrap();
    let _control = start(directory.path());
    let mut fastpath = Fastpath::accept(&listener);
    assert_eq!(
        fastpath.next(),
        ["host", "pod:default/a-first", "pod:default/web", "uplink"]
    );
    assert_eq!(
        fastpath.state.ports[2].addresses,
        [[10, 244, 1, 2]],
        "web keeps its address over the restart"
    );
}

#[test]
fn a_node_that_vanishes_from_the_manifests_changes_nothing() {
    let (directory, state, listener) = set_up();
    let control = start(directory.path());
    let mut fastpath = Fastpath::accept(&listener);
    fastpath.next();
    fs::remove_file(state.join("cluster.yaml")).unwrap();
    assert!(
        control
            .wait_for_log("last good state stays")
            .contains("there is no Node")
    );
    fs::write(state.join("cluster.yaml"), CLUSTER).unwrap();
    fs::write(state.join("more.yaml"), pod("x")).unwrap();
    assert_eq!(
        fastpath.next(),
        ["host", "pod:default/web", "pod:default/x", "uplink"]
    );
}

#[test]
fn bad_input_at_the_start_is_one_line_and_exit_code_2() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bad.yaml");
    fs::write(
        &file,
        format!("{CLUSTER}---\n{}status: {{podIP: x}}\n", pod("web")),
    )
    .unwrap();
    let file = file.to_str().unwrap();
    for (arguments, expected) in [
        (vec!["--node", "a", "--state", file], "bad.yaml:11: Pod web: "),
        (vec!["--node", "a", "--state", "/no/such/file"], "/no/such/file: "),
        (vec!["--node", "a"], "--state"),
        (vec!["--node", "a", "--state", file, "--nonsense"], "--nonsense"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway-control"))
            .args(&arguments)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(
            text.contains(expected) && text.lines().count() == 1,
            "{arguments:?}: {text}"
        );
    }
}

#[test]
fn the_cni_plugin_answers_version_and_refuses_the_rest() {
    let run = |command: &str| {
        let plugin = Command::new(env!("CARGO_BIN_EXE_ringway-cni"))
            .env("CNI_COMMAND", command)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let body: serde_json::Value = serde_json::from_slice(&plugin.stdout).unwrap();
        (plugin.status.code(), body)
    };
    let (code, body) = run("VERSION");
    assert_eq!(code, Some(0));
    assert_eq!(body["supportedVersions"][3], "1.1.0");
    let (code, body) = run("FLY");
    assert_eq!((code, &body["code"]), (Some(1), &serde_json::json!(4)));
}

#[test]
fn the_cni_plugin_is_installed_when_calls_are_served_and_taken_away_again() {
    let (directory, state, _listener) = set_up();
    let at = |name: &str| directory.path().join(name);
    let places = |command: &mut Command| {
        command.arg("--cni-conf-dir").arg(at("net.d"));
        command.arg("--cni-bin-dir").arg(at("bin"));
    };
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway-control"));
    command
        .args(["--node", "a", "--uplink", "lo", "--install-cni", "--state"])
        .arg(&state);
    command.arg("--fastpath-socket").arg(at("no-fastpath.sock"));
    command.arg("--cni-socket").arg(at("cni.sock"));
    places(&mut command);
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let (begun, patience) = (std::time::Instant::now(), std::time::Duration::from_secs(20));
    let list = at("net.d").join("05-ringway.conflist");
    while !list.exists() {
        assert!(begun.elapsed() < patience, "nothing was installed");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let list: serde_json::Value = serde_json::from_slice(&fs::read(&list).unwrap()).unwrap();
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    plugin["name"] = list["name"].clone();
    fs::write(at("call.json"), plugin.to_string()).unwrap();
    // What was installed works, and says what is missing: fastpath.
    let output = Command::new(at("bin").join("ringway-cni"))
        .env("CNI_COMMAND", "STATUS")
        .stdin(fs::File::open(at("call.json")).unwrap())
        .output()
        .unwrap();
    let body: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (output.status.code(), &body["code"]),
        (Some(1), &serde_json::json!(51)),
        "{body}"
    );
    child.kill().unwrap();
    child.wait().unwrap();

    let mut uninstall = Command::new(env!("CARGO_BIN_EXE_ringway-control"));
    uninstall.arg("uninstall-cni");
    places(&mut uninstall);
    for _ in 0..2 {
        assert!(uninstall.status().unwrap().success());
        assert_eq!(fs::read_dir(at("net.d")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(at("bin")).unwrap().count(), 0);
    }
}
