//! Tests changes of the config while the daemon runs, by `lookout reload` and by SIGHUP.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::windows::assert_windows_accounted_for;
use crate::support::*;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Number of times that a camera comes and goes, if `LOOKOUT_ROUNDS` does not say it.
const ROUNDS: usize = 8;

const RULE: &str = "[[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\n";

/// A daemon and its config file.
struct Setup {
    daemon: Daemon,
    file: std::path::PathBuf,
    head: String,
}

impl Setup {
    fn start(dir: &Path, broker: Option<u16>, cameras: &str) -> Setup {
        let (grpc, http) = (free_port(), free_port());
        let head = head(grpc, http, broker);
        let daemon = Daemon::with_config(dir, &(head.clone() + cameras), grpc, http);
        Setup { daemon, file: dir.join("lookout.toml"), head }
    }

    fn write(&self, rest: &str) {
        fs::write(&self.file, self.head.clone() + rest).expect("config");
    }

    /// Writes another config and reloads it. Returns what `lookout reload` prints.
    fn reload(&self, rest: &str) -> String {
        self.write(rest);
        let (code, out, error) = self.daemon.client(&["reload"]);
        assert_eq!(code, Some(0), "{error}");
        out
    }

    fn refused(&self, text: &str, why: &str) {
        fs::write(&self.file, text).expect("config");
        let (code, out, error) = self.daemon.client(&["reload"]);
        assert_eq!((code, &*out), (Some(1), ""), "{error}");
        assert!(error.contains("nothing was changed") && error.contains(why), "{why}: {error}");
    }

    fn cameras(&self) -> Vec<Value> {
        let (_, out, error) = self.daemon.client(&["cameras", "--json"]);
        let cameras = out.lines().map(serde_json::from_str);
        cameras.collect::<Result<_, _>>().unwrap_or_else(|e| panic!("{e}: {out} {error}"))
    }

    fn names(&self) -> Vec<String> {
        let names = self.cameras().into_iter().map(|camera| camera["name"].clone());
        names.map(|name| name.as_str().expect("a name").to_owned()).collect()
    }

    fn is_live(&self, name: &str) -> bool {
        let is_live = |camera: &Value| camera["name"] == name && camera["state"] == "live";
        self.cameras().iter().any(is_live)
    }

    /// Returns the numbers of the daemon's threads and of its open files.
    fn threads_and_files(&self) -> (usize, usize) {
        let count = |what: &str| {
            let folder = format!("/proc/{}/{what}", self.daemon.process.child.id());
            fs::read_dir(folder).expect("the daemon runs").count()
        };
        (count("task"), count("fd"))
    }
}

/// Returns the topics that the broker retains.
fn retained(broker: u16) -> Vec<String> {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-p", &broker.to_string(), "-t", "#", "--retained-only", "-W", "2", "-F", "%t"]);
    let output = command.output().expect("mosquitto_sub");
    String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect()
}

fn file_camera(name: &str, more: &str) -> String {
    camera(name, &format!("file:{}", clip("drive").display()), more)
}

