//! Tests questions about frames that have left the hot tier, then memory, and that outlived the
//! daemon: their JPEGs still answer them. Uses a real camera, a real disk, and every way in which
//! the disk fails.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::truth::{Sidecar, Verdict};
use crate::support::*;
use serde_json::Value;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

const QUESTIONS: [&str; 2] = ["Is there a person?", "What colour is the car?"];

/// Returns the buffer's config: six seconds hot, four more warm, all on disk; re-encoded tokens are
/// not cached.
fn tiers(folder: &Path, more: &str) -> String {
    format!(
        "[buffer]\ntoken_age = \"6s\"\njpeg_age = \"10s\"\nreencode_cache_bytes = \"0 B\"\n\
         [buffer.disk]\nfolder = {folder:?}\n{more}\n"
    )
}

fn start(dir: &Path, buffer: &str, cameras: &[String]) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    // The queue has two places, so that a place that is not released is noticed.
    let head =
        head(grpc, http, None).replace("[generate]", "[generate]\nmax_waiting_questions = 2");
    Daemon::with_config(dir, &(head + buffer + &cameras.concat()), grpc, http)
}

fn ask(daemon: &Daemon, camera: &str, question: &str, range: &[&str]) -> Value {
    let (code, answer, error) =
        daemon.client(&[&["ask", "--json", camera, question], range].concat());
    assert_eq!((code, error.as_str()), (Some(0), ""), "{range:?}");
    serde_json::from_str(&answer).expect("JSON")
}

fn ask_again(daemon: &Daemon, first: &Value) -> Value {
    let word = |value: &Value| value.as_str().expect("a word").to_string();
    let (from, to) = (word(&first["window"]["from"]), word(&first["window"]["to"]));
    let (camera, prompt) = (word(&first["camera"]), word(&first["prompt"]));
    ask(daemon, &camera, &prompt, &["--from", &from, "--to", &to])
}

fn tier(daemon: &Daemon, what: &str, camera: &str, tier: &str) -> f64 {
    daemon.metric(&format!("lookout_buffer_{what}{{camera=\"{camera}\",tier=\"{tier}\"}}"))
}

/// Returns the percentage of right answers among those that can be judged, and their number.
fn score(sidecars: &[(&str, Sidecar)], answers: &[Value]) -> (f64, usize) {
    let (mut right, mut judged) = (0, 0);
    for answer in answers {
        let of_it = |(name, _): &&(&str, Sidecar)| answer["camera"] == *name;
        let (_, sidecar) = sidecars.iter().find(of_it).expect("a sidecar");
        match sidecar.judge_answer(answer) {
            Verdict::Right => (right, judged) = (right + 1, judged + 1),
            Verdict::Wrong(_) => judged += 1,
            Verdict::NotJudged => {}
        }
    }
    (100.0 * f64::from(right) / f64::from(judged.max(1)), judged as usize)
}

fn compare(what: &str, sidecars: &[(&str, Sidecar)], hot: &[Value], again: &[Value]) {
    let same = hot.iter().zip(again).filter(|(a, b)| a["text"] == b["text"]).count();
    let ((hot_score, judged), (score, _)) = (score(sidecars, hot), score(sidecars, again));
    println!(
        "{what}: {score:.1} % right, hot {hot_score:.1} %, of {judged} judged; {same} of {} say the \
         same words",
        hot.len()
    );
    assert!(judged >= 10, "only {judged} answers can be judged");
    assert!((score - hot_score).abs() <= 2.0, "{what}: {score:.1} % right, hot {hot_score:.1} %");
    for (hot, again) in hot.iter().zip(again) {
        assert_eq!(again["frames"], hot["frames"]);
        assert_eq!(again["coverage"], hot["coverage"]);
        assert!(again["timing"]["encode_seconds"].as_f64() > Some(0.0), "{again}");
        assert_eq!(hot["timing"]["encode_seconds"], 0.0, "{hot}");
    }
}

