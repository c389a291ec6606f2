//! A lab of the built programs, taken down when the test ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::TempDir;

use super::place::{self, Background};
use super::wait;
use crate::binary;

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    ringway: PathBuf,
    shape: Value,
    folder: TempDir,
    /// One lab at a time: two of them would share the machine's few CPUs.
    _turn: File,
}

/// How long a busy machine may take for what takes milliseconds.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The program `name`, or a printed reason to skip; a panic where `RINGWAY_REQUIRE` demands root.
pub fn program_as_root(name: &str) -> Option<PathBuf> {
    let found = if geteuid().is_root() {
        binary::find(name)
    } else {
        Err("needs root".to_owned())
    };
    match found {
        Ok(path) => Some(path),
        Err(reason) => {
            let required = std::env::var("RINGWAY_REQUIRE").unwrap_or_default();
            assert!(
                !required
                    .split(',')
                    .any(|what| matches!(what.trim(), "root" | "afxdp")),
                "RINGWAY_REQUIRE={required}, but: {reason}"
            );
            println!("SKIPPED: {reason}");
            None
        }
    }
}

impl Lab {
    /// Brings up the two nodes of the example, or says why not and returns nothing.
    ///
    /// # Panics
    /// When the lab does not come up.
    pub fn up(test: &str) -> Option<Self> {
        Self::up_with(test, &[], |_| {})
    }

    /// The same with more options of `lab up`, and with the state changed by `prepare` before.
    pub fn up_with(test: &str, options: &[&str], prepare: impl FnOnce(&Path)) -> Option<Self> {
        let ringway = program_as_root("ringway")?;
        for daemon in ["ringway-fastpath", "ringway-control"] {
            program_as_root(daemon)?;
        }
        let turn = File::create("/run/ringway-live-tests.lock").expect("root writes to /run");
        turn.lock().expect("a lock on a file of ours");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let state = folder.path().join("state");
        fs::create_dir(&state).expect("a folder in ours");
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-nodes");
        for entry in fs::read_dir(example).expect("the example is in the repository") {
            let path = entry.expect("it can be read").path();
            if path.extension().is_some_and(|ending| ending == "yaml") {
                fs::copy(&path, state.join(path.file_name().expect("a file"))).expect("a copy");
            }
        }
        prepare(&state);
        let name = format!("{test}-{}", std::process::id());
        let mut lab = Self {
            name,
            ringway,
            shape: Value::Null,
            folder,
            _turn: turn,
        };
        let state = state.to_str().expect("UTF-8");
        let mut arguments = vec!["lab", "up", "--state", state, "--name"];
        let name = lab.name.clone();
        arguments.push(&name);
        arguments.extend(options);
        succeed(&lab.ringway(&arguments), "lab up");
        let shape = lab.ringway(&["lab", "status", "--name", &name, "--json"]);
        lab.shape = serde_json::from_slice(&shape.stdout).expect("lab status --json is JSON");
        Some(lab)
    }

    /// The copy of the state that the lab runs from.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The lab's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A folder for the test's own files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `ringway` to its end.
    pub fn ringway(&self, arguments: &[&str]) -> Output {
        Command::new(&self.ringway)
            .args(arguments)
            .output()
            .expect("ringway was found")
    }

    /// The namespace of a node, a pod (`namespace/name`), `outside` or `underlay`.
    pub fn netns(&self, place: &str) -> String {
        let nodes = self.shape["nodes"].as_array().expect("a list of nodes");
        if matches!(place, "outside" | "underlay") {
            return format!("ringway-{}.{place}", self.name);
        }
        let pods = nodes
            .iter()
            .flat_map(|node| node["pods"].as_array().expect("a list of pods"));
        let pod = |pod: &&Value| place.split_once('/') == Some((text(&pod["namespace"]), text(&pod["name"])));
        let found = nodes
            .iter()
            .find(|node| text(&node["name"]) == place)
            .or_else(|| pods.into_iter().find(pod));
        let found = found.unwrap_or_else(|| panic!("the lab has no {place}"));
        text(&found["netns"]).to_owned()
    }

    /// The kernel's name of the node's end of a pod's link.
    pub fn interface(&self, pod: &str) -> String {
        let nodes = self.shape["nodes"].as_array().expect("a list of nodes");
        let found = nodes
            .iter()
            .flat_map(|node| node["pods"].as_array().expect("a list of pods"))
            .find(|row| pod.split_once('/') == Some((text(&row["namespace"]), text(&row["name"]))));
        text(&found.expect("the pod")["interface"]).to_owned()
    }

