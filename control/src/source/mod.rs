//! Where cluster objects come from: files, or an API server. Both keep one [`Objects`] up to date.

pub mod directory;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod manifests;
pub mod watch;

use std::collections::BTreeSet;
use std::future::Future;

use crate::object::{ObjectName, Objects};

/// What a source tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The objects changed: resolve them, or what of them depends on the change.
    Changed(Scope),
    /// The objects are as they were; [`Source::condition`] may not be.
    Unchanged,
    /// There was a change, and it is refused whole for this reason; the objects are as they were.
    Refused(String),
}

/// What a change may concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Whole,
    /// These `EndpointSlice`s alone.
    Slices(BTreeSet<ObjectName>),
}

impl Scope {
    /// What either concerns.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Slices(mut slices), Self::Slices(more)) => {
                slices.extend(more);
                Self::Slices(slices)
            }
            _ => Self::Whole,
        }
    }
}

/// How a source does, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// What is wrong right now, one sentence each.
    pub problems: Vec<String>,
    /// The API server that answered last; none for files.
    pub api_server: Option<String>,
    /// Whether everything has been read at least once since the start: `false` while a copy of an earlier time is in force.
    pub is_current: bool,
}

/// Where cluster objects come from.
///
/// [`Source::first`] comes first, once; then [`Source::next`] again and again. Both may be dropped half way and called again.
pub trait Source {
    /// Why there is nothing to begin with.
    type Error: std::error::Error;

    /// Fills `objects` for the first time.
    ///
    /// # Errors
    /// Where waiting is no use, because a person has to change something.
    fn first(&mut self, objects: &mut Objects) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Waits for something new and brings `objects` up to date.
    fn next(&mut self, objects: &mut Objects) -> impl Future<Output = News> + Send;

    /// How it does.
    fn condition(&self) -> Condition;

    /// Whether objects that are no state yet may become one without a person's help: the daemon waits then.
    fn mends_itself(&self) -> bool;

    /// `objects`, as this source left them, are a good state: whoever keeps copies keeps one.
    fn in_force(&mut self, objects: &Objects);

    /// The daemon ends: what is in force is `objects`.
    fn stop(&mut self, objects: &Objects) -> impl Future<Output = ()> + Send;
}
