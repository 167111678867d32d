//! Measures a real daemon, in its own process, that watches a given number of real RTSP cameras.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::task::LocalSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::Row;
use super::memory::{self, Expected, Memory, Sample};
use super::questions::Asker;
use super::scrape::Contents;
use super::simulate::until_next;
use crate::config::Precision;
use crate::demo::children::Children;
use crate::demo::{CAMERAS, START_TIMEOUT, assets, free_port};
use crate::model::Package;
use crate::slowfast::{Plan, TokenShape};

/// Number of windows that fit in the prefix cache. It fills soon, but takes no more memory than a
/// daemon's usually does.
const PREFIXES: usize = 16;
const PREFIX_CACHE: usize = 1 << 30;
/// Longest wait for answers that are in progress at the end.
const LAST_ANSWERS: Duration = Duration::from_secs(30);

#[derive(Args)]
pub struct MeasureArgs {
    /// Model package to run. Default: the demo's.
    #[arg(long, value_name = "DIR", conflicts_with = "simulate")]
    package: Option<PathBuf>,
    /// Plan, as `model.plan` in a config.
    #[arg(long, value_name = "PLAN", conflicts_with = "simulate", default_value = crate::assets::PLAN)]
    plan: String,
    /// Device, as `model.device` in a config.
    #[arg(long, value_name = "DEVICE", conflicts_with = "simulate", default_value = "auto")]
    device: String,
    /// Frames sampled per second.
    #[arg(long, value_name = "N", conflicts_with = "simulate", default_value_t = 2.0)]
    fps: f64,
    /// Length of the window that a caption describes, as `window` of a camera in a config.
    #[arg(long, value_name = "DURATION", conflicts_with = "simulate", default_value = "8s",
        value_parser = humantime::parse_duration)]
    window: Duration,
    /// Time from one caption to the next, as `caption_interval` of a camera in a config.
    #[arg(long, value_name = "DURATION", conflicts_with = "simulate", default_value = "4s",
        value_parser = humantime::parse_duration)]
    caption_interval: Duration,
    /// Deadline of a caption, as `max_caption_delay` of a camera in a config. Default: the value of
    /// --caption-interval.
    #[arg(long, value_name = "DURATION", conflicts_with = "simulate",
        value_parser = humantime::parse_duration)]
    max_caption_delay: Option<Duration>,
    /// Questions per minute; 0: none.
    ///
    /// They are asked at random moments, about the last window of each camera in turn.
    #[arg(long, value_name = "N", conflicts_with = "simulate", default_value_t = 6.0,
        value_parser = rate)]
    questions: f64,
    /// Age up to which frames keep their tokens, as `buffer.token_age` in a config.
    ///
    /// It is short, so that the buffers are full during most of a run of minutes. JPEGs are kept 1.5
    /// times as long.
    #[arg(long, value_name = "DURATION", conflicts_with = "simulate", default_value = "1m",
        value_parser = humantime::parse_duration)]
    token_age: Duration,
    /// Keep the JPEGs on disk as well, in a folder that is removed at the end.
    #[arg(long, conflicts_with = "simulate")]
    disk: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate| (0.0..=60_000.0).contains(rate));
    rate.ok_or_else(|| "wanted 0 to 60000 questions per minute".into())
}

impl MeasureArgs {
    fn max_caption_delay(&self) -> Duration {
        self.max_caption_delay.unwrap_or(self.caption_interval)
    }
}

/// Measures each number of cameras. Returns the model and device, and one row per number.
pub fn run(
    options: &MeasureArgs,
    numbers: Vec<usize>,
    length: Duration,
    quiet: bool,
) -> anyhow::Result<(String, Vec<Row>)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (mut device, mut rows) = (String::new(), Vec::new());
    for cameras in numbers {
        if !quiet {
            let _ = writeln!(io::stderr(), "{cameras} cameras for {} s", length.as_secs());
        }
        let row;
        let measured = measure(options, cameras, length);
        (device, row) = LocalSet::new().block_on(&runtime, measured)?;
        rows.push(row);
    }
    Ok((device, rows))
}

