//! The whole pipeline over ring ports: desired state → compile → worker → frames. Each test accounts for all that moved.

#![allow(
    dead_code,
    clippy::cast_sign_loss,
    clippy::unused_self,
    clippy::type_complexity,
    clippy::needless_range_loop,
    reason = "the harness is shared with the fuzz targets; tables of cases are types of their own"
)]
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
mod plain;
mod policy;
mod restart;
mod robust;
mod service;
mod tunnel;
mod workers;
