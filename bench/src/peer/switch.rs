//! Switch: Open vSwitch with DPDK, its two daemons private to a run: own folder, own database, own network namespace.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use machine::HugePages;

use super::process::{Folder, Process, find, mortal, switches, wait_for};
use crate::live::machine::succeed;

/// Debian's package.
pub(crate) const PACKAGE: &str = "openvswitch-switch-dpdk";
const VSWITCHD: &str = "ovs-vswitchd-dpdk";
/// Where the package has it.
const VSWITCHD_FOLDER: &str = "/usr/lib/openvswitch-switch-dpdk";

/// The programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    vswitchd: PathBuf,
    server: PathBuf,
    tool: PathBuf,
    vsctl: PathBuf,
    ofctl: PathBuf,
    appctl: PathBuf,
    schema: PathBuf,
}

impl Programs {
    /// Finds them, or says what is missing and what to install.
    pub(crate) fn find() -> std::result::Result<Self, String> {
        let find = |name: &str| {
            find(name, &[VSWITCHD_FOLDER]).ok_or_else(|| format!("no {name}: Debian package {PACKAGE}"))
        };
        let tool = find("ovsdb-tool")?;
        let near = tool.parent().and_then(Path::parent);
        let schema = near
            .map(|prefix| prefix.join("share/openvswitch/vswitch.ovsschema"))
            .filter(|file| file.is_file())
            .ok_or("no vswitch.ovsschema beside ovsdb-tool")?;
        Ok(Self {
            vswitchd: find(VSWITCHD)?,
            server: find("ovsdb-server")?,
            vsctl: find("ovs-vsctl")?,
            ofctl: find("ovs-ofctl")?,
            appctl: find("ovs-appctl")?,
            tool,
            schema,
        })
    }
}

/// A running switch. Fields are dropped in order: daemons, folder, pages.
#[derive(Debug)]
pub(crate) struct Switch {
    daemon: Process,
    _database: Process,
    folder: Folder,
    programs: Programs,
    _pages: HugePages,
}

/// What the thread that forwards counted since it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counted {
    pub(crate) received: u64,
    pub(crate) cycles: u64,
}

