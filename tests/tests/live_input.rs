//! Bad input of the daemons and the lab: each with its message and its exit code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use fastpath::io::bpf::PodProgram;
use serde_json::Value;
use tests::live::Lab;
use tests::live::daemon::{kill_hard, wait_ready};
use tests::live::lab::{PATIENCE, program_as_root};
use tests::live::wait;

/// A namespace with a dummy interface `up0`, gone with the test.
struct Netns(String);

impl Netns {
    fn make(test: &str) -> Self {
        let name = format!("rwlive-{test}-{}", std::process::id());
        let made = Self(name.clone());
        for line in [
            format!("ip netns add {name}"),
            format!(
                "ip -n {name} link add up0 numrxqueues 2 numtxqueues 2 type veth peer name up1 numrxqueues 2 numtxqueues 2"
            ),
            format!("ip -n {name} link set up0 up"),
            format!("ip -n {name} link set up1 up"),
        ] {
            let mut words = line.split(' ');
            let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
            assert!(status.success(), "{line}");
        }
        made
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

/// A configuration whose files are all in `folder`.
fn configuration(folder: &Path, uplink: &str) -> PathBuf {
    let path = folder.join("fastpath.toml");
    let at = |name: &str| folder.join(name).display().to_string();
    let text = format!(
        "[sockets]\nfastpath = {:?}\nstatus = {:?}\n[ports]\nuplinks = [{uplink:?}]\n\
         [bpf]\nbpffs = {:?}\n[flow_table]\ndirectory = {:?}\nconnections_v4 = 1024\nconnections_v6 = 1024\n",
        at("f.sock"),
        at("s.sock"),
        at("bpf"),
        at("flows"),
    );
    fs::write(&path, text).unwrap();
    path
}

/// Runs to its end, which must come by itself.
fn ends(mut command: Command) -> Output {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(30) {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("{command:?} runs on: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// The exit code, and one last line on standard error with every one of `words`.
fn refused(command: Command, code: i32, words: &[&str]) {
    let shown = format!("{command:?}");
    let output = ends(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(output.status.code(), Some(code), "{shown}\n{said}");
    assert!(last.starts_with("ringway"), "{shown}\n{said}");
    for word in words {
        assert!(last.contains(word), "{shown}: no {word:?} in\n{said}");
    }
    println!("exit {code}: {last}");
}

#[test]
fn fastpath_refuses_bad_files() {
    let Some(fastpath) = program_as_root("ringway-fastpath") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let run = |text: Option<&str>, words: &[&str]| {
        let path = folder.path().join("bad.toml");
        let _ = fs::remove_file(&path);
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let mut command = Command::new(&fastpath);
        command.arg("--config").arg(&path);
        refused(command, 2, words);
    };
    run(None, &["bad.toml", "No such file"]);
    run(
        Some("[ports]\nuplinkz = []\n"),
        &["bad.toml", "line 2", "unknown field `uplinkz`", "uplinks"],
    );
    run(Some("[portz]\n"), &["bad.toml", "line 1", "portz"]);
    run(Some("[workers\n"), &["bad.toml", "line 1"]);
    run(Some("[workers]\ncount = \"two\"\n"), &["bad.toml", "line 2"]);
    run(
        Some("[workers]\ncount = 0\n"),
        &["bad.toml", "workers.count is 0", "expected 1 to 64"],
    );
}

#[test]
fn fastpath_refuses_an_uplink_that_is_not_there() {
    let Some(fastpath) = program_as_root("ringway-fastpath") else {
        return;
    };
    let (netns, folder) = (Netns::make("noif"), tempfile::tempdir().unwrap());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &netns.0]).arg(&fastpath);
    command.arg("--config").arg(configuration(folder.path(), "eth7"));
    refused(command, 2, &["[ports] uplinks", "no interface eth7"]);
}

/// Its packets are longer than any IP packet, and the kernel would only say EINVAL.
#[test]
fn fastpath_refuses_an_uplink_with_an_mtu_beyond_ip() {
    let Some(fastpath) = program_as_root("ringway-fastpath") else {
        return;
    };
    let (netns, folder) = (Netns::make("bigmtu"), tempfile::tempdir().unwrap());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &netns.0]).arg(&fastpath);
    command.arg("--config").arg(configuration(folder.path(), "lo"));
    refused(
        command,
        2,
        &["[ports] uplinks", "MTU of lo is 65536", "at most 65535"],
    );
}

/// Without root it says which capabilities it lacks, before it makes anything.
#[test]
fn fastpath_without_root_says_what_it_needs() {
    let Some(fastpath) = program_as_root("ringway-fastpath") else {
        return;
    };
    let (netns, folder) = (Netns::make("noroot"), tempfile::tempdir().unwrap());
    let config = configuration(folder.path(), "up0");
    // Whoever runs it may be unable to read where it was built and where the file lies.
    let copy = folder.path().join("ringway-fastpath");
    fs::copy(&fastpath, &copy).unwrap();
    Command::new("chmod")
        .arg("755")
        .args([&copy, folder.path()])
        .status()
        .unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &netns.0]);
    command
        .args([
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
        ])
        .arg(&copy);
    command.arg("--config").arg(&config);
    refused(command, 1, &["root", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]);
    assert!(!folder.path().join("flows").exists(), "it made something");
}

