//! The page in a real browser, on a daemon with the demo's cameras: every view, on a desktop and a
//! phone, light and dark, and through a restart of the daemon.

use std::path::Path;
use std::time::Duration;

use crate::browser;
use crate::support::*;

#[test]
fn every_view_works_in_a_browser() {
    let folder = folder();
    let dir = folder.path();
    let clips = ["drive", "gate", "yard"].map(|name| (name, clip(name)));
    let streams = clips.each_ref().map(|(name, file)| (*name, file.as_path()));
    let cameras = Cameras::start(dir, 0, &streams, &[]);
    let config = config(dir, &cameras);
    let (grpc, http) = (free_port(), free_port());
    let start = || Daemon::with_config(dir, &config(grpc, http), grpc, http);
    let mut daemon = Some(start());
    let address = format!("http://127.0.0.1:{http}/");
    browser::run("views.mjs", &[&address], |wanted| match wanted {
        "stop" => {
            let mut stopped = daemon.take().expect("a daemon");
            stopped.process.signal(libc::SIGTERM);
            stopped.process.ended(Duration::from_secs(30));
        }
        "start" => daemon = Some(start()),
        other => panic!("the script wants {other:?}"),
    });
}

/// Returns the config of a daemon with a journal, the search by meaning, three cameras and one
/// that cannot be reached.
fn config(dir: &Path, cameras: &Cameras) -> impl Fn(u16, u16) -> String {
    let away = format!("rtsp://127.0.0.1:{}/garden", free_port());
    let all = ["drive", "gate", "yard"].map(|name| camera(name, &cameras.url(name), ""));
    let all = all.concat() + &camera("garden", &away, "");
    let model = repository().join("target/embedding/all-MiniLM-L6-v2");
    let journal = dir.join("journal");
    move |grpc, http| {
        head(grpc, http, None)
            + &format!("[journal]\nfolder = {journal:?}\n[search]\nmodel = {model:?}\n{all}")
    }
}