async fn measure(
    options: &MeasureArgs,
    cameras: usize,
    length: Duration,
) -> anyhow::Result<(String, Row)> {
    let assets = assets(None)?;
    let folder = tempfile::Builder::new().prefix("lookout-bench-").tempdir()?;
    let mut children = Children::new(folder.path());
    let rtsp = children.cameras(&assets.join("cameras"), &CAMERAS.map(String::from)).await?;
    let package = options.package.clone().unwrap_or_else(|| assets.join("package"));
    let size = Size::of(options, &package, cameras)?;
    let names: Vec<String> =
        (0..cameras).map(|number| format!("{}-{number}", clip_of(number))).collect();
    let (grpc, http) = (free_port()?, free_port()?);
    let setup = Setup {
        options,
        package: package.canonicalize().with_context(|| package.display().to_string())?,
        prefix_cache: size.prefix_cache,
        frames: options.disk.then(|| folder.path().join("frames")),
        names: &names,
        rtsp,
        grpc,
        http,
    };
    let file = folder.path().join("lookout.toml");
    fs::write(&file, setup.config())?;
    let server = format!("127.0.0.1:{grpc}");
    children.daemon(&file, &server, 5 * START_TIMEOUT).await?;
    let daemon = children.id("run").ok_or_else(|| anyhow!("the daemon has ended"))?;
    let mut watch = Command::new(std::env::current_exe()?);
    watch.args([
        "watch",
        "--json",
        "--from-sequence",
        "1",
        "--kind",
        "caption",
        "--server",
        &server,
    ]);
    let mut events = children.reader("watch", watch)?;

    // The first windows fill while the cameras connect.
    let begin = Instant::now() + options.window + 2 * options.caption_interval;
    let end = begin + length;
    let mut sampling = interval(memory::SAMPLE_INTERVAL);
    sampling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut samples, mut contents, mut log) =
        (Vec::new(), Contents::default(), EventLog::default());
    let mut random = StdRng::seed_from_u64(1);
    let mut asker = Asker::new(&server, &names, options.window);
    let mut question = begin;
    loop {
        tokio::select! {
            line = events.next_line() => {
                let line = line?.ok_or_else(|| anyhow!("the reader of events has ended"))?;
                log.record(&line, Instant::now() >= begin, options.max_caption_delay())?;
            }
            true = asker.next() => {}
            () = sleep_until(question), if options.questions > 0.0 => {
                asker.ask();
                let pause = until_next(&mut random, options.questions);
                question += Duration::from_secs_f64(pause.min(86_400.0));
            }
            _ = sampling.tick() => {
                contents = Contents::parse(&metrics(http).await?, &names);
                let resident = resident_bytes(daemon);
                samples.push(Sample { resident, full: memory::is_full(&contents) });
            }
            () = sleep_until(end) => break,
            gone = children.any_gone() => return Err(gone),
        }
    }
    asker.finish(LAST_ANSWERS).await;
    children.stop().await;
    if log.captions.is_empty() {
        bail!("{cameras} cameras: not one caption in {} s; --for takes longer", length.as_secs());
    }
    let Asker { answers, refused, unanswered, why, .. } = asker;
    if let Some(why) = why {
        let _ =
            writeln!(io::stderr(), "{unanswered} questions without an answer; the first: {why}");
    }
    let memory = Some(Memory::of(&samples, &contents, size.expected, log.sequence));
    let windows_of_each = (length.as_secs_f64() / options.caption_interval.as_secs_f64()) as usize;
    let row = Row { cameras, refused, unanswered, memory, ..Row::default() };
    Ok((log.device.clone(), log.count(row, windows_of_each, answers)))
}

/// Data collected from captions.
#[derive(Default)]
struct EventLog {
    /// The model and the device it runs on.
    device: String,
    /// Sequence number of the newest event.
    sequence: u64,
    /// Seconds from a window's close to its caption.
    captions: Vec<f64>,
    of_each: HashMap<String, usize>,
    skipped: usize,
    late: usize,
    frames_used: u64,
    frames_expected: u64,
}

