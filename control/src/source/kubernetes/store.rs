//! What the events of all kinds come to. Pure: no I/O, no clock.
//!
//! Three things never happen by accident:
//! - **A list that holds nothing** of a kind of which there was something is not believed before a second list, at a later
//!   version, says the same ([`super::reflect`] asks twice; here nothing changes meanwhile). A kind that the server
//!   does not know (any more) leaves its objects as they were.
//! - **Our own Node** is never removed. When it is said to be gone, someone asks for it by name; until it is there again its
//!   last good object stays, and so do the pods of this node, because they still run and have ports.
//! - **An object that makes no sense** leaves the last good one of its name in force.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::reflect::{Event, Refused};
use super::request::Trouble;
use super::resource::{RESOURCES, Resource};
use crate::object::{Kind, Object, ObjectName, Objects};
use crate::source::Scope;

/// What an event asks of whoever has a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// What the objects' change concerns; `None` where they are as they were.
    pub(super) scope: Option<Scope>,
    /// Ask for our own Node by name.
    pub(super) ask_for_node: bool,
    /// An EndpointSlice of the Service `kubernetes` may have changed.
    pub(super) api_servers: bool,
}

/// Books about the objects, which themselves are somewhere else.
#[derive(Debug)]
pub(super) struct Store {
    node: String,
    /// Names in the list that is on its way, per kind.
    seen: BTreeMap<Kind, HashSet<ObjectName>>,
    /// Kinds that have been listed since the start.
    listed: BTreeSet<Kind>,
    trouble: BTreeMap<Kind, Trouble>,
    doubted: BTreeSet<Kind>,
    refused: BTreeMap<(Kind, ObjectName), String>,
    own_node: OwnNode,
    /// Pods of this node that the API server deleted after our Node was gone.
    orphans: BTreeSet<ObjectName>,
    server: Option<String>,
    /// A copy of an earlier time is in force until every kind is settled.
    has_copy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OwnNode {
    /// As far as we know.
    There,
    /// Said to be gone.
    Doubted,
    /// Gone, and a GET by name says so, too.
    Gone,
}

impl Store {
    pub(super) fn new(node: &str, has_copy: bool) -> Self {
        Self {
            node: node.to_owned(),
            seen: BTreeMap::new(),
            listed: BTreeSet::new(),
            trouble: BTreeMap::new(),
            doubted: BTreeSet::new(),
            refused: BTreeMap::new(),
            own_node: OwnNode::There,
            orphans: BTreeSet::new(),
            server: None,
            has_copy,
        }
    }

    /// Whether every kind is known as it is now, or cannot be and there is something to go by: then the objects mean something.
    pub(super) fn is_settled(&self) -> bool {
        RESOURCES.iter().all(|resource| {
            self.listed.contains(&resource.kind)
                || match self.trouble.get(&resource.kind) {
                    Some(Trouble::NotFound) => resource.is_optional || self.has_copy,
                    Some(Trouble::Unauthorized(_) | Trouble::Forbidden(_)) => self.has_copy,
                    _ => false,
                }
        })
    }

    /// Whether every kind has been listed since the start, or is one that the cluster lacks.
    pub(super) fn is_current(&self) -> bool {
        RESOURCES.iter().all(|resource| {
            self.listed.contains(&resource.kind)
                || (resource.is_optional && self.trouble.get(&resource.kind) == Some(&Trouble::NotFound))
        })
    }

    /// The server that said something last.
    pub(super) fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// The first kind that we are refused, in words that tell a person what to do.
    pub(super) fn denied(&self) -> Option<String> {
        let denied = |trouble: &&Trouble| matches!(trouble, Trouble::Unauthorized(_) | Trouble::Forbidden(_));
        let (kind, trouble) = self.trouble.iter().find(|(_, trouble)| denied(trouble))?;
        Some(advice(&Resource::of(*kind), trouble))
    }

    /// Takes an event in.
    pub(super) fn apply(&mut self, objects: &mut Objects, event: Event) -> Effect {
        match event {
            Event::Page {
                kind,
                is_first,
                objects: read,
                refused,
            } => self.page(objects, kind, is_first, read, refused),
            Event::Listed { kind, server } => self.list_ends(objects, kind, server),
            Event::Watching { kind, server } => {
                self.well(kind);
                self.server = Some(server);
                Effect::default()
            }
            Event::Applied(object) => self.insert(objects, *object),
            Event::Refused(kind, refused) => {
                self.refuse(kind, refused);
                Effect::default()
            }
            Event::Removed(kind, name) => self.remove(objects, kind, &name),
            Event::Trouble(kind, trouble) => {
                self.note_trouble(kind, trouble);
                Effect::default()
            }
            Event::Doubted(kind) => {
                if self.doubted.insert(kind) {
                    tracing::warn!(
                        "the API server lists no {kind} at all, where there were some; they stay until it says so again at a later version"
                    );
                }
                Effect::default()
            }
            Event::OwnNode(found) => self.own_node_is(objects, found),
        }
    }

