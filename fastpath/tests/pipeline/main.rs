//! The whole pipeline over ring ports: desired state → compile → worker → frames. Each test accounts for all that moved.
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub)]

mod antispoof;
mod change;
mod cluster;
mod errors;
mod forward;
mod lab;
mod limits;
mod nat;
mod packet;
mod policy;
mod robust;
mod service;
mod tunnel;
