//! Labels, one copy of each set: the pods of a workload have the same ones.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::text::{Pool, Text};

/// Keys and values, in the order of the keys, each key once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<[(Text, Text)]>);

impl Labels {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Text> {
        let at = self
            .0
            .binary_search_by(|(other, _)| other.as_str().cmp(key))
            .ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// Whether there is a label of this key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// In the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// These, and one more or in place of the one of this key.
    pub fn with(&self, key: &str, value: &str) -> Self {
        let pairs = self.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        pairs.chain([(key, value)]).collect()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Default for Labels {
    fn default() -> Self {
        [("", ""); 0].into_iter().collect()
    }
}

/// Of equal keys the last one counts.
impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        static POOL: Pool<[(Text, Text)]> = Pool::new();
        let sorted: BTreeMap<Text, Text> = pairs
            .into_iter()
            .map(|(key, value)| (Text::shared(key.as_ref()), Text::shared(value.as_ref())))
            .collect();
        let sorted: Vec<(Text, Text)> = sorted.into_iter().collect();
        Self(POOL.share(&sorted))
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_by_its_key() {
        let labels: Labels = [("tier", "web"), ("app", "a"), ("tier", "db")]
            .into_iter()
            .collect();
        assert_eq!(labels.get("tier").map(Text::as_str), Some("db"));
        assert_eq!(labels.get("app").map(Text::as_str), Some("a"));
        assert!(!labels.contains_key("ap"));
        assert_eq!(labels.with("app", "b").get("app").map(Text::as_str), Some("b"));
        assert_eq!(labels.iter().count(), 2);
    }

    #[test]
    fn equal_sets_are_one() {
        let pairs = [("app", "x"), ("tier", "y")];
        let (a, b): (Labels, Labels) = (pairs.into_iter().collect(), pairs.into_iter().collect());
        assert!(Arc::ptr_eq(&a.0, &b.0));
    }
}
