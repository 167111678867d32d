//! Rotary tables (RoFormer, arXiv 2104.09864), computed here because the exporter's tool leaves
//! out scaling without a word.

use super::Rope;

/// Cosines and sines `[positions, head_dim / 2]`.
pub struct RotaryTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub positions: usize,
    pub half: usize,
}

impl RotaryTables {
    /// Angle of position p and pair i: p / factor · theta^(−2i / head_dim).
    pub fn new(rope: Rope, positions: usize, head_dim: usize) -> RotaryTables {
        let half = head_dim / 2;
        let angles = (0..positions).flat_map(|position| {
            (0..half).map(move |pair| {
                let frequency = rope.theta.powf(-2.0 * pair as f64 / head_dim as f64);
                position as f64 / rope.linear_factor * frequency
            })
        });
        let (cos, sin) = angles.map(|angle| (angle.cos() as f32, angle.sin() as f32)).unzip();
        RotaryTables { cos, sin, positions, half }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_stretches_positions() {
        let plain = RotaryTables::new(Rope { theta: 10000.0, linear_factor: 1.0 }, 8, 4);
        let scaled = RotaryTables::new(Rope { theta: 10000.0, linear_factor: 2.0 }, 16, 4);
        for position in 0..8 {
            let (a, b) = (position * 2, position * 2 * 2);
            assert_eq!(plain.cos[a..a + 2], scaled.cos[b..b + 2]);
            assert_eq!(plain.sin[a..a + 2], scaled.sin[b..b + 2]);
        }
        assert_eq!((plain.cos[0], plain.sin[0]), (1.0, 0.0));
    }
}
