//! Writes access units into an MP4 file in memory, without decoding them.
//!
//! The file's index comes before its pictures, so that a browser plays it while it loads. A file of
//! fragments has no index: its head is written here, and the fragments by the live video.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use gst::prelude::*;

use crate::access_unit::{AccessUnit, TimedUnit, VideoCodec};

/// Longest time for a file. Two minutes of a usual stream take far less than a second.
const LONGEST: Duration = Duration::from_secs(60);

/// Ticks per second of the times in the file, as in RTP.
pub const TIMESCALE: u32 = 90_000;

#[derive(Debug, thiserror::Error)]
#[error("the stream cannot be written as MP4: {0}")]
pub struct MuxError(String);

/// The order of a file's parts.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// The index of all pictures, then the pictures.
    Indexed,
    /// The head, then fragments of pictures.
    Fragmented,
}

/// Returns an MP4 file with these pictures, which are in the order of decoding and begin with a key
/// frame.
pub fn mp4(codec: VideoCodec, units: &[TimedUnit]) -> Result<Vec<u8>, MuxError> {
    run(codec, units, Layout::Indexed)
}

/// Returns the head of a file of fragments, which describes the stream of a key frame.
pub fn mp4_head(unit: &AccessUnit) -> Result<Vec<u8>, MuxError> {
    let only = TimedUnit {
        unit: unit.clone(),
        decoded_at: Duration::ZERO,
        presented_at: Duration::ZERO,
        duration: Duration::from_millis(40),
    };
    let mut file = run(unit.codec, &[only], Layout::Fragmented)?;
    let mut at = 0;
    while let Some(header) = file.get(at..at + 8) {
        let (length, kind) = header.split_at(4);
        let length = u32::from_be_bytes(length.try_into().unwrap_or_default()) as usize;
        if kind == b"moof" {
            file.truncate(at);
            return Ok(file);
        }
        at += length.max(8);
    }
    Err(failed("the file has no fragment"))
}

fn run(codec: VideoCodec, units: &[TimedUnit], layout: Layout) -> Result<Vec<u8>, MuxError> {
    let pipeline = gst::Pipeline::new();
    let written = write(&pipeline, codec, units, layout);
    // A pipeline that does not end would fail again when it is dropped.
    let _ = pipeline.set_state(gst::State::Null);
    written
}

fn write(
    pipeline: &gst::Pipeline,
    codec: VideoCodec,
    units: &[TimedUnit],
    layout: Layout,
) -> Result<Vec<u8>, MuxError> {
    let (media, parser, format) = match codec {
        VideoCodec::H264 => ("video/x-h264", "h264parse", "avc"),
        // Parameter sets are in the file's index only, which Safari needs.
        VideoCodec::H265 => ("video/x-h265", "h265parse", "hvc1"),
    };
    let caps = |format: &str| {
        let caps = gst::Caps::builder(media).field("stream-format", format);
        caps.field("alignment", "au").build()
    };
    let source = gst_app::AppSrc::builder()
        .caps(&caps("byte-stream"))
        .format(gst::Format::Time)
        .max_bytes(0)
        .build();
    let parser = make(parser)?;
    let filter = make("capsfilter")?;
    filter.set_property("caps", caps(format));
    let muxer = make("mp4mux")?;
    match layout {
        Layout::Indexed => muxer.set_property("faststart", true),
        Layout::Fragmented => {
            muxer.set_property("fragment-duration", 1000_u32);
            muxer.set_property("streamable", true);
        }
    }
    let sink = gst_app::AppSink::builder().sync(false).build();
    let chain = [source.upcast_ref(), &parser, &filter, &muxer, sink.upcast_ref()];
    pipeline.add_many(chain).map_err(failed)?;
    gst::Element::link_many(chain).map_err(failed)?;
    let pads = muxer.sink_pads();
    pads.iter().for_each(|pad| pad.set_property("trak-timescale", TIMESCALE));
    if let Some(pad) = filter.static_pad("src") {
        keep_durations(&pad, units);
    }
    pipeline.set_state(gst::State::Playing).map_err(failed)?;
    for unit in units {
        source.push_buffer(buffer(unit)).map_err(|error| reason(pipeline, error))?;
    }
    source.end_of_stream().map_err(|error| reason(pipeline, error))?;
    let begun = Instant::now();
    let mut file = Vec::new();
    loop {
        match sink.try_pull_sample(gst::ClockTime::from_mseconds(100)) {
            Some(sample) => {
                let data = sample.buffer().and_then(|buffer| buffer.map_readable().ok());
                file.extend_from_slice(&data.ok_or_else(|| failed("a buffer without data"))?);
            }
            None if sink.is_eos() => return Ok(file),
            None => {
                if let Some(error) = error_of(pipeline) {
                    return Err(error);
                }
                if begun.elapsed() > LONGEST {
                    return Err(failed(format!("not complete after {LONGEST:?}")));
                }
            }
        }
    }
}

/// Gives buffers the durations of their pictures. The parser removes them if the stream does not
/// contain its frame rate, and then the last picture would have the length 0 and not be shown.
fn keep_durations(pad: &gst::Pad, units: &[TimedUnit]) {
    let of_unit = |unit: &TimedUnit| Some((time(&unit.presented_at)?, time(&unit.duration)?));
    let durations: HashMap<gst::ClockTime, gst::ClockTime> =
        units.iter().filter_map(of_unit).collect();
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(buffer) = info.buffer_mut()
            && let Some(duration) = buffer.pts().and_then(|pts| durations.get(&pts))
        {
            buffer.make_mut().set_duration(*duration);
        }
        gst::PadProbeReturn::Ok
    });
}

fn time(time: &Duration) -> Option<gst::ClockTime> {
    gst::ClockTime::try_from(*time).ok()
}

fn buffer(TimedUnit { unit, decoded_at, presented_at, duration }: &TimedUnit) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(unit.data.clone());
    if let Some(buffer) = buffer.get_mut() {
        buffer.set_dts(time(decoded_at));
        buffer.set_pts(time(presented_at));
        buffer.set_duration(time(duration));
        if !unit.is_key {
            buffer.set_flags(gst::BufferFlags::DELTA_UNIT);
        }
    }
    buffer
}

fn make(element: &'static str) -> Result<gst::Element, MuxError> {
    let made = gst::ElementFactory::make(element).build();
    made.map_err(|_| failed(format!("GStreamer lacks the element {element}")))
}

/// Returns the pipeline's error, or this one if it has none.
fn reason(pipeline: &gst::Pipeline, error: gst::FlowError) -> MuxError {
    error_of(pipeline).unwrap_or_else(|| failed(error))
}

fn error_of(pipeline: &gst::Pipeline) -> Option<MuxError> {
    let message = pipeline.bus()?.pop_filtered(&[gst::MessageType::Error])?;
    let gst::MessageView::Error(error) = message.view() else { return None };
    let element = error.src().map(|source| source.name()).unwrap_or_default();
    Some(failed(format!("{element}: {}", error.error())))
}

fn failed(error: impl ToString) -> MuxError {
    MuxError(error.to_string())
}
