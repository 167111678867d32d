//! Tests the plan with configs as they are written.

use std::path::Path;

use super::*;

const CONFIG: &str = r#"
    stop_timeout = "5s"
    [model]
    package = "model"
    [generate]
    temperature = 0.5
    [buffer]
    token_age = "10m"
    [[camera]]
    name = "gate"
    url = "rtsp://127.0.0.1:1/gate"
    fps = 1
    [[camera]]
    name = "yard"
    url = "rtsp://127.0.0.1:1/yard"
    [[rule]]
    name = "person"
    question = "Is there a person?"
    cameras = ["gate"]
    [[webhook]]
    name = "phone"
    url = "http://127.0.0.1:1/"
"#;

fn config(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/lookout")).expect("a config")
}

/// Returns the plan for a config in which `from` is replaced.
fn changed(from: &str, to: &str) -> Plan {
    assert!(CONFIG.contains(from), "{from} is not in the config");
    plan(&config(CONFIG), &config(&CONFIG.replacen(from, to, 1))).expect("a plan")
}

fn camera_keys(plan: &Plan) -> Vec<(&str, &[&'static str], bool)> {
    plan.changed.iter().map(|c| (&*c.camera.name, &*c.keys, c.reconnects)).collect()
}

#[test]
fn the_same_config_changes_nothing() {
    let old = config(CONFIG);
    let plan = plan(&old, &old.clone()).expect("a plan");
    assert!(plan.removed.is_empty() && plan.added.is_empty() && plan.changed.is_empty());
    assert!(plan.settings.is_empty() && plan.needs_restart.is_empty());
    assert_eq!(plan.config, old);
}

#[test]
fn a_camera_reconnects_only_for_keys_of_its_connection() {
    for (key, line, reconnects) in [
        ("url", "url = \"rtsp://127.0.0.1:2/gate\"\nfps = 1", true),
        ("url", "url = \"rtsp://127.0.0.1:1/gate\"\nusername = \"me\"\nfps = 1", true),
        ("url", "url = \"rtsp://127.0.0.1:1/gate\"\ntransport = \"udp\"\nfps = 1", true),
        ("fps", "url = \"rtsp://127.0.0.1:1/gate\"\nfps = 2", true),
        (
            "masks",
            "url = \"rtsp://127.0.0.1:1/gate\"\nmasks = [{ polygon = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]] }]",
            true,
        ),
        ("stall_timeout", "url = \"rtsp://127.0.0.1:1/gate\"\nstall_timeout = \"9s\"", true),
        ("decode_frames", "url = \"rtsp://127.0.0.1:1/gate\"\ndecode_frames = \"keyframes\"", true),
        ("paused", "url = \"rtsp://127.0.0.1:1/gate\"\npaused = true", true),
        ("window", "url = \"rtsp://127.0.0.1:1/gate\"\nwindow = \"20s\"", false),
        ("caption_prompt", "url = \"rtsp://127.0.0.1:1/gate\"\ncaption_prompt = \"Who?\"", false),
        ("caption_prompt", "url = \"rtsp://127.0.0.1:1/gate\"\ncaptions = false", false),
    ] {
        let plan = changed("url = \"rtsp://127.0.0.1:1/gate\"\n    fps = 1", line);
        assert_eq!(camera_keys(&plan), [("gate", &[key][..], reconnects)], "{line}");
        assert!(plan.added.is_empty() && plan.removed.is_empty() && plan.needs_restart.is_empty());
    }
}

#[test]
fn cameras_are_added_and_removed_by_their_names() {
    let plan = changed("name = \"yard\"", "name = \"hall\"");
    assert_eq!(plan.removed, ["yard".into()]);
    assert_eq!(plan.added.iter().map(|camera| &*camera.name).collect::<Vec<_>>(), ["hall"]);
    assert!(plan.changed.is_empty());
}

#[test]
fn rules_targets_and_limits_change_while_the_daemon_runs() {
    for (from, to, setting) in [
        ("a person?", "a dog?", "rule \"person\" changed"),
        ("cameras = [\"gate\"]", "on = 0.9", "rule \"person\" changed"),
        ("name = \"person\"", "name = \"dog\"", "rule \"person\" removed"),
        ("name = \"phone\"", "name = \"office\"", "target \"office\" added"),
        (":1/\"\n", ":2/\"\n", "target \"phone\" changed"),
        ("temperature = 0.5", "temperature = 0.6", "generate.temperature changed"),
        ("temperature = 0.5", "max_waiting_questions = 3", "generate.temperature changed"),
        (
            "temperature = 0.5",
            "max_waiting_questions = 3",
            "generate.max_waiting_questions changed",
        ),
        ("token_age = \"10m\"", "token_age = \"11m\"", "buffer.token_age changed"),
        ("token_age = \"10m\"", "jpeg_bytes = \"1 MiB\"", "buffer.jpeg_bytes changed"),
        ("stop_timeout = \"5s\"", "stop_timeout = \"6s\"", "stop_timeout changed"),
        ("stop_timeout", "drop_in_folder = \"x\"\nstop_timeout", "drop_in_folder changed"),
    ] {
        let plan = changed(from, to);
        assert!(plan.settings.contains(&setting.to_owned()), "{to}: {:?}", plan.settings);
        assert!(plan.needs_restart.is_empty(), "{to}: {:?}", plan.needs_restart);
        assert_eq!(plan.config, config(&CONFIG.replacen(from, to, 1)), "{to}");
    }
}

#[test]
fn a_key_that_needs_a_restart_keeps_its_value_and_the_others_are_applied() {
    for (from, to, key) in [
        ("package = \"model\"", "package = \"other\"", "model.package"),
        (
            "package = \"model\"",
            "package = \"model\"\nsystem_prompt = \"Be brief.\"",
            "model.system_prompt",
        ),
        (
            "temperature = 0.5",
            "temperature = 0.5\nanswer_prefix = \"So\"",
            "generate.answer_prefix",
        ),
        ("temperature = 0.5", "temperature = 0.5\nmax_new_tokens = 9", "generate.max_new_tokens"),
        ("[buffer]", "[buffer]\njpeg_width = 64", "buffer.jpeg_width"),
        ("[buffer]", "[buffer.disk]\nfolder = \"x\"\n[buffer]", "buffer.disk.folder"),
        ("[buffer]", "[journal]\nfolder = \"x\"\n[buffer]", "journal.folder"),
        ("[buffer]", "[grpc]\nenabled = false\n[buffer]", "grpc.enabled"),
        ("[buffer]", "[http]\nconnections = 7\n[buffer]", "http.connections"),
        ("[buffer]", "[mqtt]\nbroker = \"mqtt://h\"\n[buffer]", "mqtt"),
        ("stop_timeout", "hang_timeout = \"9s\"\nstop_timeout", "hang_timeout"),
    ] {
        let text = CONFIG.replacen(from, to, 1).replacen("a person?", "a dog?", 1);
        let old = config(CONFIG);
        let plan = plan(&old, &config(&text)).expect("a plan");
        assert_eq!(plan.needs_restart, [key], "{to}");
        assert_eq!(plan.settings, ["rule \"person\" changed"], "{to}");
        let expected = Config { rules: plan.config.rules.clone(), ..old };
        assert_eq!(plan.config, expected, "{to}: the rest is as before");
    }
}

#[test]
fn the_new_cameras_must_fit_the_values_that_stay() {
    // The clip fits the new encoded_age, which needs a restart.
    let text = CONFIG.replacen("[buffer]", "[buffer]\nencoded_age = \"20m\"", 1).replacen(
        "cameras = [\"gate\"]",
        "clip = \"alert\"\nclip_before = \"10m\"",
        1,
    );
    let error = plan(&config(CONFIG), &config(&text)).expect_err("too long").to_string();
    assert!(error.contains("buffer.encoded_age") && error.contains("restart"), "{error}");
}

#[test]
fn a_certificate_changes_while_the_daemon_runs_but_tls_begins_with_a_start() {
    let tls = |file: &str| format!("[tls]\ncert_file = \"{file}\"\nkey_file = \"k\"\n[buffer]");
    let with = |file: &str| config(&CONFIG.replacen("[buffer]", &tls(file), 1));
    let changed = plan(&with("a"), &with("b")).expect("a plan");
    assert_eq!(changed.settings, ["tls.cert_file changed"]);
    assert_eq!((changed.needs_restart.len(), changed.config), (0, with("b")));
    let begun = plan(&config(CONFIG), &with("a")).expect("a plan");
    assert_eq!(begun.needs_restart, ["tls.cert_file", "grpc.tls", "http.tls"]);
    assert_eq!((begun.settings.len(), begun.config), (0, config(CONFIG)));
}
