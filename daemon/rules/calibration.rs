//! Temperature scaling: makes scores of a model that is too sure, or not sure enough, agree with how
//! often they are right.

/// Divides the logit of a score by the temperature. Above 1, scores move towards 0.5; below 1, away
/// from it. Their order stays, and so does which of them are above 0.5.
pub fn with_temperature(score: f64, temperature: f64) -> f64 {
    if temperature == 1.0 {
        return score;
    }
    1.0 / (1.0 + (-logit(score) / temperature).exp())
}

/// Returns the logarithm of the odds of a score.
pub fn logit(score: f64) -> f64 {
    (score / (1.0 - score)).ln()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_temperature_divides_the_logit() {
        let score = 1.0 / (1.0 + (-3.0f64).exp());
        let scaled = with_temperature(score, 2.0);
        assert!((scaled - 1.0 / (1.0 + (-1.5f64).exp())).abs() < 1e-12, "{scaled}");
        for temperature in [0.1, 1.0, 10.0] {
            assert_eq!(with_temperature(0.0, temperature), 0.0);
            assert_eq!(with_temperature(0.5, temperature), 0.5);
            assert_eq!(with_temperature(1.0, temperature), 1.0);
            assert!(with_temperature(f64::NAN, temperature).is_nan());
        }
    }

    proptest! {
        #[test]
        fn the_order_of_scores_stays(a in 0.0..=1.0f64, b in 0.0..=1.0f64, t in 0.1..=10.0f64) {
            let (low, high) = (a.min(b), a.max(b));
            let scaled = [low, high].map(|score| with_temperature(score, t));
            prop_assert!(scaled[0] <= scaled[1]);
            prop_assert!(scaled.iter().all(|score| (0.0..=1.0).contains(score)));
            prop_assert!(low < 0.5 || scaled[0] > 0.5 - 1e-9);
            prop_assert!(high > 0.5 || scaled[1] < 0.5 + 1e-9);
        }
    }
}