    fn page(
        &mut self,
        objects: &mut Objects,
        kind: Kind,
        is_first: bool,
        read: Vec<Object>,
        refused: Vec<Refused>,
    ) -> Effect {
        let seen = self.seen.entry(kind).or_default();
        if is_first {
            seen.clear();
        }
        seen.extend(read.iter().map(|object| object.meta().name.clone()));
        seen.extend(refused.iter().map(|refused| refused.name.clone()));
        for refused in refused {
            self.refuse(kind, refused);
        }
        let mut effect = Effect::default();
        for object in read {
            effect |= self.insert(objects, object);
        }
        effect
    }

    fn list_ends(&mut self, objects: &mut Objects, kind: Kind, server: String) -> Effect {
        let seen = self.seen.remove(&kind).unwrap_or_default();
        let gone: Vec<ObjectName> = objects
            .names(kind)
            .filter(|name| !seen.contains(*name))
            .cloned()
            .collect();
        let forgotten = |(other, name): &(Kind, ObjectName)| *other == kind && !seen.contains(name);
        self.refused.retain(|key, _| !forgotten(key));
        let mut effect = Effect {
            // Also when nothing is different: the kind may have been the last one to wait for.
            scope: self.listed.insert(kind).then_some(Scope::Whole),
            api_servers: kind == Kind::EndpointSlice,
            ask_for_node: false,
        };
        for name in gone {
            effect |= self.remove(objects, kind, &name);
        }
        self.well(kind);
        self.server = Some(server);
        effect
    }

    fn insert(&mut self, objects: &mut Objects, object: Object) -> Effect {
        let kind = object.kind();
        let name = object.meta().name.clone();
        self.refused.remove(&(kind, name.clone()));
        let mut effect = Effect {
            api_servers: matches!(&object, Object::EndpointSlice(slice) if is_api_server_slice(slice.service.as_ref())),
            ..Effect::default()
        };
        if kind == Kind::Node && *self.node == *name.name {
            effect |= self.node_is_back(objects);
        }
        if kind == Kind::Pod {
            self.orphans.remove(&name);
        }
        if !objects.holds(&object) {
            objects.insert(object);
            effect.changes(kind, &name);
        }
        effect
    }

    fn remove(&mut self, objects: &mut Objects, kind: Kind, name: &ObjectName) -> Effect {
        self.refused.remove(&(kind, name.clone()));
        if kind == Kind::Node && *self.node == *name.name {
            if self.own_node == OwnNode::There && objects.node(&self.node).is_some() {
                self.own_node = OwnNode::Doubted;
            }
            return Effect {
                ask_for_node: self.own_node == OwnNode::Doubted,
                ..Effect::default()
            };
        }
        if kind == Kind::Pod
            && self.own_node != OwnNode::There
            && objects
                .pods
                .get(name)
                .is_some_and(|pod| pod.node.as_deref() == Some(self.node.as_str()))
        {
            self.orphans.insert(name.clone());
            return Effect::default();
        }
        let mut effect = Effect {
            api_servers: kind == Kind::EndpointSlice,
            ..Effect::default()
        };
        if objects.remove(kind, name) {
            effect.changes(kind, name);
        }
        effect
    }

    /// What the API server says of our Node when asked for it by name.
    fn own_node_is(&mut self, objects: &mut Objects, found: Option<Box<Object>>) -> Effect {
        match found {
            Some(object) => self.insert(objects, *object),
            None if self.own_node == OwnNode::Doubted => {
                self.own_node = OwnNode::Gone;
                tracing::error!("{}", self.gone());
                Effect::default()
            }
            None => Effect::default(),
        }
    }

    fn node_is_back(&mut self, objects: &mut Objects) -> Effect {
        if self.own_node == OwnNode::Gone {
            tracing::info!("Node {:?} is there again", self.node);
        }
        self.own_node = OwnNode::There;
        let mut effect = Effect::default();
        for pod in std::mem::take(&mut self.orphans) {
            if objects.remove(Kind::Pod, &pod) {
                effect.changes(Kind::Pod, &pod);
            }
        }
        effect
    }

    fn refuse(&mut self, kind: Kind, refused: Refused) {
        let Refused { name, message } = refused;
        let before = self.refused.insert((kind, name.clone()), message.clone());
        if before.as_ref() != Some(&message) {
            tracing::error!("{kind} {name} is refused, what was known of it before stays: {message}");
        }
    }

