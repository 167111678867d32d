//! Runs a daemon that stores its journal, with an MQTT subscriber, a gRPC watcher and one that does
//! not read: each gets every event once and in order, and memory, descriptors and threads stay the
//! same.
//!
//! Runs for 20 s by default; `LOOKOUT_SOAK` sets another number of seconds (`make soak MINUTES=n`).
//! From half an hour on, more cameras fill the journal's memory in some minutes. After that the growth
//! of memory by the hour is judged, too. Half of these cameras connect again every 12 s.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use lookout::journal::CAPACITY;
use serde_json::Value;

use crate::support::mqtt::{EventSubscriber, check_delivery, id};
use crate::support::*;

/// Length of a run, in seconds, from which on the growth of memory is judged by the hour.
const LONG: u64 = 1800;

/// Least time in seconds over which it is judged, after the journal's memory is full.
const JUDGED: f64 = 1200.0;

/// Length in seconds of the parts of which the least memory is judged. The daemon returns freed
/// memory once a minute; right after that, it has up to 2 MiB more or less than a minute before.
const PART: f64 = 300.0;

/// Number of measurements of memory for each sample, in a second. Within a second after its return,
/// memory rises by some MiB again.
const MEASUREMENTS: u32 = 10;

/// A measurement of the daemon's process.
#[derive(Clone, Copy, Debug)]
struct Sample {
    seconds: f64,
    mib: f64,
    /// The least of the part of it that is no file, and that the kernel cannot drop therefore.
    own_mib: f64,
    descriptors: usize,
    threads: usize,
}

impl Sample {
    /// Measures for a second.
    fn of(daemon: &Daemon, begun: Instant) -> Sample {
        let mut own = u64::MAX;
        for _ in 0..MEASUREMENTS {
            thread::sleep(Duration::from_secs(1) / MEASUREMENTS);
            own = own.min(daemon.process.own_memory());
        }
        let count = |folder: &str| {
            let entries = fs::read_dir(format!("/proc/{}/{folder}", daemon.process.child.id()));
            entries.expect("the process").count()
        };
        Sample {
            seconds: begun.elapsed().as_secs_f64(),
            mib: daemon.process.memory() as f64 / 1_048_576.0,
            own_mib: own as f64 / 1_048_576.0,
            descriptors: count("fd"),
            threads: count("task"),
        }
    }
}

/// Returns the growth of the process's own memory in MiB per hour: the slope of the line through
/// the least samples of each whole part, counted from the end. What is used for a moment, or is freed
/// and not returned yet, does not count.
fn growth(samples: &[Sample]) -> f64 {
    let end = samples[samples.len() - 1].seconds;
    let parts = ((end - samples[0].seconds) / PART).floor();
    let begin = end - parts * PART;
    let part = |sample: &Sample| ((sample.seconds - begin) / PART).min(parts - 1.0) as u64;
    let least =
        |part: &[Sample]| *part.iter().min_by(|a, b| a.own_mib.total_cmp(&b.own_mib)).unwrap();
    let cut = samples.partition_point(|sample| sample.seconds < begin);
    let samples: Vec<Sample> =
        samples[cut..].chunk_by(|a, b| part(a) == part(b)).map(least).collect();
    println!("the least of each part: {samples:.1?}");
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
    let (time, memory) = (mean(|sample| sample.seconds), mean(|sample| sample.own_mib));
    let product = |sample: &Sample| (sample.seconds - time) * (sample.own_mib - memory);
    let square = |sample: &Sample| (sample.seconds - time).powi(2);
    3600.0 * samples.iter().map(product).sum::<f64>() / samples.iter().map(square).sum::<f64>()
}

/// Reads JSON lines until the event with this sequence, and checks that none is missing.
fn read_all(lines: impl Iterator<Item = String>, last: u64, name: &str) {
    let mut expected = 1;
    for line in lines {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(event["sequence"], expected, "{name}: {line}");
        if expected == last {
            return;
        }
        expected += 1;
    }
    panic!("{name}: ended before event {expected} of {last}");
}

