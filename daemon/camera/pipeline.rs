//! The pipeline of one attempt, from the source to the frames; nothing here waits or retries.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gio::prelude::*;
use gst::prelude::*;

use super::decoder::{Codec, Kind};
use super::delivery::Delivery;
use super::error::CameraError;
use super::pace::Pace;
use crate::config::{Camera, Decode, Rtsp, RtspTls, Source, Transport};

/// The name of the decoder in the pipeline.
pub const DECODER: &str = "decoder";

/// rtspsrc gives up a connection or an answer after so long.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);

/// Of the jitter buffer. Captions can wait; packets out of order cannot be had otherwise.
const LATENCY: Duration = Duration::from_millis(200);

/// What was found behind the URL.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub codec: String,
    /// The element's name.
    pub decoder: String,
    pub hardware: bool,
}

pub fn build(
    config: &Camera,
    password: Option<&str>,
    software_only: bool,
    delivery: &Arc<Delivery>,
    progress: &Arc<Progress>,
) -> Result<gst::Pipeline, CameraError> {
    let pipeline = gst::Pipeline::new();
    let tail = Tail::new(config, &pipeline, delivery, progress)?;
    let head = Head {
        pipeline: pipeline.downgrade(),
        tail,
        decode: config.decode,
        software_only,
        progress: progress.clone(),
    };
    match &config.source {
        Source::Rtsp(rtsp) => head.rtsp(&pipeline, rtsp, password)?,
        Source::File(path) => head.file(&pipeline, path)?,
    }
    Ok(pipeline)
}

/// From the source to the decoder; completed when the source knows what it has.
struct Head {
    pipeline: gst::glib::WeakRef<gst::Pipeline>,
    tail: Tail,
    decode: Decode,
    software_only: bool,
    progress: Arc<Progress>,
}

impl Head {
    fn rtsp(
        self,
        pipeline: &gst::Pipeline,
        rtsp: &Rtsp,
        password: Option<&str>,
    ) -> Result<(), CameraError> {
        let source = make("rtspsrc", "source")?;
        source.set_property("location", rtsp.url.as_str());
        source.set_property("user-id", rtsp.username.as_deref());
        source.set_property("user-pw", password);
        source.set_property_from_str(
            "protocols",
            match rtsp.transport {
                Transport::Tcp => "tcp",
                Transport::Udp => "udp",
            },
        );
        source.set_property("tcp-timeout", TCP_TIMEOUT.as_micros() as u64);
        source.set_property("latency", LATENCY.as_millis() as u32);
        source.set_property("add-reference-timestamp-meta", true);
        if rtsp.url.scheme() == "rtsps" {
            set_tls(&source, &rtsp.tls)?;
            let progress = self.progress.clone();
            // Asked only when the certificate did not pass: the one chance to learn why.
            source.connect("accept-certificate", false, move |values| {
                let flaws = values.get(3)?.get::<gio::TlsCertificateFlags>().ok()?;
                let why = format!("the camera's certificate {}", untrusted(flaws));
                progress.lock().failure.get_or_insert(CameraError::Lost(why));
                Some(false.to_value())
            });
        }
        let progress = self.progress.clone();
        source.connect("select-stream", false, move |values| {
            let caps = values.get(2)?.get::<gst::Caps>().ok()?;
            Some(progress.select(&caps).to_value())
        });
        source.connect_pad_added(move |_, pad| {
            let codec = pad.current_caps().and_then(|caps| codec_of(&caps));
            if let (Some(codec), Some(pipeline)) = (codec, self.pipeline.upgrade()) {
                self.progress.connected();
                if let Err(error) = self.complete_rtsp(&pipeline, pad, codec) {
                    self.progress.fail(&pipeline, error);
                }
            }
        });
        pipeline.add(&source).map_err(CameraError::internal)
    }

