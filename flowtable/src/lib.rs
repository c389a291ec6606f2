//! A bounded, lock-free concurrent flow table and snapshot publication.
