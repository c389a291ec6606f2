//! Ringway's labs, golden cases, reference model and end-to-end tests.
