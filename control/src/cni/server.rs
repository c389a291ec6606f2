//! The socket that `ringway-cni` asks on.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::Semaphore;

use super::failure::{Code, Failure};
use super::operation::{Operations, Turns};
use super::protocol::{self, Reply, Request};
use super::steps::Steps;
use super::wiring::Wiring;
use super::{Config, Desk};
use crate::status;

/// Binds the socket (0600) and answers on it from now on.
///
/// # Errors
/// The system's: a path that cannot be, no netlink.
pub fn start(config: &Config, desk: &Desk, steps: Arc<dyn Steps>) -> io::Result<()> {
    let operations = Arc::new(Operations {
        desk: desk.handle(),
        wiring: Wiring::open(config.queues)?,
        steps,
        fastpath_status_socket: config.fastpath_status_socket.clone(),
        turns: Turns::default(),
    });
    let listener = status::bind(&config.socket)?;
    tracing::info!(socket = %config.socket.display(), "ready for ringway-cni");
    tokio::spawn(serve(listener, operations));
    Ok(())
}

async fn serve(listener: UnixListener, operations: Arc<Operations>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    loop {
        // Never closed.
        let Ok(turn) = Arc::clone(&calls).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let operations = Arc::clone(&operations);
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &operations).await {
                        tracing::warn!(%error, "a call of ringway-cni");
                    }
                    drop(turn);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the socket of ringway-cni");
                // Out of descriptors, most likely; they need time to come back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: tokio::net::UnixStream, operations: &Operations) -> io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    if caller != 0 && caller != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!(
            "user {caller} may not ask for interfaces"
        )));
    }
    let mut stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(REQUEST_PATIENCE))?;
    stream.set_write_timeout(Some(REQUEST_PATIENCE))?;
    let received = tokio::task::spawn_blocking(move || {
        let received = receive(&mut stream);
        (stream, received)
    });
    let (mut stream, received) = received.await.map_err(io::Error::other)?;
    let reply = match received {
        Ok((request, namespace)) => match operations.serve(request, namespace).await {
            Ok(body) => Reply::Success(body),
            Err(failure) => {
                tracing::warn!(code = failure.code, %failure, "a call of ringway-cni failed");
                Reply::Failure(failure)
            }
        },
        Err(error) => Reply::Failure(Failure::new(
            Code::Io,
            "ringway-control did not understand ringway-cni",
            error.to_string(),
        )),
    };
    let sent = tokio::task::spawn_blocking(move || protocol::send_reply(&mut stream, &reply));
    sent.await.map_err(io::Error::other)?
}

fn receive(stream: &mut UnixStream) -> io::Result<(Request, Option<OwnedFd>)> {
    protocol::receive_request(stream)
}

/// Calls that are served at once; more wait in the socket's queue.
const CALLS_MAX: usize = 512;
/// A plugin sends its request at once and reads the answer.
const REQUEST_PATIENCE: Duration = Duration::from_secs(10);