#[test]
fn the_past_is_answered_as_accurately_as_the_present() {
    let folder = folder();
    let dir = folder.path();
    let names = ["gate", "yard"];
    let clips = names.map(clip);
    let cameras = Cameras::start(dir, 0, &[(names[0], &clips[0]), (names[1], &clips[1])], &[]);
    let sidecars: Vec<_> = names.iter().map(|name| (*name, Sidecar::of(name))).collect();
    let watched = names.map(|name| camera(name, &cameras.url(name), ""));
    let kept = dir.join("frames");
    let daemon = start(dir, &tiers(&kept, ""), &watched);
    let mut events = daemon.watch(dir);
    let (mut seen, mut hot) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while begun.elapsed() < SECONDS(45) {
        let caption = events.until("a caption", SECONDS(20), &mut seen, |e| e["kind"] == "caption");
        let (name, sequence) = (caption["camera"].as_str(), caption["sequence"].to_string());
        for question in QUESTIONS {
            hot.push(ask(&daemon, name.expect("a name"), question, &["--event", &sequence]));
        }
    }
    // Wait until the last of them is on disk only.
    std::thread::sleep(SECONDS(11));
    for name in names {
        for (what, most) in [("hot", 13.0), ("warm", 9.0)] {
            let frames = tier(&daemon, "frames", name, what);
            assert!(frames > 2.0 && frames <= most, "{frames} {what} frames of {name}");
        }
        assert!(tier(&daemon, "frames", name, "disk") > 60.0);
    }
    let files = fs::read_dir(&kept).expect("a folder");
    let on_disk: u64 =
        files.map(|file| file.expect("a file").metadata().expect("size").len()).sum();
    let reported: f64 = names.iter().map(|name| tier(&daemon, "bytes", name, "disk")).sum();
    assert!(
        (reported / on_disk as f64 - 1.0).abs() < 0.05,
        "{reported} bytes reported, {on_disk} on disk"
    );

    let before = daemon.metric("lookout_frames_reencoded_total{camera=\"gate\"}");
    let on_disk: Vec<Value> = hot.iter().map(|answer| ask_again(&daemon, answer)).collect();
    compare("on disk", &sidecars, &hot, &on_disk);
    assert!(daemon.metric("lookout_frames_reencoded_total{camera=\"gate\"}") > before);

    // JPEGs from disk, and the whole range, sampled.
    let picture = |daemon: &Daemon, frame: &Value| {
        let (run, number) = (frame["run"].to_string(), frame["number"].to_string());
        let file = dir.join("frame.jpg");
        let path = file.to_str().expect("path");
        let (code, _, error) =
            daemon.client(&["frame", "gate", &number, "--run", &run, "--output", path]);
        assert_eq!((code, error.as_str()), (Some(0), ""));
        fs::read(&file).expect("jpeg")
    };
    let of_gate = hot.iter().find(|answer| answer["camera"] == "gate").expect("an answer");
    let frame = &of_gate["frames"][3];
    let jpeg = picture(&daemon, frame);
    let size = turbojpeg::read_header(&jpeg).expect("a JPEG");
    assert_eq!((size.width, size.height), (192, 144));
    let all = ask(&daemon, "gate", QUESTIONS[0], &["--last", "45s", "--detail", "overview"]);
    assert_eq!(all["coverage"]["gaps"], Value::Array(Vec::new()), "{all}");
    assert_eq!(all["coverage"]["frames_used"], 8);

    // An asker that leaves while frames are read and re-encoded releases its place.
    for _ in 0..4 {
        let mut command = Command::new(LOOKOUT);
        command.args(["ask", "gate", QUESTIONS[0], "--last", "45s", "--server", &daemon.server]);
        let mut asker = Process::start("ask", command.stdout(Stdio::null()), dir);
        std::thread::sleep(Duration::from_millis(200));
        assert!(asker.is_running(), "nothing had to be encoded again");
        asker.signal(libc::SIGKILL);
        while asker.is_running() {}
    }
    wait_for("a free place", SECONDS(3), || {
        (daemon.client(&["ask", "gate", QUESTIONS[0]]).0 == Some(0)).then_some(())
    });
    assert_eq!(daemon.metric("lookout_waiting_jobs"), 0.0);

    // The daemon is killed and restarted: its frames on disk are still available, and runs are not
    // mixed up.
    daemon.process.signal(libc::SIGKILL);
    drop((daemon, events));
    // Longer than the pause that counts as a gap.
    std::thread::sleep(SECONDS(3));
    let daemon = start(dir, &tiers(&kept, ""), &watched);
    wait_for("frames of this run", SECONDS(20), || {
        (tier(&daemon, "frames", "gate", "hot") > 4.0).then_some(())
    });
    let after: Vec<Value> = hot.iter().map(|answer| ask_again(&daemon, answer)).collect();
    compare("of an earlier run", &sidecars, &hot, &after);
    assert_eq!(picture(&daemon, frame), jpeg);
    // On a loaded machine, the newest frame may be older for a moment.
    let recent = wait_for("an answer about the last seconds", SECONDS(60), || {
        let question = ["ask", "--json", "gate", QUESTIONS[0], "--last", "3s"];
        let (code, answer, _) = daemon.client(&question);
        (code == Some(0)).then(|| serde_json::from_str::<Value>(&answer).expect("JSON"))
    });
    assert!(recent["frames"][0]["run"].as_u64() > frame["run"].as_u64(), "{recent}");
    // A range over both runs, with the gap between them named.
    let from = hot[0]["window"]["from"].as_str().expect("a time");
    let over = ask(&daemon, "gate", QUESTIONS[0], &["--from", from, "--detail", "overview"]);
    let gaps = over["coverage"]["gaps"].as_array().expect("gaps");
    assert_eq!((gaps.len(), &gaps[0]["cause"]), (1, &"before_start".into()), "{over}");
    let runs = over["frames"].as_array().expect("frames").iter().map(|frame| &frame["run"]);
    assert_eq!(runs.collect::<std::collections::HashSet<_>>().len(), 2, "{over}");
}

