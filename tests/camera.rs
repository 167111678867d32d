//! Tests cameras end to end: a real RTSP server in its own process, which can be killed, stopped
//! and paused, and clips whose frames show their number, so that their times can be checked.
#![cfg(feature = "demo")]

#[path = "camera/tls.rs"]
mod tls;
#[path = "support/watched.rs"]
mod watched;

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use gst::prelude::*;
use lookout::camera::{self, CameraError};
use lookout::config::{Camera, DecodeFrames, Rtsp, RtspTls, Secret, Source, Transport};
use lookout::demo::cameras::{CamerasOptions, serve};
use lookout::event::CameraState;
use lookout::frame::{Clock, Frame};
use serde::{Deserialize, Serialize};
use watched::{PATIENCE, Watched};

#[test]
fn frames_come_at_their_rate_and_time_over_tcp() {
    watch_and_check(|_| {}, "h264");
}

#[test]
fn frames_come_over_udp() {
    watch_and_check(|rtsp| rtsp.transport = Transport::Udp, "h264");
}

#[test]
fn frames_come_in_h265() {
    watch_and_check(|_| {}, "h265");
}

fn watch_and_check(change: impl FnOnce(&mut Rtsp), mount: &str) {
    let server = Server::start(Serve::default());
    let mut rtsp = server.rtsp(mount);
    change(&mut rtsp);
    let watched = Watched::start(Camera { fps: 6.0, ..config("gate", Source::Rtsp(rtsp)) });
    check_frames(&watched.dated_frames(15), 6.0);
    let status = watched.state(CameraState::Live);
    let decoder = if mount == "h265" { "265" } else { "264" };
    assert!(status.decoder.contains(decoder), "{status:?}");
    let began = Instant::now();
    watched.stop();
    assert!(began.elapsed() < Duration::from_secs(2), "stopping took {:?}", began.elapsed());
}

/// Checks that frame numbers have no gap, that the rate is as configured, and that each frame shows
/// the image of its time.
fn check_frames(frames: &[Frame], fps: f64) {
    let first = frames[0].number;
    for (i, frame) in frames.iter().enumerate() {
        assert_eq!(frame.number, first + i as u64);
        assert_eq!((frame.width, frame.height), (WIDTH, HEIGHT));
        assert_eq!(frame.bgrx.len() as u32, WIDTH * HEIGHT * 4);
    }
    // The first frames arrive before the camera has reported its time: up to five seconds (RFC
    // 3550).
    let told = frames.iter().position(|frame| frame.clock == Clock::Camera).unwrap();
    assert!(told as f64 <= 7.0 * fps + 1.0, "{told} frames without the camera's time");
    let frames = &frames[told..];
    for pair in frames.windows(2) {
        assert!(pair[0].captured_at < pair[1].captured_at);
    }
    for frame in frames {
        let off = off_by(frame);
        assert_eq!(frame.clock, Clock::Camera);
        assert!(off.abs() <= 0.150, "frame {} is off by {off} s", frame.number);
    }
    let span = frames[frames.len() - 1].captured_at.duration_since(frames[0].captured_at).unwrap();
    let rate = (frames.len() - 1) as f64 / span.as_secs_f64();
    assert!((rate - fps).abs() < 0.06 * fps, "{rate} frames a second");
}

#[test]
fn half_a_frame_per_second_is_delivered() {
    let server = Server::start(Serve::default());
    let rtsp = server.rtsp("h264");
    let watched = Watched::start(Camera { fps: 0.5, ..config("slow", Source::Rtsp(rtsp)) });
    check_frames(&watched.dated_frames(4), 0.5);
}

#[test]
fn a_wrong_password_is_refused_until_the_file_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "wr0ng\n").unwrap();
    let credentials = Some(("viewer".to_string(), "r1ght".to_string()));
    let server = Server::start(Serve { credentials, ..Serve::default() });
    let rtsp = |username: Option<&str>| Rtsp {
        username: username.map(str::to_string),
        password: username.map(|_| Secret::File(file.clone())),
        ..server.rtsp("h264")
    };

    let watched = Watched::start(config("door", Source::Rtsp(rtsp(Some("viewer")))));
    let status = watched.state(CameraState::Refused);
    assert_eq!(status.reason, "wrong user or password");
    let nobody = config("door", Source::Rtsp(rtsp(None)));
    assert_eq!(camera::probe(&nobody, PATIENCE), Err(CameraError::PasswordWanted));

    std::fs::write(&file, "r1ght\n").unwrap();
    let began = Instant::now();
    watched.state(CameraState::Live);
    assert!(began.elapsed() < Duration::from_secs(10), "not tried at once");
}

