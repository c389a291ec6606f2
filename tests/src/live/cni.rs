//! A container runtime: it makes namespaces and calls `ringway-cni` with environment and standard input.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::daemon::{Killed, kill_hard};
use super::lab::{Lab, PATIENCE, program_as_root, succeed};
use super::place::{self, Background};
use super::wait;
use crate::binary;

/// A runtime on one node of a lab, whose control serves `ringway-cni`.
#[derive(Debug)]
pub struct Runtime<'a> {
    lab: &'a Lab,
    node: String,
    plugin: PathBuf,
    lab_control: Killed,
    control: Option<Background>,
    starts: usize,
    /// Where the socket and the file of attachments are.
    folder: PathBuf,
}

/// The network namespace of a pod's sandbox, deleted on drop.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
}

/// An error that the plugin answered with.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Its code.
    pub code: u64,
    /// All of it.
    pub body: Value,
}

impl Sandbox {
    /// A fresh one, its loopback up as runtimes leave it.
    ///
    /// # Panics
    /// When it can't be made.
    pub fn new(name: &str) -> Self {
        let sandbox = Self {
            name: format!("rwcni-{}-{name}", std::process::id()),
        };
        let ip = |words: &[&str]| {
            let output = Command::new("ip")
                .args(words)
                .output()
                .expect("iproute2 is installed");
            succeed(&output, "ip");
        };
        ip(&["netns", "add", &sandbox.name]);
        ip(&["-n", &sandbox.name, "link", "set", "lo", "up"]);
        sandbox
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Runs `action` on a thread inside.
    pub fn within<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        place::within(&self.name, action)
    }

    /// Runs a command line inside and returns its standard output.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, line: &str) -> String {
        let words: Vec<&str> = line.split_whitespace().collect();
        let output = self.within(|| Command::new(words[0]).args(&words[1..]).output());
        let output = output.expect("the program starts");
        succeed(&output, line);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether the interface `name` is there.
    pub fn has(&self, name: &str) -> bool {
        let output = Command::new("ip")
            .args(["-n", &self.name, "link", "show", name])
            .output();
        output.expect("iproute2 is installed").status.success()
    }

    /// Deletes it while its attachment is there.
    pub fn delete(self) {
        drop(self);
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

impl<'a> Runtime<'a> {
    /// Puts a control that serves `ringway-cni` in the place of the lab's on `node`. `None`, with the reason printed,
    /// where a program is missing.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(lab: &'a Lab, node: &str) -> Option<Self> {
        Self::start_in(lab, node, lab.file(node, ""))
    }

    /// The same with the socket and the file of attachments in `folder`, on a tmpfs for instance.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_in(lab: &'a Lab, node: &str, folder: PathBuf) -> Option<Self> {
        let plugin = program_as_root("ringway-cni")?;
        program_as_root("crashing-control")?;
        let daemon = format!("{node}/ringway-control");
        let mut runtime = Self {
            lab,
            node: node.to_owned(),
            plugin,
            lab_control: kill_hard(&daemon, lab.first_pid(&daemon)),
            control: None,
            starts: 0,
            folder,
        };
        runtime.start_control(None);
        Some(runtime)
    }