#[test]
fn after_a_kill_every_complete_frame_is_restored() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let kept = dir.join("frames");
    let fast = camera("gate", &cameras.url("gate"), "captions = false").replace("= 2\n", "= 10\n");
    let mut whole = 0.0;
    for round in 0..4 {
        let daemon = start(dir, &tiers(&kept, ""), std::slice::from_ref(&fast));
        let found = tier(&daemon, "frames", "gate", "disk");
        assert!(found >= whole, "round {round}: {found} frames found, {whole} were written");
        let enough = whole + 15.0;
        wait_for("frames on disk", SECONDS(30), || {
            whole = tier(&daemon, "frames", "gate", "disk");
            (whole > enough).then_some(())
        });
        daemon.process.signal(libc::SIGKILL);
    }
    // A cut-off record is reported, and only that record is lost.
    let mut segments: Vec<_> =
        fs::read_dir(&kept).expect("a folder").map(|file| file.expect("a file").path()).collect();
    segments.retain(|path| path.extension().is_some_and(|end| end == "frames"));
    segments.sort();
    let newest = segments.last().expect("a segment");
    let file = fs::OpenOptions::new().write(true).open(newest).expect("the segment");
    file.set_len(file.metadata().expect("size").len() - 100).expect("cut off");
    let daemon = start(dir, &tiers(&kept, ""), std::slice::from_ref(&fast));
    let log = daemon.process.log();
    assert!(log.contains("bytes are skipped: incomplete record"), "{log}");
    let answer = ask(&daemon, "gate", QUESTIONS[0], &["--last", "1h", "--detail", "overview"]);
    assert!(answer["coverage"]["frames_used"] == 8, "{answer}");
}

#[test]
fn the_disk_tier_keeps_its_limits() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let kept = dir.join("frames");
    let fast = camera("gate", &cameras.url("gate"), "captions = false").replace("= 2\n", "= 12\n");
    let bounds = "retention = \"8s\"\nbytes = \"1 MiB\"";
    // No JPEGs in memory: from the hot tier a frame goes to disk only.
    let buffer = tiers(&kept, bounds).replace("jpeg_age = \"10s\"", "jpeg_bytes = \"0 B\"");
    let daemon = start(dir, &buffer, &[fast]);
    let begun = Instant::now();
    let mut most = 0.0_f64;
    while begun.elapsed() < SECONDS(20) {
        most = most.max(daemon.metric("lookout_disk_bytes"));
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(most > 100_000.0 && most <= 1_048_576.0, "{most} bytes");
    assert_eq!(tier(&daemon, "frames", "gate", "warm"), 0.0);
    // Six seconds are hot, eight on disk; older frames are gone.
    let answer = ask(&daemon, "gate", QUESTIONS[0], &["--last", "18s"]);
    let gaps = &answer["coverage"]["gaps"];
    assert_eq!(gaps[0]["cause"], "evicted", "{answer}");
    let missing = seconds(&gaps[0]["to"]) - seconds(&gaps[0]["from"]);
    assert!((9.0..12.0).contains(&missing), "{answer}");
    let error = daemon.client(&["frame", "gate", "0", "--output", "-"]).2;
    assert!(error.contains("frame 0 is not in the buffer"), "{error}");
}

