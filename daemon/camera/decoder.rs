//! Which decoder element a camera gets: the machine's hardware where there is any, else software.
//!
//! Hardware decoders register no element where their device is missing, so whether the element
//! exists is the whole question.

use gst::prelude::*;

use super::error::CameraError;

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
    /// Brings the picture from the device's memory into ours, where the decoder does not.
    pub download: Option<&'static str>,
}

impl Codec {
    /// As SDP names it (RFC 6184, RFC 7798, RFC 2435, RFC 6416, RFC 7741, RFC 9628).
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

    /// `identity`: its depayloader knows key frames.
    pub fn parser(self) -> &'static str {
        match self {
            Codec::H264 => "h264parse",
            Codec::H265 => "h265parse",
            Codec::Mpeg4 => "mpeg4videoparse",
            Codec::Mjpeg | Codec::Vp8 | Codec::Vp9 => "identity",
        }
    }

    /// How the depayloader shall hand the stream on. Parameter sets that stay in the stream may
    /// change between two pictures; out of it, each change begins the decoder anew.
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

    /// Best first.
    pub fn decoders(self) -> Vec<Decoder> {
        let hardware = |element| Decoder { element, kind: Kind::Hardware, download: None };
        let software = |element| Decoder { element, kind: Kind::Software, download: None };
        // Jetson's decoder leaves its pictures in NVMM, which only nvvidconv can read.
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
            // Rare and small: what the processor decodes is enough.
            Codec::Mjpeg => vec![software("jpegdec"), software("avdec_mjpeg")],
            Codec::Mpeg4 => vec![software("avdec_mpeg4")],
            Codec::Vp8 => vec![software("vp8dec"), software("avdec_vp8")],
            Codec::Vp9 => vec![software("vp9dec"), software("avdec_vp9")],
        }
    }

    /// The best decoder of this machine; `software_only` after the hardware has failed.
    pub fn decoder(self, software_only: bool) -> Result<Decoder, CameraError> {
        choose(&self.decoders(), software_only, |element| {
            gst::ElementFactory::find(element).is_some()
        })
        .ok_or_else(|| {
            CameraError::Lost(format!("there is no decoder of {} on this machine", self.name()))
        })
    }
}

/// The same order for files, whose decoders `decodebin` chooses by rank.
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
    fn hardware_comes_first_and_software_when_it_failed() {
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
