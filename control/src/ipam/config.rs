//! `IPAMConfig`: what holds for all blocks.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::store::{Store, StoreError, Stored, StoredMeta};

/// What matters of the `IPAMConfig` named `default`; without one, what Calico takes then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// No borrowing from other nodes' blocks.
    pub strict_affinity: bool,
    /// Blocks that a node may have; none: as many as there are.
    pub blocks_max: Option<usize>,
}

impl Config {
    /// Asks the store.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(store: &impl Store) -> Result<Self, StoreError> {
        let object: Option<IpamConfig> = store.get("default").await?;
        let spec = object.map(|object| object.spec).unwrap_or_default();
        Ok(Self {
            strict_affinity: spec.strict_affinity,
            blocks_max: spec.max_blocks_per_host.filter(|max| *max > 0),
        })
    }
}

/// crd.projectcalico.org/v1 `IPAMConfig`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamConfig {
    metadata: StoredMeta,
    #[serde(default)]
    spec: Spec,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    strict_affinity: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_blocks_per_host: Option<usize>,
    #[serde(flatten)]
    rest: serde_json::Map<String, Value>,
}

impl Stored for IpamConfig {
    const KIND: &'static str = "IPAMConfig";
    const PLURAL: &'static str = "ipamconfigs";

    fn meta(&self) -> &StoredMeta {
        &self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::MemoryStore;
    use super::*;

    #[tokio::test]
    async fn without_an_object_borrowing_is_allowed() {
        let store = MemoryStore::default();
        assert_eq!(Config::read(&store).await.unwrap(), Config::default());
        let text = r#"{"apiVersion":"crd.projectcalico.org/v1","kind":"IPAMConfig","metadata":{"name":"default"},
            "spec":{"strictAffinity":true,"autoAllocateBlocks":true,"maxBlocksPerHost":3}}"#;
        let object: IpamConfig = serde_json::from_str(text).unwrap();
        store.create(&object).await.unwrap();
        let config = Config::read(&store).await.unwrap();
        assert_eq!((config.strict_affinity, config.blocks_max), (true, Some(3)));
    }
}
