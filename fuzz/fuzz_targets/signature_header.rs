//! The reader of `Stripe-Signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::properties::header(data));
