//! Converts and resizes images.
//!
//! A crate of its own, because the functions of `fast_image_resize` are generic: they are compiled
//! with the code that calls them. In this crate that is optimised, also in a debug build of lookout.

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::{F32x3, U8x4};
use fast_image_resize::{FilterType, ImageBufferError, InvalidPixelsSize, ResizeAlg};
use fast_image_resize::{ResizeError, ResizeOptions, Resizer};

/// An image of packed BGRx: four bytes per pixel, the last of them without a meaning.
#[derive(Clone, Copy)]
pub struct Bgrx<'a> {
    bytes: &'a [u8],
    width: u32,
    height: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum PixelError {
    #[error("{bytes} bytes are not a BGRx image of {width}x{height}")]
    Size { width: u32, height: u32, bytes: usize },
    #[error("cannot be resized: {0}")]
    Buffer(#[from] ImageBufferError),
    #[error("cannot be resized: {0}")]
    Pixels(#[from] InvalidPixelsSize),
    #[error("cannot be resized: {0}")]
    Resize(#[from] ResizeError),
}

impl<'a> Bgrx<'a> {
    /// Returns an error if the bytes are not `width` × `height` pixels, or if there are none.
    pub fn new(bytes: &'a [u8], width: u32, height: u32) -> Result<Bgrx<'a>, PixelError> {
        let wanted = u128::from(width) * u128::from(height) * 4;
        if wanted == 0 || bytes.len() as u128 != wanted {
            return Err(PixelError::Size { width, height, bytes: bytes.len() });
        }
        Ok(Bgrx { bytes, width, height })
    }

    fn pixels(&self) -> &'a [[u8; 4]] {
        self.bytes.as_chunks().0
    }
}

/// Buffers that are reused for every image.
#[derive(Default)]
pub struct Scratch {
    resizer: Resizer,
    canvas: Vec<u8>,
    source: Vec<F32x3>,
    narrow: Vec<F32x3>,
    levels: Vec<F32x3>,
    square: Vec<u8>,
}

/// Stretches an image to `size` × `size` as Pillow does: bicubically, in 8 bits. Returns RGB.
pub fn stretch<'s>(
    scratch: &'s mut Scratch,
    image: Bgrx<'_>,
    size: u32,
) -> Result<&'s [u8], PixelError> {
    let Bgrx { width, height, .. } = image;
    let Scratch { resizer, source, narrow, levels, square, .. } = scratch;
    square.clear();
    if (width, height) == (size, size) {
        square.extend(image.pixels().iter().flat_map(|[b, g, r, _]| [*r, *g, *b]));
        return Ok(square);
    }
    source.clear();
    source
        .extend(image.pixels().iter().map(|[b, g, r, _]| F32x3::new([*r, *g, *b].map(f32::from))));
    // Pillow resizes the width first and rounds to 8 bits between the passes. One call for both
    // directions does neither, and differs by up to 18 levels. 8-bit calls use 16-bit weights
    // where Pillow uses 22 bits, and differ by one level on up to 1.7 % of a smooth image.
    let row = if width == size {
        source
    } else {
        pass(resizer, (source, width, height), narrow, (size, height))?;
        narrow
    };
    let level = if height == size {
        row
    } else {
        pass(resizer, (row, size, height), levels, (size, size))?;
        levels
    };
    // All values are whole numbers from 0 to 255 here.
    square.extend(level.iter().flat_map(|pixel| pixel.0.map(|value| value as u8)));
    Ok(square)
}

/// Places an image in the middle of a square canvas of a colour (RGB), and stretches that.
pub fn pad<'s>(
    scratch: &'s mut Scratch,
    image: Bgrx<'_>,
    colour: [u8; 3],
    size: u32,
) -> Result<&'s [u8], PixelError> {
    if image.width == image.height {
        return stretch(scratch, image, size);
    }
    let mut canvas = std::mem::take(&mut scratch.canvas);
    let side = image.width.max(image.height);
    place(image, side as usize, colour, &mut canvas);
    let padded = Bgrx { bytes: &canvas, width: side, height: side };
    let stretched = stretch(scratch, padded, size).map(|_| ());
    scratch.canvas = canvas;
    stretched.map(|()| &*scratch.square)
}

/// Places an image in the middle of a square canvas.
fn place(image: Bgrx<'_>, side: usize, [red, green, blue]: [u8; 3], canvas: &mut Vec<u8>) {
    let (width, height) = (image.width as usize, image.height as usize);
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    canvas.clear();
    canvas.extend([blue, green, red, 0].iter().copied().cycle().take(side * side * 4));
    for (row, pixels) in image.bytes.chunks_exact(width * 4).enumerate() {
        let start = ((top + row) * side + left) * 4;
        canvas[start..start + pixels.len()].copy_from_slice(pixels);
    }
}

/// Runs one pass of Pillow's bicubic resize. The result is rounded and clipped to whole levels.
fn pass(
    resizer: &mut Resizer,
    (from, width, height): (&[F32x3], u32, u32),
    to: &mut Vec<F32x3>,
    (to_width, to_height): (u32, u32),
) -> Result<(), PixelError> {
    to.resize(to_width as usize * to_height as usize, F32x3::new([0.0; 3]));
    let from = TypedImageRef::new(width, height, from)?;
    let mut image = TypedImage::from_pixels_slice(to_width, to_height, to)?;
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom));
    resizer.resize_typed(&from, &mut image, &options)?;
    for pixel in to {
        pixel.0 = pixel.0.map(|value| (value + 0.5).floor().clamp(0.0, 255.0));
    }
    Ok(())
}

/// Fills `out`, `[3, size, size]`, from the RGB of a square. `levels` has the value of each of the
/// 256 levels of each channel.
///
/// # Panics
///
/// Panics if the lengths of `rgb` and `out` differ.
pub fn normalise(rgb: &[u8], levels: &[[f32; 256]; 3], out: &mut [f32]) {
    assert_eq!(rgb.len(), out.len(), "the square and out have different sizes");
    let plane = out.len() / 3;
    for (channel, (levels, out)) in levels.iter().zip(out.chunks_exact_mut(plane)).enumerate() {
        for (value, pixel) in out.iter_mut().zip(rgb.chunks_exact(3)) {
            *value = levels[usize::from(pixel[channel])];
        }
    }
}

/// Scales images for people, and reuses its buffers for every one.
#[derive(Default)]
pub struct Scaler {
    resizer: Resizer,
    scaled: Vec<u8>,
}

impl Scaler {
    /// Scales an image bilinearly to `width` × `height`. Returns BGRx.
    pub fn scale(&mut self, image: Bgrx<'_>, width: u32, height: u32) -> Result<&[u8], PixelError> {
        let Scaler { resizer, scaled } = self;
        scaled.resize(width as usize * height as usize * 4, 0);
        let from = TypedImageRef::<U8x4>::from_buffer(image.width, image.height, image.bytes)?;
        let mut to = TypedImage::from_buffer(width, height, scaled)?;
        // The fourth byte is padding, not alpha.
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .use_alpha(false);
        resizer.resize_typed(&from, &mut to, &options)?;
        Ok(scaled)
    }
}