impl Switch {
    /// Starts both daemons; packets are forwarded on `cpu`.
    pub(crate) fn up(programs: Programs, cpu: usize) -> Result<Self> {
        let pages = HugePages::reserve(MEMORY_MIB / 2 + 16).context("huge pages for OVS")?;
        let folder = Folder::new("ovs")?;
        succeed(
            Command::new(&programs.tool)
                .arg("create")
                .arg(folder.file("conf.db"))
                .arg(&programs.schema),
        )?;
        let private = |command: &mut Command| {
            for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"] {
                command.env(variable, folder.path());
            }
            command
                .current_dir(folder.path())
                .args(["--no-chdir", "-vconsole:off", "--log-file=log"]);
        };
        let mut server = mortal(&programs.server);
        private(server.args(["conf.db", "--remote=punix:db", "--unixctl=server"]));
        let mut database = Process::start(&mut server)?;
        let socket = folder.file("db");
        wait_for("the database's socket", || {
            ensure!(!database.has_ended(), "ovsdb-server ended by itself");
            Ok(socket.exists().then_some(()))
        })?;
        // Bridges have an interface of the kernel's each: in a namespace of its own nobody else sees it.
        let mut daemon = mortal(Path::new("unshare"));
        daemon.arg("--net").arg(&programs.vswitchd);
        private(daemon.args(["unix:db", "--unixctl=control"]));
        let vsctl = |words: &[&str]| vsctl(&programs, &folder, words);
        vsctl(&["--no-wait", "init"])?;
        let config = [
            "other_config:dpdk-init=true".to_owned(),
            format!(
                "other_config:dpdk-extra=--no-pci --in-memory --no-telemetry --file-prefix=bench{}",
                std::process::id()
            ),
            format!("other_config:dpdk-socket-mem={MEMORY_MIB}"),
            format!("other_config:pmd-cpu-mask={:#x}", 1u64 << cpu),
        ];
        let mut words = vec!["--no-wait", "set", "Open_vSwitch", "."];
        words.extend(config.iter().map(String::as_str));
        vsctl(&words)?;
        let daemon = Process::start(&mut daemon)?;
        let mut switch = Self {
            daemon,
            _database: database,
            folder,
            programs,
            _pages: pages,
        };
        wait_for("OVS with DPDK", || {
            let has_ended = switch.daemon.has_ended();
            ensure!(
                !has_ended,
                "{VSWITCHD} ended by itself; it said:\n{}",
                switch.log()
            );
            let said = switch.vsctl(&["--no-wait", "get", "Open_vSwitch", ".", "dpdk_initialized"]);
            Ok(said.is_ok_and(|said| said.trim() == "true").then_some(()))
        })?;
        Ok(switch)
    }

    /// Ends the daemons. Returns the folder.
    pub(crate) fn down(self) -> Folder {
        self.folder
    }

    /// A file in its folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// The warnings and errors that the daemons logged.
    pub(crate) fn log(&self) -> String {
        let text = fs::read_to_string(self.folder.file("log")).unwrap_or_default();
        let grave = |line: &&str| {
            ["|WARN|", "|ERR|", "|EMER|"]
                .iter()
                .any(|level| line.contains(level))
        };
        text.lines().filter(grave).collect::<Vec<_>>().join("\n")
    }

    /// Versions of the switch and of its DPDK.
    pub(crate) fn version(&self) -> Result<String> {
        let switch = self.appctl(&["version"])?;
        let of = |column: &str| -> Result<String> {
            let said = self.vsctl(&["get", "Open_vSwitch", ".", column])?;
            Ok(said.trim().trim_matches('"').to_owned())
        };
        let switch = switch.lines().next().unwrap_or_default();
        Ok(format!("{switch}, {}", of("dpdk_version")?))
    }

    /// Changes the configuration and waits until that is done.
    pub(crate) fn vsctl(&self, words: &[&str]) -> Result<String> {
        vsctl(&self.programs, &self.folder, words)
    }

    /// Asks the daemon.
    pub(crate) fn appctl(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.programs.appctl);
        command.arg("-t").arg(self.folder.file("control")).args(words);
        Ok(String::from_utf8(succeed(&mut command)?.stdout)?)
    }

    /// A bridge of the userspace datapath, which drops what no flow says otherwise of.
    pub(crate) fn add_bridge(&self, name: &str, mac: &str) -> Result<()> {
        let mac = format!("other-config:hwaddr={mac}");
        let words = ["add-br", name, "--", "set", "bridge", name];
        self.vsctl(&[&words[..], &["datapath_type=netdev", "fail-mode=secure", &mac]].concat())?;
        Ok(())
    }

    /// A port of DPDK's at a bridge.
    pub(crate) fn add_port(&self, bridge: &str, name: &str, number: u16, device: &str) -> Result<()> {
        let device = format!("options:dpdk-devargs=\"{device}\"");
        let request = format!("ofport_request={number}");
        let words = [
            "add-port",
            bridge,
            name,
            "--",
            "set",
            "Interface",
            name,
            "type=dpdk",
        ];
        self.vsctl(&[&words[..], &[&device, &request]].concat())?;
        let error = self.vsctl(&["get", "Interface", name, "error"])?;
        ensure!(
            error.trim() == "[]",
            "port {name}, {device}: {}\n{}",
            error.trim(),
            self.log()
        );
        Ok(())
    }

    /// Takes a port away again.
    pub(crate) fn remove_port(&self, name: &str) -> Result<()> {
        self.vsctl(&["del-port", name]).map(drop)
    }

    /// Packets that left by a port, as of now: the database would know them five seconds later.
    pub(crate) fn sent(&self, bridge: &str, port: &str) -> Result<u64> {
        let said = succeed(self.of_bridge("dump-ports", bridge).arg(port))?;
        sent(&String::from_utf8(said.stdout)?).context("a port's statistics")
    }

    /// Gives flows or groups to a bridge: `what` is `add-flows` or `add-groups`.
    pub(crate) fn ofctl(&self, what: &str, bridge: &str, text: &str) -> Result<()> {
        let file = self.folder.file(what);
        fs::write(&file, text)?;
        succeed(self.of_bridge(what, bridge).arg(file)).map(drop)
    }

    fn of_bridge(&self, what: &str, bridge: &str) -> Command {
        let mut command = Command::new(&self.programs.ofctl);
        let socket = self.folder.file(&format!("{bridge}.mgmt"));
        command.args(["-O", "OpenFlow14", what]);
        command.arg(format!("unix:{}", socket.display()));
        command
    }

    /// Runs `ip` where its bridges' interfaces are.
    pub(crate) fn ip(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.daemon.id().to_string(), "ip"]);
        succeed(command.args(words)).map(drop)
    }

    /// What the thread that forwards counted.
    pub(crate) fn counted(&self) -> Result<Counted> {
        // Not by `ovs-appctl`: a process takes longer than what is to be measured.
        let mut stream = UnixStream::connect(self.folder.file("control")).context("OVS's control socket")?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.write_all(br#"{"id":0,"method":"dpif-netdev/pmd-stats-show","params":[]}"#)?;
        let answer = serde_json::Deserializer::from_reader(stream)
            .into_iter::<serde_json::Value>()
            .next();
        let answer = answer.context("OVS's answer")??;
        let text = answer["result"].as_str();
        text.and_then(counted)
            .with_context(|| format!("OVS's statistics: {answer}"))
    }

    /// Times that the thread that forwards had to give its CPU up.
    pub(crate) fn switches(&self) -> Result<u64> {
        switches(self.daemon.id(), "pmd-c")
    }
}

