//! Bringing states to fastpath: a client of the contract's socket that connects again whenever fastpath restarts.
//!
//! One version is on its way at a time. While it is, newer states replace each other, so a slow fastpath gets fewer,
//! larger deltas and never a queue. A version that is refused leaves the one before in force; the refused state is not
//! sent again on that connection, and the next one that differs is a delta from the version in force.

mod desired;
mod session;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use contract::proto;
use tokio::sync::{mpsc, watch};

pub use desired::Desired;

/// What happened on the way.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// Fastpath answered.
    Connected {
        /// Name and version of its software.
        software: String,
        /// The version that it has in force, 0 for none.
        applied_version: u64,
    },
    /// The connection is gone, or there is none yet. Told once until the next [`Report::Connected`].
    Disconnected {
        /// Why.
        reason: String,
    },
    /// A version is visible to every worker: this state, but for its version.
    Applied(proto::Applied, Arc<Desired>),
    /// A version was refused; the one before stays in force.
    Refused(proto::Refused),
    /// Fastpath asked for everything again.
    Resync {
        /// Why.
        reason: String,
    },
    /// A port became live, or cannot.
    Port(proto::PortEvent),
}

/// Brings the newest of `desired` to the socket until every sender of `desired` is gone.
///
/// Its versions are replaced by ones that grow over the lifetime of the fastpath process, whatever came before us.
pub async fn push(
    socket: PathBuf,
    mut desired: watch::Receiver<Arc<Desired>>,
    reports: mpsc::Sender<Report>,
) {
    let mut version = 0;
    let mut pause = PAUSE_MIN;
    let mut told = false;
    loop {
        let mut welcomed = false;
        let ended = session::run(&socket, &mut desired, &reports, &mut version, &mut welcomed).await;
        let session::Ended::Failed(reason) = ended else {
            return;
        };
        if welcomed {
            pause = PAUSE_MIN;
            told = false;
        }
        if !told {
            told = true;
            if reports.send(Report::Disconnected { reason }).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = closed(&mut desired) => return,
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Resolves when nobody can send any more.
async fn closed(desired: &mut watch::Receiver<Arc<Desired>>) {
    let mut desired = desired.clone();
    while desired.changed().await.is_ok() {}
}

/// Between attempts to connect. Fastpath is on the same machine, so an attempt costs little.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
