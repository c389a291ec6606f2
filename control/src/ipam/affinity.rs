//! `BlockAffinity` as the allocator writes it: a claim on a block, made before the block and confirmed after it.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha1::{Digest as _, Sha1};

use super::block::{ApiVersion, object_name};
use super::store::{Stored, StoredMeta};

/// crd.projectcalico.org/v1 `BlockAffinity`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    #[serde(rename = "apiVersion")]
    api_version: ApiVersion,
    kind: Kind,
    metadata: StoredMeta,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Spec {
    cidr: IpNet,
    node: String,
    state: State,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
    /// A boolean in text: Calico's schema has it so.
    #[serde(default)]
    deleted: String,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// How far a claim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// It may be lost yet: nothing is routed by it.
    Pending,
    /// The block is the node's.
    Confirmed,
    /// The block is being given up.
    PendingDeletion,
}

impl Stored for Affinity {
    const KIND: &'static str = "BlockAffinity";
    const PLURAL: &'static str = "blockaffinities";

    fn meta(&self) -> &StoredMeta {
        &self.metadata
    }
}

impl Affinity {
    /// A claim of `node`.
    pub fn pending(cidr: IpNet, node: &str) -> Self {
        Self {
            api_version: ApiVersion::V1,
            kind: Kind::Affinity,
            metadata: StoredMeta::named(Self::name(cidr, node)),
            spec: Spec {
                cidr,
                node: node.to_owned(),
                state: State::Pending,
                holder: Some("host".to_owned()),
                deleted: "false".to_owned(),
                rest: Map::new(),
            },
        }
    }

    /// The name of its object: `a-10-0-0-0-26`.
    pub fn name(cidr: IpNet, node: &str) -> String {
        let block = object_name(cidr);
        let name = format!("{node}-{block}");
        if name.len() < NAME_LEN_MAX {
            return name;
        }
        // Two long names with one beginning must not become one.
        let hash = Sha1::digest(node);
        let hash = hash.iter().take(5);
        let hash = format!(
            "{:010x}",
            hash.fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
        );
        let room = NAME_LEN_MAX - 1 - block.len() - hash.len() - 2;
        let start: String = node.chars().take(room).collect();
        format!("{}-{block}-{hash}", start.trim_end_matches(['-', '.']))
    }

    /// The block.
    pub fn cidr(&self) -> IpNet {
        self.spec.cidr
    }

    /// Who claims it.
    pub fn node(&self) -> &str {
        &self.spec.node
    }

    /// Whether a node claims it, not something virtual.
    pub fn is_host(&self) -> bool {
        self.spec.holder.as_deref().is_none_or(|holder| holder == "host")
    }

    /// How far it is.
    pub fn state(&self) -> State {
        self.spec.state
    }

    /// The same, further or back.
    #[must_use]
    pub fn with_state(mut self, state: State) -> Self {
        self.spec.state = state;
        self
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "BlockAffinity")]
    Affinity,
}

/// Of an object's name.
const NAME_LEN_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_object_is_read_as_the_cluster_reads_it() {
        let cidr: IpNet = "10.0.0.64/26".parse().unwrap();
        let affinity = Affinity::pending(cidr, "node-a").with_state(State::Confirmed);
        assert_eq!(affinity.meta().name, "node-a-10-0-0-64-26");
        let text = serde_json::to_string(&affinity).unwrap();
        let read: crate::object::BlockAffinity = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&*read.node, read.cidr, read.is_confirmed),
            ("node-a", cidr, true)
        );
        let pending = serde_json::to_string(&affinity.with_state(State::Pending)).unwrap();
        assert!(
            !serde_json::from_str::<crate::object::BlockAffinity>(&pending)
                .unwrap()
                .is_confirmed
        );
    }

    #[test]
    fn long_names_stay_names_and_stay_apart() {
        let cidr: IpNet = "fd00:1234:5678:9abc:def0:1234:5678:9a80/122".parse().unwrap();
        let names = [("a".repeat(250), 'x'), ("a".repeat(250), 'y')];
        let names = names.map(|(start, end)| Affinity::name(cidr, &format!("{start}{end}")));
        assert!(names.iter().all(|name| name.len() < NAME_LEN_MAX));
        assert_ne!(names[0], names[1]);
    }
}
