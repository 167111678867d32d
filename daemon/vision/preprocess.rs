//! Converts a frame to the vision model's input, as the reference does with Pillow: stretches or
//! pads it to a square, resizes it bicubically in 8 bits, rescales and normalises it.
//!
//! Guarantees: `tests/golden.rs` compares the results with the recorded reference.

pub use lookout_pixels::Scratch;
use lookout_pixels::{Bgrx, PixelError};
use serde::Deserialize;
use serde_json::Value;

use crate::config::Resize;
use crate::model::PreprocessorConfig;

/// The input format that the model was trained with.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// Side of the square input, in pixels.
    pub size: usize,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub resize: Resize,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Pixels(#[from] PixelError),
    #[error("cannot be compressed: {0}")]
    Jpeg(#[from] turbojpeg::Error),
}

/// Factor that the reference multiplies by in f64, before it continues in f32.
const RESCALE: f64 = 1.0 / 255.0;
/// Largest accepted side. A larger one indicates a damaged file.
const SIZE_MAX: usize = 4096;

impl Preprocess {
    /// Returns the shortest allowed side of a stored JPEG that may be preprocessed again: 1.5 times
    /// the model's input size. At the input size itself the features differ visibly
    /// (`docs/performance.md`).
    pub fn least_side(&self) -> u32 {
        self.size as u32 * 3 / 2
    }

    /// Fills `out`, `[3, size, size]`, from packed BGRx.
    pub fn pixels(
        &self,
        scratch: &mut Scratch,
        bgrx: &[u8],
        width: u32,
        height: u32,
        out: &mut [f32],
    ) -> Result<(), ImageError> {
        let levels: [[f32; 256]; 3] = std::array::from_fn(|channel| {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            std::array::from_fn(|level| ((level as f64 * RESCALE) as f32 - mean) / std)
        });
        lookout_pixels::normalise(self.square(scratch, bgrx, width, height)?, &levels, out);
        Ok(())
    }

    /// Returns the 8-bit image before it is normalised: RGB, `size` × `size`.
    pub fn square<'s>(
        &self,
        scratch: &'s mut Scratch,
        bgrx: &[u8],
        width: u32,
        height: u32,
    ) -> Result<&'s [u8], ImageError> {
        let (image, size) = (Bgrx::new(bgrx, width, height)?, self.size as u32);
        let square = match self.resize {
            Resize::Pad => lookout_pixels::pad(scratch, image, self.canvas_colour(), size),
            Resize::Stretch => lookout_pixels::stretch(scratch, image, size),
        };
        Ok(square?)
    }

    /// Returns the mean as a colour, truncated to 8 bits as the reference does.
    fn canvas_colour(&self) -> [u8; 3] {
        self.mean.map(|mean| (mean * 255.0) as u8)
    }
}

/// The fields of `preprocessor_config.json` that affect an image.
#[derive(Deserialize)]
struct File {
    size: Option<Value>,
    crop_size: Option<Value>,
    image_mean: Option<[f32; 3]>,
    image_std: Option<[f32; 3]>,
    resample: Option<u32>,
    do_resize: Option<bool>,
    do_rescale: Option<bool>,
    do_normalize: Option<bool>,
    do_center_crop: Option<bool>,
    rescale_factor: Option<f64>,
}

impl Preprocess {
    /// Reads the preprocessing of a package. The error names the file.
    ///
    /// `do_center_crop` is ignored on purpose: SlowFast-LLaVA stretches the whole frame to the
    /// model's size (or pads it), so that nothing at the borders is lost.
    pub fn from_config(config: &PreprocessorConfig, resize: Resize) -> Result<Preprocess, String> {
        let file = serde_json::from_str(&config.text).map_err(|e| e.to_string());
        file.and_then(|file| Preprocess::from_file(file, resize))
            .map_err(|why| format!("{}: {why}", config.file.display()))
    }

    fn from_file(file: File, resize: Resize) -> Result<Preprocess, String> {
        for (key, value) in [
            ("do_resize", file.do_resize),
            ("do_rescale", file.do_rescale),
            ("do_normalize", file.do_normalize),
        ] {
            if value == Some(false) {
                return Err(format!("{key} = false; only true is supported"));
            }
        }
        if let Some(resample) = file.resample
            && resample != 3
        {
            return Err(format!("resample = {resample}; only 3 (bicubic) is supported"));
        }
        if let Some(factor) = file.rescale_factor
            && (factor - RESCALE).abs() > 1e-6
        {
            return Err(format!("rescale_factor = {factor}; only 1/255 is supported"));
        }
        let side_of = |key, value: Option<Value>| value.map(|v| side(key, &v)).transpose();
        let size = side_of("size", file.size)?;
        let crop = side_of("crop_size", file.crop_size)?;
        if let (Some(size), Some(crop)) = (size, crop)
            && size != crop
            && file.do_center_crop != Some(false)
        {
            return Err(format!(
                "size = {size} and crop_size = {crop}; only equal ones are supported"
            ));
        }
        let mean = file.image_mean.ok_or("image_mean is missing")?;
        let std = file.image_std.ok_or("image_std is missing")?;
        if !mean.iter().all(|mean| (0.0..=1.0).contains(mean)) {
            return Err(format!("image_mean = {mean:?}; wanted numbers from 0 to 1"));
        }
        if !std.iter().all(|std| *std > 0.0 && std.is_finite()) {
            return Err(format!("image_std = {std:?}; wanted numbers above 0"));
        }
        Ok(Preprocess { size: size.or(crop).ok_or("size is missing")?, mean, std, resize })
    }
}

