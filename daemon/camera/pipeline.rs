//! Builds the pipeline of one attempt, from the source to the frames. Not here: waiting and
//! retrying.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gst::prelude::*;

use super::decoder::{Codec, Kind};
use super::delivery::Delivery;
use super::element::{make, source_pad};
use super::error::CameraError;
use super::packets::{self, RtpClock};
use super::progress::{Opened, Progress};
use super::recording::Recording;
use super::rtsp::{self, Approach};
use super::tail::Tail;
use crate::config::{Camera, DecodeFrames, Source};

/// Name of the decoder element in the pipeline.
pub const DECODER: &str = "decoder";

pub fn build(
    config: &Camera,
    approach: &Approach,
    software_only: bool,
    delivery: &Arc<Delivery>,
    progress: &Arc<Progress>,
    clock: &Arc<RtpClock>,
) -> Result<gst::Pipeline, CameraError> {
    let pipeline = gst::Pipeline::new();
    let live = matches!(config.source, Source::Rtsp(_));
    let tail = Tail::new(&pipeline, config.fps, live, delivery, progress, clock)?;
    let head = Head {
        pipeline: pipeline.downgrade(),
        tail,
        decode: config.decode_frames,
        software_only,
        progress: progress.clone(),
        recording: Recording::of(delivery),
    };
    match &config.source {
        Source::Rtsp(rtsp) => {
            let source = rtsp::source(rtsp, approach, progress)?;
            packets::watch(&source, &config.name, clock, progress);
            head.rtsp(&pipeline, source)?;
        }
        Source::File(path) => head.file(&pipeline, path)?,
    }
    Ok(pipeline)
}

/// The part of the pipeline from the source to the decoder. It is completed when the source knows
/// its streams.
struct Head {
    pipeline: gst::glib::WeakRef<gst::Pipeline>,
    tail: Tail,
    decode: DecodeFrames,
    software_only: bool,
    progress: Arc<Progress>,
    recording: Option<Recording>,
}

impl Head {
    fn rtsp(self, pipeline: &gst::Pipeline, source: gst::Element) -> Result<(), CameraError> {
        // A camera that changes its SSRC gets a new pad each time. All pads lead to one decoder.
        let funnel = make("funnel", "funnel")?;
        pipeline.add_many([&source, &funnel]).map_err(CameraError::internal)?;
        let entrances = rtsp::Entrances::new(&funnel, &source);
        let head = self;
        source.connect_pad_added(move |_, pad| {
            let codec = pad.current_caps().and_then(|caps| Codec::of_caps(&caps));
            if let (Some(codec), Some(pipeline)) = (codec, head.pipeline.upgrade()) {
                head.progress.connected();
                let complete = match head.progress.opened().codec.as_str() {
                    "" => head.complete_rtsp(&pipeline, &funnel, codec),
                    known if known == codec.name() => Ok(()),
                    known => Err(CameraError::Failed(format!(
                        "the camera has changed from {known} to {}",
                        codec.name()
                    ))),
                };
                if let Err(error) = complete.and_then(|()| entrances.link(pad)) {
                    head.progress.fail(&pipeline, error);
                }
            }
        });
        Ok(())
    }

    fn complete_rtsp(
        &self,
        pipeline: &gst::Pipeline,
        funnel: &gst::Element,
        codec: Codec,
    ) -> Result<(), CameraError> {
        let chosen = codec.decoder(self.software_only)?;
        let depayloader = make(codec.depayloader(), "depayloader")?;
        // Otherwise frames that refer to lost ones are decoded as grey. rtph265depay 1.22 lacks
        // this property.
        if depayloader.has_property("wait-for-keyframe") {
            depayloader.set_property("wait-for-keyframe", true);
        }
        let parser = make(codec.parser(), "parser")?;
        let decoder = make(chosen.element, DECODER)?;
        tame(&decoder);
        let mut chain = vec![depayloader];
        if let Some(format) = codec.stream_format() {
            let filter = make("capsfilter", "stream-format")?;
            filter.set_property("caps", format);
            chain.push(filter);
        }
        chain.extend([parser.clone(), decoder.clone()]);
        if let Some(download) = chosen.download {
            chain.push(make(download, "download")?);
        }
        pipeline.add_many(&chain).map_err(CameraError::internal)?;
        gst::Element::link_many(&chain).map_err(CameraError::internal)?;
        let last = &chain[chain.len() - 1];
        last.link(&self.tail.first).map_err(CameraError::internal)?;

        self.progress.found(Opened {
            codec: codec.name().to_string(),
            decoder: chosen.element.to_string(),
            hardware: chosen.kind == Kind::Hardware,
        });
        let (parsed, decoded) = (source_pad(&parser)?, source_pad(&decoder)?);
        // It sees all access units, also those that are dropped before the decoder.
        if let Some(recording) = &self.recording {
            recording.watch(&parser, &parsed, codec);
        }
        match self.decode {
            DecodeFrames::All => self.progress.watch(&decoded),
            // Frames are counted before they are dropped: a camera with rare key frames has not
            // stalled.
            DecodeFrames::Keyframes => self.progress.watch(&parsed),
        }
        drop_delta_units(&parsed, self.decode);
        self.progress.watch_decoder(&parsed, &decoded);
        self.tail.pace(&decoded);
        for element in &chain {
            element.sync_state_with_parent().map_err(CameraError::internal)?;
        }
        funnel.link(&chain[0]).map_err(CameraError::internal)
    }

    fn file(self, pipeline: &gst::Pipeline, path: &Path) -> Result<(), CameraError> {
        let source = make("filesrc", "source")?;
        source.set_property("location", path);
        let decodebin = make("decodebin", "decodebin")?;
        pipeline.add_many([&source, &decodebin]).map_err(CameraError::internal)?;
        source.link(&decodebin).map_err(CameraError::internal)?;
        if let Some(recording) = &self.recording {
            recording.unsupported("the camera is a file".into());
        }
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
            let Some(sink) = self.tail.first.static_pad("sink") else { return };
            if !is_video || sink.is_linked() {
                return;
            }
            self.progress.connected();
            self.progress.watch(pad);
            self.progress.watch_decoded(pad);
            self.tail.pace(pad);
            if let Err(error) = pad.link(&sink) {
                self.progress.fail(&pipeline, CameraError::internal(error));
            }
        });
        Ok(())
    }
}

/// Drops delta frames before the first key frame, which cannot be decoded. With
/// [`DecodeFrames::Keyframes`] it drops all delta frames.
fn drop_delta_units(parsed: &gst::Pad, decode: DecodeFrames) {
    let begun = AtomicBool::new(false);
    parsed.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
        let delta = buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        if !delta {
            begun.store(true, Ordering::Relaxed);
        }
        if delta && (decode == DecodeFrames::Keyframes || !begun.load(Ordering::Relaxed)) {
            return gst::PadProbeReturn::Drop;
        }
        gst::PadProbeReturn::Ok
    });
}

/// Sets properties that only libav's decoders have: one thread is cheapest, and grey frames are not
/// output.
fn tame(decoder: &gst::Element) {
    if decoder.has_property("max-threads") && decoder.has_property("output-corrupt") {
        decoder.set_property("max-threads", 1i32);
        decoder.set_property("output-corrupt", false);
    }
}
