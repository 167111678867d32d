//! Tests the frames that the journal stores with events: they are the ones that `GetFrame` returns,
//! they outlive the daemon, can be exported, and go when their event is deleted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::*;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn start(dir: &Path, cameras: &[String]) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let journal = format!("[journal]\nfolder = {:?}\njpegs = \"all\"\n", dir.join("journal"));
    Daemon::with_config(dir, &(head(grpc, http, None) + &journal + &cameras.concat()), grpc, http)
}

/// Runs a command that must succeed. Returns what it prints.
fn done(daemon: &Daemon, arguments: &[&str]) -> String {
    let (code, out, error) = daemon.client(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    out
}

/// Returns the contents of a folder's files by their names.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |file: std::io::Result<fs::DirEntry>| {
        let file = file.expect("a file");
        let name = file.file_name().into_string().expect("UTF-8");
        (name, fs::read(file.path()).expect("readable"))
    };
    fs::read_dir(folder).expect("a folder").map(read).collect()
}

fn unpacked(file: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut archive = zip::ZipArchive::new(fs::File::open(file).expect("the export")).expect("ZIP");
    let mut files = BTreeMap::new();
    for at in 0..archive.len() {
        let mut entry = archive.by_index(at).expect("an entry");
        let name = entry.name().expect("UTF-8").into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("readable");
        files.insert(name, bytes);
    }
    files
}

#[test]
fn frames_of_events_outlive_the_daemon_until_they_are_deleted() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);

    let mut daemon = start(dir, &[camera("gate", &cameras.url("gate"), "")]);
    let mut watch = daemon.watch(dir);
    let event = watch.until("a caption", SECONDS(60), &mut Vec::new(), |event| {
        is_caption(event, "gate") && event["frames"].as_array().is_some_and(|all| all.len() > 4)
    });
    let (run, sequence) = (event["run"].to_string(), event["sequence"].to_string());
    let (live, stored, later) = (dir.join("live"), dir.join("stored"), dir.join("later"));
    fs::create_dir(&live).expect("a folder");
    for frame in event["frames"].as_array().expect("frames") {
        let number = frame["number"].to_string();
        let file = live.join(format!("gate-{run}-{number}.jpg"));
        done(&daemon, &["frame", "gate", &number, "-o", file.to_str().expect("UTF-8")]);
    }
    done(&daemon, &["frames", &sequence, "--into", stored.to_str().expect("UTF-8")]);
    assert!(files(&live) == files(&stored), "the frames of the buffer and of the journal differ");
    assert!(daemon.metric("lookout_journal_jpegs_stored_total") >= files(&live).len() as f64);
    assert_eq!(daemon.metric_sum("lookout_journal_jpegs_not_stored_total", "reason"), 0.0);
    let kept = done(&daemon, &["keep", &sequence]);
    assert!(kept.starts_with("kept: "), "{kept}");
    daemon.process.signal(libc::SIGTERM);
    daemon.process.ended(SECONDS(20));
    drop((daemon, watch));

    // The next run makes no captions, so that no text occurs again.
    let daemon = start(dir, &[camera("gate", &cameras.url("gate"), "captions = false")]);
    let of_run = ["frames", &sequence, "--run", &run, "--into", later.to_str().expect("UTF-8")];
    done(&daemon, &of_run);
    assert!(files(&live) == files(&later), "the frames changed with the restart");

    let export = dir.join("export.zip");
    let said = done(&daemon, &["export", export.to_str().expect("UTF-8"), "--kind", "caption"]);
    let listed = done(&daemon, &["events", "--json", "--kind", "caption", "--limit", "1000"]);
    let exported = unpacked(&export);
    let mut lines: Vec<_> = listed.lines().collect();
    lines.reverse();
    let events = String::from_utf8(exported["events.jsonl"].clone()).expect("UTF-8");
    assert_eq!(events.lines().collect::<Vec<_>>(), lines, "{said}");
    for (name, jpeg) in files(&live) {
        let name = format!("frames/gate/{}", name.trim_start_matches("gate-"));
        assert!(exported[&name] == jpeg, "{name} differs");
    }
    let sums = String::from_utf8(exported["SHA256SUMS"].clone()).expect("UTF-8");
    assert_eq!(sums.lines().count(), exported.len() - 1, "{sums}");
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").expect("a sum and a name");
        let found = Sha256::digest(&exported[name]);
        let found: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(sum, found, "{name}");
    }
    let names: Vec<_> = files_named(dir, ".lookout-export-");
    assert!(names.is_empty(), "left behind: {names:?}");

    let all = ["delete", "--from", "1h", "--to", "2100-01-01T00:00:00Z"];
    let (code, _, error) = daemon.client(&all);
    assert!(code == Some(1) && error.contains("--yes"), "{code:?}: {error}");
    let said = done(&daemon, &[&all[..], &["--yes"]].concat());
    assert!(said.contains("1 kept events stay"), "{said}");
    assert_eq!(captions(&daemon).len(), 1);
    fs::remove_dir_all(&later).expect("removed");
    done(&daemon, &of_run);
    assert!(files(&live) == files(&later), "the kept event lost its frames");
    let said = done(&daemon, &[&all[..], &["--yes", "--include-kept"]].concat());
    assert!(said.starts_with("deleted 1 events"), "{said}");
    assert_eq!(captions(&daemon), Vec::<Value>::new());
    let (code, _, error) = daemon.client(&of_run);
    assert!(code == Some(1) && error.contains("no event"), "{code:?}: {error}");
    let text = event["text"].as_str().expect("a text");
    for (name, bytes) in files(&dir.join("journal")) {
        let found = bytes.windows(text.len()).any(|part| part == text.as_bytes());
        assert!(!found, "{name} still has {text:?}");
    }
}

fn captions(daemon: &Daemon) -> Vec<Value> {
    let lines = done(daemon, &["events", "--json", "--kind", "caption", "--limit", "1000"]);
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Returns the names in a folder that begin like this.
fn files_named(folder: &Path, start: &str) -> Vec<String> {
    let names = fs::read_dir(folder).expect("a folder");
    let names = names.map(|file| file.expect("a file").file_name().into_string().expect("UTF-8"));
    names.filter(|name| name.starts_with(start)).collect()
}
