//! RTSP cameras for the demo and for tests: short clips, played in an endless loop.
//!
//! A clip's access units are read once and sent unchanged, so a camera costs almost nothing. The
//! frame shown is a pure function of UTC: the position in the clip is the Unix time modulo the
//! clip's length, which is rounded to whole milliseconds. The time therefore determines the content
//! of a frame, and a camera that was killed and restarted shows what it would have shown anyway.
//!
//! ```text
//!  mp4 ─► Clip (access units) ─► feeder thread ─► appsrc ─► payloader ─► GstRTSPServer
//!                                  at UTC = n · length + dts
//! ```
//!
//! Commands are read line by line: `pause NAME` (the server responds, but sends no frames) and
//! `resume NAME`. The end of the input stops the server. A client receives a stream from its next
//! key frame. Audio is left out.

use std::collections::HashMap;
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail, ensure};
use gst::glib;
use gst::prelude::*;
use gst_rtsp_server::prelude::*;
use gst_rtsp_server::{RTSPAuth, RTSPMedia, RTSPMediaFactory, RTSPServer, RTSPToken, gst_rtsp};

pub struct CamerasOptions {
    /// Address to listen on; port 0: any free port.
    pub listen: SocketAddr,
    /// Streams as `(name, clip)`, with the path `/name`.
    pub mounts: Vec<(String, PathBuf)>,
    /// `(user, password)`, requested by digest authentication.
    pub credentials: Option<(String, String)>,
    /// `(certificate chain, key)`, PEM. If set, the server accepts `rtsps` only.
    pub tls: Option<(PathBuf, PathBuf)>,
}

/// Serves until `commands` end. Calls `on_ready` with the port once clients can connect.
pub fn serve(
    options: CamerasOptions,
    on_ready: impl FnOnce(u16),
    commands: impl BufRead,
) -> Result<()> {
    gst::init()?;
    let context = glib::MainContext::new();
    let main_loop = glib::MainLoop::new(Some(&context), false);
    let server = RTSPServer::new();
    server.set_address(&options.listen.ip().to_string());
    server.set_service(&options.listen.port().to_string());
    if let Some(auth) = auth(&options)? {
        server.set_auth(Some(&auth));
    }
    // A client that waits for a response must not delay clients of other cameras.
    server.thread_pool().context("the RTSP server has no threads")?.set_max_threads(-1);

    let mounts = server.mount_points().context("the RTSP server has no mount points")?;
    let mut paused = HashMap::new();
    for (name, path) in &options.mounts {
        let clip = Clip::load(path).with_context(|| format!("clip {}", path.display()))?;
        let flag = Arc::new(AtomicBool::new(false));
        let factory = factory(Arc::new(clip), flag.clone());
        mounts.add_factory(&format!("/{name}"), factory);
        paused.insert(name.clone(), flag);
    }

    let source = server
        .attach(Some(&context))
        .with_context(|| format!("cannot listen at {}", options.listen))?;
    let port = u16::try_from(server.bound_port()).context("the RTSP server has no port")?;
    let turning = {
        let (main_loop, context) = (main_loop.clone(), context.clone());
        thread::Builder::new().name("cameras".into()).spawn(move || {
            let _ = context.with_thread_default(|| main_loop.run());
        })?
    };
    on_ready(port);
    let outcome = obey(commands, &paused);
    // The source belongs to this context; `SourceId::remove` only knows the default one.
    if let Some(source) = context.find_source_by_id(&source) {
        source.destroy();
    }
    // `quit` is called within the loop, because it has no effect on a loop that has not started
    // yet.
    let end = glib::idle_source_new(None, glib::Priority::DEFAULT, move || {
        main_loop.quit();
        glib::ControlFlow::Break
    });
    end.attach(Some(&context));
    turning.join().map_err(|_| anyhow!("the RTSP server panicked"))?;
    outcome
}

fn obey(commands: impl BufRead, paused: &HashMap<String, Arc<AtomicBool>>) -> Result<()> {
    for line in commands.lines() {
        let line = line?;
        let (verb, name) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match (verb, paused.get(name)) {
            ("", _) => {}
            ("pause", Some(flag)) => flag.store(true, Ordering::Relaxed),
            ("resume", Some(flag)) => flag.store(false, Ordering::Relaxed),
            ("pause" | "resume", None) => tracing::warn!("no demo camera is named {name:?}"),
            _ => tracing::warn!(
                "unknown command {line:?}; the commands are pause NAME and resume NAME"
            ),
        }
    }
    Ok(())
}

