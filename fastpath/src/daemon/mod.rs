//! `ringway-fastpath`: the threads around the workers.

pub mod config;
mod control;

/// Name and version of this program, for logs and the other side.
const SOFTWARE: &str = concat!("ringway-fastpath ", env!("CARGO_PKG_VERSION"));
