#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| hybridlm_core::fuzz::sparse(data));
