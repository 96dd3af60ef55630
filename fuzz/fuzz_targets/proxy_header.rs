#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| a_chat::fuzzing::proxy_header(input));
