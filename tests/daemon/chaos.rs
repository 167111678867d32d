//! Runs one daemon while everything around it fails repeatedly: the host's clock steps forward and
//! back, the disk fills up, the folder loses its permissions, the broker is killed, questions flood
//! in. Every caption that was due is published or counted, memory does not grow, and the daemon
//! never restarts.
//!
//! One round takes 40 s, which is the default; `LOOKOUT_CHAOS` sets another number of seconds
//! (`make chaos`: 600).

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::host_clock::HostClock;
use crate::support::small_disk::{OBEYS_PERMISSIONS, SmallDisk, is_root};
use crate::support::*;
use serde_json::Value;

const CAMERAS: [&str; 2] = ["gate", "yard"];
const WINDOW: f64 = 4.0;
const EVERY: f64 = 2.0;
const ROUND: Duration = Duration::from_secs(40);

/// Starts a daemon that has this clock, and that obeys a folder's permissions even as root.
fn daemon_of(clock: &HostClock, folder: &Path, config: &str, grpc: u16, http: u16) -> Daemon {
    let file = folder.join("lookout.toml");
    fs::write(&file, config).expect("config");
    let wrapper: &[&str] = if is_root() { &OBEYS_PERMISSIONS } else { &[] };
    let mut command = clock.command(wrapper, LOOKOUT);
    command.args(["run", "--config"]).arg(&file);
    Daemon::by(command, folder, grpc, http)
}

/// Asks valid and invalid questions over gRPC and MQTT.
fn flood(daemon: &Daemon, broker: u16) {
    let mut asked = Vec::new();
    for (at, last) in ["10s", "60y", "0s", "24h"].into_iter().cycle().take(24).enumerate() {
        let question =
            format!(r#"{{"question_id":"{at}","question":"Is there a person?","last":"{last}"}}"#);
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-p",
            &broker.to_string(),
            "-q",
            "1",
            "-t",
            "lookout/gate/ask",
            "-m",
            &question,
        ]);
        asked.push(command.spawn().expect("mosquitto_pub"));
        if at % 4 == 0 {
            let mut command = Command::new(LOOKOUT);
            command.args(["ask", "yard", "Is there a dog?", "--last", last]);
            command.args(["--server", &daemon.server]).stdout(Stdio::null()).stderr(Stdio::null());
            asked.push(command.spawn().expect("lookout ask"));
        }
    }
    for mut child in asked {
        child.wait().expect("an asker");
    }
}

#[test]
fn the_daemon_survives_all_failures_around_it() {
    let folder = folder();
    let dir = folder.path();
    fs::set_permissions(dir, Permissions::from_mode(0o755)).expect("permissions");
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate")), ("yard", &clip("yard"))], &[]);
    let port = free_port();
    let mut broker = Some(Broker::start(dir, port));
    let disk = SmallDisk::mount(dir.join("disk")).expect("a file system");
    let kept = disk.0.join("frames");
    let clock = HostClock::new(dir);
    let (grpc, http) = (free_port(), free_port());
    // The caches are full before memory is measured for the first time.
    let config = head(grpc, http, Some(port))
        .replace("[generate]", "[generate]\nprefix_cache_bytes = \"4 MiB\"")
        + &format!(
            "[buffer]\ntoken_age = \"10s\"\njpeg_age = \"20s\"\nreencode_cache_bytes = \"4 MiB\"\n\
             [buffer.disk]\nfolder = {kept:?}\nretention = \"1h\"\nbytes = \"4 MiB\"\n"
        )
        + &CAMERAS.map(|name| camera(name, &cameras.url(name), "")).concat();
    let mut daemon = daemon_of(&clock, dir, &config, grpc, http);
    let mut events = daemon.watch(dir);

    let mut seen = Vec::new();
    for name in CAMERAS {
        events.until("a caption", Duration::from_secs(30), &mut seen, |e| is_caption(e, name));
    }
    let (first, begun) = (seen.len(), Instant::now());
    let length = env::var("LOOKOUT_CHAOS").ok().and_then(|s| s.parse().ok());
    let length = length.map_or(ROUND, Duration::from_secs);
    let mut memory = Vec::new();
    let mut pause = |seconds: u64, daemon: &mut Daemon, seen: &mut Vec<Value>| {
        let until = Instant::now() + Duration::from_secs(seconds);
        for line in events.rest(until.saturating_duration_since(Instant::now())) {
            seen.push(serde_json::from_str(&line).expect("JSON"));
        }
        assert!(daemon.process.is_running(), "the daemon ended");
        memory.push(daemon.process.memory());
    };
    while begun.elapsed() < length {
        clock.set(3600);
        pause(5, &mut daemon, &mut seen);
        flood(&daemon, port);
        disk.fill();
        pause(6, &mut daemon, &mut seen);
        disk.empty();
        clock.set(-7200);
        pause(4, &mut daemon, &mut seen);
        fs::set_permissions(&kept, Permissions::from_mode(0o0)).expect("permissions");
        pause(6, &mut daemon, &mut seen);
        fs::set_permissions(&kept, Permissions::from_mode(0o755)).expect("permissions");
        drop(broker.take());
        pause(3, &mut daemon, &mut seen);
        broker = Some(Broker::start(dir, port));
        clock.set(14 * 86_400);
        pause(8, &mut daemon, &mut seen);
        flood(&daemon, port);
        clock.set(0);
        pause(6, &mut daemon, &mut seen);
    }
    let took = begun.elapsed();

    // Captions that were in progress at the end may still be missing: the tolerance is two.
    for name in CAMERAS {
        let published = seen[first..].iter().filter(|e| is_caption(e, name)).count() as f64;
        let counted =
            daemon.metric_sum("lookout_captions_skipped_total", &format!("camera=\"{name}\""));
        let due = (took.as_secs_f64() / EVERY).floor();
        println!("{name}: {published} captions and {counted} skipped of {due} due");
        assert!(
            (published + counted - due).abs() <= 2.0,
            "{name}: {published} + {counted} of {due}"
        );
        let last = seen.iter().rfind(|e| is_caption(e, name)).expect("a caption");
        let length = seconds(&last["window"]["to"]) - seconds(&last["window"]["from"]);
        assert!((length - WINDOW).abs() < 0.01, "{last}");
    }
    let sequences: Vec<u64> = seen.iter().filter_map(|e| e["sequence"].as_u64()).collect();
    assert!(sequences.windows(2).all(|pair| pair[1] == pair[0] + 1), "{sequences:?}");
    let steps = |e: &&Value| {
        let gaps = e["coverage"]["gaps"].as_array();
        gaps.is_some_and(|gaps| gaps.iter().any(|gap| gap["cause"] == "clock"))
    };
    assert!(seen.iter().filter(steps).count() >= 4, "steps of the clock are gaps");
    wait_for("the daemon to be well", Duration::from_secs(10), || {
        get(daemon.http, "/readyz").filter(|(status, _)| *status == 200)
    });
    let mut mqtt = subscribe(port, dir);
    wait_for("captions by MQTT", Duration::from_secs(10), || {
        mqtt.next(Duration::from_secs(1)).filter(|line| line.contains("/caption "))
    });
    let (early, late) = (memory[memory.len() / 3], memory[memory.len() - 1]);
    println!("{} captions in {took:?}, memory {} → {} MiB", seen.len(), early >> 20, late >> 20);
    assert!(late < early + early / 5, "memory grew: {memory:?}");
}