const ROLE: &str = "viewer";

fn auth(options: &CamerasOptions) -> Result<Option<RTSPAuth>> {
    if options.credentials.is_none() && options.tls.is_none() {
        return Ok(None);
    }
    let auth = RTSPAuth::new();
    let mut token = RTSPToken::builder().field("media.factory.role", ROLE).build();
    match &options.credentials {
        Some((user, password)) => {
            auth.set_supported_methods(gst_rtsp::RTSPAuthMethod::Digest);
            auth.add_digest(user, password, &token);
        }
        None => auth.set_default_token(Some(&mut token)),
    }
    if let Some((certificate, key)) = &options.tls {
        let certificate = gio::TlsCertificate::from_files(certificate, key)
            .with_context(|| format!("certificate {}", certificate.display()))?;
        auth.set_tls_certificate(Some(&certificate));
    }
    Ok(Some(auth))
}

/// Creates one stream. All its clients share one pipeline, created for the first client and ended
/// with the last.
fn factory(clip: Arc<Clip>, paused: Arc<AtomicBool>) -> RTSPMediaFactory {
    let factory = RTSPMediaFactory::new();
    factory.set_launch(&format!(
        "( appsrc name=source is-live=true format=time max-bytes=8000000 leaky-type=downstream \
         ! {} name=pay0 pt=96 config-interval=-1 )",
        clip.codec.payloader()
    ));
    factory.set_shared(true);
    factory.set_latency(0);
    factory.set_protocols(gst_rtsp::RTSPLowerTrans::UDP | gst_rtsp::RTSPLowerTrans::TCP);
    // The role matters only if the server has users or TLS.
    let role = gst::Structure::builder(ROLE)
        .field("media.factory.access", true)
        .field("media.factory.construct", true)
        .build();
    factory.add_role_from_structure(&role);
    factory.connect_media_configure(move |_, media| {
        if let Err(error) = feed(media, clip.clone(), paused.clone()) {
            tracing::error!("demo camera: {error:#}");
        }
    });
    factory
}

fn feed(media: &RTSPMedia, clip: Arc<Clip>, paused: Arc<AtomicBool>) -> Result<()> {
    let source = media
        .element()
        .downcast::<gst::Bin>()
        .ok()
        .and_then(|bin| bin.by_name("source"))
        .and_then(|source| source.downcast::<gst_app::AppSrc>().ok())
        .context("the stream has no appsrc")?;
    source.set_caps(Some(&clip.caps));
    let ended = Arc::new(AtomicBool::new(false));
    media.connect_unprepared({
        let ended = ended.clone();
        move |_| ended.store(true, Ordering::Relaxed)
    });
    thread::Builder::new()
        .name("camera-feed".into())
        .spawn(move || Feeder { clip, source, paused, ended }.run())?;
    Ok(())
}

struct Feeder {
    clip: Arc<Clip>,
    source: gst_app::AppSrc,
    paused: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
}

impl Feeder {
    fn run(self) {
        // Before the pipeline runs, UTC cannot be converted to its running time.
        while self.source.current_running_time().is_none() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
        let mut wait_for_key = true;
        let mut described = false;
        let (mut round, mut index) = self.clip.next_after(unix_now());
        while !self.ended.load(Ordering::Relaxed) {
            let unit = &self.clip.units[index];
            let started = round * self.clip.length;
            if !self.sleep_until(started + unit.dts) {
                return;
            }
            let sent = if self.paused.load(Ordering::Relaxed) {
                wait_for_key = true;
                // The response to DESCRIBE needs only the parameter sets. With them a client can
                // connect and then waits for a frame.
                let sent = described || self.send(&self.clip.parameter_sets, started, unit);
                described = true;
                sent
            } else if wait_for_key && !unit.key {
                true
            } else {
                wait_for_key = false;
                described = true;
                self.send(&unit.bytes, started, unit)
            };
            if !sent {
                return;
            }
            index += 1;
            if index == self.clip.units.len() {
                (round, index) = (round + 1, 0);
            }
            // After a pause of the process or a step of the clock, continue at the clip's current
            // position.
            if unix_now() - (round * self.clip.length + self.clip.units[index].dts) > LATE {
                (round, index) = self.clip.next_after(unix_now());
                wait_for_key = true;
            }
        }
    }

    fn sleep_until(&self, at: i64) -> bool {
        loop {
            if self.ended.load(Ordering::Relaxed) {
                return false;
            }
            match at - unix_now() {
                ..=0 => return true,
                left => thread::sleep(Duration::from_nanos(left.min(50_000_000).unsigned_abs())),
            }
        }
    }

