//! Implements `lookout bench ingest`: the CPU cost of receiving a camera, compared with a bare
//! GStreamer pipeline, and the cost of clips: with the encoded stream held in memory, and every
//! picture written into a clip once.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{fs, thread};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

use super::loopback::{Killed, Served};
use super::median;
use crate::access_unit::AccessUnit;
use crate::camera::{self, Recorder, Sink};
use crate::clips::{Cut, Limits, Ring};
use crate::config;
use crate::event::CameraStatus;
use crate::frame::{Frame, Span};
use crate::run_clock::RunClock;
use crate::sync::lock;

#[derive(Args)]
pub struct Ingest {
    /// Clip to receive: H.264 in MP4, played over RTSP on loopback. The figures in the docs use
    /// 1080p25.
    #[arg(value_name = "FILE")]
    clip: PathBuf,
    /// Frames sampled per second.
    #[arg(long, value_name = "N", default_value_t = 2)]
    fps: u32,
    /// Frames to decode, as `decode_frames` of a camera in a config.
    #[arg(long, value_name = "FRAMES", value_enum, default_value_t = Decode::All)]
    decode_frames: Decode,
    /// Measuring time of each side in each round.
    #[arg(long = "for", value_name = "DURATION", default_value = "15s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Number of rounds; each figure is their median.
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Decode {
    All,
    Keyframes,
}

#[derive(Args)]
pub struct IngestOnly {
    url: String,
    #[arg(long)]
    fps: f64,
    #[arg(long, value_enum)]
    decode_frames: Decode,
    /// Hold the encoded stream, and write all of it into clips.
    #[arg(long)]
    clips: bool,
}

/// Length of the clips that are written.
const CLIP: Duration = Duration::from_secs(5);

/// Length and size of the encoded stream that is held: the daemon's defaults.
const HELD: Limits = Limits { age: Duration::from_secs(120), bytes: 64 << 20 };

pub fn compare(ingest: Ingest, out: &mut dyn Write) -> anyhow::Result<()> {
    let lookout = std::env::current_exe()?;
    let served = Served::clip(&ingest.clip)?;
    let url = &served.url;

    let keys = ingest.decode_frames == Decode::Keyframes;
    let bare = |url: &str| {
        let mut command = Command::new("gst-launch-1.0");
        let drop = if keys { "identity drop-buffer-flags=delta-unit !" } else { "" };
        let pipeline = format!(
            "rtspsrc location={url} protocols=tcp ! rtph264depay wait-for-keyframe=true ! h264parse ! \
             {drop} avdec_h264 max-threads=1 ! videorate drop-only=true max-rate={} ! videoscale ! \
             videoconvert ! video/x-raw,format=RGB,width=336,height=336 ! fakesink",
            ingest.fps
        );
        command.arg("-q").args(pipeline.split_whitespace());
        command
    };
    let ours = |url: &str| {
        let mut command = Command::new(&lookout);
        command.args(["bench", "ingest-only", url, "--fps", &ingest.fps.to_string()]);
        command.args(["--decode-frames", if keys { "keyframes" } else { "all" }]);
        command
    };
    let with_clips = |url: &str| {
        let mut command = ours(url);
        command.arg("--clips");
        command
    };
    let (mut bares, mut ourses, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut withs, mut mores) = (Vec::new(), Vec::new());
    writeln!(
        out,
        "CPU-seconds a second of stream, {} rounds of {:?} a side",
        ingest.rounds, ingest.time
    )?;
    writeln!(out, "round   gst-launch      lookout        ratio   with clips         more")?;
    for round in 1..=ingest.rounds {
        let b = cpu_share(bare(url), ingest.time)?;
        let o = cpu_share(ours(url), ingest.time)?;
        let w = cpu_share(with_clips(url), ingest.time)?;
        let (ratio, more) = (o / b, w - o);
        writeln!(
            out,
            "{round:>5}   {b:>10.4}   {o:>10.4}   {ratio:>10.3}   {w:>10.4}   {more:>10.4}"
        )?;
        out.flush()?;
        withs.push(w);
        mores.push(more);
        bares.push(b);
        ourses.push(o);
        ratios.push(ratio);
    }
    let (b, o, r) = (median(bares), median(ourses), median(ratios));
    let (w, m) = (median(withs), median(mores));
    writeln!(out, "median  {b:>10.4}   {o:>10.4}   {r:>10.3}   {w:>10.4}   {m:>10.4}")?;
    Ok(())
}

/// Returns the CPU-seconds per second of a running process, without its startup.
fn cpu_share(mut command: Command, time: Duration) -> anyhow::Result<f64> {
    let mut child = Killed(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    thread::sleep(Duration::from_secs(3));
    let begun = cpu_seconds(child.0.id())?;
    thread::sleep(time);
    if let Some(status) = child.0.try_wait()? {
        bail!("{command:?} ended: {status}");
    }
    Ok((cpu_seconds(child.0.id())? - begun) / time.as_secs_f64())
}

/// Returns the user and system time of a process, all threads (proc(5), fields 14 and 15).
fn cpu_seconds(id: u32) -> anyhow::Result<f64> {
    let file = format!("/proc/{id}/stat");
    let stat = fs::read_to_string(Path::new(&file)).context(file)?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: Vec<f64> =
        fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse().ok()).collect();
    // SAFETY: sysconf has no preconditions.
    let a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    Ok(ticks.iter().sum::<f64>() / a_second)
}

/// Counts a camera's frames, and holds its encoded stream.
struct Counted {
    frames: AtomicU64,
    held: Option<Arc<Held>>,
}

struct Held(Mutex<Ring>);

impl Sink for Counted {
    fn frame(&self, _: Frame) {
        self.frames.fetch_add(1, Ordering::Relaxed);
    }

