//! Cluster objects as Ringway sees them: the fields that matter to a packet, checked once, at the door.
//!
//! Every type is read by its own `Deserialize`, so that a wrong field is an error with a line. Fields that we do not
//! use are ignored (`docs/decisions/0003-objects.md` says why these types are our own).

mod block_affinity;
pub mod document;
mod endpoint_slice;
mod expression;
pub mod field;
mod ip_pool;
mod labels;
mod meta;
mod network_policy;
mod node;
mod pod;
mod selector;
mod service;
mod text;
pub mod write;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

pub use block_affinity::BlockAffinity;
pub use endpoint_slice::{Endpoint, EndpointPort, EndpointSlice};
pub use expression::Expression;
pub use ip_pool::{IpPool, IpReservation, ServiceCidr, Tunnel};
pub use labels::Labels;
pub use meta::{Metadata, ObjectName};
pub use network_policy::{NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule, PortSet};
pub use node::Node;
pub(crate) use node::parse_mac;
pub use pod::{NAME_LABEL, NamedPort, Namespace, Phase, Pod};
pub use selector::Selector;
pub use service::{Service, ServiceKind, ServicePort};
pub use text::Text;

/// Everything known about the cluster, in name order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// By name.
    pub nodes: BTreeMap<ObjectName, Node>,
    /// By name.
    pub namespaces: BTreeMap<ObjectName, Namespace>,
    /// By namespace and name.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// By namespace and name.
    pub services: BTreeMap<ObjectName, Service>,
    /// By namespace and name.
    pub endpoint_slices: BTreeMap<ObjectName, EndpointSlice>,
    /// By namespace and name.
    pub network_policies: BTreeMap<ObjectName, NetworkPolicy>,
    /// By name.
    pub service_cidrs: BTreeMap<ObjectName, ServiceCidr>,
    /// By name.
    pub ip_pools: BTreeMap<ObjectName, IpPool>,
    /// By name.
    pub ip_reservations: BTreeMap<ObjectName, IpReservation>,
    /// By name.
    pub block_affinities: BTreeMap<ObjectName, BlockAffinity>,
    /// How many objects of kinds that Ringway does not know, by `apiVersion Kind`.
    pub unknown_kinds: BTreeMap<String, usize>,
    /// Where each object was written, for messages; empty for objects that come from no file.
    pub locations: BTreeMap<(Kind, ObjectName), Location>,
}

/// A kind of object that Ringway reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// core/v1
    Node,
    /// core/v1
    Namespace,
    /// core/v1
    Pod,
    /// core/v1
    Service,
    /// discovery.k8s.io/v1
    EndpointSlice,
    /// networking.k8s.io/v1
    NetworkPolicy,
    /// networking.k8s.io/v1
    ServiceCidr,
    /// projectcalico.org/v3
    IpPool,
    /// projectcalico.org/v3
    IpReservation,
    /// crd.projectcalico.org/v1
    BlockAffinity,
}

