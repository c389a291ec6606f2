//! One kind, listed and watched for as long as we run: what the API server says becomes [`Event`]s.
//!
//! ```text
//! list (pages of 500) ──► watch from the list's version ──► watch again from the last version seen
//!   ▲                       410 Gone, or a line that makes no sense
//!   └───────────────────────┘
//! ```
//! Every object is read by itself, so that one that makes no sense does not take its page with it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::request::{self, Trouble};
use super::resource::Resource;
use super::servers::Servers;
use crate::object::{Kind, Object, ObjectName};

/// What became of a kind.
#[derive(Debug)]
pub(super) enum Event {
    /// Some of the objects of a list.
    Page {
        kind: Kind,
        /// The first page of a list: what pages before it said is void.
        is_first: bool,
        objects: Vec<Object>,
        refused: Vec<Refused>,
    },
    /// The list is whole: what its pages did not hold is gone.
    Listed { kind: Kind, server: String },
    /// An object is there, or changed.
    Applied(Box<Object>),
    /// One is there that makes no sense.
    Refused(Kind, Refused),
    /// An object is gone.
    Removed(Kind, ObjectName),
    /// A watch goes on: the kind is up to date.
    Watching { kind: Kind, server: String },
    /// The kind is not up to date, for this reason.
    Trouble(Kind, Trouble),
    /// A list holds nothing of a kind of which there was something; it is not believed yet.
    Doubted(Kind),
    /// What the API server says of our own Node when asked for it: `None` for "there is none".
    OwnNode(Option<Box<Object>>),
}

/// An object that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) name: ObjectName,
    /// What was found and what was expected.
    pub(super) message: String,
}

/// Follows one kind.
pub(super) struct Reflector {
    pub(super) resource: Resource,
    pub(super) servers: Servers,
    pub(super) events: mpsc::Sender<Event>,
    /// How many objects of the kind are in force; kept by those who take the events.
    pub(super) in_force: Arc<AtomicUsize>,
    pub(super) pace: Pace,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// After the first failure; each further one doubles it.
    pub pause_min: Duration,
    /// Longest pause between attempts.
    pub pause_max: Duration,
    /// Between two lists of which the second confirms that nothing is left.
    pub doubt: Duration,
    /// Between two looks for a kind that the cluster does not know.
    pub missing: Duration,
    /// For the head of an answer, and for each further piece of it. A large list may take a server some seconds.
    pub answer: Duration,
    /// A watch is ended by the server after this time, and up to twice as long.
    pub watch: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(30),
            doubt: Duration::from_secs(5),
            missing: Duration::from_secs(30),
            answer: Duration::from_secs(15),
            watch: Duration::from_mins(5),
        }
    }
}

/// Nobody takes events any more.
struct Done;

/// Where a watch goes on.
struct Place {
    path: String,
    version: String,
}

