//! One connection: hello, a snapshot, then deltas, each after the answer to the one before.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use contract::frame::{self, Decoder};
use contract::proto;
use proto::from_fastpath::Body as From;
use proto::to_fastpath::Body as To;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::{Desired, Report};

/// How a connection ended.
pub(super) enum Ended {
    /// Nobody wants to push or to hear any more.
    Done,
    /// It broke, or could not be made.
    Failed(String),
}

impl<E: std::error::Error> std::convert::From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.to_string())
    }
}

/// What fastpath has of us.
#[derive(Default)]
struct Progress {
    /// The version in force as far as this connection knows; none before the first snapshot is applied.
    in_force: Option<(u64, Arc<Desired>)>,
    /// Sent, not answered yet.
    on_its_way: Option<(u64, Arc<Desired>)>,
    /// What was refused last, as it was desired, so that it is not sent again.
    refused: Option<Arc<Desired>>,
    /// The last answer was a demand for a snapshot, and this is its successor.
    resyncing: bool,
}

/// Connects and pushes until something ends it.
pub(super) async fn run(
    socket: &Path,
    desired: &mut watch::Receiver<Arc<Desired>>,
    reports: &mpsc::Sender<Report>,
    version: &mut u64,
    welcomed: &mut bool,
) -> Ended {
    match try_run(socket, desired, reports, version, welcomed).await {
        Ok(never) => match never {},
        Err(ended) => ended,
    }
}