impl EventLog {
    /// Reads a line of `lookout watch --json`. Its caption is counted only if `counts` is set, that
    /// is, after the start of the measurement.
    fn record(&mut self, line: &str, counts: bool, max_delay: Duration) -> anyhow::Result<()> {
        let event: Value = serde_json::from_str(line).context("an event")?;
        if event["kind"] == "missed_events" {
            bail!("{} events were missed: the bench read too slowly", event["count"]);
        }
        let word = |value: &Value| value.as_str().unwrap_or("?").to_string();
        let device = &event["devices"]["language"]["device"];
        self.device = [&event["model"], device].map(word).join(", ");
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        self.sequence = number(&event["sequence"]);
        if counts {
            let took = event["timing"]["total_seconds"].as_f64().context("total_seconds")?;
            self.captions.push(took);
            *self.of_each.entry(word(&event["camera"])).or_default() += 1;
            self.skipped += number(&event["skipped_windows"]) as usize;
            self.late += usize::from(took > max_delay.as_secs_f64());
            self.frames_used += number(&event["coverage"]["frames_used"]);
            self.frames_expected += number(&event["coverage"]["frames_expected"]);
        }
        Ok(())
    }

    fn count(self, row: Row, windows_of_each: usize, answers: Vec<f64>) -> Row {
        // A camera without any caption cannot report how many windows were skipped.
        let silent = row.cameras - self.of_each.len().min(row.cameras);
        let skipped = self.skipped + silent * windows_of_each;
        let mut of_each: Vec<usize> = self.of_each.into_values().collect();
        of_each.resize(row.cameras, 0);
        let row = Row {
            windows: self.captions.len() + skipped,
            skipped,
            late: self.late,
            frames: (self.frames_expected > 0)
                .then(|| self.frames_used as f64 / self.frames_expected as f64),
            ..row
        };
        row.count(&of_each, self.captions, answers)
    }
}

/// Memory that the daemon should need.
struct Size {
    expected: Expected,
    prefix_cache: usize,
}

impl Size {
    fn of(options: &MeasureArgs, package: &Path, cameras: usize) -> anyhow::Result<Size> {
        let Package { vision, text, .. } = Package::read(package, &Precision::default())?;
        let plan: Plan = options.plan.parse().map_err(|why: String| anyhow!("--plan: {why}"))?;
        let shape = TokenShape::of(&plan, vision.grid_tokens, text.hidden_size)?;
        let video_tokens = plan.video_tokens(plan.frames, vision.grid_tokens)?;
        let key_or_value = text.layers * text.kv_heads * text.head_dim * size_of::<f32>();
        let hot_frames = (options.fps * options.token_age.as_secs_f64()).floor() as usize + 1;
        Ok(Size {
            expected: Expected {
                frame_bytes: shape.frame_bytes(),
                hot_frames: cameras * hot_frames,
            },
            prefix_cache: PREFIX_CACHE.min(PREFIXES * video_tokens * 2 * key_or_value),
        })
    }
}

fn clip_of(camera: usize) -> &'static str {
    CAMERAS[camera % CAMERAS.len()]
}

/// Inputs of the daemon's config.
struct Setup<'a> {
    options: &'a MeasureArgs,
    package: PathBuf,
    prefix_cache: usize,
    /// The folder for frames on disk.
    frames: Option<PathBuf>,
    names: &'a [String],
    rtsp: u16,
    grpc: u16,
    http: u16,
}

