//! Tests the conversion of frames to the vision model's input.
//!
//! The resize is that of a library whose fixed-point arithmetic differs from Pillow's. Tolerance:
//! at most 2 levels of 255, on at most 1.5 % of an image's samples; every other sample of the pixel
//! values is within `tol_abs_exact`, these within `2 * tol_abs_one_level`.

use lookout::config::Resize;
use lookout::vision::preprocess::{Preprocess, Scratch};
use serde::Deserialize;
use serde_json::Value;

use super::{Golden, equal, parse};

const LEVELS_MAX: u8 = 2;
const SHARE_MAX: f64 = 0.015;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    id: String,
    image: String,
    width: u32,
    height: u32,
    mode: Mode,
    size: usize,
    resized_u8: String,
    pixel_values: String,
    shape: Vec<usize>,
    sum_f64: f64,
    /// Tolerance for a resize by Pillow itself; ours is [`LEVELS_MAX`].
    #[serde(rename = "tol_u8")]
    _tol_u8: u8,
    tol_abs_exact: f64,
    tol_abs_one_level: f64,
    /// Result of a later Pillow, which runs the passes of portrait images in another order.
    resized_u8_pillow13: Option<String>,
    pillow13_max_level_difference: Option<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Resize,
    Pad,
}

pub fn check(golden: &Golden, kind: &str, json: Value) -> Result<(), String> {
    equal("kind", &kind, &"cases")?;
    let case: Case = parse(json)?;
    let image = golden.png(&case.image)?;
    equal("picture size", &(image.width, image.height), &(case.width, case.height))?;
    equal("shape", &case.shape, &vec![3, case.size, case.size])?;
    let preprocess = Preprocess {
        size: case.size,
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
        resize: match case.mode {
            Mode::Resize => Resize::Stretch,
            Mode::Pad => Resize::Pad,
        },
    };
    let mut scratch = Scratch::default();

    let square = preprocess
        .square(&mut scratch, &image.bgrx(), image.width, image.height)
        .map_err(|e| e.to_string())?;
    let wanted = golden.png(&case.resized_u8)?.rgb;
    let (levels, share) = apart(square, &wanted)?;
    println!("{}: {levels} levels on {:.2} %", case.id, share * 100.0);
    if levels > LEVELS_MAX || share > SHARE_MAX {
        return Err(format!("{levels} levels apart, on {:.2} %", share * 100.0));
    }
    if let Some(path) = &case.resized_u8_pillow13 {
        let (levels, _) = apart(&golden.png(path)?.rgb, &wanted)?;
        equal("pillow13_max_level_difference", &Some(levels), &case.pillow13_max_level_difference)?;
    }

    let mut pixels = vec![0.0; 3 * case.size * case.size];
    preprocess
        .pixels(&mut scratch, &image.bgrx(), image.width, image.height, &mut pixels)
        .map_err(|e| e.to_string())?;
    let wanted = golden.npy(&case.pixel_values)?;
    equal("pixel_values shape", &wanted.shape, &case.shape)?;
    let far = |tolerance: f64| {
        let pairs = pixels.iter().zip(&wanted.values);
        pairs.filter(|(a, b)| (f64::from(**a) - f64::from(**b)).abs() > tolerance).count()
    };
    let few = (SHARE_MAX * pixels.len() as f64) as usize;
    let (off, gone) = (far(case.tol_abs_exact), far(2.0 * case.tol_abs_one_level));
    if off > few || gone > 0 {
        return Err(format!("{off} pixel values off, {gone} of them by more than two levels"));
    }
    let sum: f64 = pixels.iter().map(|v| f64::from(*v)).sum();
    let bound = few as f64 * 2.0 * case.tol_abs_one_level + 1e-6 * pixels.len() as f64;
    if (sum - case.sum_f64).abs() > bound {
        return Err(format!("pixel values add up to {sum}, wanted {}", case.sum_f64));
    }
    Ok(())
}

/// Returns the largest difference in levels, and the share of samples that differ.
fn apart(found: &[u8], wanted: &[u8]) -> Result<(u8, f64), String> {
    equal("samples", &found.len(), &wanted.len())?;
    let levels = || found.iter().zip(wanted).map(|(a, b)| a.abs_diff(*b));
    let differing = levels().filter(|level| *level > 0).count();
    Ok((levels().max().unwrap_or(0), differing as f64 / found.len() as f64))
}
