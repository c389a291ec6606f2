//! The fuzz targets: what each does with one input. `tests/fuzz` runs them under libFuzzer, `tests/tests/corpora.rs` replays the
//! committed corpora through them on stable.

pub mod captures;
pub mod contract_frame;
pub mod contract_state;
pub mod control_manifest;
mod input;
pub mod pipeline;
pub mod wire_embedded;
pub mod wire_nd;
pub mod wire_packet;
pub mod wire_vxlan;

/// What a target does with one input. It panics where a promise is broken.
pub type Run = fn(&[u8]);

/// Every target, by the name of its corpus.
pub const TARGETS: &[(&str, Run)] = &[
    ("captures", captures::run),
    ("contract_frame", contract_frame::run),
    ("contract_state", contract_state::run),
    ("control_manifest", control_manifest::run),
    ("pipeline", pipeline::run),
    ("wire_embedded", wire_embedded::run),
    ("wire_nd", wire_nd::run),
    ("wire_packet", wire_packet::run),
    ("wire_vxlan", wire_vxlan::run),
];
