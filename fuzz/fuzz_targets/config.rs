//! Reads any text as a config file.
#![no_main]

use std::path::Path;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = lookout::config::Config::parse(text, Path::new("/nowhere"));
});