    fn status(&self, _: &Arc<str>, _: CameraStatus) {}

    fn recorder(&self, _: &Arc<str>) -> Option<Arc<dyn Recorder>> {
        self.held.clone().map(|held| held as Arc<dyn Recorder>)
    }
}

impl Recorder for Held {
    fn unit(&self, unit: AccessUnit) {
        lock(&self.0).push(unit, None);
    }

    fn unsupported(&self, reason: String) {
        eprintln!("no clips: {reason}");
    }
}

impl Held {
    /// Writes the newest pictures into a clip. Returns its size.
    fn write_clip(&self) -> anyhow::Result<usize> {
        let ring = lock(&self.0);
        let to = ring.newest().context("no access unit has arrived")?;
        let span = Span { from: to - CLIP, to };
        let units = ring.of(span);
        drop(ring);
        let cut = Cut::of(units, span, to).context("no key frame has arrived")?;
        Ok(camera::mp4(cut.codec, &cut.units)?.len())
    }
}

/// Receives frames until the process is killed.
pub fn receive(only: IngestOnly) -> anyhow::Result<()> {
    let decode = if only.decode_frames == Decode::Keyframes { "keyframes" } else { "all" };
    let text = format!(
        "[model]\npackage = \"none\"\n[[camera]]\n\
         name = \"bench\"\nurl = {:?}\nfps = {}\ndecode_frames = {decode:?}\n",
        only.url,
        only.fps.max(0.1)
    );
    let config = config::Config::parse(&text, Path::new("."))?;
    camera::init()?;
    let held = only.clips.then(|| Arc::new(Held(Mutex::new(Ring::new(HELD)))));
    let sink = Arc::new(Counted { frames: AtomicU64::new(0), held });
    let run = Arc::new(RunClock::start());
    let cameras = config.cameras.into_iter();
    let _running: Vec<_> =
        cameras.map(|camera| camera::start(camera, sink.clone(), run.clone())).collect();
    loop {
        thread::sleep(CLIP);
        eprintln!("{} frames", sink.frames.load(Ordering::Relaxed));
        if let Some(held) = &sink.held {
            match held.write_clip() {
                Ok(bytes) => eprintln!("a clip of {bytes} bytes"),
                Err(error) => eprintln!("no clip: {error:#}"),
            }
        }
    }
}
