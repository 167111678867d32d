//! The small JPEG that is kept of a frame, so that a person can see what a caption was made from.

use std::sync::Arc;

use fast_image_resize::{FilterType, Resizer};
use turbojpeg::{Compressor, Image, PixelFormat, Subsamp};

use super::preprocess::{PictureError, check, resize};

/// Makes JPEGs; its buffers are used again for every frame.
pub struct Evidence {
    width_max: u32,
    compressor: Compressor,
    resizer: Resizer,
    small: Vec<u8>,
}

impl Evidence {
    /// JPEGs at most `width_max` pixels wide, of `quality` 1 to 100.
    pub fn new(width_max: u32, quality: u8) -> Result<Evidence, PictureError> {
        let mut compressor = Compressor::new()?;
        compressor.set_quality(i32::from(quality))?;
        compressor.set_subsamp(Subsamp::Sub2x2)?;
        Ok(Evidence { width_max, compressor, resizer: Resizer::new(), small: Vec::new() })
    }

    /// Keeps the aspect; never enlarges.
    pub fn jpeg(
        &mut self,
        bgrx: &[u8],
        width: u32,
        height: u32,
    ) -> Result<Arc<[u8]>, PictureError> {
        check(bgrx, width, height)?;
        let (to_width, to_height) = fitted(width, height, self.width_max);
        let pixels = if (to_width, to_height) == (width, height) {
            bgrx
        } else {
            let (from, to) = ((bgrx, width, height), (to_width, to_height));
            resize(&mut self.resizer, FilterType::Bilinear, from, &mut self.small, to)?;
            &self.small
        };
        let (width, height) = (to_width as usize, to_height as usize);
        let image = Image { pixels, width, pitch: width * 4, height, format: PixelFormat::BGRX };
        Ok(Arc::from(&*self.compressor.compress_to_owned(image)?))
    }
}

/// `width` × `height`, scaled down where it is wider than `width_max`.
fn fitted(width: u32, height: u32, width_max: u32) -> (u32, u32) {
    if width <= width_max {
        return (width, height);
    }
    let scaled = f64::from(height) * f64::from(width_max) / f64::from(width);
    (width_max, (scaled.round() as u32).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(jpeg: &[u8]) -> (usize, usize) {
        let header = turbojpeg::read_header(jpeg).expect("a JPEG");
        (header.width, header.height)
    }

    #[test]
    fn wide_pictures_shrink_and_small_ones_stay() {
        let mut evidence = Evidence::new(32, 80).expect("turbojpeg");
        for (width, height, wanted) in
            [(64, 48, (32, 24)), (20, 90, (20, 90)), (33, 7, (32, 7)), (640, 1, (32, 1))]
        {
            let bgrx = vec![90; (width * height * 4) as usize];
            let jpeg = evidence.jpeg(&bgrx, width, height).expect("compressed");
            assert_eq!(size(&jpeg), wanted);
        }
    }

    #[test]
    fn colours_survive() {
        let bgrx: Vec<u8> = [90, 40, 200, 0].into_iter().cycle().take(64 * 64 * 4).collect();
        let mut evidence = Evidence::new(16, 90).expect("turbojpeg");
        let jpeg = evidence.jpeg(&bgrx, 64, 64).expect("compressed");
        let picture = turbojpeg::decompress(&jpeg, PixelFormat::RGB).expect("a JPEG");
        for (found, wanted) in picture.pixels.iter().zip([200u8, 40, 90].into_iter().cycle()) {
            assert!(found.abs_diff(wanted) <= 3, "{found} is far from {wanted}");
        }
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let mut evidence = Evidence::new(16, 90).expect("turbojpeg");
        assert!(evidence.jpeg(&[0; 5], 2, 1).is_err());
        assert!(evidence.jpeg(&[], 0, 0).is_err());
    }
}