fn vsctl(programs: &Programs, folder: &Folder, words: &[&str]) -> Result<String> {
    let mut command = Command::new(&programs.vsctl);
    command.arg(format!("--db=unix:{}", folder.file("db").display()));
    command.arg("--timeout=60").args(words);
    Ok(String::from_utf8(succeed(&mut command)?.stdout)?)
}

/// The figures of the only thread that forwards.
fn counted(text: &str) -> Option<Counted> {
    let (_, pmd) = text.split_once("pmd thread")?;
    let pmd = pmd.split("main thread").next()?;
    let field = |name: &str| -> Option<u64> {
        let line = pmd
            .lines()
            .find_map(|line| line.trim_start().strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    Some(Counted {
        received: field("packets received:")?,
        cycles: field("processing cycles:")?,
    })
}

/// What `dump-ports` says of one port.
fn sent(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("tx pkts=")?;
    rest.split(',').next()?.trim().parse().ok()
}

/// Its packet buffers: 262,144 of them, whatever is asked for, and some for itself.
const MEMORY_MIB: u64 = 1000;
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarding_threads_figures_are_read() {
        let text = "\
pmd thread numa_id 0 core_id 1:
  packets received: 3195264
  avg. packets per output batch: 32.00
  idle cycles: 0 (0.00%)
  processing cycles: 3005582138 (100.00%)
  avg processing cycles per packet: 940.64 (3005582138/3195264)
main thread:
  packets received: 7
";
        let counted = counted(text).unwrap();
        assert_eq!((counted.received, counted.cycles), (3_195_264, 3_005_582_138));
        let text = "  port  out: rx pkts=1, bytes=0\n           tx pkts=720, bytes=0, drop=0\n";
        assert_eq!(sent(text), Some(720));
        assert!(super::counted("main thread:\n  packets received: 7\n").is_none());
    }
}
