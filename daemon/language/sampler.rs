//! Picks the next token of a sequence from the model's logits. Refuses logits that are not finite.

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

    /// Picks a token from the logits, which have one value per token of the vocabulary. Returns
    /// `None` if one of them is NaN or the largest is infinite. A token that is ruled out may have
    /// minus infinity.
    pub fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let best = largest(logits)?;
        Some(self.pick(logits, best))
    }

    /// Picks one of the `allowed` tokens: those with bit `id % 32` of word `id / 32`. Returns `None`
    /// as [`next`](Self::next) does, and if no token is allowed.
    pub fn next_allowed(&mut self, logits: &[f32], allowed: &[u32]) -> Option<u32> {
        largest(logits)?;
        let is_allowed =
            |id: usize| allowed.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 > 0);
        let masked = logits
            .iter()
            .enumerate()
            .map(|(id, logit)| if is_allowed(id) { *logit } else { f32::NEG_INFINITY });
        let masked: Vec<f32> = masked.collect();
        let best = largest(&masked)?;
        Some(self.pick(&masked, best))
    }

    fn pick(&mut self, logits: &[f32], best: usize) -> u32 {
        match self.sampling {
            Sampling::Greedy => best as u32,
            Sampling::Nucleus { temperature, top_p, .. } => {
                nucleus(logits, logits[best], temperature, top_p, self.random.random())
            }
        }
    }
}

/// Returns the index of the largest logit, or of the first among equals, as torch's argmax does.
///
/// A vocabulary of 150,000 is searched for every token, so the loops have no branches and no
/// dependence of one logit on the next: the compiler then computes several at once.
fn largest(logits: &[f32]) -> Option<usize> {
    const LANES: usize = 16;
    let (mut highest, mut numbers) = ([f32::NEG_INFINITY; LANES], [true; LANES]);
    let mut add = |part: &[f32]| {
        for ((highest, numbers), logit) in highest.iter_mut().zip(&mut numbers).zip(part) {
            *highest = if *logit > *highest { *logit } else { *highest };
            *numbers &= !logit.is_nan();
        }
    };
    let parts = logits.chunks_exact(LANES);
    let rest = parts.remainder();
    parts.for_each(&mut add);
    add(rest);
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    if !highest.is_finite() || numbers.contains(&false) {
        return None;
    }
    const PART: usize = 256;
    let has_it = |part: &[f32]| part.iter().fold(false, |has, logit| has | (*logit == highest));
    let part = logits.chunks(PART).position(has_it)? * PART;
    Some(part + logits[part..].iter().position(|logit| *logit == highest)?)
}

/// Picks by `draw`, in [0, 1), from the smallest set of tokens whose probability reaches `top_p`
/// (Holtzman et al., arXiv 1904.09751).
fn nucleus(logits: &[f32], highest: f32, temperature: f32, top_p: f32, draw: f32) -> u32 {
    let mut weights: Vec<(u32, f32)> = logits
        .iter()
        .enumerate()
        .map(|(id, logit)| (id as u32, ((logit - highest) / temperature).exp()))
        // Sums are rounded, so that a token without weight could be picked at the end.
        .filter(|(_, weight)| *weight > 0.0)
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
    use proptest::prelude::*;

    use super::*;

    fn greedy(logits: &[f32]) -> Option<u32> {
        Sampler::new(Sampling::Greedy).next(logits)
    }

    #[test]
    fn greedy_sampling_takes_the_first_of_equal_logits() {
        assert_eq!(greedy(&[0.5, 2.0, 2.0, -1.0]), Some(1));
    }

    proptest! {
        /// Compares the search with one that takes one logit after the other.
        #[test]
        fn greedy_sampling_takes_the_largest_logit(
            mut logits in prop::collection::vec(-3i8..=3, 1..1000),
            far in any::<prop::sample::Index>(),
        ) {
            let at = far.index(logits.len());
            logits[at] = logits[at].saturating_mul(2);
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let mut best = 0;
            for (id, logit) in logits.iter().enumerate() {
                if *logit > logits[best] {
                    best = id;
                }
            }
            prop_assert_eq!(greedy(&logits), Some(best as u32));
        }

        /// Tests that a logit that is NaN or infinite gives no token, at any position.
        #[test]
        fn non_finite_logits_yield_no_token(
            mut logits in prop::collection::vec(-50.0f32..50.0, 1..60),
            at in any::<prop::sample::Index>(),
            temperature in prop::sample::select(vec![0.0f32, 0.1, 1.0]),
        ) {
            let sampling = match temperature {
                0.0 => Sampling::Greedy,
                _ => Sampling::Nucleus { temperature, top_p: 0.9, seed: 1 },
            };
            let at = at.index(logits.len());
            let next = |logits: &[f32]| Sampler::new(sampling).next(logits);
            prop_assert!(next(&logits).is_some_and(|id| (id as usize) < logits.len()));
            for wrong in [f32::NAN, f32::INFINITY] {
                logits[at] = wrong;
                prop_assert_eq!(next(&logits), None);
            }
            // A token that is ruled out is not picked and does not affect the others.
            logits[at] = f32::NEG_INFINITY;
            prop_assert_ne!(next(&logits), Some(at as u32));
            prop_assert_eq!(next(&logits).is_some(), logits.len() > 1);
        }
    }

    proptest! {
        #[test]
        fn only_allowed_tokens_are_picked(
            logits in prop::collection::vec(-50.0f32..50.0, 1..100),
            allowed in prop::collection::vec(any::<u32>(), 4),
            temperature in prop::sample::select(vec![0.0f32, 0.1, 10.0]),
            seed: u64,
        ) {
            let sampling = match temperature {
                0.0 => Sampling::Greedy,
                _ => Sampling::Nucleus { temperature, top_p: 1.0, seed },
            };
            let is_allowed = |id: usize| allowed[id / 32] >> (id % 32) & 1 > 0;
            let best = (0..logits.len())
                .filter(|id| is_allowed(*id))
                .max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
            let mut sampler = Sampler::new(sampling);
            for _ in 0..20 {
                let picked = sampler.next_allowed(&logits, &allowed).map(|id| id as usize);
                prop_assert_eq!(picked.is_some(), best.is_some());
                prop_assert!(picked.is_none_or(is_allowed), "{:?}", picked);
                if temperature == 0.0 {
                    prop_assert_eq!(picked.map(|id| logits[id]), best.map(|id| logits[id]));
                }
            }
            let mut broken = logits.clone();
            broken[0] = f32::NAN;
            prop_assert_eq!(sampler.next_allowed(&broken, &allowed), None);
        }
    }

    #[test]
    fn nucleus_sampling_excludes_the_tail() {
        let logits = [0.0, 5.0, 4.0, -3.0];
        for step in 0..100 {
            let picked = nucleus(&logits, 5.0, 1.0, 0.9, step as f32 / 100.0);
            assert!(picked == 1 || picked == 2, "{picked}");
        }
        assert_eq!(nucleus(&logits, 5.0, 1.0, 0.01, 0.99), 1);
        assert_eq!(nucleus(&logits, 5.0, 0.01, 1.0, 0.99), 1);
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens() {
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
