//! The encoded pictures of a camera as it sent them. One is an access unit: the NAL units of one
//! picture, as an Annex B byte stream (H.264 and H.265).

use std::time::{Duration, SystemTime};

use bytes::Bytes;

/// A codec whose access units can be put into an MP4 file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoCodec {
    H264,
    H265,
}

/// An encoded picture, in the order of decoding.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessUnit {
    pub codec: VideoCodec,
    /// The picture's NAL units. A key frame begins with its parameter sets.
    pub data: Bytes,
    /// True if decoding can begin here.
    pub is_key: bool,
    /// Presentation time, by the clock of the connection. RTP has no time of decoding.
    pub pts: Duration,
    /// Number of the connection to the camera.
    pub connection: u64,
    /// Time of capture, by the same clock as that of the camera's frames.
    pub captured_at: SystemTime,
    /// Time of arrival by the run's clock.
    pub arrived_at: Duration,
}

/// A picture with its times from the beginning of the file.
#[derive(Clone, Debug, PartialEq)]
pub struct TimedUnit {
    pub unit: AccessUnit,
    pub decoded_at: Duration,
    pub presented_at: Duration,
    /// Time until the next picture is decoded.
    pub duration: Duration,
}

impl VideoCodec {
    pub fn name(self) -> &'static str {
        match self {
            VideoCodec::H264 => "H.264",
            VideoCodec::H265 => "H.265",
        }
    }

    /// Returns true for the header byte of an access unit delimiter.
    fn is_delimiter(self, header: u8) -> bool {
        match self {
            VideoCodec::H264 => header & 0x1f == 9,
            VideoCodec::H265 => header >> 1 & 0x3f == 35,
        }
    }

    /// Returns true for the header byte of a NAL unit that describes the stream: VPS, SPS or PPS.
    fn is_parameter_set(self, header: u8) -> bool {
        match self {
            VideoCodec::H264 => matches!(header & 0x1f, 7 | 8),
            VideoCodec::H265 => matches!(header >> 1 & 0x3f, 32..=34),
        }
    }
}

impl AccessUnit {
    /// Returns the picture as a sample of an MP4 file: each NAL unit after its length. Parameter
    /// sets and delimiters are left out; the file's head has the former.
    pub fn sample(&self) -> Vec<u8> {
        let mut sample = Vec::with_capacity(self.data.len() + 16);
        for nal in nal_units(&self.data) {
            let Some(first) = nal.first() else { continue };
            if self.codec.is_parameter_set(*first) || self.codec.is_delimiter(*first) {
                continue;
            }
            sample.extend((nal.len() as u32).to_be_bytes());
            sample.extend(nal);
        }
        sample
    }

    /// Returns the parameter sets in the unit, each once. A stream often repeats them.
    pub fn parameter_sets(&self) -> Vec<Bytes> {
        let is_set =
            |nal: &&[u8]| nal.first().is_some_and(|first| self.codec.is_parameter_set(*first));
        let mut sets: Vec<Bytes> =
            nal_units(&self.data).filter(is_set).map(|set| self.data.slice_ref(set)).collect();
        sets.sort();
        sets.dedup();
        sets
    }
}

/// Returns the NAL units of a byte stream, without start codes and trailing zeros.
fn nal_units(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    const START: [u8; 3] = [0, 0, 1];
    let is_start = |at: &usize| data[*at..].starts_with(&START);
    let next_start = move |from: usize| (from..data.len()).find(is_start);
    let mut start = next_start(0);
    std::iter::from_fn(move || {
        let from = start? + START.len();
        start = next_start(from);
        let nal = &data[from..start.unwrap_or(data.len())];
        let length = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Some(&nal[..length])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(codec: VideoCodec, data: &'static [u8]) -> AccessUnit {
        AccessUnit {
            codec,
            data: Bytes::from_static(data),
            is_key: true,
            pts: Duration::ZERO,
            connection: 1,
            captured_at: SystemTime::UNIX_EPOCH,
            arrived_at: Duration::ZERO,
        }
    }

    #[test]
    fn parameter_sets_are_found_with_both_lengths_of_start_codes() {
        let data =
            &[0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x67, 1, 0, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 0, 1, 0x65];
        let sets = unit(VideoCodec::H264, data).parameter_sets();
        assert_eq!(sets, [&[0x67, 1, 0, 2][..], &[0x68, 3][..]]);
        // VPS, SPS, PPS and a slice.
        let data = &[0, 0, 1, 0x40, 1, 0, 0, 1, 0x42, 1, 0, 0, 1, 0x44, 1, 0, 0, 1, 0x26, 1];
        let sets = unit(VideoCodec::H265, data).parameter_sets();
        assert_eq!(sets, [&[0x40, 1][..], &[0x42, 1][..], &[0x44, 1][..]]);
    }

    #[test]
    fn garbage_has_no_parameter_sets() {
        for data in [&[][..], &[0, 0, 1], &[0, 0, 0, 0], &[7, 8, 9], &[0, 0, 1, 0, 0, 1]] {
            assert!(unit(VideoCodec::H264, data).parameter_sets().is_empty(), "{data:?}");
        }
    }
}
