//! Measures the rules of a window: the scores of eight of them and its caption, compared with the
//! caption alone.
//!
//! Rules that begin alike share the tokens of their start, so two sets of questions are measured:
//! questions as rules have them, and questions of which barely two begin alike.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use super::super::window::{self, QUESTIONS};
use super::{Bench, median};

/// Questions of rules.
const RULES: [&str; 8] = [
    "Is there a person?",
    "Is there a car?",
    "Is there a dog?",
    "Is there a red car?",
    "Is there a person in a blue jacket?",
    "Is anything moving?",
    "Is the gate open?",
    "Does a person carry a bag?",
];

#[derive(Serialize)]
pub struct Costs {
    caption_alone_seconds: f64,
    rules: Scores,
    /// Questions that barely begin alike.
    unlike: Scores,
}

#[derive(Serialize)]
struct Scores {
    /// Number of the questions' tokens that are read.
    tokens: usize,
    seconds: f64,
    /// A caption of a window whose rules were scored before.
    caption_after_seconds: f64,
    /// Ratio of the scores and the caption after them to a caption alone.
    both_to_caption: f64,
}

/// The measurements of one set of questions.
#[derive(Default)]
struct Rounds {
    tokens: usize,
    scores: Vec<f64>,
    captions: Vec<f64>,
    ratios: Vec<f64>,
}

impl Bench {
    /// Measures a caption alone, and both sets of questions with a caption after them, each about a
    /// window of its own.
    pub(super) fn rules(&mut self, rounds: usize) -> anyhow::Result<Costs> {
        let clock = self.clock;
        let sets = [RULES, QUESTIONS].map(|set| set.map(Arc::from));
        let mut alone = Vec::new();
        let mut measured = [Rounds::default(), Rounds::default()];
        for _ in 0..rounds {
            let window = self.window();
            let caption = self.caption(&window)?;
            alone.push(caption);
            for (questions, rounds) in sets.iter().zip(&mut measured) {
                let window = self.window();
                let begun = clock();
                let scored = window::score(&mut self.language, window.scores(questions))?;
                let scores = (clock() - begun).as_secs_f64();
                let after = self.caption(&window)?;
                rounds.tokens = scored.usage.text_tokens as usize;
                rounds.scores.push(scores);
                rounds.captions.push(after);
                rounds.ratios.push((scores + after) / caption);
            }
        }
        let [rules, unlike] = measured.map(Rounds::medians);
        Ok(Costs { caption_alone_seconds: median(alone), rules, unlike })
    }
}

impl Rounds {
    fn medians(self) -> Scores {
        Scores {
            tokens: self.tokens,
            seconds: median(self.scores),
            caption_after_seconds: median(self.captions),
            both_to_caption: median(self.ratios),
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rules     a caption alone {:.4} s", self.caption_alone_seconds)?;
        for (what, scores) in [("rules", &self.rules), ("unlike questions", &self.unlike)] {
            writeln!(
                f,
                "          eight {what} ({} tokens) {:.4} s and then the caption {:.4} s: {:.2} times",
                scores.tokens, scores.seconds, scores.caption_after_seconds, scores.both_to_caption
            )?;
        }
        Ok(())
    }
}
