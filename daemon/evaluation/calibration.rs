//! Measures how well scores agree with how often they are right, and fits the temperature that makes
//! them agree best.

use serde::Serialize;

use crate::rules::calibration::{logit, with_temperature};

/// Number of ranges of scores in which they are compared with the truth.
const BINS: usize = 10;

/// The range of temperatures, that of the rule's key.
const TEMPERATURES: (f64, f64) = (0.1, 10.0);

/// Largest absolute logit. A score of exactly 0 or 1 has none.
const LARGEST: f64 = 40.0;

/// A range of scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    pub from: f64,
    pub to: f64,
    pub windows: usize,
    pub mean_score: f64,
    /// Share of the windows that are true.
    pub share_true: f64,
}

/// Returns the ranges of scores that occur, from low to high.
pub fn reliability(known: &[(f64, bool)]) -> Vec<Bin> {
    let bin_of = |score: f64| ((score * BINS as f64) as usize).min(BINS - 1);
    let bin = |number: usize| {
        let within: Vec<_> = known.iter().filter(|(score, _)| bin_of(*score) == number).collect();
        let count = within.len() as f64;
        let is_true = within.iter().filter(|(_, truth)| *truth).count();
        (!within.is_empty()).then(|| Bin {
            from: number as f64 / BINS as f64,
            to: (number + 1) as f64 / BINS as f64,
            windows: within.len(),
            mean_score: within.iter().map(|(score, _)| score).sum::<f64>() / count,
            share_true: is_true as f64 / count,
        })
    };
    (0..BINS).filter_map(bin).collect()
}

/// Returns the expected calibration error: the mean distance between a score and the share of true
/// windows in its range.
pub fn error(bins: &[Bin]) -> f64 {
    let all: usize = bins.iter().map(|bin| bin.windows).sum();
    let distance = |bin: &Bin| (bin.mean_score - bin.share_true).abs() * bin.windows as f64;
    bins.iter().map(distance).sum::<f64>() / all.max(1) as f64
}

/// Returns the temperature with which the scores explain the truth best, by their likelihood. The
/// scores have the temperature `present`. `None` if all windows are true, or none is.
pub fn fit(known: &[(f64, bool)], present: f64) -> Option<f64> {
    let is_true = known.iter().filter(|(_, truth)| *truth).count();
    if is_true == 0 || is_true == known.len() {
        return None;
    }
    let signed = |(score, truth): &(f64, bool)| {
        let logit = (logit(*score) * present).clamp(-LARGEST, LARGEST);
        if *truth { logit } else { -logit }
    };
    let logits: Vec<f64> = known.iter().map(signed).collect();
    let loss = |temperature: f64| -> f64 {
        logits.iter().map(|logit| (-logit / temperature).exp().ln_1p()).sum()
    };
    // The loss is convex in the inverse temperature, so that it has one valley.
    let (mut low, mut high) = (TEMPERATURES.0.ln(), TEMPERATURES.1.ln());
    for _ in 0..60 {
        let third = (high - low) / 3.0;
        let (a, b) = (low + third, high - third);
        if loss(a.exp()) <= loss(b.exp()) {
            high = b;
        } else {
            low = a;
        }
    }
    Some(((low + high) / 2.0).exp())
}

/// Returns the windows with their scores at another temperature.
pub fn rescaled(known: &[(f64, bool)], present: f64, temperature: f64) -> Vec<(f64, bool)> {
    let scale = temperature / present;
    known.iter().map(|(score, truth)| (with_temperature(*score, scale), *truth)).collect()
}