#[test]
fn cameras_come_and_go_and_the_others_do_not_notice() {
    let folder = folder();
    let dir = folder.path();
    let broker = Broker::start(dir, free_port());
    let server = Cameras::start(dir, 0, &[("gate", &clip("drive")), ("hall", &clip("drive"))], &[]);
    // The windows are long enough for a loaded machine.
    let gate = camera("gate", &server.url("gate"), "").replace("\"2s\"", "\"4s\"");
    let hall = camera("hall", &server.url("hall"), "captions = false");
    let setup = Setup::start(dir, Some(broker.port), &gate);
    let mut watch = setup.daemon.watch(dir);
    let mut events = Vec::new();
    watch.until("a caption", PATIENCE, &mut events, |event| is_caption(event, "gate"));
    let rounds = rounds().unwrap_or(ROUNDS);
    let mut before = None;
    for round in 0..rounds {
        let out = setup.reload(&format!("{gate}{hall}{RULE}"));
        assert_eq!(out, "camera \"hall\" added\nrule \"car\" added\n");
        assert_eq!(setup.names(), ["gate", "hall"]);
        // Every second camera is removed before it has sent a frame.
        if round % 2 == 0 {
            wait_for("a live camera", PATIENCE, || setup.is_live("hall").then_some(()));
        }
        let out = setup.reload(&gate);
        assert_eq!(out, "camera \"hall\" removed\nrule \"car\" removed\n");
        assert_eq!(setup.names(), ["gate"]);
        if round == 1 {
            before = Some(setup.threads_and_files());
        }
    }
    let last = watch.until("a removal", PATIENCE, &mut events, |event| {
        is_state(event, "hall", "lost") && event["reason"] == "the camera was removed"
    });
    assert_eq!(last["camera"], "hall");
    while events.iter().filter(|event| is_caption(event, "gate")).count() < 4 {
        watch.until("a caption", PATIENCE, &mut events, |event| is_caption(event, "gate"));
    }
    // A reload that restarted the windows would move their ends.
    assert_windows_accounted_for(&events, "gate", 4.0, &setup.daemon.metrics());
    let is_disturbed = |event: &&Value| {
        event["camera"] == "gate" && event["kind"] == "camera_status" && event["state"] == "lost"
    };
    assert_eq!(events.iter().find(is_disturbed), None);
    numbers_are_unique(&events);

    // Threads and files of GStreamer and of finished requests end a little later.
    let (threads, files) = before.expect("two rounds");
    wait_for("the threads and files of the removed cameras to end", PATIENCE, || {
        let now = setup.threads_and_files();
        (now.0 <= threads + 4 && now.1 <= files + 4).then_some(())
    });
    let (_, metrics) = get(setup.daemon.http, "/metrics").expect("metrics");
    assert!(metrics.contains("camera=\"gate\"") && !metrics.contains("hall"), "{metrics}");
    assert!(!metrics.contains("rule=\"car\""), "{metrics}");
    wait_for("the retained topics of the removed camera to be deleted", PATIENCE, || {
        let topics = retained(broker.port);
        let is_gone = |topic: &String| topic.contains("hall") || topic.contains("/rule/");
        assert!(topics.iter().any(|topic| topic == "lookout/gate/status"), "{topics:?}");
        (!topics.iter().any(is_gone)).then_some(())
    });
}

/// Checks that no number of a camera names two frames.
fn numbers_are_unique(events: &[Value]) {
    let mut times: HashMap<(String, u64), Value> = HashMap::new();
    for event in events {
        for frame in event["frames"].as_array().into_iter().flatten() {
            let key = (event["camera"].to_string(), frame["number"].as_u64().expect("a number"));
            let time = times.entry(key).or_insert_with(|| frame["captured_at"].clone());
            assert_eq!(*time, frame["captured_at"], "a number of two frames");
        }
    }
    assert!(!times.is_empty());
}

#[test]
fn a_new_prompt_needs_no_connection_and_a_new_url_keeps_the_numbers_rising() {
    let folder = folder();
    let dir = folder.path();
    let setup = Setup::start(dir, None, &file_camera("gate", ""));
    let mut watch = setup.daemon.watch(dir);
    let mut events = Vec::new();
    watch.until("a caption", PATIENCE, &mut events, |event| is_caption(event, "gate"));
    let other = "caption_prompt = \"Is there a car?\"";
    assert_eq!(
        setup.reload(&file_camera("gate", other)),
        "camera \"gate\" changed: caption_prompt\n"
    );
    watch.until("a caption of the new prompt", PATIENCE, &mut events, |event| {
        is_caption(event, "gate") && event["prompt"] == "Is there a car?"
    });
    let connections = |events: &[Value]| {
        events.iter().filter(|event| is_state(event, "gate", "connecting")).count()
    };
    let connected = connections(&events);
    assert!(connected <= 1, "the camera was connected once");
    let newest = |event: &Value| event["frames"].as_array()?.last()?["number"].as_u64();
    let number = events.iter().filter_map(newest).max().expect("frames");

    let stalls = format!("{other}\nstall_timeout = \"9s\"");
    assert_eq!(
        setup.reload(&file_camera("gate", &stalls)),
        "camera \"gate\" changed: stall_timeout\n"
    );
    watch.until("a caption of newer frames", PATIENCE, &mut events, |event| {
        is_caption(event, "gate") && newest(event) > Some(number + 8)
    });
    numbers_are_unique(&events);
}