    /// Runs `action` on a thread in the namespace of `place`.
    pub fn within<T: Send>(&self, place: &str, action: impl FnOnce() -> T + Send) -> T {
        place::within(&self.netns(place), action)
    }

    /// Runs a command line in `place` and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, place: &str, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let output = self.within(place, || command.output());
        let output = output.unwrap_or_else(|error| panic!("{line}: {error}"));
        succeed(&output, line);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a command line in `place`, until the test ends.
    pub fn start(&self, place: &str, line: &str) -> Background {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let number = fs::read_dir(self.folder.path()).expect("our folder").count();
        let output = self.folder.path().join(format!("output-{number}"));
        Background::start(&self.netns(place), command, output)
    }

    /// A file in the folder of a node's daemons.
    pub fn file(&self, node: &str, name: &str) -> PathBuf {
        let nodes = self.shape["nodes"].as_array().expect("a list of nodes");
        let found = nodes.iter().find(|row| text(&row["name"]) == node);
        Path::new(text(&found.expect("the node")["directory"])).join(name)
    }

    /// What `ringway QUESTION --json` answers on a node, if it does.
    pub fn ask(&self, node: &str, question: &str) -> Option<Value> {
        let socket = self.file(node, "status.sock");
        let socket = socket.to_str().expect("UTF-8");
        let output = self.ringway(&[question, "--socket", socket, "--json"]);
        serde_json::from_slice(&output.stdout).ok()
    }

    /// `ringway status` of a node.
    ///
    /// # Panics
    /// When its fastpath does not answer.
    pub fn status(&self, node: &str) -> Value {
        self.ask(node, "status")
            .unwrap_or_else(|| panic!("the fastpath of {node} answers"))
    }

    /// The process that `lab up` started as `NODE/ringway-...`.
    pub fn first_pid(&self, daemon: &str) -> i32 {
        let daemons = self.shape["daemons"].as_array().expect("a list of daemons");
        let found = daemons.iter().find(|row| text(&row["name"]) == daemon);
        found.expect("the daemon")["pid"].as_i64().expect("an id") as i32
    }

    /// Both identities hold on every node, and nothing is held, once traffic has stopped.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_conservation(&self) {
        for node in ["node-a", "node-b"] {
            let mut row = Value::Null;
            wait::until(&format!("conservation on {node}"), PATIENCE, || {
                row = self.status(node)["conservation"].clone();
                let n = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name} of {row}"));
                assert_eq!(row["ok"], true, "{node}: {row}");
                n("held") == 0
                    && n("rx") == n("tx") + n("punt") + n("drop")
                    && n("frames_out") == n("tx") + n("punt") + n("generated") + n("split")
            });
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in ["node-a", "node-b"] {
                for question in ["status", "drops", "flows"] {
                    let socket = self.file_or_none(node, "status.sock");
                    let output = self.ringway(&[question, "--socket", &socket]);
                    println!("{node} {question}:\n{}", String::from_utf8_lossy(&output.stdout));
                }
                for log in ["fastpath.log", "control.log"] {
                    let text = fs::read_to_string(self.file_or_none(node, log)).unwrap_or_default();
                    let last: Vec<&str> = text.lines().rev().take(15).collect();
                    println!("{node} {log}:");
                    last.iter().rev().for_each(|line| println!("  {line}"));
                }
            }
        }
        if !Path::new("/run/ringway-lab").join(&self.name).exists() {
            return;
        }
        let output = self.ringway(&["lab", "down", "--name", &self.name]);
        if !output.status.success() {
            println!("lab down: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

impl Lab {
    fn file_or_none(&self, node: &str, name: &str) -> String {
        format!("/run/ringway-lab/{}/{node}/{name}", self.name)
    }
}

/// # Panics
/// When the command failed; shows what it said.
pub fn succeed(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

/// Sum of the rows of `table` (of `ringway status`) that are named `reason`.
pub fn count(status: &Value, table: &str, reason: &str) -> u64 {
    let rows = status[table].as_array().expect("a table");
    rows.iter()
        .filter(|row| row["reason"] == reason)
        .map(|row| row["count"].as_u64().expect("a count"))
        .sum()
}
