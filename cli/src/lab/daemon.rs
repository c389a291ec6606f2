//! `ringway-fastpath` and `ringway-control` on each node of the lab.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use fastpath::status::{Answer, Question, Status, ask};
use nix::mount::{MsFlags, mount};

use super::network::ETH0;
use super::plan::{Node, Plan, directory};
use super::process::{Process, wait_for};
use super::record::{Made, Record};

/// How long the daemons of the lab may take until every port is live.
const READY_PATIENCE: Duration = Duration::from_secs(20);
/// Connections of each node in each family: a lab is small.
const CONNECTIONS: u32 = 65_536;
/// Longest path of a Unix socket, less the final zero.
const SOCKET_PATH_MAX: usize = 107;
/// How much of a log is shown when its daemon failed.
const LOG_LINES_SHOWN: usize = 12;

/// The daemons' programs.
#[derive(Debug)]
pub(crate) struct Programs {
    fastpath: PathBuf,
    control: PathBuf,
}

impl Programs {
    /// The programs that were built or installed together with this one.
    pub(crate) fn beside_this_one() -> Result<Self> {
        let own = std::env::current_exe().context("finding this program")?;
        let directory = own.parent().context("this program is in a directory")?;
        let find = |name: &str| {
            let path = directory.join(name);
            if !path.is_file() {
                bail!(
                    "no {name} in {}: `cargo build --workspace --bins` makes it",
                    directory.display()
                );
            }
            Ok(path)
        };
        Ok(Self {
            fastpath: find("ringway-fastpath")?,
            control: find("ringway-control")?,
        })
    }
}

/// Where a node's daemons keep what they need.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) directory: PathBuf,
    pub(crate) fastpath_socket: PathBuf,
    pub(crate) status_socket: PathBuf,
    pub(crate) configuration: PathBuf,
    pub(crate) bpffs: PathBuf,
    pub(crate) flow_tables: PathBuf,
    pub(crate) fastpath_log: PathBuf,
    pub(crate) control_log: PathBuf,
    control_status_socket: PathBuf,
}

impl Files {
    pub(crate) fn of(plan: &Plan, node: &Node) -> Self {
        let directory = directory(&plan.name).join(&node.name);
        Self {
            fastpath_socket: directory.join("fastpath.sock"),
            status_socket: directory.join("status.sock"),
            configuration: directory.join("fastpath.toml"),
            bpffs: directory.join("bpf"),
            flow_tables: directory.join("flows"),
            fastpath_log: directory.join("fastpath.log"),
            control_log: directory.join("control.log"),
            control_status_socket: directory.join("control.sock"),
            directory,
        }
    }
}

/// Starts both daemons on every node that runs Ringway and waits until every port is live.
pub(crate) fn start(record: &mut Record, programs: &Programs) -> Result<()> {
    let plan = record.plan.clone();
    let mut started = Vec::new();
    for (number, node) in plan.ringway_nodes().enumerate() {
        let files = Files::of(&plan, node);
        prepare(record, node, &files)?;
        fs::write(&files.configuration, configuration(&plan, number, node, &files)?)?;
        let netns = plan.node_netns(node);

        let name = format!("{}/ringway-fastpath", node.name);
        let arguments = [OsStr::new("--config"), files.configuration.as_os_str()];
        let fastpath = Process::start(name, &netns, &programs.fastpath, &arguments, &files.fastpath_log)?;
        record.note(&Made::Process(fastpath.clone()))?;

        let name = format!("{}/ringway-control", node.name);
        let mut arguments = vec![OsStr::new("--node"), OsStr::new(&node.name)];
        for state in &plan.state {
            arguments.extend([OsStr::new("--state"), state.as_os_str()]);
        }
        arguments.extend([OsStr::new("--fastpath-socket"), files.fastpath_socket.as_os_str()]);
        arguments.extend([
            OsStr::new("--status-socket"),
            files.control_status_socket.as_os_str(),
        ]);
        arguments.extend([OsStr::new("--run-dir"), files.directory.as_os_str()]);
        arguments.extend([OsStr::new("--uplink"), OsStr::new(ETH0)]);
        let control = Process::start(name, &netns, &programs.control, &arguments, &files.control_log)?;
        record.note(&Made::Process(control.clone()))?;
        started.push((files, fastpath, control));
    }
    for (node, (files, fastpath, control)) in plan.ringway_nodes().zip(&started) {
        ready(node, files, fastpath, control)?;
    }
    Ok(())
}

