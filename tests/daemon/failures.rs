//! Tests failures inside the daemon: a model with non-finite outputs, a worker that hangs, and a log
//! that nobody reads.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::null_mut;
use std::time::{Duration, Instant};

use crate::support::*;
use prost::Message;

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

#[derive(Message)]
struct Model {
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
}

#[derive(Message)]
struct Graph {
    #[prost(message, repeated, tag = "5")]
    initializer: Vec<Tensor>,
}

#[derive(Message)]
struct Tensor {
    #[prost(string, tag = "8")]
    name: String,
    #[prost(bytes = "vec", tag = "9")]
    raw_data: Vec<u8>,
}

/// Copies the demo's 16-bit package and sets the first value of a graph's weight to infinity.
fn damaged(folder: &Path, graph: &str, weight: &str) -> PathBuf {
    let package = folder.join("package");
    copy_folder(&repository().join("models/demo/package-fp16"), &package).expect("a copy");
    let file = package.join("onnx").join(graph);
    let mut bytes = fs::read(&file).expect("the graph");
    let weights = Model::decode(&*bytes).expect("a graph").graph.expect("a graph").initializer;
    let data = weights.into_iter().find(|tensor| tensor.name == weight).expect(weight).raw_data;
    let at = bytes.windows(data.len()).position(|piece| piece == data).expect("its numbers");
    bytes[at..at + 2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    fs::write(&file, bytes).expect("written");
    package
}

/// Starts a daemon with this package and one camera, whose windows close twice a second.
fn daemon(dir: &Path, package: &Path, cameras: &Cameras) -> Daemon {
    let (grpc, http) = (free_port(), free_port());
    let demo = repository().join("models/demo/package");
    let config = head(grpc, http, None) + &camera("gate", &cameras.url("gate"), "");
    let config =
        config.replace(demo.to_str().expect("a path"), package.to_str().expect("a path")).replace(
            "window = \"4s\"\ncaption_interval = \"2s\"",
            "window = \"1s\"\ncaption_interval = \"500ms\"",
        );
    Daemon::with_config(dir, &config, grpc, http)
}

/// Checks that the daemon ends without being asked, and that the last line of its log contains
/// `wanted`.
fn ends(daemon: &mut Daemon, wanted: &str) {
    assert_eq!(daemon.process.ended(SECONDS(30)), Some(1), "{}", daemon.process.log());
    let log = daemon.process.log();
    assert!(log.lines().last().is_some_and(|line| line.contains(wanted)), "{log}");
}

#[test]
fn non_finite_logits_give_no_caption_and_finally_end_the_daemon() {
    let folder = folder();
    let dir = folder.path();
    let weight = "model.layers.4.final_norm_layernorm.weight";
    let package = damaged(dir, "decoder_model_merged_fp16.onnx", weight);
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let mut daemon = daemon(dir, &package, &cameras);
    let mut events = daemon.watch(dir);
    let skipped = "lookout_captions_skipped_total{camera=\"gate\",reason=\"not_finite\"}";
    let refused = wait_for("a refused caption", SECONDS(20), || {
        Some(daemon.metric(skipped)).filter(|captions| *captions >= 1.0)
    });
    let failures = daemon.metric("lookout_model_failures_total{component=\"language\"");
    assert!(failures >= refused, "{failures} < {refused}");
    let (code, _, error) = daemon.client(&["ask", "gate", "Is there a person?"]);
    assert!(code == Some(1) && error.contains("logits are not finite"), "{error}");
    ends(&mut daemon, "the language worker failed: ");
    let captions = events.rest(SECONDS(1)).into_iter().filter(|e| e.contains("\"caption\""));
    assert_eq!(captions.collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn non_finite_features_give_no_frame_and_finally_end_the_daemon() {
    let folder = folder();
    let dir = folder.path();
    let weight = "vision.tower.pre_layrnorm.weight";
    let package = damaged(dir, "vision_encoder_fp16.onnx", weight);
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let mut daemon = daemon(dir, &package, &cameras);
    let dropped = "lookout_frames_dropped_total{camera=\"gate\",reason=\"not_finite\"}";
    wait_for("a dropped frame", SECONDS(20), || {
        Some(daemon.metric(dropped)).filter(|frames| *frames >= 1.0)
    });
    let (code, _, error) = daemon.client(&["ask", "gate", "Is there a person?"]);
    assert!(code == Some(1) && error.contains("no frame has come yet"), "{error}");
    ends(&mut daemon, "the vision worker failed: ");
}

/// A stopped thread of a child, as in a driver call that never returns. The thread continues when
/// this is dropped.
struct Still(libc::pid_t);

impl Still {
    fn thread(process: &Process, name: &str) -> Still {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.child.id())).expect("threads");
        let is_it = |task: &PathBuf| {
            fs::read_to_string(task.join("comm")).is_ok_and(|found| found.trim() == name)
        };
        let task = tasks.map(|task| task.expect("a thread").path()).find(is_it).expect(name);
        let thread: libc::pid_t =
            task.file_name().and_then(|id| id.to_str()?.parse().ok()).expect("a number");
        // SAFETY: the thread belongs to a child that has not been waited for, so the ID is its own.
        unsafe {
            let attached =
                libc::ptrace(libc::PTRACE_ATTACH, thread, null_mut::<()>(), null_mut::<()>());
            assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
            assert_eq!(libc::waitpid(thread, null_mut(), libc::__WALL), thread);
        }
        Still(thread)
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        // SAFETY: the thread was attached above by this thread of the test.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null_mut::<()>(), null_mut::<()>()) };
    }
}

#[test]
fn a_hanging_worker_stops_the_watchdog_signal_and_is_named() {
    let folder = folder();
    let dir = folder.path();
    let cameras = Cameras::start(dir, 0, &[("gate", &clip("gate"))], &[]);
    let (grpc, http) = (free_port(), free_port());
    let disk = format!("[buffer.disk]\nfolder = {:?}\n", dir.join("frames"));
    let gate = camera("gate", &cameras.url("gate"), "");
    let config = format!("hang_timeout = \"2s\"\n{}{disk}{gate}", head(grpc, http, None));
    let file = dir.join("lookout.toml");
    fs::write(&file, config).expect("config");
    let socket = UnixDatagram::bind(dir.join("notify")).expect("a socket");
    let hear = |patience| {
        let mut message = [0; 256];
        socket.set_read_timeout(Some(patience)).expect("a timeout");
        match socket.recv(&mut message) {
            Ok(length) => Some(String::from_utf8_lossy(&message[..length]).trim().to_string()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => None,
            Err(e) => panic!("the socket: {e}"),
        }
    };
    let mut command = Command::new(LOOKOUT);
    command.args(["run", "--config"]).arg(&file).stdout(Stdio::null());
    command.env("NOTIFY_SOCKET", dir.join("notify")).env("WATCHDOG_USEC", "1000000");
    let daemon = Process::start("lookout", &mut command, dir);
    assert_eq!(hear(SECONDS(30)).as_deref(), Some("READY=1"));
    let is_ready = |status| {
        let ready = || get(http, "/readyz").filter(|(found, _)| *found == status);
        wait_for("/readyz", SECONDS(20), ready).1
    };
    for worker in ["vision", "language", "disk"] {
        assert_eq!(is_ready(200), "ready\n");
        assert_eq!(hear(SECONDS(10)).as_deref(), Some("WATCHDOG=1"));
        let stands = Still::thread(&daemon, worker);
        let why = is_ready(503);
        assert!(why.contains(&format!("the {worker} worker has made no progress for ")), "{why}");
        // Earlier messages, and one that may have been in transit.
        while hear(Duration::from_millis(100)).is_some() {}
        let silent = Instant::now();
        assert_eq!(hear(SECONDS(2)), None, "a pulse although {worker} hangs");
        assert!(silent.elapsed() >= SECONDS(1));
        drop(stands);
        assert_eq!(hear(SECONDS(10)).as_deref(), Some("WATCHDOG=1"), "{worker} moves again");
    }
    assert!(
        daemon.log().contains("the language worker has made no progress for"),
        "{}",
        daemon.log()
    );
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let folder = folder();
    let dir = folder.path();
    let (grpc, http) = (free_port(), free_port());
    let gate = camera("gate", &format!("file:{}", clip("gate").display()), "");
    let file = dir.join("lookout.toml");
    fs::write(&file, head(grpc, http, None) + &gate).expect("config");
    // The log goes into a pipe that nobody reads.
    let mut command = Command::new("bash");
    let unread = "exec \"$0\" --log trace run --config \"$1\" 2> >(exec sleep 120)";
    command.args(["-c", unread, LOOKOUT]).arg(&file);
    let mut daemon = Daemon::by(command, dir, grpc, http);
    wait_for("lost lines", SECONDS(60), || {
        (daemon.metric("lookout_log_lines_lost_total") > 0.0).then_some(())
    });
    let captions = || daemon.metric("lookout_captions_total{camera=\"gate\"}");
    let before = captions();
    wait_for("captions", SECONDS(60), || (captions() >= before + 3.0).then_some(()));
    daemon.process.signal(libc::SIGTERM);
    assert_eq!(daemon.process.ended(SECONDS(20)), Some(0));
}
