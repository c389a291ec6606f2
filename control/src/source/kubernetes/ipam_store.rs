//! IPAM's objects on an API server.

use std::time::Duration;

use serde_json::{Value, json};

use super::access::one_line;
use super::servers::Servers;
use crate::ipam::store::{Store, StoreError, Stored};

/// The API servers that the source asks, with its credentials.
#[derive(Clone)]
pub struct IpamStore(pub(super) Servers);

/// What an API server says to a request.
enum Answer {
    Done(Value),
    /// 404.
    NotFound,
    /// 409, and 404 and 412 where a version was named.
    Conflict,
}

impl IpamStore {
    async fn ask(
        &self,
        method: http::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, StoreError> {
        let refused = |reason: String| StoreError::Refused(format!("{method} {path}: {reason}"));
        let turn = self.0.turn().map_err(refused)?;
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = http::Request::builder()
            .method(&method)
            .uri(path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(bytes)
            .map_err(|error| refused(error.to_string()))?;
        let answered = tokio::time::timeout(PATIENCE, turn.client.request::<Value>(request)).await;
        let unavailable = |reason: String| {
            self.0.give_up(turn.number);
            Err(StoreError::Unavailable(format!("{}: {reason}", turn.server)))
        };
        match answered {
            Ok(Ok(value)) => Ok(Answer::Done(value)),
            Ok(Err(kube::Error::Api(status))) => match status.code {
                404 => Ok(Answer::NotFound),
                409 | 412 => Ok(Answer::Conflict),
                401 => {
                    self.0.read_again(turn.number).await;
                    Err(StoreError::Unavailable(format!(
                        "{}: {}",
                        turn.server, status.message
                    )))
                }
                429 | 500.. => Err(StoreError::Unavailable(format!(
                    "{} answers {} {}: {}",
                    turn.server, status.code, status.reason, status.message
                ))),
                403 => Err(refused(format!(
                    "{}; the ClusterRole of deploy/rbac.yaml has the rule that is missing",
                    status.message
                ))),
                code => Err(refused(format!(
                    "it answers {code} {}: {}",
                    status.reason, status.message
                ))),
            },
            Ok(Err(
                error @ (kube::Error::Auth(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_)),
            )) => Err(refused(one_line(&error))),
            Ok(Err(error)) => unavailable(one_line(&error)),
            Err(_) => unavailable(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// Sets annotations of a Node, the others untouched.
    ///
    /// # Errors
    /// [`StoreError::Conflict`]: there is no such Node.
    pub async fn annotate_node(&self, node: &str, annotations: &[(&str, String)]) -> Result<(), StoreError> {
        let annotations: serde_json::Map<String, Value> = annotations
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let path = format!("/api/v1/nodes/{node}");
        let Answer::Done(mut object) = self.ask(http::Method::GET, &path, None).await? else {
            return Err(StoreError::Conflict {
                object: format!("Node {node}"),
            });
        };
        // With the version that was read: a writer in between makes it a conflict, and the next round tries again.
        for (key, value) in annotations {
            object["metadata"]["annotations"][key] = value;
        }
        match self.ask(http::Method::PUT, &path, Some(&object)).await? {
            Answer::Done(_) => Ok(()),
            Answer::NotFound | Answer::Conflict => Err(StoreError::Conflict {
                object: format!("Node {node}"),
            }),
        }
    }
}

impl Store for IpamStore {
    async fn get<T: Stored>(&self, name: &str) -> Result<Option<T>, StoreError> {
        match self
            .ask(http::Method::GET, &path_of::<T>(Some(name)), None)
            .await?
        {
            Answer::Done(value) => read(value).map(Some),
            Answer::NotFound => Ok(None),
            Answer::Conflict => Err(conflict::<T>(name)),
        }
    }

    async fn list<T: Stored>(&self) -> Result<Vec<T>, StoreError> {
        let mut objects = Vec::new();
        let Answer::Done(mut list) = self.ask(http::Method::GET, &path_of::<T>(None), None).await? else {
            // The kind is not defined: nobody has objects of it.
            return Ok(objects);
        };
        let items = match list["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        };
        for item in items {
            match read::<T>(item) {
                Ok(object) => objects.push(object),
                Err(error) => tracing::error!(%error, "an object of IPAM cannot be read and is left alone"),
            }
        }
        objects.sort_by(|a, b| a.meta().name.cmp(&b.meta().name));
        Ok(objects)
    }

    async fn create<T: Stored>(&self, object: &T) -> Result<T, StoreError> {
        let answer = self
            .ask(http::Method::POST, &path_of::<T>(None), Some(&write(object)?))
            .await?;
        match answer {
            Answer::Done(value) => read(value),
            Answer::Conflict => Err(conflict::<T>(&object.meta().name)),
            Answer::NotFound => Err(StoreError::Refused(format!(
                "there is no kind {}; kubectl apply -f deploy/crds/{}.yaml",
                T::KIND,
                T::PLURAL
            ))),
        }
    }

    async fn update<T: Stored>(&self, object: &T) -> Result<T, StoreError> {
        let name = &object.meta().name;
        let path = path_of::<T>(Some(name));
        match self.ask(http::Method::PUT, &path, Some(&write(object)?)).await? {
            Answer::Done(value) => read(value),
            Answer::NotFound | Answer::Conflict => Err(conflict::<T>(name)),
        }
    }

    async fn delete<T: Stored>(&self, object: &T) -> Result<(), StoreError> {
        let meta = object.meta();
        let options = json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"resourceVersion": meta.resource_version},
        });
        let path = path_of::<T>(Some(&meta.name));
        match self.ask(http::Method::DELETE, &path, Some(&options)).await? {
            Answer::Done(_) => Ok(()),
            Answer::NotFound | Answer::Conflict => Err(conflict::<T>(&meta.name)),
        }
    }
}

fn path_of<T: Stored>(name: Option<&str>) -> String {
    let all = format!("/apis/crd.projectcalico.org/v1/{}", T::PLURAL);
    match name {
        Some(name) => format!("{all}/{name}"),
        None => all,
    }
}

fn read<T: Stored>(value: Value) -> Result<T, StoreError> {
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    serde_json::from_value(value).map_err(|error| StoreError::Refused(format!("{} {name}: {error}", T::KIND)))
}

fn write<T: Stored>(object: &T) -> Result<Value, StoreError> {
    serde_json::to_value(object).map_err(|error| StoreError::Refused(error.to_string()))
}

fn conflict<T: Stored>(name: &str) -> StoreError {
    StoreError::Conflict {
        object: format!("{} {name}", T::KIND),
    }
}

/// Of one request. An ADD waits for it.
const PATIENCE: Duration = Duration::from_secs(5);
