//! `tests::fuzz::wire_packet`, where its harness is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::wire_packet::run(bytes));