impl Reflector {
    /// Runs until nobody takes events any more.
    pub(super) async fn run(self) {
        let mut place = None;
        let mut failures = 0_u32;
        let mut seed = RandomState::new().hash_one(self.resource.plural);
        loop {
            let outcome = match &mut place {
                None => self.list().await.map(|found| {
                    place = found;
                    // A list alone is no success: the watch after it may say "gone" each time.
                    false
                }),
                Some(place) => self.watch(place, &mut seed).await,
            };
            let trouble = match outcome {
                Ok(true) => {
                    failures = 0;
                    continue;
                }
                Ok(false) => continue,
                Err(Ended::Done) => return,
                Err(Ended::Trouble(trouble)) => trouble,
            };
            let is_missing = trouble == Trouble::NotFound;
            if matches!(trouble, Trouble::Gone | Trouble::NotFound | Trouble::Failed(_)) {
                place = None;
            }
            if self
                .tell(Event::Trouble(self.resource.kind, trouble))
                .await
                .is_err()
            {
                return;
            }
            let pause = if is_missing {
                self.pace.missing
            } else {
                self.pause(failures, &mut seed)
            };
            failures = failures.saturating_add(1);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.events.closed() => return,
            }
        }
    }

    /// Twice as long each time, and somewhere between half of it and all, so that the nodes of a cluster spread out.
    fn pause(&self, failures: u32, seed: &mut u64) -> Duration {
        let doubled = self.pace.pause_min.saturating_mul(1 << failures.min(16));
        let longest = doubled.min(self.pace.pause_max);
        longest / 2 + spread(longest / 2, seed)
    }

    async fn tell(&self, event: Event) -> Result<(), Done> {
        self.events.send(event).await.map_err(|_| Done)
    }

    /// Lists everything, twice where once is not believed. `None` if it has to be listed again.
    async fn list(&self) -> Result<Option<Place>, Ended> {
        let mut doubted: Option<String> = None;
        loop {
            let (place, count) = self.list_once(doubted.is_some()).await?;
            let is_later = doubted
                .as_ref()
                .is_none_or(|first| is_later(&place.version, first));
            if count > 0 || self.in_force.load(Ordering::Relaxed) == 0 || (doubted.is_some() && is_later) {
                let listed = Event::Listed {
                    kind: self.resource.kind,
                    server: place.server,
                };
                self.tell(listed).await?;
                return Ok(Some(Place {
                    path: place.path,
                    version: place.version,
                }));
            }
            // Nothing at all, where there was something.
            if doubted.is_none() {
                doubted = Some(place.version);
                self.tell(Event::Doubted(self.resource.kind)).await?;
            }
            tokio::select! {
                () = tokio::time::sleep(self.pace.doubt) => {}
                () = self.events.closed() => return Err(Ended::Done),
            }
        }
    }

    /// Lists all pages from the first path that the server knows. Returns where a watch goes on, and how many objects
    /// there are.
    async fn list_once(&self, is_quiet: bool) -> Result<(Listed, usize), Ended> {
        let mut unknown = Trouble::NotFound;
        for path in self.resource.paths() {
            match self.list_path(&path, is_quiet).await {
                Err(Ended::Trouble(Trouble::NotFound)) => unknown = Trouble::NotFound,
                other => return other,
            }
        }
        Err(unknown.into())
    }

    async fn list_path(&self, path: &str, is_quiet: bool) -> Result<(Listed, usize), Ended> {
        let kind = self.resource.kind;
        let mut next = String::new();
        let mut limit = PAGE_OBJECTS;
        let mut count = 0;
        let mut is_first = true;
        loop {
            let mut query = form(&[("limit", &limit.to_string())]);
            if !next.is_empty() {
                query = format!("{query}&{}", form(&[("continue", &next)]));
            }
            let answer = match request::get(&self.servers, &format!("{path}?{query}")).await {
                // The list took so long that its version is forgotten: from the start, in one piece.
                Err(Trouble::Gone) if limit != 0 => {
                    (limit, count, is_first) = (0, 0, true);
                    next.clear();
                    continue;
                }
                other => other?,
            };
            let server = answer.server().to_owned();
            let bytes = answer.whole(&self.servers).await?;
            let page: Page<'_> = serde_json::from_slice(&bytes)
                .map_err(|error| Trouble::Failed(format!("{server}{path}: no list of objects: {error}")))?;
            let items = page.items.unwrap_or_default();
            count += items.len();
            let mut objects = Vec::with_capacity(items.len());
            let mut refused = Vec::new();
            for item in items {
                match read(kind, item) {
                    Ok(object) => objects.push(object),
                    Err(wrong) => refused.push(wrong),
                }
            }
            let PageMetadata {
                resource_version,
                next: more,
            } = page.metadata;
            // An empty list says nothing before it is believed.
            if !is_quiet || count > 0 {
                let page = Event::Page {
                    kind,
                    is_first,
                    objects,
                    refused,
                };
                self.tell(page).await?;
            }
            is_first = false;
            if more.is_empty() {
                let listed = Listed {
                    path: path.to_owned(),
                    version: resource_version,
                    server,
                };
                return Ok((listed, count));
            }
            next = more;
        }
    }

    /// Watches until the server ends it. Whether anything came, or it lasted: then the next failure is the first.
    async fn watch(&self, place: &mut Place, seed: &mut u64) -> Result<bool, Ended> {
        let kind = self.resource.kind;
        let lasts = self.pace.watch + spread(self.pace.watch, seed);
        let began = Instant::now();
        let query = form(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", &lasts.as_secs().max(1).to_string()),
            ("resourceVersion", &place.version),
        ]);
        let mut answer = request::get(&self.servers, &format!("{}?{query}", place.path)).await?;
        let server = answer.server().to_owned();
        self.tell(Event::Watching { kind, server }).await?;
        let mut line = Vec::new();
        let mut is_good = false;
        loop {
            let patience = (lasts + WATCH_GRACE).saturating_sub(began.elapsed());
            let read = tokio::select! {
                read = answer.line(&self.servers, &mut line, patience) => read,
                () = self.events.closed() => return Err(Ended::Done),
            };
            match read {
                Ok(true) if line.is_empty() => {}
                Ok(true) => {
                    let (event, version) = change(kind, &line)?;
                    if let Some(event) = event {
                        self.tell(event).await?;
                    }
                    if let Some(version) = version {
                        place.version = version;
                    }
                    is_good = true;
                }
                Ok(false) if is_good || began.elapsed() >= LASTING => return Ok(true),
                Ok(false) => {
                    return Err(Trouble::Unreachable(format!(
                        "{}: it ends every watch at once",
                        answer.server()
                    ))
                    .into());
                }
                // What came before the cut was good, so the next attempt may come soon.
                Err(Trouble::Unreachable(reason)) if is_good => {
                    self.tell(Event::Trouble(kind, Trouble::Unreachable(reason)))
                        .await?;
                    return Ok(true);
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }
}

/// One line of a watch: what it says, and the version that it leads to.
fn change(kind: Kind, line: &[u8]) -> Result<(Option<Event>, Option<String>), Trouble> {
    let nonsense =
        |error: serde_json::Error| Trouble::Failed(format!("a watch says what makes no sense: {error}"));
    let change: Change<'_> = serde_json::from_slice(line).map_err(nonsense)?;
    if change.r#type == "ERROR" {
        let status: Status = serde_json::from_str(change.object.get()).map_err(nonsense)?;
        return Err(Trouble::of(&status));
    }
    let head: Head = serde_json::from_str(change.object.get()).map_err(nonsense)?;
    let version = head
        .metadata
        .resource_version
        .clone()
        .filter(|version| !version.is_empty());
    let event = match change.r#type {
        "ADDED" | "MODIFIED" => Some(match read(kind, change.object) {
            Ok(object) => Event::Applied(Box::new(object)),
            Err(refused) => Event::Refused(kind, refused),
        }),
        "DELETED" => Some(Event::Removed(kind, head.name())),
        // A bookmark has a version and no more; of other types we know nothing.
        _ => None,
    };
    Ok((event, version))
}

