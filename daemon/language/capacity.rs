//! Determines the size of the KV cache and allocates it.

use super::{Decoder, Embedder, KvCache};
use crate::model::ModelError;
use crate::slowfast::Plan;

/// Tokens reserved for the template, earlier turns and a question, in addition to video and answer.
const TEXT_ROOM: usize = 512;
/// Minimum number of tokens for text. A plan that leaves fewer is refused.
const LEAST_TEXT_ROOM: usize = 32;

/// Allocates a cache of `wanted` slots, or of fewer if memory or the graph does not allow more. The
/// boolean is true if the graph accepts several tokens on a cache that already holds some.
pub fn allocate(
    decoder: &mut Decoder,
    embedder: &mut Embedder,
    wanted: usize,
) -> Result<(KvCache, bool), ModelError> {
    let mut slots = wanted;
    let mut cache = loop {
        match decoder.cache(slots) {
            Ok(cache) => break cache,
            Err(error) if slots > 1 => {
                tracing::warn!(
                    "generate.max_concurrent_sequences = {slots}: not enough memory, trying one \
                     fewer: {error}"
                );
                slots -= 1;
            }
            Err(error) => return Err(error.into()),
        }
    };
    // Some shapes in the graph are symbolic, so only a run shows if they fit.
    decoder.read(&mut cache, 0, &embedder.embed(&[0])?)?;
    let chunk = decoder.read(&mut cache, 0, &embedder.embed(&[0, 0])?);
    if let Err(error) = &chunk {
        tracing::warn!(
            "the decoder cannot read a prompt in chunks, so it reads each in one run, which takes \
             more memory: {error}"
        );
    }
    decoder.clear(&mut cache, 0)?;
    if slots > 1 {
        let together = embedder.embed(&vec![0; slots])?;
        if let Err(error) = decoder.step(&mut cache, slots, &together) {
            tracing::warn!(
                "the decoder cannot run {slots} sequences together, so it runs one at a time: \
                 {error}"
            );
            cache = decoder.cache(1)?;
        }
        for slot in 0..cache.slots() {
            decoder.clear(&mut cache, slot)?;
        }
    }
    Ok((cache, chunk.is_ok()))
}

/// Returns the number of tokens in a slot of the KV cache.
pub fn capacity(plan: &Plan, video: usize, new: usize, context: usize) -> Result<usize, String> {
    let wanted = video + TEXT_ROOM + new;
    if video + LEAST_TEXT_ROOM + new > context {
        return Err(format!(
            "model.plan {plan}: {video} video tokens and generate.max_new_tokens = {new} leave no \
             room for a question in the model's context of {context} tokens"
        ));
    }
    Ok(wanted.min(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_beyond_the_context_is_refused_with_the_numbers() {
        let plan: Plan = "paper".parse().expect("plan");
        assert_eq!(capacity(&plan, 3680, 128, 8192), Ok(4320));
        assert_eq!(capacity(&plan, 3680, 128, 4096), Ok(4096));
        let refused = capacity(&plan, 3680, 128, 2048).expect_err("too small");
        assert!(refused.contains("3680") && refused.contains("2048"), "{refused}");
    }
}
