//! Reads and checks any payload of a question by MQTT.
#![no_main]

libfuzzer_sys::fuzz_target!(|payload: &[u8]| lookout::publish::mqtt::fuzz_question(payload));
