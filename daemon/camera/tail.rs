//! The end of a pipeline: from decoded pictures to frames.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gst::prelude::*;

use super::delivery::{Delivery, Timing};
use super::error::CameraError;
use super::pace::{Moment, Pace};
use super::packets::{self, RtpClock};
use super::pipeline::make;
use super::progress::Progress;
use crate::config::{Camera, Source};

/// A picture that is later by more says that its own times are wrong.
const LATE: gst::ClockTime = gst::ClockTime::from_seconds(5);

pub struct Tail {
    /// What decoded pictures go into.
    pub first: gst::Element,
    fps: f64,
    clock: Arc<RtpClock>,
}

impl Tail {
    pub fn new(
        config: &Camera,
        pipeline: &gst::Pipeline,
        delivery: &Arc<Delivery>,
        progress: &Arc<Progress>,
        clock: &Arc<RtpClock>,
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
        let mut watch = Watch { clock: clock.clone(), last: None };
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
        pipeline.add_many([&convert, sink.upcast_ref()]).map_err(CameraError::internal)?;
        convert.link(&sink).map_err(CameraError::internal)?;
        Ok(Tail { first: convert, fps: config.fps, clock: clock.clone() })
    }

    /// Pictures that are not looked at go before they are converted: that is what costs.
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
            let mut pace = pace.lock().unwrap_or_else(PoisonError::into_inner);
            match pace.admits(moment, clock.is_steady()) {
                true => gst::PadProbeReturn::Ok,
                false => gst::PadProbeReturn::Drop,
            }
        });
    }
}

/// Says when pictures were taken.
struct Watch {
    clock: Arc<RtpClock>,
    /// Presentation time of the last picture.
    last: Option<gst::ClockTime>,
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

    /// A picture's presentation time is the time of its arrival without the network's jitter, if
    /// its RTP clock is steady and moves.
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
        Timing { age: Duration::from(now.saturating_sub(taken)), believed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> gst::ClockTime {
        gst::ClockTime::from_mseconds(milliseconds)
    }

    fn watch() -> Watch {
        Watch { clock: Arc::default(), last: None }
    }

    #[test]
    fn a_picture_is_as_old_as_its_presentation_time() {
        let mut watch = watch();
        let timing = watch.judge(ms(1500), Some(ms(1000)), Some(ms(1300)));
        assert_eq!(timing, Timing { age: Duration::from_millis(500), believed: true });
        // Files have no time of arrival.
        assert_eq!(watch.judge(ms(1500), Some(ms(1400)), None).age, Duration::from_millis(100));
        // No picture is taken after it arrived.
        let timing = watch.judge(ms(3000), Some(ms(3500)), Some(ms(2900)));
        assert_eq!(timing.age, Duration::from_millis(100));
    }

    #[test]
    fn times_that_cannot_be_are_replaced_by_the_time_of_arrival() {
        let mut watch = watch();
        watch.judge(ms(1000), Some(ms(42)), Some(ms(1000)));
        // The stream's time stands still.
        let timing = watch.judge(ms(2000), Some(ms(42)), Some(ms(1950)));
        assert_eq!(timing, Timing { age: Duration::from_millis(50), believed: false });
        // It is ages behind.
        let timing = watch.judge(ms(60_000), Some(ms(43)), Some(ms(59_900)));
        assert_eq!(timing.age, Duration::from_millis(100));
        // It is missing.
        assert_eq!(watch.judge(ms(60_000), None, None).age, Duration::ZERO);
    }
}
