//! The scores of a sequence's questions. They are read one after the other behind the prefix that
//! they share, so that each is scored as if it were alone. Questions that begin alike come one after
//! the other, and the tokens of their common start are read once.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Failure;
use super::cache::Mark;
use super::yes_no::YesNo;
use crate::model::Numbers;

pub struct Scoring {
    words: Arc<YesNo>,
    /// The place of each question in the request, in the order in which they are read.
    order: Vec<usize>,
    following: VecDeque<Following>,
    /// The end of the prefix in the sequence's slot, once it has been read.
    pub prefix_end: Option<Mark>,
    /// The scores so far, in the order in which the questions are read.
    scores: Vec<f64>,
}

/// A question that is read after another one.
pub struct Following {
    /// Number of tokens behind the prefix that it shares with the question before it.
    pub shared: usize,
    /// Embeddings of the tokens after these.
    pub embeddings: Numbers,
}

impl Scoring {
    /// Scores the first question in this order and those that follow it.
    pub fn new(words: Arc<YesNo>, order: Vec<usize>, following: VecDeque<Following>) -> Scoring {
        Scoring { words, order, following, prefix_end: None, scores: Vec::new() }
    }

    /// Scores a question by the logits after it. Returns the next one, if there is one.
    pub fn push(&mut self, logits: &[f32]) -> Result<Option<Following>, Failure> {
        self.scores.push(self.words.score(logits).ok_or(Failure::NotFinite)?);
        Ok(self.following.pop_front())
    }

    /// Returns the scores, in the order of the request.
    pub fn take(&mut self) -> Vec<f64> {
        let mut placed: Vec<(usize, f64)> =
            self.order.drain(..).zip(self.scores.drain(..)).collect();
        placed.sort_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, score)| score).collect()
    }
}

/// Returns an order in which each question follows the one with which it shares the longest start.
pub fn reading_order(questions: &[&[u32]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..questions.len()).collect();
    order.sort_by_key(|place| questions[*place]);
    order
}

/// Returns the number of tokens at the start of `next` that are also the start of `before`. It does
/// not include the last token of `next`, because the logits after it are needed.
pub fn shared_start(before: &[u32], next: &[u32]) -> usize {
    let most = next.len().saturating_sub(1);
    before.iter().zip(&next[..most]).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests;
