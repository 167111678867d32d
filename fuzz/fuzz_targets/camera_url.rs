//! Takes any text as a camera's URL, and shows it: no password may be seen.
#![no_main]

use std::path::Path;

use lookout::config::{Config, Source, masked};

libfuzzer_sys::fuzz_target!(|url: &str| {
    let _ = masked(url);
    let camera = format!("[model]\npackage = \"p\"\n[[camera]]\nname = \"gate\"\nurl = {url:?}\n");
    let Ok(config) = Config::parse(&camera, Path::new("/nowhere")) else { return };
    for camera in &config.cameras {
        let shown = format!("{} {:?}", camera.source, camera);
        let Source::Rtsp(rtsp) = &camera.source else { continue };
        let password = rtsp.password.as_ref().and_then(|password| password.read().ok());
        // A short one, or one that stands in the URL twice, may be something else's text.
        let Some(password) = password.filter(|password| password.len() > 8) else { continue };
        if url.matches(password.as_str()).count() == 1 {
            assert!(!shown.contains(&password), "{shown}");
        }
    }
});