#[test]
fn every_reader_gets_every_event_and_nothing_grows() {
    let length = std::env::var("LOOKOUT_SOAK").ok().and_then(|text| text.parse().ok());
    let length: u64 = length.unwrap_or(20);
    let is_long = length >= LONG;
    let folder = folder();
    let dir = folder.path();
    let broker = Broker::start(dir, free_port());
    let subscriber = EventSubscriber::connect(broker.port);
    let (grpc, http) = (free_port(), free_port());
    let mut config = head(grpc, http, Some(broker.port))
        .replace("= 48", "= 6")
        .replace("[generate]", "[generate]\nprefix_cache_bytes = \"4 MiB\"")
        + "[buffer]\ntoken_age = \"10s\"\njpeg_age = \"20s\"\n"
        + &format!("[journal]\nfolder = {:?}\n", dir.join("journal"));
    let short = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/media/drive.mp4");
    for number in 0..if is_long { 12 } else { 3 } {
        let of = ["gate", "yard", "drive"][number % 3];
        let clip = if number < 6 { clip(of) } else { short.clone() };
        config += &format!(
            "[[camera]]\nname = \"{of}-{number}\"\nurl = \"file:{}\"\nfps = 2\nwindow = \"1s\"\n\
             caption_interval = \"500ms\"\nmax_caption_delay = \"5s\"\n",
            clip.display()
        );
    }
    let daemon = Daemon::with_config(dir, &config, grpc, http);
    let watch = || {
        let mut command = Command::new(LOOKOUT);
        command.args(["watch", "--json", "--from-sequence", "0", "--server", &daemon.server]);
        command
    };
    let mut reader = Lines::of("watch", &mut watch(), dir);
    // Nobody reads what it prints, so it stops to read what the daemon sends.
    let mut slow = watch();
    slow.stdout(Stdio::piped()).stdin(Stdio::null());
    let mut slow = Process::start("slow-watch", &mut slow, dir);

    let (begun, mut samples) = (Instant::now(), Vec::new());
    // The samples before the memory was full.
    let mut cold = 0;
    while begun.elapsed() < Duration::from_secs(length) {
        samples.push(Sample::of(&daemon, begun));
        // The buffers are full after a third of a short run.
        let is_cold = if is_long {
            samples.len() % 10 == 1
                && daemon.metric("lookout_journal_events_stored_total") < CAPACITY as f64
        } else {
            begun.elapsed() < Duration::from_secs(length / 3)
        };
        if is_cold {
            cold = samples.len();
        }
    }

    let journal = || -> Vec<Value> {
        let (code, out, error) = daemon.client(&["events", "--json", "--limit", "10000000"]);
        assert_eq!(code, Some(0), "{error}");
        out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    let stored = journal();
    let last = stored.iter().map(|event| id(event).1).max().expect("an event");
    let lines = std::iter::from_fn(|| reader.next(Duration::from_secs(30)));
    read_all(lines, last, "watcher");
    let out = BufReader::new(slow.child.stdout.take().expect("stdout"));
    read_all(out.lines().map_while(Result::ok), last, "slow watcher");
    subscriber.has_all(&stored);
    let received = subscriber.received();
    let delivery = check_delivery(&journal(), &received);
    assert_eq!(delivery.duplicates, 0, "{delivery:?}");

    let warm = &samples[cold.min(samples.len() - 1)..];
    let (first, end) = (warm[0], warm[warm.len() - 1]);
    println!(
        "{last} events in {length} s; after {:.0} s: {:.1} → {:.1} MiB, of its own {:.1} → {:.1} \
         MiB, {} → {} descriptors, {} → {} threads",
        first.seconds,
        first.mib,
        end.mib,
        first.own_mib,
        end.own_mib,
        first.descriptors,
        end.descriptors,
        first.threads,
        end.threads
    );
    assert!(end.mib < first.mib * 1.15, "memory grew: {samples:?}");
    if is_long {
        let judged = end.seconds - first.seconds;
        assert!(
            judged >= JUDGED,
            "the journal's memory, {CAPACITY} events, was full only {judged:.0} s before the end, \
             wanted {JUDGED} s: run longer, or on a machine with less other work"
        );
        let growth = growth(warm);
        println!("{growth:+.2} MiB/h");
        assert!(growth < 1.0, "memory grew by {growth} MiB/h: {warm:?}");
    }
    assert!(end.descriptors <= first.descriptors + 4, "descriptors: {samples:?}");
    assert!(end.threads <= first.threads + 4, "threads: {samples:?}");
}
