//! The scores of a sequence's questions. They are read one after the other behind the prefix that
//! they share, so that each is scored as if it were alone.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Failure;
use super::cache::Mark;
use super::yes_no::YesNo;

pub struct Scoring {
    words: Arc<YesNo>,
    /// Embeddings of the questions that follow, each without the prefix.
    following: VecDeque<Vec<f32>>,
    /// The end of the prefix in the sequence's slot, once it has been read.
    pub prefix_end: Option<Mark>,
    scores: Vec<f64>,
}

impl Scoring {
    /// Scores the first question and those whose embeddings are `following`.
    pub fn new(words: Arc<YesNo>, following: VecDeque<Vec<f32>>) -> Scoring {
        Scoring { words, following, prefix_end: None, scores: Vec::new() }
    }

    /// Scores a question by the logits after it. Returns the embeddings of the next one, if there is
    /// one.
    pub fn push(&mut self, logits: &[f32]) -> Result<Option<Vec<f32>>, Failure> {
        self.scores.push(self.words.score(logits).ok_or(Failure::NotFinite)?);
        Ok(self.following.pop_front())
    }

    /// Returns the scores, in the order of the questions.
    pub fn take(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.scores)
    }
}

#[cfg(test)]
mod tests;
