//! Tests the journal on disk with the whole daemon: events outlive a kill, are listed, watched and
//! searched across runs, and a corrupt file is set aside.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use support::*;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn start(dir: &Path, cameras: &[String]) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let journal = format!("[journal]\nfolder = {:?}\n", dir.join("journal"));
    Daemon::with_config(dir, &(head(grpc, http, None) + &journal + &cameras.concat()), grpc, http)
}

/// Returns the JSON lines that a command prints.
fn lines(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let (code, out, error) = daemon.client(arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn id(event: &Value) -> (u64, u64) {
    (event["run"].as_u64().expect("a run"), event["sequence"].as_u64().expect("a sequence"))
}

fn captions_of(daemon: &Daemon) -> Vec<Value> {
    lines(daemon, &["events", "--json", "--kind", "caption", "--limit", "1000"])
}

#[test]
fn events_outlive_a_kill_and_a_corrupt_file_is_set_aside() {
    let folder = folder();
    let dir = folder.path();
    let port = free_port();
    let cameras = Cameras::start(dir, port, &[("gate", &clip("gate"))], &[]);
    let watched = [camera("gate", &cameras.url("gate"), "")];

    let mut daemon = start(dir, &watched);
    let mut watch = daemon.watch(dir);
    let mut seen = Vec::new();
    for _ in 0..3 {
        watch.until("a caption", SECONDS(30), &mut seen, |event| is_caption(event, "gate"));
    }
    daemon.process.signal(libc::SIGKILL);
    daemon.process.ended(SECONDS(5));
    seen.extend(watch.rest(SECONDS(1)).iter().filter_map(|line| serde_json::from_str(line).ok()));
    drop((daemon, watch));
    let published: BTreeSet<_> = seen.iter().map(id).collect();

    let mut daemon = start(dir, &watched);
    let listed: BTreeSet<_> =
        lines(&daemon, &["events", "--json", "--limit", "1000"]).iter().map(id).collect();
    assert!(published.is_subset(&listed), "{published:?} are not all in {listed:?}");

    // A watch reads both runs, each event once and in order, and then the live ones.
    let mut command = Command::new(LOOKOUT);
    command.args(["watch", "--json", "--since", "1h", "--server", &daemon.server]);
    let mut watch = Lines::of("watch-since", &mut command, dir);
    let mut replayed = Vec::new();
    let first_run = seen[0]["run"].clone();
    for _ in 0..2 {
        watch.until("a caption of the new run", SECONDS(30), &mut replayed, |event| {
            is_caption(event, "gate") && event["run"] != first_run
        });
    }
    let ids: Vec<_> = replayed.iter().map(id).collect();
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
    assert!(published.iter().all(|id| ids.contains(id)), "{published:?} in {ids:?}");
    for pair in ids.windows(2) {
        let next = [(pair[0].0, pair[0].1 + 1), (pair[1].0, 1)];
        assert!(next.contains(&pair[1]), "a gap in {ids:?}");
    }

    // A word of an earlier caption finds captions of both runs.
    let captions = captions_of(&daemon);
    let text = captions[0]["text"].as_str().expect("a text");
    let word = text.split(' ').max_by_key(|word| word.len()).expect("a word");
    let mut hits = lines(&daemon, &["search", "--json", "--last", "24h", "--limit", "200", word]);
    let coverage = hits.pop().expect("the coverage");
    assert_eq!(coverage["kind"], "search_coverage");
    let found: BTreeSet<_> = hits.iter().map(id).collect();
    assert!(found.contains(&id(&captions[0])), "{word:?} is not found in {text:?}");
    assert!(hits.iter().all(|hit| hit["snippet"].as_str().is_some_and(|s| s.contains('['))));
    let (code, _, error) = daemon.client(&["search", "--last", "24h", "?!"]);
    assert!(code != Some(0) && error.contains("no word"), "{code:?}: {error}");

    daemon.process.signal(libc::SIGTERM);
    daemon.process.ended(SECONDS(20));
    drop((daemon, watch));
    let file = dir.join("journal/events.sqlite");
    fs::write(&file, vec![7; 100_000]).expect("a corrupt file");
    let daemon = start(dir, &watched);
    wait_for("a caption in the new file", SECONDS(30), || captions_of(&daemon).first().cloned());
    let (_, ready) = get(daemon.http, "/readyz").expect("readyz");
    assert!(ready.contains("a corrupt journal was set aside as"), "{ready}");
    assert!(daemon.metric("lookout_journal_events_stored_total") > 0.0);
    let names = fs::read_dir(dir.join("journal")).expect("the folder");
    let names: Vec<_> =
        names.map(|name| name.expect("a name").file_name().into_string().expect("UTF-8")).collect();
    assert!(names.iter().any(|name| name.starts_with("events.sqlite.corrupt-")), "{names:?}");
}

#[test]
fn captions_are_found_by_their_meaning() {
    let folder = folder();
    let dir = folder.path();
    let (grpc, http) = (free_port(), free_port());
    let model = repository().join("target/embedding/all-MiniLM-L6-v2");
    assert!(model.is_dir(), "run `make setup`");
    let tables =
        format!("[journal]\nfolder = {:?}\n[search]\nmodel = {model:?}\n", dir.join("journal"));
    let gate = format!("file:{}", clip("gate").display());
    let config = head(grpc, http, None) + &tables + &camera("gate", &gate, "");
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let search = |mode: &str, query: &str| {
        let mut hits =
            lines(&daemon, &["search", "--json", "--mode", mode, "--limit", "200", query]);
        let coverage = hits.pop().expect("the coverage");
        assert_eq!(coverage["mode"], mode);
        (hits, coverage)
    };
    let hits = wait_for("three captions with a vector", SECONDS(60), || {
        let (hits, _) = search("meaning", "an automobile or a pedestrian");
        (hits.len() >= 3).then_some(hits)
    });
    let similarity = |hit: &Value| hit["similarity"].as_f64().expect("a similarity");
    assert!(hits.is_sorted_by(|a, b| similarity(a) >= similarity(b)), "{hits:?}");
    assert_eq!(hits[0]["meaning_rank"], 1);

    // Words that no caption contains find nothing, and do not change what the meaning finds.
    let (words, coverage) = search("words", "an automobile or a pedestrian");
    assert!(words.is_empty(), "{words:?}");
    let recorded = coverage["cameras"][0]["recorded_seconds"].as_f64().expect("seconds");
    assert!(coverage["cameras"][0]["camera"] == "gate" && recorded >= 4.0, "{coverage}");
    let (fused, _) = search("fused", "an automobile or a pedestrian");
    assert!(fused.len() >= hits.len());
    let (code, out, error) = daemon.client(&["search", "an automobile or a pedestrian"]);
    let last = out.lines().last().expect("a line");
    assert!(
        code == Some(0) && last.starts_with("searched ") && last.contains(" of gate"),
        "{error}"
    );

    let (run, sequence) = id(&hits[0]);
    let (run, sequence) = (run.to_string(), sequence.to_string());
    let asked = ["ask", "gate", "Is there a car?", "--event", &sequence, "--run", &run, "--json"];
    let answer = lines(&daemon, &asked).pop().expect("an answer");
    assert_eq!(answer["window"]["from"], hits[0]["window"]["from"], "{answer}");
    assert!(daemon.metric("lookout_search_vectors") >= 3.0);
}
