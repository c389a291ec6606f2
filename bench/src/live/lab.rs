//! A lab of `ringway lab`, taken down whatever happens.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use fastpath::io::netns::NetworkNamespace;
use fastpath::status::{Answer, Question, Status, ask};
use serde_json::Value;

use super::machine;

/// Start of the labs' names; the process id follows.
const PREFIX: &str = "bench-";

/// A cluster in namespaces.
#[derive(Debug)]
pub(crate) struct Lab {
    name: String,
    ringway: PathBuf,
    shape: Value,
    down: bool,
}

impl Lab {
    /// Brings up the nodes of `states`, forwarded by `dataplane` (`ringway`, `kernel`) for `contender`, a queue to every link.
    pub(crate) fn up(programs: &Path, contender: &str, dataplane: &str, states: &[&str]) -> Result<Self> {
        let mut lab = Self {
            name: format!("{PREFIX}{}-{contender}", std::process::id()),
            ringway: programs.join("ringway"),
            shape: Value::Null,
            down: false,
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("states");
        // All that forwards shares one CPU, whoever forwards: the lab spreads workers over the CPUs that it may use.
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", &machine::FORWARDER_CPU.to_string()])
            .arg(&lab.ringway);
        command.args([
            "lab",
            "up",
            "--name",
            &lab.name,
            "--dataplane",
            dataplane,
            "--queues",
            "1",
            "--workers",
            "1",
        ]);
        for state in states {
            command.arg("--state").arg(folder.join(state));
        }
        machine::succeed(&mut command)?;
        let shape = machine::succeed(lab.command("status").arg("--json"))?;
        lab.shape = serde_json::from_slice(&shape.stdout).context("`ringway lab status --json`")?;
        lab.silence()?;
        Ok(lab)
    }

    /// Packets are IPv4 and all of them are counted: nobody speaks of IPv6 neighbours and groups meanwhile.
    fn silence(&self) -> Result<()> {
        let places: Vec<String> = self.rows().map(|(place, _)| place).collect();
        for place in places {
            let switch = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
            let written = self.netns(&place)?.run(|| std::fs::write(switch, "1"))?;
            written.with_context(|| format!("writing {switch} in {place}"))?;
        }
        Ok(())
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.ringway);
        command.args(["lab", verb, "--name", &self.name]);
        command
    }

    /// A command on a node or in a pod (`namespace/name`), with the `/sys` of that place.
    pub(crate) fn exec(&self, place: &str, words: &[&str]) -> Command {
        let mut command = self.command("exec");
        command.args([place, "--"]).args(words);
        command
    }

    /// The namespace of a node or pod.
    pub(crate) fn netns(&self, place: &str) -> Result<NetworkNamespace> {
        let row = self
            .rows()
            .find(|(name, _)| name == place)
            .with_context(|| format!("the lab has {place}"))?;
        let path = Path::new("/run/netns").join(text(&row.1["netns"])?);
        NetworkNamespace::open(&path).with_context(|| format!("opening {}", path.display()))
    }

    /// The kernel's name of the node's end of a pod's link.
    pub(crate) fn interface(&self, pod: &str) -> Result<String> {
        let row = self.rows().find(|(name, _)| name == pod);
        let (_, row) = row.with_context(|| format!("the lab has {pod}"))?;
        Ok(text(&row["interface"])?.to_owned())
    }

    /// The fastpath of a node tells of itself.
    pub(crate) fn status(&self, node: &str) -> Result<Status> {
        let socket = Path::new("/run/ringway-lab")
            .join(&self.name)
            .join(node)
            .join("status.sock");
        match ask(&socket, &Question::Status) {
            Ok(Answer::Status(status)) => Ok(*status),
            Ok(_) => bail!("{} answered another question", socket.display()),
            Err(error) => Err(error).with_context(|| format!("asking {}", socket.display())),
        }
    }

    /// Names of the nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        let nodes = self.shape["nodes"].as_array().into_iter().flatten();
        nodes
            .filter_map(|node| node["name"].as_str().map(str::to_owned))
            .collect()
    }

    /// Every node and pod with what the lab says of it.
    fn rows(&self) -> impl Iterator<Item = (String, &Value)> {
        let nodes = self.shape["nodes"].as_array().into_iter().flatten();
        nodes.flat_map(|node| {
            let name = node["name"].as_str().unwrap_or_default().to_owned();
            let pods = node["pods"].as_array().into_iter().flatten();
            let pod_name = |pod: &Value| {
                let part = |key: &str| pod[key].as_str().unwrap_or_default().to_owned();
                format!("{}/{}", part("namespace"), part("name"))
            };
            std::iter::once((name, node)).chain(pods.map(move |pod| (pod_name(pod), pod)))
        })
    }

    /// Takes the lab down and makes sure that nothing of it is left.
    pub(crate) fn down(mut self) -> Result<()> {
        self.take_down()?;
        let prefix = format!("ringway-{}.", self.name);
        let left = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
        let left: Vec<String> = left
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.starts_with(&prefix))
            .collect();
        if !left.is_empty() {
            bail!("left behind: {}", left.join(", "));
        }
        Ok(())
    }

    fn take_down(&mut self) -> Result<()> {
        if std::mem::replace(&mut self.down, true) || !Path::new("/run/ringway-lab").join(&self.name).exists()
        {
            return Ok(());
        }
        machine::succeed(&mut self.command("down")).map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            eprintln!("bench: clean-up: {error:#}");
        }
    }
}

/// Takes down labs of runs that were killed.
pub(crate) fn remove_stale(programs: &Path) -> Result<()> {
    for entry in std::fs::read_dir("/run/ringway-lab")
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((pid, _)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            eprintln!("bench: removing lab {name}, left by a run that was killed");
            let mut command = Command::new(programs.join("ringway"));
            machine::succeed(command.args(["lab", "down", "--name", &name]))?;
        }
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().context("`ringway lab status` tells it")
}
