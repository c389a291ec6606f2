//! The whole pipeline over ring ports: desired state → compile → worker → frames. Each test accounts for all that moved.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod cluster;
mod forward;
mod lab;
mod packet;