/// Returns true if a file of a folder contains these bytes.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    let files = fs::read_dir(folder).expect("the folder");
    files.map(|file| fs::read(file.expect("a file").path()).expect("a file")).any(|file| {
        // The end of a JPEG is not the same in two frames.
        let end = &bytes[bytes.len() - 64..];
        file.windows(end.len()).any(|window| window == end)
    })
}

#[test]
fn deleted_frames_are_gone_from_memory_and_from_disk() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let gate = camera("gate", &cameras.url("gate"), "");
    let kept = dir.join("frames");
    let mut daemon = start(dir, &tiers(&kept, ""), std::slice::from_ref(&gate));
    let mut events = daemon.watch(dir);
    let caption =
        events.until("a caption", SECONDS(30), &mut Vec::new(), |e| is_caption(e, "gate"));
    wait_for("frames that are on disk only", SECONDS(60), || {
        let [hot, warm, disk] =
            ["hot", "warm", "disk"].map(|name| tier(&daemon, "frames", "gate", name));
        (disk > hot + warm + 12.0).then_some(())
    });
    let frames = caption["frames"].as_array().expect("frames");
    let number = frames[frames.len() / 2]["number"].to_string();
    let file = dir.join("frame.jpg");
    let frame = ["frame", "gate", &number, "-o", file.to_str().expect("UTF-8")];
    assert_eq!(daemon.client(&frame).0, Some(0));
    let jpeg = fs::read(&file).expect("a JPEG");
    assert!(holds(&kept, &jpeg), "the frame is not on disk");

    let word = |value: &Value| value.as_str().expect("a time").to_string();
    let (from, to) = (word(&caption["window"]["from"]), word(&caption["window"]["to"]));
    let delete = ["delete", "--json", "--yes", "--camera", "gate", "--from", &from, "--to", &to];
    let (code, out, error) = daemon.client(&delete);
    assert_eq!(code, Some(0), "{error}");
    let deleted: Value = serde_json::from_str(&out).expect("JSON");
    assert!(deleted["events"].as_u64() >= Some(1), "{deleted}");
    assert!(deleted["buffer_frames"].as_u64() >= Some(frames.len() as u64), "{deleted}");
    assert!(!holds(&kept, &jpeg), "the frame is still on disk");
    let (code, _, error) = daemon.client(&frame);
    assert!(code != Some(0) && error.contains("is not in the buffer"), "{error}");

    // Frames in memory, too. Captions go on.
    let (code, out, error) =
        daemon.client(&["delete", "--json", "--yes", "--from", "3s", "--to", "0s"]);
    assert_eq!(code, Some(0), "{error}");
    let deleted: Value = serde_json::from_str(&out).expect("JSON");
    assert!(deleted["buffer_frames"].as_u64() >= Some(2), "{deleted}");
    captions_go_on(&daemon, dir);

    let begun = seconds(&caption["window"]["to"]);
    let later = humantime::format_rfc3339_millis(
        std::time::UNIX_EPOCH + Duration::from_secs_f64(begun + 4.0),
    );
    let gap = |daemon: &Daemon| {
        let range = ["--from", &from, "--to", &later.to_string()];
        let answer = ask(daemon, "gate", QUESTIONS[0], &range);
        let gaps = answer["coverage"]["gaps"].as_array().expect("gaps").clone();
        assert!(gaps.iter().any(|gap| gap["cause"] == "deleted"), "{answer}");
    };
    gap(&daemon);
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(SECONDS(5));
    let daemon = start(dir, &tiers(&kept, ""), std::slice::from_ref(&gate));
    gap(&daemon);
    assert_ne!(daemon.client(&frame).0, Some(0));
}

