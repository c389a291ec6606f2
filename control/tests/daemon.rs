//! `ringway-control` as a process, against a fastpath made of a socket and the contract's reference merge.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what went wrong")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use contract::{frame, merge, proto};
use proto::from_fastpath::Body as From;
use proto::to_fastpath::Body as To;

const CLUSTER: &str = "apiVersion: v1
kind: Node
metadata: {name: a}
spec: {podCIDRs: [10.244.1.0/24]}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
";

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: a}}\n")
}

const PATIENCE: Duration = Duration::from_secs(20);

/// The daemon, ended when the test ends.
struct Control {
    child: Child,
    log: Receiver<String>,
}

impl Control {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ringway-control"))
            .args(["--node", "a", "--uplink", "lo", "--state"])
            .arg(directory.join("state"))
            .arg("--fastpath-socket")
            .arg(directory.join("fastpath.sock"))
            .arg("--status-socket")
            .arg(directory.join("status.sock"))
            .arg("--run-dir")
            .arg(directory.join("run"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, log }
    }

    fn wait_for_log(&self, expected: &str) -> String {
        let mut seen = Vec::new();
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(expected) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error}: no log line with {expected:?} in {seen:#?}"),
            }
        }
    }

    fn terminate(mut self) -> ExitStatus {
        let killed = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection and the state that it led to.
struct Fastpath {
    stream: UnixStream,
    state: proto::State,
}

impl Fastpath {
    /// Welcomes the next control that lives: a killed one may have left a connection, and its Hello, in the queue.
    fn accept(listener: &UnixListener) -> Self {
        loop {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut fastpath = Self {
                stream,
                state: proto::State::default(),
            };
            let Ok(Some(hello)) = frame::read::<proto::ToFastpath>(&mut fastpath.stream) else {
                continue;
            };
            assert!(matches!(hello.body, Some(To::Hello(_))));
            let welcome = From::Welcome(proto::Welcome {
                protocol: contract::PROTOCOL,
                needs_snapshot: true,
                ..Default::default()
            });
            let welcome = proto::FromFastpath { body: Some(welcome) };
            if frame::write(&mut fastpath.stream, &welcome).is_ok() {
                return fastpath;
            }
        }
    }

    fn receive(&mut self) -> To {
        frame::read::<proto::ToFastpath>(&mut self.stream)
            .unwrap()
            .unwrap()
            .body
            .unwrap()
    }

    fn send(&mut self, body: From) {
        frame::write(&mut self.stream, &proto::FromFastpath { body: Some(body) }).unwrap();
    }

    /// Takes the next version, acknowledges it and returns the names of its ports.
    fn next(&mut self) -> Vec<String> {
        self.state = match self.receive() {
            To::Snapshot(state) => state,
            To::Delta(delta) => merge::apply(&self.state, &delta).unwrap(),
            To::Hello(_) => panic!("a second Hello"),
        };
        self.send(From::Applied(proto::Applied {
            version: self.state.version,
            ..Default::default()
        }));
        self.state.ports.iter().map(|port| port.name.clone()).collect()
    }
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

fn status(directory: &Path) -> serde_json::Value {
    let mut text = String::new();
    UnixStream::connect(directory.join("status.sock"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_broken_file_is_refused_and_the_last_good_state_stays() {
    let (directory, state, listener) = set_up();
    let control = Control::start(directory.path());
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
    let control = Control::start(directory.path());
    assert_eq!(Fastpath::accept(&listener).next().len(), 3);
    assert_eq!(control.terminate().code(), Some(0));
    fs::write(state.join("more.yaml"), pod("a-first")).unwrap();
    let _control = Control::start(directory.path());
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
    let control = Control::start(directory.path());
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
