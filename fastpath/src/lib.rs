//! Ringway's packet path: ports, workers, stages, compile.
//!
//! The packet path is a function of (batch, snapshot, flow table, now) to verdicts. Ports ([`io`]), the clock and the
//! cluster stay outside: `ringway-fastpath` feeds it from AF_XDP sockets and a Unix socket, `ringway replay` from captures.

// Lints of libraries alone: helpers of integration tests may unwrap and be public.
#![warn(clippy::unwrap_used, unreachable_pub)]

pub mod answer;
pub mod batch;
pub mod compile;
pub mod conntrack;
pub mod counters;
pub mod daemon;
pub mod flow;
pub mod fragment;
pub mod generations;
pub mod io;
pub mod netlink;
pub mod observe;
mod outbox;
mod owners;
pub mod port;
pub mod recent;
pub mod rng;
pub mod shared;
pub mod snapshot;
pub mod stage;
pub mod status;
pub mod table;
mod unanswered;
pub mod underlay;
pub mod verdict;
pub mod worker;