#[test]
fn a_bad_config_changes_nothing_and_what_needs_a_restart_is_named() {
    let folder = folder();
    let dir = folder.path();
    let gate = file_camera("gate", "captions = false");
    let setup = Setup::start(dir, None, &gate);
    let whole = setup.head.clone() + &gate;
    for (text, why) in [
        (whole.clone() + "[[camera", "lookout.toml"),
        (whole.replace("window", "windou"), "`windou`"),
        (setup.head.clone(), "no [[camera]] table"),
        (whole.clone() + &gate, "two cameras are named \"gate\""),
        (whole.clone() + RULE + "cameras = [\"yard\"]\n", "rule \"car\": cameras"),
        (whole.clone() + &RULE.replace("car?", "car? </s>"), "rule \"car\": question"),
        (whole.replace("captions = false", "caption_prompt = \"</s>\""), "caption_prompt"),
        (
            whole.clone() + "[[webhook]]\nname = \"w\"\nurl = \"http://h/\"\ntemplate = \"{{\"\n",
            "webhook \"w\"",
        ),
    ] {
        setup.refused(&text, why);
        assert_eq!(setup.names(), ["gate"]);
    }
    fs::remove_file(&setup.file).expect("remove");
    let (code, _, error) = setup.daemon.client(&["reload"]);
    assert!(code == Some(1) && error.contains("lookout.toml: cannot be read"), "{error}");

    // By SIGHUP the log has the result.
    setup.daemon.process.signal(libc::SIGHUP);
    wait_for("the refusal in the log", PATIENCE, || {
        let log = setup.daemon.process.log();
        let refusals = log.lines().filter(|line| {
            line.contains("reload: nothing was changed") && line.contains("cannot be read")
        });
        (refusals.count() == 2).then_some(())
    });
    let yard = file_camera("yard", "captions = false");
    let longer = setup.head.replace("max_new_tokens = 48", "max_new_tokens = 40");
    fs::write(&setup.file, longer + &gate + &yard).expect("config");
    let (code, out, error) = setup.daemon.client(&["reload"]);
    assert_eq!(code, Some(0), "{error}");
    assert_eq!(
        out,
        "camera \"yard\" added\ngenerate.max_new_tokens needs a restart; the running daemon keeps \
         the old value\n"
    );
    setup.write(&yard);
    setup.daemon.process.signal(libc::SIGHUP);
    wait_for("the reload", PATIENCE, || (setup.names() == ["yard"]).then_some(()));
}

#[test]
fn reloads_at_once_are_done_one_after_the_other_and_questions_about_a_removed_camera_end() {
    let folder = folder();
    let dir = folder.path();
    let gate = file_camera("gate", "captions = false");
    let yard = file_camera("yard", "captions = false");
    let setup = Setup::start(dir, None, &(gate.clone() + &yard));
    wait_for("a live camera", PATIENCE, || setup.is_live("yard").then_some(()));
    for round in 0..3 {
        let asks: Vec<_> = (0..3)
            .map(|_| {
                let mut command = Command::new(LOOKOUT);
                command.args(["ask", "yard", "Is there a car?", "--server", &setup.daemon.server]);
                Lines::of("ask", &mut command, dir)
            })
            .collect();
        setup.write(&gate);
        let reloads: Vec<_> = (0..4)
            .map(|_| {
                let mut command = Command::new(LOOKOUT);
                command.args(["reload", "--server", &setup.daemon.server]);
                Lines::of("reload", &mut command, dir)
            })
            .collect();
        for mut reload in reloads {
            assert_eq!(reload.process.ended(PATIENCE), Some(0), "{}", reload.process.log());
        }
        // Each has an answer from before, or is refused.
        for mut ask in asks {
            let ended = ask.process.ended(PATIENCE).expect("the question ends");
            let log = ask.process.log();
            assert!(ended == 0 || log.contains("yard"), "round {round}: {log}");
        }
        assert_eq!(setup.names(), ["gate"]);
        assert_eq!(setup.reload(&(gate.clone() + &yard)), "camera \"yard\" added\n");
        wait_for("a live camera", PATIENCE, || setup.is_live("yard").then_some(()));
    }
}

