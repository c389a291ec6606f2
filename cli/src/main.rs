//! The ringway command: lab, replay, status, flows, services, policy, drops.

fn main() {}
