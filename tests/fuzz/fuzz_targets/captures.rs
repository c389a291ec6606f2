//! `tests::fuzz::captures`, where its harness is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::captures::run(bytes));