/// Starts a daemon in its own mount namespace, after running `mount` for `kept`.
fn start_with_mount(dir: &Path, kept: &Path, mount: &str, camera: &str) -> Option<Daemon> {
    let may = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !may.is_ok_and(|status| status.success()) {
        println!("not tried: this user may mount nothing");
        return None;
    }
    let (grpc, http) = (free_port(), free_port());
    let file = dir.join("mounted.toml");
    fs::write(&file, head(grpc, http, None) + &tiers(kept, "") + camera).expect("config");
    let script = format!("{mount} && exec {LOOKOUT} run --config {}", file.display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).stdout(Stdio::null());
    let mut process = Process::start("lookout", &mut command, dir);
    wait_for("the daemon", SECONDS(30), || {
        assert!(process.is_running(), "the daemon ended: {}", process.log());
        get(http, "/metrics").filter(|(status, _)| *status == 200)
    });
    Some(Daemon { process, server: format!("http://127.0.0.1:{grpc}"), http })
}

fn captions_go_on(daemon: &Daemon, dir: &Path) {
    let mut events = daemon.watch(dir);
    let mut seen = Vec::new();
    for _ in 0..3 {
        events.until("captions", SECONDS(30), &mut seen, |e| is_caption(e, "gate"));
    }
    let (code, answer, error) = daemon.client(&["ask", "gate", QUESTIONS[0], "--last", "9s"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(answer.starts_with("Yes") || answer.starts_with("No"), "{answer}");
}

#[test]
fn a_full_disk_affects_nothing_else() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let kept = dir.join("frames");
    fs::create_dir(&kept).expect("a folder");
    let at = kept.display();
    let mount = format!(
        "mount -t tmpfs -o size=256k none {at} && head -c 200000 /dev/zero > {at}/another's"
    )
    .replace("another's", "filler");
    let gate = camera("gate", &cameras.url("gate"), "");
    let Some(daemon) = start_with_mount(dir, &kept, &mount, &gate) else { return };
    wait_for("a full disk", SECONDS(30), || {
        (daemon.metric("lookout_disk_failing") > 0.0).then_some(())
    });
    captions_go_on(&daemon, dir);
    let (status, ready) = get(daemon.http, "/readyz").expect("readiness");
    assert_eq!(status, 200);
    assert!(ready.contains("no frame is kept on disk") && ready.contains("space"), "{ready}");
    assert!(daemon.process.log().contains("no frame is kept on disk"), "{}", daemon.process.log());
    let lost = "lookout_frames_not_written_total{camera=\"gate\",reason=\"disk_failing\"}";
    assert!(daemon.metric(lost) > 0.0);
    // There is space again, and the next attempt uses it.
    let inside = format!("/proc/{}/root{at}/filler", daemon.process.child.id());
    fs::remove_file(inside).expect("the filler");
    let before = tier(&daemon, "frames", "gate", "disk");
    wait_for("frames on disk again", SECONDS(20), || {
        (tier(&daemon, "frames", "gate", "disk") > before + 4.0).then_some(())
    });
    assert_eq!(daemon.metric("lookout_disk_failing"), 0.0);
    assert_eq!(get(daemon.http, "/readyz"), Some((200, "ready\n".into())));
}

#[test]
fn an_unwritable_folder_affects_nothing_else() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let gate = camera("gate", &cameras.url("gate"), "");
    // A file is in the place of the folder, and is then removed.
    let kept = dir.join("frames");
    fs::write(&kept, "not a folder").expect("a file");
    let daemon = start(dir, &tiers(&kept, ""), std::slice::from_ref(&gate));
    captions_go_on(&daemon, dir);
    let (_, ready) = get(daemon.http, "/readyz").expect("readiness");
    assert!(ready.contains("no frame is kept on disk"), "{ready}");
    fs::remove_file(&kept).expect("the file");
    wait_for("frames on disk", SECONDS(20), || {
        (tier(&daemon, "frames", "gate", "disk") > 2.0).then_some(())
    });
    drop(daemon);

    let read_only = dir.join("read-only");
    fs::create_dir(&read_only).expect("a folder");
    let mount = format!("mount -t tmpfs -o ro none {}", read_only.display());
    let Some(daemon) = start_with_mount(dir, &read_only, &mount, &gate) else { return };
    captions_go_on(&daemon, dir);
    let (_, ready) = get(daemon.http, "/readyz").expect("readiness");
    assert!(ready.contains("Read-only file system"), "{ready}");
}