    fn note_trouble(&mut self, kind: Kind, trouble: Trouble) {
        let resource = Resource::of(kind);
        // One server, one line, however many kinds it keeps us from and however often its turn comes.
        let is_cut = self.is_cut();
        if self.trouble.get(&kind) != Some(&trouble) {
            let advice = advice(&resource, &trouble);
            match &trouble {
                // Normal in a cluster that lives, or that has no such kind.
                Trouble::Gone => tracing::debug!("{advice}"),
                Trouble::Unreachable(_) if is_cut => tracing::debug!("{kind}: {advice}"),
                Trouble::NotFound if resource.is_optional => tracing::info!("{advice}"),
                Trouble::Unauthorized(_) | Trouble::Forbidden(_) => tracing::error!("{advice}"),
                _ => tracing::warn!("{advice}"),
            }
        }
        self.trouble.insert(kind, trouble);
    }

    fn well(&mut self, kind: Kind) {
        self.doubted.remove(&kind);
        match self.trouble.remove(&kind) {
            None | Some(Trouble::Gone) => {}
            Some(Trouble::Unreachable(_)) if self.is_cut() => {}
            Some(Trouble::Unreachable(_)) => tracing::info!("the API server answers again"),
            Some(_) => tracing::info!("{kind}: up to date again"),
        }
    }

    /// Whether there is a kind for which no server answers.
    fn is_cut(&self) -> bool {
        self.trouble
            .values()
            .any(|trouble| matches!(trouble, Trouble::Unreachable(_)))
    }

    fn gone(&self) -> String {
        format!(
            "Node {:?} was deleted from the cluster (asked for by name: 404 Not Found); its pods and last addresses stay \
             in force until it is there again. If this machine left the cluster, stop ringway on it",
            self.node
        )
    }

    /// What is wrong, one sentence each; unreachable servers once, however many kinds they keep us from.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = BTreeSet::new();
        for (kind, trouble) in &self.trouble {
            match trouble {
                Trouble::Gone => {}
                Trouble::NotFound if Resource::of(*kind).is_optional && !self.listed.contains(kind) => {}
                trouble => {
                    problems.insert(advice(&Resource::of(*kind), trouble));
                }
            }
        }
        problems.extend(self.doubted.iter().map(|kind| {
            format!("the API server lists no {kind} at all, where there were some; they stay until it says so again at a later version")
        }));
        match self.own_node {
            OwnNode::There => {}
            OwnNode::Doubted => {
                problems.insert(format!(
                    "Node {:?} is said to be deleted; asking for it by name",
                    self.node
                ));
            }
            OwnNode::Gone => {
                problems.insert(self.gone());
            }
        }
        let refused = self.refused.iter();
        problems.extend(refused.map(|((kind, name), message)| {
            format!("{kind} {name} is refused, what was known of it before stays: {message}")
        }));
        problems.into_iter().collect()
    }
}

impl Effect {
    /// An object is another one now, or gone.
    fn changes(&mut self, kind: Kind, name: &ObjectName) {
        let scope = match kind {
            Kind::EndpointSlice => Scope::Slices([name.clone()].into()),
            _ => Scope::Whole,
        };
        *self |= Self {
            scope: Some(scope),
            ..Self::default()
        };
    }
}

impl std::ops::BitOrAssign for Effect {
    fn bitor_assign(&mut self, other: Self) {
        self.scope = match (self.scope.take(), other.scope) {
            (Some(one), Some(other)) => Some(one.and(other)),
            (one, other) => one.or(other),
        };
        self.ask_for_node |= other.ask_for_node;
        self.api_servers |= other.api_servers;
    }
}

/// Whether a slice of this Service tells where the API servers are.
pub(super) fn is_api_server_slice(service: Option<&ObjectName>) -> bool {
    service.is_some_and(|service| service.namespace == "default" && service.name == "kubernetes")
}

/// What a person has to know and do.
fn advice(resource: &Resource, trouble: &Trouble) -> String {
    let name = resource.name();
    match trouble {
        Trouble::Unreachable(reason) => {
            format!("no answer from an API server, the last state stays in force: {reason}")
        }
        Trouble::Unauthorized(message) => format!(
            "401 Unauthorized: the API server does not accept our credentials ({message}); give a kubeconfig with a valid token or \
             certificate, or mount the service account's token"
        ),
        Trouble::Forbidden(message) => format!(
            "403 Forbidden: we may not list and watch {name} ({message}); add to our ClusterRole: {} (deploy/rbac.yaml has \
             all rules)",
            resource.rbac_rule()
        ),
        Trouble::NotFound => match (resource.custom_resource, resource.is_optional) {
            (Some(file), _) => {
                format!("404 Not Found: the cluster has no {name}; if it should, kubectl apply -f {file}")
            }
            (None, true) => format!("404 Not Found: the cluster has no {name}, so none are used"),
            (None, false) => {
                format!("404 Not Found: there is no {name}; expected the address of a Kubernetes API server")
            }
        },
        Trouble::Gone => format!("{name}: 410 Gone, listing again"),
        Trouble::Busy(reason) | Trouble::Failed(reason) => {
            format!("{name} cannot be read, what is known of them stays: {reason}")
        }
    }
}

#[cfg(test)]
mod tests;