#[test]
fn cameras_are_added_changed_paused_and_removed_and_survive_a_kill() {
    let folder = folder();
    let dir = folder.path();
    let gate = file_camera("gate", "captions = false");
    let mut setup = Setup::start(dir, None, &gate);
    let text = fs::read_to_string(&setup.file).expect("config");
    let url = format!("file:{}", clip("drive").display());
    let done = |setup: &Setup, arguments: &[&str], result: &str| {
        let (code, out, error) = setup.daemon.client(&[&["camera"], arguments].concat());
        assert_eq!((code, out.trim_end()), (Some(0), result), "{arguments:?}: {error}");
    };
    let refused = |setup: &Setup, arguments: &[&str], why: &str| {
        let (code, out, error) = setup.daemon.client(&[&["camera"], arguments].concat());
        assert_eq!((code, &*out), (Some(1), ""), "{arguments:?}: {error}");
        assert!(error.contains(why), "{arguments:?}: {error}");
    };
    let state = |setup: &Setup, name: &str| {
        let mut cameras = setup.cameras().into_iter();
        cameras.find(|camera| camera["name"] == name).map(|camera| camera["state"].clone())
    };
    let line = text.lines().position(|line| line == "name = \"gate\"").expect("the camera") + 1;
    let place = format!("lookout.toml, line {line}");
    refused(&setup, &["remove", "gate"], &place);
    refused(&setup, &["update", "gate", "--set", "fps=3"], &place);
    refused(&setup, &["pause", "yard"], "no camera is named \"yard\"");
    refused(&setup, &["add", "gate", "--url", &url], "a camera is named \"gate\" already");
    refused(&setup, &["add", "../x", "--url", &url], "camera.name");
    refused(&setup, &["add", "yard", "--url", "http://me:Planted@h/"], "scheme \"http\"");
    refused(&setup, &["add", "yard", "--url", &url, "--set", "fsp=2"], "`fsp`");
    refused(&setup, &["add", "yard", "--url", &url, "--set", "fps=0"], "fps");
    refused(&setup, &["add", "yard", "--url", "file:none.mp4"], "force adds it anyway");
    assert!(!dir.join("lookout.d").exists(), "nothing was stored");

    done(&setup, &["add", "hall", "--url", &url, "--set", "window=4s"], "camera \"hall\" added");
    let secret = "rtsp://me:Planted@127.0.0.1:9/x";
    done(&setup, &["add", "yard", "--url", secret, "--force"], "camera \"yard\" added");
    assert_eq!(setup.names(), ["gate", "hall", "yard"]);
    let (_, out, _) = setup.daemon.client(&["cameras", "--json"]);
    assert!(!out.contains("Planted"), "{out}");
    wait_for("a live camera", PATIENCE, || setup.is_live("hall").then_some(()));
    let changed = "camera \"hall\" changed: caption_prompt";
    done(&setup, &["update", "hall", "--set", "caption_prompt=Who?"], changed);
    done(&setup, &["update", "hall", "--set", "caption_prompt=Who?"], "no change");
    done(&setup, &["update", "hall", "--reset", "caption_prompt"], changed);
    done(&setup, &["update", "hall", "--reset", "caption_prompt"], "no change");
    refused(&setup, &["update", "hall", "--reset", "fsp"], "`fsp`");
    refused(&setup, &["update", "hall", "--reset", "url"], "url is missing");
    refused(&setup, &["update", "hall", "--set", "window=soon"], "camera \"hall\": window: ");
    done(&setup, &["pause", "gate"], "camera \"gate\" changed: paused");
    done(&setup, &["pause", "hall"], "camera \"hall\" changed: paused");
    assert_eq!(state(&setup, "hall").expect("listed"), "paused");
    let (_, metrics) = get(setup.daemon.http, "/metrics").expect("metrics");
    assert!(!metrics.contains("lookout_camera_live{camera=\"gate\"}"), "{metrics}");

    // What was changed is there after a kill, and the config file is as it was.
    setup.daemon.process.signal(libc::SIGKILL);
    setup.daemon.process.ended(PATIENCE);
    let (grpc, http) = (free_port(), free_port());
    let head = head(grpc, http, None);
    setup.daemon = Daemon::with_config(dir, &(head.clone() + &gate), grpc, http);
    setup.head = head;
    assert_eq!(setup.names(), ["gate", "hall", "yard"]);
    assert_eq!(state(&setup, "gate").expect("listed"), "paused");
    assert_eq!(state(&setup, "hall").expect("listed"), "paused");
    done(&setup, &["resume", "gate"], "camera \"gate\" changed: paused");
    assert!(!dir.join("lookout.d/gate.toml").exists(), "the config file says the same");
    wait_for("a live camera", PATIENCE, || setup.is_live("gate").then_some(()));
    done(&setup, &["remove", "hall"], "camera \"hall\" removed");
    done(&setup, &["remove", "yard"], "camera \"yard\" removed");
    assert_eq!(setup.names(), ["gate"]);
    assert_eq!(fs::read_dir(dir.join("lookout.d")).expect("the folder").count(), 0);

    // A folder that cannot be written changes nothing.
    fs::remove_dir(dir.join("lookout.d")).expect("remove");
    fs::write(dir.join("lookout.d"), "a file").expect("write");
    refused(&setup, &["pause", "gate"], "drop_in_folder");
    assert_eq!(state(&setup, "gate").expect("listed"), "live");
}
