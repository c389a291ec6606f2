//! `ringway-fastpath`: the threads around the workers.
//!
//! The config thread does everything that is not packets: it mirrors the kernel's links, routes and neighbours, takes
//! desired state from control, compiles and publishes, opens and closes ports, tells XDP what is ours and answers questions
//! (threads of the status socket talk with who asks).
//! It sleeps in one poll(2) over all of these.

mod answers;
pub mod config;
mod control;
mod desired;
mod facts;
mod numbers;
mod ports;
mod privileges;
mod status_socket;
mod steering;
mod tables;
mod workers;

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use contract::proto::{PortEvent, from_fastpath::Body};

use crate::compile;
use crate::io::poll;
use crate::netlink::host_port::{HostPort, HostPortError};
use crate::netlink::mirror::PortInterfaces;
use crate::netlink::socket::{EventSocket, Events};
use crate::netlink::{Mirror, NetlinkError, reserved_ports};
use crate::shared::Shared;
use config::{Config, ConfigError};
use control::ControlSocket;
use desired::Desired;
use numbers::NumberFile;
use ports::Ports;
use status_socket::StatusSocket;
use steering::Neighbours;
use tables::{Tables, TablesError};
use workers::{WorkerThread, WorkersError};

/// Name and version of this program, for logs and the other side.
const SOFTWARE: &str = concat!("ringway-fastpath ", env!("CARGO_PKG_VERSION"));

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The operator's file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No root, or too few capabilities.
    #[error(
        "this process may not open AF_XDP sockets and load XDP programs: start it as root, or give it {0}"
    )]
    NotPermitted(String),
    /// An uplink that is not there.
    #[error("[ports] uplinks: there is no interface {0} in this network namespace")]
    NoUplink(String),
    /// An uplink whose packets no frame of ours can hold, `lo` for instance.
    #[error(
        "[ports] uplinks: the MTU of {interface} is {mtu}, expected at most {MTU_MAX}, the longest IP packet"
    )]
    UplinkMtu {
        /// The interface.
        interface: String,
        /// Bytes of IP packet.
        mtu: u32,
    },
    /// Flow tables.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// Worker threads.
    #[error(transparent)]
    Workers(#[from] WorkersError),
    /// The kernel's tables.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The host port.
    #[error(transparent)]
    HostPort(#[from] HostPortError),
    /// A socket of ours.
    #[error("{path}: {source}")]
    Socket {
        /// Which.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The longest sleep of the config thread: what it does by time is no finer.
const IDLE: Duration = Duration::from_millis(500);
/// Between two attempts at ports that can't be opened.
const RETRY: Duration = Duration::from_secs(1);
/// Its sleep while a snapshot is on its way to the workers.
const SETTLING: Duration = Duration::from_millis(1);
/// How long the config thread looks at the workers before it does something else meanwhile: longer than their batches.
const SETTLE_MAX: Duration = Duration::from_micros(200);
/// The longest IP packet, RFC 791 section 3.1; no veth takes more either.
const MTU_MAX: u32 = 65_535;
/// MTU of the host port when no uplink says another.
const MTU_DEFAULT: u32 = 1500;

/// The config thread's state.
struct Daemon {
    started: Instant,
    mirror: Mirror,
    events: EventSocket,
    host_port: Option<HostPort>,
    shared: Arc<Shared>,
    tables: Tables,
    workers: Vec<WorkerThread>,
    ports: Ports,
    desired: Desired,
    control: ControlSocket,
    status: StatusSocket,
    steered: steering::Steered,
    neighbours: Neighbours,
    retried: Instant,
    /// Source ports that the kernel was told to leave to us.
    reserved: Option<(u16, u16)>,
    next_hops_refused: usize,
}

/// Runs until `stop`. Interfaces, connections and the uplinks' programs stay for the next process.
pub fn run(config: &Config, stop: &AtomicBool) -> Result<(), DaemonError> {
    let workers_stop = Arc::new(AtomicBool::new(false));
    let mut daemon = Daemon::start(config, &workers_stop)?;
    tracing::info!(
        workers = daemon.workers.len(),
        "ready for control at {}",
        config.sockets.fastpath.display()
    );
    let outcome = daemon.serve(stop);
    workers::stop(std::mem::take(&mut daemon.workers), &workers_stop);
    outcome
}

impl Daemon {
    fn start(config: &Config, workers_stop: &Arc<AtomicBool>) -> Result<Self, DaemonError> {
        let missing = privileges::missing();
        if !missing.is_empty() {
            return Err(DaemonError::NotPermitted(missing.join(", ")));
        }
        let events = EventSocket::open()?;
        let mut interfaces = PortInterfaces {
            uplinks: config.ports.uplinks.clone(),
            host: None,
        };
        let first_look = Mirror::open(interfaces.clone())?;
        if let Some(missing) = config
            .ports
            .uplinks
            .iter()
            .find(|name| first_look.link(name).is_none())
        {
            return Err(DaemonError::NoUplink(missing.clone()));
        }
        let uplinks = config.ports.uplinks.iter();
        if let Some(link) = uplinks
            .filter_map(|name| first_look.link(name))
            .find(|link| link.mtu > MTU_MAX)
        {
            return Err(DaemonError::UplinkMtu {
                interface: link.name.clone(),
                mtu: link.mtu,
            });
        }
        let host_port = if config.ports.host_interface.is_empty() {
            None
        } else {
            let mtus = config
                .ports
                .uplinks
                .iter()
                .filter_map(|name| first_look.link(name))
                .map(|link| link.mtu);
            let port = HostPort::open(
                &config.ports.host_interface,
                &config.ports.host_peer,
                config.ports.host_queues.max(config.workers.count as u32),
                mtus.min().unwrap_or(MTU_DEFAULT),
            )?;
            interfaces.host = Some((
                config.ports.host_peer.clone(),
                config.ports.host_interface.clone(),
            ));
            Some(port)
        };
        drop(first_look);
        let mirror = Mirror::open(interfaces)?;
        let tables = Tables::open(&config.flow_table, config.workers.count)?;
        let shared = Shared::over(
            Arc::clone(&tables.v4),
            Arc::clone(&tables.v6),
            Arc::clone(&tables.quiescence),
            Arc::new(compile::empty()),
        );
        // Whatever the process before decided is decided again, by the state that control will send.
        shared.generations().bump_all();
        let control = ControlSocket::listen(&config.sockets.fastpath)
            .map_err(|e| socket_error(&config.sockets.fastpath, e))?;
        let status = StatusSocket::listen(&config.sockets.status)
            .map_err(|e| socket_error(&config.sockets.status, e))?;
        let workers = workers::start(config, &shared, workers_stop)?;
        workers::stay_beside(&workers);
        let underlay = mirror.underlay();
        Ok(Self {
            started: Instant::now(),
            retried: Instant::now(),
            desired: Desired::new(
                Arc::clone(&shared),
                config.node.name.clone(),
                underlay,
                NumberFile::open(&config.flow_table.directory),
            ),
            ports: Ports::new(config),
            steered: steering::Steered::new(config.workers.count),
            neighbours: Neighbours::default(),
            reserved: None,
            next_hops_refused: 0,
            mirror,
            events,
            host_port,
            shared,
            tables,
            workers,
            control,
            status,
        })
    }

    fn serve(&mut self, stop: &AtomicBool) -> Result<(), DaemonError> {
        // Relaxed: a signal handler sets it and has nothing to show.
        while !stop.load(Ordering::Relaxed) {
            self.sleep();
            let events = self.events.drain()?;
            if events.any() {
                self.follow_kernel(events)?;
            }
            for message in self.control.receive(self.desired.version()) {
                match self.desired.take(message, &self.workers) {
                    Some(answer) => self.control.send(answer),
                    None => self.follow_desired(),
                }
            }
            self.resolve_wanted();
            self.retry_ports();
            self.settle();
            self.status.answer(|question| self.answer(question));
        }
        Ok(())
    }

    fn sleep(&self) {
        let timeout = if self.desired.is_settling() {
            SETTLING
        } else {
            IDLE
        };
        let fds: Vec<BorrowedFd<'_>> = [
            self.events.as_fd(),
            self.status.as_fd(),
            self.shared.wanted_waker().as_fd(),
        ]
        .into_iter()
        .chain(self.control.fds())
        .collect();
        if let Err(error) = poll::readable(&fds, timeout) {
            tracing::error!(%error, "poll");
            std::thread::sleep(SETTLING);
        }
    }

    /// Gives the workers a moment to take what was published, and acknowledges what all of them use.
    fn settle(&mut self) {
        let begun = Instant::now();
        loop {
            for answer in self.desired.settle() {
                self.control.send(answer);
            }
            if !self.desired.is_settling() || begun.elapsed() >= SETTLE_MAX {
                return;
            }
            std::thread::yield_now();
        }
    }

    /// Links, routes or neighbours have changed.
    fn follow_kernel(&mut self, events: Events) -> Result<(), DaemonError> {
        if events.overflow {
            tracing::warn!("the kernel dropped netlink events; everything is read again");
        }
        self.mirror.refresh(events)?;
        self.desired.set_underlay(self.mirror.underlay(), &self.workers);
        if events.links {
            self.reconcile_ports();
        }
        if events.addresses || events.links {
            self.reconcile_host();
        }
        self.manage_neighbours();
        Ok(())
    }

    /// The desired state has changed.
    fn follow_desired(&mut self) {
        // Opening a port takes longer than workers need to take the snapshot: acknowledge first.
        self.settle();
        if !self.desired.facts.take_changed() {
            return;
        }
        self.reserve_ports();
        self.reconcile_host();
        self.reconcile_ports();
        self.manage_neighbours();
    }

    fn reconcile_ports(&mut self) {
        let snapshot = Arc::clone(self.desired.current());
        for change in self.ports.reconcile(&snapshot, &self.mirror, &self.workers) {
            self.control.send(Body::PortEvent(PortEvent {
                port: change.name.to_string(),
                live: change.live,
                message: change.message,
            }));
        }
        if !self.steered.reconcile(&self.desired.facts, self.ports.steers()) {
            self.desired.facts.touch();
        }
    }

    /// Ports that could not be opened: what stood in the way may go without a notice of the kernel's, as somebody else's
    /// XDP program does.
    fn retry_ports(&mut self) {
        if self.ports.is_waiting() && self.retried.elapsed() >= RETRY {
            self.retried = Instant::now();
            self.reconcile_ports();
        }
    }

    /// Before XDP takes what comes to them for ours.
    fn reserve_ports(&mut self) {
        let wanted = self.desired.facts.node().map(|node| node.snat_ports);
        let Some((first, last)) = wanted.filter(|_| wanted != self.reserved) else {
            return;
        };
        match reserved_ports::reserve(&(first..=last)) {
            Ok(_) => self.reserved = wanted,
            Err(error) => {
                tracing::warn!(%error, "source ports of masquerade");
                self.desired.facts.touch();
            }
        }
    }

    /// What the kernel routes to us.
    fn reconcile_host(&mut self) {
        let Some(host_port) = &mut self.host_port else {
            return;
        };
        let facts = &self.desired.facts;
        let refused = host_port.reconcile(&facts.tunnel_addresses(), &facts.host_routes());
        for error in &refused {
            tracing::warn!(%error, "the host port");
        }
        if !refused.is_empty() {
            self.desired.facts.touch();
        }
    }

    /// Next hops in use stay resolved by the kernel.
    fn manage_neighbours(&mut self) {
        let underlay = self.mirror.underlay();
        let wanted = self
            .neighbours
            .wanted(&underlay, self.desired.facts.peer_addresses());
        let refused = self.mirror.manage(wanted);
        // Told once, not with each packet that asks for one.
        if refused.len() > self.next_hops_refused {
            for error in &refused {
                tracing::warn!(%error, "next hops");
            }
        }
        self.next_hops_refused = refused.len();
        if !refused.is_empty() {
            self.desired.facts.touch();
        }
    }

    /// Packets wait for destinations on the uplinks' own subnets.
    fn resolve_wanted(&mut self) {
        let wanted: Vec<IpAddr> = self.shared.take_wanted();
        if self.neighbours.want(wanted) {
            self.manage_neighbours();
        }
    }
}

fn socket_error(path: &std::path::Path, source: io::Error) -> DaemonError {
    DaemonError::Socket {
        path: path.display().to_string(),
        source,
    }
}
