//! `IPAMBlock`: a block of a pool, who has it, and which of its addresses are whose. The object is Calico's
//! (`docs/decisions/0016-blocks-are-calicos-objects.md`).
//!
//! Addresses leave `unallocated` at its front and come back at its end, so the one that has been free for longest goes out
//! first. When one came back stands in an annotation of ours, for as long as it has to rest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::store::{Stored, StoredMeta};

/// Seconds since 1970. Nodes' clocks may differ by some.
pub type Seconds = u64;

/// crd.projectcalico.org/v1 `IPAMBlock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawBlock")]
pub struct Block {
    #[serde(rename = "apiVersion")]
    api_version: ApiVersion,
    kind: Kind,
    metadata: StoredMeta,
    spec: Spec,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    cidr: IpNet,
    /// `host:NODE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affinity: Option<String>,
    /// For each address the index of its attributes.
    allocations: Vec<Option<usize>>,
    unallocated: Vec<usize>,
    attributes: Vec<Attributes>,
    #[serde(default)]
    sequence_number: u64,
    #[serde(default)]
    sequence_number_for_allocation: BTreeMap<String, u64>,
    #[serde(default)]
    strict_affinity: bool,
    #[serde(default)]
    deleted: bool,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Who has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// One attachment of a pod, or one tunnel of a node: what is released together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle_id: Option<String>,
    /// `namespace`, `pod`, `node`, `type`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary: Option<BTreeMap<String, String>>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Attributes {
    /// Of a handle.
    pub fn of<const N: usize>(handle: &str, secondary: [(&str, &str); N]) -> Self {
        let secondary = secondary.map(|(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            handle_id: Some(handle.to_owned()),
            secondary: Some(secondary.into()),
            rest: Map::new(),
        }
    }

    /// One of [`Self::secondary`].
    pub fn get(&self, key: &str) -> Option<&str> {
        self.secondary.as_ref()?.get(key).map(String::as_str)
    }
}

#[derive(Deserialize)]
struct RawBlock {
    metadata: StoredMeta,
    spec: Spec,
}

impl TryFrom<RawBlock> for Block {
    type Error = String;

    fn try_from(RawBlock { metadata, spec }: RawBlock) -> Result<Self, String> {
        let wrong = |what: String| Err(format!("IPAMBlock {}: {what}", metadata.name));
        let host_bits = spec.cidr.max_prefix_len() - spec.cidr.prefix_len();
        if host_bits > HOST_BITS_MAX {
            return wrong(format!("{} is larger than any block may be", spec.cidr));
        }
        let len = 1_usize << host_bits;
        if spec.allocations.len() != len {
            return wrong(format!(
                "{} allocations for the {len} addresses of {}",
                spec.allocations.len(),
                spec.cidr
            ));
        }
        let attributes = spec.attributes.len();
        if let Some(index) = spec.allocations.iter().flatten().find(|i| **i >= attributes) {
            return wrong(format!("an allocation with attributes {index} of {attributes}"));
        }
        let mut seen = vec![false; len];
        for ordinal in &spec.unallocated {
            let is_new = seen
                .get_mut(*ordinal)
                .is_some_and(|seen| !std::mem::replace(seen, true));
            if !is_new || spec.allocations[*ordinal].is_some() {
                return wrong(format!(
                    "unallocated has {ordinal}, which is not free or there twice"
                ));
            }
        }
        Ok(Self {
            api_version: ApiVersion::V1,
            kind: Kind::Block,
            metadata,
            spec,
        })
    }
}

impl Stored for Block {
    const KIND: &'static str = "IPAMBlock";
    const PLURAL: &'static str = "ipamblocks";

    fn meta(&self) -> &StoredMeta {
        &self.metadata
    }
}

impl Block {
    /// A block of which nothing is given yet, for `node`.
    pub fn new(cidr: IpNet, node: &str) -> Self {
        let len = 1_usize << (cidr.max_prefix_len() - cidr.prefix_len()).min(HOST_BITS_MAX);
        Self {
            api_version: ApiVersion::V1,
            kind: Kind::Block,
            metadata: StoredMeta::named(object_name(cidr)),
            spec: Spec {
                cidr,
                affinity: Some(host(node)),
                allocations: vec![None; len],
                unallocated: (0..len).collect(),
                attributes: Vec::new(),
                sequence_number: 0,
                sequence_number_for_allocation: BTreeMap::new(),
                strict_affinity: false,
                deleted: false,
                rest: Map::new(),
            },
        }
    }

    /// The range.
    pub fn cidr(&self) -> IpNet {
        self.spec.cidr
    }

    /// Whether it is `node`'s.
    pub fn is_of(&self, node: &str) -> bool {
        self.node() == Some(node)
    }

