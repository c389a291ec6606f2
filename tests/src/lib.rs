//! Ringway's golden cases: packets made by etherparse, replayed through the real pipeline, and what must come of each.
//!
//! A [`case::Case`] is written by hand in [`cases`]: a cluster, packets, and for every packet its verdict and the frames that
//! leave, as [`dissect::describe`] prints them. [`golden`] replays it with the `ringway replay` command, checks all of that and
//! compares every byte and counter with the files under `tests/golden/`.

pub mod binary;
pub mod capture;
pub mod case;
pub mod cases;
pub mod check;
pub mod cluster;
pub mod dissect;
pub mod fuzz;
pub mod golden;
pub mod interop;
pub mod live;
pub mod packet;
pub mod replay;