/// One object of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant holds the kind of its name")]
pub enum Object {
    Node(Node),
    Namespace(Namespace),
    Pod(Pod),
    Service(Service),
    EndpointSlice(EndpointSlice),
    NetworkPolicy(NetworkPolicy),
    ServiceCidr(ServiceCidr),
    IpPool(IpPool),
    IpReservation(IpReservation),
    BlockAffinity(BlockAffinity),
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// As it was given.
    pub file: Arc<PathBuf>,
    /// From 1.
    pub line: u64,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Node,
        Self::Namespace,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
        Self::NetworkPolicy,
        Self::ServiceCidr,
        Self::IpPool,
        Self::IpReservation,
        Self::BlockAffinity,
    ];

    /// The kind that an object says it is, where Ringway knows it.
    pub fn parse(api_version: &str, kind: &str) -> Option<Self> {
        Some(match (api_version, kind) {
            ("v1", "Node") => Self::Node,
            ("v1", "Namespace") => Self::Namespace,
            ("v1", "Pod") => Self::Pod,
            ("v1", "Service") => Self::Service,
            ("discovery.k8s.io/v1", "EndpointSlice") => Self::EndpointSlice,
            ("networking.k8s.io/v1", "NetworkPolicy") => Self::NetworkPolicy,
            ("networking.k8s.io/v1" | "networking.k8s.io/v1beta1", "ServiceCIDR") => Self::ServiceCidr,
            ("projectcalico.org/v3" | "crd.projectcalico.org/v1", "IPPool") => Self::IpPool,
            ("projectcalico.org/v3" | "crd.projectcalico.org/v1", "IPReservation") => Self::IpReservation,
            ("projectcalico.org/v3" | "crd.projectcalico.org/v1", "BlockAffinity") => Self::BlockAffinity,
            _ => return None,
        })
    }

    /// Reads one object of this kind.
    pub fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<Object, D::Error> {
        Ok(match self {
            Self::Node => Object::Node(Deserialize::deserialize(deserializer)?),
            Self::Namespace => Object::Namespace(Deserialize::deserialize(deserializer)?),
            Self::Pod => Object::Pod(Deserialize::deserialize(deserializer)?),
            Self::Service => Object::Service(Deserialize::deserialize(deserializer)?),
            Self::EndpointSlice => Object::EndpointSlice(Deserialize::deserialize(deserializer)?),
            Self::NetworkPolicy => Object::NetworkPolicy(Deserialize::deserialize(deserializer)?),
            Self::ServiceCidr => Object::ServiceCidr(Deserialize::deserialize(deserializer)?),
            Self::IpPool => Object::IpPool(Deserialize::deserialize(deserializer)?),
            Self::IpReservation => Object::IpReservation(Deserialize::deserialize(deserializer)?),
            Self::BlockAffinity => Object::BlockAffinity(Deserialize::deserialize(deserializer)?),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ServiceCidr => "ServiceCIDR",
            Self::IpPool => "IPPool",
            Self::IpReservation => "IPReservation",
            Self::BlockAffinity => "BlockAffinity",
        })
    }
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Namespace(_) => Kind::Namespace,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::NetworkPolicy(_) => Kind::NetworkPolicy,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::IpPool(_) => Kind::IpPool,
            Self::IpReservation(_) => Kind::IpReservation,
            Self::BlockAffinity(_) => Kind::BlockAffinity,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &Metadata {
        match self {
            Self::Node(o) => &o.meta,
            Self::Namespace(o) => &o.meta,
            Self::Pod(o) => &o.meta,
            Self::Service(o) => &o.meta,
            Self::EndpointSlice(o) => &o.meta,
            Self::NetworkPolicy(o) => &o.meta,
            Self::ServiceCidr(o) => &o.meta,
            Self::IpPool(o) => &o.meta,
            Self::IpReservation(o) => &o.meta,
            Self::BlockAffinity(o) => &o.meta,
        }
    }
}

impl Objects {
    /// Adds `object`, in place of an older one of the same kind and name. Returns whether there was one.
    pub fn insert(&mut self, object: Object) -> bool {
        let name = object.meta().name.clone();
        match object {
            Object::Node(o) => self.nodes.insert(name, o).is_some(),
            Object::Namespace(o) => self.namespaces.insert(name, o).is_some(),
            Object::Pod(o) => self.pods.insert(name, o).is_some(),
            Object::Service(o) => self.services.insert(name, o).is_some(),
            Object::EndpointSlice(o) => self.endpoint_slices.insert(name, o).is_some(),
            Object::NetworkPolicy(o) => self.network_policies.insert(name, o).is_some(),
            Object::ServiceCidr(o) => self.service_cidrs.insert(name, o).is_some(),
            Object::IpPool(o) => self.ip_pools.insert(name, o).is_some(),
            Object::IpReservation(o) => self.ip_reservations.insert(name, o).is_some(),
            Object::BlockAffinity(o) => self.block_affinities.insert(name, o).is_some(),
        }
    }

    /// Whether the object of this kind and name is there and equal.
    pub fn holds(&self, object: &Object) -> bool {
        let name = &object.meta().name;
        match object {
            Object::Node(o) => self.nodes.get(name) == Some(o),
            Object::Namespace(o) => self.namespaces.get(name) == Some(o),
            Object::Pod(o) => self.pods.get(name) == Some(o),
            Object::Service(o) => self.services.get(name) == Some(o),
            Object::EndpointSlice(o) => self.endpoint_slices.get(name) == Some(o),
            Object::NetworkPolicy(o) => self.network_policies.get(name) == Some(o),
            Object::ServiceCidr(o) => self.service_cidrs.get(name) == Some(o),
            Object::IpPool(o) => self.ip_pools.get(name) == Some(o),
            Object::IpReservation(o) => self.ip_reservations.get(name) == Some(o),
            Object::BlockAffinity(o) => self.block_affinities.get(name) == Some(o),
        }
    }