    /// The node that has it.
    pub fn node(&self) -> Option<&str> {
        self.spec.affinity.as_deref()?.strip_prefix("host:")
    }

    /// Whether it has a holder of any kind: a node, or something virtual.
    pub fn has_holder(&self) -> bool {
        self.spec.affinity.is_some()
    }

    /// Gives it to `node`, or to nobody.
    pub fn set_node(&mut self, node: Option<&str>) {
        self.spec.affinity = node.map(host);
        self.spec.sequence_number += 1;
    }

    /// Whether no address of it is given.
    pub fn is_empty(&self) -> bool {
        self.spec.allocations.iter().all(Option::is_none)
    }

    /// Addresses that may be given, the one that has been free for longest first; `true` beside each that rests no more.
    pub fn free(&self, now: Seconds, rest_s: u64) -> impl Iterator<Item = (IpAddr, bool)> {
        let released = self.released();
        self.spec.unallocated.iter().map(move |ordinal| {
            let rested = released
                .get(ordinal)
                .is_none_or(|at| now.saturating_sub(*at) >= rest_s);
            (self.address(*ordinal), rested)
        })
    }

    /// Whether `address` is in it and free.
    pub fn is_free(&self, address: IpAddr) -> bool {
        let ordinal = self.ordinal(address);
        ordinal.is_some_and(|ordinal| self.spec.allocations[ordinal].is_none())
    }

    /// Addresses that are given, with whose they are.
    pub fn given(&self) -> impl Iterator<Item = (IpAddr, &Attributes)> {
        let given = self.spec.allocations.iter().enumerate();
        given.filter_map(|(ordinal, index)| Some((self.address(ordinal), &self.spec.attributes[(*index)?])))
    }

    /// Addresses of a handle.
    pub fn of_handle(&self, handle: &str) -> impl Iterator<Item = IpAddr> {
        let of_handle = move |(address, attributes): (IpAddr, &Attributes)| {
            (attributes.handle_id.as_deref() == Some(handle)).then_some(address)
        };
        self.given().filter_map(of_handle)
    }

    /// Whose an address is.
    pub fn holder(&self, address: IpAddr) -> Option<&Attributes> {
        let index = self.spec.allocations[self.ordinal(address)?]?;
        Some(&self.spec.attributes[index])
    }

    /// Gives `address` away. `false`: it is not free, or not in here.
    #[must_use]
    pub fn give(&mut self, address: IpAddr, to: &Attributes) -> bool {
        let Some(ordinal) = self.ordinal(address).filter(|_| self.is_free(address)) else {
            return false;
        };
        let spec = &mut self.spec;
        let index = spec.attributes.iter().position(|there| there == to);
        let index = index.unwrap_or_else(|| {
            spec.attributes.push(to.clone());
            spec.attributes.len() - 1
        });
        spec.allocations[ordinal] = Some(index);
        spec.unallocated.retain(|free| *free != ordinal);
        spec.sequence_number += 1;
        spec.sequence_number_for_allocation
            .insert(ordinal.to_string(), spec.sequence_number);
        true
    }

    /// Takes `address` back, if it is given and `whose` says so. Returns whether it was.
    pub fn take_back(&mut self, address: IpAddr, now: Seconds, whose: impl Fn(&Attributes) -> bool) -> bool {
        let Some(ordinal) = self.ordinal(address) else {
            return false;
        };
        let Some(index) = self.spec.allocations[ordinal].filter(|index| whose(&self.spec.attributes[*index]))
        else {
            return false;
        };
        let spec = &mut self.spec;
        spec.allocations[ordinal] = None;
        spec.unallocated.push(ordinal);
        spec.sequence_number += 1;
        spec.sequence_number_for_allocation.remove(&ordinal.to_string());
        if !spec.allocations.contains(&Some(index)) {
            spec.attributes.remove(index);
            for other in spec
                .allocations
                .iter_mut()
                .flatten()
                .filter(|other| **other > index)
            {
                *other -= 1;
            }
        }
        let mut released = self.released();
        released.insert(ordinal, now);
        // What has come back before counts for the order alone after a while.
        released.retain(|_, at| now.saturating_sub(*at) < REMEMBERED_S);
        let text = serde_json::to_string(&released).expect("numbers");
        self.metadata.annotations.insert(RELEASED.to_owned(), text);
        true
    }

    /// When ordinals came back. An annotation that is no good says nothing.
    fn released(&self) -> BTreeMap<usize, Seconds> {
        let text = self.metadata.annotations.get(RELEASED);
        text.and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default()
    }

    fn ordinal(&self, address: IpAddr) -> Option<usize> {
        if !self.spec.cidr.contains(&address) {
            return None;
        }
        usize::try_from(number(address) - number(self.spec.cidr.network())).ok()
    }

