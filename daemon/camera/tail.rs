//! The end of a pipeline: turns decoded frames into sampled frames.
//!
//! ```text
//!  [pace] ─► deinterlace ─► videoconvert ─► videoscale ─► appsink
//! ```
//!
//! Most frames pass `deinterlace` and `videoscale` unchanged. Interlaced frames keep their rate and
//! their upper field; the other lines are interpolated from their neighbours. Frames with
//! non-square pixels are stretched to the shape that the camera saw.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gst::prelude::*;

use super::colours;
use super::delivery::{Delivery, Timing};
use super::element::{make, missing_pad};
use super::error::CameraError;
use super::pace::{Moment, Pace};
use super::packets::{self, RtpClock};
use super::progress::Progress;
use crate::sync::lock;

/// Maximum delay against the presentation time. A frame with a larger delay has a wrong time.
const LATE: gst::ClockTime = gst::ClockTime::from_seconds(5);

const STEP: gst::ClockTime = gst::ClockTime::from_mseconds(1);

pub struct Tail {
    /// The element that receives decoded frames.
    pub first: gst::Element,
    fps: f64,
    clock: Arc<RtpClock>,
}

impl Tail {
    /// Builds the tail. Frames of a `live` source are late already, so the sink does not wait for
    /// their time. A file plays at its own speed.
    pub fn new(
        pipeline: &gst::Pipeline,
        fps: f64,
        live: bool,
        delivery: &Arc<Delivery>,
        progress: &Arc<Progress>,
        clock: &Arc<RtpClock>,
    ) -> Result<Tail, CameraError> {
        let deinterlace = make("deinterlace", "deinterlace")?;
        deinterlace.set_property_from_str("mode", "disabled");
        deinterlace.set_property_from_str("fields", "top");
        // This method needs no other frame: the previous one can be half a second old.
        deinterlace.set_property_from_str("method", "linear");
        let convert = make("videoconvert", "convert")?;
        let scale = make("videoscale", "scale")?;
        scale.set_property("add-borders", false);
        let wanted = gst::Caps::builder("video/x-raw")
            .field("format", gst::List::new(colours::FORMATS))
            .field("pixel-aspect-ratio", gst::Fraction::new(1, 1))
            .build();
        // The callback takes each frame in the thread that brings it, so that none waits here.
        let sink =
            gst_app::AppSink::builder().caps(&wanted).max_buffers(2).drop(true).sync(!live).build();
        let (delivery, progress) = (delivery.clone(), progress.clone());
        let mut watch = Watch { clock: clock.clone(), last: None, taken: None };
        sink.set_callbacks(
            gst_app::AppSinkCallbacks::builder()
                .new_sample(move |sink| {
                    let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
                    if !progress.is_open() {
                        return Err(gst::FlowError::Flushing);
                    }
                    match delivery.deliver(&sample, watch.timing(sink, &sample)) {
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
        let chain = [&deinterlace, &convert, &scale, sink.upcast_ref()];
        pipeline.add_many(chain).map_err(CameraError::internal)?;
        gst::Element::link_many(chain).map_err(CameraError::internal)?;
        adapt(&deinterlace)?;
        allow_padding(&sink)?;
        Ok(Tail { first: deinterlace, fps, clock: clock.clone() })
    }

    /// Drops the frames that are not sampled before their conversion, which is the expensive step.
    pub fn pace(&self, pad: &gst::Pad) {
        let pace = Mutex::new(Pace::new(self.fps));
        let clock = self.clock.clone();
        pad.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let Some(buffer) = info.buffer() else { return gst::PadProbeReturn::Ok };
            let (shown, arrival) = (buffer.pts(), packets::arrival(buffer));
            let (Some(stream), Some(arrival)) = (shown.or(arrival), arrival.or(shown)) else {
                return gst::PadProbeReturn::Ok;
            };
            let moment = Moment { stream: stream.nseconds(), arrival: arrival.nseconds() };
            let mut pace = lock(&pace);
            if pace.admits(moment, clock.is_steady()) {
                gst::PadProbeReturn::Ok
            } else {
                gst::PadProbeReturn::Drop
            }
        });
    }
}

/// Lets decoders pass frames in their own memory layout, with padding. Otherwise they copy each
/// frame, even those that are not sampled.
fn allow_padding(sink: &gst_app::AppSink) -> Result<(), CameraError> {
    let pad = sink.static_pad("sink").ok_or_else(|| missing_pad(sink.upcast_ref()))?;
    pad.add_probe(gst::PadProbeType::QUERY_DOWNSTREAM, |_, info| {
        let query = info.query_mut().map(|query| query.view_mut());
        if let Some(gst::QueryViewMut::Allocation(query)) = query {
            query.add_allocation_meta::<gst_video::VideoMeta>(None);
            return gst::PadProbeReturn::Handled;
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// Formats that `deinterlace` can read. It refuses to negotiate others.
const DEINTERLACED: [&str; 8] = ["I420", "YV12", "NV12", "NV21", "Y42B", "Y444", "YUY2", "UYVY"];

/// Maximum ratio of a pixel's width to its height, and of height to width. Without it, a damaged
/// stream could request any amount of memory.
const PIXEL_ASPECT_MAX: i32 = 3;

/// Configures the element for each new format before the format reaches it, and replaces a pixel
/// aspect ratio beyond the maximum with 1:1.
fn adapt(deinterlace: &gst::Element) -> Result<(), CameraError> {
    let pad = deinterlace.static_pad("sink").ok_or_else(|| missing_pad(deinterlace))?;
    let element = deinterlace.downgrade();
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
        if let Some(event) = info.event_mut()
            && let gst::EventView::Caps(caps) = event.view()
            && let Some(element) = element.upgrade()
        {
            let mut caps = caps.caps_owned();
            let mode = if wants_deinterlacing(&caps) { "auto" } else { "disabled" };
            element.set_property_from_str("mode", mode);
            if has_odd_pixels(&caps) {
                caps.make_mut().set("pixel-aspect-ratio", gst::Fraction::new(1, 1));
                *event = gst::event::Caps::builder(&caps).seqnum(event.seqnum()).build();
            }
        }
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

fn wants_deinterlacing(caps: &gst::CapsRef) -> bool {
    let in_memory = caps.features(0).is_none_or(|features| {
        features.is_equal(gst::CapsFeatures::new([gst::CAPS_FEATURE_MEMORY_SYSTEM_MEMORY]).as_ref())
    });
    let text = |field| caps.structure(0)?.get::<&str>(field).ok();
    in_memory
        && text("interlace-mode").is_some_and(|mode| matches!(mode, "interleaved" | "mixed"))
        && text("format").is_some_and(|format| DEINTERLACED.contains(&format))
}

fn has_odd_pixels(caps: &gst::CapsRef) -> bool {
    let aspect = caps
        .structure(0)
        .and_then(|structure| structure.get::<gst::Fraction>("pixel-aspect-ratio").ok());
    aspect.is_some_and(|aspect| {
        let (wide, high) = (i64::from(aspect.numer()), i64::from(aspect.denom()));
        let most = i64::from(PIXEL_ASPECT_MAX);
        wide <= 0 || high <= 0 || wide > high * most || high > wide * most
    })
}

/// Estimates when frames were captured.
struct Watch {
    clock: Arc<RtpClock>,
    /// Presentation time of the last frame.
    last: Option<gst::ClockTime>,
    /// Capture time of the last frame.
    taken: Option<gst::ClockTime>,
}

impl Watch {
    fn timing(&mut self, sink: &gst_app::AppSink, sample: &gst::Sample) -> Timing {
        let segment = sample.segment().and_then(|segment| segment.downcast_ref());
        let shown = segment.zip(sample.buffer()).and_then(|(segment, buffer)| {
            let segment: &gst::FormattedSegment<gst::ClockTime> = segment;
            segment.to_running_time(buffer.pts()?)
        });
        let arrival = sample.buffer().and_then(packets::arrival);
        let now = sink.current_running_time().unwrap_or_default();
        self.judge(now, shown, arrival)
    }

    /// Estimates a frame's age. Its presentation time is its time of arrival without the network's
    /// jitter, provided that its RTP clock is steady and advances.
    fn judge(
        &mut self,
        now: gst::ClockTime,
        shown: Option<gst::ClockTime>,
        arrival: Option<gst::ClockTime>,
    ) -> Timing {
        let last = std::mem::replace(&mut self.last, shown);
        let moves = last.is_none_or(|last| shown.is_some_and(|shown| last < shown));
        let believed = self.clock.is_steady() && moves;
        let shown = shown.filter(|shown| believed && now.saturating_sub(*shown) < LATE);
        let taken = match (shown, arrival) {
            (Some(shown), Some(arrival)) => shown.min(arrival),
            (shown, arrival) => shown.or(arrival).unwrap_or(now),
        };
        // Frames arrive in the order of their capture.
        let taken = self.taken.map_or(taken, |last| taken.max(last + STEP));
        self.taken = Some(taken);
        Timing { age: Duration::from(now.saturating_sub(taken)), believed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_clock::RunClock;

    fn ms(milliseconds: u64) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(milliseconds)
    }

    use std::sync::mpsc::{Receiver, sync_channel};

    use crate::camera::Sink;
    use crate::event::CameraStatus;
    use crate::frame::Frame;
    use gst_video::prelude::*;
    use gst_video::{
        VideoBufferFlags, VideoColorMatrix, VideoColorPrimaries, VideoColorRange, VideoColorimetry,
        VideoFormat, VideoInfo, VideoInterlaceMode, VideoTransferFunction,
    };

    struct Frames(std::sync::mpsc::SyncSender<Frame>);

    impl Sink for Frames {
        fn frame(&self, frame: Frame) {
            let _ = self.0.try_send(frame);
        }

        fn status(&self, _: &Arc<str>, _: CameraStatus) {}
    }

    /// A tail that receives decoded frames from a test.
    struct Pipe {
        pipeline: gst::Pipeline,
        source: gst_app::AppSrc,
        frames: Receiver<Frame>,
        pushed: u64,
    }

    impl Pipe {
        fn new() -> Pipe {
            gst::init().unwrap();
            let pipeline = gst::Pipeline::new();
            let (sender, frames) = sync_channel(8);
            let delivery = Arc::new(Delivery::new(
                "gate".into(),
                Arc::new(Frames(sender)),
                Arc::new(RunClock::start()),
            ));
            let progress = Arc::new(Progress::default());
            let tail =
                Tail::new(&pipeline, 5.0, true, &delivery, &progress, &Arc::default()).unwrap();
            let source = gst_app::AppSrc::builder().format(gst::Format::Time).build();
            pipeline.add(&source).unwrap();
            source.link(&tail.first).unwrap();
            pipeline.set_state(gst::State::Playing).unwrap();
            Pipe { pipeline, source, frames, pushed: 0 }
        }

        /// Returns the frame for samples that `paint` gives by component, column and row.
        fn frame(&mut self, info: &VideoInfo, paint: impl Fn(u32, u32, u32) -> u16) -> Frame {
            self.source.set_caps(Some(&info.to_caps().unwrap()));
            let mut buffer = image(info, paint);
            let writable = buffer.get_mut().unwrap();
            writable.set_pts(gst::ClockTime::from_mseconds(self.pushed * 200));
            writable.set_duration(gst::ClockTime::from_mseconds(40));
            writable.set_video_flags(VideoBufferFlags::INTERLACED | VideoBufferFlags::TFF);
            self.pushed += 1;
            self.source.push_buffer(buffer).unwrap();
            let frame = self.frames.recv_timeout(Duration::from_secs(10));
            frame.unwrap_or_else(|_| {
                let bus = self.pipeline.bus().unwrap();
                panic!("no frame of {info:?}: {:?}", bus.pop_filtered(&[gst::MessageType::Error]))
            })
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = self.pipeline.set_state(gst::State::Null);
        }
    }

    fn image(info: &VideoInfo, paint: impl Fn(u32, u32, u32) -> u16) -> gst::Buffer {
        let buffer = gst::Buffer::with_size(info.size()).unwrap();
        let mut frame = gst_video::VideoFrame::from_buffer_writable(buffer, info).unwrap();
        for component in 0..3u8 {
            let deep = info.comp_depth(component) > 8;
            let (width, height) =
                (frame.comp_width(component.into()), frame.comp_height(component.into()));
            let stride = frame.comp_stride(component.into()) as u32;
            let pixel = frame.comp_pstride(component.into()) as u32;
            let (plane, offset) = (
                frame.format_info().plane()[usize::from(component)],
                frame.format_info().poffset()[usize::from(component)],
            );
            let data = frame.plane_data_mut(plane).unwrap();
            for (x, y) in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))) {
                let at = (y * stride + x * pixel + offset) as usize;
                let sample = paint(component.into(), x, y);
                if deep {
                    data[at..at + 2].copy_from_slice(&sample.to_le_bytes());
                } else {
                    data[at] = sample as u8;
                }
            }
        }
        frame.into_buffer()
    }

    fn info(format: VideoFormat, width: u32, height: u32) -> gst_video::VideoInfoBuilder<'static> {
        VideoInfo::builder(format, width, height).fps(gst::Fraction::new(25, 1))
    }

    fn pixel(frame: &Frame, x: u32, y: u32) -> [u8; 3] {
        let at = ((y * frame.width + x) * 4) as usize;
        [frame.bgrx[at + 2], frame.bgrx[at + 1], frame.bgrx[at]]
    }

    const BLACK: [u16; 3] = [16, 128, 128];
    const WHITE: [u16; 3] = [235, 128, 128];

    #[test]
    fn non_square_pixels_are_stretched() {
        let mut pipe = Pipe::new();
        let halves = |component: u32, x: u32, _| {
            let middle = if component == 0 { 176 } else { 88 };
            if x < middle { BLACK[component as usize] } else { WHITE[component as usize] }
        };
        for (pixels, width) in [((24, 11), 768), ((1, 1), 352), ((2, 1), 704), ((8, 9), 313)] {
            let pixels = gst::Fraction::new(pixels.0, pixels.1);
            let narrow = info(VideoFormat::I420, 352, 576).par(pixels).build().unwrap();
            let frame = pipe.frame(&narrow, halves);
            assert_eq!((frame.width, frame.height), (width, 576), "{pixels}");
            assert!(pixel(&frame, width / 2 - 4, 300)[0] < 20, "{pixels}");
            assert!(pixel(&frame, width / 2 + 4, 300)[0] > 235, "{pixels}");
        }
        // A shape that no camera has would need any amount of memory.
        for pixels in [(1000, 1), (1, 1000), (65_535, 1)] {
            let pixels = gst::Fraction::new(pixels.0, pixels.1);
            let odd = info(VideoFormat::I420, 352, 576).par(pixels).build().unwrap();
            let frame = pipe.frame(&odd, halves);
            assert_eq!((frame.width, frame.height), (352, 576), "{pixels}");
        }
    }

    #[test]
    fn interlaced_video_is_deinterlaced() {
        let mut pipe = Pipe::new();
        // The upper field shows another moment than the lower one.
        let combed = |component: u32, _, y: u32| match component {
            0 if y.is_multiple_of(2) => 60,
            0 => 200,
            _ => 128,
        };
        for format in [VideoFormat::I420, VideoFormat::Nv12] {
            let build = |mode| info(format, 64, 48).interlace_mode(mode).build().unwrap();
            let frame = pipe.frame(&build(VideoInterlaceMode::Progressive), combed);
            assert!(pixel(&frame, 9, 20)[0] < 80 && pixel(&frame, 9, 21)[0] > 180);
            for mode in [VideoInterlaceMode::Interleaved, VideoInterlaceMode::Mixed] {
                let frame = pipe.frame(&build(mode), combed);
                assert_eq!((frame.width, frame.height), (64, 48));
                let levels: Vec<_> = (4..44).map(|y| pixel(&frame, 9, y)[0]).collect();
                assert!(levels.windows(2).all(|p| p[0].abs_diff(p[1]) < 3), "{mode:?} {levels:?}");
            }
        }
        // A frame that `deinterlace` cannot read passes unchanged.
        let mut pipe = Pipe::new();
        let mode = VideoInterlaceMode::Interleaved;
        let deep = info(VideoFormat::I42010le, 64, 48).interlace_mode(mode).build().unwrap();
        pipe.frame(&deep, |component, x, y| combed(component, x, y) * 4);
    }

    /// Converts luma and colour differences to full-range red, green and blue (ITU-T H.273).
    fn converted([y, u, v]: [u16; 3], red: f64, blue: f64, full: bool) -> [f64; 3] {
        let (black, lumas, colours) = if full { (0.0, 255.0, 255.0) } else { (16.0, 219.0, 224.0) };
        let y = (f64::from(y) - black) / lumas;
        let [u, v] = [u, v].map(|sample| (f64::from(sample) - 128.0) / colours);
        let (r, b) = (y + 2.0 * (1.0 - red) * v, y + 2.0 * (1.0 - blue) * u);
        let g = (y - red * r - blue * b) / (1.0 - red - blue);
        [r, g, b].map(|level| (level * 255.0).clamp(0.0, 255.0))
    }

    #[test]
    fn colours_are_those_of_the_cameras_matrix_and_range() {
        use VideoColorRange::{Range0_255, Range16_235};
        let mut pipe = Pipe::new();
        let mut formats = vec![(VideoFormat::I420, 1), (VideoFormat::Nv12, 1)];
        formats.extend([VideoFormat::Nv21, VideoFormat::Yv12].map(|format| (format, 1)));
        formats.extend([VideoFormat::Y42b, VideoFormat::Y444].map(|format| (format, 1)));
        formats.extend([(VideoFormat::I42010le, 4), (VideoFormat::I42210le, 4)]);
        let matrices =
            [(VideoColorMatrix::Bt601, 0.299, 0.114), (VideoColorMatrix::Bt709, 0.2126, 0.0722)];
        let samples =
            [[81, 90, 200], [145, 84, 64], [60, 180, 110], [128, 128, 128], [200, 60, 140]];
        for (format, scale) in formats {
            for (matrix, red, blue) in matrices {
                for range in [Range16_235, Range0_255] {
                    let colorimetry = VideoColorimetry::new(
                        range,
                        matrix,
                        VideoTransferFunction::Bt709,
                        VideoColorPrimaries::Bt709,
                    );
                    let info = info(format, 64, 48).colorimetry(&colorimetry).build().unwrap();
                    for sample in samples {
                        let paint = |component: u32, _, _| sample[component as usize] * scale;
                        let found = pixel(&pipe.frame(&info, paint), 30, 20);
                        let wanted = converted(sample, red, blue, range == Range0_255);
                        for (found, wanted) in found.into_iter().zip(wanted) {
                            let off = (f64::from(found) - wanted).abs();
                            assert!(
                                off <= 2.0,
                                "{format:?} {matrix:?} {range:?} {sample:?}: {found}, not {wanted}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn odd_sizes_and_size_changes_are_delivered_intact() {
        let mut pipe = Pipe::new();
        let colour = [145, 84, 64];
        for format in [VideoFormat::I420, VideoFormat::Nv12, VideoFormat::I42210le] {
            let scale = if format == VideoFormat::I42210le { 4 } else { 1 };
            for (width, height) in [(152, 100), (642, 362), (300, 168), (301, 169), (1920, 1080)] {
                let info = info(format, width, height).build().unwrap();
                let frame = pipe.frame(&info, |component, _, _| colour[component as usize] * scale);
                assert_eq!((frame.width, frame.height), (width, height));
                let wanted = pixel(&frame, width / 2, height / 2);
                let edges = [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1)];
                for (x, y) in edges {
                    let found = pixel(&frame, x, y);
                    let alike = found.iter().zip(wanted).all(|(f, w)| f.abs_diff(w) <= 2);
                    assert!(
                        alike,
                        "{format:?} {width}x{height} at {x},{y}: {found:?}, not {wanted:?}"
                    );
                }
            }
        }
    }

    fn watch() -> Watch {
        Watch { clock: Arc::default(), last: None, taken: None }
    }

    #[test]
    fn the_age_of_a_frame_is_that_of_its_presentation_time() {
        let mut watch = watch();
        let timing = watch.judge(ms(1500), Some(ms(1000)), Some(ms(1300)));
        assert_eq!(timing, Timing { age: Duration::from_millis(500), believed: true });
        // Files have no time of arrival.
        assert_eq!(watch.judge(ms(1500), Some(ms(1400)), None).age, Duration::from_millis(100));
        // No frame is captured after its arrival or before the previous frame.
        let timing = watch.judge(ms(3000), Some(ms(3500)), Some(ms(2900)));
        assert_eq!(timing.age, Duration::from_millis(100));
        let timing = watch.judge(ms(3010), Some(ms(2800)), Some(ms(2800)));
        assert_eq!(timing, Timing { age: Duration::from_millis(109), believed: false });
    }

    #[test]
    fn impossible_timestamps_are_replaced_by_the_time_of_arrival() {
        let mut watch = watch();
        watch.judge(ms(1000), Some(ms(42)), Some(ms(1000)));
        // The stream's time stands still.
        let timing = watch.judge(ms(2000), Some(ms(42)), Some(ms(1950)));
        assert_eq!(timing, Timing { age: Duration::from_millis(50), believed: false });
        // The stream's time is far behind.
        let timing = watch.judge(ms(60_000), Some(ms(43)), Some(ms(59_900)));
        assert_eq!(timing.age, Duration::from_millis(100));
        // The stream's time is missing.
        assert_eq!(watch.judge(ms(60_000), None, None).age, Duration::ZERO);
    }
}
