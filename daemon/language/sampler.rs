//! Which token comes next.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::config::Sampling;

pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
}

impl Sampler {
    pub fn new(sampling: Sampling) -> Sampler {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Nucleus { seed, .. } => seed,
        };
        Sampler { sampling, random: StdRng::seed_from_u64(seed) }
    }

    /// `logits`: one number a token of the vocabulary.
    pub fn next(&mut self, logits: &[f32]) -> u32 {
        match self.sampling {
            Sampling::Greedy => greedy(logits),
            Sampling::Nucleus { temperature, top_p, .. } => {
                nucleus(logits, temperature, top_p, self.random.random())
            }
        }
    }
}

/// The largest; of equals the first, as torch's argmax.
fn greedy(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = id;
        }
    }
    best as u32
}

/// `draw` in [0, 1) picks from the smallest set of tokens whose probability reaches `top_p`
/// (Holtzman et al., arXiv 1904.09751).
fn nucleus(logits: &[f32], temperature: f32, top_p: f32, draw: f32) -> u32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(id, logit)| (id as u32, ((logit - highest) / temperature).exp()))
        .collect();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1));
    let whole: f32 = weights.iter().map(|(_, weight)| weight).sum();
    let mut kept = 0.0;
    let mut nucleus = 0;
    while nucleus < weights.len() && kept < top_p * whole {
        kept += weights[nucleus].1;
        nucleus += 1;
    }
    let nucleus = &weights[..nucleus.max(1)];
    let mut left = draw * kept;
    for (id, weight) in nucleus {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    nucleus[nucleus.len() - 1].0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(greedy(&[0.5, 2.0, 2.0, -1.0]), 1);
    }

    #[test]
    fn nucleus_leaves_out_the_tail() {
        let logits = [0.0, 5.0, 4.0, -3.0];
        for step in 0..100 {
            let picked = nucleus(&logits, 1.0, 0.9, step as f32 / 100.0);
            assert!(picked == 1 || picked == 2, "{picked}");
        }
        assert_eq!(nucleus(&logits, 1.0, 0.01, 0.99), 1);
        assert_eq!(nucleus(&logits, 0.01, 1.0, 0.99), 1);
    }

    #[test]
    fn a_seed_repeats_itself() {
        let sampling = Sampling::Nucleus { temperature: 1.0, top_p: 1.0, seed: 7 };
        let draw = || {
            let mut sampler = Sampler::new(sampling);
            (0..20).map(|_| sampler.next(&[1.0, 1.1, 0.9, 1.0])).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        let mut found = draw();
        found.sort();
        found.dedup();
        assert!(found.len() > 1);
    }
}