    fn address(&self, ordinal: usize) -> IpAddr {
        at(self.spec.cidr.network(), ordinal as u128)
    }
}

/// An address as a number.
pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address `offset` behind `first`.
pub(super) fn at(first: IpAddr, offset: u128) -> IpAddr {
    let number = number(first).wrapping_add(offset);
    match first {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// The name of a block's object: `10-0-0-0-26`.
pub(super) fn object_name(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

fn host(node: &str) -> String {
    format!("host:{node}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum ApiVersion {
    #[serde(rename = "crd.projectcalico.org/v1")]
    V1,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[serde(rename = "IPAMBlock")]
    Block,
}

/// IPv4 /20 and IPv6 /116.
const HOST_BITS_MAX: u8 = 12;
const RELEASED: &str = "ringway.io/released";
/// Longer than any rest that makes sense.
const REMEMBERED_S: u64 = 3600;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn free(block: &Block, now: Seconds) -> Vec<String> {
        let rested = block.free(now, 30).filter(|(_, rested)| *rested);
        rested.map(|(address, _)| address.to_string()).collect()
    }

    #[test]
    fn what_comes_back_goes_out_last_and_rests() {
        let mut block = Block::new("10.0.0.0/30".parse().unwrap(), "a");
        let (one, two) = (Attributes::of("one", []), Attributes::of("two", []));
        assert!(block.give(ip("10.0.0.0"), &one) && block.give(ip("10.0.0.1"), &two));
        assert!(!block.give(ip("10.0.0.1"), &one) && !block.give(ip("10.0.0.4"), &one));
        assert!(!block.take_back(ip("10.0.0.0"), 100, |a| *a == two), "another's");
        assert!(block.take_back(ip("10.0.0.0"), 100, |a| *a == one));
        assert!(!block.take_back(ip("10.0.0.0"), 100, |_| true), "twice");
        assert_eq!(free(&block, 101), ["10.0.0.2", "10.0.0.3"]);
        assert_eq!(free(&block, 130), ["10.0.0.2", "10.0.0.3", "10.0.0.0"]);
        assert_eq!(block.of_handle("two").collect::<Vec<_>>(), [ip("10.0.0.1")]);
        assert_eq!(block.holder(ip("10.0.0.1")), Some(&two));
    }

    #[test]
    fn an_object_of_calicos_is_written_back_with_all_that_it_had() {
        let text = r#"{"apiVersion":"crd.projectcalico.org/v1","kind":"IPAMBlock",
            "metadata":{"name":"fd00---126","resourceVersion":"7","uid":"u","labels":{"a":"b"}},
            "spec":{"cidr":"fd00::/126","affinity":"host:a","affinityClaimTime":"2026-01-01T00:00:00Z","allocations":[null,0,null,0],
            "unallocated":[2,0],"attributes":[{"handle_id":"k8s-pod-network.1","secondary":{"pod":"web","namespace":"default"},"newer":1}],
            "sequenceNumber":5,"sequenceNumberForAllocation":{"1":4,"3":5},"strictAffinity":false,"deleted":false}}"#;
        let mut block: Block = serde_json::from_str(text).unwrap();
        assert_eq!(
            serde_json::to_value(&block).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
        assert_eq!(block.meta().name, object_name(block.cidr()));
        assert!(block.take_back(ip("fd00::3"), 0, |a| a.get("pod") == Some("web")));
        assert_eq!(block.given().count(), 1);
        let order: Vec<String> = block.free(0, 0).map(|(a, _)| a.to_string()).collect();
        assert_eq!(order, ["fd00::2", "fd00::", "fd00::3"]);
    }

    #[test]
    fn an_object_that_contradicts_itself_is_refused() {
        let good = serde_json::to_value(Block::new("10.0.0.0/30".parse().unwrap(), "a")).unwrap();
        for (field, value, expected) in [
            (
                "allocations",
                serde_json::json!([null]),
                "1 allocations for the 4",
            ),
            (
                "allocations",
                serde_json::json!([0, null, null, null]),
                "attributes 0 of 0",
            ),
            ("unallocated", serde_json::json!([4]), "unallocated has 4"),
            ("unallocated", serde_json::json!([1, 1]), "unallocated has 1"),
            ("cidr", serde_json::json!("10.0.0.0/8"), "larger than any block"),
        ] {
            let mut bad = good.clone();
            bad["spec"][field] = value;
            let error = serde_json::from_value::<Block>(bad).unwrap_err().to_string();
            assert!(
                error.contains(expected) && error.contains("10-0-0-0-30"),
                "{error}"
            );
        }
    }
}