async fn try_run(
    socket: &Path,
    desired: &mut watch::Receiver<Arc<Desired>>,
    reports: &mpsc::Sender<Report>,
    version: &mut u64,
    welcomed: &mut bool,
) -> Result<std::convert::Infallible, Ended> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|e| Ended::Failed(format!("connecting to {}: {e}", socket.display())))?;
    let (reader, mut writer) = stream.into_split();
    let mut incoming = Incoming::start(reader);

    let hello = proto::Hello {
        protocol_min: contract::PROTOCOL,
        protocol_max: contract::PROTOCOL,
        software: concat!("ringway-control ", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    send(&mut writer, To::Hello(hello)).await?;
    let welcome = match tokio::time::timeout(WELCOME_PATIENCE, incoming.next()).await {
        Ok(message) => match message? {
            From::Welcome(welcome) => welcome,
            other => return Err(unexpected("Welcome", &other)),
        },
        Err(_) => {
            return Err(Ended::Failed(format!(
                "no Welcome within {} s",
                WELCOME_PATIENCE.as_secs()
            )));
        }
    };
    if welcome.protocol != contract::PROTOCOL {
        let found = welcome.protocol;
        return Err(Ended::Failed(format!(
            "fastpath speaks protocol {found}, expected {}",
            contract::PROTOCOL
        )));
    }
    *welcomed = true;
    *version = (*version).max(welcome.applied_version);
    tell(
        reports,
        Report::Connected {
            software: welcome.software,
            applied_version: welcome.applied_version,
        },
    )
    .await?;

    let mut progress = Progress::default();
    loop {
        if progress.on_its_way.is_none() {
            progress.send_next(&mut writer, desired, version).await?;
        }
        tokio::select! {
            message = incoming.next() => progress.answer(message?, reports).await?,
            changed = desired.changed() => changed.map_err(|_| Ended::Done)?,
        }
    }
}

impl Progress {
    /// Sends what is desired, unless it is in force or was refused.
    async fn send_next(
        &mut self,
        writer: &mut OwnedWriteHalf,
        desired: &mut watch::Receiver<Arc<Desired>>,
        version: &mut u64,
    ) -> Result<(), Ended> {
        let wanted = desired.borrow_and_update().clone();
        if self
            .refused
            .as_ref()
            .is_some_and(|refused| Arc::ptr_eq(refused, &wanted) || same(refused, &wanted))
        {
            return Ok(());
        }
        let next = *version + 1;
        let body = match &self.in_force {
            None => To::Snapshot(proto::State {
                version: next,
                ..wanted.whole().into_owned()
            }),
            Some((base_version, in_force)) => {
                let changes = wanted.changes_since(in_force);
                if changes.is_empty() {
                    return Ok(());
                }
                To::Delta(proto::Delta {
                    base_version: *base_version,
                    version: next,
                    changes,
                })
            }
        };
        *version = next;
        self.on_its_way = Some((next, wanted));
        send(writer, body).await
    }

    async fn answer(&mut self, message: From, reports: &mpsc::Sender<Report>) -> Result<(), Ended> {
        let pending = self.on_its_way.as_ref().map(|(version, _)| *version);
        match message {
            From::Applied(applied) if Some(applied.version) == pending => {
                let Some((version, state)) = self.on_its_way.take() else {
                    return Ok(());
                };
                self.in_force = Some((version, Arc::clone(&state)));
                self.refused = None;
                self.resyncing = false;
                tell(reports, Report::Applied(applied, state)).await
            }
            From::Refused(refused) if Some(refused.version) == pending => {
                self.refused = self.on_its_way.take().map(|(_, state)| state);
                self.resyncing = false;
                tell(reports, Report::Refused(refused)).await
            }
            From::Resync(_) if self.resyncing => Err(Ended::Failed(
                "fastpath asked for a snapshot again instead of answering one".to_owned(),
            )),
            From::Resync(resync) => {
                self.in_force = None;
                self.on_its_way = None;
                self.refused = None;
                self.resyncing = true;
                tell(
                    reports,
                    Report::Resync {
                        reason: resync.reason,
                    },
                )
                .await
            }
            From::PortEvent(event) => tell(reports, Report::Port(event)).await,
            // To what a connection before ours sent.
            From::Applied(_) | From::Refused(_) => Ok(()),
            From::Welcome(_) => Err(Ended::Failed("fastpath sent a second Welcome".to_owned())),
        }
    }
}

/// Equal but for the version.
fn same(a: &Desired, b: &Desired) -> bool {
    b.changes_since(a).is_empty()
}

fn unexpected(expected: &str, found: &From) -> Ended {
    let found = match found {
        From::Welcome(_) => "Welcome".to_owned(),
        From::Applied(applied) => format!("Applied of version {}", applied.version),
        From::Refused(refused) => format!("Refused of version {}: {}", refused.version, refused.message),
        From::Resync(_) => "Resync".to_owned(),
        From::PortEvent(_) => "PortEvent".to_owned(),
    };
    Ended::Failed(format!("fastpath sent {found}, expected {expected}"))
}

async fn tell(reports: &mpsc::Sender<Report>, report: Report) -> Result<(), Ended> {
    reports.send(report).await.map_err(|_| Ended::Done)
}

async fn send(writer: &mut OwnedWriteHalf, body: To) -> Result<(), Ended> {
    let bytes = frame::encode(&proto::ToFastpath { body: Some(body) })?;
    Ok(writer.write_all(&bytes).await?)
}

/// Messages from fastpath, read by a task of its own: a long write of ours must not keep fastpath from writing.
struct Incoming {
    messages: mpsc::Receiver<Result<From, String>>,
    task: AbortHandle,
}

impl Incoming {
    fn start(reader: OwnedReadHalf) -> Self {
        let (sender, messages) = mpsc::channel(INCOMING_MAX);
        let task = tokio::spawn(async move {
            if let Err(reason) = read(reader, &sender).await {
                // The receiver may be gone: then nobody asks why.
                let _ = sender.send(Err(reason)).await;
            }
        });
        Self {
            messages,
            task: task.abort_handle(),
        }
    }

    async fn next(&mut self) -> Result<From, Ended> {
        match self.messages.recv().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(reason)) => Err(Ended::Failed(reason)),
            None => Err(Ended::Failed("fastpath closed the connection".to_owned())),
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn read(
    mut reader: OwnedReadHalf,
    messages: &mpsc::Sender<Result<From, String>>,
) -> Result<(), String> {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; READ_LEN];
    loop {
        let len = reader.read(&mut buffer).await.map_err(|e| e.to_string())?;
        if len == 0 {
            return Err("fastpath closed the connection".to_owned());
        }
        decoder.extend(&buffer[..len]);
        while let Some(message) = decoder
            .next_message::<proto::FromFastpath>()
            .map_err(|e| e.to_string())?
        {
            let body = message
                .body
                .ok_or_else(|| "fastpath sent a message that we do not know".to_owned())?;
            if messages.send(Ok(body)).await.is_err() {
                return Ok(());
            }
        }
    }
}

const WELCOME_PATIENCE: Duration = Duration::from_secs(5);
/// Messages that wait for us before fastpath has to.
const INCOMING_MAX: usize = 256;
const READ_LEN: usize = 16 << 10;
