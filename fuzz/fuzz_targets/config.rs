//! See `config` in the targets.
#![no_main]
#![allow(dead_code, reason = "each fuzzer uses one of the targets")]

#[path = "../../tests/it/corpus/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::config(data));