#[test]
fn a_killed_server_is_found_again_and_another_camera_loses_nothing() {
    let sound = Server::start(Serve::default());
    let other =
        Watched::start(Camera { fps: 6.0, ..config("other", Source::Rtsp(sound.rtsp("h264"))) });
    other.frames(1);

    let mut server = Server::start(Serve::default());
    let watched = Watched::start(config("gate", Source::Rtsp(server.rtsp("h264"))));
    let before = watched.frames(5);
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    let status = watched.state(CameraState::Lost);
    assert!(!status.reason.is_empty());
    assert_eq!(status.reconnects, 1);
    assert!(status.last_frame_at.is_some());

    let _again = Server::start(Serve { port: server.port, ..Serve::default() });
    let began = Instant::now();
    watched.state(CameraState::Live);
    assert!(began.elapsed() < Duration::from_secs(15), "took {:?}", began.elapsed());
    let after = watched.frames(before.len() + 10);
    assert!(
        after.windows(2).all(|pair| pair[0].number + 1 == pair[1].number
            && pair[0].captured_at < pair[1].captured_at)
    );

    let so_far = other.count();
    check_frames(&other.frames(so_far + 6), 6.0);
    assert_eq!(other.states(), [CameraState::Connecting, CameraState::Live]);
}

#[test]
fn a_server_that_hangs_is_noticed() {
    let server = Server::start(Serve::default());
    let watched = Watched::start(config("gate", Source::Rtsp(server.rtsp("h264"))));
    watched.state(CameraState::Live);
    server.signal(libc::SIGSTOP);
    let status = watched.state(CameraState::Stalled);
    assert_eq!(status.reason, "no frame for 2 s");
    server.signal(libc::SIGCONT);
    watched.state(CameraState::Live);
}

#[test]
fn a_camera_that_sends_nothing_is_noticed() {
    let mut server = Server::start(Serve::default());
    let watched = Watched::start(config("gate", Source::Rtsp(server.rtsp("h264"))));
    watched.state(CameraState::Live);
    server.command("pause h264");
    watched.state(CameraState::Stalled);
    server.command("resume h264");
    watched.state(CameraState::Live);
}

#[test]
fn missing_streams_and_codecs_are_named() {
    let server = Server::start(Serve::default());
    let watched = Watched::start(config("gate", Source::Rtsp(server.rtsp("nowhere"))));
    assert_eq!(watched.state(CameraState::Refused).reason, "no such stream");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let watched = Watched::start(config("gate", Source::Rtsp(rtsp(closed, "x", "rtsp"))));
    let status = watched.state(CameraState::Lost);
    assert!(status.reason.contains("refused"), "{}", status.reason);

    let file = Source::File("/nonexistent/clip.mp4".into());
    let error = camera::probe(&config("gate", file), PATIENCE).unwrap_err();
    assert_eq!(error.state(), CameraState::Lost);
}

#[test]
fn only_key_frames_are_decoded_where_so_configured() {
    let server = Server::start(Serve::default());
    let rtsp = server.rtsp("h264");
    let watched = Watched::start(Camera {
        fps: 6.0,
        decode_frames: DecodeFrames::Keyframes,
        masks: Vec::new(),
        ..config("gate", Source::Rtsp(rtsp))
    });
    for frame in watched.frames(4) {
        assert_eq!(index_in(&frame) % GOP, 0);
    }
}

#[test]
fn a_file_is_played_at_its_speed_and_again() {
    let file = CLIPS.path("h264");
    let watched = Watched::start(Camera { fps: 6.0, ..config("file", Source::File(file)) });
    // The clip is 4 s long, so its end has passed.
    let frames = watched.frames(33);
    let span = frames[32].captured_at.duration_since(frames[0].captured_at).unwrap();
    assert!((4.5..7.0).contains(&span.as_secs_f64()), "{span:?}");
    assert!(frames.windows(2).all(|pair| pair[0].number + 1 == pair[1].number));
    assert!(frames.windows(2).any(|pair| index_in(&pair[1]) < index_in(&pair[0])));
    assert_eq!(watched.states(), [CameraState::Connecting, CameraState::Live]);
}

