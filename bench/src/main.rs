//! Ringway's benchmarks.

fn main() {}
