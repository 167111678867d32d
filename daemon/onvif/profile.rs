//! The profiles of a camera, and the choice of one.

use serde::Serialize;

use super::plain;
use super::xml::Element;

/// One of the streams that a camera offers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    pub token: String,
    pub name: String,
    /// The codec as the camera names it.
    pub encoding: String,
    pub width: u32,
    pub height: u32,
    /// Maximum number of frames per second, or `None` if the camera does not say.
    pub frame_rate: Option<f64>,
}

/// Maximum number of profiles of a device.
const PROFILES: usize = 64;

impl Profile {
    /// Returns the profiles with video of a GetProfilesResponse, of either media service.
    pub fn all(response: &Element) -> Vec<Profile> {
        let profiles = response.all("Profiles").filter_map(Profile::of);
        profiles.take(PROFILES).collect()
    }

    fn of(profile: &Element) -> Option<Profile> {
        let encoder = profile
            .child("VideoEncoderConfiguration")
            .or_else(|| profile.at(&["Configurations", "VideoEncoder"]))?;
        let side = |name| encoder.text_at(&["Resolution", name])?.parse().ok();
        let rate = encoder.text_at(&["RateControl", "FrameRateLimit"]);
        let rate = rate.and_then(|rate| rate.parse::<f64>().ok()).filter(|rate| *rate > 0.0);
        let token = profile.token.clone().filter(|token| !token.is_empty())?;
        Some(Profile {
            name: plain(profile.text_at(&["Name"]).unwrap_or(&token)),
            token,
            encoding: plain(encoder.text_at(&["Encoding"]).unwrap_or("unknown")),
            width: side("Width")?,
            height: side("Height")?,
            frame_rate: rate.filter(|rate| rate.is_finite()),
        })
    }

    /// Returns the codec's usual name.
    pub fn codec(&self) -> &str {
        match self.encoding.to_ascii_uppercase().as_str() {
            "H264" => "H.264",
            "H265" => "H.265",
            "JPEG" => "MJPEG",
            "MPEG4" | "MPV4-ES" | "MP4V-ES" => "MPEG-4",
            _ => &self.encoding,
        }
    }

    /// Returns 0 for a codec that clips can have, 1 for another one that plays, 2 for others.
    fn codec_rank(&self) -> u8 {
        match self.codec() {
            "H.264" | "H.265" => 0,
            "MJPEG" | "MPEG-4" => 1,
            _ => 2,
        }
    }

    fn shorter_side(&self) -> u32 {
        self.width.min(self.height)
    }

    fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    fn has_rate(&self, fps: f64) -> bool {
        self.frame_rate.is_none_or(|rate| rate >= fps)
    }
}

/// Chooses the smallest profile whose shorter side has at least `side` pixels and that has at least
/// `fps` frames per second. Returns its position and the reason in one sentence, or `None` without
/// a profile that plays.
pub fn choose(profiles: &[Profile], side: usize, fps: f64) -> Option<(usize, String)> {
    let plays = || profiles.iter().enumerate().filter(|(_, profile)| profile.codec_rank() < 2);
    let is_large = |profile: &Profile| profile.shorter_side() as usize >= side;
    let rate = |profile: &Profile| profile.frame_rate.unwrap_or(0.0);
    let fits = plays().filter(|(_, profile)| is_large(profile) && profile.has_rate(fps));
    let smallest = fits.min_by(|(_, a), (_, b)| {
        let keys = |p: &Profile| (p.codec_rank(), p.pixels());
        keys(a).cmp(&keys(b)).then(rate(a).total_cmp(&rate(b)))
    });
    if let Some((at, _)) = smallest {
        let reason = format!(
            "the smallest with at least {side} pixels on its shorter side and {fps} frames/s"
        );
        return Some((at, reason));
    }
    // A low rate loses moments, a small picture loses details.
    let best = plays().max_by_key(|(_, p)| (p.has_rate(fps), p.pixels(), 2 - p.codec_rank()));
    let (at, best) = best?;
    let lacks = if best.has_rate(fps) {
        format!("none has {side} pixels on its shorter side, which the model sees")
    } else {
        format!("none has {fps} frames/s")
    };
    Some((at, format!("the largest: {lacks}")))
}

#[cfg(test)]
mod tests {
    use super::super::xml;
    use super::*;

    fn profile(encoding: &str, width: u32, height: u32, rate: Option<f64>) -> Profile {
        let (token, name) = (format!("{width}"), format!("{width}"));
        Profile { token, name, encoding: encoding.into(), width, height, frame_rate: rate }
    }

    #[test]
    fn the_smallest_profile_that_fits_is_chosen() {
        let main = profile("H264", 2688, 1520, Some(20.0));
        let sub = profile("H264", 640, 480, Some(15.0));
        let third = profile("H265", 640, 360, Some(10.0));
        let small = profile("H264", 352, 288, Some(15.0));
        let jpeg = profile("JPEG", 640, 360, Some(10.0));
        let unknown = profile("AV1", 400, 400, None);
        let profiles = [main, sub, third, small, jpeg, unknown];
        for (side, fps, chosen, why) in [
            (336, 1.0, 2, "the smallest with at least 336 pixels"),
            (224, 1.0, 3, "at least 224 pixels"),
            (336, 12.0, 1, "12 frames/s"),
            (384, 1.0, 1, "384"),
            (600, 1.0, 0, "600"),
            (2000, 1.0, 0, "none has 2000 pixels"),
            (336, 25.0, 0, "the largest: none has 25 frames/s"),
        ] {
            let (at, reason) = choose(&profiles, side, fps).expect("a profile");
            assert_eq!(at, chosen, "{side}, {fps}: {reason}");
            assert!(reason.contains(why), "{reason}");
        }
        assert_eq!(choose(&profiles[5..], 336, 1.0), None);
        assert_eq!(choose(&profiles[4..], 336, 1.0).map(|(at, _)| at), Some(0));
        assert_eq!(choose(&[], 336, 1.0), None);
    }

    #[test]
    fn profiles_of_both_media_services_are_read() {
        let media1 = "<R><Profiles token=\"a\"><Name>Main</Name><VideoEncoderConfiguration>\
            <Encoding>H264</Encoding><Resolution><Width>1920</Width><Height>1080</Height>\
            </Resolution><RateControl><FrameRateLimit>25</FrameRateLimit></RateControl>\
            </VideoEncoderConfiguration></Profiles><Profiles token=\"sound\"><Name>S</Name>\
            </Profiles></R>";
        let media2 = "<R><Profiles token=\"b\"><Name>Sub\n</Name><Configurations><VideoEncoder>\
            <Encoding>H265</Encoding><Resolution><Width>640</Width><Height>360</Height>\
            </Resolution><RateControl><FrameRateLimit>12.5</FrameRateLimit></RateControl>\
            </VideoEncoder></Configurations></Profiles>\
            <Profiles token=\"c\"><Configurations><VideoEncoder><Resolution><Width>-1</Width>\
            <Height>9</Height></Resolution></VideoEncoder></Configurations></Profiles></R>";
        let read = |text: &str| Profile::all(&xml::parse(text).expect("a response"));
        let main = Profile {
            token: "a".into(),
            name: "Main".into(),
            ..profile("H264", 1920, 1080, Some(25.0))
        };
        assert_eq!(read(media1), [main]);
        let sub = Profile {
            token: "b".into(),
            name: "Sub".into(),
            ..profile("H265", 640, 360, Some(12.5))
        };
        assert_eq!(read(media2), [sub]);
    }
}