#[test]
fn a_10_bit_video_of_odd_size_keeps_its_shape_and_colours() {
    gst::init().unwrap();
    let clip = tempfile::tempdir().unwrap();
    let file = clip.path().join("wide.mp4");
    // 0xffcc8844 is opaque, red 204, green 136, blue 68.
    let launch = format!(
        "videotestsrc num-buffers=24 pattern=solid-color foreground-color=0xffcc8844 \
         ! video/x-raw,format=I422_10LE,width=322,height=182,framerate=24/1,\
         pixel-aspect-ratio=24/11,colorimetry=bt709 \
         ! x265enc speed-preset=ultrafast ! h265parse ! mp4mux ! filesink location={}",
        file.display()
    );
    let pipeline = gst::parse::launch(&launch).unwrap().downcast::<gst::Pipeline>().unwrap();
    play_to_the_end(&pipeline);

    let watched = Watched::start(Camera { fps: 6.0, ..config("wide", Source::File(file)) });
    for frame in watched.frames(3) {
        assert_eq!((frame.width, frame.height), (703, 182));
        for (x, y) in [(0, 0), (702, 0), (350, 90), (0, 181), (702, 181)] {
            let at = ((y * frame.width + x) * 4) as usize;
            let found = &frame.bgrx[at..at + 3];
            let alike = found.iter().zip([68u8, 136, 204]).all(|(f, w)| f.abs_diff(w) <= 3);
            assert!(alike, "{found:?} at {x},{y}");
        }
    }
}

#[test]
fn a_probe_reports_the_stream() {
    let server = Server::start(Serve::default());
    let probed =
        camera::probe(&config("gate", Source::Rtsp(server.rtsp("h264"))), PATIENCE).unwrap();
    assert_eq!((probed.width, probed.height), (WIDTH, HEIGHT));
    assert_eq!(probed.codec, "H.264");
    assert!(probed.decoder.contains("264"));
    assert!(probed.first_frame_after < Duration::from_secs(10));
}

#[test]
fn the_end_of_its_commands_ends_the_camera_server() {
    for commands in ["", "pause h264\n"] {
        let options = CamerasOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            mounts: CLIPS.mounts(),
            credentials: None,
            tls: None,
        };
        serve(options, |_| {}, commands.as_bytes()).unwrap();
    }
}

// Test helpers: a camera that is watched …

fn config(name: &str, source: Source) -> Camera {
    Camera {
        name: name.into(),
        source,
        fps: 4.0,
        window: Duration::from_secs(10),
        caption_interval: Duration::from_secs(10),
        max_caption_delay: Duration::from_secs(10),
        unchanged_threshold: 0.0,
        caption_prompt: None,
        decode_frames: DecodeFrames::All,
        masks: Vec::new(),
        stall_timeout: Duration::from_secs(2),
        max_reconnect_delay: Duration::from_secs(2),
        is_paused: false,
    }
}

fn rtsp(port: u16, mount: &str, scheme: &str) -> Rtsp {
    Rtsp {
        url: format!("{scheme}://127.0.0.1:{port}/{mount}").parse().unwrap(),
        username: None,
        password: None,
        transport: Transport::Tcp,
        stream: None,
        tls: RtspTls::System,
    }
}

// … a server in its own process …

#[derive(Default, Serialize, Deserialize)]
struct Serve {
    port: u16,
    credentials: Option<(String, String)>,
    tls: Option<(PathBuf, PathBuf)>,
    mounts: Vec<(String, PathBuf)>,
}

const SERVE: &str = "LOOKOUT_TEST_SERVE";

/// Entry point of the process that [`Server`] starts from this binary; not a test of its own.
#[test]
fn serve_child() {
    let Ok(options) = env::var(SERVE) else { return };
    let options: Serve = serde_json::from_str(&options).unwrap();
    let options = CamerasOptions {
        listen: ([127, 0, 0, 1], options.port).into(),
        mounts: options.mounts,
        credentials: options.credentials,
        tls: options.tls,
    };
    let ready = |port| println!("\nPORT {port}");
    serve(options, ready, BufReader::new(std::io::stdin())).unwrap();
}

struct Server {
    child: Child,
    stdin: ChildStdin,
    port: u16,
    scheme: &'static str,
}

