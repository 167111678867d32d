//! A daemon that gets generated requests, the number of them, and the odd values that they contain.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tempfile::TempDir;

use crate::support::*;
use crate::{SECONDS, TURN};

/// Number of requests of each kind without `LOOKOUT_ROUNDS`.
const REQUESTS: usize = 300;

/// Maximum length of a refusal in bytes, far below that of the longest request.
const LONGEST_REFUSAL: usize = 2000;

/// Texts that replace those that a client sends.
const TEXTS: &[&str] = &[
    "",
    " ",
    "gate",
    "yard",
    "nowhere",
    "GATE",
    "a/b",
    "../../etc/passwd",
    "\0",
    "\u{feff}",
    "é\u{301}",
    "\u{202e}",
    "\u{1f600}",
    "{",
    "{}",
    "[]",
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "NaN",
    "%",
    "%00",
    "%zz",
    "*",
    "+",
    "#",
    "$SYS",
    "\" OR 1=1 --",
    "car NEAR person",
    "car*",
    "\"car",
    "(car",
    "NOT",
    "-car",
    "car:person",
    "1.1",
    "0.0",
    "1.",
    "18446744073709551615.18446744073709551615",
    "18446744073709551616.1",
    "10m",
    "-10m",
    "0s",
    "99999999999999999y",
    "1969-12-31T23:59:59Z",
    "9999-12-31T23:59:59.999999999Z",
    "2026-02-30T00:00:00Z",
    "</s>",
    "<image>",
    "USER: <image> ASSISTANT:",
    "Is there a car?",
    "{\"type\":\"object\"}",
    "{\"$ref\":\"#\"}",
    "{\"$ref\":\"file:///etc/passwd\"}",
    "{\"pattern\":\"(a+)+$\"}",
    "fps = 2",
    "url = \"file:/dev/zero\"",
    "url = \"rtsp://127.0.0.1:1/\"",
    "[[camera]]",
    "a.b.c.d = 1",
    "1/2",
    "0/0",
];

/// Numbers that a client may send.
const NUMBERS: &[u64] = &[
    0,
    1,
    2,
    7,
    100,
    1000,
    1 << 15,
    1 << 31,
    1 << 32,
    1 << 62,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX,
    u64::MAX - 1,
];

/// A source of odd values.
pub struct Odd(pub StdRng);

impl Odd {
    pub fn chance(&mut self, of: u32) -> bool {
        self.0.random_ratio(1, of)
    }

    pub fn one<T: Copy>(&mut self, of: &[T]) -> T {
        *of.choose(&mut self.0).expect("one or more")
    }

    pub fn text(&mut self) -> String {
        match self.0.random_range(0..16) {
            0 => "x".repeat(self.one(&[255, 256, 257, 8192, 8193, 70_000, 900_000])),
            1 => "é".repeat(self.one(&[127, 128, 129, 4096, 4097])),
            2 => "[".repeat(self.one(&[127, 129, 60_000])),
            3 => (0..self.0.random_range(0..60)).map(|_| self.0.random::<char>()).collect(),
            4 => vec!["a"; self.one(&[79, 81, 20_000])].join(".") + " = 1",
            _ => self.one(TEXTS).to_owned(),
        }
    }

    pub fn number(&mut self) -> u64 {
        if self.chance(4) { self.0.random() } else { self.one(NUMBERS) }
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.0.random_range(0..=most)).map(|_| self.0.random()).collect()
    }

    /// Damages an encoded request now and then.
    pub fn damage(&mut self, bytes: &mut Vec<u8>) {
        match self.0.random_range(0..24) {
            0 => *bytes = self.bytes(300),
            1 => bytes.truncate(self.0.random_range(0..=bytes.len())),
            2 if !bytes.is_empty() => {
                for _ in 0..self.0.random_range(1..8) {
                    let at = self.0.random_range(0..bytes.len());
                    bytes[at] ^= 1 << self.0.random_range(0..8);
                }
            }
            3 => bytes.extend(self.bytes(40)),
            4 => bytes.extend(bytes.clone()),
            _ => {}
        }
    }
}

/// Fails if a refusal has no text or repeats a long request.
pub fn assert_clear(request: &str, refusal: &str) {
    assert!(!refusal.trim().is_empty(), "a refusal without a reason: {request}");
    let start: String = refusal.chars().take(300).collect();
    let length = refusal.len();
    assert!(length <= LONGEST_REFUSAL, "a refusal of {length} bytes: {start}: {request}");
}

/// Numbers the requests that all clients send.
#[derive(Clone)]
pub struct Seeds {
    next: Arc<AtomicU64>,
    end: u64,
}

impl Seeds {
    pub fn new() -> Seeds {
        let end = rounds().unwrap_or(REQUESTS) as u64;
        Seeds { next: Arc::default(), end }
    }
}

impl Iterator for Seeds {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let seed = self.next.fetch_add(1, Ordering::Relaxed);
        (seed < self.end).then_some(seed)
    }
}

/// Threads, open files and memory in bytes of a process.
#[derive(Debug)]
struct Usage {
    threads: usize,
    files: usize,
    memory: u64,
}

