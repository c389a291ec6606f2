//! Persistent tables: a changed copy shares with the original all that did not change.
//!
//! Every table is a tree of nodes behind [`std::sync::Arc`]. `clone` copies a root; a change copies the nodes from the root to
//! the place that changes (path copying), or changes them where they are while nobody else holds them, which makes
//! building from nothing cheap. Lookups take `&self`, allocate nothing and touch one node per level.

pub mod chunks;
pub mod hash;
pub mod intervals;
pub mod ip_set;
pub mod lpm;
pub mod slots;
pub mod trie;
