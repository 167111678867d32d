//! Inspects RTP packets on their way into the jitter buffer of `rtspsrc`.
//!
//! A camera reports the start of a stream in the RTP-Info of its answer to PLAY: the first sequence
//! number and timestamp. Some cameras report numbers that do not match their packets, and the
//! jitter buffer then drops up to 32,768 packets as too old. lookout never seeks, so it removes
//! these numbers.
//!
//! The jitter buffer derives each packet's presentation time from its RTP time. That is wrong if
//! the camera's RTP clock is. Therefore this module attaches the time of arrival to each frame and
//! measures the RTP clock.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use gst::prelude::*;

use super::progress::Progress;
use super::tempo::Tempo;
use crate::sync::lock;

/// The caps fields in which `rtspsrc` stores RTP-Info.
const RTP_INFO: [&str; 2] = ["seqnum-base", "clock-base"];

/// Identifies the timestamp metadata that holds a frame's time of arrival, in the pipeline's
/// running time.
static ARRIVAL: LazyLock<gst::Caps> =
    LazyLock::new(|| gst::Caps::new_empty_simple("timestamp/x-arrival"));

/// RTP clock rate of video in RFC 3551, used if a stream does not declare its own.
const USUAL_RATE: u32 = 90_000;

/// The state of a camera's RTP clock as last measured, kept over all its connections.
pub struct RtpClock {
    steady: AtomicBool,
}

impl Default for RtpClock {
    fn default() -> RtpClock {
        RtpClock { steady: AtomicBool::new(true) }
    }
}

impl RtpClock {
    pub fn is_steady(&self) -> bool {
        self.steady.load(Ordering::Relaxed)
    }

    /// Stores the state. Returns true if it changed.
    fn set_steady(&self, steady: bool) -> bool {
        self.steady.swap(steady, Ordering::Relaxed) != steady
    }
}

/// Adds the probes to each jitter buffer that `source`, an `rtspsrc`, creates.
pub fn watch(
    source: &gst::Element,
    camera: &Arc<str>,
    clock: &Arc<RtpClock>,
    progress: &Arc<Progress>,
) {
    let (camera, clock, progress) = (camera.clone(), clock.clone(), progress.clone());
    source.connect("new-manager", false, move |values| {
        let manager = values.get(1)?.get::<gst::Element>().ok()?;
        let (camera, clock, progress) = (camera.clone(), clock.clone(), progress.clone());
        manager.connect("new-jitterbuffer", false, move |values| {
            let jitter_buffer = values.get(1)?.get::<gst::Element>().ok()?;
            let pad = jitter_buffer.static_pad("sink")?;
            let rate = Arc::new(AtomicU32::new(USUAL_RATE));
            read_format(&pad, rate.clone());
            measure(&pad, camera.clone(), rate, clock.clone());
            let progress = progress.clone();
            pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
                progress.packet();
                gst::PadProbeReturn::Ok
            });
            None
        });
        None
    });
}

/// Returns the frame's time of arrival in running time, if it was recorded.
pub fn arrival(frame: &gst::BufferRef) -> Option<gst::ClockTime> {
    frame
        .iter_meta::<gst::ReferenceTimestampMeta>()
        .find(|meta| meta.reference() == ARRIVAL.as_ref())
        .map(|meta| meta.timestamp())
}

/// Reads the clock rate from the caps and removes RTP-Info.
fn read_format(pad: &gst::Pad, rate: Arc<AtomicU32>) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(event) = info.event_mut()
            && let gst::EventView::Caps(caps) = event.view()
        {
            let mut caps = caps.caps_owned();
            for structure in caps.make_mut().iter_mut() {
                structure.remove_fields(RTP_INFO);
                let clock_rate = structure.get::<i32>("clock-rate").unwrap_or_default();
                if let Ok(clock_rate @ 1..) = u32::try_from(clock_rate) {
                    rate.store(clock_rate, Ordering::Relaxed);
                }
            }
            *event = gst::event::Caps::builder(&caps).seqnum(event.seqnum()).build();
        }
        gst::PadProbeReturn::Ok
    });
}

/// The state kept between two packets.
struct Last {
    tempo: Tempo,
    ticks: u32,
    ended_picture: bool,
}

