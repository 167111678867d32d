//! The pictures that a proof sends: plain colours, because the right answer is known.

use std::time::{Duration, SystemTime};

use super::chat::{Part, frames, picture};
use crate::language::TimedJpeg;
use crate::vision::jpeg::JpegCodec;
use crate::vision::preprocess::ImageError;

/// Side of the small pictures.
const SIDE: u32 = 224;

/// Blue, green, red and padding, as cameras deliver pixels.
const RED: [u8; 4] = [0, 0, 255, 0];
const BLUE: [u8; 4] = [255, 0, 0, 0];

pub struct Samples {
    pub red: Part,
    pub blue: Part,
    /// The frames of a whole window, each in another grey, with their times.
    pub window: Vec<Part>,
    /// Width and height of these frames.
    pub size: (u32, u32),
    /// Number of these frames.
    pub count: usize,
}

impl Samples {
    /// Makes the pictures. Those of the window are as wide as the frames of cameras, and of 4:3.
    pub fn new(count: usize, width: u32, quality: u8) -> Result<Samples, ImageError> {
        let size = (width, (width * 3 / 4).max(1));
        let mut small = JpegCodec::new(SIDE, 0, quality)?;
        let mut large = JpegCodec::new(width, 0, quality)?;
        let mut jpegs = Vec::with_capacity(count);
        for (at, second) in (0..count).zip(0u64..) {
            let grey = (at * 255 / count) as u8;
            let jpeg = large.encode(&plain([grey; 4], size), size.0, size.1)?;
            let captured_at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            jpegs.push(TimedJpeg { captured_at, jpeg });
        }
        let mut of_colour = |colour| {
            let jpeg = small.encode(&plain(colour, (SIDE, SIDE)), SIDE, SIDE)?;
            Ok::<Part, ImageError>(picture(&jpeg))
        };
        let (red, blue) = (of_colour(RED)?, of_colour(BLUE)?);
        Ok(Samples { red, blue, window: frames(&jpegs), size, count })
    }

    /// Returns the parts of the window's first frame.
    pub fn first_frame(&self) -> &[Part] {
        &self.window[..2]
    }
}

/// Returns an image of one colour.
fn plain(colour: [u8; 4], (width, height): (u32, u32)) -> Vec<u8> {
    colour.repeat(width as usize * height as usize)
}
