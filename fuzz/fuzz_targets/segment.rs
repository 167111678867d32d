//! Reads any bytes as a segment of the disk tier, and as its index.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lookout::disk::fuzz_segment(bytes));
