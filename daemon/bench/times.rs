//! Percentiles of durations.

use serde::Serialize;

/// Statistics of durations, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Times {
    pub fn of(mut seconds: Vec<f64>) -> Option<Times> {
        seconds.sort_by(f64::total_cmp);
        let last = seconds.len().checked_sub(1)?;
        // The smallest value that at least `p` percent of the values do not exceed.
        let percentile =
            |p: usize| seconds[(seconds.len() * p).div_ceil(100).clamp(1, last + 1) - 1];
        let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
        Some(Times { mean, p50: percentile(50), p95: percentile(95), p99: percentile(99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times = Times::of((1..=200).map(f64::from).collect()).expect("some");
        assert_eq!((times.p50, times.p95, times.p99), (100.0, 190.0, 198.0));
        assert_eq!(times.mean, 100.5);
        let one = Times::of(vec![3.0]).expect("one");
        assert_eq!((one.p50, one.p99), (3.0, 3.0));
        assert!(Times::of(vec![]).is_none());
    }
}