    fn complete_rtsp(
        &self,
        pipeline: &gst::Pipeline,
        pad: &gst::Pad,
        codec: Codec,
    ) -> Result<(), CameraError> {
        let chosen = codec.decoder(self.software_only)?;
        let depayloader = make(codec.depayloader(), "depayloader")?;
        // Pictures that refer to lost ones come out grey. rtph265depay cannot do this in 1.22.
        if depayloader.has_property("wait-for-keyframe") {
            depayloader.set_property("wait-for-keyframe", true);
        }
        let parser = make(codec.parser(), "parser")?;
        let decoder = make(chosen.element, DECODER)?;
        tame(&decoder);
        let mut chain = vec![depayloader, parser.clone(), decoder.clone()];
        if let Some(download) = chosen.download {
            chain.push(make(download, "download")?);
        }
        pipeline.add_many(&chain).map_err(CameraError::internal)?;
        gst::Element::link_many(&chain).map_err(CameraError::internal)?;
        let last = &chain[chain.len() - 1];
        last.link(&self.tail.convert).map_err(CameraError::internal)?;

        self.progress.found(Opened {
            codec: codec.name().to_string(),
            decoder: chosen.element.to_string(),
            hardware: chosen.kind == Kind::Hardware,
        });
        let parsed = source_pad(&parser)?;
        match self.decode {
            Decode::All => {
                let decoded = source_pad(&decoder)?;
                self.progress.watch(&decoded);
                self.tail.pace(&decoded);
            }
            // Counted before they are dropped: a camera with rare key frames has not stalled.
            Decode::Keyframes => {
                self.progress.watch(&parsed);
                self.tail.pace(&source_pad(&decoder)?);
            }
        }
        drop_delta_units(&parsed, self.decode);
        for element in &chain {
            element.sync_state_with_parent().map_err(CameraError::internal)?;
        }
        let first = chain[0].static_pad("sink").ok_or_else(|| missing_pad(&chain[0]))?;
        pad.link(&first).map_err(CameraError::internal)?;
        Ok(())
    }

    fn file(self, pipeline: &gst::Pipeline, path: &Path) -> Result<(), CameraError> {
        let source = make("filesrc", "source")?;
        source.set_property("location", path);
        let decodebin = make("decodebin", "decodebin")?;
        pipeline.add_many([&source, &decodebin]).map_err(CameraError::internal)?;
        source.link(&decodebin).map_err(CameraError::internal)?;
        // Sound is not decoded.
        decodebin.connect("autoplug-continue", false, |values| {
            let caps = values.get(2)?.get::<gst::Caps>().ok()?;
            let sound = caps.structure(0).is_some_and(|s| s.name().starts_with("audio/"));
            Some((!sound).to_value())
        });
        let progress = self.progress.clone();
        decodebin.connect("element-added", false, move |values| {
            let element = values.get(1)?.get::<gst::Element>().ok()?;
            let factory = element.factory()?;
            if factory
                .has_type(gst::ElementFactoryType::DECODER | gst::ElementFactoryType::MEDIA_VIDEO)
            {
                tame(&element);
                progress.found(Opened {
                    codec: factory.metadata("long-name").unwrap_or_default().to_string(),
                    decoder: factory.name().to_string(),
                    hardware: false,
                });
            }
            None
        });
        decodebin.connect_pad_added(move |_, pad| {
            let is_video = pad
                .current_caps()
                .is_some_and(|caps| caps.structure(0).is_some_and(|s| s.name() == "video/x-raw"));
            let Some(pipeline) = self.pipeline.upgrade() else { return };
            let Some(sink) = self.tail.convert.static_pad("sink") else { return };
            if !is_video || sink.is_linked() {
                return;
            }
            self.progress.connected();
            self.progress.watch(pad);
            self.tail.pace(pad);
            if let Err(error) = pad.link(&sink) {
                self.progress.fail(&pipeline, CameraError::internal(error));
            }
        });
        Ok(())
    }
}

/// From decoded pictures to frames.
struct Tail {
    convert: gst::Element,
    fps: f64,
}

