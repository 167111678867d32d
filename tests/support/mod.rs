//! Components of a real setup, each in its own process: cameras, a broker, the daemon, its readers.
//! All are killed when dropped; a failed test prints the log of the process.
#![allow(dead_code)]

pub mod mqtt;
pub mod small_disk;
pub mod truth;
pub mod windows;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;
use tempfile::TempDir;

pub const LOOKOUT: &str = env!("CARGO_BIN_EXE_lookout");

pub fn repository() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

pub fn clip(name: &str) -> PathBuf {
    repository().join("models/demo/cameras").join(format!("{name}.mp4"))
}

/// Returns a free port below the kernel's range for outgoing connections, so that no connection
/// takes it in the meantime.
pub fn free_port() -> u16 {
    let mut ports = (0..1000).map(|_| rand::random_range(20_000..32_000));
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(free).expect("a free port")
}

/// Returns `LOOKOUT_ROUNDS`, how often a test repeats its fault (`make faults ROUNDS=n`).
pub fn rounds() -> Option<usize> {
    let text = std::env::var("LOOKOUT_ROUNDS").ok()?;
    Some(text.parse().unwrap_or_else(|e| panic!("LOOKOUT_ROUNDS = {text:?}: {e}")))
}

/// Polls until `ready` returns a value.
pub fn wait_for<T>(what: &str, patience: Duration, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = ready() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub struct Process {
    pub child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Process {
    /// Starts a process. Its log goes into `folder`, named after the process and a counter.
    pub fn start(name: &'static str, command: &mut Command, folder: &Path) -> Process {
        let log = (0..).map(|i| folder.join(format!("{name}-{i}.log"))).find(|p| !p.exists());
        let log = log.expect("a free name");
        command.stderr(fs::File::create(&log).expect("log"));
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        Process { child, name, log }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the ID is its own.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }

    /// Waits for the end; returns the exit code.
    pub fn ended(&mut self, patience: Duration) -> Option<i32> {
        wait_for(self.name, patience, || self.child.try_wait().expect("wait")).code()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// Returns the resident memory in bytes that is no part of a file.
    pub fn own_memory(&self) -> u64 {
        self.status("RssAnon:")
    }

    /// Reads a number of bytes from the process's status.
    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("/proc");
        let line = status.lines().find(|line| line.starts_with(name)).expect(name);
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("KiB");
        kib * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(40);
            eprintln!("--- {} said:\n{}", self.name, lines[from..].join("\n"));
        }
    }
}

/// An RTSP server that plays clips.
pub struct Cameras {
    pub process: Process,
    pub port: u16,
    stdin: ChildStdin,
}

impl Cameras {
    /// Starts the server. `port` 0: any free port; `more`: further arguments.
    pub fn start(folder: &Path, port: u16, streams: &[(&str, &Path)], more: &[&str]) -> Cameras {
        let mut command = Command::new(LOOKOUT);
        command.args(["demo-cameras", "--listen", &format!("127.0.0.1:{port}")]).args(more);
        for (name, file) in streams {
            command.arg(format!("{name}={}", file.display()));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start("cameras", &mut command, folder);
        let stdin = process.child.stdin.take().expect("stdin");
        let out = BufReader::new(process.child.stdout.take().expect("stdout"));
        let ready = out.lines().next().and_then(Result::ok).unwrap_or_default();
        let port = ready.strip_prefix("ready ").and_then(|port| port.parse().ok());
        let port = port.unwrap_or_else(|| panic!("cameras: {ready:?}: {}", process.log()));
        Cameras { process, port, stdin }
    }

    pub fn url(&self, name: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{name}", self.port)
    }

    /// Sends a command: `pause NAME` or `resume NAME`.
    pub fn tell(&mut self, command: &str) {
        writeln!(self.stdin, "{command}").expect("cameras listen");
    }
}

pub struct Broker {
    pub process: Process,
    pub port: u16,
}

impl Broker {
    pub fn start(folder: &Path, port: u16) -> Broker {
        let config = folder.join(format!("mosquitto-{port}.conf"));
        fs::write(&config, format!("listener {port} 127.0.0.1\nallow_anonymous true\n"))
            .expect("config");
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(config).stdout(Stdio::null());
        let process = Process::start("mosquitto", &mut command, folder);
        wait_for("the broker", Duration::from_secs(10), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Broker { process, port }
    }
}

/// A daemon with its own folder and ports.
pub struct Daemon {
    pub process: Process,
    pub server: String,
    pub http: u16,
}

/// Returns the head of a config for tests: the demo model, windows of 4 s every 2 s with 8 frames.
pub fn head(grpc: u16, http: u16, broker: Option<u16>) -> String {
    let package = repository().join("models/demo/package");
    let mqtt = broker.map(|port| format!("[mqtt]\nbroker = \"mqtt://127.0.0.1:{port}\"\n"));
    format!(
        "[model]\npackage = {package:?}\ndevice = \"cpu\"\n\
         plan = \"8:slowfast-slow_4frms_spatial_1d_max_pool-fast_2x4\"\n\
         [generate]\nmax_new_tokens = 48\n\
         [grpc]\nlisten = \"127.0.0.1:{grpc}\"\n[http]\nlisten = \"127.0.0.1:{http}\"\n{}",
        mqtt.unwrap_or_default()
    )
}

pub fn camera(name: &str, url: &str, more: &str) -> String {
    format!(
        "[[camera]]\nname = \"{name}\"\nurl = \"{url}\"\nfps = 2\nwindow = \"4s\"\n\
         caption_interval = \"2s\"\n{more}\n"
    )
}

impl Daemon {
    /// Starts `lookout run` and waits until it responds.
    pub fn start(folder: &Path, cameras: &[String], broker: Option<u16>) -> Daemon {
        let (grpc, http) = (free_port(), free_port());
        Daemon::with_config(folder, &(head(grpc, http, broker) + &cameras.concat()), grpc, http)
    }

    pub fn with_config(folder: &Path, config: &str, grpc: u16, http: u16) -> Daemon {
        let file = folder.join("lookout.toml");
        fs::write(&file, config).expect("config");
        let mut command = Command::new(LOOKOUT);
        command.args(["run", "--config"]).arg(&file);
        Daemon::by(command, folder, grpc, http)
    }

    /// Starts the daemon with a given command and waits until it responds.
    pub fn by(mut command: Command, folder: &Path, grpc: u16, http: u16) -> Daemon {
        command.stdout(Stdio::null());
        let mut process = Process::start("lookout", &mut command, folder);
        wait_for("the daemon", Duration::from_secs(30), || {
            assert!(process.is_running(), "the daemon ended: {}", process.log());
            // With access control, a request without a token is refused.
            get(http, "/metrics").filter(|(status, _)| matches!(status, 200 | 401))
        });
        Daemon { process, server: format!("http://127.0.0.1:{grpc}"), http }
    }

    /// Runs `lookout COMMAND… --server …`; returns exit code, stdout and stderr.
    pub fn client(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(LOOKOUT);
        command.args(arguments).args(["--server", &self.server]);
        let output = command.output().expect("lookout");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// Runs `lookout watch --json` from the journal's start.
    pub fn watch(&self, folder: &Path) -> Lines {
        let mut command = Command::new(LOOKOUT);
        command.args(["watch", "--json", "--from-sequence", "1", "--server", &self.server]);
        Lines::of("watch", &mut command, folder)
    }

    /// Returns the text of `/metrics`.
    pub fn metrics(&self) -> String {
        get(self.http, "/metrics").expect("metrics").1
    }

    pub fn metric(&self, line_start: &str) -> f64 {
        assert_metric_exists(line_start);
        let metrics = self.metrics();
        let line = metrics.lines().find(|line| line.starts_with(line_start));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    /// Sums a metric over all its lines that have this label.
    pub fn metric_sum(&self, name: &str, label: &str) -> f64 {
        assert_metric_exists(name);
        let metrics = self.metrics();
        let lines = metrics.lines().filter(|line| line.starts_with(name) && line.contains(label));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

/// Fails the test at a name that no metric has. The daemon reports no value for it, and neither for a
/// counter that is still 0.
fn assert_metric_exists(line_start: &str) {
    let name = line_start.split(['{', ' ']).next().unwrap_or_default();
    let base = ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
    let mut known = lookout::metrics::table::all();
    let exists = known.any(|metric| metric.name == name || Some(metric.name) == base);
    assert!(exists, "no metric of the daemon has the name {name}");
}

/// Subscribes to everything published to the broker, as lines of topic and payload.
pub fn subscribe(broker: u16, folder: &Path) -> Lines {
    let mut command = Command::new("mosquitto_sub");
    command.args(["-p", &broker.to_string(), "-q", "1", "-t", "#", "-F", "%t %p"]);
    // These are JPEGs, not lines.
    command.args(["-T", "+/+/last_frame"]);
    Lines::of("mosquitto_sub", &mut command, folder)
}

/// Sends a GET over HTTP/1.0; returns status and body, or `None` if there is no response.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).ok()?;
    let (head, body) = reply.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.into()))
}

/// The lines that a process prints, as they arrive.
pub struct Lines {
    pub process: Process,
    lines: Receiver<String>,
}

impl Lines {
    pub fn of(name: &'static str, command: &mut Command, folder: &Path) -> Lines {
        command.stdout(Stdio::piped()).stdin(Stdio::null());
        let mut process = Process::start(name, command, folder);
        let out = process.child.stdout.take().expect("stdout");
        let (to, lines) = sync_channel(100_000);
        thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if to.send(line).is_err() {
                    break;
                }
            }
        });
        Lines { process, lines }
    }

    pub fn next(&mut self, patience: Duration) -> Option<String> {
        self.lines.recv_timeout(patience).ok()
    }

    /// Returns the next JSON line for which `wanted` holds; those before it go into `seen`.
    pub fn until(
        &mut self,
        what: &str,
        patience: Duration,
        seen: &mut Vec<Value>,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(line) = self.next(left) else {
                let last = seen.last().map(Value::to_string).unwrap_or_default();
                panic!("waited {patience:?} for {what}; the last event was {last}");
            };
            let event: Value =
                serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
            seen.push(event.clone());
            if wanted(&event) {
                return event;
            }
        }
    }

    /// Returns all lines that have arrived and those that arrive within `patience`.
    pub fn rest(&mut self, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let mut rest = Vec::new();
        while let Some(line) = self.next(deadline.saturating_duration_since(Instant::now())) {
            rest.push(line);
        }
        rest
    }
}

pub fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("lookout-test-").tempdir().expect("a folder")
}

pub fn is_caption(event: &Value, camera: &str) -> bool {
    event["kind"] == "caption" && event["camera"] == camera
}

pub fn is_state(event: &Value, camera: &str, state: &str) -> bool {
    event["kind"] == "camera_status" && event["camera"] == camera && event["state"] == state
}

/// Converts an RFC 3339 time to seconds since 1970.
pub fn seconds(time: &Value) -> f64 {
    let text = time.as_str().unwrap_or_else(|| panic!("{time} is no time"));
    let time = humantime::parse_rfc3339(text).unwrap_or_else(|e| panic!("{text}: {e}"));
    time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64()
}
