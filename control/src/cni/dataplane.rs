//! What fastpath has in force, as far as it told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contract::proto;
use tokio::sync::watch;

use super::attachment::Attachment;
use super::failure::{Code, Failure};
use crate::push::{Desired, Report};
use crate::resolve::pod_port_name;
use crate::status;

/// What fastpath has in force.
#[derive(Clone, Debug, Default)]
pub struct Dataplane {
    /// Why there is no connection; empty when there is one.
    pub(super) trouble: String,
    pub(super) is_connected: bool,
    /// The state that every worker uses.
    in_force: Option<Arc<Desired>>,
    /// Why the last one was refused, until one is in force.
    refused: Option<String>,
    /// Ports that fastpath told about: why not live, or nothing.
    ports: BTreeMap<String, Option<String>>,
}

/// How far a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Every worker has it, and packets flow.
    Live,
    /// Not yet, for this reason.
    Waiting(String),
    /// It will not come by itself.
    Failed(Failure),
}

impl Dataplane {
    /// Takes in what happened.
    pub fn record(&mut self, report: &Report) {
        match report {
            Report::Connected { .. } => {
                *self = Self {
                    is_connected: true,
                    ..Self::default()
                };
            }
            Report::Disconnected { reason } => {
                *self = Self {
                    trouble: reason.clone(),
                    ..Self::default()
                };
            }
            Report::Applied(_, state) => {
                self.in_force = Some(Arc::clone(state));
                self.refused = None;
            }
            Report::Refused(refused) => self.refused = Some(status::refusal(refused)),
            Report::Port(event) => {
                let trouble = (!event.live).then(|| event.message.clone());
                self.ports.insert(event.port.clone(), trouble);
            }
            Report::Resync { .. } => {}
        }
    }

    /// Forgets what was said of a port: its interface is about to be another one.
    pub(super) fn forget(&mut self, pod_port: &str) {
        self.ports.remove(pod_port);
    }

    /// Why no ADD can be served, if so.
    pub(super) fn shortage(&self) -> Option<Failure> {
        let unavailable =
            |code, details: String| Some(Failure::new(code, "ringway-fastpath is not ready", details));
        if !self.is_connected {
            let trouble = if self.trouble.is_empty() {
                "not connected yet"
            } else {
                &self.trouble
            };
            return unavailable(
                Code::LimitedConnectivity,
                format!("no connection to it: {trouble}"),
            );
        }
        if self.in_force.is_none() {
            let refused = self.refused.as_deref().unwrap_or("none was applied yet");
            return unavailable(Code::NotAvailable, format!("it has no desired state: {refused}"));
        }
        None
    }

    /// How far the port of `attachment` is.
    pub(super) fn progress(&self, attachment: &Attachment) -> Progress {
        let Some(state) = &self.in_force else {
            return Progress::Waiting(
                self.shortage()
                    .map_or_else(String::new, |failure| failure.details),
            );
        };
        let name = pod_port_name(&attachment.pod());
        if !port_of(state, &name).is_some_and(|port| is_that_of(port, attachment)) {
            return match &self.refused {
                Some(refused) => Progress::Failed(Failure::new(
                    Code::TryAgainLater,
                    "ringway-fastpath refused the state with this pod",
                    refused.clone(),
                )),
                None => Progress::Waiting(format!("fastpath has no port {name} yet")),
            };
        }
        match self.ports.get(&name) {
            Some(None) => Progress::Live,
            Some(Some(trouble)) => Progress::Waiting(format!("port {name} is not live: {trouble}")),
            None => Progress::Waiting(format!("port {name} is not live yet")),
        }
    }

    /// Whether no packet gets to or from the pod any more: no worker has its port, or its interface is gone. (A pod of the
    /// manifests has a port whether it has an interface or not.)
    pub(super) fn is_cut_off(&self, attachment: &Attachment) -> bool {
        self.is_without(attachment) || self.progress(attachment) != Progress::Live
    }

    /// Whether no worker has the port of `attachment`.
    fn is_without(&self, attachment: &Attachment) -> bool {
        let name = pod_port_name(&attachment.pod());
        self.in_force
            .as_ref()
            .is_none_or(|state| !port_of(state, &name).is_some_and(|port| is_that_of(port, attachment)))
    }
}

/// A state's ports are in the order of their names.
fn port_of<'a>(state: &'a Desired, name: &str) -> Option<&'a proto::Port> {
    let ports = state.ports();
    let at = ports.binary_search_by(|port| port.name.as_str().cmp(name)).ok()?;
    ports.get(at)
}

fn is_that_of(port: &proto::Port, attachment: &Attachment) -> bool {
    let mut addresses: Vec<Vec<u8>> = port.addresses.clone();
    let mut expected: Vec<Vec<u8>> = attachment.addresses.iter().map(|a| encode(*a)).collect();
    addresses.sort_unstable();
    expected.sort_unstable();
    port.interface == attachment.interface && port.mac == attachment.mac && addresses == expected
}

fn encode(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// How long it took until workers had a port.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timing {
    /// Until every worker had the state with it.
    pub(super) in_force: Duration,
    /// From then until its sockets were open.
    pub(super) live: Duration,
}

/// Waits until every worker has the port and it is live.
///
/// # Errors
/// Code 11 when that does not come within `patience`; what was missing is in the details.
pub(super) async fn wait_live(
    mut dataplane: watch::Receiver<Dataplane>,
    attachment: &Attachment,
    patience: Duration,
) -> Result<Timing, Failure> {
    let begun = Instant::now();
    let mut timing = Timing::default();
    let mut missing = String::new();
    let verdict = tokio::time::timeout(patience, async {
        loop {
            let progress = {
                let now = dataplane.borrow_and_update();
                if timing.in_force.is_zero() && now.in_force.is_some() && !now.is_without(attachment) {
                    timing.in_force = begun.elapsed();
                }
                now.progress(attachment)
            };
            match progress {
                Progress::Live => {
                    timing.live = begun.elapsed().saturating_sub(timing.in_force);
                    return Ok(timing);
                }
                Progress::Failed(failure) => return Err(failure),
                Progress::Waiting(what) => missing = what,
            }
            if dataplane.changed().await.is_err() {
                return Err(Failure::new(Code::TryAgainLater, "ringway-control stops", ""));
            }
        }
    });
    match verdict.await {
        Ok(result) => result,
        Err(_) => Err(Failure::new(
            Code::TryAgainLater,
            "ringway-fastpath does not have the pod's port yet",
            format!("{missing}, {} s after it was asked to", patience.as_secs()),
        )),
    }
}
