//! Compares the scores of a rule on windows of the past with labels: how many windows and alerts are
//! right, how well the scores are calibrated, and which settings would have been best. Pure rules.
//!
//! An alert is right if a window that counted for its beginning is true, and wrong if all of them are
//! false. An alert is missed if the labels, put into the rule's state machine in place of the scores,
//! raise an alert during which the rule raised none. Windows without a score or a label count for
//! neither side.

pub mod calibration;
pub mod chart;
pub mod labels;
#[cfg(test)]
mod tests;

use serde::Serialize;

use crate::config::Thresholds;
use crate::frame::Span;
use crate::rules::machine::{Change, Machine};

/// A window with its score and its label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    pub window: Span,
    pub score: Option<f64>,
    pub truth: Option<bool>,
}

/// Numbers of right and wrong decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Decisions for yes that are right.
    pub right: usize,
    /// Decisions for yes that are wrong.
    pub wrong: usize,
    /// True ones that were missed.
    pub missed: usize,
}

impl Counts {
    /// Returns the share of right decisions among those for yes, or `None` if there are none.
    pub fn precision(&self) -> Option<f64> {
        share(self.right, self.wrong)
    }

    /// Returns the share of the true ones that were found, or `None` if there are none.
    pub fn recall(&self) -> Option<f64> {
        share(self.right, self.missed)
    }

    fn f1(&self) -> f64 {
        let decisions = 2 * self.right + self.wrong + self.missed;
        2.0 * self.right as f64 / decisions.max(1) as f64
    }
}

fn share(part: usize, rest: usize) -> Option<f64> {
    (part + rest > 0).then(|| part as f64 / (part + rest) as f64)
}

/// Returns the windows with a score and a label, each as (score, truth).
pub fn known(windows: &[Judged]) -> Vec<(f64, bool)> {
    windows.iter().filter_map(|judged| judged.score.zip(judged.truth)).collect()
}

/// Counts windows: yes is a score of at least `on`.
pub fn windows(known: &[(f64, bool)], on: f64) -> Counts {
    let mut counts = Counts::default();
    for (score, truth) in known {
        match (*score >= on, *truth) {
            (true, true) => counts.right += 1,
            (true, false) => counts.wrong += 1,
            (false, true) => counts.missed += 1,
            (false, false) => {}
        }
    }
    counts
}

/// Returns the threshold with which windows are decided best, by the F1 score: the middle of the
/// widest range of such thresholds. `None` if no window is true.
pub fn best_threshold(known: &[(f64, bool)]) -> Option<f64> {
    let mut scores: Vec<f64> = known.iter().map(|(score, _)| *score).collect();
    scores.sort_by(f64::total_cmp);
    scores.dedup();
    // A threshold between two neighbours decides like the upper one.
    let ranges = scores.iter().enumerate().map(|(at, upper)| {
        let lower = at.checked_sub(1).map_or(0.0, |below| scores[below]);
        (windows(known, *upper).f1(), upper - lower, (lower + upper) / 2.0)
    });
    let best = ranges.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)))?;
    (best.0 > 0.0).then_some(best.2)
}

/// An alert, as positions of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raised {
    /// The first window that counted for the beginning.
    first: usize,
    begin: usize,
    /// The window that ended it, or the number of windows.
    end: usize,
}

/// Runs the state machine of a rule on scores.
fn raised(
    windows: &[Judged],
    thresholds: Thresholds,
    score: impl Fn(&Judged) -> Option<f64>,
) -> Vec<Raised> {
    let mut machine = Machine::new(thresholds);
    let mut alerts: Vec<Raised> = Vec::new();
    for (at, judged) in windows.iter().enumerate() {
        match machine.step(judged.window.to, score(judged)).change {
            Some(Change::Begin(points)) => {
                let first = (at + 1).saturating_sub(points.len());
                alerts.push(Raised { first, begin: at, end: windows.len() });
            }
            Some(Change::End) => {
                if let Some(alert) = alerts.last_mut() {
                    alert.end = at;
                }
            }
            None => {}
        }
    }
    alerts
}

/// Counts alerts.
pub fn alerts(windows: &[Judged], thresholds: Thresholds) -> Counts {
    let found = raised(windows, thresholds, |judged| judged.score);
    let wanted = raised(windows, thresholds, |judged| {
        judged.score.and(judged.truth).map(|truth| if truth { 1.0 } else { 0.0 })
    });
    let mut counts = Counts::default();
    for alert in &found {
        let counted = windows[alert.first..=alert.begin].iter();
        let counted = counted.filter(|judged| judged.score.is_some_and(|s| s >= thresholds.on));
        let truths: Vec<Option<bool>> = counted.map(|judged| judged.truth).collect();
        if truths.contains(&Some(true)) {
            counts.right += 1;
        } else if truths.iter().all(|truth| *truth == Some(false)) {
            counts.wrong += 1;
        }
    }
    let is_found = |wanted: &&Raised| {
        found.iter().any(|alert| alert.first < wanted.end && wanted.first < alert.end)
    };
    counts.missed = wanted.iter().filter(|wanted| !is_found(wanted)).count();
    counts
}