    /// Sends one access unit. Reads both clocks again for each unit, so that the stream's time
    /// never drifts from UTC.
    fn send(&self, bytes: &[u8], started: i64, unit: &Unit) -> bool {
        let Some(running) = self.source.current_running_time() else { return false };
        let utc_of_zero = unix_now() - running.nseconds() as i64;
        let time = |at: i64| u64::try_from(started + at - utc_of_zero).ok();
        let mut buffer = gst::Buffer::from_slice(bytes.to_vec());
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(time(unit.pts).map(gst::ClockTime::from_nseconds));
            buffer.set_dts(time(unit.dts).map(gst::ClockTime::from_nseconds));
            if !unit.key {
                buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
            }
        }
        self.source.push_buffer(buffer).is_ok()
    }
}

/// A feeder that is this far behind skips to the present, in nanoseconds.
const LATE: i64 = 1_000_000_000;

const MILLISECOND: i64 = 1_000_000;

/// Returns the Unix time in nanoseconds.
fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as i64
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Codec {
    H264,
    H265,
}

impl Codec {
    fn of(caps: &gst::CapsRef) -> Option<Codec> {
        match caps.structure(0)?.name().as_str() {
            "video/x-h264" => Some(Codec::H264),
            "video/x-h265" => Some(Codec::H265),
            _ => None,
        }
    }

    fn parser(self) -> &'static str {
        match self {
            Codec::H264 => "h264parse",
            Codec::H265 => "h265parse",
        }
    }

    fn payloader(self) -> &'static str {
        match self {
            Codec::H264 => "rtph264pay",
            Codec::H265 => "rtph265pay",
        }
    }

    /// Checks the first byte of a NAL unit.
    fn is_parameter_set(self, header: u8) -> bool {
        match self {
            Codec::H264 => matches!(header & 0x1f, 7 | 8),
            Codec::H265 => matches!(header >> 1 & 0x3f, 32..=34),
        }
    }
}

struct Clip {
    codec: Codec,
    caps: gst::Caps,
    /// Access units in decoding order; the first is a key frame.
    units: Vec<Unit>,
    /// Parameter sets of the first key frame, which describe the stream without showing a frame.
    parameter_sets: Vec<u8>,
    /// Length in nanoseconds.
    length: i64,
}

/// One access unit; times in nanoseconds from the clip's first frame.
struct Unit {
    pts: i64,
    dts: i64,
    key: bool,
    bytes: Vec<u8>,
}

impl Clip {
    fn load(path: &Path) -> Result<Clip> {
        let pipeline = gst::Pipeline::new();
        let file = gst::ElementFactory::make("filesrc").property("location", path).build()?;
        let demuxer = gst::ElementFactory::make("parsebin").build()?;
        let sink = gst_app::AppSink::builder().sync(false).build();
        pipeline.add_many([&file, &demuxer, sink.upcast_ref()])?;
        file.link(&demuxer)?;
        demuxer.connect_pad_added({
            let (pipeline, sink) = (pipeline.downgrade(), sink.downgrade());
            move |_, pad| {
                let (Some(pipeline), Some(sink)) = (pipeline.upgrade(), sink.upgrade()) else {
                    return;
                };
                let codec = pad.current_caps().and_then(|caps| Codec::of(&caps));
                if let Some(codec) = codec
                    && let Err(error) = link_parser(&pipeline, pad, codec, &sink)
                {
                    gst::element_error!(pipeline, gst::CoreError::Failed, ["{error}"]);
                }
            }
        });
        let clip = Clip::pull(&pipeline, &sink);
        pipeline.set_state(gst::State::Null)?;
        clip
    }

