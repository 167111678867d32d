//! The scores of an alert over time, in a bounded number of points.

use crate::event::ScorePoint;

/// Maximum number of points.
pub const POINTS: usize = 128;

/// Adds a point. If there are too many, each two neighbours become one with the greater score, so
/// that no peak is lost.
pub fn add(curve: &mut Vec<ScorePoint>, point: ScorePoint) {
    if curve.len() >= POINTS {
        let greater = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        let thinned = curve.chunks(2).map(|points| ScorePoint {
            at: points[0].at,
            score: points.iter().fold(None, |score, point| greater(score, point.score)),
        });
        *curve = thinned.collect();
    }
    curve.push(point);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn a_long_curve_keeps_its_peaks_and_its_ends() {
        let at = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        let mut curve = Vec::new();
        for n in 0..10_000u64 {
            let score = match n {
                7_777 => Some(0.99),
                n if n % 3 == 0 => None,
                _ => Some(0.5),
            };
            add(&mut curve, ScorePoint { at: at(n), score });
            assert!(curve.len() <= POINTS);
        }
        assert_eq!(curve[0].at, at(0));
        assert_eq!(curve.last().map(|point| point.at), Some(at(9_999)));
        assert!(curve.is_sorted_by(|a, b| a.at < b.at));
        assert!(curve.iter().any(|point| point.score == Some(0.99)));
    }
}
