//! `BlockAffinity`: which node has which block of a pool.

use ipnet::IpNet;
use serde::Deserialize;

use super::field::{Cidr, null_default};
use super::meta::{Metadata, RawMetadata, Scope};
use super::text::Text;

/// crd.projectcalico.org/v1 `BlockAffinity`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawAffinity")]
pub struct BlockAffinity {
    /// Name.
    pub meta: Metadata,
    /// The node that has the block, or claims it.
    pub node: Text,
    /// The block.
    pub cidr: IpNet,
    /// Whether the block is the node's: neither a claim that may be lost yet nor one that is being given up.
    pub is_confirmed: bool,
}

#[derive(Deserialize)]
struct RawAffinity {
    #[serde(default, deserialize_with = "null_default")]
    metadata: RawMetadata,
    spec: RawSpec,
}

#[derive(Deserialize)]
struct RawSpec {
    cidr: Cidr,
    node: String,
    #[serde(default, deserialize_with = "null_default")]
    state: String,
    /// `host`, or `virtual` for blocks that no node has.
    #[serde(default, rename = "type", deserialize_with = "null_default")]
    holder: String,
    #[serde(default, deserialize_with = "null_default")]
    deleted: String,
}

impl TryFrom<RawAffinity> for BlockAffinity {
    type Error = String;

    fn try_from(raw: RawAffinity) -> Result<Self, String> {
        let RawSpec {
            cidr: Cidr(cidr),
            node,
            state,
            holder,
            deleted,
        } = raw.spec;
        if node.is_empty() {
            return Err("spec.node is empty, expected the name of a node".to_owned());
        }
        Ok(Self {
            meta: raw.metadata.check(Scope::Cluster)?,
            node: Text::shared(&node),
            cidr,
            is_confirmed: state == "confirmed" && matches!(&*holder, "" | "host") && deleted != "true",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_confirmed_affinity_of_a_node_counts() {
        for (spec, expected) in [
            ("state: confirmed", true),
            ("state: confirmed, type: host, deleted: 'false'", true),
            ("state: pending", false),
            ("state: pendingDeletion", false),
            ("state: confirmed, deleted: 'true'", false),
            ("state: confirmed, type: virtual", false),
        ] {
            let text = format!("{{metadata: {{name: x}}, spec: {{node: a, cidr: 10.0.0.0/26, {spec}}}}}");
            let affinity: BlockAffinity = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(affinity.is_confirmed, expected, "{spec}");
        }
    }
}
