//! The XDP programs that feed our sockets, and the bpf(2) calls that they take.
//!
//! [`PodProgram`] takes every packet of a pod's link; [`Steer`] takes from an uplink only what is ours.
//! `docs/decisions/0004-bpf-loading.md` says why both are loaded the way they are.

mod attach;
mod pod;
mod sys;

pub use attach::AttachError;
pub use pod::PodProgram;