fn read(kind: Kind, object: &RawValue) -> Result<Object, Refused> {
    kind.read(&mut serde_json::Deserializer::from_str(object.get()))
        .map_err(|error| Refused {
            name: serde_json::from_str::<Head>(object.get())
                .map(|head| head.name())
                .unwrap_or_default(),
            message: message(&error),
        })
}

/// The place within one line of JSON is of no use to a person.
fn message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Change<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    metadata: HeadMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct HeadMetadata {
    name: String,
    namespace: String,
    resource_version: Option<String>,
}

impl Head {
    fn name(&self) -> ObjectName {
        ObjectName::new(&self.metadata.namespace, &self.metadata.name)
    }
}

/// A list to its end.
struct Listed {
    path: String,
    version: String,
    server: String,
}

/// Why a list or a watch is over.
enum Ended {
    Done,
    Trouble(Trouble),
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<Done> for Ended {
    fn from(_: Done) -> Self {
        Self::Done
    }
}

/// Whether version `a` comes after `b`. Versions of one cluster are numbers, in order (KEP-5504); where they are none, one
/// that differs is taken for a later one.
fn is_later(a: &str, b: &str) -> bool {
    match (a.parse::<u128>(), b.parse::<u128>()) {
        (Ok(a), Ok(b)) => a > b,
        _ => a != b,
    }
}

/// A part of `whole`, another one each time: Steele's `SplitMix64`.
fn spread(whole: Duration, seed: &mut u64) -> Duration {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *seed;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    whole.mul_f64(((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64)
}

/// Pairs as a query; everything but letters, digits, `-`, `_`, `.` and `~` as its bytes in hexadecimal (RFC 3986 section 2).
fn form(pairs: &[(&str, &str)]) -> String {
    use std::fmt::Write as _;

    let mut query = String::new();
    for (key, value) in pairs {
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(key);
        query.push('=');
        for byte in value.bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                query.push(char::from(byte));
            } else {
                write!(query, "%{byte:02X}").expect("writing to a String does not fail");
            }
        }
    }
    query
}

const PAGE_OBJECTS: usize = 500;
/// Beyond the time after which the server should have ended a watch.
const WATCH_GRACE: Duration = Duration::from_secs(15);
/// A watch that lasts this long without a word was a good one.
const LASTING: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_watch_says_what_changed_and_up_to_where() {
        let said = |line: &str| change(Kind::Namespace, line.as_bytes());
        let (event, version) =
            said(r#"{"object":{"metadata":{"name":"a","resourceVersion":"7"}},"type":"ADDED"}"#).unwrap();
        assert!(matches!(event, Some(Event::Applied(object)) if object.meta().name.name == "a"));
        assert_eq!(version.as_deref(), Some("7"));
        let (event, _) =
            said(r#"{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"8"}}}"#).unwrap();
        assert!(
            matches!(event, Some(Event::Removed(Kind::Namespace, name)) if name == ObjectName::new("", "a"))
        );
        let (event, version) =
            said(r#"{"type":"BOOKMARK","object":{"kind":"Namespace","metadata":{"resourceVersion":"9"}}}"#)
                .unwrap();
        assert!(event.is_none());
        assert_eq!(version.as_deref(), Some("9"));
        let gone = said(
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#,
        );
        assert_eq!(gone.unwrap_err(), Trouble::Gone);
        assert!(matches!(said("{"), Err(Trouble::Failed(_))));
    }

    #[test]
    fn an_object_that_makes_no_sense_is_named() {
        let line = r#"{"type":"ADDED","object":{"metadata":{"name":"a","namespace":"b","resourceVersion":"7"},"spec":{"ports":[]}}}"#;
        let (event, version) = change(Kind::Service, line.as_bytes()).unwrap();
        let Some(Event::Refused(Kind::Service, refused)) = event else {
            panic!("{event:?}")
        };
        assert_eq!(refused.name, ObjectName::new("b", "a"));
        assert_eq!(refused.message, "spec.ports is empty, expected at least one port");
        assert_eq!(version.as_deref(), Some("7"));
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        assert!(is_later("10", "9") && !is_later("9", "10") && !is_later("9", "9"));
        assert!(is_later("b", "a") && !is_later("a", "a"));
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(
            form(&[("continue", "a b/=+ü"), ("limit", "5")]),
            "continue=a%20b%2F%3D%2B%C3%BC&limit=5"
        );
    }
}
