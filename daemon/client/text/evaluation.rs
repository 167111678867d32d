//! Formats the comparison of a trial with labels.

use std::fmt;

use serde::Serialize;

use crate::evaluation::calibration::{self, Bin};
use crate::evaluation::{self, Counts, Judged};
use crate::service::Trial;

/// The comparison, as JSON and as text.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "trial_evaluation")]
pub struct Evaluation {
    /// Number of windows with a score and a label.
    judged_windows: usize,
    on: f64,
    windows: Rates,
    alerts: Rates,
    /// The threshold with which the windows would have been decided best.
    best_on: Option<f64>,
    calibration_error: f64,
    reliability: Vec<Bin>,
    /// The temperature that fits best, and the calibration error with it.
    temperature: Option<f64>,
    fitted_calibration_error: Option<f64>,
}

#[derive(Serialize)]
struct Rates {
    #[serde(flatten)]
    counts: Counts,
    precision: Option<f64>,
    recall: Option<f64>,
}

impl From<Counts> for Rates {
    fn from(counts: Counts) -> Rates {
        Rates { precision: counts.precision(), recall: counts.recall(), counts }
    }
}

impl Evaluation {
    pub fn of(trial: &Trial, windows: &[Judged]) -> Evaluation {
        let known = evaluation::known(windows);
        let reliability = calibration::reliability(&known);
        let temperature = calibration::fit(&known, trial.temperature);
        let fitted = temperature.map(|temperature| {
            let rescaled = calibration::rescaled(&known, trial.temperature, temperature);
            calibration::error(&calibration::reliability(&rescaled))
        });
        Evaluation {
            judged_windows: known.len(),
            on: trial.thresholds.on,
            windows: evaluation::windows(&known, trial.thresholds.on).into(),
            alerts: evaluation::alerts(windows, trial.thresholds).into(),
            best_on: evaluation::best_threshold(&known),
            calibration_error: calibration::error(&reliability),
            reliability,
            temperature,
            fitted_calibration_error: fitted,
        }
    }
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{} windows have a score and a label", self.judged_windows)?;
        writeln!(f, "windows at on = {}: {}", self.on, self.windows)?;
        writeln!(f, "alerts: {}", self.alerts)?;
        if let Some(on) = self.best_on {
            writeln!(f, "best threshold for single windows: on = {on:.2}")?;
        }
        writeln!(f, "\nscores    windows  mean score  true")?;
        for Bin { from, to, windows, mean_score, share_true } in &self.reliability {
            writeln!(f, "{from:.1}–{to:.1}  {windows:>8}  {mean_score:>10.3}  {share_true:.3}")?;
        }
        write!(f, "expected calibration error {:.3}", self.calibration_error)?;
        let fitted = self.temperature.zip(self.fitted_calibration_error);
        if let Some((temperature, error)) = fitted {
            write!(f, "; {error:.3} with this line in the rule:\ntemperature = {temperature:.2}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { right, wrong, missed } = self.counts;
        let percent = |share: Option<f64>| match share {
            Some(share) => format!("{:.1} %", 100.0 * share),
            None => "-".to_owned(),
        };
        let (precision, recall) = (percent(self.precision), percent(self.recall));
        write!(
            f,
            "precision {precision}, recall {recall} ({right} right, {wrong} wrong, {missed} missed)"
        )
    }
}
