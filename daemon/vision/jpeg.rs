//! Encodes and decodes the small JPEG that is kept of each frame. It shows a person the frames
//! behind a caption, and it lets the model encode a frame again after its tokens were evicted.

use std::sync::Arc;

use lookout_pixels::{Bgrx, Scaler};
use turbojpeg::{Compressor, Decompressor, Image, PixelFormat, Subsamp};

use super::preprocess::ImageError;

pub struct BgrxImage {
    pub bgrx: Vec<u8>,
    pub width: u32,
    pub height: u32,
}

/// A JPEG encoder and decoder that reuses its buffers for every frame.
pub struct JpegCodec {
    width_max: u32,
    least_side: u32,
    compressor: Compressor,
    decompressor: Decompressor,
    scaler: Scaler,
}

impl JpegCodec {
    /// Creates an encoder for JPEGs at most `width_max` pixels wide, of `quality` 1 to 100. A JPEG
    /// is wider if one of its sides would otherwise be shorter than `least_side`, but never wider
    /// than the frame.
    pub fn new(width_max: u32, least_side: u32, quality: u8) -> Result<JpegCodec, ImageError> {
        let mut compressor = Compressor::new()?;
        compressor.set_quality(i32::from(quality))?;
        // Chroma subsampling harms the features more than the saved bytes are worth.
        compressor.set_subsamp(Subsamp::None)?;
        let (decompressor, scaler) = (Decompressor::new()?, Scaler::default());
        Ok(JpegCodec { width_max, least_side, compressor, decompressor, scaler })
    }

    /// Encodes a frame as a JPEG. Keeps the aspect ratio and never enlarges.
    pub fn encode(
        &mut self,
        bgrx: &[u8],
        width: u32,
        height: u32,
    ) -> Result<Arc<[u8]>, ImageError> {
        let image = Bgrx::new(bgrx, width, height)?;
        let (to_width, to_height) = fitted(width, height, self.width_max, self.least_side);
        let pixels = if (to_width, to_height) == (width, height) {
            bgrx
        } else {
            self.scaler.scale(image, to_width, to_height)?
        };
        let (width, height) = (to_width as usize, to_height as usize);
        let image = Image { pixels, width, pitch: width * 4, height, format: PixelFormat::BGRX };
        Ok(Arc::from(&*self.compressor.compress_to_owned(image)?))
    }

    /// Decodes a JPEG to packed BGRx, the format that cameras deliver.
    pub fn decode(&mut self, jpeg: &[u8]) -> Result<BgrxImage, ImageError> {
        let header = self.decompressor.read_header(jpeg)?;
        let (width, height) = (header.width, header.height);
        let pitch = width * 4;
        let mut bgrx = vec![0; pitch * height];
        let pixels = &mut bgrx[..];
        let image = Image { pixels, width, pitch, height, format: PixelFormat::BGRX };
        self.decompressor.decompress(jpeg, image)?;
        Ok(BgrxImage { bgrx, width: width as u32, height: height as u32 })
    }
}

/// Returns `width` × `height`, scaled down to `width_max` if it is wider. No side is scaled below
/// `least`.
fn fitted(width: u32, height: u32, width_max: u32, least: u32) -> (u32, u32) {
    let [width_max, least, w, h] = [width_max, least, width, height].map(f64::from);
    let scale = (width_max / w).max(least / w).max(least / h);
    if scale >= 1.0 {
        return (width, height);
    }
    let scaled = |side: f64| ((side * scale).round() as u32).max(1);
    (scaled(w), scaled(h))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(jpeg: &[u8]) -> (usize, usize) {
        let header = turbojpeg::read_header(jpeg).expect("a JPEG");
        (header.width, header.height)
    }

    #[test]
    fn large_images_are_scaled_down_and_small_ones_kept() {
        let mut codec = JpegCodec::new(32, 0, 80).expect("turbojpeg");
        for (width, height, wanted) in
            [(64, 48, (32, 24)), (20, 90, (20, 90)), (33, 7, (32, 7)), (640, 1, (32, 1))]
        {
            let bgrx = vec![90; (width * height * 4) as usize];
            let jpeg = codec.encode(&bgrx, width, height).expect("compressed");
            assert_eq!(size(&jpeg), wanted);
        }
    }

    #[test]
    fn no_side_is_shorter_than_the_models_input() {
        assert_eq!(fitted(1920, 1080, 640, 336), (640, 360));
        assert_eq!(fitted(1920, 1080, 640, 384), (683, 384));
        assert_eq!(fitted(1080, 1920, 100, 336), (336, 597));
        assert_eq!(fitted(640, 200, 320, 336), (640, 200));
        let mut codec = JpegCodec::new(16, 40, 90).expect("turbojpeg");
        let jpeg = codec.encode(&vec![90; 100 * 80 * 4], 100, 80).expect("compressed");
        assert_eq!(size(&jpeg), (50, 40));
        let image = codec.decode(&jpeg).expect("an image");
        assert_eq!((image.width, image.height, image.bgrx.len()), (50, 40, 50 * 40 * 4));
        assert!(codec.decode(&jpeg[..20]).is_err());
    }

    #[test]
    fn colours_survive() {
        let bgrx: Vec<u8> = [90, 40, 200, 0].into_iter().cycle().take(64 * 64 * 4).collect();
        let mut codec = JpegCodec::new(16, 0, 90).expect("turbojpeg");
        let jpeg = codec.encode(&bgrx, 64, 64).expect("compressed");
        let image = turbojpeg::decompress(&jpeg, PixelFormat::RGB).expect("a JPEG");
        for (found, wanted) in image.pixels.iter().zip([200u8, 40, 90].into_iter().cycle()) {
            assert!(found.abs_diff(wanted) <= 3, "{found} is far from {wanted}");
        }
    }

    #[test]
    fn data_that_is_not_an_image_is_rejected() {
        let mut codec = JpegCodec::new(16, 0, 90).expect("turbojpeg");
        assert!(codec.encode(&[0; 5], 2, 1).is_err());
        assert!(codec.encode(&[], 0, 0).is_err());
    }
}