    fn pull(pipeline: &gst::Pipeline, sink: &gst_app::AppSink) -> Result<Clip> {
        pipeline.set_state(gst::State::Playing)?;
        let bus = pipeline.bus().context("a pipeline without bus")?;
        let mut samples = Vec::new();
        loop {
            match sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
                Some(sample) => samples.push(sample),
                None if sink.is_eos() => break,
                None => {
                    if let Some(message) = bus.pop_filtered(&[gst::MessageType::Error])
                        && let gst::MessageView::Error(error) = message.view()
                    {
                        bail!("{}", error.error());
                    }
                }
            }
        }
        Clip::of(&samples)
    }

    fn of(samples: &[gst::Sample]) -> Result<Clip> {
        let first = samples.first().context("it has no H.264 or H.265 picture")?;
        let caps = first.caps_owned().context("its pictures have no format")?;
        let codec = Codec::of(&caps).context("it is neither H.264 nor H.265")?;
        let mut units = Vec::with_capacity(samples.len());
        let mut length = 0;
        for sample in samples {
            let buffer = sample.buffer().context("a sample without data")?;
            let pts = buffer.pts().context("an access unit without time")?;
            let dts = buffer.dts().unwrap_or(pts);
            let lasts = buffer.duration().context("an access unit without duration")?;
            length = length.max((pts + lasts).nseconds() as i64);
            units.push(Unit {
                pts: pts.nseconds() as i64,
                dts: dts.nseconds() as i64,
                key: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
                bytes: buffer.map_readable()?.to_vec(),
            });
        }
        let zero = units.iter().map(|unit| unit.pts).min().unwrap_or_default();
        for unit in &mut units {
            unit.pts -= zero;
            unit.dts -= zero;
        }
        let first_key = units.iter().find(|unit| unit.key).context("it has no key frame")?;
        let parameter_sets = parameter_sets(&first_key.bytes, codec);
        // A clip has been played about 10⁸ times since 1970: an error of one nanosecond would be
        // noticeable.
        let length = (length - zero + MILLISECOND / 2) / MILLISECOND * MILLISECOND;
        ensure!(length > 0, "it has no length");
        Ok(Clip { codec, caps, units, parameter_sets, length })
    }

    /// Returns the round and index of the first unit that is due at `now` or later.
    fn next_after(&self, now: i64) -> (i64, usize) {
        let (round, position) = (now.div_euclid(self.length), now.rem_euclid(self.length));
        match self.units.partition_point(|unit| unit.dts < position) {
            index if index == self.units.len() => (round + 1, 0),
            index => (round, index),
        }
    }
}

fn link_parser(
    pipeline: &gst::Pipeline,
    pad: &gst::Pad,
    codec: Codec,
    sink: &gst_app::AppSink,
) -> Result<()> {
    // Parameter sets precede every key frame, because a client may start at any of them.
    let parser =
        gst::ElementFactory::make(codec.parser()).property("config-interval", -1i32).build()?;
    let caps = gst::Caps::builder(match codec {
        Codec::H264 => "video/x-h264",
        Codec::H265 => "video/x-h265",
    })
    .field("stream-format", "byte-stream")
    .field("alignment", "au")
    .build();
    pipeline.add(&parser)?;
    parser.link_filtered(sink, &caps)?;
    parser.sync_state_with_parent()?;
    pad.link(&parser.static_pad("sink").context("a parser without input")?)?;
    Ok(())
}

/// Extracts the parameter sets of an access unit; both are in Annex B byte-stream format.
fn parameter_sets(unit: &[u8], codec: Codec) -> Vec<u8> {
    const START: [u8; 3] = [0, 0, 1];
    let starts: Vec<usize> = unit
        .windows(START.len())
        .enumerate()
        .filter(|(_, window)| *window == START)
        .map(|(at, _)| at + START.len())
        .collect();
    let mut sets = Vec::new();
    for (i, &from) in starts.iter().enumerate() {
        let to = starts.get(i + 1).map_or(unit.len(), |next| next - START.len());
        if from < to && codec.is_parameter_set(unit[from]) {
            sets.extend_from_slice(&[0, 0, 0, 1]);
            sets.extend_from_slice(&unit[from..to]);
        }
    }
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(dts: &[i64], length: i64) -> Clip {
        gst::init().unwrap();
        let units =
            dts.iter().map(|&dts| Unit { pts: dts, dts, key: true, bytes: Vec::new() }).collect();
        let caps = gst::Caps::new_empty_simple("video/x-h264");
        Clip { codec: Codec::H264, caps, units, parameter_sets: Vec::new(), length }
    }

    #[test]
    fn the_position_is_the_time_modulo_the_length() {
        let clip = clip(&[0, 40, 80], 120);
        assert_eq!(clip.next_after(1200), (10, 0));
        assert_eq!(clip.next_after(1201), (10, 1));
        assert_eq!(clip.next_after(1240), (10, 1));
        assert_eq!(clip.next_after(1281), (11, 0));
    }

    #[test]
    fn parameter_sets_are_extracted_from_an_access_unit() {
        let unit =
            [0, 0, 0, 1, 0x09, 0xf0, 0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 1, 0x65, 9];
        let sets = parameter_sets(&unit, Codec::H264);
        // A zero before a three-byte start code may remain: decoders skip trailing zeros.
        assert_eq!(sets, [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3]);
    }
}
