//! The packet path daemon.

fn main() {}
