//! Object metadata: names, labels and annotations, and what Kubernetes allows in them.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::field::string_map;
use super::labels::Labels;
use super::text::Text;

/// Annotations as written.
pub(crate) type Annotations = BTreeMap<String, String>;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName {
    /// Empty for cluster-scoped kinds.
    pub namespace: Text,
    /// Unique within the namespace and kind.
    pub name: Text,
}

impl ObjectName {
    /// A name within a namespace.
    pub fn new(namespace: impl Into<Text>, name: impl Into<Text>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// What every object carries, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Namespace (`default` where a namespaced object names none) and name.
    pub name: ObjectName,
    /// Labels that selectors see.
    pub labels: Labels,
    /// Those of Ringway and Calico: others mean nothing here, and some are as long as their object.
    pub annotations: BTreeMap<String, String>,
    /// Whether the object is being deleted.
    pub deleting: bool,
}

/// Metadata as written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct RawMetadata {
    name: Option<String>,
    namespace: Option<String>,
    #[serde(deserialize_with = "string_map")]
    labels: Annotations,
    #[serde(deserialize_with = "string_map")]
    annotations: Annotations,
    deletion_timestamp: Option<String>,
}

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Cluster,
    Namespaced,
}

impl RawMetadata {
    /// Checks names and labels.
    pub(crate) fn check(self, scope: Scope) -> Result<Metadata, String> {
        let name = self.name.unwrap_or_default();
        if !is_dns_name(&name) {
            return Err(format!(
                "metadata.name is {name:?}, expected at most 253 characters a-z, 0-9, '-' and '.', the ends alphanumeric"
            ));
        }
        let namespace = match scope {
            Scope::Cluster => String::new(),
            Scope::Namespaced => self
                .namespace
                .filter(|n| !n.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
        };
        if scope == Scope::Namespaced
            && (namespace.contains('.') || namespace.len() > 63 || !is_dns_name(&namespace))
        {
            return Err(format!(
                "metadata.namespace is {namespace:?}, expected at most 63 characters a-z, 0-9 and '-', the ends alphanumeric"
            ));
        }
        for (key, value) in &self.labels {
            check_label_key(key).map_err(|e| format!("metadata.labels: {e}"))?;
            check_label_value(value).map_err(|e| format!("metadata.labels: {e}"))?;
        }
        let mut annotations = self.annotations;
        annotations.retain(|key, _| OURS.iter().any(|prefix| key.starts_with(prefix)));
        Ok(Metadata {
            name: ObjectName {
                namespace: Text::shared(&namespace),
                name: name.into(),
            },
            labels: self.labels.into_iter().collect(),
            annotations,
            deleting: self.deletion_timestamp.is_some(),
        })
    }
}

/// Prefixes of the annotations that are kept.
const OURS: [&str; 3] = ["ringway.io/", "projectcalico.org/", "cni.projectcalico.org/ip"];

/// A DNS subdomain as RFC 1123 has it, in lower case: what names of objects look like.
fn is_dns_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.split('.').all(|label| {
            let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
        })
}

fn is_label_text(text: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && alphanumeric(text.as_bytes().first())
        && alphanumeric(text.as_bytes().last())
}

/// Checks a label key: an optional DNS prefix and `/`, then at most 63 characters.
pub(crate) fn check_label_key(key: &str) -> Result<(), String> {
    let (prefix_ok, name) = match key.split_once('/') {
        Some((prefix, name)) => (is_dns_name(prefix), name),
        None => (true, key),
    };
    if prefix_ok && is_label_text(name) {
        Ok(())
    } else {
        Err(format!(
            "{key:?} is no label key, expected [prefix/]name of at most 63 characters A-Z, a-z, 0-9, '-', '_' and '.'"
        ))
    }
}

/// Checks a label value: empty, or at most 63 characters.
pub(crate) fn check_label_value(value: &str) -> Result<(), String> {
    if value.is_empty() || is_label_text(value) {
        Ok(())
    } else {
        Err(format!(
            "{value:?} is no label value, expected at most 63 characters A-Z, a-z, 0-9, '-', '_' and '.', the ends alphanumeric"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let check = |name: &str, namespace: &str| {
            let raw = RawMetadata {
                name: Some(name.into()),
                namespace: Some(namespace.into()),
                ..RawMetadata::default()
            };
            raw.check(Scope::Namespaced)
        };
        assert_eq!(
            check("web-0.a", "").unwrap().name,
            ObjectName::new("default", "web-0.a")
        );
        for (name, namespace) in [
            ("", "a"),
            ("A", "a"),
            ("a/b", "a"),
            ("-a", "a"),
            ("a..b", "a"),
            ("a", "a.b"),
        ] {
            assert!(check(name, namespace).is_err(), "{namespace}/{name} was accepted");
        }
    }

    #[test]
    fn label_keys_may_have_a_prefix() {
        assert!(check_label_key("kubernetes.io/metadata.name").is_ok());
        assert!(check_label_key("App_1").is_ok());
        for bad in ["", "/a", "a/", "a b", "Up/er", "-a"] {
            assert!(check_label_key(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
