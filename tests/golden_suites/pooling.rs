//! Tests the pooling of a clip's features: bitwise where the order of the reference's sums is
//! defined, otherwise `|a - b| <= tol_abs + tol_rel * |b|`.

use lookout::slowfast::{Aggregation, Pool, SlowFast, SlowPool, aggregate};
use serde::Deserialize;
use serde_json::Value;

use super::{Golden, equal, parse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    #[serde(rename = "id")]
    _id: String,
    input: String,
    frames: usize,
    tokens_per_frame: usize,
    dim: usize,
    aggregation: String,
    output: Option<String>,
    out_tokens: Option<usize>,
    exact: Option<bool>,
    tol_abs: Option<f64>,
    tol_rel: Option<f64>,
    slow_tokens: Option<usize>,
    fast_tokens: Option<usize>,
    /// The reference's exception class; the case must be refused.
    error: Option<String>,
    #[serde(rename = "error_text")]
    _error_text: Option<String>,
    /// Set if the reference returns NaN; the case must be refused or ignored.
    #[serde(default)]
    reference_gives_nan: bool,
    /// Distance of the reference's own f32 from f64; informative.
    #[serde(rename = "ref_f32_vs_f64")]
    _ref_f32_vs_f64: Option<f64>,
}

pub fn check(golden: &Golden, kind: &str, json: Value) -> Result<(), String> {
    equal("kind", &kind, &"cases")?;
    let case: Case = parse(json)?;
    let input = golden.npy(&case.input)?;
    equal("input shape", &input.shape, &vec![case.frames, case.tokens_per_frame, case.dim])?;
    let parsed = case.aggregation.parse::<Aggregation>().map_err(|e| e.to_string());
    let found = parsed.and_then(|aggregation| {
        aggregate(&input.values, case.tokens_per_frame, case.dim, aggregation)
            .map(|rows| (aggregation, rows))
            .map_err(|e| e.to_string())
    });
    if case.reference_gives_nan {
        return Ok(());
    }
    if let Some(error) = &case.error {
        return match found {
            Ok((_, rows)) => Err(format!("{} numbers where {error} was wanted", rows.len())),
            Err(_) => Ok(()),
        };
    }
    let (aggregation, rows) = found?;
    let missing = |field: &str| format!("{field} is missing");
    let wanted = golden.npy(case.output.as_ref().ok_or_else(|| missing("output"))?)?;
    let out_tokens = case.out_tokens.ok_or_else(|| missing("out_tokens"))?;
    equal("output shape", &wanted.shape, &vec![out_tokens, case.dim])?;
    equal("numbers", &rows.len(), &wanted.values.len())?;
    if let (Some(slow), Some(fast)) = (case.slow_tokens, case.fast_tokens) {
        equal("slow and fast tokens", &(slow + fast), &out_tokens)?;
    }

    let exact_rows = match (case.exact.ok_or_else(|| missing("exact"))?, aggregation) {
        (true, _) => out_tokens,
        (false, Aggregation::SlowFast(SlowFast { slow, .. })) if selects(slow) => {
            case.slow_tokens.ok_or_else(|| missing("slow_tokens"))?
        }
        (false, _) => 0,
    };
    let (tol_abs, tol_rel) = (
        case.tol_abs.ok_or_else(|| missing("tol_abs"))?,
        case.tol_rel.ok_or_else(|| missing("tol_rel"))?,
    );
    for (i, (a, b)) in rows.iter().zip(&wanted.values).enumerate() {
        let fits = if i < exact_rows * case.dim {
            a.to_bits() == b.to_bits()
        } else {
            let (a, b) = (f64::from(*a), f64::from(*b));
            (a - b).abs() <= tol_abs + tol_rel * b.abs()
        };
        if !fits {
            return Err(format!("row {}: found {a:e}, wanted {b:e}", i / case.dim));
        }
    }
    Ok(())
}

/// Returns true if a pool only selects values, so that it has exactly one result.
fn selects(pool: SlowPool) -> bool {
    matches!(pool, SlowPool::EachFrame(Pool::Concat | Pool::Max1d | Pool::Max2d))
}