impl Tail {
    fn new(
        config: &Camera,
        pipeline: &gst::Pipeline,
        delivery: &Arc<Delivery>,
        progress: &Arc<Progress>,
    ) -> Result<Tail, CameraError> {
        let convert = make("videoconvert", "convert")?;
        let sink = gst_app::AppSink::builder()
            .caps(&gst::Caps::builder("video/x-raw").field("format", "BGRx").build())
            .max_buffers(2)
            .drop(true)
            // A file plays at its own speed; a camera's pictures are late already.
            .sync(matches!(config.source, Source::File(_)))
            .build();
        let (delivery, progress) = (delivery.clone(), progress.clone());
        sink.set_callbacks(
            gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    if !progress.is_open() {
                        return Err(gst::FlowError::Flushing);
                    }
                    let age = age(sink, &sample).unwrap_or_default();
                    match delivery.deliver(&sample, age) {
                        Ok(()) => progress.delivered(sink.upcast_ref()),
                        Err(error) => {
                            gst::element_error!(sink, gst::StreamError::Format, ["{error:#}"]);
                            return Err(gst::FlowError::Error);
                        }
                    }
                    Ok(gst::FlowSuccess::Ok)
                })
                .build(),
        );
        pipeline.add_many([&convert, sink.upcast_ref()]).map_err(CameraError::internal)?;
        convert.link(&sink).map_err(CameraError::internal)?;
        Ok(Tail { convert, fps: config.fps })
    }

    /// Pictures that are not looked at go before they are converted: that is what costs.
    fn pace(&self, pad: &gst::Pad) {
        let pace = Mutex::new(Pace::new(self.fps));
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let pts = info.buffer().and_then(|buffer| buffer.pts());
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            match pts.is_none_or(|pts| pace.admits(pts.nseconds())) {
                true => gst::PadProbeReturn::Ok,
                false => gst::PadProbeReturn::Drop,
            }
        });
    }
}

/// How long ago the picture arrived, by the pipeline's clock. Its presentation time is the time
/// of arrival, not yet delayed by the jitter buffer and the decoder.
fn age(sink: &gst_app::AppSink, sample: &gst::Sample) -> Option<Duration> {
    let segment = sample.segment()?.downcast_ref::<gst::ClockTime>()?;
    let due = segment.to_running_time(sample.buffer()?.pts()?)?;
    let age = sink.current_running_time()?.checked_sub(due)?;
    // A picture so late says that its times are wrong.
    Some(Duration::from(age)).filter(|age| *age < Duration::from_secs(5))
}

/// Before the first key frame nothing can be decoded; in [`Decode::Keyframes`] nothing else is.
fn drop_delta_units(parsed: &gst::Pad, decode: Decode) {
    let begun = AtomicBool::new(false);
    parsed.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let delta = buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        if !delta {
            begun.store(true, Ordering::Relaxed);
        }
        match delta && (decode == Decode::Keyframes || !begun.load(Ordering::Relaxed)) {
            true => gst::PadProbeReturn::Drop,
            false => gst::PadProbeReturn::Ok,
        }
    });
}

/// Settings that only libav's decoders have: one thread is cheapest, and grey pictures are none.
fn tame(decoder: &gst::Element) {
    if decoder.has_property("max-threads") && decoder.has_property("output-corrupt") {
        decoder.set_property("max-threads", 1i32);
        decoder.set_property("output-corrupt", false);
    }
}

fn set_tls(source: &gst::Element, tls: &RtspTls) -> Result<(), CameraError> {
    if !gio::TlsBackend::default().supports_tls() {
        return Err(CameraError::Lost("rtsps needs glib-networking, which is missing".into()));
    }
    match tls {
        RtspTls::System => {}
        RtspTls::Authority(path) => {
            let authority = gio::TlsFileDatabase::new(path).map_err(|error| {
                CameraError::Lost(format!("authority {}: {error}", path.display()))
            })?;
            source.set_property("tls-database", &authority);
        }
        RtspTls::Unchecked => {
            source.set_property("tls-validation-flags", gio::TlsCertificateFlags::empty());
        }
    }
    Ok(())
}

fn untrusted(flaws: gio::TlsCertificateFlags) -> &'static str {
    use gio::TlsCertificateFlags as Flaw;
    if flaws.contains(Flaw::UNKNOWN_CA) {
        "is of an authority that is not trusted (`ca_file`)"
    } else if flaws.contains(Flaw::BAD_IDENTITY) {
        "is for another host"
    } else if flaws.contains(Flaw::EXPIRED) {
        "has expired"
    } else if flaws.contains(Flaw::NOT_ACTIVATED) {
        "is not valid yet"
    } else {
        "is not trusted"
    }
}

