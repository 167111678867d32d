//! Alerts, clips, trials and live video in a real browser, on a daemon with a camera of the demo.

use crate::browser;
use crate::support::*;

/// A rule about the clip `drive`, which shows a car for 4 s of each 14 s.
const RULE: &str = r#"
[[rule]]
name = "car"
question = "Is there a car?"
of = "1/2"
cooldown = "0s"
severity = "critical"
clip = "alert"
clip_before = "2s"
clip_after = "1s"
"#;

#[test]
fn alerts_clips_trials_and_live_video_work_in_a_browser() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("drive", &clip("drive"))], &[]);
    let (grpc, http) = (free_port(), free_port());
    let journal = format!("[journal]\nfolder = {:?}\n", dir.join("journal"));
    let camera = camera("drive", &cameras.url("drive"), "");
    let config = head(grpc, http, None) + &journal + &camera + RULE;
    let _daemon = Daemon::with_config(dir, &config, grpc, http);
    browser::run("alerts.mjs", &[&format!("http://127.0.0.1:{http}/")], |wanted| {
        panic!("the script wants {wanted:?}")
    });
}
