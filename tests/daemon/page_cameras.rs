//! The view Cameras of the page in a real browser: cameras are added, changed, paused and removed.

use std::fs;

use crate::browser;
use crate::support::*;

#[test]
fn cameras_are_added_and_changed_on_the_page() {
    let folder = folder();
    let dir = folder.path();
    let clips = ["drive", "gate"].map(|name| (name, clip(name)));
    let streams = clips.each_ref().map(|(name, file)| (*name, file.as_path()));
    let server = Cameras::start(dir, 0, &streams, &[]);
    let (grpc, http) = (free_port(), free_port());
    let config = head(grpc, http, None) + &camera("gate", &server.url("gate"), "");
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let address = format!("http://127.0.0.1:{http}/");
    let away = format!("127.0.0.1:{}", free_port());
    browser::run("cameras.mjs", &[&address, &server.url("drive"), &away], |wanted| {
        let porch = fs::read_to_string(dir.join("lookout.d/porch.toml")).unwrap_or_default();
        match wanted {
            "the password is stored" => {
                assert!(porch.contains(&format!("rtsp://me:Pl%40nted@{away}/live")), "{porch}");
            }
            "the rate is stored, too" => {
                assert!(porch.contains("fps = 2"), "{porch}");
                assert!(porch.contains("me:Pl%40nted@"), "{porch}");
            }
            other => panic!("the script wants {other:?}"),
        }
    });
    let unchanged = fs::read_to_string(dir.join("lookout.toml")).expect("the config");
    assert_eq!(unchanged, config, "the config file is never written");
    let names = fs::read_dir(dir.join("lookout.d")).expect("drop-ins").count();
    assert_eq!(names, 0, "removed cameras leave a file");
    let log = daemon.process.log();
    assert!(!log.contains("Pl%40nted") && !log.contains("Pl@nted"), "the log has the password");
}