fn measure(pad: &gst::Pad, camera: Arc<str>, rate: Arc<AtomicU32>, clock: Arc<RtpClock>) {
    let tempo = Tempo::new(clock.is_steady());
    let last = Mutex::new(Last { tempo, ticks: 0, ended_picture: true });
    pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
        let now = pad.parent_element().and_then(|element| element.current_running_time());
        if let (Some(buffer), Some(now)) = (info.buffer_mut(), now)
            && let Some(Header { ticks, ends_picture }) = Header::of(buffer)
        {
            let mut last = lock(&last);
            let rate = rate.load(Ordering::Relaxed);
            let steady = last.tempo.packet(ticks, rate, now.nseconds());
            if clock.set_steady(steady) {
                log_steadiness(&camera, steady);
            }
            if last.ended_picture || last.ticks != ticks {
                let buffer = buffer.make_mut();
                gst::ReferenceTimestampMeta::add(buffer, &ARRIVAL, now, gst::ClockTime::NONE);
            }
            (last.ticks, last.ended_picture) = (ticks, ends_picture);
        }
        gst::PadProbeReturn::Ok
    });
}

fn log_steadiness(camera: &str, steady: bool) {
    if steady {
        tracing::info!(camera, "the camera's RTP clock keeps the time again");
    } else {
        tracing::warn!(
            camera,
            "the camera's RTP clock runs at another rate than this machine's: its frames get the \
             time of arrival"
        );
    }
}

/// The fields used of an RTP header (RFC 3550, 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    ticks: u32,
    ends_picture: bool,
}

impl Header {
    fn of(packet: &gst::BufferRef) -> Option<Header> {
        let mut bytes = [0; 8];
        if packet.size() < bytes.len() {
            return None;
        }
        packet.copy_to_slice(0, &mut bytes).ok()?;
        let [_, marker, _, _, ticks @ ..] = bytes;
        Some(Header { ticks: u32::from_be_bytes(ticks), ends_picture: marker & 0x80 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns an RTP packet of H.264 without content.
    fn packet(number: u16, ticks: u32) -> gst::Buffer {
        let mut packet = vec![0x80, 96];
        packet.extend(number.to_be_bytes());
        packet.extend(ticks.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0x09, 0xf0]);
        gst::Buffer::from_slice(packet)
    }

    #[test]
    fn packets_are_accepted_with_any_rtp_info() {
        gst::init().unwrap();
        // The packets' numbers are more than half of the number range above `seqnum-base`, so they
        // seem older.
        let launch = "appsrc name=camera format=time is-live=true do-timestamp=true \
            caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,\
            seqnum-base=(uint)1,clock-base=(uint)0 \
            ! rtpjitterbuffer name=jitter latency=20 ! appsink name=seen sync=false";
        let pipeline = gst::parse::launch(launch).unwrap().downcast::<gst::Pipeline>().unwrap();
        let jitter_buffer = pipeline.by_name("jitter").unwrap();
        let rate = Arc::new(AtomicU32::new(0));
        read_format(&jitter_buffer.static_pad("sink").unwrap(), rate.clone());
        let camera = pipeline.by_name("camera").unwrap().downcast::<gst_app::AppSrc>().unwrap();
        let seen = pipeline.by_name("seen").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        for frame in 0..20 {
            camera.push_buffer(packet(50_000 + frame, u32::from(frame) * 3600)).unwrap();
        }
        let first = seen.try_pull_sample(gst::ClockTime::from_seconds(5));
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(first.is_some(), "all packets were dropped");
        assert_eq!(rate.load(Ordering::Relaxed), 90_000);
    }

    #[test]
    fn the_header_of_a_packet_is_read() {
        gst::init().unwrap();
        let header = Header::of(&packet(7, 0x0102_0304));
        assert_eq!(header, Some(Header { ticks: 0x0102_0304, ends_picture: false }));
        let marked = gst::Buffer::from_slice([0x80, 0xe0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0]);
        assert_eq!(Header::of(&marked), Some(Header { ticks: 9, ends_picture: true }));
        assert_eq!(Header::of(&gst::Buffer::from_slice([0x80, 0xe0])), None);
    }
}
