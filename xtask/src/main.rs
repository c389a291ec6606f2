//! Ringway's one command: demo, test, bench, golden.

fn main() {}
