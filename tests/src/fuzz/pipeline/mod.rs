//! A script of packets, time and changes through the real worker, over ring ports, on the cluster of fastpath's pipeline tests.
//!
//! Byte by byte: the first chooses the node (ports' capabilities, sizes of rings, memory and tables), then each step begins
//! with a byte that says what happens. Any bytes are a script, and so is each of their prefixes.

mod change;
#[path = "../../../../fastpath/tests/pipeline/cluster.rs"]
#[allow(
    missing_docs,
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "made for fastpath's own tests"
)]
mod cluster;
mod node;
mod oracle;
mod script;
mod template;

use super::input::Input;
pub(super) use cluster::{cluster, underlay};

/// One input.
pub fn run(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut node = node::Node::new(input.byte());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        script::step(&mut input, &mut node);
    }
    node.finish();
}

const STEPS_MAX: usize = 128;
