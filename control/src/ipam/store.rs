//! Where IPAM's objects live: whoever writes one says which version of it was read, and of two writers one is told.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// `metadata` as it came: what we do not know of it is written back as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredMeta {
    /// Unique within the kind.
    pub name: String,
    /// What was read; none for an object that is not stored yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl StoredMeta {
    /// Of a new object.
    pub fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }
}

/// A kind of object that IPAM keeps; all are cluster-scoped and of `crd.projectcalico.org/v1`.
pub trait Stored: Clone + fmt::Debug + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// `IPAMBlock`.
    const KIND: &'static str;
    /// `ipamblocks`.
    const PLURAL: &'static str;

    /// Its metadata.
    fn meta(&self) -> &StoredMeta;
}

/// Why the store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Someone else created, changed or deleted it since it was read.
    #[error("{object} is not what it was when it was read")]
    Conflict {
        /// `IPAMBlock 10-0-0-0-26`.
        object: String,
    },
    /// No answer, or not now: what was asked for may have been done or not.
    #[error("{0}")]
    Unavailable(String),
    /// It will not be done, however often it is asked for.
    #[error("{0}")]
    Refused(String),
}

/// Objects with optimistic concurrency.
///
/// Of writers that read the same version one succeeds. Any call may be dropped half way; then it was done or it was not.
pub trait Store: Send + Sync {
    /// The object of this name.
    fn get<T: Stored>(&self, name: &str) -> impl Future<Output = Result<Option<T>, StoreError>> + Send;

    /// All objects of a kind, in the order of their names. One that cannot be read is left out, loudly.
    fn list<T: Stored>(&self) -> impl Future<Output = Result<Vec<T>, StoreError>> + Send;

    /// Stores a new object and returns it with its version. [`StoreError::Conflict`] if there is one of its name.
    fn create<T: Stored>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Replaces the version that `object` was read as.
    fn update<T: Stored>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send;

    /// Removes the version that `object` was read as.
    fn delete<T: Stored>(&self, object: &T) -> impl Future<Output = Result<(), StoreError>> + Send;
}

impl<S: Store> Store for std::sync::Arc<S> {
    fn get<T: Stored>(&self, name: &str) -> impl Future<Output = Result<Option<T>, StoreError>> + Send {
        (**self).get(name)
    }

    fn list<T: Stored>(&self) -> impl Future<Output = Result<Vec<T>, StoreError>> + Send {
        (**self).list()
    }

    fn create<T: Stored>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send {
        (**self).create(object)
    }

    fn update<T: Stored>(&self, object: &T) -> impl Future<Output = Result<T, StoreError>> + Send {
        (**self).update(object)
    }

    fn delete<T: Stored>(&self, object: &T) -> impl Future<Output = Result<(), StoreError>> + Send {
        (**self).delete(object)
    }
}

/// How messages name an object.
pub(super) fn name_of<T: Stored>(name: &str) -> String {
    format!("{} {name}", T::KIND)
}

/// A store within one process, as an API server would keep it: as JSON. For tests, and for a lab of one process.
///
/// Each call first yields to the scheduler, so that callers interleave wherever they could against a server.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    version: u64,
    /// By plural and name.
    objects: BTreeMap<(&'static str, String), Value>,
}

impl MemoryStore {
    fn with<R>(&self, work: impl FnOnce(&mut Memory) -> R) -> R {
        // Every change leaves it whole, so it is good even after a panic.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace<T: Stored>(&self, object: &T, is_new: bool) -> Result<T, StoreError> {
        let meta = object.meta();
        let mut value =
            serde_json::to_value(object).map_err(|error| StoreError::Refused(error.to_string()))?;
        self.with(|memory| {
            let key = (T::PLURAL, meta.name.clone());
            let there = memory
                .objects
                .get(&key)
                .map(|old| old["metadata"]["resourceVersion"].clone());
            let expected = (!is_new).then(|| json!(meta.resource_version));
            if there != expected {
                return Err(StoreError::Conflict {
                    object: name_of::<T>(&meta.name),
                });
            }
            memory.version += 1;
            value["metadata"]["resourceVersion"] = json!(memory.version.to_string());
            memory.objects.insert(key, value.clone());
            read(value)
        })
    }
}

fn read<T: Stored>(value: Value) -> Result<T, StoreError> {
    serde_json::from_value(value).map_err(|error| StoreError::Refused(format!("{}: {error}", T::KIND)))
}

impl Store for MemoryStore {
    async fn get<T: Stored>(&self, name: &str) -> Result<Option<T>, StoreError> {
        tokio::task::yield_now().await;
        let value = self.with(|memory| memory.objects.get(&(T::PLURAL, name.to_owned())).cloned());
        value.map(read).transpose()
    }

    async fn list<T: Stored>(&self) -> Result<Vec<T>, StoreError> {
        tokio::task::yield_now().await;
        self.with(|memory| {
            let of_kind = memory
                .objects
                .iter()
                .filter(|((plural, _), _)| *plural == T::PLURAL);
            of_kind.map(|(_, value)| read(value.clone())).collect()
        })
    }

    async fn create<T: Stored>(&self, object: &T) -> Result<T, StoreError> {
        tokio::task::yield_now().await;
        let done = self.replace(object, true);
        tokio::task::yield_now().await;
        done
    }

    async fn update<T: Stored>(&self, object: &T) -> Result<T, StoreError> {
        tokio::task::yield_now().await;
        let done = self.replace(object, false);
        tokio::task::yield_now().await;
        done
    }

    async fn delete<T: Stored>(&self, object: &T) -> Result<(), StoreError> {
        tokio::task::yield_now().await;
        let meta = object.meta();
        let done = self.with(|memory| {
            let key = (T::PLURAL, meta.name.clone());
            let there = memory
                .objects
                .get(&key)
                .map(|old| &old["metadata"]["resourceVersion"]);
            if there != Some(&json!(meta.resource_version)) {
                return Err(StoreError::Conflict {
                    object: name_of::<T>(&meta.name),
                });
            }
            memory.objects.remove(&key);
            Ok(())
        });
        tokio::task::yield_now().await;
        done
    }
}