/// Memory that may not be locked: the message says what to give it.
#[test]
fn fastpath_with_little_memlock_says_what_to_do() {
    let Some(fastpath) = program_as_root("ringway-fastpath") else {
        return;
    };
    let (netns, folder) = (Netns::make("memlock"), tempfile::tempdir().unwrap());
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &netns.0, "prlimit", "--memlock=65536:65536"]);
    command
        .args([
            "setpriv",
            "--inh-caps",
            "-ipc_lock",
            "--bounding-set",
            "-ipc_lock",
        ])
        .arg(&fastpath);
    command.arg("--config").arg(configuration(folder.path(), "up0"));
    refused(command, 1, &["CAP_IPC_LOCK", "memlock", "ulimit -l"]);
}

/// An uplink that runs somebody's XDP program is left alone, its port says why it is not live, and is live by itself once
/// the program is gone.
#[test]
fn fastpath_leaves_a_foreign_xdp_program_alone() {
    let Some(lab) = Lab::up("xdp") else { return };
    let killed = kill_hard(
        "node-a/ringway-fastpath",
        lab.first_pid("node-a/ringway-fastpath"),
    );
    // Without its pins our own program goes.
    for entry in fs::read_dir(lab.file("node-a", "bpf")).unwrap() {
        let path = entry.unwrap().path();
        // Files are the kernel's own.
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        }
    }
    // The kernel lets go of a link whose pin is gone in its own time.
    let mut foreign = None;
    wait::until("eth0 without a program", PATIENCE, || {
        foreign = lab.within("node-a", || PodProgram::attach("eth0", 2)).ok();
        foreign.is_some()
    });
    let _successor = killed.start_again(&lab);
    let uplink = |status: &Value| {
        let ports = status["ports"].as_array().unwrap();
        ports.iter().find(|port| port["name"] == "uplink").cloned()
    };
    wait::until("the uplink's refusal", PATIENCE, || {
        lab.ask("node-a", "status")
            .as_ref()
            .and_then(uplink)
            .is_some_and(|port| {
                port["live"] == false
                    && port["message"]
                        .as_str()
                        .is_some_and(|m| m.contains("eth0 has an XDP program already"))
            })
    });
    let problems = lab.status("node-a")["problems"].to_string();
    assert!(problems.contains("port uplink is not live"), "{problems}");
    // What needs no uplink goes on.
    lab.run("default/client", "ping -n -c 1 -W 5 10.244.1.11");
    drop(foreign);
    wait_ready(&lab, "node-a");
    lab.run("default/client", "ping -n -c 1 -W 10 10.244.2.11");
    lab.assert_conservation();
}

#[test]
fn control_refuses_bad_nodes_files_and_objects() {
    let Some(control) = program_as_root("ringway-control") else {
        return;
    };
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-nodes");
    let folder = tempfile::tempdir().unwrap();
    let run = |node: &str, state: &Path, words: &[&str]| {
        let mut command = Command::new(&control);
        command.args(["--node", node]).arg("--state").arg(state);
        command.arg("--fastpath-socket").arg(folder.path().join("f.sock"));
        refused(command, 2, words);
    };
    run("node-z", &example, &["node-z", "node-a, node-b"]);
    run("node-a", Path::new("/no/such/state"), &["/no/such/state"]);
    let file = folder.path().join("bad.yaml");
    fs::write(&file, "kind: Node\nmetadata: [\n").unwrap();
    run("node-a", &file, &["bad.yaml:2:"]);
    fs::write(&file, "not a mapping at all\n").unwrap();
    run("node-a", &file, &["bad.yaml:1:"]);
    let pods = fs::read_to_string(example.join("10-pods.yaml")).unwrap();
    let line = 1 + pods
        .lines()
        .position(|line| line.contains("podIP: 10.244.1.10"))
        .unwrap();
    let whole = folder.path().join("state");
    fs::create_dir(&whole).unwrap();
    for name in ["00-nodes.yaml", "20-service.yaml", "30-policies.yaml"] {
        fs::copy(example.join(name), whole.join(name)).unwrap();
    }
    fs::write(
        whole.join("10-pods.yaml"),
        pods.replace("podIP: 10.244.1.10", "podIP: 10.244.1.300"),
    )
    .unwrap();
    run(
        "node-a",
        &whole,
        &[
            &format!("10-pods.yaml:{line}:"),
            "Pod default/client",
            "10.244.1.300",
        ],
    );
}

#[test]
fn a_lab_refuses_unknown_names_and_needs_root() {
    let Some(ringway) = program_as_root("ringway") else {
        return;
    };
    for arguments in [["lab", "down"], ["lab", "status"]] {
        let mut command = Command::new(&ringway);
        command.args(arguments).args(["--name", "no-such-lab"]);
        refused(command, 1, &["no lab named no-such-lab"]);
    }
    let mut command = Command::new(&ringway);
    command.args(["lab", "exec", "--name", "no-such-lab", "x", "--", "true"]);
    refused(command, 1, &["no lab named no-such-lab"]);
    let mut command = Command::new(&ringway);
    command.args(["lab", "up", "--state", "/no/such/state", "--name", "never"]);
    refused(command, 2, &["/no/such/state"]);
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    fs::create_dir(&state).unwrap();
    let copy = folder.path().join("ringway");
    fs::copy(&ringway, &copy).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/two-nodes");
    for entry in fs::read_dir(example).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, state.join(path.file_name().unwrap())).unwrap();
        }
    }
    Command::new("chmod")
        .arg("755")
        .args([&copy, folder.path()])
        .status()
        .unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy);
    command
        .args(["lab", "up", "--name", "never", "--state"])
        .arg(&state);
    refused(command, 1, &["needs root"]);
}
