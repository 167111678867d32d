//! Passes a camera's encoded stream to its recorder: a copy of every access unit, before it is
//! decoded.

use std::sync::Arc;

use bytes::Bytes;
use gst::prelude::*;

use super::decoder::Codec;
use super::delivery::{self, Delivery, Encoded};

/// The recording of one connection.
pub struct Recording {
    delivery: Arc<Delivery>,
    connection: u64,
}

impl Recording {
    /// Begins the recording of a connection, if the camera's stream is wanted.
    pub fn of(delivery: &Arc<Delivery>) -> Option<Recording> {
        delivery.recorder()?;
        Some(Recording { delivery: delivery.clone(), connection: delivery.connect() })
    }

    /// Records what leaves the parser.
    pub fn watch(&self, parser: &gst::Element, parsed: &gst::Pad, codec: Codec) {
        let Some(recorded) = codec.recorded() else {
            let name = codec.name();
            return self.unsupported(format!(
                "clips and live video need H.264 or H.265, the camera sends {name}"
            ));
        };
        if let Some(recorder) = self.delivery.recorder() {
            recorder.supported();
        }
        // Every key frame gets the parameter sets, because a clip can begin at any of them.
        parser.set_property("config-interval", -1i32);
        let (delivery, connection) = (self.delivery.clone(), self.connection);
        parsed.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
            let is_wanted = delivery.recorder().is_some_and(|recorder| recorder.is_wanted());
            let Some(buffer) = info.buffer().filter(|_| is_wanted) else {
                return gst::PadProbeReturn::Ok;
            };
            if let (Some(pts), Ok(data)) = (buffer.pts().or(buffer.dts()), buffer.map_readable()) {
                delivery.record(Encoded {
                    codec: recorded,
                    data: Bytes::copy_from_slice(&data),
                    is_key: !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT),
                    pts,
                    camera_time: delivery::camera_time(buffer),
                    connection,
                });
            }
            gst::PadProbeReturn::Ok
        });
    }

    pub fn unsupported(&self, reason: String) {
        if let Some(recorder) = self.delivery.recorder() {
            recorder.unsupported(reason);
        }
    }
}
