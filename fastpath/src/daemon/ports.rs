//! Ports: from what the snapshot wants and what interfaces there are to sockets in the hands of workers.
//!
//! An interface that is not there yet is waited for; one that goes and comes again is opened again. Nothing here blocks on
//! a worker: a port that a worker gives back is dropped when it comes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use crossbeam::channel::{Receiver, bounded};

use super::config::Config;
use super::workers::WorkerThread;
use crate::io::afxdp::{AfxdpOptions, AfxdpPort, Mode, QueueGroup, statistics};
use crate::io::bpf::{Heartbeats, PodProgram, Steer};
use crate::netlink::Mirror;
use crate::netlink::mirror::uplink_port;
use crate::port::PortId;
use crate::snapshot::{Port, PortKind, Snapshot};
use crate::status::PortRow;
use crate::worker::Command;

/// All ports.
pub(super) struct Ports {
    uplinks: Vec<String>,
    host_peer: String,
    bpffs: PathBuf,
    options: AfxdpOptions,
    live: BTreeMap<PortId, Live>,
    /// Why a wanted port is not live, by name.
    waiting: BTreeMap<Arc<str>, String>,
    leaving: Vec<Receiver<QueueGroup>>,
}

/// A port that workers poll.
struct Live {
    name: Arc<str>,
    interface: String,
    /// The kernel's index: another one under the same name is another interface.
    index: u32,
    mode: Mode,
    queues: usize,
    /// Of every queue, for statistics.
    sockets: Vec<OwnedFd>,
    program: Program,
}

enum Program {
    /// Redirects everything, and drops it while nobody takes it.
    All(PodProgram),
    /// Redirects what is ours.
    Steer(Box<Steer>),
}

/// What became of a port, for control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortChange {
    pub(super) name: Arc<str>,
    pub(super) live: bool,
    pub(super) message: String,
}

