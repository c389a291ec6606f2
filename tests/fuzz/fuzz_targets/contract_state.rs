//! `tests::fuzz::contract_state`, where its harness is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tests::fuzz::contract_state::run(bytes));
