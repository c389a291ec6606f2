//! `tests::fuzz::contract_frame`, where its harness is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::contract_frame::run(bytes));
