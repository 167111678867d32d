//! Reads any bytes as what a camera sends: RTSP messages, SDP and interleaved packets.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lookout::camera::fuzz_wire(bytes));