impl Server {
    fn start(mut options: Serve) -> Server {
        let scheme = if options.tls.is_some() { "rtsps" } else { "rtsp" };
        options.mounts = CLIPS.mounts();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "serve_child", "--nocapture"])
            .env(SERVE, serde_json::to_string(&options).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let port = BufReader::new(child.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("PORT ")?.parse().ok())
            .expect("the server tells its port");
        Server { child, stdin, port, scheme }
    }

    fn rtsp(&self, mount: &str) -> Rtsp {
        rtsp(self.port, mount, self.scheme)
    }

    fn command(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the process is our child and not yet waited for.
        let sent = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(sent, 0);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// … and clips whose frames show their number in black and white stripes.

const WIDTH: u32 = 192;
const HEIGHT: u32 = 144;
const RATE: u64 = 24;
const GOP: u64 = 24;
const FRAMES: u64 = 4 * RATE;
const STRIPES: u32 = 8;

static CLIPS: LazyLock<Clips> = LazyLock::new(Clips::make);

struct Clips(PathBuf);

impl Clips {
    fn make() -> Clips {
        gst::init().unwrap();
        let clips = Clips(env!("CARGO_TARGET_TMPDIR").into());
        make_clip(
            &format!("openh264enc gop-size={GOP} scene-change-detection=false ! h264parse"),
            &clips.path("h264"),
        );
        make_clip(
            &format!("x265enc key-int-max={GOP} speed-preset=ultrafast ! h265parse"),
            &clips.path("h265"),
        );
        clips
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name).with_extension("mp4")
    }

    fn mounts(&self) -> Vec<(String, PathBuf)> {
        ["h264", "h265"].map(|name| (name.to_string(), self.path(name))).to_vec()
    }
}

fn make_clip(encode: &str, path: &Path) {
    let pipeline = gst::parse::launch(&format!(
        "appsrc name=source format=time ! {encode} ! mp4mux ! filesink location={}",
        path.display()
    ))
    .unwrap()
    .downcast::<gst::Pipeline>()
    .unwrap();
    let source = pipeline.by_name("source").unwrap().downcast::<gst_app::AppSrc>().unwrap();
    let info = gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, WIDTH, HEIGHT)
        .fps(gst::Fraction::new(RATE as i32, 1))
        .build()
        .unwrap();
    source.set_caps(Some(&info.to_caps().unwrap()));
    pipeline.set_state(gst::State::Playing).unwrap();
    for index in 0..FRAMES {
        let mut picture = vec![128u8; info.size()];
        for (at, luma) in picture[..(WIDTH * HEIGHT) as usize].iter_mut().enumerate() {
            let stripe = at as u32 % WIDTH * STRIPES / WIDTH;
            *luma = if index >> stripe & 1 == 1 { 235 } else { 16 };
        }
        let mut buffer = gst::Buffer::from_slice(picture);
        let time = |frame: u64| gst::ClockTime::from_nseconds(frame * 1_000_000_000 / RATE);
        let writable = buffer.get_mut().unwrap();
        writable.set_pts(time(index));
        writable.set_duration(time(index + 1) - time(index));
        source.push_buffer(buffer).unwrap();
    }
    source.end_of_stream().unwrap();
    play_to_the_end(&pipeline);
}

fn play_to_the_end(pipeline: &gst::Pipeline) {
    pipeline.set_state(gst::State::Playing).unwrap();
    let bus = pipeline.bus().unwrap();
    let message = bus
        .timed_pop_filtered(
            gst::ClockTime::from_seconds(60),
            &[gst::MessageType::Eos, gst::MessageType::Error],
        )
        .expect("a clip in a minute");
    assert_eq!(message.type_(), gst::MessageType::Eos, "{message:?}");
    pipeline.set_state(gst::State::Null).unwrap();
}

/// Returns the number that a frame shows.
fn index_in(frame: &Frame) -> u64 {
    (0..STRIPES).fold(0, |index, stripe| {
        let x = (2 * stripe + 1) * WIDTH / STRIPES / 2;
        let at = ((HEIGHT / 2 * WIDTH + x) * 4) as usize;
        index | u64::from(frame.bgrx[at] > 128) << stripe
    })
}

/// Returns the seconds between a frame's time and the time its image is shown, at most half a clip.
fn off_by(frame: &Frame) -> f64 {
    let length = FRAMES as f64 / RATE as f64;
    let unix = frame.captured_at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let round = unix.as_nanos() % (FRAMES / RATE * 1_000_000_000) as u128;
    let off = round as f64 / 1e9 - index_in(frame) as f64 / RATE as f64;
    (off + 1.5 * length).rem_euclid(length) - 0.5 * length
}