    /// Removes an object. Returns whether there was one.
    pub fn remove(&mut self, kind: Kind, name: &ObjectName) -> bool {
        match kind {
            Kind::Node => self.nodes.remove(name).is_some(),
            Kind::Namespace => self.namespaces.remove(name).is_some(),
            Kind::Pod => self.pods.remove(name).is_some(),
            Kind::Service => self.services.remove(name).is_some(),
            Kind::EndpointSlice => self.endpoint_slices.remove(name).is_some(),
            Kind::NetworkPolicy => self.network_policies.remove(name).is_some(),
            Kind::ServiceCidr => self.service_cidrs.remove(name).is_some(),
            Kind::IpPool => self.ip_pools.remove(name).is_some(),
            Kind::IpReservation => self.ip_reservations.remove(name).is_some(),
            Kind::BlockAffinity => self.block_affinities.remove(name).is_some(),
        }
    }

    /// Names of the objects of a kind, in order.
    pub fn names(&self, kind: Kind) -> Box<dyn Iterator<Item = &ObjectName> + '_> {
        match kind {
            Kind::Node => Box::new(self.nodes.keys()),
            Kind::Namespace => Box::new(self.namespaces.keys()),
            Kind::Pod => Box::new(self.pods.keys()),
            Kind::Service => Box::new(self.services.keys()),
            Kind::EndpointSlice => Box::new(self.endpoint_slices.keys()),
            Kind::NetworkPolicy => Box::new(self.network_policies.keys()),
            Kind::ServiceCidr => Box::new(self.service_cidrs.keys()),
            Kind::IpPool => Box::new(self.ip_pools.keys()),
            Kind::IpReservation => Box::new(self.ip_reservations.keys()),
            Kind::BlockAffinity => Box::new(self.block_affinities.keys()),
        }
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Node => self.nodes.len(),
            Kind::Namespace => self.namespaces.len(),
            Kind::Pod => self.pods.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.endpoint_slices.len(),
            Kind::NetworkPolicy => self.network_policies.len(),
            Kind::ServiceCidr => self.service_cidrs.len(),
            Kind::IpPool => self.ip_pools.len(),
            Kind::IpReservation => self.ip_reservations.len(),
            Kind::BlockAffinity => self.block_affinities.len(),
        }
    }

    /// Every object, kind by kind, then in name order.
    pub fn iter(&self) -> impl Iterator<Item = write::ObjectRef<'_>> {
        Kind::ALL
            .iter()
            .flat_map(|kind| self.after(*kind, None))
            .map(|(_, object)| object)
    }

    /// The objects of a kind whose names come after `name`, or all of them.
    pub fn after<'o>(
        &'o self,
        kind: Kind,
        name: Option<&ObjectName>,
    ) -> Box<dyn Iterator<Item = (&'o ObjectName, write::ObjectRef<'o>)> + 'o> {
        use write::ObjectRef;

        fn of<'o, T>(
            objects: &'o BTreeMap<ObjectName, T>,
            name: Option<&ObjectName>,
            make: fn(&'o T) -> ObjectRef<'o>,
        ) -> Box<dyn Iterator<Item = (&'o ObjectName, ObjectRef<'o>)> + 'o> {
            let from = name.map_or(Bound::Unbounded, Bound::Excluded);
            let range = objects.range::<ObjectName, _>((from, Bound::Unbounded));
            Box::new(range.map(move |(name, object)| (name, make(object))))
        }

        match kind {
            Kind::Node => of(&self.nodes, name, ObjectRef::Node),
            Kind::Namespace => of(&self.namespaces, name, ObjectRef::Namespace),
            Kind::Pod => of(&self.pods, name, ObjectRef::Pod),
            Kind::Service => of(&self.services, name, ObjectRef::Service),
            Kind::EndpointSlice => of(&self.endpoint_slices, name, ObjectRef::EndpointSlice),
            Kind::NetworkPolicy => of(&self.network_policies, name, ObjectRef::NetworkPolicy),
            Kind::ServiceCidr => of(&self.service_cidrs, name, ObjectRef::ServiceCidr),
            Kind::IpPool => of(&self.ip_pools, name, ObjectRef::IpPool),
            Kind::IpReservation => of(&self.ip_reservations, name, ObjectRef::IpReservation),
            Kind::BlockAffinity => of(&self.block_affinities, name, ObjectRef::BlockAffinity),
        }
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(&ObjectName::new("", name))
    }

    /// How many objects of known kinds there are.
    pub fn len(&self) -> usize {
        Kind::ALL.iter().map(|kind| self.count(*kind)).sum()
    }

    /// Whether there is no object of a known kind.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
