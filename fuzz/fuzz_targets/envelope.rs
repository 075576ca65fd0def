//! The reader of an event's outside.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::properties::envelope(data));
