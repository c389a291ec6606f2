//! Where cluster objects come from.

pub mod directory;
pub mod watch;
