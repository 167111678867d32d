//! A mask from a PNG. It is stretched to the size of the frames.
//!
//! Guarantees: only white, opaque pixels leave the frame visible. A pixel of a frame is visible only
//! if all pixels of the PNG that it touches are.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;

use png::{ColorType, Decoder, Limits, Transformations};

/// Maximum number of pixels.
const PIXELS: usize = 16 << 20;

/// Least value of each channel of a pixel that counts as white, and of its opacity.
const WHITE: u8 = 250;

#[derive(Clone, Debug, PartialEq)]
pub struct ImageMask {
    width: usize,
    height: usize,
    /// True for each pixel that hides, row by row.
    is_hidden: Vec<bool>,
}

impl ImageMask {
    pub fn read(file: &Path) -> Result<ImageMask, String> {
        let open = File::open(file).map_err(|why| why.to_string());
        let read = open.and_then(|open| ImageMask::decode(BufReader::new(open)));
        read.map_err(|why| format!("image {}: {why}", file.display()))
    }

    fn decode(reader: impl std::io::BufRead + std::io::Seek) -> Result<ImageMask, String> {
        let unreadable = |why: png::DecodingError| format!("cannot be read as a PNG: {why}");
        let mut decoder = Decoder::new_with_limits(reader, Limits { bytes: 8 * PIXELS });
        decoder.set_transformations(Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().map_err(unreadable)?;
        let (width, height) = (reader.info().width as usize, reader.info().height as usize);
        if width.saturating_mul(height) > PIXELS {
            return Err(format!("{width}x{height} pixels: wanted at most {PIXELS} in all"));
        }
        let size = reader.output_buffer_size().ok_or("its size is out of range")?;
        let mut bytes = vec![0; size];
        let frame = reader.next_frame(&mut bytes).map_err(unreadable)?;
        reader.finish().map_err(unreadable)?;
        let channels = match frame.color_type {
            ColorType::Grayscale | ColorType::Indexed => 1,
            ColorType::GrayscaleAlpha => 2,
            ColorType::Rgb => 3,
            ColorType::Rgba => 4,
        };
        let pixels = bytes.chunks_exact(channels);
        let is_hidden: Vec<bool> =
            pixels.map(|pixel| pixel.iter().any(|channel| *channel < WHITE)).collect();
        if is_hidden.len() != width * height {
            return Err("its pixels are not complete".into());
        }
        Ok(ImageMask { width, height, is_hidden })
    }

    /// Returns the pixels of a frame of this size that are black, row by row.
    pub fn pixels(&self, width: usize, height: usize) -> Vec<Range<usize>> {
        let touched =
            |at: usize, of: usize, size: usize| at * size / of..((at + 1) * size).div_ceil(of);
        let mut runs: Vec<Range<usize>> = Vec::new();
        for y in 0..height {
            let mut hidden = vec![false; self.width];
            for row in touched(y, height, self.height) {
                let row = &self.is_hidden[row * self.width..(row + 1) * self.width];
                hidden.iter_mut().zip(row).for_each(|(hidden, pixel)| *hidden |= pixel);
            }
            for x in 0..width {
                if !hidden[touched(x, width, self.width)].contains(&true) {
                    continue;
                }
                let at = y * width + x;
                match runs.last_mut() {
                    Some(run) if run.end == at => run.end += 1,
                    _ => runs.push(at..at + 1),
                }
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn png(color: ColorType, width: u32, height: u32, pixels: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        let mut writer = encoder.write_header().expect("a header");
        writer.write_image_data(pixels).expect("pixels");
        writer.finish().expect("an end");
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<ImageMask, String> {
        ImageMask::decode(Cursor::new(bytes))
    }

    /// Returns the rows of a frame with the mask: `#` for black pixels.
    fn rows(mask: &ImageMask, width: usize, height: usize) -> Vec<String> {
        let mut frame = vec!['.'; width * height];
        mask.pixels(width, height).into_iter().for_each(|run| frame[run].fill('#'));
        frame.chunks(width).map(|row| row.iter().collect()).collect()
    }

    #[test]
    fn only_white_and_opaque_pixels_are_visible() {
        let rgba = [
            [255, 255, 255, 255],
            [0, 0, 0, 255],
            [255, 255, 255, 0],
            [0, 0, 0, 0],
            [255, 0, 0, 255],
            [255, 255, 255, 128],
        ];
        let mask = decode(&png(ColorType::Rgba, 6, 1, rgba.as_flattened())).expect("a mask");
        assert_eq!(rows(&mask, 6, 1), [".#####"]);
        let gray = decode(&png(ColorType::Grayscale, 3, 1, &[255, 128, 0])).expect("a mask");
        assert_eq!(rows(&gray, 3, 1), [".##"]);
        let rgb =
            decode(&png(ColorType::Rgb, 2, 1, &[255, 255, 255, 255, 255, 0])).expect("a mask");
        assert_eq!(rows(&rgb, 2, 1), [".#"]);
    }

    #[test]
    fn a_mask_is_stretched_and_covers_what_it_touches() {
        let mask = decode(&png(ColorType::Grayscale, 3, 2, &[255, 255, 0, 255, 255, 255]));
        let mask = mask.expect("a mask");
        assert_eq!(rows(&mask, 6, 4), ["....##", "....##", "......", "......"]);
        assert_eq!(rows(&mask, 2, 2), [".#", ".."]);
        assert_eq!(rows(&mask, 4, 3), ["..##", "..##", "...."]);
        assert_eq!(rows(&mask, 1, 1), ["#"]);
    }

    #[test]
    fn broken_images_are_refused_with_the_reason() {
        let whole = png(ColorType::Grayscale, 40, 40, &[7; 1600]);
        let refused = |bytes: &[u8]| decode(bytes).expect_err("no mask");
        for end in [0, 4, 20, 40, whole.len() - 20] {
            let error = refused(&whole[..end]);
            assert!(error.starts_with("cannot be read as a PNG: "), "{end}: {error}");
        }
        assert!(refused(b"\xff\xd8\xff\xe0 a JPEG").contains("PNG"));
        let large = png(ColorType::Grayscale, 5000, 5000, &vec![0; 25_000_000]);
        assert!(refused(&large).contains("5000x5000 pixels: wanted at most"));
        let error = ImageMask::read(Path::new("/no/such.png")).expect_err("no mask");
        assert!(error.starts_with("image /no/such.png: No such file"), "{error}");
    }

    proptest! {
        #[test]
        fn no_hidden_point_is_visible_at_any_size(
            (width, height, hidden) in (1u32..9, 1u32..9).prop_flat_map(|(w, h)| {
                (Just(w), Just(h), prop::collection::vec(any::<bool>(), (w * h) as usize))
            }),
            (columns, lines) in (1usize..20, 1usize..20),
            points in prop::collection::vec([0.0..1.0f64, 0.0..1.0f64], 50),
        ) {
            let pixels: Vec<u8> = hidden.iter().map(|hidden| if *hidden { 0 } else { 255 }).collect();
            let mask = decode(&png(ColorType::Grayscale, width, height, &pixels)).expect("a mask");
            let rows = rows(&mask, columns, lines);
            for [x, y] in points {
                let source = (y * f64::from(height)) as usize * width as usize
                    + (x * f64::from(width)) as usize;
                let at = rows[(y * lines as f64) as usize].as_bytes()[(x * columns as f64) as usize];
                prop_assert!(at == b'#' || !hidden[source], "{x}, {y}: {rows:?}");
            }
        }

        #[test]
        fn no_bytes_cause_a_panic(at in 0usize..80, value: u8) {
            let mut bytes = png(ColorType::Grayscale, 9, 9, &[7; 81]);
            let at = at % bytes.len();
            bytes[at] = value;
            let _ = decode(&bytes).map(|mask| mask.pixels(5, 5));
        }
    }
}
