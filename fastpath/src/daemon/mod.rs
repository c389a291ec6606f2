//! `ringway-fastpath`: the threads around the workers.

pub mod config;
