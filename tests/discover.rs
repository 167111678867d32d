//! Tests `lookout discover` against ONVIF devices that check passwords, have wrong clocks, name
//! other hosts or send hostile replies, with streams of a real RTSP server.
#![cfg(feature = "demo")]

#[path = "support/onvif.rs"]
mod onvif;
mod support;

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lookout::config::{Config, Source};
use onvif::{Hostile, Onvif, PASSWORD, Password, Profile, Settings, USER};
use serde_json::Value;
use support::*;

const MAIN: Profile = ("main<1>", "H264", 2688, 1520, 20);
const SUB: Profile = ("sub", "H264", 640, 360, 15);
const SMALL: Profile = ("small", "H264", 320, 180, 15);
const SUB_H265: Profile = ("h265", "H265", 704, 576, 25);

/// Three years, by which some cameras are wrong until they are set.
const YEARS: i64 = 3 * 365 * 86_400;

/// Exit code, standard output and standard error.
type Output = (Option<i32>, String, String);

fn discover(folder: &Path, hosts: &[&Onvif], more: &[&str]) -> Output {
    let password = folder.join("password");
    fs::write(&password, format!("{PASSWORD}\n")).expect("a file");
    let mut command = Command::new(LOOKOUT);
    command.args(["discover", "--user", USER, "--password-file"]).arg(&password).args(more);
    hosts.iter().for_each(|host| _ = command.args(["--host", &host.host()]));
    let output = command.output().expect("lookout");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let output = (output.status.code(), text(&output.stdout), text(&output.stderr));
    // Neither the password nor a control character of a device is printed.
    for text in [&output.1, &output.2] {
        assert!(!text.contains(PASSWORD) && !text.contains("Pl%26nted"), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
    output
}

fn reports(output: &Output) -> Vec<Value> {
    let lines = output.1.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    lines.collect()
}

/// Starts an RTSP server. Returns it with the URL of a stream, for [`Settings::stream`].
fn streams(folder: &Path) -> (Cameras, String) {
    let h265 = repository().join("tests/media/open-gop.h265.mp4");
    let cameras = Cameras::start(folder, 0, &[("sub", &clip("gate")), ("h265", &h265)], &[]);
    let url = cameras.url("TOKEN");
    (cameras, url)
}

#[test]
fn the_smallest_profile_that_fits_is_tested_and_printed_as_a_config() {
    let folder = folder();
    let (_cameras, stream) = streams(folder.path());
    let device = Onvif::start(Settings {
        password: Password::Token,
        clock_ahead: -YEARS,
        profiles: vec![MAIN, SUB, SMALL, SUB_H265],
        stream,
        model: "IPC-42 (b)",
        ..Settings::default()
    });
    let output = discover(folder.path(), &[&device], &[]);
    assert_eq!(output.0, Some(0), "{output:?}");
    assert!(output.1.contains("H.265   704x576    25 frames/s"), "{}", output.1);
    // The output follows other tables in a config.
    let text = head(free_port(), free_port(), None) + &output.1;
    let config = Config::parse(&text, folder.path()).expect("a config");
    let camera = &config.cameras[0];
    assert_eq!((&*camera.name, camera.fps), ("ipc-42-b", 1.0));
    let Source::Rtsp(rtsp) = &camera.source else { panic!("{camera:?}") };
    assert_eq!(rtsp.url.path(), "/sub");
    assert_eq!(rtsp.username.as_deref(), Some(USER));
    let password = rtsp.password.as_ref().expect("a password").read().expect("a file");
    assert_eq!(password, PASSWORD);

    // Two profiles have this rate. H.265 is in the second media service alone.
    let output = discover(folder.path(), &[&device], &["--json", "--fps", "20"]);
    let report = reports(&output).remove(0);
    let chosen = &report["chosen"];
    assert_eq!(
        report["profiles"][chosen["profile"].as_u64().expect("a number") as usize]["token"],
        "h265"
    );
    assert!(chosen["tested"].as_str().is_some_and(|text| text.contains("H.265 ")), "{report}");
    assert!(chosen["reason"].as_str().is_some_and(|text| text.contains("20 frames/s")), "{report}");
    let package = repository().join("models/demo/package");
    let more = ["--json", "--package", package.to_str().expect("a path")];
    let report = reports(&discover(folder.path(), &[&device], &more)).remove(0);
    let reason = report["chosen"]["reason"].as_str().expect("a reason");
    assert!(!reason.contains("336"), "{reason}");
}

#[test]
fn an_old_device_with_http_digest_is_contacted_at_its_own_address_only() {
    let folder = folder();
    let (_cameras, stream) = streams(folder.path());
    // Another host of the network, which must not be contacted.
    let other = TcpListener::bind("127.0.0.2:0").expect("a port");
    let names = Some(other.local_addr().expect("an address").to_string());
    let device = Onvif::start(Settings {
        password: Password::Http,
        is_old: true,
        profiles: vec![MAIN, SUB, SUB_H265],
        stream: stream.replace("127.0.0.1", "admin:secret@127.0.0.2"),
        names: names.clone(),
        model: "Old",
        ..Settings::default()
    });
    let redirect =
        Onvif::start(Settings { hostile: Some(Hostile::Redirect), names, ..Settings::default() });
    let output = discover(folder.path(), &[&device, &redirect], &["--json"]);
    let reports = reports(&output);
    assert_eq!(output.0, Some(0), "{output:?}");
    assert_eq!(reports[0]["error"], Value::Null, "{}", reports[0]);
    let url = reports[0]["chosen"]["url"].as_str().expect("a URL");
    assert!(url.starts_with("rtsp://127.0.0.1:") && url.ends_with("/sub"), "{url}");
    assert!(reports[1]["error"].as_str().is_some_and(|why| why.contains("HTTP 307")), "{output:?}");
    let operations = device.operations();
    assert!(operations.iter().any(|name| name == "GetCapabilities"), "{operations:?}");
    other.set_nonblocking(true).expect("a socket");
    assert_eq!(other.accept().map(drop).map_err(|e| e.kind()), Err(ErrorKind::WouldBlock));
}

#[test]
fn each_failure_is_reported_and_the_other_devices_are_read() {
    let folder = folder();
    let (_cameras, stream) = streams(folder.path());
    let with = |settings: Settings| {
        let profiles = if settings.profiles.is_empty() { vec![SUB] } else { settings.profiles };
        Onvif::start(Settings { profiles, stream: stream.clone(), model: "M", ..settings })
    };
    let hostile = |hostile| with(Settings { hostile: Some(hostile), ..Settings::default() });
    let cases = [
        (with(Settings::default()), ""),
        (hostile(Hostile::Oversized), "it has more than 1024 KiB"),
        (hostile(Hostile::Endless), "no complete reply within 8 s"),
        (hostile(Hostile::Html), "it is text/html, not XML"),
        (hostile(Hostile::Bomb), "a DTD, which is not read"),
        (hostile(Hostile::Garbage), "the reply cannot be read"),
        (hostile(Hostile::Silent), "no complete reply within 8 s"),
        (
            with(Settings { password: Password::Basic, ..Settings::default() }),
            "asks for the password in clear, which is not sent",
        ),
        (
            with(Settings { profiles: vec![("x", "AV1", 640, 360, 9)], ..Settings::default() }),
            "no profile has a codec that plays",
        ),
        (
            with(Settings { profiles: vec![("gone", "H264", 640, 360, 9)], ..Settings::default() }),
            "no such stream",
        ),
    ];
    let devices: Vec<&Onvif> = cases.iter().map(|(device, _)| device).collect();
    let output = discover(folder.path(), &devices, &["--json"]);
    assert_eq!(output.0, Some(0), "{output:?}");
    for (report, (device, why)) in reports(&output).iter().zip(&cases) {
        assert_eq!(report["address"], device.host());
        let error = report["error"].as_str().unwrap_or_default();
        assert!(error.contains(why) && error.is_empty() == why.is_empty(), "{why}: {report}");
    }
    // A device that fails is no camera of the config.
    let output = discover(folder.path(), &devices[9..], &[]);
    assert_eq!(output.0, Some(1), "{output:?}");
    assert_eq!(output.1.parse::<toml::Table>().expect("TOML"), toml::Table::new());
}

#[test]
fn a_wrong_password_is_tried_once_and_a_missing_one_is_asked_for() {
    let folder = folder();
    for password in [Password::Token, Password::Http] {
        let settings = || Settings { password, profiles: vec![SUB], ..Settings::default() };
        let device = Onvif::start(settings());
        fs::write(folder.path().join("wrong"), "wr0ng").expect("a file");
        let run = |arguments: &[&str]| {
            let mut command = Command::new(LOOKOUT);
            command.args(["discover", "--json", "--host", &device.host()]).args(arguments);
            let output = command.current_dir(folder.path()).output().expect("lookout");
            assert_eq!(output.status.code(), Some(1));
            let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            report["error"].as_str().expect("an error").to_owned()
        };
        let error = run(&["--user", USER, "--password-file", "wrong"]);
        assert!(error.contains("wrong user or password"), "{error}");
        let asked =
            device.operations().iter().filter(|name| *name == "GetDeviceInformation").count();
        // HTTP digest needs the device's challenge first.
        assert_eq!(asked, if password == Password::Http { 2 } else { 1 });
        let error = run(&[]);
        assert!(error.contains("wants a user and a password: pass --user"), "{error}");
    }
}

#[test]
fn a_camera_is_added_to_the_running_daemon() {
    let folder = folder();
    let dir = folder.path();
    let (_cameras, stream) = streams(dir);
    let settings = || Settings {
        password: Password::Token,
        profiles: vec![SUB],
        stream: stream.clone(),
        ..Settings::default()
    };
    let devices = [Onvif::start(settings()), Onvif::start(settings())];
    let gate = camera("gate", &format!("file:{}", clip("drive").display()), "captions = false");
    let daemon = Daemon::start(dir, &[gate], None);
    let add = |hosts: &[&Onvif], name: &str| {
        discover(dir, hosts, &["--add", name, "--server", &daemon.server])
    };
    let output = add(&[&devices[0], &devices[1]], "hall");
    assert_eq!(output.0, Some(1), "{output:?}");
    assert!(output.2.contains("2 cameras work: wanted one; pass --host ADDRESS"), "{output:?}");
    let output = add(&[&devices[0]], "a b");
    assert!(output.0 == Some(2) && output.2.contains("1 to 64 letters"), "{output:?}");
    let output = add(&[&devices[0]], "hall");
    assert_eq!(output.0, Some(0), "{output:?}");
    assert!(output.1.ends_with("camera \"hall\" added\n"), "{output:?}");
    let drop_in = fs::read_to_string(dir.join("lookout.d/hall.toml")).expect("a drop-in");
    assert!(drop_in.contains("rtsp://view%3Cer:"), "the daemon has no user");
    wait_for("a live camera", Duration::from_secs(60), || {
        let (_, out, _) = daemon.client(&["cameras", "--json"]);
        let mut cameras = out.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        cameras.find(|camera: &Value| camera["name"] == "hall" && camera["state"] == "live")
    });
    let output = add(&[&devices[1]], "hall");
    assert_eq!(output.0, Some(1), "{output:?}");
    assert!(output.2.contains("a camera is named \"hall\" already"), "{output:?}");
}

#[test]
fn cameras_answer_a_multicast() {
    let folder = folder();
    let (_cameras, stream) = streams(folder.path());
    let settings = || Settings {
        password: Password::Token,
        clock_ahead: YEARS,
        profiles: vec![SUB],
        stream: stream.clone(),
        model: "M",
        ..Settings::default()
    };
    let devices = [Onvif::start(settings()), Onvif::start(settings())];
    devices.iter().for_each(Onvif::announce);
    let output = discover(folder.path(), &[], &["--interface", "127.0.0.1", "--json"]);
    assert_eq!(output.0, Some(0), "{output:?}");
    let reports = reports(&output);
    for device in &devices {
        let found: Vec<_> = reports.iter().filter(|r| r["address"] == device.host()).collect();
        assert_eq!(found.len(), 1, "{reports:?}");
        assert_eq!(found[0]["announced"], "Front Gate");
        assert!(found[0]["chosen"]["tested"].is_string(), "{}", found[0]);
    }
    let mut names: Vec<_> = reports.iter().map(|r| r["name"].to_string()).collect();
    names.dedup();
    assert_eq!(names.len(), reports.len(), "{names:?}");
}
