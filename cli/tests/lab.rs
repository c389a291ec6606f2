//! `ringway lab` as a person types it, with the kernel forwarding: namespaces, wires, names, refusals, clean-up.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A lab that is gone when the test is over, however it ends.
struct Lab(String);

impl Lab {
    fn up(name: &str) -> Self {
        let lab = Self(format!("{name}{}", std::process::id()));
        let state = examples();
        let up = ringway(&[
            "lab",
            "up",
            "--dataplane",
            "kernel",
            "--name",
            &lab.0,
            "--state",
            &state,
        ]);
        assert!(up.status.success(), "{}", stderr(&up));
        lab
    }

    fn exec(&self, target: &str, command: &[&str]) -> Output {
        let mut arguments = vec!["lab", "exec", "--name", &self.0, target, "--"];
        arguments.extend(command);
        ringway(&arguments)
    }

    fn netns(&self) -> Vec<PathBuf> {
        let prefix = format!("ringway-{}.", self.0);
        let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
        entries
            .map(|entry| entry.path())
            .filter(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
            })
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = ringway(&["lab", "down", "--name", &self.0]);
    }
}

fn ringway(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args(arguments)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn examples() -> String {
    format!("{}/../examples/two-nodes", env!("CARGO_MANIFEST_DIR"))
}

/// Whether this process may make namespaces; a test that can't says so, or fails where `RINGWAY_REQUIRE` has root.
fn is_root() -> bool {
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|need| need == "root"),
            "RINGWAY_REQUIRE has root"
        );
        println!("SKIPPED: needs root");
    }
    root
}

/// Pods reach pods on their node and across, services, nodes and the outside, in both families; then nothing is left.
#[test]
fn a_kernel_lab_forwards_and_leaves_nothing() {
    if !is_root() {
        return;
    }
    let lab = Lab::up("kernel");
    for address in [
        "10.244.1.11",
        "10.244.2.10",
        "fd00:10:244:1::11",
        "fd00:10:244:2::12",
        "192.0.2.12",
        "2001:db8:2::12",
        "203.0.113.10",
        "2001:db8:113::10",
    ] {
        let ping = lab.exec("default/client", &["ping", "-c1", "-W2", address]);
        assert!(
            ping.status.success(),
            "{address}: {}",
            String::from_utf8_lossy(&ping.stdout)
        );
    }
    let from_outside = lab.exec("outside", &["ping", "-c1", "-W1", "10.244.1.10"]);
    assert!(
        !from_outside.status.success(),
        "the outside knows no route to pods"
    );

    // A process that someone left behind keeps its namespace: it is ended, too.
    let mut left = Command::new(env!("CARGO_BIN_EXE_ringway"))
        .args([
            "lab",
            "exec",
            "--name",
            &lab.0,
            "default/db",
            "--",
            "sleep",
            "600",
        ])
        .spawn()
        .unwrap();
    let running =
        || fs::read_to_string(format!("/proc/{}/comm", left.id())).is_ok_and(|comm| comm == "sleep\n");
    while !running() {
        std::thread::yield_now();
    }
    assert_eq!(lab.netns().len(), 10, "underlay, outside, two nodes, six pods");
    let down = ringway(&["lab", "down", "--name", &lab.0]);
    assert!(down.status.success(), "{}", stderr(&down));
    assert!(!left.wait().unwrap().success(), "ended by a signal");
    assert_eq!(lab.netns(), Vec::<PathBuf>::new());
    assert!(!Path::new("/run/ringway-lab").join(&lab.0).exists());
}

#[test]
fn a_name_in_use_is_refused_and_the_first_lab_stays() {
    if !is_root() {
        return;
    }
    let lab = Lab::up("twice");
    let again = ringway(&[
        "lab",
        "up",
        "--dataplane",
        "kernel",
        "--name",
        &lab.0,
        "--state",
        &examples(),
    ]);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
    assert!(ringway(&["lab", "status", "--name", &lab.0]).status.success());

    let nowhere = lab.exec("default/nobody", &["true"]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(
        stderr(&nowhere).contains("has no default/nobody; it has node-a"),
        "{}",
        stderr(&nowhere)
    );
    assert_eq!(lab.exec("node-a", &["sh", "-c", "exit 7"]).status.code(), Some(7));
}

/// What `up` had made when it failed is removed, and what was there before is not touched.
#[test]
fn a_foreign_namespace_of_our_name_is_refused_and_stays() {
    if !is_root() {
        return;
    }
    let lab = Lab(format!("foreign{}", std::process::id()));
    fs::create_dir_all("/run/netns").unwrap();
    let foreign = PathBuf::from(format!("/run/netns/ringway-{}.pod.default.db", lab.0));
    fs::write(&foreign, "").unwrap();
    let up = ringway(&[
        "lab",
        "up",
        "--dataplane",
        "kernel",
        "--name",
        &lab.0,
        "--state",
        &examples(),
    ]);
    let left = lab.netns();
    fs::remove_file(&foreign).unwrap();
    assert_eq!(up.status.code(), Some(1));
    assert!(stderr(&up).contains("is not this lab's"), "{}", stderr(&up));
    assert_eq!(left, [foreign]);
}

#[test]
fn bad_input_ends_with_code_2_and_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let cases = [
        (
            directory.path().join("none.yaml").to_str().unwrap().to_owned(),
            "none.yaml",
        ),
        (file("broken.yaml", "kind: [Node\n"), "broken.yaml"),
        (
            file(
                "empty.yaml",
                "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
            ),
            "no Node",
        ),
    ];
    for (state, expected) in cases {
        let up = ringway(&["lab", "up", "--state", &state]);
        assert_eq!(up.status.code(), Some(2), "{state}: {}", stderr(&up));
        assert!(stderr(&up).contains(expected), "{state}: {}", stderr(&up));
    }
    let nothing = ringway(&["lab", "down", "--name", "no-such-lab"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(
        stderr(&nothing).contains("there is no lab named no-such-lab")
            || !nix::unistd::Uid::effective().is_root()
    );
}
