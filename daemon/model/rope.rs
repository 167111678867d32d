//! Computes rotary position embedding (RoFormer, arXiv 2104.09864) with every scaling that the
//! `config.json` of a LLaVA may request, as tables of cosines and sines.
//!
//! The tables are computed here because the tool that builds decoder graphs silently leaves out
//! some scalings. The formulas are those of transformers' `modeling_rope_utils`, in 32-bit floats
//! as there.

use std::f64::consts::PI;

/// The rotary embedding of a model, according to `config.json`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rope {
    pub theta: f64,
    pub scaling: Scaling,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    None,
    /// Positions are divided by the factor (arXiv 2306.15595).
    Linear {
        factor: f64,
    },
    /// NTK-aware: theta grows with the sequence once it is longer than the trained length.
    Dynamic {
        factor: f64,
        trained: usize,
    },
    /// Llama 3.1: long wavelengths are stretched, short ones stay.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original: usize,
    },
    /// YaRN (arXiv 2309.00071). `attention_factor` multiplies cosines and sines.
    Yarn {
        factor: f64,
        original: usize,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        truncate: bool,
    },
}

impl Scaling {
    pub fn name(self) -> &'static str {
        match self {
            Scaling::None => "plain",
            Scaling::Linear { .. } => "linear",
            Scaling::Dynamic { .. } => "dynamic NTK",
            Scaling::Llama3 { .. } => "llama3",
            Scaling::Yarn { .. } => "yarn",
        }
    }

    /// Returns the context length in tokens, given `max_position_embeddings` of `config.json`.
    ///
    /// `config.json` gives the trained length under linear and dynamic scaling (as transformers
    /// documents), the stretched length under llama3, and either of them under yarn.
    pub fn context(self, max_position_embeddings: usize) -> usize {
        let stretched = |length: usize, factor: f64| (length as f64 * factor) as usize;
        match self {
            Scaling::None | Scaling::Llama3 { .. } => max_position_embeddings,
            Scaling::Linear { factor } | Scaling::Dynamic { factor, .. } => {
                stretched(max_position_embeddings, factor)
            }
            Scaling::Yarn { factor, original, .. } => {
                max_position_embeddings.max(stretched(original, factor))
            }
        }
    }
}

/// Tables of cosines and sines, `[positions, head_dim / 2]`.
pub struct RotaryTables {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    pub positions: usize,
    pub half: usize,
}

impl RotaryTables {
    /// Computes the tables for sequences of at most `positions` tokens, the planned length. Under
    /// dynamic scaling this length determines one table for all sequences, so that cached keys
    /// stay valid.
    pub fn new(rope: Rope, positions: usize, head_dim: usize) -> RotaryTables {
        let frequencies = frequencies(rope, positions, head_dim);
        let strength = match rope.scaling {
            Scaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        let angles = (0..positions).flat_map(|position| {
            frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency))
        });
        let (cos, sin) = angles
            .map(|angle| ((angle.cos() * strength) as f32, (angle.sin() * strength) as f32))
            .unzip();
        RotaryTables { cos, sin, positions, half: head_dim / 2 }
    }
}

/// Returns the angle per position for each pair of a head's channels, `[head_dim / 2]`.
fn frequencies(rope: Rope, planned: usize, head_dim: usize) -> Vec<f32> {
    let dim = head_dim as f64;
    let half = head_dim / 2;
    let of = |theta: f64| -> Vec<f32> {
        (0..half).map(|pair| theta.powf(-2.0 * pair as f64 / dim) as f32).collect()
    };
    let plain = of(rope.theta);
    match rope.scaling {
        Scaling::None => plain,
        Scaling::Linear { factor } => plain.iter().map(|f| f / factor as f32).collect(),
        Scaling::Dynamic { factor, trained } => {
            let ratio = planned.max(trained) as f64 / trained as f64;
            of(rope.theta * (factor * ratio - (factor - 1.0)).powf(dim / (dim - 2.0)))
        }
        Scaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
            let scaled = |frequency: &f32| {
                let frequency = f64::from(*frequency);
                // Number of wavelengths that fit into the original context.
                let waves = original as f64 * frequency / (2.0 * PI);
                let smooth = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                let smooth = smooth.clamp(0.0, 1.0);
                ((1.0 - smooth) * frequency / factor + smooth * frequency) as f32
            };
            plain.iter().map(scaled).collect()
        }
        Scaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
            // Returns the channel pair that makes `turns` rotations within the original context.
            let pair_of = |turns: f64| {
                dim * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * rope.theta.ln())
            };
            let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
            if low == high {
                high += 0.001;
            }
            let scaled = |(pair, frequency): (usize, &f32)| {
                let frequency = f64::from(*frequency);
                let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                (frequency / factor * stretched + frequency * (1.0 - stretched)) as f32
            };
            plain.iter().enumerate().map(scaled).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(scaling: Scaling, positions: usize) -> RotaryTables {
        RotaryTables::new(Rope { theta: 10000.0, scaling }, positions, 8)
    }

    #[test]
    fn linear_scaling_stretches_positions() {
        let (plain, scaled) =
            (tables(Scaling::None, 8), tables(Scaling::Linear { factor: 2.0 }, 16));
        for position in 0..8 {
            let (a, b) = (position * 4, position * 2 * 4);
            assert_eq!(plain.cos[a..a + 4], scaled.cos[b..b + 4]);
            assert_eq!(plain.sin[a..a + 4], scaled.sin[b..b + 4]);
        }
        assert_eq!((plain.cos[0], plain.sin[0]), (1.0, 0.0));
    }

    #[test]
    fn dynamic_scaling_begins_past_the_trained_length() {
        let dynamic = Scaling::Dynamic { factor: 2.0, trained: 16 };
        assert_eq!(tables(dynamic, 16).cos, tables(Scaling::None, 16).cos);
        let longer = tables(dynamic, 17);
        assert_ne!(longer.cos[..64], tables(Scaling::None, 17).cos[..64]);
        assert_eq!(longer.cos.len(), 17 * 4);
    }

    #[test]
    fn llama3_and_yarn_leave_short_waves_and_divide_long_ones() {
        let llama3 = Scaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original: 64,
        };
        let yarn = Scaling::Yarn {
            factor: 8.0,
            original: 64,
            attention_factor: 1.0,
            beta_fast: 4.0,
            beta_slow: 1.0,
            truncate: true,
        };
        let plain = frequencies(Rope { theta: 10000.0, scaling: Scaling::None }, 8, 8);
        for scaling in [llama3, yarn] {
            let scaled = frequencies(Rope { theta: 10000.0, scaling }, 8, 8);
            assert_eq!(scaled[0], plain[0], "{scaling:?}");
            assert!((scaled[3] - plain[3] / 8.0).abs() < 1e-9, "{scaling:?}");
        }
    }

    #[test]
    fn the_context_includes_rope_scaling() {
        assert_eq!(Scaling::None.context(4096), 4096);
        assert_eq!(Scaling::Linear { factor: 2.0 }.context(4096), 8192);
        let yarn = Scaling::Yarn {
            factor: 4.0,
            original: 32768,
            attention_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        assert_eq!((yarn.context(32768), yarn.context(200_000)), (131_072, 200_000));
    }
}