impl Ports {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            uplinks: config.ports.uplinks.clone(),
            host_peer: config.ports.host_peer.clone(),
            bpffs: config.bpf.bpffs.clone(),
            options: AfxdpOptions {
                rx_slots: config.memory.ring_entries,
                tx_slots: config.memory.ring_entries,
                ..AfxdpOptions::default()
            },
            live: BTreeMap::new(),
            waiting: BTreeMap::new(),
            leaving: Vec::new(),
        }
    }

    /// Opens what is wanted and can be had, closes what is not wanted or gone. Returns what changed.
    pub(super) fn reconcile(
        &mut self,
        snapshot: &Snapshot,
        mirror: &Mirror,
        workers: &[WorkerThread],
    ) -> Vec<PortChange> {
        let mut changes = Vec::new();
        let stale: Vec<PortId> = self
            .live
            .iter()
            .filter(|(id, live)| !self.is_current(**id, live, snapshot, mirror))
            .map(|(id, _)| *id)
            .collect();
        for id in stale {
            changes.extend(self.close(id, mirror, workers));
        }
        let mut waiting = BTreeMap::new();
        for port in snapshot.ports() {
            if self.live.contains_key(&port.id) {
                continue;
            }
            match self.open(port, mirror, workers) {
                Ok(live) => {
                    tracing::info!(port = %port.name, interface = live.interface, queues = live.queues, mode = ?live.mode, "port is live");
                    self.live.insert(port.id, live);
                    changes.push(PortChange {
                        name: Arc::clone(&port.name),
                        live: true,
                        message: String::new(),
                    });
                }
                Err(message) => {
                    if self.waiting.get(&port.name) != Some(&message) {
                        tracing::warn!(port = %port.name, message, "port is not live");
                        changes.push(PortChange {
                            name: Arc::clone(&port.name),
                            live: false,
                            message: message.clone(),
                        });
                    }
                    waiting.insert(Arc::clone(&port.name), message);
                }
            }
        }
        self.waiting = waiting;
        self.leaving
            .retain(|given_back| given_back.try_recv().is_err_and(|e| e.is_empty()));
        changes
    }

    /// Wanted, but not to be had so far.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// The steering programs of live uplinks.
    pub(super) fn steers(&self) -> impl Iterator<Item = &Steer> {
        self.live.values().filter_map(|live| match &live.program {
            Program::Steer(steer) => Some(&**steer),
            Program::All(_) => None,
        })
    }

    /// Rows for `status`, without traffic.
    pub(super) fn rows(&self, snapshot: &Snapshot) -> Vec<(PortId, PortRow)> {
        let row = |port: &Port| {
            let live = self.live.get(&port.id);
            let row = PortRow {
                name: port.name.to_string(),
                interface: self.interface(port).unwrap_or_default().to_owned(),
                live: live.is_some(),
                message: self.waiting.get(&port.name).cloned().unwrap_or_default(),
                modes: live
                    .map(|l| vec![mode_name(l.mode).to_owned()])
                    .unwrap_or_default(),
                mtu: u32::from(port.mtu),
                addresses: port.addresses.iter().map(ToString::to_string).collect(),
                kernel_lost: live.map_or(0, Live::kernel_lost),
                ..PortRow::default()
            };
            (port.id, row)
        };
        snapshot.ports().map(row).collect()
    }

    fn is_current(&self, id: PortId, live: &Live, snapshot: &Snapshot, mirror: &Mirror) -> bool {
        snapshot.port(id).is_some_and(|port| {
            port.name == live.name
                && self.interface(port) == Some(live.interface.as_str())
                && mirror
                    .link(&live.interface)
                    .is_some_and(|facts| facts.index == live.index)
        })
    }

    /// The interface of a port: the configuration knows uplinks and the host port, the state knows pods.
    fn interface<'a>(&'a self, port: &'a Port) -> Option<&'a str> {
        match port.kind {
            PortKind::Host => Some(self.host_peer.as_str()),
            PortKind::Uplink => {
                let configured = self
                    .uplinks
                    .iter()
                    .enumerate()
                    .find(|(at, _)| uplink_port(*at) == port.name);
                configured
                    .map(|(_, name)| name.as_str())
                    .or(Some(&port.interface))
            }
            PortKind::Pod => Some(&*port.interface),
        }
        .filter(|name| !name.is_empty())
    }

    fn open(&mut self, port: &Port, mirror: &Mirror, workers: &[WorkerThread]) -> Result<Live, String> {
        let interface = self
            .interface(port)
            .ok_or("no interface is configured for it")?
            .to_owned();
        let facts = mirror
            .link(&interface)
            .ok_or_else(|| format!("interface {interface} is not there yet"))?;
        if !facts.up {
            return Err(format!("interface {interface} is down"));
        }
        let queues = facts.queues as usize;
        if queues < workers.len() {
            return Err(format!(
                "interface {interface} has {queues} queues; {} workers need one each",
                workers.len()
            ));
        }
        let program = match port.kind {
            PortKind::Uplink => Program::Steer(Box::new(
                Steer::attach(&interface, &self.bpffs).map_err(|e| e.to_string())?,
            )),
            PortKind::Pod | PortKind::Host => {
                let program = PodProgram::attach_pinned(&interface, queues as u16, &self.bpffs);
                Program::All(program.map_err(|e| e.to_string())?)
            }
        };
        let mut groups: Vec<Vec<AfxdpPort>> = workers.iter().map(|_| Vec::new()).collect();
        let mut sockets = Vec::with_capacity(queues);
        for queue in 0..queues {
            let worker = queue % workers.len();
            let opened = AfxdpPort::open(&workers[worker].umem, &interface, queue as u16, self.options)
                .map_err(|e| e.to_string())?;
            sockets.push(opened.socket().try_clone_to_owned().map_err(|e| e.to_string())?);
            groups[worker].push(opened);
        }
        let mode = groups[0][0].mode();
        let groups: Vec<QueueGroup> = groups
            .into_iter()
            .map(QueueGroup::new)
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let heartbeats: Option<Heartbeats> = match &program {
            Program::Steer(steer) => Some(steer.heartbeats()),
            Program::All(_) => None,
        };
        for (worker, group) in workers.iter().zip(groups) {
            // A worker that is gone ends the process by itself.
            worker.handle.send(Command::AddPort(port.id, group));
            if let Some(heartbeats) = &heartbeats {
                worker.handle.send(Command::Beat(heartbeats.clone()));
            }
        }
        let live = Live {
            name: Arc::clone(&port.name),
            interface,
            index: facts.index,
            mode,
            queues,
            sockets,
            program,
        };
        // Only now may packets come: the workers poll.
        if let Err(message) = live.take_packets() {
            drop(live);
            self.take_back(port.id, workers);
            return Err(message);
        }
        Ok(live)
    }

    /// Has the workers close a port. Its sockets are to be closed here before: a socket lives while any descriptor of it is open,
    /// and a worker that has closed its own takes the chunks back that the kernel would still receive into.
    fn take_back(&mut self, id: PortId, workers: &[WorkerThread]) {
        for worker in workers {
            let (give, given_back) = bounded(1);
            worker.handle.send(Command::RemovePort(id, give));
            self.leaving.push(given_back);
        }
    }

    fn close(&mut self, id: PortId, mirror: &Mirror, workers: &[WorkerThread]) -> Option<PortChange> {
        let live = self.live.remove(&id)?;
        tracing::info!(port = %live.name, interface = live.interface, "port closes");
        drop(live.sockets);
        // A pod that is not wanted but still there reaches nothing: its program stays, without sockets.
        if mirror
            .link(&live.interface)
            .is_none_or(|facts| facts.index != live.index)
            && let Program::All(program) = live.program
            && let Err(error) = program.remove()
        {
            tracing::warn!(interface = live.interface, %error, "a pin stays behind");
        }
        self.take_back(id, workers);
        Some(PortChange {
            name: live.name,
            live: false,
            message: "it is not wanted any more, or its interface went".to_owned(),
        })
    }
}

impl Live {
    /// Enters the sockets in the program's XSKMAP.
    fn take_packets(&self) -> Result<(), String> {
        for (queue, socket) in self.sockets.iter().enumerate() {
            match &self.program {
                Program::Steer(steer) => steer.set_socket(queue as u16, socket.as_fd()),
                Program::All(all) => all.set_socket(queue as u16, socket.as_fd()),
            }
            .map_err(|e| {
                let interface = &self.interface;
                format!("{interface} queue {queue}: the socket can't be entered in the XSKMAP: {e}")
            })?;
        }
        Ok(())
    }

    fn kernel_lost(&self) -> u64 {
        self.sockets
            .iter()
            .filter_map(|s| statistics(s.as_fd()).ok())
            .map(|s| s.lost())
            .sum()
    }
}

fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Copy => "copy",
        Mode::ZeroCopy => "zero-copy",
    }
}
