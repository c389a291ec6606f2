//! The objects of all kinds, their versions, and what happened to them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A path taken apart: all objects of a resource, those of a namespace, or one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `api/v1`, `apis/GROUP/VERSION`.
    group: String,
    pub plural: String,
    namespace: Option<String>,
    pub name: Option<String>,
    subresource: Option<String>,
}

impl Place {
    /// Reads `/api/v1/namespaces/default/pods/web/status` and the like.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => (format!("api/{version}"), rest),
            ["apis", group, version, rest @ ..] => (format!("apis/{group}/{version}"), rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest[0] != "status" => {
                (Some((*namespace).to_owned()), rest)
            }
            rest => (None, rest),
        };
        let text = |index: usize| rest.get(index).map(|text| (*text).to_owned());
        Some(Self {
            group,
            plural: text(0)?,
            namespace,
            name: text(1),
            subresource: text(2),
        })
    }

    fn key(&self, name: &str) -> Key {
        Key {
            resource: (self.group.clone(), self.plural.clone()),
            namespace: self.namespace.clone().unwrap_or_default(),
            name: name.to_owned(),
        }
    }

    fn holds(&self, key: &Key) -> bool {
        (&key.resource.0, &key.resource.1) == (&self.group, &self.plural)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| *namespace == key.namespace)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    resource: (String, String),
    namespace: String,
    name: String,
}

/// Everything that there is.
#[derive(Default)]
pub struct Registry {
    version: u64,
    objects: BTreeMap<Key, Value>,
    /// What happened, oldest first, as the watch tells it.
    changes: Vec<(u64, Key, Value)>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
}

type Refusal = (u16, &'static str);

impl Registry {
    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn advance(&mut self) -> u64 {
        self.version += 1000;
        self.version
    }

    pub fn forget(&mut self) {
        // What is watched from now on begins after this.
        self.version += 1;
        self.forgotten = self.version;
        self.changes.clear();
    }

    pub fn get(&self, place: &Place) -> Option<&Value> {
        self.objects.get(&place.key(place.name.as_ref()?))
    }

    pub fn create(&mut self, place: &Place, mut object: Value) -> Result<Value, Refusal> {
        let name = object["metadata"]["name"]
            .as_str()
            .ok_or((422, "Invalid"))?
            .to_owned();
        let key = place.key(&name);
        if self.objects.contains_key(&key) {
            return Err((409, "AlreadyExists"));
        }
        if let Some(namespace) = &place.namespace {
            object["metadata"]["namespace"] = json!(namespace);
        }
        Ok(self.put("ADDED", key, object))
    }

    /// RFC 7396. A status is changed by itself alone, and nothing else by it.
    pub fn patch(&mut self, place: &Place, patch: &Value) -> Result<Value, Refusal> {
        let key = place.key(place.name.as_ref().ok_or((405, "MethodNotAllowed"))?);
        let mut object = self.objects.get(&key).cloned().ok_or((404, "NotFound"))?;
        match place.subresource.as_deref() {
            Some("status") => merge(&mut object["status"], &patch["status"]),
            Some(_) => return Err((404, "NotFound")),
            None => {
                let status = object["status"].take();
                merge(&mut object, patch);
                object["status"] = status;
            }
        }
        Ok(self.put("MODIFIED", key, object))
    }

    pub fn delete(&mut self, place: &Place) -> Result<Value, Refusal> {
        let key = place.key(place.name.as_ref().ok_or((405, "MethodNotAllowed"))?);
        let object = self.objects.get(&key).cloned().ok_or((404, "NotFound"))?;
        let deleted = self.put("DELETED", key.clone(), object);
        self.objects.remove(&key);
        Ok(deleted)
    }

    fn put(&mut self, what: &str, key: Key, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.changes
            .push((self.version, key.clone(), json!({"type": what, "object": object})));
        self.objects.insert(key, object.clone());
        object
    }

    /// A page: the objects after `after`, at most `limit`, and where the next page begins.
    pub fn list(&self, place: &Place, after: &str, limit: usize) -> (Value, String) {
        let token = |key: &Key| format!("{}/{}", key.namespace, key.name);
        let mut rest = self
            .objects
            .iter()
            .filter(|(key, _)| place.holds(key) && (after.is_empty() || token(key).as_str() > after));
        let mut items = Vec::new();
        let mut last = String::new();
        for (key, object) in rest.by_ref().take(limit) {
            // As real servers do: the list has the kind, its items do not.
            let mut item = object.clone();
            item.as_object_mut()
                .unwrap()
                .retain(|field, _| field != "kind" && field != "apiVersion");
            items.push(item);
            last = token(key);
        }
        let next = if rest.next().is_some() {
            last
        } else {
            String::new()
        };
        (Value::Array(items), next)
    }

    /// What happened at a place after `version`; `None` if that is forgotten.
    pub fn since(&self, place: &Place, version: u64) -> Option<Vec<Value>> {
        if version < self.forgotten {
            return None;
        }
        let later = self
            .changes
            .iter()
            .filter(|(at, key, _)| *at > version && place.holds(key));
        Some(later.map(|(_, _, change)| change.clone()).collect())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (field, value) in fields {
        if value.is_null() {
            target.as_object_mut().unwrap().remove(field);
        } else {
            merge(&mut target[field], value);
        }
    }
}