fn prepare(record: &mut Record, node: &Node, files: &Files) -> Result<()> {
    if files.fastpath_socket.as_os_str().len() > SOCKET_PATH_MAX {
        bail!(
            "the sockets of node {} would have too long a path; give the lab a shorter --name",
            node.name
        );
    }
    fs::create_dir(&files.directory).with_context(|| format!("creating {}", files.directory.display()))?;
    fs::create_dir(&files.bpffs)?;
    record.note(&Made::Mount(files.bpffs.clone()))?;
    mount(
        Some("bpf"),
        &files.bpffs,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting bpffs on {}", files.bpffs.display()))
}

/// The configuration of the fastpath on `node`, the lab's number `number`: nodes share the CPUs in turn.
fn configuration(plan: &Plan, number: usize, node: &Node, files: &Files) -> Result<String> {
    let processors = available_parallelism().map_or(1, usize::from);
    let workers = plan.workers as usize;
    let processors: Vec<String> = (0..workers)
        .map(|worker| ((number * workers + worker) % processors).to_string())
        .collect();

    Ok(format!(
        "[node]\nname = {}\n\n\
         [sockets]\nfastpath = {}\nstatus = {}\n\n\
         [ports]\nuplinks = [\"{ETH0}\"]\nhost_queues = {}\n\n\
         [workers]\ncount = {workers}\ncpus = [{}]\n\n\
         [bpf]\nbpffs = {}\n\n\
         [flow_table]\ndirectory = {}\nconnections_v4 = {CONNECTIONS}\nconnections_v6 = {CONNECTIONS}\n",
        quoted(Path::new(&node.name))?,
        quoted(&files.fastpath_socket)?,
        quoted(&files.status_socket)?,
        plan.queues,
        processors.join(", "),
        quoted(&files.bpffs)?,
        quoted(&files.flow_tables)?,
    ))
}

/// A TOML string. Paths and names of a lab hold nothing that JSON would escape otherwise.
fn quoted(path: &Path) -> Result<String> {
    Ok(serde_json::to_string(
        path.to_str().context("a path of the lab is UTF-8")?,
    )?)
}

/// Waits until the node's fastpath has a state and every port of it is live, or says what is missing: a daemon that
/// ended and its last words, or the ports.
fn ready(node: &Node, files: &Files, fastpath: &Process, control: &Process) -> Result<()> {
    let mut ended = None;
    let mut missing = String::new();
    let live = wait_for(READY_PATIENCE, || {
        ended = [(fastpath, &files.fastpath_log), (control, &files.control_log)]
            .into_iter()
            .find(|(process, _)| !process.is_running());
        missing = match ask(&files.status_socket, &Question::Status) {
            Ok(Answer::Status(status)) => missing_of(node, &status),
            Ok(_) => "an answer to the question for its status".to_owned(),
            Err(error) => error.to_string(),
        };
        ended.is_some() || missing.is_empty()
    });
    if let Some((process, log)) = ended {
        bail!("{} ended; it said:\n{}", process.name, last_lines(log));
    }
    if !live {
        bail!(
            "node {} is not ready after {} s, missing: {missing}\n{} said:\n{}\n{} said:\n{}",
            node.name,
            READY_PATIENCE.as_secs(),
            fastpath.name,
            last_lines(&files.fastpath_log),
            control.name,
            last_lines(&files.control_log),
        );
    }
    Ok(())
}

/// What a node still lacks, in words; nothing when it is ready.
fn missing_of(node: &Node, status: &Status) -> String {
    if status.version == 0 {
        return "a desired state".to_owned();
    }
    let mut wanted = vec!["host".to_owned(), "uplink".to_owned()];
    wanted.extend(
        node.pods
            .iter()
            .map(|pod| format!("pod:{}/{}", pod.namespace, pod.name)),
    );
    let lacking =
        wanted
            .into_iter()
            .filter_map(|name| match status.ports.iter().find(|port| port.name == name) {
                None => Some(format!("port {name}")),
                Some(port) if !port.live => Some(format!("port {name} ({})", port.message)),
                Some(_) => None,
            });
    lacking.collect::<Vec<_>>().join(", ")
}

fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(LOG_LINES_SHOWN);
    lines.get(first..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use fastpath::status::PortRow;

    use super::*;
    use crate::lab::plan::{Dataplane, Pod};

    #[test]
    fn a_node_is_ready_when_every_port_is_live() {
        let pod = Pod {
            namespace: "default".into(),
            name: "web".into(),
            interface: "rw0".into(),
            addresses: Vec::new(),
            mac: [0; 6],
            mtu: 1450,
        };
        let node = Node {
            name: "a".into(),
            addresses: Vec::new(),
            mac: [0; 6],
            mtu: 1500,
            pod_blocks: Vec::new(),
            vxlan_macs: [[0; 6]; 2],
            dataplane: Dataplane::Ringway,
            tunnel_addresses: [None; 2],
            pods: vec![pod],
        };
        let port = |name: &str, live| PortRow {
            name: name.into(),
            live,
            ..PortRow::default()
        };
        let mut status = Status::default();
        assert_eq!(missing_of(&node, &status), "a desired state");
        status.version = 1;
        status.ports = vec![port("host", true), port("pod:default/web", false)];
        assert_eq!(missing_of(&node, &status), "port uplink, port pod:default/web ()");
        status.ports = vec![
            port("host", true),
            port("pod:default/web", true),
            port("uplink", true),
        ];
        assert_eq!(missing_of(&node, &status), "");
    }
}
