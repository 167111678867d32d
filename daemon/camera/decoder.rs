//! Selects a camera's decoder element: a hardware decoder if the machine has one, otherwise
//! software.
//!
//! Hardware decoders register no element if their device is missing, so checking that the element
//! exists is sufficient.

use gst::prelude::*;

use super::error::CameraError;
use crate::access_unit::VideoCodec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    H264,
    H265,
    Mjpeg,
    Mpeg4,
    Vp8,
    Vp9,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hardware,
    Software,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    pub element: &'static str,
    pub kind: Kind,
    /// Element that copies a frame from the device's memory to the host's, if the decoder does not.
    pub download: Option<&'static str>,
}

impl Codec {
    /// Returns the codec of a video stream's RTP caps, or `None` for other media and codecs.
    pub fn of_caps(caps: &gst::CapsRef) -> Option<Codec> {
        let structure = caps.structure(0)?;
        if structure.get::<&str>("media").ok()? != "video" {
            return None;
        }
        Codec::from_encoding_name(structure.get::<&str>("encoding-name").ok()?)
    }

    /// Returns the codec for an SDP encoding name (RFC 6184, RFC 7798, RFC 2435, RFC 6416, RFC
    /// 7741, RFC 9628).
    pub fn from_encoding_name(name: &str) -> Option<Codec> {
        match name.to_ascii_uppercase().as_str() {
            "H264" => Some(Codec::H264),
            "H265" => Some(Codec::H265),
            "JPEG" => Some(Codec::Mjpeg),
            "MP4V-ES" => Some(Codec::Mpeg4),
            "VP8" => Some(Codec::Vp8),
            "VP9" => Some(Codec::Vp9),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Codec::H264 => "H.264",
            Codec::H265 => "H.265",
            Codec::Mjpeg => "MJPEG",
            Codec::Mpeg4 => "MPEG-4",
            Codec::Vp8 => "VP8",
            Codec::Vp9 => "VP9",
        }
    }

    pub fn depayloader(self) -> &'static str {
        match self {
            Codec::H264 => "rtph264depay",
            Codec::H265 => "rtph265depay",
            Codec::Mjpeg => "rtpjpegdepay",
            Codec::Mpeg4 => "rtpmp4vdepay",
            Codec::Vp8 => "rtpvp8depay",
            Codec::Vp9 => "rtpvp9depay",
        }
    }

    /// Returns the parser element. It is `identity` where the depayloader itself marks key frames.
    pub fn parser(self) -> &'static str {
        match self {
            Codec::H264 => "h264parse",
            Codec::H265 => "h265parse",
            Codec::Mpeg4 => "mpeg4videoparse",
            Codec::Mjpeg | Codec::Vp8 | Codec::Vp9 => "identity",
        }
    }

    /// Returns the stream format to request from the depayloader. Parameter sets inside the stream
    /// may change between two frames. Outside it, each change would restart the decoder.
    pub fn stream_format(self) -> Option<gst::Caps> {
        let media = match self {
            Codec::H264 => "video/x-h264",
            Codec::H265 => "video/x-h265",
            _ => return None,
        };
        let caps = gst::Caps::builder(media)
            .field("stream-format", "byte-stream")
            .field("alignment", "au");
        Some(caps.build())
    }

    /// Returns the codec of the access units that are passed on, or `None` if the stream cannot be
    /// put into an MP4 file that browsers play.
    pub fn recorded(self) -> Option<VideoCodec> {
        match self {
            Codec::H264 => Some(VideoCodec::H264),
            Codec::H265 => Some(VideoCodec::H265),
            Codec::Mjpeg | Codec::Mpeg4 | Codec::Vp8 | Codec::Vp9 => None,
        }
    }

    /// Returns the codec's decoders, best first.
    pub fn decoders(self) -> Vec<Decoder> {
        let hardware = |element| Decoder { element, kind: Kind::Hardware, download: None };
        let software = |element| Decoder { element, kind: Kind::Software, download: None };
        // Jetson's decoder leaves its frames in NVMM, which only nvvidconv can read.
        let jetson = Decoder { download: Some("nvvidconv"), ..hardware("nvv4l2decoder") };
        match self {
            Codec::H264 => vec![
                jetson,
                hardware("nvh264dec"),
                hardware("vah264dec"),
                hardware("qsvh264dec"),
                hardware("v4l2slh264dec"),
                hardware("v4l2h264dec"),
                software("avdec_h264"),
                software("openh264dec"),
            ],
            Codec::H265 => vec![
                jetson,
                hardware("nvh265dec"),
                hardware("vah265dec"),
                hardware("qsvh265dec"),
                hardware("v4l2slh265dec"),
                hardware("v4l2h265dec"),
                software("avdec_h265"),
                software("libde265dec"),
            ],
            // These streams are rare and small, so decoding on the CPU is sufficient.
            Codec::Mjpeg => vec![software("jpegdec"), software("avdec_mjpeg")],
            Codec::Mpeg4 => vec![software("avdec_mpeg4")],
            Codec::Vp8 => vec![software("vp8dec"), software("avdec_vp8")],
            Codec::Vp9 => vec![software("vp9dec"), software("avdec_vp9")],
        }
    }

    /// Returns the best decoder of this machine. `software_only` is set after the hardware has
    /// failed.
    pub fn decoder(self, software_only: bool) -> Result<Decoder, CameraError> {
        choose(&self.decoders(), software_only, |element| {
            gst::ElementFactory::find(element).is_some()
        })
        .ok_or_else(|| {
            CameraError::Failed(format!("there is no decoder of {} on this machine", self.name()))
        })
    }
}

/// Sets the same order for files, whose decoders `decodebin` selects by rank.
pub fn set_ranks() {
    for codec in [Codec::H264, Codec::H265] {
        for (worse, decoder) in codec.decoders().iter().rev().enumerate() {
            if let Some(factory) = gst::ElementFactory::find(decoder.element) {
                factory.set_rank(gst::Rank::PRIMARY + 1 + worse as i32);
            }
        }
    }
}

fn choose(
    decoders: &[Decoder],
    software_only: bool,
    exists: impl Fn(&str) -> bool,
) -> Option<Decoder> {
    decoders
        .iter()
        .filter(|decoder| !software_only || decoder.kind == Kind::Software)
        .find(|decoder| exists(decoder.element))
        .copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_decoding_follows_a_failed_hardware_decoder() {
        let decoders = Codec::H264.decoders();
        let exists = |name: &str| matches!(name, "avdec_h264" | "vah264dec");
        assert_eq!(choose(&decoders, false, exists).unwrap().element, "vah264dec");
        assert_eq!(choose(&decoders, true, exists).unwrap().element, "avdec_h264");
        assert_eq!(choose(&decoders, false, |_| false), None);
    }

    #[test]
    fn encoding_names_are_read_in_any_case() {
        assert_eq!(Codec::from_encoding_name("h265"), Some(Codec::H265));
        assert_eq!(Codec::from_encoding_name("AV1"), None);
    }
}
