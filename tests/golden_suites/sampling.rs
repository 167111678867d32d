//! Tests which frames are sampled, and which of them are slow: exact.

use lookout::slowfast::sampling::{slow, uniform};
use serde::Deserialize;
use serde_json::Value;

use super::{Golden, equal, hex_digest, parse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Uniform {
    total: usize,
    requested: usize,
    /// min(total, requested)
    desired: usize,
    indices: Vec<usize>,
    half_even_matters: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slow {
    frames: usize,
    slow: usize,
    indices: Vec<usize>,
    differs_from_exact_floor: bool,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Sweep {
    Slow {
        frames_from: usize,
        frames_to: usize,
        slow_from: usize,
        slow_to: usize,
        order: String,
        sha256: String,
    },
    Uniform {
        total_from: usize,
        total_to: usize,
        requested: usize,
        order: String,
        sha256: String,
    },
}

const SLOW_ORDER: &str =
    "for frames ascending { for slow ascending { append every index as little-endian i32 } }";
const UNIFORM_ORDER: &str = "for total ascending { append every index of min(total, requested) frames as little-endian i32 }";

pub fn check(_: &Golden, kind: &str, json: Value) -> Result<(), String> {
    match kind {
        "uniform" => {
            let case: Uniform = parse(json)?;
            equal("desired", &case.total.min(case.requested), &case.desired)?;
            equal("indices", &uniform(case.total, case.requested), &case.indices)?;
            // The reverse is not checked: with fewer frames than requested, the mark is not always
            // set.
            let away = half_away(case.total, case.desired);
            match case.half_even_matters && away == case.indices {
                true => Err("half_even_matters, but rounding halves away gives the same".into()),
                false => Ok(()),
            }
        }
        "slow" => {
            let case: Slow = parse(json)?;
            equal("indices", &slow(case.frames, case.slow), &case.indices)?;
            let floor: Vec<usize> = (0..case.slow).map(|i| i * case.frames / case.slow).collect();
            let differs = floor != case.indices;
            equal("differs_from_exact_floor", &differs, &case.differs_from_exact_floor)
        }
        "digests" => sweep(parse(json)?),
        _ => Err(format!("unknown kind {kind}")),
    }
}

/// Returns the indices with halves rounded away from zero.
fn half_away(total: usize, count: usize) -> Vec<usize> {
    let segment = (total - 1) as f64 / count as f64;
    let border = |i: usize| (segment * i as f64).round() as usize;
    (0..count).map(|i| (border(i) + border(i + 1)) / 2).collect()
}

fn sweep(sweep: Sweep) -> Result<(), String> {
    let mut indices: Vec<usize> = Vec::new();
    let sha256 = match sweep {
        Sweep::Slow { frames_from, frames_to, slow_from, slow_to, order, sha256 } => {
            equal("order", &order.as_str(), &SLOW_ORDER)?;
            for frames in frames_from..=frames_to {
                indices.extend((slow_from..=slow_to).flat_map(|count| slow(frames, count)));
            }
            sha256
        }
        Sweep::Uniform { total_from, total_to, requested, order, sha256 } => {
            equal("order", &order.as_str(), &UNIFORM_ORDER)?;
            indices.extend((total_from..=total_to).flat_map(|total| uniform(total, requested)));
            sha256
        }
    };
    let bytes: Vec<u8> = indices.into_iter().flat_map(|i| (i as i32).to_le_bytes()).collect();
    equal("sha256", &hex_digest(&bytes), &sha256)
}
