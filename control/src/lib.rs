//! Ringway's control plane: it reads cluster objects, resolves them for one node and pushes the outcome to fastpath.
//!
//! The path of a change is a row of pure functions with I/O at both ends:
//! [`source`] → [`object::Objects`] → [`resolve`] → [`contract::proto::State`] → [`diff`] → [`push`].

// Lints of libraries alone: helpers of integration tests may unwrap and be public.
#![warn(clippy::unwrap_used, unreachable_pub)]

pub mod assignment_file;
pub mod cni;
pub mod daemon;
pub mod diff;
pub mod ipam;
pub mod object;
pub mod push;
pub mod resolve;
pub mod source;
pub mod status;
mod uplink;
mod whole_file;
