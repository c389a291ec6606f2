//! `tests::fuzz::control_manifest`, where its harness is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::control_manifest::run(bytes));
