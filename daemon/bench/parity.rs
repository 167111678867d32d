//! Measures how far a device's output is from the CPU's, and whether it is within tolerance.

use std::fmt;

use serde::Serialize;

use crate::model::Graph;

/// Difference between the device's output and the CPU's.
#[derive(Serialize)]
pub struct Parity {
    /// Name of the compared values: `features` or `first logits`.
    of: &'static str,
    largest_difference: f32,
    /// Largest absolute value on the CPU's side; the difference is relative to it.
    scale: f32,
    cosine: f64,
    /// Number of equal greedy tokens before the first that differs, and the number of tokens;
    /// `None` for features.
    #[serde(skip_serializing_if = "Option::is_none")]
    same_ids: Option<(usize, usize)>,
    tolerance: Tolerance,
    pub pass: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tolerance {
    /// Tolerance for graphs in fp32: no value differs by more than 1e-3 of the scale (at least of
    /// 1), and the tokens are the same.
    Exact,
    /// Tolerance for graphs of lower precision: a cosine of at least 0.99. Where two tokens are
    /// almost equally likely, that token and all that follow may differ.
    Rounded,
}

const EXACT: f32 = 1e-3;
const ROUNDED: f64 = 0.99;

impl Parity {
    pub fn new(
        of: &'static str,
        cpu: &[f32],
        device: &[f32],
        ids: Option<(&[u32], &[u32])>,
        tolerance: Tolerance,
    ) -> Parity {
        // NaN is never within a tolerance, and `max` would drop it.
        let worse = |worst: f32, off: f32| if off.is_nan() { f32::NAN } else { worst.max(off) };
        let pairs = || cpu.iter().zip(device);
        let largest_difference = pairs().map(|(a, b)| (a - b).abs()).fold(0.0, worse);
        let scale = cpu.iter().map(|a| a.abs()).fold(0.0, worse);
        let dot = |of: &mut dyn Iterator<Item = (f32, f32)>| -> f64 {
            of.map(|(a, b)| f64::from(a) * f64::from(b)).sum()
        };
        let norm = |values: &[f32]| dot(&mut values.iter().map(|a| (*a, *a))).sqrt();
        let cosine = dot(&mut pairs().map(|(a, b)| (*a, *b))) / (norm(cpu) * norm(device));
        let same_ids = ids.map(|(cpu, device)| {
            (cpu.iter().zip(device).take_while(|(a, b)| a == b).count(), cpu.len())
        });
        let same_length = cpu.len() == device.len() && !cpu.is_empty();
        let near = match tolerance {
            Tolerance::Exact => {
                largest_difference <= EXACT * scale.max(1.0)
                    && same_ids.is_none_or(|(same, all)| same == all)
            }
            Tolerance::Rounded => cosine >= ROUNDED,
        };
        let pass = same_length && near;
        Parity { of, largest_difference, scale, cosine, same_ids, tolerance, pass }
    }
}

impl Tolerance {
    pub fn of(graph: &Graph) -> Tolerance {
        if graph.precision == "fp32" { Tolerance::Exact } else { Tolerance::Rounded }
    }
}

impl fmt::Display for Parity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parity { of, largest_difference, scale, cosine, .. } = self;
        write!(
            f,
            "{of} off by at most {largest_difference:.1e} of {scale:.1}, cosine {cosine:.6}"
        )?;
        if let Some((same, all)) = self.same_ids {
            write!(f, "; greedy tokens: {same} of {all} the same")?;
        }
        write!(f, "; {}: wanted ", if self.pass { "pass" } else { "FAIL" })?;
        match self.tolerance {
            Tolerance::Exact => write!(f, "at most {EXACT:.0e} of that, or of 1")?,
            Tolerance::Rounded => write!(f, "a cosine of at least {ROUNDED}")?,
        }
        match (self.tolerance, self.same_ids) {
            (Tolerance::Exact, Some(_)) => write!(f, ", and the same tokens"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_differences_fail() {
        let cpu = [1.0, -2.0, 8.0];
        let off = |by: f32, tolerance| {
            let device = [1.0, -2.0, 8.0 + by];
            Parity::new("features", &cpu, &device, None, tolerance).pass
        };
        assert!(off(0.007, Tolerance::Exact) && !off(0.009, Tolerance::Exact));
        assert!(off(0.9, Tolerance::Rounded) && !off(-8.0, Tolerance::Rounded));
        assert!(!off(f32::NAN, Tolerance::Exact) && !off(f32::NAN, Tolerance::Rounded));
        let ids = |device: &[u32], tolerance| {
            Parity::new("first logits", &cpu, &cpu, Some((&[1, 2, 3], device)), tolerance)
        };
        assert!(ids(&[1, 2, 3], Tolerance::Exact).pass);
        let other = ids(&[1, 2, 4], Tolerance::Exact);
        assert_eq!((other.same_ids, other.pass), (Some((2, 3)), false));
        assert!(ids(&[1, 2, 4], Tolerance::Rounded).pass);
        assert!(!Parity::new("features", &cpu, &cpu[..2], None, Tolerance::Exact).pass);
    }
}
