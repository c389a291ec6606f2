//! What is wrong with a desired state, as data: which object, which field, what was expected and what was found.

use std::fmt;

/// An object that was refused. The whole state or delta that holds it is refused with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// Kind of the object: of its Kubernetes origin where it has one, else the message's name.
    pub kind: Box<str>,
    /// Namespace, empty for cluster-scoped objects and those of ours.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
    /// Path of the field, as `ringway.proto` names it.
    pub field: Box<str>,
    /// What would have been right.
    pub expected: Box<str>,
    /// What was there.
    pub found: Box<str>,
}

impl Invalid {
    /// The same of one in a list.
    pub(super) fn at(self, index: usize) -> Self {
        Self {
            field: format!("{}[{index}]", self.field).into(),
            ..self
        }
    }

    /// The same of a field inside another: paths are put together only where something is wrong.
    pub(super) fn inside(self, outer: impl fmt::Display) -> Self {
        Self {
            field: format!("{outer}.{}", self.field).into(),
            ..self
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
            field,
            expected,
            found,
        } = self;
        f.write_str(kind)?;
        if !namespace.is_empty() || !name.is_empty() {
            f.write_str(" ")?;
        }
        if !namespace.is_empty() {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{name}: {field}: expected {expected}, found {found}")
    }
}

/// The object that is being looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    kind: String,
    namespace: String,
    name: String,
}

impl Subject {
    /// An object by kind, namespace and name.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.into(),
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// A port; one of a pod is called by the pod's name.
    pub fn port(name: &str) -> Self {
        match name.strip_prefix("pod:").and_then(|pod| pod.split_once('/')) {
            Some((namespace, pod)) => Self::new("Pod", namespace, pod),
            None => Self::new("Port", "", name),
        }
    }

    /// The object of a Kubernetes origin.
    pub fn origin(origin: &super::Origin) -> Self {
        Self::new(&origin.kind, &origin.namespace, &origin.name)
    }

    /// This object's `field` is wrong.
    pub fn invalid(&self, field: &str, expected: impl Into<String>, found: impl fmt::Display) -> Invalid {
        Invalid {
            kind: self.kind.as_str().into(),
            namespace: self.namespace.as_str().into(),
            name: self.name.as_str().into(),
            field: field.into(),
            expected: expected.into().into(),
            found: found.to_string().into(),
        }
    }
}
