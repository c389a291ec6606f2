//! The XDP programs that feed our sockets, and the bpf(2) calls that they take.
//!
//! [`PodProgram`] takes every packet of a pod's link; [`Steer`] takes from an uplink only what is ours.
//! `docs/decisions/0004-bpf-loading.md` says why both are loaded the way they are.

mod attach;
mod heartbeat;
mod pins;
mod pod;
mod steer;
mod sys;

pub use attach::AttachError;
pub use heartbeat::Heartbeats;
pub use pod::PodProgram;
pub use steer::{AddressKinds, QUEUES_MAX, Steer, SteerConfig, SteerCounters, WORKERS_MAX};