fn codec_of(caps: &gst::CapsRef) -> Option<Codec> {
    let structure = caps.structure(0)?;
    if structure.get::<&str>("media").ok()? != "video" {
        return None;
    }
    Codec::from_encoding_name(structure.get::<&str>("encoding-name").ok()?)
}

fn make(element: &'static str, name: &str) -> Result<gst::Element, CameraError> {
    gst::ElementFactory::make(element)
        .name(name)
        .build()
        .map_err(|_| CameraError::Lost(format!("GStreamer lacks the element {element}")))
}

fn source_pad(element: &gst::Element) -> Result<gst::Pad, CameraError> {
    element.static_pad("src").ok_or_else(|| missing_pad(element))
}

fn missing_pad(element: &gst::Element) -> CameraError {
    CameraError::internal(format!("{} lacks a pad", element.name()))
}

/// How far an attempt has come: written by GStreamer's threads, read by the camera's.
pub struct Progress {
    started: Instant,
    /// Milliseconds after `started`, plus one; 0: not yet.
    connected: AtomicU64,
    last_picture: AtomicU64,
    live: AtomicBool,
    closed: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    opened: Opened,
    selected: bool,
    failure: Option<CameraError>,
    /// Video streams that cannot be decoded.
    unknown: Vec<String>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress {
            started: Instant::now(),
            connected: AtomicU64::new(0),
            last_picture: AtomicU64::new(0),
            live: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            found: Mutex::default(),
        }
    }
}

impl Progress {
    pub fn opened(&self) -> Opened {
        self.lock().opened.clone()
    }

    pub fn failure(&self) -> Option<CameraError> {
        let found = self.lock();
        found.failure.clone().or_else(|| {
            let nothing = !found.selected && !found.unknown.is_empty();
            nothing.then(|| {
                let names = found.unknown.join(", ");
                CameraError::Lost(format!("its video is {names}: only H.264 and H.265 are read"))
            })
        })
    }

    pub fn connected_at(&self) -> Option<Instant> {
        self.instant(&self.connected)
    }

    pub fn last_picture(&self) -> Option<Instant> {
        self.instant(&self.last_picture)
    }

    /// No frame is delivered from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    /// Takes the first video stream that can be decoded.
    fn select(&self, caps: &gst::CapsRef) -> bool {
        let mut found = self.lock();
        if codec_of(caps).is_some() {
            return !std::mem::replace(&mut found.selected, true);
        }
        if let Some(structure) = caps.structure(0)
            && structure.get::<&str>("media").is_ok_and(|media| media == "video")
        {
            let name = structure.get::<&str>("encoding-name").unwrap_or("unknown");
            found.unknown.push(name.to_string());
        }
        false
    }

    fn connected(&self) {
        self.connected.store(self.now(), Ordering::Relaxed);
    }

    fn found(&self, opened: Opened) {
        self.lock().opened = opened;
    }

    /// Counts what passes this pad as a picture.
    fn watch(self: &Arc<Self>, pad: &gst::Pad) {
        let progress = self.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
            progress.last_picture.store(progress.now(), Ordering::Relaxed);
            gst::PadProbeReturn::Ok
        });
    }

    fn delivered(&self, element: &gst::Element) {
        if !self.live.swap(true, Ordering::Relaxed) {
            wake(element, "live");
        }
    }

    fn fail(&self, pipeline: &gst::Pipeline, error: CameraError) {
        self.lock().failure.get_or_insert(error);
        wake(pipeline.upcast_ref(), "failed");
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    fn instant(&self, mark: &AtomicU64) -> Option<Instant> {
        let after = mark.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.started + Duration::from_millis(after))
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the thread that watches the bus look at once.
fn wake(element: &gst::Element, why: &str) {
    let message = gst::message::Application::builder(gst::Structure::new_empty(why)).src(element);
    // Refused only by a pipeline that is ending.
    let _ = element.post_message(message.build());
}