/// Parses a side: `336`, `{"shortest_edge": 336}` or `{"height": 336, "width": 336}`.
fn side(key: &str, value: &Value) -> Result<usize, String> {
    let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
    let side = match (value.get("height"), value.get("width")) {
        (Some(height), Some(width)) if height == width => number(height),
        (None, None) => number(value.get("shortest_edge").unwrap_or(value)),
        _ => None,
    };
    side.filter(|side| (1..=SIZE_MAX).contains(side)).ok_or_else(|| {
        format!("{key} = {value}; wanted one side from 1 to {SIZE_MAX}, for a square")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIP: &str = r#"{
        "crop_size": {"height": 336, "width": 336}, "do_center_crop": true, "do_normalize": true,
        "do_resize": true, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 336}}"#;

    fn in_file(file: &str, text: &str) -> PreprocessorConfig {
        PreprocessorConfig { file: file.into(), text: text.into() }
    }

    fn read(text: &str, resize: Resize) -> Result<Preprocess, String> {
        Preprocess::from_config(&in_file("preprocessor_config.json", text), resize)
    }

    fn clip() -> Preprocess {
        read(CLIP, Resize::Pad).expect("well formed")
    }

    #[test]
    fn the_preprocessor_file_of_clip_is_read() {
        let clip = clip();
        assert_eq!((clip.size, clip.mean[0], clip.std[2]), (336, 0.481_454_66, 0.275_777_1));
        assert_eq!(clip.canvas_colour(), [122, 116, 104]);
        for size in ["336", r#"{"height": 336, "width": 336}"#] {
            let text = CLIP.replace(r#"{"shortest_edge": 336}"#, size);
            assert_eq!(read(&text, Resize::Pad), Ok(clip.clone()));
        }
    }

    #[test]
    fn unsupported_settings_are_refused_by_name() {
        for (from, to, wanted) in [
            (r#""resample": 3"#, r#""resample": 2"#, "resample = 2; only 3 (bicubic)"),
            (r#""do_resize": true"#, r#""do_resize": false"#, "do_resize = false"),
            ("0.00392156862745098", "0.0078", "rescale_factor = 0.0078"),
            (r#""shortest_edge": 336"#, r#""shortest_edge": 224"#, "crop_size = 336"),
            (r#""shortest_edge": 336"#, r#""height": 336"#, "size = "),
            (r#""shortest_edge": 336"#, r#""shortest_edge": 0"#, "size = "),
            ("image_std", "other", "image_std is missing"),
            ("0.26130258", "0.0", "image_std = "),
        ] {
            let error = read(&CLIP.replace(from, to), Resize::Stretch);
            let error = error.expect_err(wanted);
            assert!(error.starts_with("preprocessor_config.json: "), "{error}");
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_file_that_the_settings_come_from() {
        for file in ["llava/preprocessor_config.json", "llava/processor_config.json"] {
            let error = Preprocess::from_config(&in_file(file, "{}"), Resize::Pad);
            let error = error.expect_err("no settings");
            assert!(error.starts_with(&format!("{file}: ")), "{error}");
        }
    }

    #[test]
    fn a_wrong_number_of_bytes_is_refused() {
        let mut scratch = Scratch::default();
        for (bytes, width, height) in [(15, 2, 2), (0, 0, 2), (0, u32::MAX, u32::MAX)] {
            assert!(clip().square(&mut scratch, &vec![0; bytes], width, height).is_err());
        }
    }

    #[test]
    fn an_image_of_the_models_size_is_only_normalised() {
        let preprocess =
            Preprocess { size: 2, mean: [0.5; 3], std: [0.5; 3], resize: Resize::Stretch };
        let mut out = [0.0; 12];
        let bgrx = [255, 0, 0, 9, 255, 0, 0, 9, 255, 0, 0, 9, 255, 0, 255, 9];
        preprocess.pixels(&mut Scratch::default(), &bgrx, 2, 2, &mut out).expect("fits");
        assert_eq!(out, [-1., -1., -1., 1., -1., -1., -1., -1., 1., 1., 1., 1.]);
    }
}