/// A daemon with two cameras, a rule, a journal and frames on disk.
pub struct Target {
    pub daemon: Daemon,
    pub grpc: u16,
    pub http: u16,
    pub broker: u16,
    _broker: Broker,
    folder: TempDir,
}

impl Target {
    fn start() -> Target {
        let folder = folder();
        let dir = folder.path();
        let broker = Broker::start(dir, free_port());
        let (grpc, http) = (free_port(), free_port());
        let file_camera = |name: &str| {
            let url = format!("file:{}", clip("drive").display());
            camera(name, &url, "captions = false")
        };
        let config = head(grpc, http, Some(broker.port))
            // Small caches are full soon, so that what grows is a leak.
            .replace("max_new_tokens = 48", "max_new_tokens = 8\nprefix_cache_bytes = \"32 MiB\"")
            + &format!(
                "home_assistant = true\n[buffer]\ntoken_age = \"6s\"\n\
                 jpeg_age = \"12s\"\n[journal]\nfolder = {:?}\n[buffer.disk]\nfolder = {:?}\n\
                 [[rule]]\nname = \"car\"\nquestion = \"Is there a car?\"\nof = \"1/1\"\nclip = \"alert\"\n",
                dir.join("journal"),
                dir.join("frames")
            )
            + &file_camera("gate")
            + &file_camera("yard");
        let daemon = Daemon::with_config(dir, &config, grpc, http);
        wait_for("frames", SECONDS(120), || {
            let frames = "lookout_buffer_frames{camera=\"gate\",tier=\"hot\"}";
            (daemon.metric(frames) >= 1.0).then_some(())
        });
        Target { daemon, grpc, http, broker: broker.port, _broker: broker, folder }
    }

    fn usage(&self) -> Usage {
        let count = |what: &str| {
            let path = format!("/proc/{}/{what}", self.daemon.process.child.id());
            fs::read_dir(path).expect("the daemon runs").count()
        };
        Usage { threads: count("task"), files: count("fd"), memory: self.daemon.process.memory() }
    }

    /// Removes the cameras that requests have added, and resumes the others.
    fn tidy(&self) {
        let (_, out, _) = self.daemon.client(&["cameras", "--json"]);
        for line in out.lines() {
            let camera: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let name = camera["name"].as_str().expect("a name");
            let edit = if ["gate", "yard"].contains(&name) { "resume" } else { "remove" };
            let (code, _, error) = self.daemon.client(&["camera", edit, name]);
            assert_eq!(code, Some(0), "{edit} {name}: {error}");
        }
    }
}

/// Sends generated requests by a number of clients. Afterwards the daemon serves others, and has no
/// more threads, files and memory than before. `send` sends the requests of one client.
pub fn withstands_generated<F>(what: &str, clients: usize, send: impl Fn(Connect, Seeds) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut target = Target::start();
    let connect = Connect { grpc: target.grpc, http: target.http, broker: target.broker };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let run = |seeds: Seeds| {
        runtime.block_on(async {
            let mut sending = tokio::task::JoinSet::new();
            (0..clients).for_each(|_| drop(sending.spawn(send(connect, seeds.clone()))));
            while let Some(ended) = sending.join_next().await {
                ended.expect("a client");
            }
        });
    };
    // Pools and caches grow once.
    let seeds = Seeds::new();
    run(Seeds { next: Arc::default(), end: seeds.end.min(100) });
    target.tidy();
    let before = target.usage();
    let began = std::time::Instant::now();
    run(seeds.clone());
    let took = began.elapsed();
    runtime.shutdown_timeout(SECONDS(1));
    target.tidy();

    assert!(target.daemon.process.is_running(), "the daemon ended");
    let after = wait_for("the threads and files of the requests to end", SECONDS(60), || {
        let now = target.usage();
        (now.threads <= before.threads + 8 && now.files <= before.files + 12).then_some(now)
    });
    eprintln!("{what}: {} requests in {took:?}: before {before:?}, after {after:?}", seeds.end);
    let grown = after.memory.saturating_sub(before.memory);
    assert!(grown < 200 << 20, "the memory grew by {grown} bytes");
    assert_eq!(target.daemon.metric_sum("lookout_interface_restarts_total", ""), 0.0);
    let log = target.daemon.process.log();
    let panic = log.lines().find(|line| line.contains("panicked"));
    assert_eq!(panic, None, "{what}");
    wait_for("readiness", SECONDS(60), || {
        get(target.http, "/readyz").filter(|reply| reply.0 == 200)
    });
    for name in ["gate", "yard"] {
        wait_for("an answer", SECONDS(60), || {
            let (code, _, _) = target.daemon.client(&["ask", name, "Is there a car?"]);
            (code == Some(0)).then_some(())
        });
    }
    drop(target.folder);
}

/// The ports of a daemon and of its broker.
#[derive(Clone, Copy)]
pub struct Connect {
    pub grpc: u16,
    pub http: u16,
    pub broker: u16,
}

/// Maximum time for a reply to begin: longer than the daemon's own limit of 30 s.
pub const LONGEST: Duration = Duration::from_secs(60);