    /// Starts control again, one that crashes at a step if told so, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start_control(&mut self, crash_at: Option<&str>) {
        self.control = None;
        let mut command = self.lab_control.command();
        if let Some(step) = crash_at {
            let mut crashing = Command::new(binary::find("crashing-control").expect("it was found before"));
            crashing.args(command.get_args()).env("CRASH_AT", step);
            command = crashing;
        } else {
            command.args(["--pod-queues", "1"]);
        }
        command.arg("--cni-socket").arg(self.folder.join("cni.sock"));
        let status = self.lab.file(&self.node, "status.sock");
        command.arg("--fastpath-status-socket").arg(status);
        self.starts += 1;
        let output = self.lab.folder().join(format!("cni-control-{}.log", self.starts));
        self.control = Some(Background::start(&self.lab.netns(&self.node), command, output));
        wait::until("control to serve ringway-cni", PATIENCE, || self.status().is_ok());
    }

    /// Ends control as an upgrade does.
    pub fn stop_control(&mut self) {
        if let Some(control) = self.control.take() {
            control.interrupt();
        }
    }

    /// Waits until control has crashed.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_crashed(&mut self) {
        let control = self.control.as_mut().expect("it was started");
        wait::until("control to crash", PATIENCE, || control.exit_code().is_some());
    }

    /// What control logged since it was started last.
    pub fn log(&self) -> String {
        self.control.as_ref().map(Background::said).unwrap_or_default()
    }

    /// ADD of a pod without a name of Kubernetes.
    ///
    /// # Errors
    /// The plugin's.
    pub fn add(&self, container: &str, sandbox: &Sandbox) -> Result<Value, Refusal> {
        self.call("ADD", container, &sandbox.path(), "", json!({}))
            .map(|body| body.expect("ADD has a result"))
    }

    /// DEL of the same.
    ///
    /// # Errors
    /// The plugin's.
    pub fn del(&self, container: &str, sandbox: &Sandbox) -> Result<(), Refusal> {
        self.call("DEL", container, &sandbox.path(), "", json!({}))
            .map(drop)
    }

    /// CHECK of the same, with the result of its ADD.
    ///
    /// # Errors
    /// The plugin's.
    pub fn check(&self, container: &str, sandbox: &Sandbox, result: &Value) -> Result<(), Refusal> {
        let extra = json!({"prevResult": result});
        self.call("CHECK", container, &sandbox.path(), "", extra)
            .map(drop)
    }

    /// GC with the containers that are still there.
    ///
    /// # Errors
    /// The plugin's.
    pub fn collect(&self, valid: &[&str]) -> Result<(), Refusal> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|container| json!({"containerID": container, "ifname": "eth0"}))
            .collect();
        self.call("GC", "", "", "", json!({"cni.dev/valid-attachments": valid}))
            .map(drop)
    }

    /// STATUS.
    ///
    /// # Errors
    /// The plugin's.
    pub fn status(&self) -> Result<(), Refusal> {
        self.call("STATUS", "", "", "", json!({})).map(drop)
    }

    /// Any call about `eth0`. `extra` is put into the network configuration.
    ///
    /// # Errors
    /// The plugin's.
    ///
    /// # Panics
    /// When it says something that is no answer of the specification.
    pub fn call(
        &self,
        verb: &str,
        container: &str,
        netns: &str,
        args: &str,
        extra: Value,
    ) -> Result<Option<Value>, Refusal> {
        let variables = [
            ("CNI_CONTAINERID", container),
            ("CNI_NETNS", netns),
            ("CNI_ARGS", args),
            ("CNI_IFNAME", "eth0"),
        ];
        call(&self.plugin, verb, &variables, &self.configuration(extra))
    }

    /// The network configuration that the runtime hands on.
    pub fn configuration(&self, extra: Value) -> Value {
        let mut configuration = json!({
            "cniVersion": "1.1.0",
            "name": "ringway",
            "type": "ringway-cni",
            "socket": self.folder.join("cni.sock"),
        });
        if let Value::Object(extra) = extra {
            configuration.as_object_mut().expect("an object").extend(extra);
        }
        configuration
    }

    /// The port of a pod in fastpath's status.
    pub fn port(&self, name: &str) -> Option<Value> {
        let status = self.lab.status(&self.node);
        let ports = status["ports"].as_array().cloned().unwrap_or_default();
        ports.into_iter().find(|port| port["name"] == name)
    }

    /// Attachments that control keeps.
    ///
    /// # Panics
    /// When the file is not what control writes.
    pub fn kept(&self) -> Vec<Value> {
        let Ok(text) = fs::read_to_string(self.folder.join("attachments.json")) else {
            return Vec::new();
        };
        let body: Value = serde_json::from_str(text.lines().nth(1).expect("two lines")).expect("JSON");
        body["attachments"].as_array().expect("a list").clone()
    }

    /// Names of links on the node that ringway-cni made.
    pub fn links(&self) -> Vec<String> {
        // Their link group, "RWCI".
        let said = self.lab.run(&self.node, "ip -o link show group 1381450569");
        let ours = said.lines();
        let name = |line: &str| line.split(['@', ':']).nth(1).map(|name| name.trim().to_owned());
        ours.filter_map(name).collect()
    }
}

/// Runs a plugin as the specification says.
///
/// # Errors
/// What it answers with exit code 1.
///
/// # Panics
/// When it says something that is no answer of the specification.
pub fn call(
    plugin: &Path,
    verb: &str,
    variables: &[(&str, &str)],
    configuration: &Value,
) -> Result<Option<Value>, Refusal> {
    let mut child = Command::new(plugin)
        .env_clear()
        .env("CNI_COMMAND", verb)
        .env("CNI_PATH", plugin.parent().unwrap_or(Path::new("/")))
        .envs(variables.iter().filter(|(_, value)| !value.is_empty()).copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the plugin starts");
    let mut input = child.stdin.take().expect("it is piped");
    // A plugin may answer without reading it.
    let _ = input.write_all(configuration.to_string().as_bytes());
    drop(input);
    let output = child.wait_with_output().expect("it is our child");
    let body: Option<Value> = if output.stdout.is_empty() {
        None
    } else {
        Some(serde_json::from_slice(&output.stdout).expect("JSON"))
    };
    if output.status.success() {
        return Ok(body);
    }
    assert_eq!(output.status.code(), Some(1), "{verb}");
    let body = body.expect("an error is told");
    assert!(
        body["cniVersion"].is_string() && body["msg"].is_string(),
        "{body}"
    );
    let code = body["code"].as_u64().expect("a code");
    Err(Refusal { code, body })
}
