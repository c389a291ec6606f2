//! What control tells about itself: a JSON object for whoever connects to the status socket.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};

use crate::push::Report;
use crate::source::Condition;

/// The whole status; what is wrong comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// What is wrong right now, one sentence each; empty when all is well.
    pub problems: Vec<String>,
    /// The node that is served.
    pub node: String,
    /// What was read last.
    pub source: SourceStatus,
    /// The other end.
    pub fastpath: FastpathStatus,
}

/// The manifests, or the API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SourceStatus {
    /// How often a change was taken over.
    pub accepted: u64,
    /// How often one was refused because of what it held.
    pub refused: u64,
    /// Why the last one was refused; absent once it is mended.
    pub error: Option<String>,
    /// Objects in force, of kinds that we know.
    pub objects: usize,
    /// Objects of kinds that we do not know, by `apiVersion Kind`.
    pub unknown_kinds: BTreeMap<String, usize>,
    /// What was left out and why.
    pub warnings: Vec<String>,
    /// What keeps the source from being up to date, one sentence each.
    pub problems: Vec<String>,
    /// The API server that answered last; absent for manifests.
    pub api_server: Option<String>,
    /// Whether everything has been read since the start; `false` while a copy of an earlier time is in force.
    pub is_current: bool,
}

impl SourceStatus {
    /// Takes in how the source does.
    pub fn condition(&mut self, condition: Condition) {
        let Condition {
            problems,
            api_server,
            is_current,
        } = condition;
        self.problems = problems;
        self.api_server = api_server;
        self.is_current = is_current;
    }
}

/// The connection to fastpath.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FastpathStatus {
    /// Whether there is one.
    pub connected: bool,
    /// Why not.
    pub error: Option<String>,
    /// The version that every worker sees, 0 for none.
    pub applied_version: u64,
    /// Time that fastpath took to compile it, nanoseconds.
    pub compiled_ns: u64,
    /// Time until every worker saw it, nanoseconds.
    pub visible_ns: u64,
    /// Why the last version was refused; absent once one was applied.
    pub refused: Option<String>,
    /// Ports that fastpath told about: empty text for one that is live, else why it is not.
    pub ports: BTreeMap<String, String>,
}

impl FastpathStatus {
    /// Takes in what happened on the way.
    pub fn record(&mut self, report: &Report) {
        match report {
            Report::Connected { applied_version, .. } => {
                *self = Self {
                    connected: true,
                    applied_version: *applied_version,
                    ..Self::default()
                };
            }
            Report::Disconnected { reason } => {
                self.connected = false;
                self.error = Some(reason.clone());
            }
            Report::Applied(applied, _) => {
                self.applied_version = applied.version;
                self.compiled_ns = applied.compiled_ns;
                self.visible_ns = applied.visible_ns;
                self.refused = None;
            }
            Report::Refused(refused) => self.refused = Some(refusal(refused)),
            Report::Resync { .. } => {}
            Report::Port(event) => {
                let message = if event.live {
                    String::new()
                } else {
                    event.message.clone()
                };
                self.ports.insert(event.port.clone(), message);
            }
        }
    }
}

/// A refusal in one line, by the object's name.
pub fn refusal(refused: &contract::proto::Refused) -> String {
    let contract::proto::Refused {
        kind,
        namespace,
        name,
        message,
        ..
    } = refused;
    match (kind.is_empty(), namespace.is_empty()) {
        (true, _) => message.clone(),
        (false, true) => format!("{kind} {name}: {message}"),
        (false, false) => format!("{kind} {namespace}/{name}: {message}"),
    }
}

impl Status {
    /// With [`Status::problems`] filled in from the rest.
    fn judged(&self) -> Self {
        let mut problems = Vec::new();
        if let Some(error) = &self.source.error {
            problems.push(format!(
                "the last change was refused, the state before it stays in force: {error}"
            ));
        }
        problems.extend(self.source.problems.iter().cloned());
        if !self.fastpath.connected {
            let reason = self.fastpath.error.as_deref().unwrap_or("not connected yet");
            problems.push(format!("no connection to fastpath: {reason}"));
        }
        if let Some(refused) = &self.fastpath.refused {
            problems.push(format!("fastpath refused the last version: {refused}"));
        }
        let dead = self
            .fastpath
            .ports
            .iter()
            .filter(|(_, message)| !message.is_empty());
        problems.extend(dead.map(|(port, message)| format!("port {port} is not live: {message}")));
        Self {
            problems,
            ..self.clone()
        }
    }
}

/// Status that is written in one place and read in another.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Status>>);

impl Shared {
    /// Changes it.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        // Every change leaves it whole, so it is good even after a panic.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// As it is now, judged.
    pub fn now(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).judged()
    }
}

/// Binds the socket: 0600, in place of one that nobody listens on.
///
/// # Errors
/// Also when another process answers on it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process answers on it",
        ));
    }
    // Only a socket, which no process serves any more, may be in the way.
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "there is something else, expected a socket or nothing",
            ));
        }
        _ => {}
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers every connection with the status in one line of JSON.
pub async fn serve(listener: UnixListener, status: Shared) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer(stream, status.now()))),
            Err(error) => {
                tracing::warn!(%error, "status socket");
                // Out of descriptors, most likely; they need time to come back.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: UnixStream, status: Status) {
    let mut line = serde_json::to_vec(&status).expect("strings and numbers");
    line.push(b'\n');
    // Whoever asked may be gone.
    let _ = stream.write_all(&line).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn what_is_wrong_comes_first() {
        let shared = Shared::default();
        assert_eq!(
            shared.now().problems,
            ["no connection to fastpath: not connected yet"]
        );
        shared.update(|s| {
            s.fastpath.record(&Report::Connected {
                software: String::new(),
                applied_version: 3,
            });
            let refused = contract::proto::Refused {
                kind: "Service".into(),
                namespace: "default".into(),
                name: "api".into(),
                message: "no".into(),
                ..Default::default()
            };
            s.fastpath.record(&Report::Refused(refused));
        });
        assert_eq!(
            shared.now().problems,
            ["fastpath refused the last version: Service default/api: no"]
        );
        shared.update(|s| {
            s.fastpath.record(&Report::Applied(
                contract::proto::Applied::default(),
                Arc::default(),
            ));
        });
        assert!(shared.now().problems.is_empty());
    }

    #[tokio::test]
    async fn the_socket_tells_it_in_json() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        let shared = Shared::default();
        shared.update(|s| s.node = "a".into());
        let task = tokio::spawn(serve(bind(&path).unwrap(), shared));
        let mut text = String::new();
        UnixStream::connect(&path)
            .await
            .unwrap()
            .read_to_string(&mut text)
            .await
            .unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["node"], "a");
        assert!(bind(&path).is_err(), "a socket that answers was taken over");
        task.abort();
    }
}
