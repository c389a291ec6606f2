//! The API servers of a cluster: one answers at a time, and when it does not, the next is asked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;

use super::access::{Access, AccessError, Known};
use super::server_file;

/// Shared by everyone who asks.
#[derive(Clone)]
pub(super) struct Servers(Arc<Shared>);

struct Shared {
    access: Access,
    file: Option<PathBuf>,
    patience: Duration,
    state: Mutex<State>,
}

struct State {
    known: Known,
    /// Those that every certificate's name holds for, as the cluster told them last.
    kept: Vec<SocketAddr>,
    current: usize,
    /// Grows whenever `client` is another one.
    turn: u64,
    client: Option<Client>,
    read_at: Instant,
}

/// A client, and which turn it is of.
pub(super) struct Turn {
    pub(super) client: Client,
    pub(super) number: u64,
    /// For people.
    pub(super) server: String,
}

impl Servers {
    /// Reads credentials and the addresses kept in `file`. Whoever asks waits for `patience` for each piece of an answer.
    pub(super) async fn new(
        access: Access,
        file: Option<PathBuf>,
        patience: Duration,
    ) -> Result<Self, AccessError> {
        let kept = match &file {
            // A file that is of no use is no reason to stay down.
            Some(path) => server_file::load(path).unwrap_or_else(|error| {
                tracing::warn!(%error, "addresses of API servers that were kept cannot be read");
                Vec::new()
            }),
            None => Vec::new(),
        };
        let known = access.read(&kept, file.is_some()).await?;
        let state = State {
            known,
            kept,
            current: 0,
            turn: 0,
            client: None,
            read_at: Instant::now(),
        };
        Ok(Self(Arc::new(Shared {
            access,
            file,
            patience,
            state: Mutex::new(state),
        })))
    }

    /// How long to wait for each piece of an answer.
    pub(super) fn patience(&self) -> Duration {
        self.0.patience
    }

    /// The server whose turn it is.
    ///
    /// # Errors
    /// Keys or tokens that cannot be used any more; for people.
    pub(super) fn turn(&self) -> Result<Turn, String> {
        let mut state = self.lock();
        let client = if let Some(client) = &state.client {
            client.clone()
        } else {
            let client = state.known.client(state.current)?;
            state.client = Some(client.clone());
            client
        };
        let server = state.known.servers.get(state.current).map(ToString::to_string);
        Ok(Turn {
            client,
            number: state.turn,
            server: server.unwrap_or_default(),
        })
    }

    /// The server of this turn does not answer: the next one's turn, unless someone else said so before.
    pub(super) fn give_up(&self, turn: u64) {
        let mut state = self.lock();
        if state.turn == turn {
            state.current = (state.current + 1) % state.known.servers.len();
            state.turn += 1;
            state.client = None;
        }
    }

    /// Our credentials are refused: they may have been renewed on disk.
    pub(super) async fn read_again(&self, turn: u64) {
        let kept = {
            let state = self.lock();
            if state.turn != turn || state.read_at.elapsed() < READ_AGAIN_AFTER {
                return;
            }
            state.kept.clone()
        };
        match self.0.access.read(&kept, self.0.file.is_some()).await {
            Ok(known) => self.replace(known, kept),
            Err(error) => tracing::warn!(%error, "credentials cannot be read again"),
        }
    }

    /// The cluster says that its API servers are at `addresses`. They are kept for the next start.
    pub(super) async fn learn(&self, mut addresses: Vec<SocketAddr>) {
        addresses.sort();
        addresses.dedup();
        // None at all is no knowledge.
        if addresses.is_empty() || self.lock().kept == addresses {
            return;
        }
        if let Some(file) = &self.0.file
            && let Err(error) = server_file::save(file, &addresses)
        {
            tracing::warn!(%error, "addresses of API servers are not kept");
        }
        match self.0.access.read(&addresses, self.0.file.is_some()).await {
            Ok(known) => self.replace(known, addresses),
            Err(error) => tracing::warn!(%error, "credentials cannot be read again"),
        }
    }

    /// Goes on with the server that answers now.
    fn replace(&self, known: Known, kept: Vec<SocketAddr>) {
        let mut state = self.lock();
        let current = state.known.servers.get(state.current).cloned();
        state.current = known
            .servers
            .iter()
            .position(|server| Some(server) == current.as_ref())
            .unwrap_or(0);
        state.known = known;
        state.kept = kept;
        state.turn += 1;
        state.client = None;
        state.read_at = Instant::now();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Every change leaves it whole.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between two looks at the same files.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(5);
