//! An API server in this process, as far as Ringway asks one: list in pages, watch with bookmarks, get, create, merge
//! patch, delete; and everything that goes wrong with real ones, on demand.
//!
//! Versions are one counter for all kinds, as etcd's are. A watch replays what happened since its version, or answers 410
//! Gone if that is forgotten.

mod http;
mod registry;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use http::{Request, Response};
use registry::{Place, Registry};

/// What goes wrong.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Answers of this code to every list and watch of these resources, by plural name: 401, 403, 429, 500.
    pub refusals: BTreeMap<String, u16>,
    /// Resources that are not installed.
    pub unknown: BTreeSet<String>,
    /// Resources that list as empty, whatever there is.
    pub hidden: BTreeSet<String>,
    /// So many watches more end with 410 Gone in their first event.
    pub watches_gone: usize,
    /// So many lists more are forgotten between two pages.
    pub pages_gone: usize,
    /// Pieces of this many bytes, with a pause after each.
    pub slow: Option<(usize, Duration)>,
    /// So many answers more are cut after half of their first piece.
    pub cut: usize,
    /// Connections are taken and nothing is ever answered.
    pub is_silent: bool,
    /// How many objects a page has at most, whatever is asked for.
    pub page_max: Option<usize>,
    /// Whether bookmarks are sent after each change of another kind.
    pub has_bookmarks: bool,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// First pages of lists.
    pub lists: usize,
    /// Further pages.
    pub pages: usize,
    /// Watches.
    pub watches: usize,
}

/// The server. Its objects outlive its listener: [`ApiServer::stop`], then [`ApiServer::start_again`].
pub struct ApiServer {
    address: SocketAddr,
    inside: Inside,
    listener: Option<AbortHandle>,
}

/// Shared with every connection.
#[derive(Clone)]
struct Inside {
    state: Arc<Mutex<State>>,
    /// Told of the newest version.
    news: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    registry: Registry,
    faults: Faults,
    asked: BTreeMap<String, Asked>,
}