impl Setup<'_> {
    fn config(&self) -> String {
        let Setup { options, package, prefix_cache, rtsp, grpc, http, .. } = self;
        let MeasureArgs { plan, device, fps, token_age, .. } = options;
        let disk =
            self.frames.as_ref().map(|frames| format!("[buffer.disk]\nfolder = {frames:?}\n"));
        let mut text = format!(
            "[model]\npackage = {package:?}\nplan = {plan:?}\ndevice = {device:?}\n\
             [generate]\nprefix_cache_bytes = \"{prefix_cache} B\"\n\
             [buffer]\ntoken_age = {token_age:?}\njpeg_age = {jpeg_age:?}\n{disk}\
             [http]\nlisten = \"127.0.0.1:{http}\"\n[grpc]\nlisten = \"127.0.0.1:{grpc}\"\n",
            token_age = time(*token_age),
            jpeg_age = time(*token_age * 3 / 2),
            disk = disk.unwrap_or_default(),
        );
        for (number, name) in self.names.iter().enumerate() {
            text += &format!(
                "[[camera]]\nname = \"{name}\"\nurl = \"rtsp://127.0.0.1:{rtsp}/{clip}\"\n\
                 fps = {fps}\nwindow = {window:?}\n\
                 caption_interval = {caption_interval:?}\nmax_caption_delay = {max_caption_delay:?}\n",
                clip = clip_of(number),
                window = time(options.window),
                caption_interval = time(options.caption_interval),
                max_caption_delay = time(options.max_caption_delay()),
            );
        }
        text
    }
}

/// Formats a duration as in a config.
fn time(time: Duration) -> String {
    humantime::format_duration(time).to_string()
}

/// Fetches the daemon's `/metrics`.
async fn metrics(port: u16) -> anyhow::Result<String> {
    let get = async {
        let mut http = TcpStream::connect(("127.0.0.1", port)).await?;
        // HTTP/1.0: the whole response in one piece, then the connection closes.
        http.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut output = String::new();
        http.read_to_string(&mut output).await?;
        io::Result::Ok(output)
    };
    let output = timeout(Duration::from_secs(10), get).await.context("/metrics")?;
    let output = output.context("/metrics")?;
    ensure!(output.starts_with("HTTP/1.0 200"), "/metrics: {:?}", output.lines().next());
    Ok(output)
}

/// Returns the resident memory from proc(5), statm; 0 for a process that has ended.
fn resident_bytes(process: u32) -> f64 {
    let statm = fs::read_to_string(format!("/proc/{process}/statm")).unwrap_or_default();
    let pages: f64 = statm.split(' ').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0.0);
    // SAFETY: sysconf only reads.
    pages * unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(4);

    fn caption(camera: &str, seconds: f64, skipped: u64) -> String {
        let coverage = serde_json::json!({"frames_used": 12, "frames_expected": 16});
        let event = serde_json::json!({
            "kind": "caption", "camera": camera, "sequence": 7, "model": "demo",
            "devices": {"vision": {"device": "cpu"}, "language": {"device": "cpu"}},
            "timing": {"total_seconds": seconds}, "skipped_windows": skipped, "coverage": coverage,
        });
        event.to_string()
    }

    #[test]
    fn captions_before_the_measured_time_are_not_counted() {
        let mut log = EventLog::default();
        log.record(&caption("gate-0", 9.0, 3), false, FRESH).expect("a caption");
        for (seconds, skipped) in [(1.0, 0), (5.0, 2)] {
            log.record(&caption("gate-0", seconds, skipped), true, FRESH).expect("a caption");
        }
        assert_eq!((log.device.as_str(), log.sequence), ("demo, cpu", 7));
        // The other camera has no caption: all its windows were skipped.
        let row = log.count(Row { cameras: 2, ..Row::default() }, 10, vec![0.5]);
        assert_eq!((row.published, row.skipped, row.windows, row.late), (2, 12, 14, 1));
        assert_eq!((row.frames, row.answered, row.worst_camera_share), (Some(0.75), 1, Some(0.0)));
    }

    #[test]
    fn missed_events_are_an_error() {
        let why = EventLog::default().record(r#"{"kind":"missed_events","count":3}"#, true, FRESH);
        assert!(why.is_err_and(|why| why.to_string().starts_with("3 events were missed")));
        assert!(EventLog::default().record("{}", true, FRESH).is_err());
    }
}
