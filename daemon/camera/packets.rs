//! RTP packets on their way into the jitter buffer of `rtspsrc`.
//!
//! Where a stream begins, a camera says in the RTP-Info of its answer to PLAY: the first sequence
//! number and timestamp. Some say numbers that do not fit what they send, and the jitter buffer then
//! drops up to 32,768 packets as older than the first. Nothing here seeks, so nobody needs it.

use gst::prelude::*;

/// What `rtspsrc` makes of RTP-Info in the format of a stream.
const RTP_INFO: [&str; 2] = ["seqnum-base", "clock-base"];

/// Watches all jitter buffers that `source`, a `rtspsrc`, will make.
pub fn watch(source: &gst::Element) {
    source.connect("new-manager", false, |values| {
        let manager = values.get(1)?.get::<gst::Element>().ok()?;
        manager.connect("new-jitterbuffer", false, |values| {
            let jitter_buffer = values.get(1)?.get::<gst::Element>().ok()?;
            forget_rtp_info(&jitter_buffer.static_pad("sink")?);
            None
        });
        None
    });
}

fn forget_rtp_info(pad: &gst::Pad) {
    pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, |_, info| {
        if let Some(event) = info.event_mut()
            && let gst::EventView::Caps(caps) = event.view()
        {
            let mut caps = caps.caps_owned();
            for structure in caps.make_mut().iter_mut() {
                structure.remove_fields(RTP_INFO);
            }
            *event = gst::event::Caps::builder(&caps).seqnum(event.seqnum()).build();
        }
        gst::PadProbeReturn::Ok
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An RTP packet of H.264 without content.
    fn packet(number: u16, ticks: u32) -> gst::Buffer {
        let mut packet = vec![0x80, 96];
        packet.extend(number.to_be_bytes());
        packet.extend(ticks.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0x09, 0xf0]);
        gst::Buffer::from_slice(packet)
    }

    #[test]
    fn packets_come_whatever_rtp_info_says() {
        gst::init().unwrap();
        // The packets that follow have higher numbers, but not by half of all: they seem older.
        let launch = "appsrc name=camera format=time is-live=true do-timestamp=true \
            caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96,\
            seqnum-base=(uint)1,clock-base=(uint)0 \
            ! rtpjitterbuffer name=jitter latency=20 ! appsink name=seen sync=false";
        let pipeline = gst::parse::launch(launch).unwrap().downcast::<gst::Pipeline>().unwrap();
        let jitter_buffer = pipeline.by_name("jitter").unwrap();
        forget_rtp_info(&jitter_buffer.static_pad("sink").unwrap());
        let camera = pipeline.by_name("camera").unwrap().downcast::<gst_app::AppSrc>().unwrap();
        let seen = pipeline.by_name("seen").unwrap().downcast::<gst_app::AppSink>().unwrap();
        pipeline.set_state(gst::State::Playing).unwrap();
        for picture in 0..20 {
            camera.push_buffer(packet(50_000 + picture, u32::from(picture) * 3600)).unwrap();
        }
        let first = seen.try_pull_sample(gst::ClockTime::from_seconds(5));
        pipeline.set_state(gst::State::Null).unwrap();
        assert!(first.is_some(), "all packets were dropped");
    }
}