impl ApiServer {
    /// Listens on a port of the loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut server = Self {
            address: listener.local_addr().unwrap(),
            inside: Inside {
                state: Arc::default(),
                news: watch::channel(0).0,
            },
            listener: None,
        };
        server.faults(|faults| faults.has_bookmarks = true);
        server.listen(listener);
        server
    }

    fn listen(&mut self, listener: TcpListener) {
        let inside = self.inside.clone();
        let task = tokio::spawn(async move {
            // Connections end with their listener.
            let mut connections = JoinSet::new();
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, inside.clone()));
                }
            }
        });
        self.listener = Some(task.abort_handle());
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts every connection and refuses new ones.
    pub async fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            listener.abort();
            // The port is free when the task is gone.
            while TcpStream::connect(self.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Listens on the same port again.
    pub async fn start_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.listen(listener);
    }

    /// Changes what goes wrong.
    pub fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.inside.lock().faults);
    }

    /// Forgets all changes so far: watches of older versions are gone.
    pub fn forget(&self) {
        self.inside.lock().registry.forget();
    }

    /// Goes on as if many other things had been written.
    pub fn advance(&self) {
        let version = self.inside.lock().registry.advance();
        self.inside.news.send_replace(version);
    }

    /// What was asked of a resource so far.
    pub fn asked(&self, plural: &str) -> Asked {
        self.inside.lock().asked.get(plural).copied().unwrap_or_default()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl Inside {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, request after request.
async fn serve(stream: TcpStream, inside: Inside) {
    let mut connection = http::Connection::new(stream);
    while let Some(request) = connection.request().await {
        let faults = inside.lock().faults.clone();
        if faults.is_silent {
            return std::future::pending().await;
        }
        let result = match answer(&inside, &request) {
            Outcome::Whole(code, value) => {
                let is_cut = take_one(&inside, |faults| &mut faults.cut);
                connection.whole(code, &value, faults.slow, is_cut).await
            }
            Outcome::Watch(watch) => match connection.begin(faults.slow).await {
                Ok(response) => follow(&inside, &watch, response).await,
                Err(error) => Err(error),
            },
        };
        if result.is_err() {
            return;
        }
    }
}

enum Outcome {
    Whole(u16, Value),
    Watch(Watch),
}

struct Watch {
    place: Place,
    version: u64,
    lasts: Duration,
    is_gone: bool,
}

fn take_one(inside: &Inside, count: impl FnOnce(&mut Faults) -> &mut usize) -> bool {
    let mut state = inside.lock();
    let count = count(&mut state.faults);
    let is_left = *count > 0;
    *count = count.saturating_sub(1);
    is_left
}

fn answer(inside: &Inside, request: &Request) -> Outcome {
    let Some(place) = Place::parse(&request.path) else {
        return failure(404, "NotFound");
    };
    let mut guard = inside.lock();
    let state = &mut *guard;
    if state.faults.unknown.contains(&place.plural) {
        return failure(404, "NotFound");
    }
    if request.method == "GET"
        && let Some(code) = state.faults.refusals.get(&place.plural)
    {
        let message = format!("user \"test\" cannot list resource {:?}", place.plural);
        return Outcome::Whole(*code, status(*code, "Refused", &message));
    }
    let changed = match request.method.as_str() {
        "GET" if place.name.is_some() => {
            return match state.registry.get(&place) {
                Some(object) => Outcome::Whole(200, object.clone()),
                None => failure(404, "NotFound"),
            };
        }
        "GET" => return list_or_watch(state, place, request),
        "POST" => state.registry.create(&place, request.body.clone()),
        "PATCH" => state.registry.patch(&place, &request.body),
        "DELETE" => state.registry.delete(&place),
        _ => return failure(405, "MethodNotAllowed"),
    };
    match changed {
        Ok(object) => {
            let version = state.registry.version();
            drop(guard);
            inside.news.send_replace(version);
            Outcome::Whole(200, object)
        }
        Err((code, reason)) => failure(code, reason),
    }
}

fn list_or_watch(state: &mut State, place: Place, request: &Request) -> Outcome {
    let asked = state.asked.entry(place.plural.clone()).or_default();
    if request
        .query("watch")
        .is_some_and(|watch| watch == "true" || watch == "1")
    {
        asked.watches += 1;
        let version = request
            .query("resourceVersion")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let lasts = request
            .query("timeoutSeconds")
            .and_then(|text| text.parse().ok())
            .unwrap_or(60);
        let is_gone = state.faults.watches_gone > 0;
        state.faults.watches_gone = state.faults.watches_gone.saturating_sub(1);
        return Outcome::Watch(Watch {
            place,
            version,
            lasts: Duration::from_secs(lasts),
            is_gone,
        });
    }
    let after = request.query("continue").unwrap_or_default();
    if after.is_empty() {
        asked.lists += 1;
    } else {
        asked.pages += 1;
        if state.faults.pages_gone > 0 {
            state.faults.pages_gone -= 1;
            return failure(410, "Expired");
        }
    }
    let limit = request
        .query("limit")
        .and_then(|text| text.parse().ok())
        .filter(|limit: &usize| *limit > 0);
    let limit = match (limit, state.faults.page_max) {
        // All in one piece when that is asked for.
        (None, _) => usize::MAX,
        (Some(limit), max) => limit.min(max.unwrap_or(usize::MAX)),
    };
    let is_hidden = state.faults.hidden.contains(&place.plural);
    let (items, next) = if is_hidden {
        (Value::Null, String::new())
    } else {
        state.registry.list(&place, &after, limit)
    };
    let metadata = json!({"resourceVersion": state.registry.version().to_string(), "continue": next});
    Outcome::Whole(
        200,
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}),
    )
}

/// Sends what happens until the watch's time is up.
async fn follow(inside: &Inside, watch: &Watch, mut response: Response<'_>) -> std::io::Result<()> {
    let mut news = inside.news.subscribe();
    let until = tokio::time::Instant::now() + watch.lasts;
    let mut version = watch.version;
    if watch.is_gone {
        let gone = json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")});
        response.line(&gone).await?;
        return response.end().await;
    }
    loop {
        let (changes, newest, has_bookmarks) = {
            let state = inside.lock();
            (
                state.registry.since(&watch.place, version),
                state.registry.version(),
                state.faults.has_bookmarks,
            )
        };
        let Some(changes) = changes else {
            let gone = json!({"type": "ERROR", "object": status(410, "Expired", "too old resource version")});
            response.line(&gone).await?;
            return response.end().await;
        };
        let is_news = newest > version;
        for change in &changes {
            response.line(change).await?;
        }
        if is_news && changes.is_empty() && has_bookmarks {
            let object = json!({"metadata": {"resourceVersion": newest.to_string()}});
            response
                .line(&json!({"type": "BOOKMARK", "object": object}))
                .await?;
        }
        version = version.max(newest);
        tokio::select! {
            is_over = async { news.wait_for(|newest| *newest > version).await.is_err() } => {
                if is_over {
                    return response.end().await;
                }
            }
            () = tokio::time::sleep_until(until) => return response.end().await,
        }
    }
}

fn failure(code: u16, reason: &str) -> Outcome {
    Outcome::Whole(code, status(code, reason, reason))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message, "metadata": {}})
}
